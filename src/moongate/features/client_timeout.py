"""How long clients may take: for a TLS handshake, for a request, and in silence.

Set by:      ClientTrafficPolicy ``spec.timeout``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager, TCP proxy, filter chain and listener; all off or as Envoy has them
Cases:       client_timeout.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from msgspec import structs

from moongate.api.base import DurationStr, Model, milliseconds
from moongate.features.base import ChainEdit, Effective, Feature, ListenerFacts, ManagerEdit


class TCPClientTimeout(Model, frozen=True, kw_only=True):
    """Time limits of connections, whatever is spoken on them."""

    idle_timeout: DurationStr | None = None
    """For connections that carry plain TCP or TLS passed through; HTTP has its own ``idleTimeout``."""
    tls_handshake_timeout: DurationStr | None = None
    connection_inspection_timeout: DurationStr | None = None
    """To read what precedes the protocol, such as the server name of a TLS hello. 15s when not set."""


class HTTPClientTimeout(Model, frozen=True, kw_only=True):
    """Time limits of requests. "0s" turns a limit off."""

    request_received_timeout: DurationStr | None = None
    """Until the whole request has come in. Off when not set."""
    idle_timeout: DurationStr | None = None
    """For a connection without requests. 1h when not set."""
    stream_idle_timeout: DurationStr | None = None
    """For a request on which nothing moves in either direction. 5m when not set."""
    request_headers_received_timeout: DurationStr | None = None
    """Until the request's headers have come in. Off when not set."""


class ClientTimeout(Model, frozen=True, kw_only=True):
    """How long clients may take."""

    tcp: TCPClientTimeout | None = None
    http: HTTPClientTimeout | None = None


def _listener(listener: Listener, timeout: Effective[ClientTimeout]) -> None:
    tcp = timeout.value.tcp
    if tcp is not None and tcp.connection_inspection_timeout is not None:
        limit = milliseconds(tcp.connection_inspection_timeout)
        listener.listener_filters_timeout.FromMilliseconds(limit)


def _filter_chain(edit: ChainEdit, timeout: Effective[ClientTimeout]) -> None:
    tcp = timeout.value.tcp
    if tcp is not None and tcp.tls_handshake_timeout is not None:
        limit = milliseconds(tcp.tls_handshake_timeout)
        edit.message.transport_socket_connect_timeout.FromMilliseconds(limit)


def _connection_manager(edit: ManagerEdit, timeout: Effective[ClientTimeout]) -> None:
    http, hcm = timeout.value.http, edit.message
    if http is None:
        return
    for limit, field in (
        (http.request_received_timeout, hcm.request_timeout),
        (http.request_headers_received_timeout, hcm.request_headers_timeout),
        (http.idle_timeout, hcm.common_http_protocol_options.idle_timeout),
        (http.stream_idle_timeout, hcm.stream_idle_timeout),
    ):
        if limit is not None:
            field.FromMilliseconds(milliseconds(limit))


def _tcp_proxy(proxy: TcpProxy, timeout: Effective[ClientTimeout]) -> None:
    tcp = timeout.value.tcp
    if tcp is not None and tcp.idle_timeout is not None:
        proxy.idle_timeout.FromMilliseconds(milliseconds(tcp.idle_timeout))


def _facts(facts: ListenerFacts, timeout: ClientTimeout) -> ListenerFacts:
    limited = timeout.http is not None and timeout.http.stream_idle_timeout is not None
    return structs.replace(facts, stream_idle=limited)


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="timeout",
    model=ClientTimeout,
    listener=_listener,
    filter_chain=_filter_chain,
    connection_manager=_connection_manager,
    tcp_proxy=_tcp_proxy,
    listener_facts=_facts,
)
