"""What one fleet has: of one Gateway, or of all of a class; and what changes it after it was built."""

from __future__ import annotations

import gc

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.wrappers_pb2 import UInt32Value
from msgspec import structs

from moongate.api.base import FleetId, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, GatewaySpec
from moongate.api.httproute import HTTPRoute
from moongate.api.shared import ParentReference
from moongate.attach.routes import attachments_at
from moongate.engine import db
from moongate.status.gateways import GatewayStatus
from moongate.store import SHARDS
from moongate.world import World
from moongate.xds.needed_resources import resource_keys
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests import patching
from tests.attach.test_backend_tls import tls_policy
from tests.core import extension, gateway, gateway_class, http, read, tls_secret
from tests.patching import patch
from tests.routes import SHOP, endpoints, http_route, rule
from tests.routes import service as shop_service
from tests.strategies import Batch, resource
from tests.test_law import assert_same, flat
from tests.worlds import (
    CONTROLLER,
    EG_FLEET,
    endpoint_slice,
    http_listener,
    meta,
    route,
    routes_with_services,
    service,
)

# -- Gateways that are rejected ----------------------------------------------

SHOWN = """{
    backendTLS: {clientCertificateRef: {kind: Secret, name: shown}},
    telemetry: {metrics: {enableVirtualHostStats: true}},
    filterOrder: [{name: envoy.filters.http.cors, after: envoy.filters.http.basic_auth}]
}"""
OWN = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "own"}}
TRUSTED = tls_policy(validation="{hostname: b.io, wellKnownCACertificates: System}")


def settings_that_fail(how: str) -> Batch:
    """Another state of the class and its EnvoyProxy, with which its Gateways are rejected."""
    broken = {
        "invalid": [extension("EnvoyProxy", "class", "{concurrency: -1}")],
        "another kind": [gateway_class("class").replace("EnvoyProxy", "Other")],
        "gone": [],
    }[how]
    gone: Batch = {Ref.of(EnvoyProxy, "default", "class"): None} if how == "gone" else {}
    return gone | {each.ref: each for text in broken for each in read(text)}


@pytest.mark.parametrize("how", ["invalid", "another kind", "gone"])
@pytest.mark.parametrize("own", ["", "{mergeType: StrategicMerge, concurrency: 2}", "{concurrency: 2}"])
def test_a_rejected_gateway_keeps_what_its_settings_made(how: str, own: str) -> None:
    """Clusters as well: without the certificate that they show, backends would refuse all requests."""
    manifests = [
        gateway(http("web"), infrastructure=OWN if own else {}),
        *(gateway_class("class"), extension("EnvoyProxy", "class", SHOWN)),
        *([extension("EnvoyProxy", "own", own)] if own else []),
        *(tls_secret("shown", "x.io"), http_route(rule("", SHOP)), shop_service(), TRUSTED),
    ]
    held = {each.ref: each for text in manifests for each in read(text)}
    world = World.of(held.values())
    before = flat(world)

    world.apply(settings_that_fail(how))
    world.pull()
    assert flat(world) == before

    moved = {each.ref: each for each in read(endpoints("shop", "10.0.0.2"))}
    world.apply(moved)
    world.pull()
    differing = {key for key, made in flat(world)["default/eg"].items() if made != before["default/eg"][key]}
    assert {type_url for type_url, _ in differing} <= {ENDPOINT}

    world.apply(held | moved)
    world.pull()
    assert_same(world, World.of((held | moved).values()))


# -- merged Gateways ---------------------------------------------------------

MERGED = FleetId(Ref.of(GatewayClass, "", "eg"))
CLASS = {
    "spec": {
        "controllerName": CONTROLLER,
        "parametersRef": {
            "group": "gateway.envoyproxy.io",
            "kind": "EnvoyProxy",
            "name": "merging",
            "namespace": "default",
        },
    }
}


def merging(*, merge: bool = True) -> list[Resource]:
    """A class whose Gateways share their Envoys, or do not."""
    proxy = resource("EnvoyProxy", "default", "merging", {"spec": {"mergeGateways": merge}})
    return [resource("GatewayClass", "", "eg", CLASS), proxy]


def gateway_on(port: int, name: str, hostname: str | None = None) -> Gateway:
    listener = http_listener("http", port, hostname)
    return Gateway(metadata=meta(name), spec=GatewaySpec(gateway_class_name="eg", listeners=(listener,)))


def of_gateway(n: int, *names: str) -> HTTPRoute:
    """Route ``n``, attached to some Gateways."""
    parents = tuple(ParentReference(name=name, namespace="default") for name in names)
    edited = route(n)
    return structs.replace(edited, spec=structs.replace(edited.spec, parent_refs=parents))


def merged() -> list[Resource]:
    """Two Gateways of one class on different ports, each with a route, and one route of both."""
    routes = of_gateway(0, "one"), of_gateway(1, "two"), of_gateway(2, "one", "two")
    backends = [each for n in range(3) for each in (service(n), endpoint_slice(n))]
    return [*merging(), gateway_on(8080, "one"), gateway_on(8081, "two"), *routes, *backends]


def test_merged_gateways_are_one_fleet_with_the_listeners_and_routes_of_all() -> None:
    world = World.of(merged(), EnvoyGateway())

    (fleet,) = flat(world).values()
    assert list(flat(world)) == ["eg"]
    assert {name for type_url, name in fleet if type_url == LISTENER} == {
        "default/one/http",
        "default/two/http",
        "envoy-gateway-proxy-ready-0.0.0.0-19003",
    }
    assert {
        name: [
            host.domains[0] for host in RouteConfiguration.FromString(fleet[ROUTE, name].body).virtual_hosts
        ]
        for type_url, name in fleet
        if type_url == ROUTE
    } == {
        "default/one/http": ["h0.example.com", "h2.example.com"],
        "default/two/http": ["h1.example.com", "h2.example.com"],
    }
    assert {name for type_url, name in fleet if type_url == CLUSTER} == {
        f"httproute/default/r{n}/rule/0" for n in range(3)
    }
    assert world.failures() == {}


def test_gateways_of_a_port_share_its_listener() -> None:
    """Envoy has one for a port, whoever asks for it."""
    two = gateway_on(8080, "two", hostname="two.example.com")
    world = World.of([*merging(), gateway_on(8080, "one"), two], EnvoyGateway())

    names = [name for type_url, name in flat(world)["eg"] if type_url == LISTENER]
    assert [name for name in names if "ready" not in name] == ["default/one/http"]
    assert "False" not in str(world.statuses()[two.ref])


def test_of_two_gateways_that_want_the_same_the_older_has_it() -> None:
    """The other one says so. Envoy would refuse both."""
    two = gateway_on(8080, "two")
    routes = of_gateway(0, "one"), of_gateway(1, "two")
    world = World.of([*merging(), gateway_on(8080, "one"), two, *routes], EnvoyGateway())

    (table,) = (each for key, each in flat(world)["eg"].items() if key[0] == ROUTE)
    hosts = RouteConfiguration.FromString(table.body).virtual_hosts
    assert [host.domains[0] for host in hosts] == ["h0.example.com"]
    status = world.statuses()[two.ref]
    assert isinstance(status, GatewayStatus)
    assert "HostnameConflict" in {each.reason for each in status.listeners[0].conditions}


def test_a_gateway_that_joins_changes_nothing_of_the_others() -> None:
    resources = [each for each in merged() if each.ref != Ref.of(Gateway, "default", "two")]
    world = World.of(resources, EnvoyGateway())
    before = flat(world)["eg"]

    world.apply({(two := gateway_on(8081, "two")).ref: two})
    changes = world.pull()

    assert not changes.fleets
    assert before.items() <= flat(world)["eg"].items()
    assert flat(world) == flat(World.of([*resources, two], EnvoyGateway()))


def test_a_route_asks_only_the_gateways_that_it_names() -> None:
    """A class may have a thousand Gateways; their work must not grow with their square."""
    world = World.of(many_merged(20), EnvoyGateway())

    asked = [args for query, args in world.db.calls() if query is attachments_at]
    assert sorted(asked) == sorted((of_gateway(n).ref, gateway_on(0, f"g{n}").ref) for n in range(20))
    reads = [each for n in range(SHARDS) for each in world.db.reads(resource_keys, MERGED, n)]
    assert sum("('index', 'routes'" in each for each in reads) == 20


def test_the_gateways_of_a_fleet_are_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one step would hold up the endpoints that change meanwhile."""
    monkeypatch.setattr(db, "STEP", 1)
    world = World(EnvoyGateway())
    world.apply({each.ref: each for each in many_merged(10)})

    most, before = 0, 0
    for _ in world.settle():
        now = world.db.counts["listeners"] + world.db.counts["route_shards"]
        most, before = max(most, now - before), now

    assert (before, most) == (20, 1)


def many_merged(count: int) -> list[Resource]:
    """Gateways of one class, each with a port, and a route for each."""
    gateways = [gateway_on(8000 + n, f"g{n}") for n in range(count)]
    return [*merging(), *gateways, *(of_gateway(n, f"g{n}") for n in range(count))]


def test_gateways_that_part_have_a_fleet_each() -> None:
    world = World.of(merged(), EnvoyGateway())

    world.apply({each.ref: each for each in merging(merge=False)})
    changes = world.pull()

    one, two = (FleetId(Ref.of(Gateway, "default", name)) for name in ("one", "two"))
    assert changes.fleets == {"eg": None, "default/one": one, "default/two": two}
    parted = [*merged()[2:], *merging(merge=False)]
    assert flat(world) == flat(World.of(parted, EnvoyGateway()))

    world.apply({each.ref: each for each in merging()})
    world.pull()
    assert flat(world) == flat(World.of(merged(), EnvoyGateway()))


# -- patches -----------------------------------------------------------------

SHARED = "service/default/s0/8080/http"
MORE = patch("more", Cluster(per_connection_buffer_limit_bytes=UInt32Value(value=77)))


def patched_world() -> World:
    world = World(patches=patching.TRIAL)
    world.apply({each.ref: each for each in routes_with_services(2)})
    world.pull()
    return world


def limit(world: World, name: str = SHARED) -> int:
    cluster = world.resource(EG_FLEET, CLUSTER, name)
    assert cluster is not None
    return Cluster.FromString(cluster.body).per_connection_buffer_limit_bytes.value


def test_a_patch_changes_the_resource_that_it_names_and_no_other() -> None:
    world = patched_world()
    before = flat(world)

    patching.put(world, CLUSTER, SHARED, MORE)
    (changed,) = world.pull().put["default/eg"]

    assert (changed.name, limit(world)) == (SHARED, 77)
    patching.put(world, CLUSTER, SHARED)
    world.pull()
    assert flat(world) == before


def test_where_nothing_is_patched_nothing_runs_for_it() -> None:
    world = patched_world()

    assert not {"patched", "in_force", "patches_of"} & world.db.counts.keys()
    assert world.db.counts["patched_names"] == 1, "once for the fleet"


def test_a_patched_resource_follows_what_it_is_built_from() -> None:
    world = patched_world()
    patching.put(world, CLUSTER, SHARED, MORE)
    world.pull()

    world.apply({route(0).ref: None})
    world.pull()
    assert world.resource(EG_FLEET, CLUSTER, SHARED) is None

    world.apply({(back := route(0)).ref: back})
    world.pull()
    assert limit(world) == 77


def test_a_patch_of_what_is_not_there_changes_nothing() -> None:
    world = patched_world()
    before = flat(world)

    patching.put(world, CLUSTER, "not there", MORE)
    world.pull()

    assert flat(world) == before


def test_it_is_known_by_which_patches_a_resource_was_changed() -> None:
    """Whoever looks for what Envoy refuses has to know what it was sent."""
    world = patched_world()
    at = (EG_FLEET, CLUSTER, SHARED)
    assert (world.patched(*at), world.patches(*at)) == (None, ())

    patching.put(world, CLUSTER, SHARED, MORE)
    world.pull()
    (form,) = world.patches(*at)
    assert form.patch == MORE

    same_effect = patch("other", Cluster.FromString(MORE.body))
    patching.put(world, CLUSTER, SHARED, same_effect)
    assert not world.pull().put
    (form,) = world.patches(*at)
    assert form.patch == same_effect

    patching.put(world, CLUSTER, SHARED)
    world.pull()
    assert (world.patched(*at), world.patches(*at)) == (None, ())


@pytest.mark.usefixtures("only_own_garbage")
def test_a_fleet_that_ends_leaves_no_circle_of_garbage() -> None:
    """While it lives it may be excluded from garbage collection, and then no circle of it is ever freed."""
    world = World.of(routes_with_services(2))
    gc.collect()
    gc.disable()
    try:
        world.apply({EG_FLEET.owner: None})
        world.pull()
        circles = gc.collect()
    finally:
        gc.enable()

    assert not world.xds()
    assert circles == 0
