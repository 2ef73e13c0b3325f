"""The filter chains of TLS and TCP listeners, and the filter of UDP listeners."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters

from moongate import names
from moongate.world import World
from moongate.xds.connection_chains import empty_clusters
from moongate.xds.listeners import listener
from moongate.xds.wire import CLUSTER
from tests.connections import (
    NEW,
    OLD,
    chains,
    connection_route,
    listener_id,
    proxied,
    raw,
    tls,
    udp_cluster,
)
from tests.core import (
    EG_FLEET,
    GATEWAY_CLASS,
    IN_CLUSTER,
    ON_HOST,
    Core,
    gateway,
    https,
    policy,
    read,
    tls_secret,
)
from tests.listeners import client_traffic_policy, sent, tls_of
from tests.routes import service

SHOP_TCP = "tcproute/default/shop/rule/-1"
SHOP_TLS = "tlsroute/default/shop/rule/-1"


def test_a_chain_has_the_hostnames_of_its_route_and_the_inspector_reads_them() -> None:
    core = Core(
        gateway(tls("tls")), connection_route("TLSRoute", hostnames=("b.test", "*.a.test")), service()
    )
    served = sent(core, "default/eg/tls")

    assert chains(served) == {("*.a.test", "b.test"): SHOP_TLS}
    assert [each.name for each in served.listener_filters] == ["envoy.filters.listener.tls_inspector"]
    assert not served.filter_chains[0].HasField("transport_socket")


def test_a_listener_that_ends_tls_has_its_certificates_in_each_chain() -> None:
    core = Core(
        gateway(tls("tls", "*.test", "cert")),
        tls_secret("cert", "*.test"),
        connection_route("TLSRoute", hostnames=("a.test",)),
        connection_route("TCPRoute"),
    )
    served = sent(core, "default/eg/tls")

    assert chains(served) == {("a.test",): SHOP_TLS, ("*.test",): SHOP_TCP}
    for chain in served.filter_chains:
        [certificate] = tls_of(chain).common_tls_context.tls_certificate_sds_secret_configs
        assert certificate.name == "default/cert"
        assert not tls_of(chain).common_tls_context.alpn_protocols


def test_the_chains_of_older_routes_come_first() -> None:
    """The order means nothing to Envoy, but a patch may name a chain by its place."""
    core = Core(
        gateway(tls("tls")),
        *(
            connection_route("TLSRoute", name=name, hostnames=(f"{name}.test",), created=created)
            for name, created in [("a", NEW), ("b", OLD), ("c", NEW)]
        ),
    )

    assert [chain.name for chain in sent(core, "default/eg/tls").filter_chains] == [
        f"tlsroute/default/{name}" for name in ("b", "a", "c")
    ]


@pytest.mark.parametrize("listener", [raw("web", "TCP"), tls("web"), tls("web", "a.test")])
def test_a_listener_without_routes_takes_connections_and_closes_them(listener: str) -> None:
    core = Core(gateway(listener))

    assert chains(sent(core, "default/eg/web")) == {(): names.EMPTY_CLUSTER}
    assert empty_clusters(core.db, EG_FLEET) == (names.EMPTY_CLUSTER,)


def test_the_hostname_of_a_listener_does_not_fall_to_a_wider_one() -> None:
    """Neither where it has no route, nor where its routes have other hostnames."""
    core = Core(
        gateway(tls("tls"), tls("bare", "bare.test"), tls("wild", "*.wild.test")),
        connection_route("TLSRoute", parent="{name: eg, sectionName: tls}"),
        connection_route(
            "TLSRoute", name="a", hostnames=("a.wild.test",), parent="{name: eg, sectionName: wild}"
        ),
    )

    assert chains(sent(core, "default/eg/tls")) == {
        (): SHOP_TLS,
        ("bare.test",): names.EMPTY_CLUSTER,
        ("a.wild.test",): "tlsroute/default/a/rule/-1",
        ("*.wild.test",): names.EMPTY_CLUSTER,
    }


def test_tls_and_https_share_a_port() -> None:
    core = Core(
        gateway(https("web", "cert", hostname="web.test"), tls("tls", "*.test")),
        tls_secret("cert", "web.test"),
        connection_route("TLSRoute"),
    )
    served = sent(core, "default/eg/web")

    assert [list(chain.filter_chain_match.server_names) for chain in served.filter_chains] == [
        ["web.test"],
        ["*.test"],
    ]
    assert proxied(served.filter_chains[1]) == SHOP_TLS


def test_tcp_and_udp_share_the_number_of_a_port() -> None:
    core = Core(
        gateway(raw("stream", "TCP"), raw("packet", "UDP")),
        connection_route("TCPRoute"),
        connection_route("UDPRoute"),
    )
    stream, packet = sent(core, "default/eg/stream"), sent(core, "default/eg/packet")

    assert stream.address.socket_address.port_value == packet.address.socket_address.port_value == 9000
    assert packet.address.socket_address.protocol == SocketAddress.UDP
    assert udp_cluster(packet) == "udproute/default/shop/rule/-1"
    assert not packet.filter_chains


def test_each_worker_of_envoy_has_a_socket_of_its_own_for_udp() -> None:
    """Envoy refuses a listener of UDP otherwise, if it has several workers."""
    core = Core(gateway(raw("stream", "TCP"), raw("packet", "UDP")), config=ON_HOST)

    assert not sent(core, "default/eg/packet").HasField("enable_reuse_port")
    assert sent(core, "default/eg/stream").enable_reuse_port.value is False
    assert udp_cluster(sent(core, "default/eg/packet")) == names.EMPTY_CLUSTER


def test_a_policy_of_clients_holds_for_connections() -> None:
    core = Core(
        gateway(raw("raw", "TCP")),
        connection_route("TCPRoute"),
        client_traffic_policy("connection: {connectionLimit: {value: 5}, bufferLimit: 64Ki}"),
    )
    served = sent(core, "default/eg/raw")

    assert [each.name for each in served.filter_chains[0].filters] == [
        "envoy.filters.network.connection_limit",
        "envoy.filters.network.tcp_proxy",
    ]
    assert served.per_connection_buffer_limit_bytes.value == 64 * 1024


def test_a_policy_of_clients_says_how_long_connections_may_be_silent() -> None:
    core = Core(
        gateway(raw("raw", "TCP")),
        connection_route("TCPRoute"),
        client_traffic_policy("timeout: {tcp: {idleTimeout: 5m}}"),
    )
    proxy = TcpProxy()
    sent(core, "default/eg/raw").filter_chains[0].filters[0].typed_config.Unpack(proxy)

    assert proxy.idle_timeout.seconds == 300
    assert proxy.cluster == SHOP_TCP


def test_any_policy_of_clients_pins_the_versions_of_tls_that_ends_here() -> None:
    core = Core(
        gateway(tls("tls", "*.test", "cert")), tls_secret("cert", "*.test"), connection_route("TCPRoute")
    )
    assert not tls_of(sent(core, "default/eg/tls").filter_chains[0]).common_tls_context.HasField("tls_params")

    core.apply(client_traffic_policy("timeout: {tcp: {idleTimeout: 5m}}"))

    versions = tls_of(sent(core, "default/eg/tls").filter_chains[0]).common_tls_context.tls_params
    assert versions == TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=TlsParameters.TLSv1_3,
    )


def test_a_fault_in_what_is_about_requests_closes_no_connections() -> None:
    core = Core(
        gateway(raw("raw", "TCP")),
        connection_route("TCPRoute"),
        client_traffic_policy("headers: {maxRequestHeaderLimit: 1}"),
    )
    assert taken(core, "TCP") == [SHOP_TCP]

    core.apply(client_traffic_policy("headers: {maxRequestHeaderLimit: 1}\ntcpKeepalive: {probes: 0}"))

    assert taken(core, "TCP") == []


def test_a_hash_of_the_source_chooses_the_backend_of_a_connection() -> None:
    core = Core(
        gateway(raw("raw", "TCP")),
        connection_route("TCPRoute"),
        policy(
            "BackendTrafficPolicy",
            "loadBalancer: {type: ConsistentHash, consistentHash: {type: SourceIP}}",
            target="TCPRoute/shop",
        ),
    )
    proxy = TcpProxy()
    sent(core, "default/eg/raw").filter_chains[0].filters[0].typed_config.Unpack(proxy)

    [hashed] = proxy.hash_policy
    assert hashed.HasField("source_ip")


@pytest.mark.parametrize(
    "demand",
    [
        policy("SecurityPolicy", "basicAuth: {users: {name: users}}", target="TCPRoute/shop"),
        policy("SecurityPolicy", "authorization: {defaultAction: Deny}", target="TCPRoute/shop"),
        policy("SecurityPolicy", "authorization: {defaultAction: Deny}", target="Gateway/eg"),
    ],
    ids=["of-requests", "not-built", "not-built-above"],
)
def test_connections_end_where_a_policy_cannot_be_enforced(demand: str) -> None:
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"))
    assert chains(sent(core, "default/eg/raw")) == {(): SHOP_TCP}

    core.apply(demand)

    assert listener(core.db, EG_FLEET, "default/eg/raw") is None, "nobody could do anything there"


@pytest.mark.parametrize("target", ["Gateway/eg", "Gateway/eg/raw"])
def test_a_policy_of_a_route_that_asks_nobody_lets_nobody_pass_whom_the_one_above_asks(target: str) -> None:
    """As in Envoy Gateway, what it does not say about connections is said by the next one."""
    above = policy("SecurityPolicy", "authorization: {defaultAction: Deny}", name="above", target=target)
    own = policy("SecurityPolicy", "cors: {allowOrigins: ['*']}", target="TCPRoute/shop")
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"), own)
    assert chains(sent(core, "default/eg/raw")) == {(): SHOP_TCP}

    core.apply(above)

    assert listener(core.db, EG_FLEET, "default/eg/raw") is None


@pytest.mark.parametrize(
    "faulty",
    [
        policy("BackendTrafficPolicy", "faultInjection: {delay: {fixedDelay: 0s}}", target="Gateway/eg"),
        policy("BackendTrafficPolicy", "timeout: {tcp: {connectTimeout: 0s}}", target="{kind}/shop"),
    ],
    ids=["of-requests", "of-connections"],
)
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_fault_in_a_policy_that_keeps_nobody_out_closes_no_connections(protocol: str, faulty: str) -> None:
    """They go on without what cannot be built, as in Envoy Gateway: nobody was promised any of it."""
    kind = f"{protocol}Route"
    core = Core(gateway(raw("raw", protocol)), connection_route(kind))
    before = sent(core, "default/eg/raw")

    core.apply(faulty.replace("{kind}", kind))

    assert sent(core, "default/eg/raw") == before


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_nobody_passes_where_the_policy_of_clients_cannot_be_built(protocol: str) -> None:
    """It may be the one that says who may connect."""
    core = Core(gateway(raw("raw", protocol)), connection_route(f"{protocol}Route"))
    assert names.EMPTY_CLUSTER not in taken(core, protocol)

    core.apply(client_traffic_policy("tls: {ciphers: [NO-SUCH-CIPHER]}"))

    assert taken(core, protocol) in ([], [names.EMPTY_CLUSTER])


def taken(core: Core, protocol: str) -> list[str]:
    """The clusters that get what comes to the listener; none if there is none that could serve."""
    if listener(core.db, EG_FLEET, "default/eg/raw") is None:
        return []
    served = sent(core, "default/eg/raw")
    return [udp_cluster(served)] if protocol == "UDP" else list(chains(served).values())


def test_no_cluster_without_endpoints_where_all_listeners_have_routes() -> None:
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"))

    assert empty_clusters(core.db, EG_FLEET) == ()


def test_a_route_that_comes_takes_its_listener_over_from_the_empty_cluster() -> None:
    texts = (GATEWAY_CLASS, gateway(raw("raw", "TCP")), service())
    world = World.of([resource for text in texts for resource in read(text)], IN_CLUSTER)
    assert world.resource(EG_FLEET, CLUSTER, names.EMPTY_CLUSTER) is not None

    world.apply({resource.ref: resource for resource in read(connection_route("TCPRoute"))})
    changes = world.pull()

    assert {name for _, name in changes.gone["default/eg"]} == {names.EMPTY_CLUSTER}
    assert world.resource(EG_FLEET, CLUSTER, SHOP_TCP) is not None


def test_the_listeners_of_a_port_have_chains_of_their_own_for_one_route() -> None:
    core = Core(
        gateway(tls("a", "*.a.test"), tls("b", "*.b.test")),
        connection_route("TLSRoute", hostnames=("x.a.test", "x.b.test")),
    )

    assert chains(sent(core, "default/eg/a")) == {
        ("x.a.test",): SHOP_TLS,
        ("x.b.test",): SHOP_TLS,
        ("*.a.test",): names.EMPTY_CLUSTER,
        ("*.b.test",): names.EMPTY_CLUSTER,
    }
    assert listener_id("a") != listener_id("b")
