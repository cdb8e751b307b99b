"""`ray.util.serialization`."""

from shoal.serialization import deregister_serializer, register_serializer

__all__ = ["deregister_serializer", "register_serializer"]
