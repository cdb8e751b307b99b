"""The parts of the demo: real data, filters, lettering, the two programs compared, and the screen."""
