"""The façade: what it hands out, when, and what it counts."""

from __future__ import annotations

from itertools import islice

from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.world import Changes, World
from moongate.xds.wire import CLUSTER, ENDPOINT, ROUTE
from tests.worlds import EG, endpoint_slice, gateway, gateway_class, route, routes_with_services, service

FLEET = "default/eg"
SHARED = "service/default/s0/8080/http"


def small() -> World:
    """A settled world of two routes, of which nothing is left to hand out."""
    world = World()
    world.apply({each.ref: each for each in routes_with_services(2)})
    world.pull()
    return world


def types(changes: Changes) -> set[str]:
    return {each.type_url for put in changes.put.values() for each in put}


def test_an_empty_world_has_nothing_to_say() -> None:
    world = World()

    assert not world.pull()
    assert (world.xds(), world.statuses(), world.failures()) == ({}, {}, {})


def test_applying_runs_nothing() -> None:
    """A source may hand in batches as fast as it likes."""
    world = small()

    with world.ran() as ran:
        world.apply({(edited := route(0, "/x")).ref: edited})

    assert ran.counts() == {}


def test_apply_tells_whether_anything_differs() -> None:
    world = small()

    assert world.apply({(same := route(0)).ref: same}) is False
    assert world.apply({(edited := route(0, "/x")).ref: edited}) is True


def test_what_was_taken_is_not_handed_out_again() -> None:
    world = small()

    assert not world.pull()


def test_only_what_differs_is_handed_out() -> None:
    world = small()

    world.apply({(edited := route(0, "/x")).ref: edited})

    assert types(world.pull()) == {ROUTE}


def test_a_gateway_brings_a_fleet_and_takes_it_along() -> None:
    world = World()
    world.apply({each.ref: each for each in (gateway_class(), gateway())})
    assert world.pull().fleets == {FLEET: EG}

    world.apply({EG: None})
    changes = world.pull()

    assert (changes.fleets, world.xds()) == ({FLEET: None}, {})


def test_endpoints_are_settled_before_all_else() -> None:
    """They are the fast lane: a rebuild of thousands of routes is in progress, a pod dies."""
    world = small()
    world.apply({(edited := route(0, "/x")).ref: edited})
    settling = world.settle()
    next(settling)

    world.apply({(moved := endpoint_slice(1, 99)).ref: moved})
    list(islice(settling, 5))
    urgent = world.take(urgent=True)

    assert [(each.type_url, each.name) for each in urgent.put[FLEET]] == [
        (ENDPOINT, "service/default/s1/8080/http")
    ]
    assert types(world.pull()) == {ROUTE}


def test_endpoints_do_not_run_ahead_of_their_cluster() -> None:
    """Envoy has no use for endpoints of a cluster that it was not told of."""
    world = small()
    world.apply({each.ref: each for each in (route(7), service(7), endpoint_slice(7))})
    for _ in world.settle():
        urgent = world.take(urgent=True)
        assert not urgent.put

    assert {CLUSTER, ENDPOINT, ROUTE} <= types(world.take())


def test_a_status_goes_with_its_resource() -> None:
    world = small()
    gone = Ref("HTTPRoute", "default", "r0")

    world.apply({gone: None})

    assert world.pull().statuses[gone] is None
    assert gone not in world.statuses()


def test_the_configuration_can_change() -> None:
    world = small()

    assert world.configure(EnvoyGateway()) is True
    assert world.configure(EnvoyGateway()) is False
    world.pull()
    assert SHARED not in world.xds()[FLEET][CLUSTER], "without mergeBackends, clusters belong to rules"


def test_runs_are_counted_by_name() -> None:
    world = small()

    with world.ran() as ran:
        world.apply({(moved := endpoint_slice(0, 99)).ref: moved})
        world.pull()

    assert ran.counts()["load_assignment"] == 1
