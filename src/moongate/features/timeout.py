"""How long the gateway waits: for connections, for responses, and for idle streams.

Set by:      BackendTrafficPolicy ``spec.timeout``; HTTPRoute ``rules[].timeouts``
Precedence:  the HTTPRoute's own request timeout overrides the policy's; the policy's other settings stay
Envoy:       ``RouteAction.timeout``, ``idle_timeout``, ``max_stream_duration``; ``Cluster.connect_timeout``;
             ``HttpProtocolOptions.common_http_protocol_options``
Cases:       timeout.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import DurationStr, milliseconds
from moongate.api.cluster_settings import HTTPTimeout, Timeout
from moongate.api.httproute import HTTPRouteRule
from moongate.features.base import ClusterEdit, Effective, Feature, Native, RouteEdit
from moongate.features.shared import duration
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.route import RouteRule
    from moongate.engine import Db

_HOUR: DurationStr = "1h"


def check(_db: Db, timeout: Effective[Timeout]) -> Iterator[Problem]:
    tcp = timeout.value.tcp
    if tcp is not None and tcp.connect_timeout is not None and milliseconds(tcp.connect_timeout) == 0:
        yield Problem(
            "tcp.connectTimeout",
            f"connectTimeout is {tcp.connect_timeout!r}; Envoy needs a time greater than zero to connect.",
        )


def native(rule: RouteRule) -> Timeout | None:
    """The value of the HTTPRoute's own ``timeouts``."""
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
    # max_stream_duration is set on routes only, because routes with different values may share a cluster.
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
    # With retries, backendRequest is the limit of one try, which the retry feature sets. Without retries, one
    # try is the whole request. If it has no limit, the limit of the request applies.
    each = own.backend_request if rule.retry is None else None
    return each if each is not None and (milliseconds(each) or own.request is None) else own.request


def _derived_idle(request: DurationStr | None) -> DurationStr | None:
    """A stream idle timeout for requests that may take longer than Envoy's default of five minutes."""
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
    transports=("TCP",),
    cluster=cluster,
)
