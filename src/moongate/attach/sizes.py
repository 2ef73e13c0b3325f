"""What hostnames the routes of listeners have, which decides on the form of their table (``scopes``).

While a query fails, a listener counts as it last did: a failure is no reason to change the form of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.attach.routes import hosts, last_host_shards, routes_at, shards_at
from moongate.engine import Failed, query

if TYPE_CHECKING:
    from moongate.api.base import ListenerId
    from moongate.engine import Db

LARGE: Final = 500
"""From so many exact hostnames on, a table is large."""


class Size(NamedTuple):
    """What a table has.

    Args:
        large: whether it has hundreds of exact hostnames.
        has_others: whether it has routes for other hosts: under a wildcard, or any.
    """

    large: bool
    has_others: bool


class _Hostnames(NamedTuple):
    exact: int
    has_others: bool


def is_exact(host: str) -> bool:
    """Whether a hostname is one, and stands for no others."""
    return bool(host) and not host.startswith("*")


@query
def hostnames_in(db: Db, listener: ListenerId, part: int) -> _Hostnames:
    """How many exact hostnames one shard of a listener has, and whether it has others with routes."""
    hostnames = hosts(db, listener, part)
    others = (host for host in hostnames if not is_exact(host))
    routes = (routes_at(db, listener, host, n) for host in others for n in shards_at(db, listener, host))
    return _Hostnames(sum(map(is_exact, hostnames)), any(routes))


@query
def table_size(db: Db, listeners: tuple[ListenerId, ...]) -> Size:
    """What the table of some listeners has."""
    shards = [(listener, n) for listener in listeners for n in last_host_shards(db, listener)]
    built = hostnames_in.attempt_each(db, shards)
    counts = [
        hostnames_in.last_good(db, *at) if isinstance(each, Failed) else each
        for at, each in zip(shards, built, strict=True)
    ]
    parts = [each for each in counts if not isinstance(each, Failed)]
    return Size(sum(each.exact for each in parts) >= LARGE, any(each.has_others for each in parts))
