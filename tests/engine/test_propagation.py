"""What a change puts in doubt is marked in slices, and what is urgent at once."""

from __future__ import annotations

import itertools
from typing import Any

from moongate.engine import STRIDE, Db, Root, query
from moongate.engine.nodes import CLEAN
from tests.engine.arithmetic import (
    doubled,
    numbered,
    parity,
    settle_all,
)


def in_doubt(root: Root[Any]) -> bool:
    return root.node.state != CLEAN


def test_an_urgent_root_is_settled_while_others_are_still_to_be_marked(db: Db) -> None:
    """What follows from a cell that thousands read is marked in slices, too."""

    @query
    def among_many(db: Db, n: int) -> int:
        return doubled(db, f"c{n}") + doubled(db, "all")

    for n in range(1_000):
        db.observe(among_many, n, eager=True)
    settle_all(db)
    db.put("all", 1)
    marking = db.propagate()
    next(marking)
    assert not db.propagated
    db.counts.clear()

    db.put("c7", 1, urgent=True)
    root = db.next_urgent()
    assert root is not None
    steps = len(list(db.settle(root)))

    assert (root.value, steps) == (4, 3)
    assert db.counts == {"doubled": 2, "among_many": 1}
    assert not db.propagated


def test_the_readers_of_one_node_are_marked_in_slices(db: Db) -> None:
    """Thousands of routes read the same answer about their Gateway."""
    roots = [db.observe(numbered, n) for n in range(10 * STRIDE)]
    settle_all(db)
    db.put("a", 1)

    marked = [0, *(sum(in_doubt(root) for root in roots) for _ in db.propagate())]

    assert db.propagated
    assert all(in_doubt(root) for root in roots)
    assert max(after - before for before, after in itertools.pairwise(marked)) <= STRIDE


def test_a_node_whose_readers_are_half_marked_may_be_put_in_doubt_again(db: Db) -> None:
    roots = [db.observe(numbered, n) for n in range(10 * STRIDE)]
    settle_all(db)
    db.put("a", 1)
    marking = db.propagate()
    next(marking)
    next(marking)

    for _ in db.settle(roots[3]):
        pass
    db.put("a", 2)
    settle_all(db)

    assert {root.value for root in roots} == {f"even {n}" for n in range(10 * STRIDE)}


def test_an_urgent_write_finds_roots_near_by_whatever_else_reads_the_same(db: Db) -> None:
    """Thousands of readers of readers are left to be marked in slices."""
    for n in range(1_000):
        db.observe(numbered, n)
    root = db.observe(parity, "a", eager=True)
    settle_all(db)
    db.put("a", 1, urgent=True)
    assert not db.propagated

    assert db.next_urgent() is root
    list(db.settle(root))
    settle_all(db)
    assert (root.value, db.counts["numbered"]) == ("odd", 2_000)


def test_an_urgent_write_finds_roots_near_by_whatever_was_in_doubt_before(db: Db) -> None:
    """As when a slice was written together with routes, which are still recomputed, and then alone."""
    for cell in "ab":
        db.put(cell, 1)
    root = db.observe(parity, "a", eager=True)
    db.observe(parity, "b", eager=True)
    settle_all(db)
    for cell in "ab":
        db.put(cell, 2)

    db.put("a", 3, urgent=True)
    assert db.next_urgent() is root
    db.put("a", 4, urgent=True)
    list(db.settle(root))

    assert (root.value, db.next_urgent()) == ("even", None)


def test_propagation_can_stop_and_is_finished_by_who_asks(db: Db) -> None:
    roots = [db.observe(numbered, n) for n in range(1_000)]
    settle_all(db)
    db.put("a", 1)
    assert sum(1 for _ in db.propagate()) > 1
    assert numbered(db, 7) == "odd 7"
    db.put("a", 2)
    next(db.propagate())

    assert numbered(db, 7) == roots[7].value == "even 7"


def test_with_marks_left_to_set_no_root_is_next(db: Db) -> None:
    """Who settles in slices sets them in slices, too."""
    root = db.observe(numbered, 0)
    settle_all(db)
    db.put("a", 1)
    assert not db.propagated
    assert db.next_marked() is None

    for _ in db.propagate():
        pass

    assert db.next_marked() is root
