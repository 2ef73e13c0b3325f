"""Queries that raise on demand: bugs of moongate, for tests of how they are contained.

While ``faulty`` is open, each query reads one cell more, and raises where that says so. So a fault is an
input like any other: it comes and goes with a write, and two worlds with the same faults must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import pytest

from moongate.engine import Db, Query
from moongate.world import World

Call = tuple[Query[..., Any], tuple[Any, ...]]
When = Literal["before", "after"]
"""Whether a query raises before it has read anything, or after it has read all."""


SECRET = "hunter2"
"""The text of all exceptions here. It is to be found nowhere, for real ones may quote a secret."""


class Fault(Exception):  # noqa: N818 - statuses name it
    """What such a query raises."""


@contextmanager
def faulty() -> Generator[None]:
    """Let ``put_fault`` have a meaning."""
    with pytest.MonkeyPatch.context() as patch:
        for each in _queries():
            patch.setattr(each, "fn", _raising(each))
        yield


@cache
def _queries() -> tuple[Query[..., Any], ...]:
    """All queries that there are: each stands in a module."""
    modules = [module for name, module in sys.modules.items() if name.startswith("moongate.")]
    queries: list[Query[..., Any]] = [
        each for module in modules for each in vars(module).values() if isinstance(each, Query)
    ]
    return tuple(dict.fromkeys(queries))


def put_fault(world: World, call: Call, when: When | None) -> None:
    """Make a query call of a world raise from now on, or no more."""
    world.write(_cell(*call), when)


def calls(world: World) -> Sequence[Call]:
    """The query calls that a world holds, always in the same order."""
    return list(world.db.calls())


def _raising(query: Query[..., Any]) -> Callable[..., Any]:
    fn = query.fn

    def raising(db: Db, *args: Any) -> Any:
        when = db.read(_cell(query, args))
        if when == "before":
            raise Fault(SECRET)
        value = fn(db, *args)
        if when == "after":
            raise Fault(SECRET)
        return value

    return raising


def _cell(query: Query[..., Any], args: tuple[Any, ...]) -> Any:
    return ("fault", query, args)
