"""The façade: what it hands out, when, and what it counts."""

from __future__ import annotations

from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from moongate.ads.needs import needs_endpoints
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, Ref, Resource
from moongate.api.core import ConfigMap, Secret, ServiceSpec
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway, Listener, ListenerTLSConfig
from moongate.api.httproute import HTTPRoute
from moongate.api.shared import SecretObjectReference
from moongate.attach.routes import route_shards
from moongate.engine import STRIDE
from moongate.store import shard
from moongate.world import Changes, World
from moongate.xds.needed_resources import resource_keys
from moongate.xds.wire import CLUSTER, ENDPOINT, ROUTE
from tests.faults import faulty, put_fault
from tests.strategies import resource
from tests.worlds import (
    EG,
    EG_FLEET,
    backend,
    endpoint_slice,
    gateway,
    gateway_class,
    http_listener,
    meta,
    namespace,
    retries,
    route,
    routes_with_backends,
    routes_with_services,
    service,
    tcp_routes_with_services,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FLEET = "default/eg"
SHARED = "service/default/s0/8080/http"
OWN = "service/default/s1/8080/http"
H2C = "gateway.envoyproxy.io/h2c"


def small() -> World:
    """A settled world of two routes, of which nothing is left to hand out."""
    world = World()
    world.apply({each.ref: each for each in routes_with_services(2)})
    world.pull()
    return world


def test_statuses_are_noted_in_steps() -> None:
    """A policy on a Gateway changes those of thousands of routes: at once they would hold up endpoints."""
    world = World()
    world.apply({each.ref: each for each in routes_with_services(2 * STRIDE)})
    noted = [0, *(len(world.statuses()) for _ in world.settle())]

    assert max(after - before for before, after in pairwise(noted)) <= STRIDE
    assert world.take().statuses.keys() == world.statuses().keys()
    assert len(world.statuses()) == noted[-1] > 2 * STRIDE


def types(changes: Changes) -> set[str]:
    return {each.type_url for put in changes.put.values() for each in put}


def apply(world: World, *resources: Resource) -> None:
    world.apply({each.ref: each for each in resources})


def urgent(world: World) -> list[str]:
    """The names of the endpoints that are handed out before all else."""
    list(world.settle(urgent=True))
    taken = world.take(urgent=True)
    assert types(taken) <= {ENDPOINT}
    return [each.name for each in taken.put.get(FLEET, ())]


def test_endpoints_change_their_name_with_the_tls_that_is_spoken_to_them() -> None:
    """They are not sent before their cluster: the old one would send to them in the clear."""
    world = World()
    plain, tls = backend(0), {"insecureSkipVerify": True}
    spec = {"endpoints": [{"ip": {"address": "10.0.0.2", "port": 8443}}], "tls": tls}
    secure = resource("Backend", "default", "s0", {"spec": spec})
    apply(world, *routes_with_backends(1))
    world.pull()
    name = "backend/default/s0/8080/http"

    apply(world, secure)
    assert not urgent(world)
    changes = world.pull()

    [cluster] = [each for each in changes.put[FLEET] if each.type_url == CLUSTER]
    [assignment] = [each for each in changes.put[FLEET] if each.type_url == ENDPOINT]
    assert needs_endpoints(cluster) == assignment.name != name
    assert changes.gone[FLEET] == ((ENDPOINT, name),)
    assert name not in world.xds()[FLEET][ENDPOINT]
    assert assignment.name in world.xds()[FLEET][ENDPOINT]
    apply(world, plain)
    assert (ENDPOINT, assignment.name) in world.pull().gone[FLEET]
    assert name in world.xds()[FLEET][ENDPOINT]


def test_endpoints_that_a_cluster_knows_by_another_name_come_with_it() -> None:
    """Also if they are urgent: the backend with TLS leaves, as it has a hostname now."""
    world = World()
    rule = {"backendRefs": [{"name": "s0", "port": 8080}, {**BACKEND_REF, "name": "secure"}]}
    parents = [{"name": "eg", "sectionName": "tcp-0"}]
    mixed = resource("TCPRoute", "default", "c0", {"spec": {"parentRefs": parents, "rules": [rule]}})
    apply(world, *tcp_routes_with_services(1), mixed, secure({"ip": {"address": "10.0.0.2", "port": 8443}}))
    world.pull()

    apply(world, secure({"fqdn": {"hostname": "up.example.com", "port": 8443}}))
    list(world.settle())
    changes = world.take()

    [cluster] = [each for each in changes.put[FLEET] if each.type_url == CLUSTER]
    [assignment] = [each for each in changes.put[FLEET] if each.type_url == ENDPOINT]
    assert needs_endpoints(cluster) == assignment.name


BACKEND_REF = {"group": ENVOY_GROUP, "kind": "Backend"}


def secure(endpoint: dict[str, Any]) -> Resource:
    """A Backend of this endpoint that is spoken to in TLS."""
    spec = {"endpoints": [endpoint], "tls": {"insecureSkipVerify": True}}
    return resource("Backend", "default", "secure", {"spec": spec})


def policy_of(name: str, kind: str = Gateway.KIND) -> Resource:
    """A policy of clusters."""
    target = {"group": GATEWAY_GROUP, "kind": kind, "name": name}
    spec = {"targetRefs": [target], "circuitBreaker": {"maxConnections": 7}}
    return resource("BackendTrafficPolicy", "default", "p", {"spec": spec})


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
    assert world.pull().fleets == {FLEET: EG_FLEET}

    world.apply({EG: None})
    changes = world.pull()

    assert (changes.fleets, world.xds()) == ({FLEET: None}, {})


def test_endpoints_are_settled_before_all_else() -> None:
    """They are the fast lane: a rebuild of thousands of routes is in progress, a pod dies."""
    world = small()
    world.apply({(edited := route(0, "/x")).ref: edited})
    next(world.settle())

    world.apply({(moved := endpoint_slice(1, 99)).ref: moved})
    list(world.settle(urgent=True))
    urgent = world.take(urgent=True)

    assert [(each.type_url, each.name) for each in urgent.put[FLEET]] == [(ENDPOINT, OWN)]
    assert types(world.pull()) == {ROUTE}


def test_endpoints_do_not_run_ahead_of_their_cluster() -> None:
    """Envoy has no use for endpoints of a cluster that it does not know."""
    world = small()
    world.apply({each.ref: each for each in (route(7), service(7), endpoint_slice(7))})
    for _ in chain(world.settle(urgent=True), world.settle()):
        urgent = world.take(urgent=True)
        assert not urgent.put

    assert {CLUSTER, ENDPOINT, ROUTE} <= types(world.take())


def test_endpoints_of_a_cluster_that_was_not_handed_out_wait_for_it() -> None:
    world = small()
    world.apply({each.ref: each for each in (route(7), service(7), endpoint_slice(7))})
    list(world.settle())
    world.apply({(moved := endpoint_slice(7, 99)).ref: moved})
    list(world.settle(urgent=True))

    assert not world.take(urgent=True)
    assert world.resource(EG_FLEET, ENDPOINT, "service/default/s7/8080/http") in world.take().put[FLEET]


def test_no_cluster_is_handed_out_without_its_endpoints() -> None:
    """Not even if those change again and again from the moment that it is known."""
    steps = 0
    while True:
        world = small()
        world.apply({each.ref: each for each in (route(7), service(7), endpoint_slice(7))})
        settling = world.settle()
        built = len(list(islice(settling, steps)))
        world.apply({(moved := endpoint_slice(7, 99)).ref: moved})
        list(settling)
        assert {CLUSTER, ENDPOINT} <= types(world.take())
        if built < steps:
            break
        steps += 1
    assert built > 10


def test_endpoints_that_go_wait_for_the_routes_that_leave_them() -> None:
    """The route was edited first; its Envoys must not see the Service empty before they see that."""
    world = small()
    apply(world, route(1, "/x"))
    world.apply({endpoint_slice(1).ref: None})
    assert not urgent(world)

    apply(world, endpoint_slice(1, 99))
    assert urgent(world) == [OWN], "what is back is sent at once"


def test_endpoints_go_with_a_route_that_came_with_them_and_has_used_them() -> None:
    """A route that leaves a backend, and other endpoints of that, in one save of a file."""
    world = small()
    apply(world, route(1, "/x"), endpoint_slice(1, 99))

    assert not urgent(world)
    assert types(world.pull()) == {ROUTE, ENDPOINT}


def test_endpoints_do_not_wait_for_a_route_that_has_not_used_them() -> None:
    """An API server hands over what has changed since the last time, whatever it is."""
    world = small()
    apply(world, route(1, "/x"), endpoint_slice(0, 99))

    assert urgent(world) == [SHARED]
    assert types(world.pull()) == {ROUTE}


def test_endpoints_wait_for_a_route_that_has_left_them_and_was_not_taken_yet() -> None:
    """Another route still uses them, so they are there."""
    world = small()
    another = structs.replace(route(2), spec=route(1, "/2").spec)
    apply(world, another)
    world.pull()
    apply(world, structs.replace(another, spec=route(0, "/2").spec))
    list(world.settle())
    apply(world, endpoint_slice(1, 99))

    assert not urgent(world)
    assert types(world.pull()) == {ROUTE, ENDPOINT}


def test_endpoints_wait_for_their_route_no_longer_than_it_takes() -> None:
    world = small()
    apply(world, route(1, "/x"), endpoint_slice(1, 99))
    world.pull()
    apply(world, endpoint_slice(1, 98))

    assert urgent(world) == [OWN]


@pytest.mark.parametrize(
    "other",
    [
        Secret(metadata=meta("unused")),
        namespace("elsewhere", team="a"),
        policy_of("other"),
        gateway(http_listener("http", port=81), name="another"),
        service(7),
        route(7),
    ],
    ids=lambda each: each.KIND,
)
def test_endpoints_do_not_wait_for_what_their_fleet_does_not_read(other: Resource) -> None:
    world = small()
    apply(world, other, endpoint_slice(1, 99))
    with world.ran() as ran:
        assert urgent(world) == [OWN]

    assert ran.counts() == dict.fromkeys(["endpoints", "has_endpoints", "backend", "load_assignment"], 1)


@pytest.mark.parametrize(
    "other",
    [
        policy_of(EG.name),
        policy_of("r1", "HTTPRoute"),
        gateway(http_listener("http"), http_listener("more", port=81)),
        structs.replace(service(1), spec=ServiceSpec()),
    ],
    ids=lambda each: each.KIND,
)
def test_endpoints_go_with_what_came_with_them_and_their_fleet_reads(other: Resource) -> None:
    """It may change their cluster, or who may send to it."""
    world = small()
    apply(world, other, endpoint_slice(0, 99))

    assert not urgent(world)
    assert ENDPOINT in types(world.pull())


def test_endpoints_of_a_backend_go_with_what_else_is_said_of_it() -> None:
    """Its cluster must not be sent requests in a protocol that the new endpoints do not speak."""
    world = World.of(routes_with_backends(2))
    apply(world, moved := backend(1, 98))
    assert urgent(world) == ["backend/default/s1/8080/http"]

    spec = structs.replace(moved.spec, endpoints=backend(1, 99).spec.endpoints, app_protocols=(H2C,))
    apply(world, structs.replace(moved, spec=spec))
    assert not urgent(world)


def test_endpoints_do_not_wait_for_what_came_with_them_and_is_as_before() -> None:
    """A source that has to list anew hands over everything."""
    world = small()
    apply(world, *routes_with_services(2), endpoint_slice(1, 99))

    assert urgent(world) == [OWN]


def test_endpoints_of_a_fleet_do_not_wait_for_what_concerns_another() -> None:
    world = World.of([*routes_with_services(2), gateway(http_listener("http", port=81), name="another")])
    apply(world, gateway(http_listener("more", port=82), name="another"), endpoint_slice(1, 99))

    assert urgent(world) == [OWN]


@pytest.mark.slow
def test_to_see_what_came_with_endpoints_costs_no_more_than_a_moment() -> None:
    """What they wait for otherwise must not be stopped by them, nor must other endpoints."""
    apart = gateway(http_listener("http", port=81), name="another")
    world = World.of([*routes_with_services(1_500), apart])
    apply(world, policy_of(EG.name), endpoint_slice(1, 99))

    assert not world.db.propagated


def test_what_came_with_endpoints_is_followed_no_further_than_to_their_fleet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What else there is to mark is marked later, in slices."""
    world = World.of(routes_with_services(STRIDE))
    propagate, strides = world.db.propagate, 0

    def counted() -> Iterator[None]:
        nonlocal strides
        for _ in propagate():
            strides += 1
            yield

    monkeypatch.setattr(world.db, "propagate", counted)
    apply(world, gateway(http_listener("http"), http_listener("more", port=81)), endpoint_slice(1, 99))

    assert not urgent(world)
    assert 0 < strides < 4
    assert not world.db.propagated


def test_endpoints_wait_if_a_moment_does_not_show_what_came_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moongate.world.MOMENT", 0)
    world = small()
    apply(world, policy_of(EG.name), endpoint_slice(1, 99))

    assert not urgent(world)


def test_endpoints_that_changed_for_another_reason_are_not_urgent() -> None:
    world = small()
    target = {"group": "gateway.networking.k8s.io", "kind": EG.kind, "name": EG.name}
    spec = {"spec": {"targetRefs": [target], "routingType": "Service"}}
    clustered = structs.replace(service(1), spec=structs.replace(service(1).spec, cluster_ip="10.9.9.9"))
    world.apply({clustered.ref: clustered})
    world.pull()
    world.apply({(each := resource("BackendTrafficPolicy", "default", "p", spec)).ref: each})
    list(world.settle())

    assert not world.take(urgent=True)
    assert ENDPOINT in types(world.take())


def test_endpoints_that_changed_again_are_handed_out_once() -> None:
    world = small()
    for octet in (98, 99):
        world.apply({(moved := endpoint_slice(1, octet)).ref: moved})
        list(world.settle(urgent=True))

    (sent,) = world.pull().put[FLEET]

    assert sent == world.resource(EG_FLEET, ENDPOINT, OWN)


def test_endpoints_are_not_handed_out_when_their_cluster_went() -> None:
    world = small()
    world.apply({(moved := endpoint_slice(1, 99)).ref: moved})
    list(world.settle(urgent=True))
    world.apply({route(1).ref: None})
    list(world.settle())

    assert not world.take(urgent=True)
    assert ENDPOINT in {type_url for type_url, _ in world.take().gone[FLEET]}


def test_a_flood_of_endpoints_does_not_stop_the_rest() -> None:
    """Whoever drives the world gives each its share: all else is settled while endpoints still wait.

    What is taken then is whole, and only some endpoints are those from before.
    """
    world = World.of(routes_with_services(50))
    edits = [route(n, "/x") for n in range(50)]
    world.apply({each.ref: each for each in edits})
    octet = 1
    for step, _ in enumerate(world.settle()):
        if step % 20 == 0:
            octet += 1
            moved = [endpoint_slice(n, octet) for n in range(3)]
            world.apply({each.ref: each for each in moved})
            next(world.settle(urgent=True))
    assert octet > 10
    assert not world.settled

    assert {ROUTE} <= types(world.take()) <= {ROUTE, ENDPOINT}
    assert types(world.pull()) == {ENDPOINT}
    assert world.settled


def test_a_status_goes_with_its_resource() -> None:
    world = small()
    gone = Ref.of(HTTPRoute, "default", "r0")

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


def clusters(world: World) -> set[str]:
    return {name for name in world.xds()[FLEET][CLUSTER] if name.startswith("service/")}


def test_clusters_come_and_go_with_the_first_and_last_route_of_a_shard() -> None:
    world = small()

    world.apply({route(1).ref: None})
    world.pull()
    assert OWN not in clusters(world)

    put(world, route(1))
    assert OWN in clusters(world)
    assert world.settled


def test_the_last_route_of_a_shard_keeps_its_cluster_while_the_gateway_is_rejected() -> None:
    """The Envoys of a rejected Gateway keep all they have, until it is accepted again."""
    world = small()
    before = clusters(world)
    bad = {"spec": {"gatewayClassName": "eg", "infrastructure": {"parametersRef": NO_PROXY}}}
    listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
    put(world, resource("Gateway", "default", "eg", {"spec": bad["spec"] | {"listeners": listeners}}))

    world.apply({route(1).ref: None})
    world.pull()
    assert clusters(world) == before

    put(world, gateway())
    assert clusters(world) == before - {OWN}


def test_what_a_failing_shard_had_goes_with_its_last_route() -> None:
    """While a shard has routes, what fails keeps what it named; without any there is nothing to keep."""
    with faulty():
        world = small()
        before = clusters(world)
        (part,) = {*route_shards(world.db, EG)} - {shard(str(route(0).ref))}
        put_fault(world, (resource_keys, (EG, part)), "before")
        world.pull()
        assert clusters(world) == before

        world.apply({route(1).ref: None})
        world.pull()
        assert clusters(world) == before - {OWN}


NO_PROXY = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "missing"}


def https_listener(name: str) -> Listener:
    tls = ListenerTLSConfig(certificate_refs=(SecretObjectReference(name=name),))
    return Listener(name=name, port=443, protocol="HTTPS", hostname=f"{name}.example.com", tls=tls)


def test_a_secret_is_wanted_while_a_listener_names_it() -> None:
    """A source of thousands of Secrets keeps these; that one is wanted is known before it exists."""
    world = World.of(routes_with_services(300))
    demand = world.demand(Secret, ConfigMap)
    assert demand.take() == {}
    old, new = (Ref.of(Secret, "default", name) for name in ("old", "new"))

    put(world, gateway(http_listener("http"), https_listener("old")))
    assert demand.take() == {old: True}
    put(world, resource("Secret", "default", "old", {"type": "kubernetes.io/tls", "data": {}}))
    put(world, resource("Secret", "default", "idle", {"data": {}}))
    assert demand.take() == {}
    put(world, gateway(http_listener("http"), https_listener("new")))
    assert demand.take() == {old: False, new: True}
    put(world, gateway(http_listener("http")))
    assert (demand.take(), demand.wanted()) == ({new: False}, ())


def put(world: World, *resources: Resource) -> None:
    apply(world, *resources)
    world.pull()


def test_a_batch_in_steps_comes_to_the_same_as_at_once() -> None:
    """Also if others are put in force between two steps, which is what the event loop is given back for."""
    batch: dict[Ref, Resource | None] = {each.ref: each for each in routes_with_services(9)}
    before = [*routes_with_services(3), retries(1)]
    batch[retries(1).ref] = None
    batch |= {each.ref: None for each in (route(1), service(1), endpoint_slice(1))}
    whole, parted = World.of(before), World.of(before)
    more = [route(20), service(20), endpoint_slice(20)]

    whole.apply(batch)
    steps = parted.applying(batch, most=2)
    for each in more:
        assert next(steps) is None
        parted.apply({each.ref: each})
        whole.apply({each.ref: each})
    for _ in steps:
        pass

    whole.pull()
    parted.pull()
    assert parted.everything() == whole.everything()


def test_what_goes_between_two_steps_is_no_obstacle() -> None:
    """Who deletes a resource that a batch is about to delete, or to change, is not in its way."""
    batch: dict[Ref, Resource | None] = {each.ref: None for each in routes_with_services(3)}
    world = World.of(routes_with_services(3))

    steps = world.applying(batch, most=1)
    for _ in batch:
        next(steps)
    world.apply(batch)
    for _ in steps:
        pass

    world.pull()
    assert world.everything() == World.of([]).everything()
