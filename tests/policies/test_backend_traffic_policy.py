"""BackendTrafficPolicy is what its CRD says."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.admission import checked
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy, BackendTrafficPolicySpec
from tests.api.crds import differences

MEANT = {
    ".spec: has a rule of its own, has(self.targetSelectors)": "else it selects nothing, in silence",
    ".spec.mergeType: enum": "the reference's code knows these alone",
    ".spec.routingType: enum": "the reference's code knows these alone",
}


def test_backend_traffic_policy_mirrors_its_crd() -> None:
    crd = "envoy-gateway/backendtrafficpolicies.gateway.envoyproxy.io.yaml"

    assert differences(BackendTrafficPolicy, crd, MEANT) == []


def test_a_selector_has_one_group() -> None:
    """Which is the default, so that to write it changes nothing."""
    selector = {"kind": "HTTPRoute", "matchLabels": {"app": "shop"}}

    def spec(**more: str) -> tuple[BackendTrafficPolicySpec | None, list[str]]:
        value, problems = checked(BackendTrafficPolicySpec, {"targetSelectors": [{**selector, **more}]})
        return value, [problem.path for problem in problems]

    assert spec(group="gateway.networking.k8s.io") == spec()
    assert spec(group="apps")[1] == ["targetSelectors[0]"]


@pytest.mark.parametrize(
    "balancer", [{"type": "ConsistentHash"}, {"type": "Random", "consistentHash": {"type": "SourceIP"}}]
)
def test_a_field_that_is_for_one_type_is_missing_or_too_much(balancer: dict[str, Any]) -> None:
    """One rule says both, so its sentence must be true for both."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}

    _, problems = checked(BackendTrafficPolicySpec, {"targetRefs": [target], "loadBalancer": balancer})

    assert [problem.message for problem in problems] == [
        (
            "consistentHash must be set if type is ConsistentHash, and only then. "
            f"Here type is {balancer['type']!r}."
        )
    ]
