"""Queries that raise: contained, known, and gone with their reason."""

from __future__ import annotations

import pytest

from moongate.engine import Contained, Db, Failed, query
from tests.engine.arithmetic import (
    inverse,
    percent,
    percent_or_none,
    settle_all,
)


def failed(db: Db) -> Failed:
    value = percent.attempt(db, "a")
    assert isinstance(value, Failed)
    return value


def test_a_failure_is_a_value_that_names_where_it_began(db: Db) -> None:
    db.put("a", 0)
    failure = failed(db)

    assert (failure.query, failure.args) == ("inverse", "('a',)")
    assert failure.error.startswith("ZeroDivisionError in inverse (arithmetic.py:")
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


def test_a_reader_may_go_on_with_the_last_good_value(db: Db) -> None:
    """One part of a whole then stays as it was, while the others change."""
    db.put("a", 0)
    never = percent.last_good(db, "a")
    db.put("a", 4)
    percent(db, "a")
    db.put("a", 0)
    kept = percent.last_good(db, "a")
    db.put("a", None)  # It fails otherwise.
    kept_again = percent.last_good(db, "a")
    db.put("a", 2)

    assert isinstance(never, Failed)
    assert (kept, kept_again, percent.last_good(db, "a")) == (25.0, 25.0, 50.0)


def test_a_last_good_value_is_forgotten_with_its_call(db: Db) -> None:
    db.put("a", 4)
    percent(db, "a")
    db.put("a", 0)
    percent.attempt(db, "a")
    db.collect()

    assert isinstance(percent.last_good(db, "a"), Failed)


def test_all_that_a_failure_reached_is_known(db: Db) -> None:
    """Each call with its arguments: who shows failures finds those they concern."""
    assert list(db.failed_calls()) == []
    db.put("a", 0)
    percent_or_none(db, "a")

    failed_calls = list(db.failed_calls())
    db.put("a", 4)
    percent_or_none(db, "a")

    assert [(args, each.query) for args, each in failed_calls] == [(("a",), "inverse")] * 2
    assert list(db.failed_calls()) == []


def test_a_failure_has_the_same_id_wherever_it_is_shown(db: Db) -> None:
    db.put("a", 0)
    below = inverse.attempt(db, "a")

    assert isinstance(below, Failed)
    assert failed(db).id == below.id


def test_a_failed_query_raises_for_who_calls_it(db: Db) -> None:
    db.put("a", 0)

    with pytest.raises(Contained, match=r"inverse\('a',\) failed: ZeroDivisionError in inverse "):
        percent(db, "a")


def test_an_attempt_ends_the_failure(db: Db) -> None:
    db.put("a", 0)

    assert percent_or_none(db, "a") is None


def test_a_failure_ends_when_its_reason_does(db: Db) -> None:
    db.put("a", 0)
    percent_or_none(db, "a")

    db.put("a", 4)

    assert percent_or_none(db, "a") == 25


def test_failures_in_force_are_listed_where_they_began(db: Db) -> None:
    db.put("a", 0)
    percent_or_none(db, "a")
    assert list(db.failures) == ["inverse('a',)"]

    db.put("a", 4)
    percent_or_none(db, "a")

    assert db.failures == {}


def test_a_failure_that_nobody_reads_any_more_is_not_listed(db: Db) -> None:
    db.put("a", 0)
    root = db.observe(percent_or_none, "a")
    settle_all(db)

    db.release(root)
    db.collect()

    assert db.failures == {}


def test_an_equal_failure_stops_the_wave(db: Db) -> None:
    db.put("a", 0)
    percent_or_none(db, "a")
    db.counts.clear()

    db.put("a", 0.0)
    db.put("b", 1)
    percent_or_none(db, "a")

    assert db.counts == {}
