"""Settings that connections of clients and connections to backends have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from moongate.api.base import DurationStr, Model, Rule, form
from moongate.api.shared import Int32

Size = (
    Annotated[
        str,
        form(
            r"^[1-9]+[0-9]*([EPTGMK]i|[EPTGMk])?$",
            "a size in bytes: a whole number above 0, perhaps with a unit, such as '32Ki', '50M' or 32768",
        ),
    ]
    | int
)
"""Bytes: "32Ki", "50M", or a whole number."""


class TCPKeepalive(Model, frozen=True, kw_only=True):
    """Empty packets on a silent connection, so that a peer that is gone is noticed. Times are in seconds."""

    probes: Int32 | None = None
    """Unanswered packets after which the connection is closed; 9 on Linux when absent."""
    idle_time: DurationStr | None = None
    """Silence before the first packet; two hours on Linux when absent."""
    interval: DurationStr | None = None
    """Time between packets; 75s on Linux when absent."""


class HTTP2ConnectionKeepalive(Model, frozen=True, kw_only=True):
    """Pings on a connection; it is closed when one is not answered in time."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.timeout) || !has(self.interval) || duration(self.timeout) < duration(self.interval)",
            "timeout must be less than interval, so that no ping is sent before the last one is given up.",
        ),
    )

    interval: DurationStr | None = None
    """How often a ping is sent."""
    interval_jitter: Annotated[int, Meta(ge=0, le=100)] | None = None
    """By how many percent of the interval a ping is delayed at most, at random; 15 when absent."""
    timeout: DurationStr | None = None
    """How long the answer to a ping may take."""
    idle_interval: DurationStr | None = None
    """Silence before a new request after which the connection is tried by a ping first."""


class HTTP2Settings(Model, frozen=True, kw_only=True):
    """HTTP/2 on a connection."""

    initial_stream_window_size: Size | None = None
    """Bytes that the peer may send of a request before it is granted more; 64Ki when absent."""
    initial_connection_window_size: Size | None = None
    """As ``initialStreamWindowSize``, for all requests of a connection together; 1Mi when absent."""
    max_concurrent_streams: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Requests at a time on a connection; 100 for clients when absent."""
    on_invalid_message: str | None = None
    """Whether a malformed message ends its request (``TerminateStream``) or all of the connection
    (``TerminateConnection``)."""
    connection_keepalive: HTTP2ConnectionKeepalive | None = None
