"""Fields that are accepted and not built, so that no test names one that is built tomorrow."""

from __future__ import annotations

from msgspec import structs

from moongate.api.marks import marked_fields
from moongate.policies.security_policy import SecurityPolicySpec

PROTECTIONS = tuple(
    field.encode_name
    for field in structs.fields(SecurityPolicySpec)
    if field.name in marked_fields(SecurityPolicySpec, "unbuilt")
)
"""Fields of a SecurityPolicy, by their names in manifests."""
