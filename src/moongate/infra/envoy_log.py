"""Envoy's own log, folded into ours.

Envoy is configured to put a control character before and after each entry, so an entry is known whole
when its end comes, however many lines it has. What stands outside (a usage text, a word of the
dynamic linker) is an entry without level.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from moongate.xds.refusals import unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN, _FIELD, _END = b"\x1e", b"\x1f", b"\x1d\n"

# spdlog: %l level, %n component (logger), %v the message.
LOG_FORMAT = "\x1e%l\x1f%n\x1f%v\x1d"

_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
}

# True, but said elsewhere and better, or of no use to a reader: left out.
_NOISE = (
    # Our own SIGTERM.
    ("main", re.compile(r"caught ENVOY_SIGTERM")),
    # A NACK: the stream's other end reports it, with the resources concerned.
    ("config", re.compile(r"(gRPC|delta) config for \S+ rejected")),
    ("config", re.compile(r"listener '.*' failed to bind")),
    ("upstream", re.compile(r"lds: listener '.*' config rejected")),
)
# An entry that has more without an end is passed on as far as its first line, and the rest is left out.
_MOST_BYTES = 1 << 20
_LONGEST_LINE = 1000


class Entry(Struct, frozen=True):
    """One entry: a method name of a structlog logger, Envoy's component, the message."""

    level: str
    component: str
    message: str


class LogFolder:
    """Takes what Envoy writes as it comes, gives entries."""

    def __init__(self) -> None:
        self._rest = b""
        self._last = ""
        self._left_out = False
        """Whether the rest is the middle of an entry that was too long."""

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        """The entries that ``chunk`` completes."""
        self._rest += chunk
        if self._left_out and not self._skip():
            return
        while (begin := self._rest.find(_BEGIN)) >= 0:
            yield from self._outside(self._rest[:begin])
            end = self._rest.find(_END, begin)
            if end < 0:
                self._rest = self._rest[begin:]
                break
            yield from self._entry(self._rest[begin + 1 : end])
            self._rest = self._rest[end + len(_END) :]
        if len(self._rest) > _MOST_BYTES:
            self._left_out = self._rest.startswith(_BEGIN)
            if self._left_out:
                line, self._rest = self._rest.partition(b"\n")[0], b""
                yield from self._entry(line[1:_LONGEST_LINE])
            else:
                yield from self.end()

    def _skip(self) -> bool:
        """Leave out what comes until the entry ends. True when it has."""
        _, end, after = self._rest.partition(_END)
        # An end may come in two pieces.
        self._rest = after if end else self._rest[-len(_END) + 1 :]
        self._left_out = not end
        return bool(end)

    def end(self) -> Iterator[Entry]:
        """What is left when Envoy has closed its log."""
        rest, self._rest = self._rest.lstrip(_BEGIN), b""
        yield from self._outside(rest)

    def _entry(self, raw: bytes) -> Iterator[Entry]:
        level, component, words = [*raw.decode(errors="replace").split(_FIELD.decode(), 2), "", ""][:3]
        self._last = words
        message = unquoted(words)
        if not any(component == name and pattern.search(message) for name, pattern in _NOISE):
            yield Entry(_LEVELS.get(level, "info"), component, message)

    def _outside(self, raw: bytes) -> Iterator[Entry]:
        # Envoy ends a parse error with two pages of its arguments.
        message = raw.decode(errors="replace").partition("Brief USAGE:")[0].strip()
        # It says the error that ends it twice: as an entry, then bare.
        if message and message not in self._last:
            yield Entry("warning", "stderr", unquoted(message))
