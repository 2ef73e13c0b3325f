"""Filter chains are built one by one, and joined into the listener that they share."""

from __future__ import annotations

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.listener.v3.listener_components_pb2 import Filter, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig
from google.protobuf.message import Message

from moongate.xds.filter_chains import silenced
from moongate.xds.listeners import listener, listener_parts
from moongate.xds.wire import encode, packed
from tests.core import EG_FLEET, Core, gateway, https, tls_secret
from tests.listeners import client_traffic_policy, manager, sent

LISTENER = "default/eg/a"


def two_tls_listeners(*policies: str) -> Core:
    return Core(
        gateway(https("a", "a", hostname="a.test"), https("b", "b", hostname="b.test")),
        tls_secret("a", "a.test"),
        tls_secret("b", "b.test"),
        *policies,
    )


def test_the_inspector_of_a_port_finds_out_what_any_chain_needs() -> None:
    """All chains share it: one asks for JA3 fingerprints, the other for JA4, and both for server names."""
    core = two_tls_listeners(
        client_traffic_policy("tls: {fingerprints: [JA3]}", section="a", name="one"),
        client_traffic_policy("tls: {fingerprints: [JA4]}", section="b", name="other"),
    )
    [inspector] = sent(core, LISTENER).listener_filters
    config = TlsInspector()

    assert inspector.name == "envoy.filters.listener.tls_inspector"
    assert inspector.typed_config.Unpack(config)
    assert config.enable_ja3_fingerprinting.value
    assert config.enable_ja4_fingerprinting.value


def test_each_setting_that_chains_share_is_set_by_one_policy() -> None:
    """Buffers and time limits of inspection belong to the port; a limit of connections to each chain."""
    core = two_tls_listeners(
        client_traffic_policy("connection: {bufferLimit: 1Mi, connectionLimit: {value: 1}}", "a", "one"),
        client_traffic_policy(
            "connection: {bufferLimit: 2Mi, connectionLimit: {value: 2}}\n"
            "timeout: {tcp: {connectionInspectionTimeout: 2s, tlsHandshakeTimeout: 2s}}",
            "b",
            "other",
        ),
    )
    message = sent(core, LISTENER)

    assert message.per_connection_buffer_limit_bytes.value == 2**20
    assert message.listener_filters_timeout.seconds == 2
    assert [len(chain.filters) for chain in message.filter_chains] == [2, 2]
    assert message.filter_chains[1].transport_socket_connect_timeout.seconds == 2


def test_a_changed_chain_is_encoded_alone_and_joined_with_the_others() -> None:
    """Nothing of the other chains is built again."""
    core = two_tls_listeners()
    before = listener(core.db, EG_FLEET, LISTENER)
    kept = listener_parts(core.db, EG_FLEET, LISTENER)[0]

    core.apply(client_traffic_policy("path: {disableMergeSlashes: true}", section="b"))
    with core.ran() as ran:
        after = listener(core.db, EG_FLEET, LISTENER)

    assert after != before
    assert (ran["https_settings"], ran["chain_part"], ran["listener"]) == (1, 1, 1)
    assert listener_parts(core.db, EG_FLEET, LISTENER)[0] is kept
    assert [manager(chain).merge_slashes for chain in sent(core, LISTENER).filter_chains] == [True, False]


def test_a_listener_that_is_not_served_has_no_chains() -> None:
    assert listener_parts(two_tls_listeners().db, EG_FLEET, "default/eg/other") == ()


LOG = AccessLog(name="any")
ROUTER, TCP, UDP = Router(), TcpProxy(stat_prefix="a"), UdpProxyConfig(stat_prefix="a")
TRACED = HttpConnectionManager(stat_prefix="a", tracing=HttpConnectionManager.Tracing())


@pytest.mark.parametrize(
    ("loud", "silent"),
    [
        (Listener(name="a", access_log=[LOG]), Listener(name="a")),
        (HttpConnectionManager(stat_prefix="a", access_log=[LOG]), HttpConnectionManager(stat_prefix="a")),
        (TRACED, HttpConnectionManager(stat_prefix="a")),
        (
            HttpFilter(typed_config=packed(Router(upstream_log=[LOG]))),
            HttpFilter(typed_config=packed(ROUTER)),
        ),
        (
            Filter(typed_config=packed(TcpProxy(stat_prefix="a", access_log=[LOG]))),
            Filter(typed_config=packed(TCP)),
        ),
        (
            ListenerFilter(typed_config=packed(UdpProxyConfig(stat_prefix="a", access_log=[LOG]))),
            ListenerFilter(typed_config=packed(UDP)),
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_reports_is_silenced_and_nothing_else_changes(loud: Message, silent: Message) -> None:
    assert silenced(type(loud), encode(loud)) == encode(silent)
    assert silenced(type(silent), encode(silent)) is None
