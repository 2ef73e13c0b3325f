"""How long the gateway waits: for connections, for requests, for streams that say nothing.

Set by:      BackendTrafficPolicy ``spec.timeout``; HTTPRoute ``rules[].timeouts``
Precedence:  the HTTPRoute's own request timeout wins; the rest of the policy still holds
Envoy:       ``RouteAction.timeout``, ``idle_timeout``, ``max_stream_duration``; ``Cluster.connect_timeout``;
             ``HttpProtocolOptions.common_http_protocol_options``
Cases:       timeout.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import DurationStr, Model, milliseconds
from moongate.api.httproute import HTTPRouteRule
from moongate.features.base import ClusterEdit, Effective, Feature, Native, RouteEdit, duration
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.route import RouteRule
    from moongate.engine import Db

_HOUR: DurationStr = "1h"


class TCPTimeout(Model, frozen=True, kw_only=True):
    """Timeouts of connections to the backend."""

    connect_timeout: DurationStr | None = None
    """How long until a connection must stand; 10s when absent."""


class HTTPTimeout(Model, frozen=True, kw_only=True):
    """Timeouts of HTTP requests, and of the connections that carry them."""

    connection_idle_timeout: DurationStr | None = None
    """Upstream connections without a request are closed after this; one hour when absent."""
    max_connection_duration: DurationStr | None = None
    """Upstream connections are drained after this; never when absent."""
    request_timeout: DurationStr | None = None
    """Until the whole answer must have come; 15s when absent, unlimited at "0s"."""
    max_stream_duration: DurationStr | None = None
    """Until a request, however busy, is cut off; never when absent or "0s"."""
    stream_idle_timeout: DurationStr | None = None
    """How long a request may stand still; when absent, the listener's."""


class Timeout(Model, frozen=True, kw_only=True):
    """Timeouts towards backends."""

    tcp: TCPTimeout | None = None
    http: HTTPTimeout | None = None


def check(_db: Db, timeout: Effective[Timeout]) -> Iterator[Problem]:
    tcp = timeout.value.tcp
    if tcp is not None and tcp.connect_timeout is not None and milliseconds(tcp.connect_timeout) == 0:
        yield Problem(
            "tcp.connectTimeout",
            f"connectTimeout is {tcp.connect_timeout!r}; Envoy needs a time greater than zero to connect.",
        )


def native(rule: RouteRule) -> Timeout | None:
    """What the HTTPRoute's own ``timeouts`` say."""
    request = _own_request_timeout(rule) if isinstance(rule, HTTPRouteRule) else None
    return None if request is None else Timeout(http=HTTPTimeout(request_timeout=request))


def route(edit: RouteEdit, timeout: Effective[Timeout]) -> None:
    http = timeout.value.http
    if http is None:
        return
    action, request = edit.message.route, http.request_timeout
    if request is not None:
        action.timeout.CopyFrom(duration(request))
    idle = http.stream_idle_timeout or (None if edit.listener.stream_idle else _derived_idle(request))
    if idle is not None:
        action.idle_timeout.CopyFrom(duration(idle))
    if http.max_stream_duration is not None:
        longest = edit.message.route.max_stream_duration.max_stream_duration
        longest.CopyFrom(duration(http.max_stream_duration))


def cluster(edit: ClusterEdit, timeout: Effective[Timeout]) -> None:
    tcp, http = timeout.value.tcp, timeout.value.http
    if tcp is not None and tcp.connect_timeout is not None:
        edit.message.connect_timeout.CopyFrom(duration(tcp.connect_timeout))
    if http is None:
        return
    # max_stream_duration is the route's alone: a cluster may serve routes that differ in it.
    if http.connection_idle_timeout is not None:
        edit.http.common_http_protocol_options.idle_timeout.CopyFrom(duration(http.connection_idle_timeout))
    if http.max_connection_duration is not None:
        edit.http.common_http_protocol_options.max_connection_duration.CopyFrom(
            duration(http.max_connection_duration)
        )


def _own_request_timeout(rule: HTTPRouteRule) -> DurationStr | None:
    own = rule.timeouts
    if own is None:
        return None
    # With retries it is the time of one try, which is the retry's; without, one try is the whole request, and
    # a try without a limit leaves the limit of the request.
    each = own.backend_request if rule.retry is None else None
    return each if each is not None and (milliseconds(each) or own.request is None) else own.request


def _derived_idle(request: DurationStr | None) -> DurationStr | None:
    """Keeps Envoy's five minutes of stream idle timeout from cutting a request that may take longer."""
    if request is None:
        return None
    ms = milliseconds(request)
    return request if ms == 0 or ms > milliseconds(_HOUR) else _HOUR


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="timeout",
    model=Timeout,
    check=check,
    native=Native(read=native, merges=True),
    route=route,
    cluster=cluster,
)
