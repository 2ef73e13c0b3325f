"""Reading the store: one resource, or one bucket of an index."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from moongate.api.base import Ref, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from moongate.engine import Db

R = TypeVar("R", bound=Resource)
V = TypeVar("V")
P = TypeVar("P")

SHARDS = 256
"""The number of buckets in a fan-in layer: a join of 20,000 routes reads 256 parts of about 80 routes.

A new route costs a look at all routes of a part, and at all parts: the sum is least where they are alike.
"""


def shard(key: str) -> int:
    """The fan-in bucket of a key; the same in every process, unlike ``hash`` of a string."""
    return zlib.crc32(key.encode()) % SHARDS


class Index(Struct, Generic[R, V], frozen=True, eq=False):
    """A way to find resources, or values that they mention.

    Args:
        name: unique among indexes; part of the cell's key.
        kinds: the kinds that it reads.
        entries: the ``(key, value)`` pairs of a resource; pure.
    """

    name: str
    kinds: tuple[type[R], ...]
    entries: Callable[[R], Iterable[tuple[Hashable, V]]]


class PartedIndex(Struct, Generic[R, P, V], frozen=True, eq=False):
    """An index whose buckets have parts, so that a reader can read single parts of a key.

    A reader can also read which parts a key has. A part without values does not exist and costs nothing.

    Args:
        name: unique among indexes; part of the cell's key.
        kinds: the kinds that it reads.
        entries: the ``(key, part, value)`` entries of a resource; pure.
    """

    name: str
    kinds: tuple[type[R], ...]
    entries: Callable[[R], Iterable[tuple[Hashable, P, V]]]


def get(db: Db, kind: type[R], ref: Ref) -> R | None:
    """One resource; ``None`` if it does not exist.

    Args:
        db: where to read.
        kind: its type, or a base of several kinds.
        ref: its reference.
    """
    resource = db.read(ref)
    assert ref.is_a(kind) or not kind.KIND, f"{ref} is not a {kind.KIND}"
    assert resource is None or isinstance(resource, kind), f"{ref} is not a {kind.__name__}"
    return resource


def find(db: Db, index: Index[Any, V], key: Hashable) -> tuple[V, ...]:
    """The distinct values under an index key, sorted."""
    return db.read(("index", index.name, key)) or ()


def find_in(db: Db, index: PartedIndex[Any, P, V], key: Hashable, part: P) -> tuple[V, ...]:
    """The distinct values in one part of an index key, sorted."""
    return db.read(("index", index.name, key, part)) or ()


def parts(db: Db, index: PartedIndex[Any, P, Any], key: Hashable) -> tuple[P, ...]:
    """The parts of an index key that have values, sorted."""
    return db.read(("index", index.name, key)) or ()
