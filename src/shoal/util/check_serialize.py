"""`ray.util.check_serialize`."""

from shoal.serialization import inspect_serializability

__all__ = ["inspect_serializability"]
