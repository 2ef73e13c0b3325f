"""BackendTrafficPolicy is what its CRD says."""

from __future__ import annotations

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
