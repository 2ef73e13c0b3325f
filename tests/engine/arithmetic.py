"""Small queries over numbers in cells, for tests of the engine."""

from __future__ import annotations

from moongate.engine import Db, Failed, query


@query
def doubled(db: Db, cell: str) -> int:
    return 2 * (db.read(cell) or 0)


@query
def is_even(db: Db, cell: str) -> bool:
    return (db.read(cell) or 0) % 2 == 0


@query
def parity(db: Db, cell: str) -> str:
    return "even" if is_even(db, cell) else "odd"


@query
def shouted(db: Db, cell: str) -> str:
    return parity(db, cell).upper()


@query
def numbered(db: Db, n: int) -> str:
    return f"{parity(db, 'a')} {n}"


def settle_all(db: Db) -> None:
    while (root := db.next_urgent() or db.next_dirty()) is not None:
        for _ in db.settle(root):
            pass


@query
def inverse(db: Db, cell: str) -> float:
    return 1 / db.read(cell)


@query
def percent(db: Db, cell: str) -> float:
    return 100 * inverse(db, cell)


@query
def percent_or_none(db: Db, cell: str) -> float | None:
    value = percent.attempt(db, cell)
    return None if isinstance(value, Failed) else value
