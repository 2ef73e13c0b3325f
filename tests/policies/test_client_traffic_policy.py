"""ClientTrafficPolicy is what its CRD says."""

from __future__ import annotations

from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from tests.api.crds import differences

MEANT = {
    ".spec: has a rule of its own, has(self.targetSelectors)": "else it selects nothing, in silence",
    ".spec: has a rule of its own, !has(self.mergeType)": "nothing is above a whole Gateway",
    ".spec.mergeType: is not in the CRD": "as the other policies have it",
    ".spec.connection.maxAcceptPerSocketEvent: the default": "None stands for it, so that a merge can tell",
}


def test_client_traffic_policy_mirrors_its_crd() -> None:
    crd = "envoy-gateway/clienttrafficpolicies.gateway.envoyproxy.io.yaml"

    assert differences(ClientTrafficPolicy, crd, MEANT) == []
