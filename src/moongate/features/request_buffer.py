"""Take in the whole of a request before a backend gets any of it, and refuse what is too large.

Set by:      BackendTrafficPolicy ``spec.requestBuffer``
Precedence:  the most specific policy wins
Envoy:       HTTP filter ``envoy.filters.http.buffer``
Cases:       request_buffer.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Iterator

from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import Buffer, BufferPerRoute
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate.api.base import Model
from moongate.api.connections import Size
from moongate.api.shared import quantity
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter, RouteEdit
from moongate.problem import Problem

MAX_LIMIT = 2**32 - 1


class RequestBuffer(Model, frozen=True, kw_only=True):
    """A request is held until all of it has come in."""

    limit: Size | None = None
    """Bytes of a request's body; a larger one is answered with 413."""


def check(db: Db, buffer: Effective[RequestBuffer]) -> Iterator[Problem]:
    """A limit that Envoy cannot have."""
    limit = buffer.value.limit
    if limit is None:
        yield Problem("limit", "limit is missing; set the bytes that a request may have, such as 4Mi.")
    elif not 0 < quantity(limit) <= MAX_LIMIT:
        yield Problem("limit", f"limit is {limit}; it must be between 1 and {MAX_LIMIT} bytes.")


def _buffer(value: RequestBuffer | None) -> Buffer:
    # No route is without a limit of its own, so that of the chain has no meaning.
    limit = quantity(value.limit) if value is not None and value.limit is not None else 1
    return Buffer(max_request_bytes=UInt32Value(value=limit))


def _chain(db: Db, buffer: Effective[RequestBuffer]) -> Buffer:
    return _buffer(buffer.value)


def _per_route(db: Db, buffer: Effective[RequestBuffer]) -> BufferPerRoute:
    return BufferPerRoute(buffer=_buffer(buffer.value))


def _stable(value: RequestBuffer | None) -> Buffer:
    return _buffer(None)


def _route(edit: RouteEdit, buffer: Effective[RequestBuffer]) -> None:
    # The request of a WebSocket never ends, so it would wait for ever.
    del edit.message.route.upgrade_configs[:]


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="request_buffer",
    model=RequestBuffer,
    check=check,
    http_filter=HttpFilter(
        name="envoy.filters.http.buffer", disabled=True, chain=_chain, route=_per_route, stable=_stable
    ),
    route=_route,
)
