"""Helpers on top of the public API, under the names they have in `ray.util`."""

from shoal.serialization import deregister_serializer, inspect_serializability, register_serializer

__all__ = ["deregister_serializer", "inspect_serializability", "register_serializer"]
