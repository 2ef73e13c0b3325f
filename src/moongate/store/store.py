"""The resources that are in force, in engine cells, with indexes: the only mutable state of the core.

Theory of operation
===================
One cell per resource (its key is the ``Ref``) and one per index bucket. ``apply`` takes a batch, works
out which buckets it touches, and writes each touched cell once, however many changes met in it. An
index yields ``(key, value)`` pairs from a resource alone; a bucket is the sorted tuple of the distinct
values under a key. Readers ask for exactly one resource or one bucket, so that is what re-runs them.

Fan-in
======
A join over thousands (all routes of a Gateway) reads an index whose keys end in a shard number. One
change then rebuilds one small bucket and re-runs one small query, not a walk over all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from moongate.api.base import Ref, Resource
    from moongate.engine import Db
    from moongate.store.indexes import Index


class Store:
    """Writes batches into cells and keeps the indexes.

    Args:
        db: where the cells live.
        indexes: all indexes that ``find`` will be asked about.
    """

    def __init__(self, db: Db, indexes: Iterable[Index[Any, Any]]) -> None:
        self.db = db
        self._held: dict[Ref, Resource] = {}
        self._buckets: dict[tuple[str, str, Hashable], dict[Any, int]] = {}
        """Cell of an index → value → how many resources contribute it."""
        self._by_kind: dict[tuple[str, str], list[Index[Any, Any]]] = {}
        for index in indexes:
            for kind in index.kinds:
                self._by_kind.setdefault((kind.GROUP, kind.KIND), []).append(index)

    def apply(self, batch: Mapping[Ref, Resource | None], *, urgent: bool = False) -> bool:
        """Put a batch in force, with urgent writes or others. True if anything differs from before.

        Returns:
            False when every resource of the batch equals the one held, so that nothing is in doubt.
        """
        touched: dict[tuple[str, str, Hashable], None] = {}
        changed = False
        for ref, new in batch.items():
            old = self._held.get(ref)
            if old == new:
                continue
            changed = True
            for index in self._by_kind.get((ref.group, ref.kind), ()):
                self._move(index, old, new, touched)
            if new is None:
                del self._held[ref]
            else:
                self._held[ref] = new
            self.db.put(ref, new, urgent=urgent)
        for key in touched:
            bucket = self._buckets[key]
            self.db.put(key, tuple(sorted(bucket)) or None, urgent=urgent)
            if not bucket:
                del self._buckets[key]
        return changed

    def held(self) -> Mapping[Ref, Resource]:
        """Everything in force, in order of arrival."""
        return self._held

    def _move(
        self,
        index: Index[Any, Any],
        old: Resource | None,
        new: Resource | None,
        touched: dict[tuple[str, str, Hashable], None],
    ) -> None:
        before = set(index.entries(old)) if old is not None else set[tuple[Any, Any]]()
        after = set(index.entries(new)) if new is not None else set[tuple[Any, Any]]()
        for entries, step in ((before - after, -1), (after - before, 1)):
            for key, value in entries:
                cell = ("index", index.name, key)
                bucket = self._buckets.get(cell)
                if bucket is None:
                    bucket = self._buckets[cell] = {}
                count = bucket.get(value, 0) + step
                if count == 0:
                    del bucket[value]
                    touched[cell] = None
                    continue
                bucket[value] = count
                if count == step:
                    touched[cell] = None
