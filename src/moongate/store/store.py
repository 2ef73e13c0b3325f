"""The resources that are in force, in engine cells, with indexes: the only mutable state of the core.

Theory of operation
===================
One cell per resource (its key is the ``Ref``) and one per index bucket. ``apply`` takes a batch, works
out which buckets it touches, and writes each touched cell once, however many changes met in it. An
index yields ``(key, value)`` pairs from a resource alone; a bucket is the sorted tuple of the distinct
values under a key. Readers ask for exactly one resource or one bucket, so that is what re-runs them.

Fan-in
======
A join over thousands (all routes of a Gateway) reads a ``PartedIndex`` whose parts are shards. One change
then rebuilds one small bucket and re-runs one small query, not a walk over all. One more cell per key says
which parts there are, so that a Gateway with one route has one shard.

Invariant
=========
A bucket's values are in its cell and nowhere else. Only where several resources contribute the same value
the store counts how many do beyond the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from moongate.api.base import Ref, Resource
    from moongate.engine import Db
    from moongate.store.indexes import Index, PartedIndex

    AnyIndex: TypeAlias = Index[Any, Any] | PartedIndex[Any, Any, Any]

_Cell: TypeAlias = "tuple[Hashable, ...]"
"""Key of a bucket's cell: ("index", name, key), and the part where there is one."""
_Steps: TypeAlias = "dict[_Cell, dict[Any, int]]"
"""Bucket → value → by how many its contributions grow."""


class Store:
    """Writes batches into cells and keeps the indexes.

    Args:
        db: where the cells live.
        indexes: all indexes that will be read.
    """

    def __init__(self, db: Db, indexes: Iterable[AnyIndex]) -> None:
        self.db = db
        self._resources: dict[Ref, Resource] = {}
        self._repeats: dict[tuple[_Cell, Any], int] = {}
        """How many resources contribute a value to a bucket beyond the first, where any do."""
        self._by_kind: dict[tuple[str, str], list[AnyIndex]] = {}
        for index in indexes:
            for kind in index.kinds:
                self._by_kind.setdefault((kind.GROUP, kind.KIND), []).append(index)

    def differing(self, batch: Mapping[Ref, Resource | None]) -> dict[Ref, Resource | None]:
        """The part of a batch that differs from the resources in force (``None`` deletes)."""
        return {ref: new for ref, new in batch.items() if self._resources.get(ref) != new}

    def apply(self, changes: Mapping[Ref, Resource | None], *, urgent: bool = False) -> None:
        """Put changes in force, with urgent writes or others.

        Args:
            changes: new states of resources, all of which differ from the state in force (``differing``).
            urgent: whether the engine settles the readers of these cells before it settles others.
        """
        steps: _Steps = {}
        for ref, new in changes.items():
            old = self._resources.get(ref)
            for index in self._by_kind.get((ref.group, ref.kind), ()):
                _compare(index, ref, old, new, steps)
            if new is None:
                del self._resources[ref]
            else:
                self._resources[ref] = new
            self.db.put(ref, new, urgent=urgent)
        parts: _Steps = {}
        for cell, values in steps.items():
            grown = self._write(cell, values, urgent=urgent)
            if grown and len(cell) > len(("index", "name", "key")):
                parts.setdefault(cell[:-1], {})[cell[-1]] = grown
        for cell, values in parts.items():
            self._write(cell, values, urgent=urgent)

    def resources(self) -> Mapping[Ref, Resource]:
        """Everything in force, in order of arrival."""
        return self._resources

    def _write(self, cell: _Cell, steps: Mapping[Any, int], *, urgent: bool) -> int:
        """Write one bucket: 1 if it came into being, -1 if it ceased to be, 0 otherwise."""
        before: tuple[Any, ...] = self.db.read(cell) or ()
        values = dict.fromkeys(before)
        for value, step in steps.items():
            at = (cell, value)
            count = step + (1 + self._repeats.get(at, 0) if value in values else 0)
            assert count >= 0, "it was contributed before"
            if count > 1:
                self._repeats[at] = count - 1
            else:
                self._repeats.pop(at, None)
            if count:
                values[value] = None
            else:
                values.pop(value, None)
        # Sorting is next to nothing here: all but the new ones are in order.
        self.db.put(cell, tuple(sorted(values)) or None, urgent=urgent)
        return bool(values) - bool(before)


def _compare(index: AnyIndex, ref: Ref, old: Resource | None, new: Resource | None, steps: _Steps) -> None:
    """Add what a resource contributes to an index otherwise than before."""
    before: dict[tuple[Any, ...], None] = dict.fromkeys(index.entries(old)) if old is not None else {}
    after: dict[tuple[Any, ...], None] = dict.fromkeys(index.entries(new)) if new is not None else {}
    for entries, others, step in ((before, after, -1), (after, before, 1)):
        for entry in entries:
            if entry not in others:
                *key, value = entry
                # One object for the name of a resource, wherever it stands.
                value = ref if value == ref else value
                bucket = steps.setdefault(("index", index.name, *key), {})
                bucket[value] = bucket.get(value, 0) + step
