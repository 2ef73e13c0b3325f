"""The engine by itself: cells, queries over them, and what runs when something changes."""

# These are about what the engine holds inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest

from moongate.engine import Contained, Db, Failed, Root, query
from moongate.engine.db import STEP
from tests.engine.arithmetic import (
    doubled,
    inverse,
    is_even,
    parity,
    percent_or_none,
    settle_all,
    shouted,
)

# -- cells and queries -------------------------------------------------------


def test_an_absent_cell_reads_none() -> None:
    assert Db().read("a") is None


def test_reading_an_absent_cell_from_outside_leaves_nothing_behind(db: Db) -> None:
    db.read("a")

    assert len(db) == 0


def test_a_written_cell_recomputes_its_readers_when_they_are_asked(db: Db) -> None:
    db.put("a", 2)
    doubled(db, "a")
    db.put("a", 3)

    assert db.counts["doubled"] == 1, "writing runs nothing"
    assert doubled(db, "a") == 6


def test_a_query_learns_when_a_cell_that_it_missed_appears(db: Db) -> None:
    assert doubled(db, "a") == 0

    db.put("a", 5)

    assert doubled(db, "a") == 10


def test_a_query_learns_when_a_cell_goes(db: Db) -> None:
    db.put("a", 5)
    doubled(db, "a")

    db.put("a", None)

    assert doubled(db, "a") == 0


def test_put_says_whether_something_changed(db: Db) -> None:
    assert [db.put("a", 1), db.put("a", 1), db.put("a", 2), db.put("a", None), db.put("a", None)] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_writing_an_equal_value_disturbs_nobody(db: Db) -> None:
    db.put("a", (1, 2))
    root = db.observe(doubled, "a")
    settle_all(db)

    db.put("a", (1, 2))

    assert db.next_dirty() is None
    assert root.value == (1, 2, 1, 2)


# -- equal results -----------------------------------------------------------


def test_an_equal_result_stops_the_wave(db: Db) -> None:
    db.put("a", 2)
    shouted(db, "a")
    db.counts.clear()

    db.put("a", 4)

    assert shouted(db, "a") == "EVEN"
    assert db.counts == {"is_even": 1}


def test_the_wave_goes_as_far_as_results_differ(db: Db) -> None:
    db.put("a", 2)
    shouted(db, "a")
    db.counts.clear()

    db.put("a", 3)

    assert shouted(db, "a") == "ODD"
    assert db.counts == {"is_even": 1, "parity": 1, "shouted": 1}


def test_undoing_a_write_before_anyone_asked_costs_only_the_direct_readers(db: Db) -> None:
    db.put("a", 2)
    shouted(db, "a")
    db.counts.clear()

    db.put("a", 3)
    db.put("a", 2)
    shouted(db, "a")

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
    parent = db._memos[all_even][()]
    db.counts.clear()

    db.put("c77", 4)
    list(db.propagate())

    assert list(map(repr, parent.suspects or ())) == ["is_even('c77',)"]
    assert sum(1 for _ in db.settle(root)) == 1
    assert db.counts == {"is_even": 1}


def test_doubts_do_not_pile_up_while_nobody_asks(db: Db) -> None:
    """A reader that is never asked again may be put in doubt for days."""
    db.put("a", 0)
    shouted(db, "a")

    for n in range(100):
        db.put("a", n)
        parity(db, "a")

    assert len(db._memos[shouted][("a",)].suspects or ()) <= 1


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
def test_a_circle_fails_and_names_its_queries(db: Db, entry: Any) -> None:
    """Both fail, in the same words, wherever it was entered."""
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
def test_who_attempts_on_a_circle_fails_with_it(db: Db, entry: Any) -> None:
    """Else the answer would depend on which of them was asked first."""
    entry.attempt(db)

    assert all(isinstance(q.attempt(db), Failed) for q in (tries, tried))


def test_a_circle_that_opens_again_is_forgotten(db: Db) -> None:
    db.put("circle", 1)
    one_way.attempt(db)

    db.put("circle", None)

    assert one_way(db) == 2
    assert db.failures == {}


def test_a_circle_that_closes_is_found(db: Db) -> None:
    one_way(db)

    db.put("circle", 1)

    assert isinstance(one_way.attempt(db), Failed)
    assert list(db.failures) == ["one_way()"]


def test_a_circle_is_found_although_a_read_of_it_changes_while_it_is_walked() -> None:
    """An urgent run waits for no marks, so what it reads may change under it; it runs all the same."""

    @query
    def down(db: Db) -> int:
        return (db.read("x") or 0) + doubled(db, "a") + up(db)

    @query
    def up(db: Db) -> int:
        return down(db) if db.read("circle") else 0

    def written(db: Db) -> None:
        db.put("a", 2)
        db.put("circle", 1)
        db.put("x", 2, urgent=True)

    warm, cold = Db(), Db()
    warm.put("x", 1)
    root = warm.observe(down, eager=True)
    settle_all(warm)
    written(warm)
    written(cold)
    warm.counts.clear()
    assert warm.next_urgent() is root
    list(warm.settle(root))

    assert root.value == down.attempt(cold)
    assert warm.counts["down"] == 1


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


def test_what_nobody_observes_is_dropped_with_all_that_it_read(db: Db) -> None:
    db.put("a", 1)
    root = db.observe(shouted, "a")
    settle_all(db)
    assert (db.collect(), len(db)) == (0, 4)

    db.release(root)

    db.collect()
    assert len(db) == 1, "the cell has a value"


def test_what_others_read_stays(db: Db) -> None:
    db.put("a", 1)
    kept, let_go = db.observe(parity, "a"), db.observe(shouted, "a")
    settle_all(db)

    db.release(let_go)

    db.collect()
    assert set(db.calls()) == {(is_even, ("a",)), (parity, ("a",))}
    assert kept.value == "odd"


def test_a_call_from_outside_is_dropped_too(db: Db) -> None:
    """Else each question that a console asks would stay for ever."""
    db.put("a", 1)
    shouted(db, "a")

    db.collect()

    assert len(db) == 1


def test_dropping_can_stop(db: Db) -> None:
    root = db.observe(shouted, "a")
    settle_all(db)

    db.release(root)

    assert [db.collect(2) for _ in range(5)] == [2, 2, 2, 1, 0]
    assert len(db) == 0


def test_dropping_stops_sooner_where_much_was_read(db: Db) -> None:
    """A query may have read thousands of nodes; many such queries in one step would stop the loop."""

    @query
    def wide(db: Db, n: int) -> int:
        return n + sum(db.read(cell) or 0 for cell in range(50))

    for n in range(4):
        wide(db, n)

    db.collect(20)

    assert len(list(db.calls())) == 3


def test_a_cell_without_value_goes_with_its_last_reader(db: Db) -> None:
    root = db.observe(doubled, "a")
    settle_all(db)
    assert len(db) == 2

    db.release(root)
    db.collect()

    assert len(db) == 0


def test_a_cell_that_came_back_is_not_dropped_for_the_one_that_went(db: Db) -> None:
    """The cell that went is noted as unread; its name is in use again when that is acted upon."""
    db.put("a", 1)
    root = db.observe(doubled, "a")
    settle_all(db)
    db.release(root)
    db.collect()
    root = db.observe(doubled, "a")
    settle_all(db)
    db.release(root)
    db._rewire(db._memos[doubled][("a",)], {})

    db.put("a", None)
    db.put("a", 2)
    db.collect()

    assert db.read("a") == 2


def test_a_settle_that_comes_back_to_what_was_dropped_does_nothing(db: Db) -> None:
    db.put("a", 1)
    root = db.observe(shouted, "a")
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


# -- slices ------------------------------------------------------------------


def test_settling_stops_after_each_run(db: Db) -> None:
    db.put("a", 1)
    root = db.observe(shouted, "a")
    settle_all(db)
    db.put("a", 2)
    db.counts.clear()

    seen = [dict(db.counts) for _ in db.settle(root)]

    assert seen == [
        {"is_even": 1},
        {"is_even": 1, "parity": 1},
        {"is_even": 1, "parity": 1, "shouted": 1},
    ]


def test_an_abandoned_settle_loses_no_doubt(db: Db) -> None:
    """A driver that turns to something urgent never comes back to the same generator."""
    db.put("a", 1)
    root = db.observe(shouted, "a")
    settle_all(db)
    db.put("a", 2)

    while (dirty := db.next_dirty()) is not None:
        for _ in db.settle(dirty):
            break

    assert root.value == "EVEN"


def test_a_write_between_slices_is_seen_by_the_same_settle(db: Db) -> None:
    db.put("a", 1)
    root = db.observe(shouted, "a")
    settle_all(db)
    db.put("a", 2)

    for n, _ in enumerate(db.settle(root)):
        if n == 1:
            db.put("a", 3)

    assert root.value == "ODD"


def test_another_root_may_be_settled_between_slices(db: Db) -> None:
    db.put("a", 1)
    slow, urgent = db.observe(shouted, "a", rank=1), db.observe(doubled, "a")
    settle_all(db)
    db.put("a", 2)
    settling = db.settle(slow)
    next(settling)
    assert db.next_dirty() is urgent

    for _ in db.settle(urgent):
        pass

    assert (urgent.value, slow.value) == (4, "ODD")
    assert [*settling, slow.value][-1] == "EVEN"


def test_dropping_looks_at_so_many_nodes_and_no_more(db: Db) -> None:
    """Most calls of a postponed join have readers in the end, and a walk over all of them would block."""
    root = db.observe(above, 4, 150)
    settle_all(db)

    looks = list(iter(lambda: db.collect(50), 0))

    assert max(looks) == 50
    assert sum(looks) > 150
    assert root.value == "600"


# -- joins -------------------------------------------------------------------


@query
def counted(db: Db, low: int, high: int) -> int:
    """The sum of some cells, read one by one: one run for each."""
    return sum(is_even.each(db, [(n,) for n in range(low, high)]))


@query
def counted_in_parts(db: Db, parts: int, size: int) -> int:
    return sum(counted.each(db, [(part * size, (part + 1) * size) for part in range(parts)]))


@query
def above(db: Db, parts: int, size: int) -> str:
    return str(counted_in_parts(db, parts, size))


def runs_in_steps(db: Db, root: Root[Any]) -> list[int]:
    """How many queries each step of a settling has run."""
    runs: list[int] = []
    before = 0
    for _ in db.settle(root):
        runs.append(db.counts.total() - before)
        before = db.counts.total()
    return runs


@pytest.mark.parametrize(("parts", "size"), [(1, 1000), (1000, 1), (40, 40), (3, 500)])
def test_the_first_join_of_a_thousand_calls_takes_no_long_step(db: Db, parts: int, size: int) -> None:
    """Whoever waits for the end of a step does not wait long, however many calls a query joins."""
    root = db.observe(above, parts, size)

    assert max(runs_in_steps(db, root)) <= STEP / 2 + 3, "each run has a read"
    assert root.value == str(parts * size), "an absent cell counts as even"


@pytest.mark.parametrize(("parts", "size"), [(1, 1000), (1000, 1), (40, 40), (3, 500)])
def test_a_postponed_join_computes_each_call_once(db: Db, parts: int, size: int) -> None:
    root = db.observe(above, parts, size)
    list(db.settle(root))

    assert db.counts == {"is_even": parts * size, "counted": parts, "counted_in_parts": 1, "above": 1}


def test_few_calls_are_joined_in_the_step_of_their_reader(db: Db) -> None:
    """Each query that is given up runs again, so that is done only where it pays."""
    root = db.observe(above, 2, 20)

    assert runs_in_steps(db, root) == [44]


def test_a_join_learns_of_writes_between_its_steps(db: Db) -> None:
    root = db.observe(above, 4, 100)
    settling = db.settle(root)
    next(settling)
    for n in range(400):
        db.put(n, 1)

    list(settling)

    assert root.value == "0"


@query
def with_others(db: Db, parts: int, size: int) -> int:
    """A join that has also read a cell and a call by the time that it is postponed."""
    return (db.read("a") or 0) + len(shouted(db, "b")) + counted_in_parts(db, parts, size)


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_join_that_nobody_finishes_leaves_nothing_behind(db: Db, steps: int) -> None:
    root = db.observe(with_others, 4, 150)
    settling = db.settle(root)
    for _ in range(steps):
        next(settling)
    db.release(root)

    db.collect()

    assert len(db) == 0


def test_a_join_begins_again_only_once_for_all_that_it_lacks(db: Db) -> None:
    """Else each of its parts would cost a walk over all parts before it."""
    begun: list[str] = []

    @query
    def joined(db: Db) -> int:
        begun.append("joined")
        return counted_in_parts(db, 40, 60)

    root = db.observe(joined)
    settle_all(db)

    assert (root.value, begun) == (2400, ["joined"] * 2)


def test_a_change_below_a_join_runs_what_it_concerns(db: Db) -> None:
    root = db.observe(above, 40, 40)
    settle_all(db)
    db.put(17, 1)
    db.counts.clear()
    settle_all(db)

    assert root.value == "1599"
    assert db.counts == {"is_even": 1, "counted": 1, "counted_in_parts": 1, "above": 1}


def test_a_failure_in_a_join_fails_its_reader(db: Db) -> None:
    @query
    def joined(db: Db) -> float:
        return sum(inverse.each(db, [(n,) for n in range(200)]))

    @query
    def joined_or_none(db: Db) -> int:
        return sum(
            isinstance(value, Failed) for value in inverse.attempt_each(db, [(n,) for n in range(200)])
        )

    for n in range(200):
        db.put(n, n)
    roots = db.observe(joined), db.observe(joined_or_none)
    settle_all(db)

    assert isinstance(roots[0].value, Failed)
    assert roots[1].value == 1


def test_joins_that_wait_for_each_other_fail_as_a_circle(db: Db) -> None:
    """Neither of two joins can be settled before the other: that is no reason to wait for ever."""

    @query
    def ring(db: Db, n: int) -> int:
        calls = [((n + 1) % 3,)] if n < 3 else []
        return sum(even_ones.each(db, [(100 * n + at,) for at in range(100)])) + sum(ring.each(db, calls))

    @query
    def even_ones(db: Db, cell: int) -> bool:
        return is_even(db, str(cell))

    root = db.observe(ring, 0)
    settle_all(db)

    assert isinstance(root.value, Failed)
    assert "queries read each other in a circle" in root.value.error


def test_a_circle_that_is_gone_by_the_time_that_a_join_runs_again_is_forgotten(db: Db) -> None:
    @query
    def back(db: Db) -> int:
        return forth(db) if db.read("closed") else 1

    @query
    def forth(db: Db) -> int:
        value = back.attempt(db)
        return counted(db, 0, 300) + (value if isinstance(value, int) else 0)

    db.put("closed", value=True)
    root = db.observe(forth)
    settling = db.settle(root)
    next(settling)
    db.put("closed", None)
    settle_all(db)

    assert root.value == 301


def test_a_join_of_one_that_waits_for_it_comes_to_an_end(db: Db) -> None:
    """The step is used up by what is no join, so there is nothing that could be settled first."""

    @query
    def waits(db: Db, n: int) -> int:
        own = sum(is_even(db, str(1000 * n + at)) for at in range(300))
        return own + sum(waits.each(db, [(1 - n,)]))

    root = db.observe(waits, 0)
    settle_all(db)

    assert isinstance(root.value, Failed)


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


def test_reads_tell_what_a_call_read_in_order(db: Db) -> None:
    db.put("a", 1)
    shouted(db, "a")

    assert db.reads(shouted, "a") == ("parity('a',)",)
    assert db.reads(is_even, "a") == ("cell 'a'",)
    assert db.reads(is_even, "b") == ()


def test_the_graph_names_each_call_with_its_reads(db: Db) -> None:
    db.put("a", 1)
    parity(db, "a")

    assert db.graph() == {"parity('a',)": ("is_even('a',)",), "is_even('a',)": ("cell 'a'",)}
