"""Whatever values policies have that an API server takes, nothing fails, and Envoy refuses nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import yaml

from moongate.api.admission import admit, checked
from moongate.api.base import fields_of
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.policy import PolicyTargetReferences
from moongate.infra.binary import envoy_binary
from moongate.infra.dry_run import refusals
from moongate.kinds import KINDS
from moongate.policies.backend_traffic_policy import BackendTrafficPolicySpec
from moongate.world import World
from tests.any_specs import AnySpecs
from tests.e2e import manifests as m

pytestmark = [pytest.mark.envoy, pytest.mark.long]

WORLD: Final = Path(__file__).with_name("any_values.yaml")
TARGETS: Final = (
    *("HTTPRoute/one", "HTTPRoute/several", "HTTPRoute/names", "HTTPRoute/secure", "HTTPRoute/any"),
    *("GRPCRoute/calls", "TCPRoute/tcp", "UDPRoute/udp"),
)
NO_SETTINGS: Final = {*(f.name for f in fields_of(PolicyTargetReferences)), "merge_type", "rate_limit"}
SETTINGS: Final = {
    f.name: f.encode_name for f in fields_of(BackendTrafficPolicySpec) if f.name not in NO_SETTINGS
}


def policy(specs: AnySpecs, chance: Random, target: str) -> m.Document | None:
    """A policy of some fields; ``None`` if an API server would refuse it."""
    merge = chance.choice((None, "StrategicMerge", "JSONMerge")) if "Route" in target else None
    kind, _, name = target.partition("/")
    spec: dict[str, Any] = {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": kind, "name": name}],
        **({"mergeType": merge} if merge else {}),
        **specs.some(BackendTrafficPolicySpec, SETTINGS, chance.choice((1, 2, 6, len(SETTINGS)))),
    }
    if checked(BackendTrafficPolicySpec, spec)[1]:
        return None
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": {"name": target.lower().replace("/", "-"), "namespace": "default"},
        "spec": spec,
    }


@pytest.mark.parametrize("seed", range(30))
def test_no_value_makes_anything_fail_or_is_refused(seed: int) -> None:
    chance = Random(seed)
    specs = AnySpecs(chance)
    documents = list(yaml.safe_load_all(WORLD.read_text("utf-8")))
    for target in ("Gateway/gateway", *TARGETS):
        tries = (policy(specs, chance, target) for _ in range(4))
        documents += [each for each in (next((each for each in tries if each), None),) if each]
    resources = [admit(document, KINDS, namespace="default").resource for document in documents]
    assert None not in resources

    world = World.of([each for each in resources if each is not None], chance.choice((None, EnvoyGateway())))

    assert world.failures() == {}
    for fleet, types in world.xds().items():
        assert refusals(envoy_binary(), fleet, types) == ()
