"""How long clients may take: for a TLS handshake, for a request, and in silence.

Set by:      ClientTrafficPolicy ``spec.timeout``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager, filter chain and listener; all off or at Envoy's defaults when not set
Cases:       client_timeout.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from moongate.api.base import DurationStr, Model, milliseconds
from moongate.features.base import Effective, Feature, ListenerEdit


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


def _listener(edit: ListenerEdit, timeout: Effective[ClientTimeout]) -> None:
    tcp, http = timeout.value.tcp, timeout.value.http
    if tcp is not None:
        if tcp.tls_handshake_timeout is not None:
            edit.chain.transport_socket_connect_timeout.FromMilliseconds(
                milliseconds(tcp.tls_handshake_timeout)
            )
        if tcp.connection_inspection_timeout is not None and edit.first:
            edit.listener.listener_filters_timeout.FromMilliseconds(
                milliseconds(tcp.connection_inspection_timeout)
            )
    if http is not None:
        for given, field in (
            (http.request_received_timeout, edit.hcm.request_timeout),
            (http.request_headers_received_timeout, edit.hcm.request_headers_timeout),
            (http.idle_timeout, edit.hcm.common_http_protocol_options.idle_timeout),
            (http.stream_idle_timeout, edit.hcm.stream_idle_timeout),
        ):
            if given is not None:
                field.FromMilliseconds(milliseconds(given))


FEATURE = Feature(kind="ClientTrafficPolicy", field="timeout", model=ClientTimeout, listener=_listener)
