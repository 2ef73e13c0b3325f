"""How many exact hostnames listeners have, which decides on the form of their table (``scopes``).

While it fails, a listener counts as it last did: a failure is no reason to change the form of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.attach.routes import host_shards_of, hosts
from moongate.engine import Failed, query

if TYPE_CHECKING:
    from moongate.api.base import ListenerId
    from moongate.engine import Db

LARGE: Final = 500
"""From so many exact hostnames on, a table is large."""


def is_exact(host: str) -> bool:
    """Whether a hostname is one, and stands for no others."""
    return bool(host) and not host.startswith("*")


@query
def exact_hostnames(db: Db, listener: ListenerId, part: int) -> int:
    """How many exact hostnames one shard of a listener has."""
    return sum(map(is_exact, hosts(db, listener, part)))


@query
def are_large(db: Db, listeners: tuple[ListenerId, ...]) -> bool:
    """Whether listeners with one table have hundreds of exact hostnames."""
    shards = [(listener, n) for listener in listeners for n in _shards(db, listener)]
    counts = exact_hostnames.attempt_each(db, shards)
    known = (
        exact_hostnames.last_good(db, *at) if isinstance(count, Failed) else count
        for at, count in zip(shards, counts, strict=True)
    )
    return sum(count for count in known if not isinstance(count, Failed)) >= LARGE


def _shards(db: Db, listener: ListenerId) -> tuple[int, ...]:
    kept = host_shards_of.last_good(db, listener.gateway)
    return () if isinstance(kept, Failed) else kept.get(listener, ())
