"""The law of the engine: whatever was written, in whatever slices, the answers are those from scratch."""

# These are about what the engine holds inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.engine import STRIDE, Db, Failed, Root, propagation, query
from moongate.engine import db as engine
from moongate.engine.nodes import CLEAN, SUSPECT, Node
from tests.engine.arithmetic import (
    is_even,
    parity,
    settle_all,
)

CELLS = 4
Program = list[tuple[int, list[tuple[bool, int]], bool, int, bool]]
"""Per query: modulus of its result, (to a cell?, which one) of its reads, whether it attempts, the residue at
which it stops after its first read (so that reads come and go) or fails, and whether it reads by ``each``."""


@st.composite
def programs(draw: st.DrawFn) -> Program:
    program: Program = []
    for n in range(draw(st.integers(3, 7))):
        cells = st.tuples(st.just(True), st.integers(0, CELLS - 1))
        lower = st.tuples(st.just(False), st.integers(0, n - 1)) if n else cells
        reads = draw(st.lists(cells | lower | lower, min_size=1, max_size=4))
        stop = draw(st.integers(0, 20))
        program.append((draw(st.integers(1, 9)), reads, draw(st.booleans()), stop, draw(st.booleans())))
    return program


def compiled(program: Program) -> Any:
    """A query ``run(db, n)`` that evaluates the n-th of a program."""

    @query
    def run(db: Db, n: int) -> int:
        modulus, reads, attempts, stop, joins = program[n]
        total = n
        for place, (is_cell, which) in enumerate(reads):
            # All others together with the first, so that the others are read even if it then stops.
            calls = [(at,) for is_cell, at in reads if not is_cell] if joins else [(which,)]
            if is_cell:
                total += db.read(which) or 0
            elif joins and place:
                pass
            elif attempts:
                joined = run.attempt_each(db, calls) if joins else [run.attempt(db, which)]
                total += sum(1 if isinstance(value, Failed) else value for value in joined)
            else:
                total += sum(run.each(db, calls) if joins else [run(db, which)])
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
    st.tuples(st.just("propagate"), st.none(), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
    st.tuples(st.just("collect"), st.none() | st.just(1), st.none()),
)


def like(value: Any) -> Any:
    """A value for comparison: of a failure, all but its trace, which depends on who asked."""
    return (value.query, value.args, value.id, value.error) if isinstance(value, Failed) else value


@pytest.mark.slow
@settings(max_examples=10 * settings().max_examples)  # they are small, and so is what hides between slices
@given(programs(), st.lists(edits, max_size=40), st.sampled_from([1, 3, STRIDE]), st.sampled_from([1, 2, 64]))
def test_incremental_equals_from_scratch(
    program: Program, history: list[tuple[str, Any, Any]], stride: int, step: int
) -> None:
    """Whenever all is settled, however it was cut in slices, each answer is that of a fresh database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STEP", step)  # or no join this small would be postponed
        for module in (engine, propagation):
            patch.setattr(module, "STRIDE", stride)  # or nothing this small would be marked in parts
        _play(program, history)


def _play(program: Program, history: list[tuple[str, Any, Any]]) -> None:
    db, run = Db(), compiled(program)
    cells: dict[int, int | None] = {}
    roots: dict[int, Root[int]] = {len(program) - 1: db.observe(run, len(program) - 1)}

    def check_roots() -> None:
        settle_all(db)
        check_invariants(db)
        assert all(node.state == CLEAN for node in nodes_of(db) if node.root is not None)
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
            case "propagate":
                next(db.propagate(), None)
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


def nodes_of(db: Db) -> list[Node]:
    """All cells and calls that a database holds."""
    return [*db._cells.values(), *(node for memos in db._memos.values() for node in memos.values())]


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
    held = {id(node) for node in nodes_of(db)}
    for node in nodes_of(db):
        unclean = [read for read in node.reads if read.state != CLEAN and read not in db._propagation.waiting]
        assert node.state != CLEAN or not unclean, f"{node} is CLEAN and has read {unclean}"
        assert node.state != SUSPECT or set(unclean) <= set(node.suspects or ()), f"{node} lost a doubt"
        assert all(node in read.readers and id(read) in held for read in node.reads)
    for node in nodes_of(db):
        assert all(node in reader.reads and id(reader) in held for reader in node.readers)


def test_invariants_are_checked_for_real(db: Db) -> None:
    """A check that cannot fail proves nothing."""
    db.put("a", 1)
    parity(db, "a")
    db._memos[is_even][("a",)].state = SUSPECT

    with pytest.raises(AssertionError, match="CLEAN and has read"):
        check_invariants(db)
