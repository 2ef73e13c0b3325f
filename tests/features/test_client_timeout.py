"""Clients have the time that the policy gives them."""

from __future__ import annotations

from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.duration_pb2 import Duration

from moongate.features.base import Effective
from moongate.features.client_timeout import FEATURE, ClientTimeout, HTTPClientTimeout, TCPClientTimeout
from tests.features.listeners import OWNER, chain_with, listener_with, manager_with, plain


def test_each_time_limit_of_http_lands_where_envoy_looks_for_it() -> None:
    http = HTTPClientTimeout(
        request_received_timeout="1s",
        idle_timeout="2s",
        stream_idle_timeout="3s",
        request_headers_received_timeout="4s500ms",
    )
    hcm = manager_with(FEATURE, ClientTimeout(http=http))

    assert hcm.request_timeout == Duration(seconds=1)
    assert hcm.common_http_protocol_options.idle_timeout == Duration(seconds=2)
    assert hcm.stream_idle_timeout == Duration(seconds=3)
    assert hcm.request_headers_timeout == Duration(seconds=4, nanos=500_000_000)


def test_each_time_limit_of_connections_lands_where_envoy_looks_for_it() -> None:
    tcp = TCPClientTimeout(tls_handshake_timeout="5s", connection_inspection_timeout="6s")
    timeout = ClientTimeout(tcp=tcp)

    chain = chain_with(FEATURE, timeout).message
    assert chain.transport_socket_connect_timeout == Duration(seconds=5)
    assert listener_with(FEATURE, timeout).listener_filters_timeout == Duration(seconds=6)


def test_connections_that_carry_no_http_have_a_limit_of_silence_of_their_own() -> None:
    def limited(timeout: ClientTimeout) -> TcpProxy:
        proxy = TcpProxy()
        assert FEATURE.tcp_proxy is not None
        FEATURE.tcp_proxy(proxy, Effective(timeout, OWNER))
        return proxy

    assert limited(ClientTimeout(tcp=TCPClientTimeout(idle_timeout="7s"))).idle_timeout.seconds == 7
    assert limited(ClientTimeout(tcp=TCPClientTimeout(idle_timeout="0s"))).HasField("idle_timeout")
    for other in (ClientTimeout(), ClientTimeout(tcp=TCPClientTimeout(tls_handshake_timeout="1s"))):
        assert limited(other) == TcpProxy()


def test_a_limit_of_zero_goes_to_envoy_which_takes_it_for_none() -> None:
    """Left out, it would mean Envoy's default of five minutes."""
    hcm = manager_with(FEATURE, ClientTimeout(http=HTTPClientTimeout(stream_idle_timeout="0s")))

    assert hcm.HasField("stream_idle_timeout")


def test_what_is_not_set_stays_at_the_default() -> None:
    timeout = ClientTimeout(tcp=TCPClientTimeout(), http=HTTPClientTimeout())

    assert chain_with(FEATURE, timeout) == plain()
    assert listener_with(FEATURE, timeout) == listener_with(FEATURE, None)
    assert manager_with(FEATURE, timeout) == manager_with(FEATURE, None)
