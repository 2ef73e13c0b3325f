"""Which hostnames of a scoped table have a part of their own.

Theory of operation
===================
Envoy looks up the part of a scoped table by the hostname that a request asks for, so an exact hostname has
a part of its own, and all wildcards, and what has no hostname, share one (``names.OTHERS``).

Envoy compares only the hash of that key, XXH64, for which anybody can compute a second text. It refuses the
second of two parts with one hash, and a route of one team must not take a hostname from another. So
hostnames of one hash, of routes or of listeners, have no parts of their own, in no table. Nor has one with
the hash of ``OTHERS_KEY``.

Source: Envoy, "HTTP Route Scope"; ``ScopeKeyFragmentBase::hash``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import xxhash

from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.attach.envoy_listeners import placement_of
from moongate.attach.route_kinds import REQUEST_ROUTE_TYPES
from moongate.attach.routes import hosts
from moongate.attach.sizes import is_exact
from moongate.engine import query
from moongate.store import Index, find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import ListenerId
    from moongate.api.route import RequestRoute
    from moongate.engine import Db

OTHERS_KEY: Final = "<others>"
"""The key of the part that others share. Envoy answers 400 to a request for such a hostname."""


def _hashed(host: str) -> int:
    return xxhash.xxh64_intdigest(host.encode())


def _by_hash(resource: RequestRoute | Gateway | ListenerSet) -> Iterator[tuple[int, str]]:
    if isinstance(resource, Gateway | ListenerSet):
        named = [listener.hostname or "" for listener in resource.spec.listeners]
    else:
        named = resource.hostnames
    return ((_hashed(host), host) for host in named if is_exact(host))


HASHES: Index[RequestRoute | Gateway | ListenerSet, str] = Index(
    "hostname-hashes", (*REQUEST_ROUTE_TYPES, Gateway, ListenerSet), _by_hash
)
"""Hash of a scope's key → exact hostnames that routes and listeners have."""


def has_scope(db: Db, host: str) -> bool:
    """Whether a hostname has a part of its own in scoped tables."""
    hashed = _hashed(host)
    return (
        is_exact(host)
        and hashed != _hashed(OTHERS_KEY)
        and all(other == host for other in find(db, HASHES, hashed))
    )


@query
def is_scoped(db: Db, listener: ListenerId) -> bool:
    """Whether the table of a listener is scoped. One that only a draining listener uses may not be."""
    placement = placement_of(db, listener)
    return placement is not None and placement.group.has_table and placement.group.scoped


@query
def split_hosts(db: Db, listener: ListenerId, part: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hostnames of one shard of a listener: those with a part of their own, and the others, sorted."""
    own: list[str] = []
    others: list[str] = []
    for host in hosts(db, listener, part):
        (own if has_scope(db, host) else others).append(host)
    return tuple(own), tuple(others)


@query
def other_hosts(db: Db, listener: ListenerId, part: int) -> tuple[str, ...]:
    """The hostnames of one shard of a listener that have no part of their own, sorted."""
    return split_hosts(db, listener, part)[1]
