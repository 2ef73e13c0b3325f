"""SecurityPolicy is what its CRD says, and never waves through what it cannot enforce."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from moongate.api.base import GATEWAY_GROUP, ObjectMeta, Ref
from moongate.api.policy import PolicyTargetReference
from moongate.api.shared import SecretObjectReference
from moongate.engine import Db
from moongate.features.basic_auth import BasicAuth
from moongate.features.cors import CORS
from moongate.policies.effective import effective_policy
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy, SecurityPolicySpec
from moongate.problem import Problem
from moongate.store import Store
from tests.api.crds import differences
from tests.unbuilt import PROTECTIONS

MEANT = {
    ".spec: has a rule of its own, has(self.targetSelectors)": "else it selects nothing, in silence",
    ".spec.cors.allowOrigins[]: pattern": "takes the same strings, but in linear time",
    ".spec.mergeType: enum": "the reference's code knows these alone",
}
TARGETS = (PolicyTargetReference(group=GATEWAY_GROUP, kind="HTTPRoute", name="shop"),)
WIDE = Ref.of(SecurityPolicy, "default", "wide")
NARROW = Ref.of(SecurityPolicy, "default", "narrow")


def failed(wide: SecurityPolicySpec, narrow: SecurityPolicySpec) -> bool:
    """Whether routes are refused where ``narrow`` merges into ``wide``."""
    db = Db()
    policies = [
        SecurityPolicy(
            metadata=ObjectMeta(name=ref.name, namespace=ref.namespace),
            spec=structs.replace(spec, target_refs=TARGETS),
        )
        for ref, spec in ((WIDE, wide), (NARROW, narrow))
    ]
    Store(db, ()).apply({policy.ref: policy for policy in policies})
    judged = effective_policy(db, NARROW, WIDE)
    assert judged is not None
    return judged.failed


def test_security_policy_mirrors_its_crd() -> None:
    crd = "envoy-gateway/securitypolicies.gateway.envoyproxy.io.yaml"

    assert differences(SecurityPolicy, crd, MEANT) == []


def test_policies_without_a_fault_refuse_nobody() -> None:
    """So the tests below refuse for what they are about, and for nothing else."""
    narrow = SecurityPolicySpec(merge_type="StrategicMerge", cors=CORS())

    assert not failed(SecurityPolicySpec(cors=CORS()), narrow)


@pytest.mark.parametrize("name", PROTECTIONS)
def test_a_protection_that_is_not_built_refuses_rather_than_lets_through(name: str) -> None:
    asking = msgspec.convert({name: {}}, SecurityPolicySpec)

    assert failed(SecurityPolicySpec(), asking)


def test_a_fault_of_what_was_merged_in_refuses_too() -> None:
    """The Secret of the Gateway's policy is not there; the route's policy merely adds CORS."""
    wide = SecurityPolicySpec(basic_auth=BasicAuth(users=SecretObjectReference(name="users")))
    narrow = SecurityPolicySpec(merge_type="StrategicMerge", cors=CORS())

    assert failed(wide, narrow)


@pytest.mark.parametrize("name", PROTECTIONS)
def test_a_protection_that_is_not_built_and_was_merged_in_refuses_too(name: str) -> None:
    """Otherwise a route leaves its Gateway's protection behind by adding CORS."""
    asking = msgspec.convert({name: {}}, SecurityPolicySpec)
    narrow = SecurityPolicySpec(merge_type="StrategicMerge", cors=CORS())

    assert failed(asking, narrow)


def test_a_stand_in_for_a_manifest_with_faults_lets_nobody_pass() -> None:
    """Neither where it holds itself, nor where a route's policy merges into it."""
    metadata = ObjectMeta(name="wide", namespace="default")
    fault = Problem("spec.cors.allowOriginz", "There is no field 'allowOriginz' here.")
    wide = FaultySecurityPolicy(metadata=metadata, spec=SecurityPolicySpec(), faults=(fault,))
    narrow = SecurityPolicy(
        metadata=ObjectMeta(name="narrow", namespace="default"),
        spec=SecurityPolicySpec(merge_type="StrategicMerge", cors=CORS()),
    )
    db = Db()
    Store(db, ()).apply({policy.ref: policy for policy in (wide, narrow)})

    for judged in (effective_policy(db, WIDE, None), effective_policy(db, NARROW, WIDE)):
        assert judged is not None
        assert judged.failed
        assert [p.message.endswith(fault.message) for p in judged.problems if p.path == fault.path] == [True]
