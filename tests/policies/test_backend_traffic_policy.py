"""BackendTrafficPolicy is what its CRD says."""

from __future__ import annotations

from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from tests.api.crds import differences

MEANT = {
    ".spec: has a rule of its own, has(self.targetSelectors)": "else it selects nothing, in silence",
    ".spec.mergeType: enum": "the reference's code knows these alone",
    ".spec.routingType: enum": "the reference's code knows these alone",
}


def test_backend_traffic_policy_mirrors_its_crd() -> None:
    crd = "envoy-gateway/backendtrafficpolicies.gateway.envoyproxy.io.yaml"

    assert differences(BackendTrafficPolicy, crd, MEANT) == []
