"""What statuses say while a query fails; ``tests.faults`` makes them fail."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Condition, Ref
from moongate.attach.fleets import fleets
from moongate.attach.policies import named
from moongate.attach.routes import route_shards
from moongate.kinds import KINDS
from moongate.status.failures import INTERNAL, MOST_NAMED
from moongate.status.gateways import gateway_status
from moongate.world import STATUSES, World
from moongate.xds.needed_resources import resource_keys
from tests.faults import faulty, put_fault
from tests.strategies import BASE, Batch, resource
from tests.worlds import EG, EG_FLEET, gateway_class, routes_with_services

PROXY = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ep", "namespace": "default"}
ALL: Batch = BASE | {
    each.ref: each
    for each in (
        resource("EnvoyProxy", "default", "ep", {"spec": {}}),
        resource(
            "GatewayClass",
            "",
            "eg",
            {
                "spec": {
                    "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
                    "parametersRef": PROXY,
                }
            },
        ),
        resource(
            "ClientTrafficPolicy",
            "default",
            "p0",
            {
                "spec": {
                    "targetRefs": [
                        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"},
                    ]
                }
            },
        ),
    )
}
"""A world with a resource of each kind that has a status."""


def conditions(status: Any) -> list[Condition]:
    """All conditions in a status, wherever they stand."""
    parts = getattr(status, "parents", ()) or getattr(status, "ancestors", ()) or (status,)
    return [each for part in parts for each in part.conditions]


@pytest.mark.parametrize("ref", [ref for ref in ALL if KINDS[ref.group, ref.kind] in STATUSES], ids=str)
def test_a_status_that_could_never_be_computed_says_why(ref: Ref) -> None:
    """It is that of a resource of ours, so nobody else would say anything."""
    with faulty():
        world = World()
        world.apply(ALL)
        put_fault(world, (STATUSES[KINDS[ref.group, ref.kind]], (ref,)), "before")
        world.pull()

        (failed,) = world.failures().values()
        shown = conditions(world.statuses()[ref])
        assert {(each.status, each.reason) for each in shown} == {("False", INTERNAL)}
        assert all(failed.id in each.message for each in shown)


@pytest.mark.parametrize("ref", [ref for ref in ALL if KINDS[ref.group, ref.kind] in STATUSES], ids=str)
def test_a_status_keeps_what_it_said_beside_the_failure(ref: Ref) -> None:
    with faulty():
        world = World()
        world.apply(ALL)
        world.pull()
        before = conditions(world.statuses()[ref])
        put_fault(world, (STATUSES[KINDS[ref.group, ref.kind]], (ref,)), "before")
        world.pull()

        shown = conditions(world.statuses()[ref])
        internal = {each.type for each in shown if each.reason == INTERNAL}
        assert internal in ({"Programmed"}, {"Accepted"})
        assert [each for each in shown if each.type not in internal] == [
            each for each in before if each.type not in internal
        ]


def test_a_policy_whose_targets_are_unknown_says_so_at_those_that_it_names() -> None:
    """Nothing was in force of it before, and its Gateway may be open because of that."""
    with faulty():
        policy = next(ref for ref in ALL if ref.kind == "SecurityPolicy")
        world = World()
        world.apply(ALL)
        put_fault(world, (named, (policy,)), "before")
        world.pull()

        assert conditions(world.statuses()[policy])[0].reason == INTERNAL


def test_nothing_is_said_of_what_is_not_ours() -> None:
    """Another controller may answer for it."""
    with faulty():
        foreign = resource("GatewayClass", "", "eg", {"spec": {"controllerName": "example.com/another"}})
        world = World()
        world.apply(ALL | {foreign.ref: foreign})
        for ref in ALL:
            if KINDS[ref.group, ref.kind] in STATUSES:
                put_fault(world, (STATUSES[KINDS[ref.group, ref.kind]], (ref,)), "before")
        world.pull()

        assert {ref.kind for ref in world.statuses()} == {"Backend"}


def test_a_failure_that_is_over_leaves_no_trace_in_statuses() -> None:
    with faulty():
        warm = World.of(routes_with_services(1))
        before = dict(warm.statuses())
        put_fault(warm, (gateway_status, (EG,)), "before")
        assert warm.pull().statuses.keys() == {EG}
        put_fault(warm, (gateway_status, (EG,)), None)

        assert warm.pull().statuses == {EG: before[EG]}
        assert warm.statuses() == before


def test_what_concerns_no_resource_is_said_by_the_gateway_class() -> None:
    with faulty():
        warm = World.of(routes_with_services(1))
        put_fault(warm, (fleets, ()), "before")

        assert {ref.kind for ref in warm.pull().statuses} == {"GatewayClass"}


def test_who_is_concerned_may_change_while_the_same_fails() -> None:
    """No call begins or ceases to fail, but another class is ours."""
    with faulty():
        warm = World.of(routes_with_services(1))
        put_fault(warm, (fleets, ()), "before")
        warm.pull()

        warm.apply({(other := gateway_class("other")).ref: other})
        shown = warm.pull().statuses

        assert INTERNAL in str(shown[other.ref])


def test_many_failures_are_named_up_to_a_number() -> None:
    with faulty():
        warm = World.of(routes_with_services(3 * MOST_NAMED))
        for part in route_shards(warm.db, EG)[: MOST_NAMED + 3]:
            put_fault(warm, (resource_keys, (EG_FLEET, part)), "before")
        warm.pull()

        assert "and 3 more" in str(warm.statuses()[EG])
