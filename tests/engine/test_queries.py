"""Tracked functions: their arguments are the key, and each call is computed once."""

from __future__ import annotations

import pytest

from moongate.engine import Contained, Db, query
from tests.engine.arithmetic import (
    doubled,
)


def test_a_query_is_computed_once(db: Db) -> None:
    db.put("a", 2)

    assert [doubled(db, "a"), doubled(db, "a")] == [4, 4]
    assert db.counts == {"doubled": 1}


def test_a_query_must_not_write() -> None:
    """Or the order of reads would decide the answer."""

    @query
    def writes(db: Db) -> None:
        db.put("a", 1)

    with pytest.raises(Contained) as raised:
        writes(Db())

    assert "a query must not write" in raised.value.failed.trace


def test_arguments_are_the_key(db: Db) -> None:
    db.put("a", 1)
    db.put("b", 2)

    assert (doubled(db, "a"), doubled(db, "b")) == (2, 4)
    assert db.counts == {"doubled": 2}
