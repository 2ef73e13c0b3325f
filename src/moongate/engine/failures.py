"""Failures of queries: their data, how they pass to readers, and which calls fail now."""

from __future__ import annotations

import hashlib
import traceback
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from moongate.engine.nodes import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine.nodes import Node


class Failed(Struct, frozen=True):
    """The value of a query that raised.

    It has the type of the exception and its place, but never its text, because that may quote inputs of the
    query, and some inputs are secrets.

    Args:
        query: the name of the query that raised; failures of its readers have the same.
        args: its arguments as text. They are keys, so they are not secret.
        id: a short identifier of this failure, the same in statuses and in the log.
        error: the type of the exception, and its place in the code.
        trace: the stack frames, for the log.
    """

    query: str
    args: str
    id: str
    error: str
    trace: str


class Contained(Exception):  # noqa: N818 - not an error of its own: it carries one through a reader
    """Raised in a query that read a failed one without ``attempt``."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.query}{failed.args} failed: {failed.error}")
        self.failed = failed


class Cycle(Exception):  # noqa: N818
    """Queries that read each other in a cycle."""


class Postponed(BaseException):
    """Raised in a query that reads many calls, and passed on by its readers: the calls are settled first.

    It is no ``Exception``, because it is neither a failure nor the business of a query.

    Args:
        first: the calls to settle, in this order, before the query runs again.
    """

    def __init__(self, first: list[Node]) -> None:
        super().__init__()
        self.first = first


def failure(query: str, args: tuple[Any, ...], error: Exception) -> Failed:
    """The failure for an exception that a query raised."""
    if isinstance(error, Cycle):
        # Its text has only keys. The place is left out, because it depends on where the cycle was entered.
        text = trace = f"{type(error).__name__}: {error}"
    else:
        *_, raised = traceback.extract_tb(error.__traceback__)
        file = raised.filename.rpartition("/")[2]
        text = f"{type(error).__name__} in {raised.name} ({file}:{raised.lineno})"
        trace = "\n".join(_frames(error))
    digest = hashlib.blake2b(f"{query}{args!r}{text}".encode(), digest_size=4).hexdigest()
    return Failed(query, repr(args), digest, text, trace)


def _frames(error: BaseException) -> Iterator[str]:
    """The stack frames of an exception, after those of the exceptions that caused it."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        error = before or error
    for each in reversed(chain):
        yield type(each).__name__
        yield "".join(traceback.format_tb(each.__traceback__))


class FailuresInForce:
    """The calls that fail now."""

    def __init__(self) -> None:
        self.origins: dict[str, Failed] = {}
        """Call as text → failure; only calls that raised themselves."""
        self._calls: dict[Node, Failed] = {}
        self._before: dict[Node, Any] = {}
        """The last value of each failing call before it failed, if it had one."""

    def calls(self) -> Iterator[tuple[tuple[Any, ...], Failed]]:
        """The arguments of each failing call, with its failure, which may come from a query that it read."""
        return ((node.key, failed) for node, failed in self._calls.items())

    def last_good(self, node: Node) -> Any:
        """The value of a call; while it fails, the last one before; the failure if there was none."""
        return self._before.get(node, node.value)

    def note(self, node: Node, value: Any, before: Any = ABSENT) -> None:
        """Note the new value of a call that failed before or fails now, and the value before that."""
        assert node.query is not None
        if value.__class__ is not Failed:
            self._before.pop(node, None)
        elif before is not ABSENT and before.__class__ is not Failed:
            self._before[node] = before
        self.origins.pop(repr(node), None)
        self._calls.pop(node, None)
        if value.__class__ is Failed:
            self._calls[node] = value
            if value.query == node.query.name and value.args == repr(node.key):
                self.origins[repr(node)] = value
