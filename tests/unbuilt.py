"""Fields that are accepted and not built, so that no test names one that is built tomorrow."""

from __future__ import annotations

from msgspec import inspect as types

from moongate.api.plans import extra_of
from moongate.policies.security_policy import SecurityPolicySpec

_SPEC = types.type_info(SecurityPolicySpec)
assert isinstance(_SPEC, types.StructType)

PROTECTIONS = tuple(field.encode_name for field in _SPEC.fields if "unbuilt" in extra_of(field.type))
"""Fields of a SecurityPolicy, by their names in manifests."""
