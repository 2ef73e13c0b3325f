"""Which EnvoyPatchPolicies change the resources of which fleet."""

from __future__ import annotations

import pytest

from moongate.api.base import FleetId, Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.patch_policies import named_resources, named_rules, patch_policies, patch_target
from moongate.world import World
from moongate.xds.wire import CLUSTER
from tests.core import ON_HOST
from tests.strategies import BASE, MERGED_BASE, Batch, resource

EG = Ref.of(Gateway, "default", "eg")
CLASS = Ref.of(GatewayClass, "", "eg")
POLICY = Ref("EnvoyPatchPolicy", "default", "p", "gateway.envoyproxy.io")


def world(
    kind: str,
    name: str = "eg",
    base: Batch = BASE,
    config: EnvoyGateway = ON_HOST,
    namespace: str = "default",
) -> World:
    named = resource("EnvoyPatchPolicy", namespace, "p", {"spec": {
        "type": "JSONPatch",
        "targetRef": {"group": "gateway.networking.k8s.io", "kind": kind, "name": name},
        "jsonPatches": [
            {"type": CLUSTER, "name": n, "operation": {"op": "remove", "path": "/x"}}
            for n in ("httproute/default/r0/rule/1", "httproute/default/r0/rule/2/backend/0",
                      "httproute/default/r0/rule/3-mirror-0", "httproute/default/r1/rule/4", "another")
        ],
    }})  # fmt: skip
    made = World(config)
    made.apply({**base, named.ref: named})
    made.pull()
    return made


def problem(of: World) -> tuple[str, str]:
    target = patch_target(of.db, POLICY)
    assert target is not None
    assert target.problem is not None
    assert target.fleet is None
    return target.problem.reason, target.problem.message


def test_a_gateway_of_its_namespace_is_patched_and_no_other() -> None:
    made = world("Gateway")

    assert patch_policies(made.db, FleetId(EG)) == (POLICY,)
    assert patch_policies(made.db, FleetId(Ref.of(Gateway, "other", "eg"))) == ()
    assert (CLUSTER, "another") in named_resources(made.db, FleetId(EG))


def test_gateways_that_share_envoys_are_patched_by_their_class() -> None:
    made = world("GatewayClass", base=MERGED_BASE)

    assert patch_policies(made.db, FleetId(CLASS)) == (POLICY,)
    assert "name the GatewayClass eg" in problem(world("Gateway", base=MERGED_BASE))[1]
    assert "name the Gateway" in problem(world("GatewayClass"))[1]
    assert problem(world("GatewayClass", "gone"))[0] == "Invalid"


def test_a_gateway_that_is_not_there_or_not_ours_is_none_of_ours() -> None:
    assert patch_target(world("Gateway", "gone").db, POLICY) is None
    assert patch_target(world("Gateway", namespace="third").db, POLICY._replace(namespace="third")) is None


def test_another_kind_is_refused() -> None:
    reason, message = problem(world("HTTPRoute"))

    assert (reason, "HTTPRoute" in message) == ("Invalid", True)


@pytest.mark.parametrize("kind", ["Gateway", "HTTPRoute"])
def test_the_configuration_may_switch_all_off(kind: str) -> None:
    made = world(kind, config=EnvoyGateway())

    assert problem(made)[0] == "Disabled"
    assert patch_policies(made.db, FleetId(EG)) == ()


def test_the_rules_whose_clusters_are_named() -> None:
    made = world("Gateway")

    routes = [Ref("HTTPRoute", "default", name, "gateway.networking.k8s.io") for name in ("r0", "r1", "r2")]
    assert [named_rules(made.db, FleetId(EG), each) for each in routes] == [{1, 2, 3}, {4}, set()]
