"""Where the connections of a route go."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from moongate.xds.cluster_keys import RuleCluster
from moongate.xds.clusters import cluster, load_assignment
from moongate.xds.connection_destinations import ConnectionDestination, connection_destination
from moongate.xds.needed_resources import route_resources
from tests.attach.test_backend_tls import tls_policy
from tests.connections import connection_ref, connection_route, listener_id, raw, tls
from tests.core import EG_FLEET, ON_HOST, Core, extension, gateway
from tests.routes import SHOP, endpoints, service

GONE = "{name: gone, port: 80}"
EMPTIED = "{name: empty, port: 80}"
EMPTY = service("empty", "")


def connected(*backends: str, kind: str = "TCPRoute", more: tuple[str, ...] = ()) -> ConnectionDestination:
    """Where the connections of route ``shop`` go from listener ``raw``."""
    protocol = "UDP" if kind == "UDPRoute" else "TCP"
    manifests = gateway(raw("raw", protocol)), service(), EMPTY, *more, connection_route(kind, *backends)
    core = Core(*manifests, config=ON_HOST)
    return connection_destination(core.db, listener_id("raw"), connection_ref(kind))


def test_the_backends_of_a_route_of_connections_share_its_cluster() -> None:
    destination = connected("{name: shop, port: 80, weight: 3}", "{name: shop, port: 80, weight: 0}")

    assert [(n, at.name, weight) for n, at, weight in destination.members] == [(0, "shop", 3)]
    assert destination.unresolved == ()


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (GONE, "BackendNotFound"),
        ("{name: shop, port: 9}", "PortNotFound"),
        ("{name: shop, port: 80, namespace: other}", "RefNotPermitted"),
        ("{name: shop, port: 80, group: apps, kind: Deployment}", "InvalidKind"),
        ("{name: names, group: gateway.envoyproxy.io, kind: Backend}", "UnsupportedAddressType"),
    ],
)
def test_a_backend_that_cannot_be_used_leaves_its_share_to_the_others(backend: str, reason: str) -> None:
    names = extension("Backend", "names", "endpoints: [{fqdn: {hostname: up.example.com, port: 80}}]")
    destination = connected(SHOP, backend, more=(names,))

    assert [n for n, _, _ in destination.members] == [0]
    [problem] = destination.unresolved
    assert (problem.path, problem.reason) == ("spec.rules[0].backendRefs[1]", reason)
    assert problem.message.endswith("All connections go to the other backends.")


def test_a_backend_without_endpoints_has_its_place_among_those_of_connections() -> None:
    """So that the cluster is the same when endpoints come."""
    destination = connected(EMPTIED, SHOP)

    assert [at.name for _, at, _ in destination.members] == ["empty", "shop"]
    [problem] = destination.unresolved
    assert (problem.path, problem.reason) == ("spec.rules[0].backendRefs[0]", "EndpointsNotFound")
    assert problem.message.endswith("All connections go to the other backends.")
    assert "connections are closed" in connected(EMPTIED).unresolved[0].message


@pytest.mark.parametrize("type_", ["IPv4", "FQDN"])
@pytest.mark.parametrize("secured", ["shop", "other"])
def test_endpoints_that_go_change_no_cluster_of_connections_and_no_name_of_endpoints(
    secured: str, type_: str
) -> None:
    """Envoy would replace the cluster, and wait for the endpoints of the other name."""
    checks = "{wellKnownCACertificates: System, hostname: a.io}"
    core = Core(
        gateway(raw("raw", "TCP")),
        *(service("shop"), service("other", "10.0.0.2")),
        tls_policy("policy", checks, f"Service/{secured}"),
        connection_route("TCPRoute", SHOP, "{name: other, port: 80}"),
        config=ON_HOST,
    )
    [key] = route_resources(core.db, EG_FLEET, connection_ref("TCPRoute"))[:1]
    assert isinstance(key, RuleCluster)
    before, endpoints_before = cluster(core.db, key), load_assignment(core.db, key)

    core.apply(endpoints("shop").replace("IPv4", type_))

    after = load_assignment(core.db, key)
    assert cluster(core.db, key) == before
    assert endpoints_before is not None
    assert after is not None
    assert after.name == endpoints_before.name
    shares = ClusterLoadAssignment.FromString(after.body).endpoints
    assert [share.locality.region for share in shares] == ["tcproute/default/shop/rule/-1/backend/1"]


def test_a_backend_without_endpoints_makes_no_addresses_of_the_names_of_another() -> None:
    """Envoy would refuse them."""
    names = extension("Backend", "names", "endpoints: [{fqdn: {hostname: up.example.com, port: 80}}]")
    core = Core(
        gateway(raw("raw", "TCP")),
        *(EMPTY, names),
        connection_route("TCPRoute", EMPTIED, "{name: names, group: gateway.envoyproxy.io, kind: Backend}"),
        config=ON_HOST,
    )
    [key] = route_resources(core.db, EG_FLEET, connection_ref("TCPRoute"))
    assert isinstance(key, RuleCluster)

    resource = cluster(core.db, key)
    assert resource is not None
    [locality] = Cluster.FromString(resource.body).load_assignment.endpoints
    assert locality.lb_endpoints[0].endpoint.address.socket_address.address == "up.example.com"
    assert load_assignment(core.db, key) is None


def test_a_route_of_connections_without_a_usable_backend_says_that_they_are_closed() -> None:
    destination = connected(GONE)

    assert destination.members == ()
    assert "connections are closed" in destination.unresolved[0].message


def test_datagrams_go_to_a_port_of_udp() -> None:
    """A Service may have the same number for TCP."""
    destination = connected("{name: shop, port: 80}", kind="UDPRoute")

    assert [problem.reason for problem in destination.unresolved] == ["PortNotFound"]
    assert "no UDP port 80" in destination.unresolved[0].message


def test_all_rules_of_a_tls_route_share_a_cluster() -> None:
    rules = [{"backendRefs": [{"name": "shop", "port": 80, "weight": n}]} for n in (1, 2)]
    core = Core(gateway(tls("tls")), service(), connection_route("TLSRoute", rules=rules))
    route = connection_ref("TLSRoute")

    members = connection_destination(core.db, listener_id("tls"), route).members
    assert [(n, weight) for n, _, weight in members] == [(0, 1), (1, 2)]
    assert [key.name for key in route_resources(core.db, EG_FLEET, route)] == [
        "tlsroute/default/shop/rule/-1"
    ]


def test_a_route_that_gets_no_connections_needs_no_cluster() -> None:
    core = Core(
        gateway(raw("raw", "TCP")),
        service(),
        *(connection_route("TCPRoute", name=name) for name in ("first", "second")),
    )

    assert route_resources(core.db, EG_FLEET, connection_ref("TCPRoute", "second")) == ()
