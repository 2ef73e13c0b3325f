"""Events of ADS streams: connections, ACKs and NACKs. Statuses, metrics and the console use them.

Every event names the fleet, the node and the stream. The transport decides which node an Envoy is; two Envoys
may have the same node. A stream is one connection of one Envoy, and its number is unique.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class _OfStream(Struct, frozen=True, kw_only=True):
    """The fields of all events."""

    fleet: str
    node: str
    stream: int

    @property
    def envoy(self) -> str:
        """Identifies an Envoy in its fleet, also if several share a node id. A new stream is a new Envoy."""
        return f"{self.node}#{self.stream}"


class Connected(_OfStream, frozen=True, kw_only=True):
    """An Envoy opened its stream."""


class Disconnected(_OfStream, frozen=True, kw_only=True):
    """An Envoy's stream ended; the Envoy keeps its configuration in force."""


class Acknowledged(_OfStream, frozen=True, kw_only=True):
    """An Envoy has these versions in force, and no longer has these names.

    It has answered a response, has said when it opened its stream what it has, or has already what it should
    have now. So there is an event whenever what it has becomes what it should have. The versions may be older
    than that, and may have been in force before it refused a newer one.
    """

    type_url: str
    versions: tuple[tuple[str, str], ...]
    """(name, version), by name."""
    gone: tuple[str, ...] = ()


class Nacked(_OfStream, frozen=True, kw_only=True):
    """An Envoy refused one version of one resource. The version before stays in force there.

    Or it was not sent, because it needs clusters that this Envoy refuses and does not have.
    """

    type_url: str
    name: str
    version: str
    message: str
    """Envoy's message."""
    lacks: tuple[tuple[str, str], ...] = ()
    """The clusters for which it was not sent, each with Envoy's message about it."""


Event: TypeAlias = Connected | Disconnected | Acknowledged | Nacked


class Rejection(Struct, frozen=True, kw_only=True):
    """One resource in quarantine: it is not sent again until its version changes."""

    type_url: str
    name: str
    version: str
    message: str
    nodes: tuple[str, ...]
    """The Envoys that refused it, sorted: one entry for each stream."""


class Holder(Struct, frozen=True, kw_only=True):
    """What one connected Envoy has acknowledged under one name."""

    node: str
    stream: int
    version: str | None
    """None when it has nothing, or nothing that it acknowledged on this stream, or had when it connected."""


class Counters(Struct):
    """Counts of responses and answers of one type since the server was created."""

    responses: int = 0
    resources: int = 0
    removals: int = 0
    bytes: int = 0
    acks: int = 0
    nacks: int = 0
