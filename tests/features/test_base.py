"""What features have in common."""

from __future__ import annotations

from typing import get_type_hints

from moongate.api.base import Ref
from moongate.features import FEATURES
from moongate.policies import POLICY_KINDS
from moongate.policies.security_policy import SecurityPolicy


def test_every_feature_is_a_field_of_its_policy() -> None:
    """A feature whose field no policy has would never be built, and nobody would notice."""
    fields = {kind.KIND: get_type_hints(kind)["spec"].__struct_fields__ for kind in POLICY_KINDS}

    assert [f"{f.kind}.{f.field}" for f in FEATURES if f.kind and f.field not in fields[f.kind]] == []


def test_a_feature_of_no_policy_is_set_by_rules() -> None:
    assert all(f.native is not None and not f.field for f in FEATURES if not f.kind)


def test_a_filter_per_policy_is_named_after_its_policy() -> None:
    """Two policies must not share a filter whose settings are those of one of them."""
    policy = Ref.of(SecurityPolicy, "shop", "staff")
    names = {f.field: f.http_filter.instance(policy) for f in FEATURES if f.http_filter is not None}

    assert names["basic_auth"] == "envoy.filters.http.basic_auth/securitypolicy/shop/staff"
    assert names["cors"] == "envoy.filters.http.cors"
