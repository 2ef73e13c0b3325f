"""Which cells queries read, whether they hold anything or not."""

from __future__ import annotations

from moongate.engine import Db, query
from tests.engine.arithmetic import doubled, parity, settle_all


@query
def first(db: Db) -> int:
    """The double of whatever cell is named."""
    return doubled(db, db.read("which"))


def names(key: object) -> bool:
    return key != "which"


def test_a_cell_is_wanted_while_some_query_reads_it(db: Db) -> None:
    """Also one that holds nothing: that is how a source learns what to look for."""
    demand = db.demand(names)
    root = db.observe(doubled, "a")
    settle_all(db)
    assert (demand.take(), demand.take(), demand.wanted()) == ({"a": True}, {}, ("a",))

    db.put("a", 1)
    settle_all(db)
    assert demand.take() == {}

    db.release(root)
    db.collect()
    assert (demand.take(), demand.wanted()) == ({"a": False}, ())


def test_what_is_read_already_is_wanted_from_the_start(db: Db) -> None:
    db.put("idle", 1)
    db.observe(doubled, "a")
    settle_all(db)

    assert db.demand(names).take() == {"a": True}


def test_a_query_that_turns_to_another_cell_wants_that_one(db: Db) -> None:
    db.put("which", "a")
    db.observe(first)
    settle_all(db)
    demand = db.demand(names)
    demand.take()

    db.put("which", "b")
    settle_all(db)
    db.collect()

    assert demand.take() == {"a": False, "b": True}


def test_who_comes_and_goes_between_two_looks_makes_no_difference(db: Db) -> None:
    demand = db.demand(names)
    db.release(db.observe(parity, "a"))
    parity(db, "b")
    settle_all(db)
    db.collect()

    assert demand.take() == {}


def test_one_of_several_readers_that_leaves_does_not_end_the_demand(db: Db) -> None:
    demand = db.demand(names)
    db.observe(doubled, "a")
    other = db.observe(parity, "a")
    settle_all(db)
    demand.take()

    db.release(other)
    db.collect()

    assert demand.take() == {}
