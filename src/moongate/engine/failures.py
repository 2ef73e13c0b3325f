"""Failures of queries: what is known of one, how it travels up, and which are in force."""

from __future__ import annotations

import hashlib
import traceback
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine.nodes import Node


class Failed(Struct, frozen=True):
    """The value of a query that raised.

    It says what kind of exception was raised and where, and never the text of the exception: that may quote
    what the query had read, and among the inputs are secrets.

    Args:
        query: name of the query that raised first; failures above it carry the same one.
        args: its arguments, as text. They are keys, so they are no secrets.
        id: a short name for this failure, the same wherever it is shown: status, log, console.
        error: the type of the exception, and where it was raised.
        trace: the frames it came through, for the log.
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
    """Queries that read each other in a circle."""


def failure(query: str, args: tuple[Any, ...], error: Exception) -> Failed:
    """What is kept of an exception that a query raised."""
    if isinstance(error, Cycle):
        # Its text holds keys alone. Where the circle was entered is chance, and where it was closed, too.
        text = trace = f"{type(error).__name__}: {error}"
    else:
        *_, raised = traceback.extract_tb(error.__traceback__)
        file = raised.filename.rpartition("/")[2]
        text = f"{type(error).__name__} in {raised.name} ({file}:{raised.lineno})"
        trace = "\n".join(_frames(error))
    digest = hashlib.blake2b(f"{query}{args!r}{text}".encode(), digest_size=4).hexdigest()
    return Failed(query, repr(args), digest, text, trace)


def _frames(error: BaseException) -> Iterator[str]:
    """The frames that an exception came through, after those of the exceptions that it was raised for."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        error = before or error
    for each in reversed(chain):
        yield type(each).__name__
        yield "".join(traceback.format_tb(each.__traceback__))


class FailuresInForce:
    """Which calls fail just now."""

    def __init__(self) -> None:
        self.origins: dict[str, Failed] = {}
        """By the call that failed, as text; only those where a failure began."""
        self._calls: dict[Node, Failed] = {}

    def calls(self) -> Iterator[tuple[tuple[Any, ...], Failed]]:
        """The arguments of each call that fails, with its failure, which may have begun below it."""
        return ((node.key, failed) for node, failed in self._calls.items())

    def note(self, node: Node, value: Any) -> None:
        """Take the new value of a call that failed before or fails now."""
        assert node.query is not None
        self.origins.pop(repr(node), None)
        self._calls.pop(node, None)
        if value.__class__ is Failed:
            self._calls[node] = value
            if value.query == node.query.name and value.args == repr(node.key):
                self.origins[repr(node)] = value
