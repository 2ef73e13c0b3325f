"""What became of what was sent: facts that travel from the stream to statuses, metrics and the console."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Connected(Struct, frozen=True, kw_only=True):
    """An Envoy opened its stream."""

    fleet: str
    node: str


class Disconnected(Struct, frozen=True, kw_only=True):
    """An Envoy's stream ended; what it holds stays in force there."""

    fleet: str
    node: str


class Acknowledged(Struct, frozen=True, kw_only=True):
    """An Envoy has these versions in force, and no longer has these names."""

    fleet: str
    node: str
    type_url: str
    versions: tuple[tuple[str, str], ...]
    """(name, version), by name."""
    gone: tuple[str, ...] = ()


class Nacked(Struct, frozen=True, kw_only=True):
    """An Envoy refused one version of one resource. What it had under that name before stays in force."""

    fleet: str
    node: str
    type_url: str
    name: str
    version: str
    message: str
    """Envoy's own words."""


Event: TypeAlias = Connected | Disconnected | Acknowledged | Nacked


class Rejection(Struct, frozen=True, kw_only=True):
    """One resource in quarantine: it is not sent again until its version changes."""

    type_url: str
    name: str
    version: str
    message: str
    nodes: tuple[str, ...]
    """The Envoys that refused it, sorted."""


class Counters(Struct):
    """What went over the wire for one type, since the server was made."""

    responses: int = 0
    resources: int = 0
    removals: int = 0
    bytes: int = 0
    acks: int = 0
    nacks: int = 0
