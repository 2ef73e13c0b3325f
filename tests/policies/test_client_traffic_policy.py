"""ClientTrafficPolicy is what its CRD says."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.admission import admit
from moongate.kinds import KINDS
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


@pytest.mark.parametrize("group", ["gateway.networking.k8s.io", "gateway.envoyproxy.io"])
@pytest.mark.parametrize("field", ["targetRef", "targetRefs", "targetSelectors"])
def test_targets_are_of_one_group(field: str, group: str) -> None:
    target: dict[str, Any] = {"group": group, "kind": "Gateway"}
    target |= {"matchLabels": {"a": "b"}} if field == "targetSelectors" else {"name": "eg"}
    manifest = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "ClientTrafficPolicy",
        "metadata": {"name": "clients"},
        "spec": {field: target if field == "targetRef" else [target]},
    }

    problems = admit(manifest, KINDS, namespace="default").problems

    assert any("group" in problem.message for problem in problems) is (group != "gateway.networking.k8s.io")
