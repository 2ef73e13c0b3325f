"""Limits of client connections: their number, their duration, and their buffers.

Set by:      ClientTrafficPolicy ``spec.connection``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       ``envoy.filters.network.connection_limit``, HTTP connection manager, listener
Cases:       connection.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2 import (
    ConnectionLimit as ConnectionLimitFilter,
)
from google.protobuf.wrappers_pb2 import UInt64Value
from msgspec import Meta

from moongate.api.base import DurationStr, Model, Rule, milliseconds
from moongate.api.connections import Size
from moongate.api.shared import Int32, quantity
from moongate.engine import Db
from moongate.features.base import ChainEdit, Effective, Feature, ManagerEdit
from moongate.features.shared import unused_socket_buffer
from moongate.problem import Problem
from moongate.xds.wire import packed

MAX_BUFFER = 2**32 - 1


class ConnectionLimit(Model, frozen=True, kw_only=True):
    """How many connections at once, and how long each may last.

    Each Envoy counts its own connections, separately for each filter chain (so for each TLS listener).
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.closeDelay) || has(self.value)",
            "closeDelay applies to connections over the limit, so value must be set too.",
        ),
    )

    value: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    """The limit of open connections; further ones are closed."""
    close_delay: DurationStr | None = None
    """How long a connection over the limit stays open before it is closed, to slow down retries."""
    max_connection_duration: DurationStr | None = None
    """After this time a connection accepts no new request. It is closed when its requests have ended."""
    max_requests_per_connection: Int32 | None = None
    max_stream_duration: DurationStr | None = None
    """A request that lasts longer than this is cut off."""


class ClientConnection(Model, frozen=True, kw_only=True):
    """Connections of clients."""

    connection_limit: ConnectionLimit | None = None
    buffer_limit: Size | None = None
    """Bytes buffered for each connection. 32Ki when not set."""
    socket_buffer_limit: Size | None = None
    """Has no effect, as in Envoy Gateway."""
    # The CRD has the default 1. With None instead, a merge can see whether a policy sets the field.
    max_accept_per_socket_event: Int32 | None = None
    """Connections accepted each time the socket reports some: 1 when absent, all that wait if 0."""


def check(db: Db, connection: Effective[ClientConnection]) -> Iterator[Problem]:
    """Numbers that are out of the range of Envoy."""
    spec = connection.value
    if spec.buffer_limit is not None and not 0 <= quantity(spec.buffer_limit) <= MAX_BUFFER:
        yield Problem(
            "bufferLimit", f"bufferLimit is {spec.buffer_limit}; it must be between 0 and {MAX_BUFFER} bytes."
        )
    if (spec.max_accept_per_socket_event or 0) < 0:
        yield Problem(
            "maxAcceptPerSocketEvent",
            f"maxAcceptPerSocketEvent is {spec.max_accept_per_socket_event}; it must be 0 (all) or more.",
        )
    limit = spec.connection_limit
    if limit is not None and (limit.max_requests_per_connection or 0) < 0:
        yield Problem(
            "connectionLimit.maxRequestsPerConnection",
            f"maxRequestsPerConnection is {limit.max_requests_per_connection}; it must be 0 (off) or more.",
        )


def _hints(connection: ClientConnection) -> Iterator[Problem]:
    """A time of zero, and a field that nothing reads."""
    limit = connection.connection_limit
    longest = limit.max_connection_duration if limit is not None else None
    if longest is not None and milliseconds(longest) == 0:
        message = (
            f"maxConnectionDuration is {longest!r}, so Envoy closes each connection at once: no request is "
            "answered. Without the field there is no limit."
        )
        yield Problem("connectionLimit.maxConnectionDuration", message, "Closed")
    if connection.socket_buffer_limit is not None:
        yield unused_socket_buffer()


def _listener(listener: Listener, connection: Effective[ClientConnection]) -> None:
    spec = connection.value
    if spec.buffer_limit is not None:
        listener.per_connection_buffer_limit_bytes.value = quantity(spec.buffer_limit)
    if spec.max_accept_per_socket_event == 0:
        listener.ClearField("max_connections_to_accept_per_socket_event")
    elif spec.max_accept_per_socket_event is not None and spec.max_accept_per_socket_event != 1:
        # An API server writes 1 if nobody has, so it does not count as set.
        listener.max_connections_to_accept_per_socket_event.value = spec.max_accept_per_socket_event


def _filter_chain(edit: ChainEdit, connection: Effective[ClientConnection]) -> None:
    limit = connection.value.connection_limit
    if limit is None or limit.value is None:
        return
    config = ConnectionLimitFilter(
        stat_prefix=edit.stat_prefix, max_connections=UInt64Value(value=limit.value)
    )
    if limit.close_delay is not None:
        config.delay.FromMilliseconds(milliseconds(limit.close_delay))
    edit.message.filters.append(
        Filter(name="envoy.filters.network.connection_limit", typed_config=packed(config))
    )


def _connection_manager(edit: ManagerEdit, connection: Effective[ClientConnection]) -> None:
    limit = connection.value.connection_limit
    if limit is None:
        return
    options = edit.message.common_http_protocol_options
    if limit.max_connection_duration is not None:
        options.max_connection_duration.FromMilliseconds(milliseconds(limit.max_connection_duration))
        # HTTP/1 clients get "Connection: close" with a response, and are not cut off between two.
        edit.message.http1_safe_max_connection_duration = True
    if limit.max_requests_per_connection is not None:
        options.max_requests_per_connection.value = limit.max_requests_per_connection
    if limit.max_stream_duration is not None:
        options.max_stream_duration.FromMilliseconds(milliseconds(limit.max_stream_duration))


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="connection",
    model=ClientConnection,
    check=check,
    hints=_hints,
    listener=_listener,
    filter_chain=_filter_chain,
    connection_manager=_connection_manager,
)
