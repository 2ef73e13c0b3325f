"""Tracked functions: ``@query`` makes one of a pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, TypeVar

from moongate.engine.failures import Contained, Failed

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def __repr__(self) -> str:
        return self.name


def query(fn: Callable[Concatenate[Db, P], T]) -> Query[P, T]:
    """Turn a pure function of ``db`` and hashable keys into a tracked query."""
    return Query(fn)
