"""ClientTrafficPolicy is what its CRD says."""

from __future__ import annotations

from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from tests.api.crds import differences


def test_client_traffic_policy_mirrors_its_crd() -> None:
    assert (
        differences(ClientTrafficPolicy, "envoy-gateway/clienttrafficpolicies.gateway.envoyproxy.io.yaml")
        == []
    )
