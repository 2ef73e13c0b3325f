"""What Envoy asks for next, once it has a cluster or a listener."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.route_pb2 import Route as UdpRoute
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig

from moongate.ads.needs import Socket, addresses, needs_endpoints, needs_routes, needs_scopes, sends_to
from moongate.xds.wire import CLUSTER, LISTENER, XdsResource, encode, packed
from tests.ads import conversation, laptop


def test_a_cluster_asks_for_the_endpoints_of_its_name() -> None:
    assert needs_endpoints(laptop.cluster("a")) == "a"


def test_a_cluster_asks_by_its_service_name_where_it_has_one() -> None:
    cluster = Cluster.FromString(laptop.cluster("a").body)
    cluster.eds_cluster_config.service_name = "other"

    assert needs_endpoints(XdsResource.of(CLUSTER, "a", encode(cluster))) == "other"


def test_a_cluster_that_knows_its_endpoints_asks_for_none() -> None:
    assert needs_endpoints(laptop.cluster("a", broken=True)) is None


def test_a_listener_asks_for_its_routes() -> None:
    assert needs_routes(laptop.listener("l", 80, "r")) == {"r"}


def test_a_listener_without_routes_asks_for_none() -> None:
    assert not needs_routes(XdsResource.of(LISTENER, "l", b""))


def test_a_listener_with_a_scoped_table_asks_for_its_collection() -> None:
    listener = conversation.resource("L", "l", "1/~t")

    assert needs_scopes(listener) == {conversation.full_name("X", "t/*")}
    assert not needs_routes(listener)
    assert not needs_scopes(laptop.listener("l", 80, "r"))


def test_a_listener_is_opened_on_its_addresses() -> None:
    listener = Listener()
    listener.address.socket_address.address, listener.address.socket_address.port_value = "::1", 80
    more = listener.additional_addresses.add().address.socket_address
    more.address, more.port_value = "127.0.0.1", 81

    assert addresses(XdsResource.of(LISTENER, "l", encode(listener))) == {
        ("::1", 80, False),
        ("127.0.0.1", 81, False),
    }


def test_a_port_of_udp_is_another_than_that_of_tcp() -> None:
    opened: list[frozenset[Socket]] = []
    for protocol in (SocketAddress.TCP, SocketAddress.UDP):
        listener = Listener()
        socket = listener.address.socket_address
        socket.address, socket.port_value, socket.protocol = "::1", 53, protocol
        opened.append(addresses(XdsResource.of(LISTENER, "l", encode(listener))))

    assert opened[0].isdisjoint(opened[1])


@pytest.mark.parametrize("needs", [needs_endpoints, needs_routes, needs_scopes, addresses])
def test_what_cannot_be_read_asks_for_nothing(needs: object) -> None:
    """Envoy will refuse it, and then it is known whose it is."""
    assert callable(needs)
    assert not needs(XdsResource.of(CLUSTER, "a", b"\xff"))


def test_a_table_sends_to_the_clusters_that_it_names_and_to_none_with_names_alike() -> None:
    table = conversation.resource("R", "r", "1/rule/1")

    assert sends_to(table, "rule/1")
    assert not sends_to(table, "rule/")
    assert not sends_to(table, "rule/10")


def test_a_listener_sends_to_the_clusters_of_its_proxies_and_to_none_of_its_logs() -> None:
    """A log that cannot be written keeps nobody from being served."""
    proxy = TcpProxy()
    for name in ("a", "b"):
        proxy.weighted_clusters.clusters.add(name=name)
    logs = HttpGrpcAccessLogConfig()
    logs.common_config.grpc_service.envoy_grpc.cluster_name = "logs"
    proxy.access_log.add().typed_config.CopyFrom(packed(logs))
    listener = Listener()
    listener.filter_chains.add().filters.add().typed_config.CopyFrom(packed(proxy))
    datagrams = UdpProxyConfig()
    datagrams.matcher.on_no_match.action.typed_config.CopyFrom(packed(UdpRoute(cluster="dns")))
    listener.listener_filters.add().typed_config.CopyFrom(packed(datagrams))
    made = XdsResource.of(LISTENER, "l", encode(listener))

    assert [name for name in ("a", "b", "dns", "logs") if sends_to(made, name)] == ["a", "b", "dns"]
