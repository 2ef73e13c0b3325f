"""The engine by itself: cells, queries over them, and what runs when something changes."""

# The invariants of the engine are about what it holds inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate import engine
from moongate.engine import CLEAN, SUSPECT, Contained, Db, Failed, Root, query

# -- cells and queries -------------------------------------------------------


@query
def doubled(db: Db, cell: str) -> int:
    return 2 * (db.read(cell) or 0)


@query
def is_even(db: Db, cell: str) -> bool:
    return (db.read(cell) or 0) % 2 == 0


@query
def told(db: Db, cell: str) -> str:
    return "even" if is_even(db, cell) else "odd"


@query
def told_loudly(db: Db, cell: str) -> str:
    return told(db, cell).upper()


@query
def tells_nth(db: Db, n: int) -> str:
    return f"{told(db, 'a')} {n}"


def settle_all(db: Db) -> None:
    while (root := db.next_urgent() or db.next_dirty()) is not None:
        for _ in db.settle(root):
            pass


def test_an_absent_cell_reads_none() -> None:
    assert Db().read("a") is None


def test_reading_an_absent_cell_from_outside_leaves_nothing_behind() -> None:
    db = Db()

    db.read("a")

    assert len(db) == 0


def test_a_query_is_computed_once() -> None:
    db = Db()
    db.put("a", 2)

    assert [doubled(db, "a"), doubled(db, "a")] == [4, 4]
    assert db.counts == {"doubled": 1}


def test_a_written_cell_recomputes_its_readers_when_they_are_asked() -> None:
    db = Db()
    db.put("a", 2)
    doubled(db, "a")
    db.put("a", 3)

    assert db.counts["doubled"] == 1, "writing runs nothing"
    assert doubled(db, "a") == 6


def test_a_query_learns_when_a_cell_that_it_missed_appears() -> None:
    db = Db()
    assert doubled(db, "a") == 0

    db.put("a", 5)

    assert doubled(db, "a") == 10


def test_a_query_learns_when_a_cell_goes() -> None:
    db = Db()
    db.put("a", 5)
    doubled(db, "a")

    db.put("a", None)

    assert doubled(db, "a") == 0


def test_put_tells_whether_something_changed() -> None:
    db = Db()

    assert [db.put("a", 1), db.put("a", 1), db.put("a", 2), db.put("a", None), db.put("a", None)] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_writing_an_equal_value_disturbs_nobody() -> None:
    db = Db()
    db.put("a", (1, 2))
    root = db.observe(doubled, "a")
    settle_all(db)

    db.put("a", (1, 2))

    assert db.next_dirty() is None
    assert root.value == (1, 2, 1, 2)


def test_a_query_must_not_write() -> None:
    """Or the order of reads would decide the answer."""

    @query
    def writes(db: Db) -> None:
        db.put("a", 1)

    with pytest.raises(Contained) as raised:
        writes(Db())

    assert "a query must not write" in raised.value.failed.trace


def test_arguments_are_the_key() -> None:
    db = Db()
    db.put("a", 1)
    db.put("b", 2)

    assert (doubled(db, "a"), doubled(db, "b")) == (2, 4)
    assert db.counts == {"doubled": 2}


# -- equal results -----------------------------------------------------------


def test_an_equal_result_stops_the_wave() -> None:
    db = Db()
    db.put("a", 2)
    told_loudly(db, "a")
    db.counts.clear()

    db.put("a", 4)

    assert told_loudly(db, "a") == "EVEN"
    assert db.counts == {"is_even": 1}


def test_the_wave_goes_as_far_as_results_differ() -> None:
    db = Db()
    db.put("a", 2)
    told_loudly(db, "a")
    db.counts.clear()

    db.put("a", 3)

    assert told_loudly(db, "a") == "ODD"
    assert db.counts == {"is_even": 1, "told": 1, "told_loudly": 1}


def test_undoing_a_write_before_anyone_asked_costs_only_the_direct_readers() -> None:
    db = Db()
    db.put("a", 2)
    told_loudly(db, "a")
    db.counts.clear()

    db.put("a", 3)
    db.put("a", 2)
    told_loudly(db, "a")

    assert db.counts == {"is_even": 1}


def test_a_diamond_recomputes_each_corner_once() -> None:
    @query
    def left(db: Db) -> int:
        return doubled(db, "a") + 1

    @query
    def right(db: Db) -> int:
        return doubled(db, "a") + 2

    @query
    def top(db: Db) -> int:
        return left(db) * right(db)

    db = Db()
    db.put("a", 1)
    top(db)
    db.counts.clear()
    db.put("a", 2)

    assert top(db) == 30
    assert db.counts == {"doubled": 1, "left": 1, "right": 1, "top": 1}


def test_a_query_forgets_what_it_no_longer_reads() -> None:
    @query
    def one_of(db: Db) -> int:
        return doubled(db, db.read("which"))

    db = Db()
    db.put("which", "a")
    db.put("a", 1)
    db.put("b", 2)
    one_of(db)
    db.put("which", "b")
    one_of(db)
    db.counts.clear()

    db.put("a", 7)

    assert one_of(db) == 4
    assert db.counts == {}


# -- what a change touches ---------------------------------------------------


def test_one_changed_child_of_ten_thousand_touches_one() -> None:
    """The doubt that a parent keeps names the child, so that settling never walks the others."""
    cells = [f"c{n}" for n in range(10_000)]

    @query
    def all_even(db: Db) -> bool:
        return min(is_even(db, cell) for cell in cells)

    db = Db()
    for cell in cells:
        db.put(cell, 2)
    root = db.observe(all_even)
    settle_all(db)
    parent = db._memos[all_even, ()]
    db.counts.clear()

    db.put("c77", 4)
    list(db.paint())

    assert list(map(repr, parent.suspects or ())) == ["is_even('c77',)"]
    assert sum(1 for _ in db.settle(root)) == 1
    assert db.counts == {"is_even": 1}


def test_doubts_do_not_pile_up_while_nobody_asks() -> None:
    """A reader that is never asked again may be put in doubt for days."""
    db = Db()
    db.put("a", 0)
    told_loudly(db, "a")

    for n in range(100):
        db.put("a", n)
        told(db, "a")

    assert len(db._memos[told_loudly, ("a",)].suspects or ()) <= 1


def test_a_long_chain_is_settled_without_recursion() -> None:
    """The stack of a settle is its own, so that depth is no matter of Python's."""

    @query
    def step(db: Db, n: int) -> int:
        return (step(db, n - 1) if n else db.read("a")) + 1

    db = Db()
    db.put("a", 0)
    for n in range(5_000):
        step(db, n)

    db.put("a", 1)

    assert step(db, 4_999) == 5_001


# -- failures ----------------------------------------------------------------


@query
def inverse(db: Db, cell: str) -> float:
    return 1 / db.read(cell)


@query
def percent(db: Db, cell: str) -> float:
    return 100 * inverse(db, cell)


@query
def percent_or_none(db: Db, cell: str) -> float | None:
    found = percent.attempt(db, cell)
    return None if isinstance(found, Failed) else found


def failed(db: Db) -> Failed:
    value = percent.attempt(db, "a")
    assert isinstance(value, Failed)
    return value


def test_a_failure_is_a_value_that_names_where_it_began() -> None:
    db = Db()
    db.put("a", 0)
    failure = failed(db)

    assert (failure.query, failure.args) == ("inverse", "('a',)")
    assert failure.error.startswith("ZeroDivisionError in inverse (test_engine.py:")
    assert "return 1 / db.read(cell)" in failure.trace


def test_a_failure_quotes_nothing_that_was_read() -> None:
    """Exceptions do, those behind them too, and among the inputs are passwords."""

    @query
    def parsed(db: Db) -> int:
        try:
            return int(db.read("password"))
        except ValueError as error:
            raise RuntimeError(f"cannot use {db.read('password')}") from error

    db = Db()
    db.put("password", "hunter2")
    failure = parsed.attempt(db)

    assert isinstance(failure, Failed)
    assert "hunter2" not in str(failure)
    assert "ValueError" in failure.trace


def test_all_that_a_failure_reached_is_known() -> None:
    """Each call with its arguments: who shows failures finds those they concern."""
    db = Db()
    assert (list(db.failed_calls()), db.failing) == ([], 0)
    db.put("a", 0)
    percent_or_none(db, "a")

    failed_calls = list(db.failed_calls())
    before = db.failing
    db.put("a", 4)
    percent_or_none(db, "a")

    assert [(args, each.query) for args, each in failed_calls] == [(("a",), "inverse")] * 2
    assert list(db.failed_calls()) == []
    assert db.failing > before


def test_a_failure_has_the_same_id_wherever_it_is_told() -> None:
    db = Db()
    db.put("a", 0)
    below = inverse.attempt(db, "a")

    assert isinstance(below, Failed)
    assert failed(db).id == below.id


def test_a_failed_query_raises_for_who_calls_it() -> None:
    db = Db()
    db.put("a", 0)

    with pytest.raises(Contained, match=r"inverse\('a',\) failed: ZeroDivisionError in inverse "):
        percent(db, "a")


def test_an_attempt_ends_the_failure() -> None:
    db = Db()
    db.put("a", 0)

    assert percent_or_none(db, "a") is None


def test_a_failure_ends_when_its_reason_does() -> None:
    db = Db()
    db.put("a", 0)
    percent_or_none(db, "a")

    db.put("a", 4)

    assert percent_or_none(db, "a") == 25


def test_failures_in_force_are_listed_where_they_began() -> None:
    db = Db()
    db.put("a", 0)
    percent_or_none(db, "a")
    assert list(db.failures) == ["inverse('a',)"]

    db.put("a", 4)
    percent_or_none(db, "a")

    assert db.failures == {}


def test_a_failure_that_nobody_reads_any_more_is_not_listed() -> None:
    db = Db()
    db.put("a", 0)
    root = db.observe(percent_or_none, "a")
    settle_all(db)

    db.release(root)
    db.collect()

    assert db.failures == {}


def test_an_equal_failure_stops_the_wave() -> None:
    db = Db()
    db.put("a", 0)
    percent_or_none(db, "a")
    db.counts.clear()

    db.put("a", 0.0)
    db.put("b", 1)
    percent_or_none(db, "a")

    assert db.counts == {}


# -- circles -----------------------------------------------------------------


@query
def one_way(db: Db) -> int:
    return other_way(db) + 1


@query
def other_way(db: Db) -> int:
    return (one_way(db) if db.read("circle") else 0) + 1


@query
def tries(db: Db) -> str:
    return "caught" if isinstance(tried.attempt(db), Failed) else "fine"


@query
def tried(db: Db) -> str:
    return tries(db)


@query
def selfish(db: Db) -> int:
    return selfish(db) + 1


CIRCLE = "Cycle: queries read each other in a circle: one_way() -> other_way() -> one_way()"


@pytest.mark.parametrize("entry", [one_way, other_way])
def test_a_circle_fails_and_names_its_queries(entry: Any) -> None:
    """Both fail, in the same words, wherever it was entered."""
    db = Db()
    db.put("circle", 1)
    entry.attempt(db)

    assert [one_way.attempt(db), other_way.attempt(db)] == [
        Failed("one_way", "()", failure_id(db), CIRCLE, CIRCLE)
    ] * 2


def failure_id(db: Db) -> str:
    value = one_way.attempt(db)
    assert isinstance(value, Failed)
    return value.id


def test_a_query_that_reads_itself_says_so() -> None:
    with pytest.raises(Contained, match=r"in a circle: selfish\(\) -> selfish\(\)"):
        selfish(Db())


@pytest.mark.parametrize("entry", [tries, tried])
def test_who_attempts_on_a_circle_fails_with_it(entry: Any) -> None:
    """Else the answer would depend on which of them was asked first."""
    db = Db()
    entry.attempt(db)

    assert all(isinstance(q.attempt(db), Failed) for q in (tries, tried))


def test_a_circle_that_opens_again_is_forgotten() -> None:
    db = Db()
    db.put("circle", 1)
    one_way.attempt(db)

    db.put("circle", None)

    assert one_way(db) == 2
    assert db.failures == {}


def test_a_circle_that_closes_is_found() -> None:
    db = Db()
    one_way(db)

    db.put("circle", 1)

    assert isinstance(one_way.attempt(db), Failed)
    assert list(db.failures) == ["one_way()"]


def test_turning_an_edge_round_is_no_circle() -> None:
    """What was read last time may point the other way; only a run can tell, and it does."""

    @query
    def left(db: Db) -> str:
        return "left+" + right(db) if db.read("from") == "left" else "left"

    @query
    def right(db: Db) -> str:
        return "right+" + left(db) if db.read("from") == "right" else "right"

    @query
    def both(db: Db) -> tuple[str, str]:
        return left(db), right(db)

    db = Db()
    db.put("from", "left")
    assert both(db) == ("left+right", "right")

    db.put("from", "right")

    assert both(db) == ("left", "right+left")


# -- dropping ----------------------------------------------------------------


def test_what_nobody_observes_is_dropped_with_all_that_it_read() -> None:
    db = Db()
    db.put("a", 1)
    root = db.observe(told_loudly, "a")
    settle_all(db)
    assert (db.collect(), len(db)) == (0, 4)

    db.release(root)

    assert (db.collect(), len(db)) == (3, 1)


def test_what_others_read_stays() -> None:
    db = Db()
    db.put("a", 1)
    kept, let_go = db.observe(told, "a"), db.observe(told_loudly, "a")
    settle_all(db)

    db.release(let_go)

    assert db.collect() == 1
    assert kept.value == "odd"


def test_a_call_from_outside_is_dropped_too() -> None:
    """Else each question that a console asks would stay for ever."""
    db = Db()
    db.put("a", 1)
    told_loudly(db, "a")

    db.collect()

    assert len(db) == 1


def test_dropping_can_stop() -> None:
    db = Db()
    root = db.observe(told_loudly, "a")
    settle_all(db)

    db.release(root)

    assert [db.collect(2), db.collect(2), db.collect(2)] == [2, 2, 0]
    assert len(db) == 0


def test_a_cell_without_value_goes_with_its_last_reader() -> None:
    db = Db()
    root = db.observe(doubled, "a")
    settle_all(db)
    assert len(db) == 2

    db.release(root)
    db.collect()

    assert len(db) == 0


def test_a_cell_that_came_back_is_not_dropped_for_the_one_that_went() -> None:
    """The cell that went is noted as unread; its name is in use again when that is acted upon."""
    db = Db()
    db.put("a", 1)
    root = db.observe(doubled, "a")
    settle_all(db)
    db.release(root)
    db.collect()
    root = db.observe(doubled, "a")
    settle_all(db)
    db.release(root)
    db._rewire(db._memos[doubled, ("a",)], {})

    db.put("a", None)
    db.put("a", 2)
    db.collect()

    assert db.read("a") == 2


def test_a_settle_that_comes_back_to_what_was_dropped_does_nothing() -> None:
    db = Db()
    db.put("a", 1)
    root = db.observe(told_loudly, "a")
    settle_all(db)
    db.put("a", 2)
    settling = db.settle(root)
    next(settling)
    db.release(root)
    db.collect()
    before = len(db)

    assert [*settling] == []
    assert len(db) == before


def test_dropped_memory_is_free() -> None:
    """Nothing but reference counts is needed: no garbage is left for the collector to find."""

    class Value:
        pass

    @query
    def holds(db: Db, cell: str) -> Any:
        return db.read(cell), Value()

    db = Db()
    db.put("a", 1)
    root = db.observe(holds, "a")
    settle_all(db)
    value: Any = root.value
    alive: weakref.ref[Value] = weakref.ref(value[1])
    gc.disable()
    try:
        db.release(root)
        db.collect()
        del value, root
        assert alive() is None
    finally:
        gc.enable()


# -- roots -------------------------------------------------------------------


def test_a_new_root_is_in_doubt_also_when_its_value_is_known() -> None:
    """Who observes wants to be told the first value, whoever computed it."""
    db = Db()
    db.put("a", 1)
    told_loudly(db, "a")

    root = db.observe(told, "a")

    assert db.next_dirty() is root


def test_a_root_in_doubt_is_named_until_it_is_settled() -> None:
    db = Db()
    db.put("a", 1)
    root = db.observe(told, "a")
    settle_all(db)
    assert db.next_dirty() is None

    db.put("a", 2)

    assert db.next_dirty() is root
    settle_all(db)
    assert (db.next_dirty(), root.value) == (None, "even")


def test_a_root_that_another_settled_is_named_all_the_same() -> None:
    """Its observer has not been told yet."""
    db = Db()
    db.put("a", 1)
    low, high = db.observe(told, "a", rank=1), db.observe(told_loudly, "a", rank=0)
    settle_all(db)
    db.put("a", 2)
    assert db.next_dirty() is high

    for _ in db.settle(high):
        pass

    assert (db.next_dirty(), low.value) == (low, "even")


def test_the_lowest_rank_goes_first_then_who_came_first() -> None:
    db = Db()
    roots = [db.observe(doubled, cell, rank=rank) for cell, rank in [("a", 2), ("b", 1), ("c", 2), ("d", 0)]]

    order: list[Root[int]] = []
    while (root := db.next_dirty()) is not None:
        order.append(root)
        list(db.settle(root))

    assert order == [roots[3], roots[1], roots[0], roots[2]]


def test_what_an_urgent_write_puts_in_doubt_waits_for_no_other() -> None:
    """Not even if it was in doubt before, behind others."""
    db = Db()
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


def test_only_an_eager_root_with_a_value_can_be_urgent() -> None:
    """Whoever waits for a first value has nothing that could be wrong meanwhile."""
    db = Db()
    db.put("a", 1)
    patient = db.observe(told, "a")
    settle_all(db)
    new = db.observe(doubled, "a", eager=True)

    db.put("a", 2, urgent=True)

    assert db.next_urgent() is None
    for _ in db.settle(new):
        db.put("a", 3, urgent=True)
        assert db.next_urgent() is None
    settle_all(db)
    assert (patient.value, new.value) == ("odd", 6)


def test_an_urgent_root_is_settled_while_others_are_still_to_be_painted() -> None:
    """What follows from a cell that thousands read is painted in slices, too."""
    db = Db()

    @query
    def among_many(db: Db, n: int) -> int:
        return doubled(db, f"c{n}") + doubled(db, "all")

    for n in range(1_000):
        db.observe(among_many, n, eager=True)
    settle_all(db)
    db.put("all", 1)
    painting = db.paint()
    next(painting)
    assert db.unpainted
    db.counts.clear()

    db.put("c7", 1, urgent=True)
    root = db.next_urgent()
    assert root is not None
    steps = len(list(db.settle(root)))

    assert (root.value, steps) == (4, 3)
    assert db.counts == {"doubled": 2, "among_many": 1}
    assert db.unpainted


def test_an_urgent_write_finds_roots_near_by_whatever_else_reads_the_same() -> None:
    """Thousands of readers of readers are left to be painted in slices."""
    db = Db()
    for n in range(1_000):
        db.observe(tells_nth, n)
    root = db.observe(told, "a", eager=True)
    settle_all(db)
    db.put("a", 1, urgent=True)
    assert db.unpainted

    assert db.next_urgent() is root
    list(db.settle(root))
    settle_all(db)
    assert (root.value, db.counts["tells_nth"]) == ("odd", 2_000)


def test_an_urgent_write_finds_roots_near_by_whatever_was_in_doubt_before() -> None:
    """As when a slice was written together with routes, which are still recomputed, and then alone."""
    db = Db()
    for cell in "ab":
        db.put(cell, 1)
    root = db.observe(told, "a", eager=True)
    db.observe(told, "b", eager=True)
    settle_all(db)
    for cell in "ab":
        db.put(cell, 2)

    db.put("a", 3, urgent=True)
    assert db.next_urgent() is root
    db.put("a", 4, urgent=True)
    list(db.settle(root))

    assert (root.value, db.next_urgent()) == ("even", None)


def test_painting_can_stop_and_is_finished_by_who_asks() -> None:
    db = Db()
    roots = [db.observe(tells_nth, n) for n in range(1_000)]
    settle_all(db)
    db.put("a", 1)
    assert sum(1 for _ in db.paint()) > 1
    assert tells_nth(db, 7) == "odd 7"
    db.put("a", 2)
    next(db.paint())

    assert tells_nth(db, 7) == roots[7].value == "even 7"


def test_a_root_is_named_again_for_whom_wants_another_look() -> None:
    db = Db()
    root = db.observe(told, "a")
    settle_all(db)
    db.counts.clear()

    db.tell_again(root)

    assert db.next_dirty() is root
    settle_all(db)
    assert (db.next_dirty(), db.counts) == (None, {})


def test_a_released_root_is_named_no_more() -> None:
    db = Db()
    root = db.observe(told, "a")

    db.release(root)
    db.release(root)
    db.tell_again(root)

    assert db.next_dirty() is None


def test_releasing_an_old_root_does_not_end_a_new_one() -> None:
    db = Db()
    old = db.observe(told, "a")
    db.release(old)
    new = db.observe(told, "a")

    db.release(old)

    assert db.next_dirty() is new


def test_a_root_has_no_value_before_it_is_settled() -> None:
    assert Db().observe(told, "a").value is None


# -- slices ------------------------------------------------------------------


def test_settling_stops_after_each_run() -> None:
    db = Db()
    db.put("a", 1)
    root = db.observe(told_loudly, "a")
    settle_all(db)
    db.put("a", 2)
    db.counts.clear()

    seen = [dict(db.counts) for _ in db.settle(root)]

    assert seen == [
        {"is_even": 1},
        {"is_even": 1, "told": 1},
        {"is_even": 1, "told": 1, "told_loudly": 1},
    ]


def test_an_abandoned_settle_loses_no_doubt() -> None:
    """A driver that turns to something urgent never comes back to the same generator."""
    db = Db()
    db.put("a", 1)
    root = db.observe(told_loudly, "a")
    settle_all(db)
    db.put("a", 2)

    while (dirty := db.next_dirty()) is not None:
        for _ in db.settle(dirty):
            break

    assert root.value == "EVEN"


def test_a_write_between_slices_is_seen_by_the_same_settle() -> None:
    db = Db()
    db.put("a", 1)
    root = db.observe(told_loudly, "a")
    settle_all(db)
    db.put("a", 2)

    for n, _ in enumerate(db.settle(root)):
        if n == 1:
            db.put("a", 3)

    assert root.value == "ODD"


def test_another_root_may_be_settled_between_slices() -> None:
    db = Db()
    db.put("a", 1)
    slow, urgent = db.observe(told_loudly, "a", rank=1), db.observe(doubled, "a")
    settle_all(db)
    db.put("a", 2)
    settling = db.settle(slow)
    next(settling)
    assert db.next_dirty() is urgent

    for _ in db.settle(urgent):
        pass

    assert (urgent.value, slow.value) == (4, "ODD")
    assert [*settling, slow.value][-1] == "EVEN"


# -- answers about itself ----------------------------------------------------


def test_seconds_are_those_of_a_query_itself() -> None:
    """What a query calls is on the account of what it called."""
    now = itertools.count()

    @query
    def inner(db: Db) -> int:
        next(now)
        return 1

    @query
    def outer(db: Db) -> int:
        return inner(db)

    db = Db(clock=lambda: float(next(now)))
    outer(db)

    # The clock ticks once per look: inner from 1 to 3, outer from 0 to 4.
    assert db.seconds == {"inner": 2, "outer": 2}


def test_a_failing_query_is_counted_and_timed() -> None:
    now = itertools.count()
    db = Db(clock=lambda: float(next(now)))
    db.put("a", 0)
    percent_or_none(db, "a")

    assert db.counts == {"inverse": 1, "percent": 1, "percent_or_none": 1}
    assert set(db.seconds) == set(db.counts)


def test_reads_tell_what_a_call_read_in_order() -> None:
    db = Db()
    db.put("a", 1)
    told_loudly(db, "a")

    assert db.reads(told_loudly, "a") == ("told('a',)",)
    assert db.reads(is_even, "a") == ("cell 'a'",)
    assert db.reads(is_even, "b") == ()


def test_the_graph_names_each_call_with_its_reads() -> None:
    db = Db()
    db.put("a", 1)
    told(db, "a")

    assert db.graph() == {"told('a',)": ("is_even('a',)",), "is_even('a',)": ("cell 'a'",)}


# -- the law -----------------------------------------------------------------

CELLS = 4
Program = list[tuple[int, list[tuple[bool, int]], bool, int]]
"""Per query: modulus of its result, (to a cell?, which one) of its reads, whether it attempts, and the
residue at which it stops after its first read (so that reads come and go) or fails."""


@st.composite
def programs(draw: st.DrawFn) -> Program:
    program: Program = []
    for n in range(draw(st.integers(3, 7))):
        cells = st.tuples(st.just(True), st.integers(0, CELLS - 1))
        lower = st.tuples(st.just(False), st.integers(0, n - 1)) if n else cells
        reads = draw(st.lists(cells | lower | lower, min_size=1, max_size=4))
        program.append((draw(st.integers(1, 9)), reads, draw(st.booleans()), draw(st.integers(0, 20))))
    return program


def compiled(program: Program) -> Any:
    """A query ``run(db, n)`` that evaluates the n-th of a program."""

    @query
    def run(db: Db, n: int) -> int:
        modulus, reads, attempts, stop = program[n]
        total = n
        for place, (is_cell, which) in enumerate(reads):
            if is_cell:
                total += db.read(which) or 0
            elif attempts:
                found = run.attempt(db, which)
                total += 1 if isinstance(found, Failed) else found
            else:
                total += run(db, which)
            if place == 0 and total % 10 == stop:
                break
        if total % 20 == stop:
            raise ValueError(total)
        return total % modulus

    return run


values = st.none() | st.integers(1, 9)
writes = st.tuples(st.sampled_from(["write", "hurry"]), st.integers(0, CELLS - 1), values)
drives = st.tuples(st.sampled_from(["drive", "drive urgent"]), st.integers(1, 3), st.booleans())
edits = st.one_of(
    writes,
    writes,
    drives,
    drives,
    st.tuples(st.just("ask"), st.integers(0, 6), st.none()),
    st.tuples(st.just("release"), st.integers(0, 6), st.none()),
    st.tuples(st.just("observe"), st.integers(0, 13), st.integers(0, 2)),
    st.tuples(st.just("paint"), st.none(), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
    st.tuples(st.just("collect"), st.none() | st.just(1), st.none()),
)


def like(value: Any) -> Any:
    """A value for comparison: of a failure, all but its trace, which tells who asked."""
    return (value.query, value.args, value.id, value.error) if isinstance(value, Failed) else value


@settings(max_examples=10 * settings().max_examples)  # they are small, and so is what hides between slices
@given(programs(), st.lists(edits, max_size=40), st.sampled_from([1, 3, engine.STRIDE]))
def test_incremental_equals_from_scratch(
    program: Program, history: list[tuple[str, Any, Any]], stride: int
) -> None:
    """Whenever all is settled, however it was cut in slices, each answer is that of a fresh database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STRIDE", stride)  # or nothing this small would be painted in parts
        _play(program, history)


def _play(program: Program, history: list[tuple[str, Any, Any]]) -> None:
    db, run = Db(), compiled(program)
    cells: dict[int, int | None] = {}
    roots: dict[int, Root[int]] = {len(program) - 1: db.observe(run, len(program) - 1)}

    def check_roots() -> None:
        settle_all(db)
        check_invariants(db)
        assert all(node.paint == CLEAN for node in db._roots)
        assert {n: like(root.value) for n, root in roots.items()} == answers(run, fresh(cells), roots)

    check_roots()
    settling: Iterator[None] = iter(())
    for what, which, value in history:
        match what:
            case "write" | "hurry":
                db.put(which, value, urgent=what == "hurry")
                cells[which] = value
            case "drive" | "drive urgent":
                first = db.next_dirty if what == "drive" else db.next_urgent
                for _ in range(which):
                    if next(settling, settling) is settling and (root := first()) is not None:
                        settling = db.settle(root)
                settling = iter(()) if value else settling
            case "ask":
                n = which % len(program)
                assert answers(run, db, [n]) == answers(run, fresh(cells), [n])
            case "observe":
                n = which % len(program)
                roots.setdefault(n, db.observe(run, n, rank=value, eager=which != n))
            case "release":
                if (root := roots.pop(which % len(program), None)) is not None:
                    db.release(root)
            case "paint":
                next(db.paint(), None)
            case "settle":
                check_roots()
            case _:
                db.collect(which)
        check_invariants(db)

    check_roots()
    other = fresh(cells)
    assert answers(run, db, range(len(program))) == answers(run, other, range(len(program)))
    assert {key: like(value) for key, value in db.failures.items()} == {
        key: like(value) for key, value in other.failures.items()
    }

    for root in roots.values():
        db.release(root)
    list(settling)
    db.collect()
    assert len(db) == sum(1 for value in cells.values() if value is not None)
    assert (db.next_dirty(), db.failures) == (None, {})


def fresh(cells: Mapping[int, int | None]) -> Db:
    """A database that knows nothing but these cells."""
    db = Db()
    for cell, value in cells.items():
        db.put(cell, value)
    return db


def answers(run: Any, db: Db, asked: Iterable[int]) -> dict[int, Any]:
    return {n: like(run.attempt(db, n)) for n in asked}


def check_invariants(db: Db) -> None:
    """What must hold between any two steps."""
    held = {id(node) for node in (*db._cells.values(), *db._memos.values())}
    for node in db._memos.values():
        unclean = [read for read in node.reads if read.paint != CLEAN and read not in db.unpainted]
        assert node.paint != CLEAN or not unclean, f"{node} is CLEAN and has read {unclean}"
        assert node.paint != SUSPECT or set(unclean) <= set(node.suspects or ()), f"{node} lost a doubt"
        assert all(node in read.readers and id(read) in held for read in node.reads)
    for node in (*db._cells.values(), *db._memos.values()):
        assert all(node in reader.reads and id(reader) in held for reader in node.readers)


def test_invariants_are_checked_for_real() -> None:
    """A check that cannot fail proves nothing."""
    db = Db()
    db.put("a", 1)
    told(db, "a")
    db._memos[is_even, ("a",)].paint = SUSPECT

    with pytest.raises(AssertionError, match="CLEAN and has read"):
        check_invariants(db)
