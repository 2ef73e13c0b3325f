"""The status of an EnvoyPatchPolicy."""

from __future__ import annotations

from typing import Any

from moongate.api.base import ListenerId, Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.status.degraded import degradations
from moongate.status.failures import INTERNAL
from moongate.status.policies import policies_of_listener
from moongate.world import World
from moongate.xds.patches import result
from moongate.xds.wire import CLUSTER
from tests.core import ON_HOST
from tests.faults import calls, faulty, put_fault
from tests.strategies import BASE, resource

GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}
SHARED = "service/default/s0/8080/http"
REF = Ref("EnvoyPatchPolicy", "default", "p", "gateway.envoyproxy.io")


def world(*names: str, config: EnvoyGateway = ON_HOST, target: dict[str, str] = GATEWAY) -> World:
    """``BASE``, and a policy that patches these clusters."""
    operation = {"op": "add", "path": "/cleanup_interval", "value": "7s"}
    policy = resource("EnvoyPatchPolicy", "default", "p", {
        "metadata": {"generation": 3},
        "spec": {
            "type": "JSONPatch",
            "targetRef": target,
            "jsonPatches": [{"type": CLUSTER, "name": name, "operation": operation} for name in names],
        },
    })  # fmt: skip
    made = World(config)
    made.apply({**BASE, policy.ref: policy})
    made.pull()
    return made


def conditions(of: World) -> dict[str, tuple[str, str]]:
    status: Any = of.statuses()[REF]
    [ancestor] = status.ancestors
    assert (ancestor.ancestor_ref.kind, ancestor.ancestor_ref.name) == ("Gateway", "eg")
    assert {each.observed_generation for each in ancestor.conditions} == {3}
    return {each.type: (each.status, each.reason) for each in ancestor.conditions}


def test_what_is_applied_is_programmed() -> None:
    assert conditions(world(SHARED)) == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
    }


def test_what_is_not_there_weighs_more_than_what_is_wrong() -> None:
    assert conditions(world(SHARED, "gone"))["Programmed"] == ("False", "ResourceNotFound")


def test_without_leave_nothing_is_programmed() -> None:
    assert conditions(world(SHARED, config=EnvoyGateway())) == {"Accepted": ("False", "Disabled")}


def test_a_target_that_is_not_ours_gives_no_status() -> None:
    assert REF not in world(SHARED, target={**GATEWAY, "name": "foreign"}).statuses()


def test_a_fault_is_at_the_field_of_its_patch() -> None:
    made = world(SHARED, "gone")

    [degradation] = degradations(made.store.resources()[REF], made.statuses()[REF])
    assert [problem.path for problem in degradation.problems] == ["spec.jsonPatches[1]"]
    assert degradation.at == "spec.targetRef"


def test_it_is_none_of_the_policies_of_a_listener() -> None:
    made = world(SHARED)

    of = Ref("Gateway", "default", "eg", "gateway.networking.k8s.io")
    assert policies_of_listener(made.statuses(), ListenerId(of, of, "web")) == ()


def test_a_patch_that_fails_keeps_its_resource_and_says_so() -> None:
    """Unlike one that cannot be applied, which is a user's mistake."""
    with faulty():
        made = world(SHARED)
        before = made.xds()
        [call] = (each for each in calls(made) if each[0] is result)
        put_fault(made, call, "before")
        made.pull()

        assert made.xds() == before
        assert INTERNAL in str(made.statuses()[REF])
