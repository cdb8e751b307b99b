"""The errors by topic; `shoal.exceptions` gives them their public names."""
