"""What a change costs, in functions run and bytes sent: never in seconds, and never more for more routes.

The world: routes with a hostname and a backend of their own, on a Gateway with a plain listener for its own
namespace and an HTTPS one for namespaces of team ``a``, a policy on the Gateway, shared clusters as shipped.
Who changes a count here should be able to say why.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from msgspec import Struct, structs

from moongate import names
from moongate.ads.session import Session
from moongate.ads.snapshot import Snapshot
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway, ExtensionAPIs, RuntimeFlags
from moongate.api.gateway import (
    AllowedRoutes,
    FrontendTLSConfig,
    FrontendTLSValidation,
    Gateway,
    GatewayTLSConfig,
    Listener,
    ListenerTLSConfig,
    RouteNamespaces,
    TLSConfig,
)
from moongate.api.httproute import HTTPRoute, HTTPRouteSpec
from moongate.api.listenerset import ParentGatewayReference
from moongate.api.shared import LabelSelector, ObjectReference, SecretObjectReference
from moongate.attach import tls_overlaps
from moongate.attach.routes import HOSTNAMES, ROUTES, route_shards
from moongate.engine.db import STEP
from moongate.large_tables import LargeTables
from moongate.run.laptop import Laptop
from moongate.run.log import RunLog
from moongate.sources.files import Files
from moongate.sources.folder import Folder
from moongate.store import parts, shard
from moongate.world import Changes, World
from moongate.xds.wire import ROUTE, SCOPE, XdsResource
from tests.core import ON_HOST, WHOLE, certificate, key_bytes, new_key
from tests.sources.manifests import Unfinished
from tests.strategies import renamed, resource
from tests.worlds import (
    EG,
    EG_FLEET,
    endpoint_slice,
    gateway,
    gateway_class,
    grpc_route,
    grpc_routes_with_services,
    http_listener,
    listener_set,
    namespace,
    of_set,
    retries,
    route,
    routes_with_services,
    service,
    shared_gateway,
    tcp_route,
    tcp_routes_with_services,
    tls_route,
    tls_routes_with_services,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

VISITOR = 2_000
"""The route that lives in another namespace, and is served over HTTPS."""

TEAM_A = AllowedRoutes(
    namespaces=RouteNamespaces(from_="Selector", selector=LabelSelector(match_labels={"team": "a"}))
)
HTTPS = Listener(
    name="https",
    port=443,
    protocol="HTTPS",
    tls=ListenerTLSConfig(certificate_refs=(SecretObjectReference(name="cert"),)),
    allowed_routes=TEAM_A,
)
KEYS = new_key(), new_key()
SCOPED = structs.replace(
    EnvoyGateway.shipped(),
    runtime_flags=RuntimeFlags(enabled=("StableFilterChains", "MetadataWhereRead", "ScopedTables")),
)


def tls_certificate(n: int) -> Resource:
    data = {"tls.crt": certificate(KEYS[n], "example.com"), "tls.key": key_bytes(KEYS[n])}
    return resource("Secret", "default", "cert", {"type": "kubernetes.io/tls", "data": data})


def built(routes: int) -> World:
    resources = {each.ref: each for each in routes_with_services(routes)}
    visitor = (
        route(VISITOR, namespace="other"),
        service(VISITOR, "other"),
        endpoint_slice(VISITOR, namespace="other"),
    )
    more = (
        gateway(http_listener("http"), HTTPS),
        tls_certificate(0),
        retries(1),
        namespace("other", team="a"),
    )
    world = World.of([*(resources | {each.ref: each for each in (*more, *visitor)}).values()], WHOLE)
    assert world.failures() == {}
    return world


class Cost(Struct):
    """Runs by query, the steps that they took, what was put as ``(type, name)`` with its bytes, what is gone.

    A step is a run, or a look at what turned out as it was: also looks are not of the number of routes.
    """

    runs: dict[str, int]
    steps: int
    put: dict[tuple[str, str], int]
    gone: set[tuple[str, str]]
    statuses: set[Ref]


def cost(world: World, *edits: Resource | Ref) -> Cost:
    """What some edits cost; a Ref deletes."""
    world.apply({e if isinstance(e, Ref) else e.ref: None if isinstance(e, Ref) else e for e in edits})
    with world.ran() as ran:
        steps = sum(1 for _ in chain(world.settle(urgent=True), world.settle()))
    changes: Changes = world.take()
    put = {(short(r.type_url), r.name): len(r.body) for r in changes.put.get("default/eg", ())}
    gone = {(short(type_url), name) for type_url, name in changes.gone.get("default/eg", ())}
    return Cost(ran.counts(), steps, put, gone, set(changes.statuses))


def work(world: World, *edits: Resource | Ref) -> int:
    """How many lines of Python some edits run. Runs do not tell over how much a function walks."""
    return lines_of(lambda: cost(world, *edits))


def lines_of(run: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def assert_alike(costs: list[Cost]) -> None:
    """That a change costs the same, however many routes there are."""
    assert (costs[0].runs, costs[0].steps) == (costs[1].runs, costs[1].steps)


def short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


@pytest.fixture(scope="module")
def many() -> World:
    """500 routes. Tests leave it as they found it, but for values that they set in each edit."""
    return built(500)


@pytest.fixture(scope="module")
def some() -> World:
    """200 routes: to show that a cost is not of their number."""
    return built(200)


def newcomer(world: World) -> tuple[Resource, Resource, Resource]:
    """A new route with its backend, in shards that have routes already, as nearly all have among many."""
    routes, hostnames = parts(world.db, ROUTES, EG), parts(world.db, HOSTNAMES, EG)
    made = map(route, count(5_000))
    fitting = (
        each
        for each in made
        if shard(str(each.ref)) in routes and {shard(host) for host in each.hostnames} <= {*hostnames}
    )
    n = int(next(fitting).metadata.name.removeprefix("r"))
    return route(n), service(n), endpoint_slice(n)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SCOPED, ON_HOST], ids=["every table", "large ones"])
def test_no_change_of_a_scoped_table_walks_over_all_routes(config: EnvoyGateway) -> None:
    """A route costs a look at the others of its shard, and at the shards, of which there are hundreds."""

    def works(routes: int) -> dict[str, int]:
        world = World.of(routes_with_services(routes), config)
        LargeTables(world).start(EG_FLEET)
        world.pull()
        new = newcomer(world)
        cost(world, *new)
        cost(world, *(each.ref for each in new))  # what is done for the first time fills caches
        return {
            "new": work(world, *new),
            "changed": work(world, route(7, "/edited")),
            "moved": work(world, endpoint_slice(7, 99)),
            "gone": work(world, *(each.ref for each in new)),
        }

    few, many = works(500), works(4000)

    assert {change: many[change] for change in few if many[change] > 1.25 * few[change]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 1000])
def test_the_first_table_of_many_routes_takes_no_long_step(hosts: int) -> None:
    """Else the event loop would stand still for as long as a table takes."""
    named = [
        structs.replace(each, spec=structs.replace(each.spec, hostnames=(f"r{n % hosts}.example.com",)))
        if isinstance(each, HTTPRoute)
        else each
        for n, each in enumerate(routes_with_services(1000))
    ]
    world = World(WHOLE)
    world.apply({each.ref: each for each in named})

    runs, before = [0], 0
    for _ in world.settle():
        runs.append(world.db.counts.total() - before)
        before = world.db.counts.total()

    assert world.resource(EG_FLEET, ROUTE, "default/eg/http") is not None
    assert max(runs) <= STEP


def test_a_listener_costs_no_look_at_the_routes_of_others() -> None:
    """With a query for each listener and route, 20,000 routes on 1,000 listeners would take minutes."""

    def translated(listeners: int) -> World:
        named = [http_listener(f"l{n}", hostname=f"h{n}.example.com") for n in range(listeners)]
        return World.of([*{each.ref: each for each in (*routes_with_services(40), gateway(*named))}.values()])

    few, many = translated(40), translated(80)

    assert many.statuses().keys() == few.statuses().keys()
    assert few.db.counts["filters_of"] == many.db.counts["filters_of"] == 40
    assert many.db.counts.total() - few.db.counts.total() <= 40 * 7
    with many.ran() as ran:
        many.apply({route(7).ref: route(7, "/edited")})
        many.pull()
    assert max(ran.counts().values()) == 2, "for the former path and the new one"


def test_editing_a_match_rebuilds_that_route_and_joins(many: World, some: World) -> None:
    """One route is encoded; its virtual host, shard and table are joined; nothing else is touched."""
    costs = [cost(world, route(7, "/edited")) for world in (many, some)]

    assert_alike(costs)
    assert costs[0].runs == {
        **one("attachments_at", "rule_destination", "route_resources", "route_entries_of"),
        **one("route_status", "excessive_rules"),
        **one("host_entries", "virtual_host", "host_part", "table_parts", "route_configuration"),
        **one("filters_of", "overlapped_by"),
        "overlaps": 2,  # with the former path, and with the new one
    }  # fmt: skip
    assert costs[0].put.keys() == {("RouteConfiguration", "default/eg/http")}
    assert (costs[0].gone, costs[0].statuses) == (set(), set())


def test_a_route_of_calls_costs_what_one_of_requests_does() -> None:
    """And a look whether it counts as attached. Neither the first nor the last of them touches a listener."""
    many, some = (World.of(grpc_routes_with_services(count), WHOLE) for count in (200, 80))

    costs = [cost(world, grpc_route(7, "shop.Edited")) for world in (many, some)]

    assert_alike(costs)
    assert costs[0].runs == {
        **one("attachments_at", "rule_destination", "route_resources", "route_entries_of"),
        **one("route_status", "excessive_rules", "refused_whole"),
        **one("host_entries", "virtual_host", "host_part", "table_parts", "route_configuration"),
        **one("filters_of", "overlapped_by"),
        "overlaps": 2,  # with the former path, and with the new one
    }  # fmt: skip
    assert costs[0].put.keys() == {("RouteConfiguration", "default/eg/http")}
    assert (costs[0].gone, costs[0].statuses) == (set(), set())
    assert "listener" not in cost(some, *(grpc_route(n).ref for n in range(80))).runs


def test_one_of_many_routes_of_a_hostname_costs_no_more_than_one_of_few() -> None:
    """Thousands may share a hostname: only the shard of the edited one is put in order again."""

    def shared(n: int, path: str) -> HTTPRoute:
        made = route(n, path)
        return structs.replace(made, spec=structs.replace(made.spec, hostnames=("one.example.com",)))

    worlds_ = [
        World.of([gateway_class(), gateway(), *(shared(n, f"/{n}") for n in range(count))])
        for count in (50, 500)
    ]

    costs = [cost(world, shared(7, "/edited")) for world in worlds_]

    assert costs[0].runs == costs[1].runs
    assert (costs[0].runs["route_entries_of"], costs[0].runs["host_entries"]) == (1, 1)


def test_adding_a_route_costs_that_route(many: World, some: World) -> None:
    """It and its cluster are built, and the shards that it falls into are joined again."""
    new = newcomer(some)
    costs = [cost(world, *new) for world in (many, some)]
    for world in (many, some):
        cost(world, *(each.ref for each in new))

    assert_alike(costs)
    built_once = {
        "rule_destination",
        "route_entries_of",
        "cluster",
        "load_assignment",
        "route_configuration",
    }
    assert {name: costs[0].runs[name] for name in built_once} == one(*built_once)
    assert max(costs[0].runs.values()) == 2, "at most once on each listener"
    cluster = f"service/default/{new[1].ref.name}/8080/http"
    assert costs[0].put.keys() == {
        ("RouteConfiguration", "default/eg/http"),
        ("Cluster", cluster),
        ("ClusterLoadAssignment", cluster),
    }
    assert costs[0].statuses == {new[0].ref, EG}


def test_deleting_a_route_builds_nothing(many: World, some: World) -> None:
    """What is left is joined again; the cluster that nobody needs any more goes."""
    new = newcomer(some)
    for world in (many, some):
        cost(world, *new)
    costs = [cost(world, new[0].ref) for world in (many, some)]
    for world in (many, some):
        cost(world, *(each.ref for each in new))

    assert_alike(costs)
    assert {"cluster", "load_assignment", "listener"}.isdisjoint(costs[0].runs)
    assert max(costs[0].runs.values()) == 2, "at most once on each listener"
    assert costs[0].put.keys() == {("RouteConfiguration", "default/eg/http")}
    cluster = f"service/default/{new[1].ref.name}/8080/http"
    assert costs[0].gone == {("Cluster", cluster), ("ClusterLoadAssignment", cluster)}


def test_an_endpoint_rebuilds_one_load_assignment(many: World, some: World) -> None:
    """Pods come and go all day: no route, no cluster and no status has a part in it."""
    costs = [cost(world, endpoint_slice(7, 99)) for world in (many, some)]

    assert_alike(costs)
    assert costs[0].runs == one("endpoints", "has_endpoints", "backend", "load_assignment")
    ((key, size),) = costs[0].put.items()
    assert key == ("ClusterLoadAssignment", "service/default/s7/8080/http")
    assert size < 2_000
    assert (costs[0].gone, costs[0].statuses) == (set(), set())


def tracing(rate: int) -> Resource:
    backends = [{"name": "s0", "namespace": "default", "port": 8080}]
    traced = {"provider": {"backendRefs": backends}, "samplingRate": rate}
    return resource("EnvoyProxy", "default", "ep", {"spec": {"telemetry": {"tracing": traced}}})


def test_telemetry_costs_the_listeners_and_a_collector_its_endpoints() -> None:
    """A listener that is replaced drains, so what is no part of it must not replace it."""
    ep = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ep", "namespace": "default"}
    named = resource(
        "GatewayClass",
        "",
        "eg",
        {"spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller", "parametersRef": ep}},
    )
    rates: list[Cost] = []
    moves: list[Cost] = []
    for routes in (20, 60):
        world = built(routes)
        cost(world, named, tracing(1))
        rates.append(cost(world, tracing(2)))
        moves.append(cost(world, endpoint_slice(0, last_octet=9)))

    # Each route looks whether it is concerned, but none is built.
    assert rates[0].runs == rates[1].runs
    assert_alike(moves)
    assert rates[0].put.keys() == {("Listener", "default/eg/http"), ("Listener", "default/eg/https")}
    assert rates[0].gone == set()
    assert ("ClusterLoadAssignment", "tracing") in moves[0].put
    assert {kind for kind, _ in moves[0].put} == {"ClusterLoadAssignment"}


def test_an_endpoint_that_stays_as_it_is_costs_nothing(many: World) -> None:
    """Controllers touch EndpointSlices that did not change."""
    cost(many, endpoint_slice(8, 9))

    assert cost(many, endpoint_slice(8, 9)) == Cost({}, 0, {}, set(), set())


def test_relabelling_a_namespace_costs_its_routes(many: World, some: World) -> None:
    """Those that were let in by its labels, and nobody else's."""
    costs = [cost(world, namespace("other", team="b")) for world in (many, some)]
    for world in (many, some):
        cost(world, namespace("other", team="a"))

    assert_alike(costs)
    assert {name: costs[0].runs[name] for name in ("namespace_labels", "attachments_at")} == one(
        "namespace_labels", "attachments_at"
    )
    assert costs[0].put.keys() == {("RouteConfiguration", "default/eg/https")}
    assert costs[0].statuses == {Ref.of(HTTPRoute, "other", f"r{VISITOR}"), EG}


def test_a_label_that_nobody_selects_by_costs_one_look(many: World) -> None:
    counts = cost(many, namespace("other", team="a", colour="red"))
    cost(many, namespace("other", team="a"))

    assert counts.runs == one("namespace_labels", "attachments_at")
    assert counts.put == {}


def test_a_policy_of_the_gateway_is_judged_once_for_all_routes(many: World) -> None:
    """Each route carries its retries, so each is built again: once, and nothing but routes is sent."""
    counts = cost(many, retries(2))

    assert counts.runs["effective_policy"] == 1
    assert counts.runs["route_entries_of"] == 501
    assert {
        "policy_attachments",
        "attachments",
        "applied",
        "endpoints",
        "route_status",
        "listener",
    }.isdisjoint(counts.runs)
    assert counts.put.keys() == {
        ("RouteConfiguration", "default/eg/http"),
        ("RouteConfiguration", "default/eg/https"),
    }


def test_a_changed_route_costs_its_part_of_the_limits_that_the_service_is_told(
    many: World, some: World
) -> None:
    """Its own, its shard's, and the join of the domain; and nothing while no policy has such limits."""
    rules = [{"limit": {"requests": 7, "unit": "Hour"}}]
    limited = gateway_policy(rateLimit={"global": {"rules": rules}})
    before = [cost(world, route(7, "/before")) for world in (many, some)]
    for world in (many, some):
        cost(world, limited)
    match = [cost(world, route(7, "/after")) for world in (many, some)]
    edited = route(7, "/after")
    two = [cost(world, structs.replace(edited, spec=with_rule(edited))) for world in (many, some)]
    for world in (many, some):
        cost(world, route(7), retries(1))

    queries = {"limits_of", "limits_in", "_domains_in", "_part_of", "_domains", "rate_limit_config"}
    assert all(queries.isdisjoint(each.runs) for each in before)
    # The name of its Envoy route is the same, so the service is told the same.
    assert {name: runs for name, runs in match[0].runs.items() if name in queries} == one("limits_of")
    assert match[0].runs == match[1].runs
    assert {name: runs for name, runs in two[0].runs.items() if name in queries} == one(
        "limits_of", "limits_in", "_domains_in", "_part_of", "rate_limit_config"
    )


def test_another_rate_limit_joins_no_table(many: World) -> None:
    """Its number is for the rate limit service alone."""

    def limited(requests: int) -> Resource:
        rules = [{"limit": {"requests": requests, "unit": "Hour"}}]
        return gateway_policy(rateLimit={"global": {"rules": rules}})

    cost(many, limited(7))
    change = cost(many, limited(8))
    cost(many, retries(1))

    assert change.put == {}
    assert {"virtual_host", "host_part", "scope"}.isdisjoint(change.runs)


def with_rule(edited: HTTPRoute) -> HTTPRouteSpec:
    """The spec of a route with its first rule once more."""
    return structs.replace(edited.spec, rules=(*edited.spec.rules, edited.spec.rules[0]))


def test_a_large_page_is_prepared_once_for_all_routes(many: World) -> None:
    """In the chain, and for connections that were opened before the chain had it."""
    page = {"match": {"statusCodes": [{"value": 404}]}, "response": {"body": {"inline": "x" * 5_000}}}
    change = cost(many, gateway_policy(responseOverride=[page]))
    cost(many, retries(1))

    assert change.runs["route_entries_of"] == 501
    assert (change.runs["_large_of"], change.runs["_spared_of"]) == (1, 1)


def test_a_first_policy_that_says_nothing_of_clusters_builds_none(many: World) -> None:
    """Nor does its end: thousands of clusters share what the policies of their Gateway say."""
    for change in (cost(many, retries(1).ref), cost(many, retries(1))):
        assert change.runs["route_entries_of"] == 501
        assert {"cluster", "load_assignment", "endpoints"}.isdisjoint(change.runs)


def test_a_stream_is_handed_thousands_of_routes_at_once_for_little_each() -> None:
    """It is one edit, so nothing else runs meanwhile; endpoints wait for it."""
    snapshot = Snapshot()
    scopes = [names.scope("default/eg/http", f"{n}.example.com") for n in range(200)]
    collection = names.scopes("default/eg/http")
    snapshot.apply([XdsResource.of(SCOPE, name, b"1") for name in scopes], ())
    session = Session("eg", "node", snapshot)
    session.receive(DeltaDiscoveryRequest(type_url=SCOPE, resource_names_subscribe=[collection]), 0)

    lines = [
        lines_of(lambda news=news: session.touch(snapshot.apply(news, ())))
        for news in (
            [XdsResource.of(SCOPE, name, b"%d" % many) for name in scopes[:many]] for many in (100, 200)
        )
    ]

    assert lines[1] - lines[0] < 40 * 100


def test_to_log_that_a_policy_is_gone_costs_no_look_at_routes(many: World, some: World) -> None:
    """Nothing refers to a policy. Else the event loop would stand still for a look at each of them."""
    gone: dict[Ref, Resource | None] = {retries(1).ref: None}
    logs = [RunLog(world.store.resources()) for world in (many, some)]

    for log in logs:
        _ = [*log.loaded((), {}, files=1, resources=1)]  # the first time, it looks at all
    lines = [lines_of(lambda log=log: [*log.loaded((), gone, files=1, resources=1)]) for log in logs]

    assert lines[0] == lines[1]


def test_to_log_that_a_route_is_gone_looks_at_others_one_by_one(many: World, some: World) -> None:
    """Anything may have referred to it: that is looked for in steps, and endpoints go between them."""
    gone: dict[Ref, Resource | None] = {Ref.of(HTTPRoute, "default", "gone"): None}
    logs = [RunLog(world.store.resources()) for world in (many, some)]

    for log in logs:
        _ = [*log.loaded((), {}, files=1, resources=1)]
    lines = [lines_of(lambda log=log: [*log.loaded((), gone, files=1, resources=1)]) for log in logs]
    steps = [len([*log.search()]) for log in logs]

    assert lines[0] == lines[1]
    assert steps == [len(world.store.resources()) for world in (many, some)]


async def test_to_log_what_was_loaded_leaves_what_it_puts_in_doubt_to_the_pump(tmp_path: Path) -> None:
    """The pump marks that in slices, and endpoints go between them."""
    gateway = Laptop()
    gateway.put({each.ref: each for each in (*routes_with_services(20), retries(1))})
    gateway.world.pull()
    target = f"{{group: {GATEWAY_GROUP}, kind: Gateway, name: {EG.name}}}"
    (tmp_path / "policy.yaml").write_text(
        "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: retries}, "
        f"spec: {{targetRefs: [{target}], retry: {{numRetries: 2}}}}}}"
    )

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(gateway.follow(Files([tmp_path])))
        await gateway.loaded.wait()
        following.cancel()

    assert not gateway.world.db.propagated


def test_a_setting_of_clusters_disturbs_no_route(many: World) -> None:
    """What a policy says of clusters is no part of what routes are built from, nor of where they lead."""
    cost(many, retries(1))
    more = cost(many, gateway_policy(retry={"numRetries": 1}, circuitBreaker={"maxConnections": 7}))
    less = cost(many, retries(1))

    for change in (more, less):
        assert {type_ for type_, _ in change.put} == {"Cluster"}
        assert {"route_entries_of", "rule_destination", "filters_of"}.isdisjoint(change.runs)


@pytest.mark.parametrize(
    "spec",
    [
        {"headers": {"lateResponseHeaders": {"remove": ["server"]}, "requestID": "Disable"}},
        {"grpc": {"enableWeb": True}},
        {"healthCheck": {"path": "/healthz"}, "scheme": "MatchBackend"},
        {"proxyProtocol": {}, "tcpKeepalive": {"probes": 3}},
        {"http2": {"maxConcurrentStreams": 7}},
    ],
    ids=["headers", "grpc", "health", "connections", "http2"],
)
def test_a_policy_of_a_listener_costs_this_listener(many: World, spec: dict[str, Any]) -> None:
    """No route is built again, and no other chain."""
    target = {"group": GATEWAY_GROUP, "kind": EG.kind, "name": EG.name, "sectionName": "http"}
    clients = resource(
        "ClientTrafficPolicy", "default", "clients", {"spec": {"targetRefs": [target], **spec}}
    )

    for change in (cost(many, clients), cost(many, clients.ref)):
        assert change.put.keys() == {("Listener", "default/eg/http")}
        assert {"route_entries_of", "rule_destination", "filters_of", "cluster"}.isdisjoint(change.runs)


def test_a_setting_of_http1_costs_the_clusters_of_its_routes_and_no_route(many: World) -> None:
    """Those of the Gateway: with one of its own, a listener has clusters of its own."""
    target = {"group": GATEWAY_GROUP, "kind": EG.kind, "name": EG.name}
    spec = {"targetRefs": [target], "http1": {"enableTrailers": True}}
    clients = resource("ClientTrafficPolicy", "default", "clients", {"spec": spec})

    for change in (cost(many, clients), cost(many, clients.ref)):
        assert {type_ for type_, _ in change.put} == {"Listener", "Cluster"}
        assert {"route_entries_of", "filters_of"}.isdisjoint(change.runs)


def test_a_rotated_certificate_is_sent_alone(many: World, some: World) -> None:
    """The listener names it and does not hold it, so that connections live on."""
    costs = [cost(world, tls_certificate(1)) for world in (many, some)]

    # Each route looks whether its listener still works; in runs, that costs nothing.
    assert costs[0].runs == costs[1].runs == one("certificate", "secret")
    assert costs[0].put.keys() == {("Secret", "default/cert")}


def test_a_policy_of_one_backend_changes_its_cluster_and_nothing_of_others(many: World, some: World) -> None:
    """And the CAs that it names change one secret, however many routes there are."""
    costs = [cost(world, backend_tls(7), authorities(0)) for world in (many, some)]
    rotated = [cost(world, authorities(1)) for world in (many, some)]
    gone = [cost(world, backend_tls(7).ref, authorities(1).ref) for world in (many, some)]

    assert costs[0].runs == costs[1].runs
    shared = "service/default/s7/8080/http"
    (assignment,) = (name for of, name in costs[0].put if of == "ClusterLoadAssignment")
    assert assignment.startswith(f"{shared}/tls/")
    assert costs[0].put.keys() == {
        ("Cluster", shared),
        ("ClusterLoadAssignment", assignment),
        ("Secret", "tls/default-ca"),
    }
    assert costs[0].gone == {("ClusterLoadAssignment", shared)}
    assert costs[0].statuses == {backend_tls(7).ref}
    assert (
        rotated[0].runs
        == rotated[1].runs
        == one("authorities", "authorities_problem", "_authorities_server", "authorities_secret")
    )
    assert rotated[0].put.keys() == {("Secret", "tls/default-ca")}
    assert gone[0].gone == {("ClusterLoadAssignment", assignment), ("Secret", "tls/default-ca")}


def test_a_credential_changes_the_cluster_of_its_rule_and_a_rotated_one_nothing_but_itself(
    many: World, some: World
) -> None:
    """No listener either, whose connections live on."""
    filter_ = resource(
        "HTTPRouteFilter",
        "default",
        "token",
        {"spec": {"credentialInjection": {"credential": {"valueRef": {"name": "token"}}}}},
    )
    named = {"group": ENVOY_GROUP, "kind": filter_.KIND, "name": "token"}
    injected = filtered({"type": "ExtensionRef", "extensionRef": named})
    costs = [cost(world, filter_, token("a"), injected) for world in (many, some)]
    rotated = [cost(world, token("b")) for world in (many, some)]
    broken = [cost(world, token("b\n")) for world in (many, some)]
    for world in (many, some):
        cost(world, filter_.ref, token("").ref, route(7))

    assert_alike(costs)
    cluster = next(name for type_, name in costs[0].put if type_ == "Cluster")
    assert costs[0].put.keys() == {
        ("Cluster", cluster),
        ("ClusterLoadAssignment", cluster),
        ("RouteConfiguration", "default/eg/http"),
        ("Secret", "credential_injector/credential/httproutefilter/default/token/default/token"),
    }
    assert rotated[0].runs == rotated[1].runs == one("route_filter", "policy_secret")
    assert rotated[0].put.keys() == {
        ("Secret", "credential_injector/credential/httproutefilter/default/token/default/token")
    }
    assert_alike(broken)
    assert {type_ for type_, _ in broken[0].put} == {"RouteConfiguration"}
    assert broken[0].statuses == {injected.ref}


def test_a_first_backend_whose_hosts_are_those_of_requests_changes_no_listener(
    many: World, some: World
) -> None:
    anywhere = resource("Backend", "default", "any", {"spec": {"type": "DynamicResolver"}})
    ref = {"group": ENVOY_GROUP, "kind": "Backend", "name": "any"}
    costs = [cost(world, anywhere, filtered(backend=ref)) for world in (many, some)]
    for world in (many, some):
        cost(world, anywhere.ref, route(7))

    assert_alike(costs)
    assert {type_ for type_, _ in costs[0].put} == {"Cluster", "RouteConfiguration"}


def filtered(*filters: dict[str, Any], backend: dict[str, Any] | None = None) -> Resource:
    """Route 7 with filters, or with another backend."""
    rule = {
        "filters": list(filters),
        "backendRefs": [backend or {"name": service(7).metadata.name, "port": 8080}],
    }
    hostnames = list(route(7).hostnames)
    spec = {"parentRefs": [{"name": EG.name}], "hostnames": hostnames, "rules": [rule]}
    return resource("HTTPRoute", "default", "r7", {"spec": spec})


def token(value: str) -> Resource:
    return resource("Secret", "default", "token", {"data": {"credential": value.encode()}})


def test_other_authorities_of_clients_cost_their_secret_and_their_chain(many: World, some: World) -> None:
    """The chain, so that connections which were checked by the former ones drain."""
    asked = gateway(http_listener("http"), HTTPS)
    assert isinstance(asked, Gateway)
    ca = (ObjectReference(group="", kind="ConfigMap", name="ca"),)
    frontend = FrontendTLSConfig(default=TLSConfig(validation=FrontendTLSValidation(ca_certificate_refs=ca)))
    spec = structs.replace(asked.spec, tls=GatewayTLSConfig(frontend=frontend))
    guarded = structs.replace(asked, spec=spec)
    for world in (many, some):
        cost(world, guarded, authorities(0))

    costs = [cost(world, authorities(1)) for world in (many, some)]
    for world in (many, some):
        cost(world, asked, authorities(1).ref)

    assert costs[0].runs == costs[1].runs
    assert costs[0].runs == one(
        "client_authorities",
        "client_authorities_problem",
        "client_authorities_server",
        "client_authorities_contents",
        "client_authorities_secret",
        "https_settings",
        "chain_part",
        "listener",
    )
    assert costs[0].put.keys() == {
        ("Secret", "gateway/default/eg/default/ca.crt"),
        ("Listener", "default/eg/https"),
    }
    assert costs[0].statuses == set()


def backend_tls(n: int) -> Resource:
    """TLS to the backend of one route."""
    checks = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}], "hostname": "x.io"}
    target = {"group": "", "kind": "Service", "name": service(n).metadata.name}
    spec = {"targetRefs": [target], "validation": checks}
    return resource("BackendTLSPolicy", "default", "tls", {"spec": spec})


def authorities(n: int) -> Resource:
    pem = certificate(KEYS[n], common_name="ca").decode()
    return resource("ConfigMap", "default", "ca", {"data": {"ca.crt": pem}})


def gateway_policy(**spec: Any) -> Resource:
    """Another policy on the Gateway: nothing that is built is left as it was."""
    target = {"group": GATEWAY_GROUP, "kind": EG.kind, "name": EG.name}
    return resource("BackendTrafficPolicy", "default", "retries", {"spec": {"targetRefs": [target], **spec}})


@pytest.mark.parametrize("settled", [0, 1, 50, 500])
@pytest.mark.parametrize(
    "spec",
    [{"retry": {"numRetries": 7}}, {"circuitBreaker": {"maxConnections": 7}}, {"routingType": "Service"}],
    ids=["routes", "clusters", "endpoints"],
)
def test_endpoints_wait_for_no_recomputation(
    many: World, some: World, spec: dict[str, Any], settled: int
) -> None:
    """However much else is in doubt, and however far that has come: found, run and handed out at once."""
    for world in (many, some):
        world.apply({(policy := gateway_policy(**spec)).ref: policy})
        others = world.settle()
        list(islice(others, settled))
        world.take(urgent=True)
        with world.ran() as ran:
            world.apply({(moved := endpoint_slice(7, 100 + settled % 99)).ref: moved})
            steps = sum(1 for _ in world.settle(urgent=True))
        ((sent,),) = world.take(urgent=True).put.values()
        assert (short(sent.type_url), sent.name) == (
            "ClusterLoadAssignment",
            "service/default/s7/8080/http",
        )
        assert not world.settled
        cost(world, retries(1), endpoint_slice(7))

        assert ran.counts().keys() >= {"endpoints", "load_assignment"}
        assert max(ran.counts().values()) <= 2, "to be sent to endpoints, and to be sent to cluster IPs"
        assert steps <= 10


def small_gateway(n: int) -> list[Resource]:
    """A Gateway with one route to one Service with one endpoint."""
    own = renamed(gateway(), f"g{n}")
    attached = route(n)
    parents = (structs.replace(attached.spec.parent_refs[0], name=f"g{n}"),)
    attached = structs.replace(attached, spec=structs.replace(attached.spec, parent_refs=parents))
    return [own, attached, service(n), endpoint_slice(n)]


def test_a_gateway_with_one_route_is_small() -> None:
    """Shards are there for those with thousands, and exist only where there are routes."""
    world = World.of([gateway_class(), *small_gateway(0)])
    nodes, ran = len(world.db), world.db.counts.copy()

    new = cost(world, *small_gateway(1))

    assert len(world.db) - nodes <= 104
    assert sum(new.runs.values()) <= 84
    assert max(new.runs.values()) <= max(ran.values())


def of_sets(sets: int) -> World:
    """A Gateway with ListenerSets of one listener, each with a hostname, a route and a backend of its own."""
    resources = (each for n in range(sets) for each in with_route(n))
    return World.of([gateway_class(), shared_gateway(), *resources], WHOLE)


def with_route(n: int) -> tuple[Resource, ...]:
    return listener_set(n), of_set(route(n), n), service(n), endpoint_slice(n)


@pytest.fixture(scope="module")
def sets() -> World:
    return of_sets(MANY_SETS)


MANY_SETS = 1_000


def test_a_route_of_a_listener_set_costs_the_same_however_many_sets_there_are(sets: World) -> None:
    few = of_sets(2)

    assert_alike([cost(world, of_set(route(1, "/edited"), 1)) for world in (few, sets)])


def test_labels_of_a_listener_set_concern_itself_alone(sets: World) -> None:
    edited = cost(sets, listener_set(1, team="a"))

    assert sum(edited.runs.values()) <= 5
    assert (edited.put, edited.statuses) == ({}, set())


def test_of_a_thousand_listener_sets_each_takes_a_look_when_one_comes_and_nothing_is_built_again(
    sets: World,
) -> None:
    more = with_route(MANY_SETS)

    come = cost(sets, *more)
    gone = cost(sets, *(each.ref for each in more))

    for edit in (come, gone):
        assert sum(edit.runs.values()) <= 11 * MANY_SETS
        built = ("judged_alone", "listeners", "attachments_at", "route_resources", "route_entries_of")
        assert {name: edit.runs.get(name, 0) for name in built if edit.runs.get(name, 0) > 1} == {}
        assert len(edit.put) <= 3
        # The ones of the Gateway, the set, and its route.
        assert len(edit.statuses) <= 3


def test_a_set_more_that_asks_for_a_taken_place_costs_no_walk_over_the_others_for_each_of_them() -> None:
    """Each of them looks for the conflicts that are its own."""

    def walked(sets: int) -> int:
        same = http_listener("web", hostname="same.example.com")
        asking = (listener_set(n, same) for n in range(sets))
        world = World.of([gateway_class(), shared_gateway(), *asking], WHOLE)
        return work(world, listener_set(sets, same))

    few, many = walked(100), walked(800)

    assert many <= 8 * few


def test_sets_of_two_gateways_with_the_same_ports_of_a_machine_look_them_up() -> None:
    """The older Gateway has them all; no listener of the younger walks over its listeners."""

    def walked(sets: int) -> int:
        other = renamed(shared_gateway(http_listener("own", port=1_999)), "other")
        parent = ParentGatewayReference(name="other", namespace=EG.namespace)
        asking = [listener_set(n, http_listener("web", port=2_000 + n)) for n in range(sets)]
        rivals = (
            structs.replace(renamed(each, f"o{n}"), spec=structs.replace(each.spec, parent_ref=parent))
            for n, each in enumerate(asking)
        )
        world = World.of([gateway_class(), shared_gateway(), other, *asking, *rivals], ON_HOST)
        return work(world, listener_set(sets, http_listener("web", port=2_000 + sets)))

    few, many = walked(40), walked(320)

    assert many <= 8 * few


def test_a_listener_set_beside_many_routes_of_a_gateway_builds_none_of_them() -> None:
    """The first one that shares a port lets all routes there look for hostnames that are its own."""
    resources = {each.ref: each for each in (*routes_with_services(100), shared_gateway())}
    world = World.of([gateway_class(), *resources.values()], WHOLE)

    first = cost(world, listener_set(200))
    second = cost(world, listener_set(201))

    assert first.runs["attachments_at"] == 100
    assert second.runs.get("attachments_at", 0) == 0
    for edit in (first, second):
        assert edit.runs.get("route_entries_of", 0) == edit.runs.get("route_resources", 0) == 0


def test_a_first_route_of_a_shard_costs_what_another_does_and_a_few_looks() -> None:
    few, one_more = World.of(routes_with_services(2)), (route(2), service(2), endpoint_slice(2))
    assert shard(str(route(2).ref)) not in route_shards(few.db, EG)

    assert sum(cost(few, *one_more).runs.values()) <= 40


@pytest.mark.parametrize("namespaces", [{}, {"from": "Same"}])
def test_a_policy_with_selectors_disturbs_no_namespace_that_it_cannot_reach(
    many: World, namespaces: dict[str, str]
) -> None:
    """Who may edit policies in a namespace of their own must not make thousands of routes be judged anew."""
    selector = {"kind": "HTTPRoute", "matchLabels": {"no": "such"}}
    if namespaces:
        selector["namespaces"] = namespaces
    spec = {"targetSelectors": [selector], "retry": {"numRetries": 1}}
    policy = resource("BackendTrafficPolicy", "empty", "selective", {"spec": spec})

    for edit in (policy, policy.ref):
        runs = cost(many, edit).runs

        assert "policy_attachments" not in runs
        assert sum(runs.values()) < 10


def test_nothing_is_kept_of_what_came_and_went(many: World) -> None:
    new: Any = (route(5_002), service(5_002), endpoint_slice(5_002))
    before = len(many.db)

    cost(many, *new)
    cost(many, *(each.ref for each in new))

    assert len(many.db) == before


def one(*names: str) -> dict[str, int]:
    """Each of these queries runs once."""
    return dict.fromkeys(names, 1)


# -- routes of connections ----------------------------------------------------


@pytest.fixture(scope="module")
def tls_worlds() -> list[World]:
    """500 and 200 TLSRoutes on one listener."""
    return [World.of(tls_routes_with_services(routes), WHOLE) for routes in (500, 200)]


def test_another_backend_of_a_tls_route_changes_no_listener(tls_worlds: list[World]) -> None:
    """Envoy would close the open connections of a chain that changes."""
    costs = [cost(world, tls_route(7, to=8)) for world in tls_worlds]

    assert_alike(costs)
    assert costs[0].runs == {
        **one("attachments_at", "age", "route_resources", "route_status"),
        **one("connection_chain", "refuses_connections"),
        **one("served_on", "connection_destination", "_rule_name", "cluster", "load_assignment"),
        **one("goes_to_server_names"),
    }
    assert set(costs[0].put) == {("ClusterLoadAssignment", "tlsroute/default/t7/rule/-1")}


def test_another_hostname_of_a_tls_route_rebuilds_its_chain_alone(tls_worlds: list[World]) -> None:
    costs = [cost(world, tls_route(9, "other.example.com")) for world in tls_worlds]

    assert_alike(costs)
    assert costs[0].runs == {
        **one("attachments_at", "age", "route_resources", "route_status"),
        "route_of": 2,  # of the former hostname, and of the new one
        **one("own_hosts", "connections_in", "connection_chain", "refuses_connections"),
        **one("chains_in", "connection_part", "listener"),
        **one("served_on", "connection_destination", "_rule_name"),
        **one("attached_in"),
    }
    assert set(costs[0].put) == {("Listener", "default/eg/tls")}


def test_a_new_tls_route_builds_one_chain_and_one_cluster(tls_worlds: list[World]) -> None:
    costs = [cost(world, tls_route(7_000), service(7_000), endpoint_slice(7_000)) for world in tls_worlds]

    assert_alike(costs)
    assert costs[0].runs == {
        **one("attachments_at", "age", "route_resources", "resource_keys", "route_status"),
        **one("route_of", "own_hosts", "connections_in", "_shards_of"),
        **one(
            "connection_chain",
            "refuses_connections",
            "policy_attachments",
            "connection_policies",
        ),
        **one("chains_in", "connection_part", "listener"),
        **one("connection_source"),
        **one("served_on", "connection_destination", "_rule_name", "cluster", "load_assignment"),
        **one("goes_to_server_names"),
        **one("backend", "endpoints", "has_endpoints"),
        **one("attached_in", "attached_counts", "gateway_status"),
    }
    assert {name for _, name in costs[0].put} == {"default/eg/tls", "tlsroute/default/t7000/rule/-1"}


def test_an_endpoint_of_a_tls_route_costs_its_assignment(tls_worlds: list[World]) -> None:
    costs = [cost(world, endpoint_slice(11, 99)) for world in tls_worlds]

    assert_alike(costs)
    assert costs[0].runs == one("backend", "endpoints", "has_endpoints", "load_assignment")
    assert set(costs[0].put) == {("ClusterLoadAssignment", "tlsroute/default/t11/rule/-1")}


def test_a_tcp_route_costs_no_look_at_other_listeners() -> None:
    worlds = [World.of(tcp_routes_with_services(routes), WHOLE) for routes in (60, 30)]

    costs = [cost(world, tcp_route(7, to=8)) for world in worlds]

    assert costs[0].runs == costs[1].runs
    assert worlds[0].db.counts["chains_in"] == 60
    assert set(costs[0].put) == {("ClusterLoadAssignment", "tcproute/default/c7/rule/-1")}


def test_a_join_over_many_listeners_starts_anew_for_none_of_them() -> None:
    """It would look at all before it once more, each time."""
    starts = 0

    def count_starts(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal starts
        starts += event == "call" and frame.f_code.co_qualname == "empty_clusters"

    before = sys.getprofile()
    sys.setprofile(count_starts)
    try:
        World.of(tcp_routes_with_services(60), WHOLE)
    finally:
        sys.setprofile(before)

    assert 0 < starts <= 3


def test_certificates_of_other_servers_cost_no_walk_over_them_for_each_listener() -> None:
    """Their names are not known, so each listener of the port looks for a hostname that they may cover."""
    config = structs.replace(WHOLE, extension_apis=ExtensionAPIs(enable_sds_secret_ref=True))
    data = {"secretName": b"served", "url": b"unix:///run/sds"}
    elsewhere = resource("Secret", "default", "sds", {"type": "gateway.envoyproxy.io/sds", "data": data})

    def walked(listeners: int) -> int:
        of = [("cert", f"h{n}.example.org") for n in range(listeners)]
        of += [("sds", f"s{n}.example.org") for n in range(listeners)]
        named = [
            structs.replace(
                HTTPS,
                name=f"l{n}",
                hostname=host,
                tls=ListenerTLSConfig(certificate_refs=(SecretObjectReference(name=certificate),)),
            )
            for n, (certificate, host) in enumerate(of)
        ]
        calls = 0

        def count_calls(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_globals["__name__"] == tls_overlaps.__name__

        before = sys.getprofile()
        sys.setprofile(count_calls)
        try:
            World.of([gateway_class(), gateway(*named), elsewhere, tls_certificate(0)], config)
        finally:
            sys.setprofile(before)
        return calls

    few, many = walked(20), walked(160)

    assert 20 < many <= 8.5 * few


def steps_of(steps: Iterator[Any]) -> list[int]:
    """How many lines of Python each step runs."""
    lines: list[int] = []
    left = True

    def step() -> None:
        nonlocal left
        left = next(steps, steps) is not steps

    while left:
        lines.append(lines_of(step))
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("removed", [False, True], ids=["added", "removed"])
def test_a_folder_of_files_is_committed_in_steps(removed: bool) -> None:
    """It is one edit, beside a policy that could lose requests by it; and the event loop runs between them.

    A step may pass over all that changes, but does not look into it.
    """
    policy = (
        "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: p}, spec: {"
        f"targetRefs: [{{group: {GATEWAY_GROUP}, kind: HTTPRoute, name: r0}}], "
        "basicAuth: {users: {name: u}}}}"
    )
    costs: list[list[int]] = []
    for many in (50, 100):
        folder = Folder(strict=True)
        files = {f"{n}.yaml": route_to(n) for n in range(1, many)}
        folder.update_many({"p.yaml": policy, "0.yaml": route_to(0), **(files if removed else {})})
        for path, text in files.items():
            for _ in folder.stage(path, None if removed else text):
                pass
        costs.append(steps_of(folder.committing(Unfinished())))

    more = sum(costs[1]) - sum(costs[0])
    assert more > 50 * 100
    assert max(costs[1]) - max(costs[0]) < more / 15


def route_to(n: int) -> str:
    """A route with a hostname and a backend of its own."""
    return (
        f"{{apiVersion: {GATEWAY_GROUP}/v1, kind: HTTPRoute, metadata: {{name: r{n}}}, spec: {{"
        f"parentRefs: [{{name: eg}}], hostnames: [r{n}.test], "
        f"rules: [{{backendRefs: [{{name: s{n}, port: 80}}]}}]}}}}"
    )


@pytest.mark.slow
def test_a_batch_is_written_in_steps() -> None:
    """None of them writes more than ``WRITTEN`` resources, whose readers it marks."""
    costs: list[list[int]] = []
    for many in (100, 200):
        world = World.of(routes_with_services(2))
        batch = {each.ref: each for each in routes_with_services(many)}
        costs.append(steps_of(world.applying(batch)))

    assert sum(costs[1]) - sum(costs[0]) > 100 * 200
    assert max(costs[1]) - max(costs[0]) < 100 * 20
