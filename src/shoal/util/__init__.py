"""Helpers on top of the public API, under the names they have in `ray.util`."""
