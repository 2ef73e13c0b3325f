"""What is observed from outside, and in which order it is named."""

from __future__ import annotations

from moongate.engine import Db, Root
from tests.engine.arithmetic import (
    doubled,
    parity,
    settle_all,
    shouted,
)


def test_a_new_root_is_in_doubt_also_when_its_value_is_known(db: Db) -> None:
    """Who observes wants to hear of the first value, whoever computed it."""
    db.put("a", 1)
    shouted(db, "a")

    root = db.observe(parity, "a")

    assert db.next_dirty() is root


def test_a_root_in_doubt_is_named_until_it_is_settled(db: Db) -> None:
    db.put("a", 1)
    root = db.observe(parity, "a")
    settle_all(db)
    assert db.next_dirty() is None

    db.put("a", 2)

    assert db.next_dirty() is root
    settle_all(db)
    assert (db.next_dirty(), root.value) == (None, "even")


def test_a_root_that_another_settled_is_named_all_the_same(db: Db) -> None:
    """Its observer has not heard of it yet."""
    db.put("a", 1)
    low, high = db.observe(parity, "a", rank=1), db.observe(shouted, "a", rank=0)
    settle_all(db)
    db.put("a", 2)
    assert db.next_dirty() is high

    for _ in db.settle(high):
        pass

    assert (db.next_dirty(), low.value) == (low, "even")


def test_the_lowest_rank_goes_first_then_who_came_first(db: Db) -> None:
    roots = [db.observe(doubled, cell, rank=rank) for cell, rank in [("a", 2), ("b", 1), ("c", 2), ("d", 0)]]

    order: list[Root[int]] = []
    while (root := db.next_dirty()) is not None:
        order.append(root)
        list(db.settle(root))

    assert order == [roots[3], roots[1], roots[0], roots[2]]


def test_what_an_urgent_write_puts_in_doubt_waits_for_no_other(db: Db) -> None:
    """Not even if it was in doubt before, behind others."""
    for cell in "abc":
        db.put(cell, 1)
    roots = {cell: db.observe(doubled, cell, eager=True) for cell in "abc"}
    settle_all(db)
    for cell in "abc":
        db.put(cell, 2)
    assert db.next_urgent() is None

    for cell in "ca":
        db.put(cell, 3, urgent=True)

    assert db.next_urgent() is roots["c"], "the first, of those that are urgent"
    assert db.next_dirty() is roots["b"]
    list(db.settle(roots["c"]))
    assert db.next_urgent() is roots["a"]
    list(db.settle(roots["a"]))
    assert (db.next_urgent(), roots["c"].value, roots["b"].value) == (None, 6, 2)


def test_only_an_eager_root_with_a_value_can_be_urgent(db: Db) -> None:
    """Whoever waits for a first value has nothing that could be wrong meanwhile."""
    db.put("a", 1)
    patient = db.observe(parity, "a")
    settle_all(db)
    new = db.observe(doubled, "a", eager=True)

    db.put("a", 2, urgent=True)

    assert db.next_urgent() is None
    for _ in db.settle(new):
        db.put("a", 3, urgent=True)
        assert db.next_urgent() is None
    settle_all(db)
    assert (patient.value, new.value) == ("odd", 6)


def test_a_root_is_named_again_for_whom_wants_another_look(db: Db) -> None:
    root = db.observe(parity, "a")
    settle_all(db)
    db.counts.clear()

    db.requeue(root)

    assert db.next_dirty() is root
    settle_all(db)
    assert (db.next_dirty(), db.counts) == (None, {})


def test_a_released_root_is_named_no_more(db: Db) -> None:
    root = db.observe(parity, "a")

    db.release(root)
    db.release(root)
    db.requeue(root)

    assert db.next_dirty() is None


def test_releasing_an_old_root_does_not_end_a_new_one(db: Db) -> None:
    old = db.observe(parity, "a")
    db.release(old)
    new = db.observe(parity, "a")

    db.release(old)

    assert db.next_dirty() is new


def test_a_root_has_no_value_before_it_is_settled() -> None:
    assert Db().observe(parity, "a").value is None


def test_an_owner_has_news_as_long_as_a_root_of_it_waits(db: Db) -> None:
    """Whoever asks this at each change must not walk over all of its roots."""
    db.put("a", 1)
    roots = (
        db.observe(doubled, "a", owner="one", eager=True),
        db.observe(parity, "a", owner="one", eager=True),
    )
    other = db.observe(doubled, "b", owner="other")
    assert db.has_news_for("one")
    settle_all(db)
    assert not db.has_news_for("one")

    db.put("a", 2)

    assert db.has_news_for("one")
    assert not db.has_news_for("other")
    for left, root in enumerate(roots):
        assert db.has_news_for("one"), left
        list(db.settle(root))
    assert not db.has_news_for("one")
    db.put("a", 3, urgent=True)
    db.put("a", 4)
    assert db.has_news_for("one")
    for root in roots:
        db.release(root)
    assert not db.has_news_for("one")
    db.requeue(other)
    assert db.has_news_for("other")
