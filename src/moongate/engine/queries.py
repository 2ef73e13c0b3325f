"""Tracked functions: ``@query`` makes one of a pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from moongate.engine.failures import Contained, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from moongate.engine.db import Db

P = ParamSpec("P")
T = TypeVar("T")


class Query(Generic[P, T]):
    """A tracked function; call it as ``fn(db, *args)``. Arguments are positional: they are the key."""

    def __init__(self, fn: Callable[Concatenate[Db, P], T]) -> None:
        self.fn: Callable[..., T] = fn
        self.name = fn.__name__
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__

    def __call__(self, db: Db, *args: P.args, **kwargs: P.kwargs) -> T:
        """The settled value. Raises ``Contained`` if the query failed."""
        value = db.value_of(self, args)
        if isinstance(value, Failed):
            raise Contained(value)
        return value

    def attempt(self, db: Db, *args: P.args, **kwargs: P.kwargs) -> T | Failed:
        """The settled value, or the failure as a value, so that the reader does not fail."""
        return db.value_of(self, args)

    def each(self, db: Db, calls: Iterable[tuple[Any, ...]]) -> list[T]:
        """The settled values of many calls, in order. Raises ``Contained`` if one of them failed.

        A query that joins many others reads them in this way, so that they are settled in steps of their own
        and before it (see ``db``).

        Args:
            db: the database.
            calls: the arguments of each call.
        """
        values = db.values_of(self, calls)
        for value in values:
            if isinstance(value, Failed):
                raise Contained(value)
        return cast("list[T]", values)

    def attempt_each(self, db: Db, calls: Iterable[tuple[Any, ...]]) -> list[T | Failed]:
        """As ``each``, with failures as values."""
        return db.values_of(self, calls)

    def last_good(self, db: Db, *args: P.args, **kwargs: P.kwargs) -> T | Failed:
        """The settled value; while the query fails, its last one before; the failure if it never had one."""
        return db.last_good(self, args)

    def __repr__(self) -> str:
        return self.name


def query(fn: Callable[Concatenate[Db, P], T]) -> Query[P, T]:
    """Turn a pure function of ``db`` and hashable keys into a tracked query."""
    return Query(fn)
