"""Reading the log of Envoy, to make its entries part of our log.

Envoy is configured to write a control character before and after each entry, so we see the end of an entry
even if it has several lines. Text outside of entries (a usage text, an error of the dynamic linker) becomes
an entry without level.
"""

from __future__ import annotations

import os
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

# Left out: entries that moongate logs in a better form, or that do not help a reader.
_NOISE = (
    # Our own SIGTERM.
    ("main", re.compile(r"caught ENVOY_SIGTERM")),
    # An Envoy that outlived its control plane: the next one says that it was adopted.
    ("config", re.compile(r"gRPC config stream to xds_cluster closed")),
    # A NACK: the ADS server reports it, with the resources concerned.
    ("config", re.compile(r"(gRPC|delta) config for \S+ rejected")),
    ("config", re.compile(r"listener '.*' failed to bind")),
    ("upstream", re.compile(r"lds: listener '.*' config rejected")),
)
_UNOPENED = re.compile(
    r"final pre-worker listener init for listener '(?P<name>.*)' failed: (?P<why>.*)", re.DOTALL
)
_CANNOT_LISTEN = re.compile(r"cannot listen\(\) errno=(?P<errno>\d{1,4})")
# Of an entry that is longer, only the first line is passed on.
_MOST_BYTES = 1 << 20
_LONGEST_LINE = 1000


class Entry(Struct, frozen=True):
    """One entry: a method name of a structlog logger, Envoy's component, the message."""

    level: str
    component: str
    message: str


class Unopened(Struct, frozen=True):
    """A listener that Envoy acknowledged, and dropped because it could not open it.

    Args:
        name: the name of the listener.
        why: the reason, in the words of the operating system if it is the reason.
    """

    name: str
    why: str


def unopened(entry: Entry) -> Unopened | None:
    """The listener that Envoy has dropped, if an entry reports that. No answer to the control plane does."""
    match = _UNOPENED.fullmatch(entry.message) if entry.component == "config" else None
    if match is None:
        return None
    why = match["why"]
    refused = _CANNOT_LISTEN.fullmatch(why)
    return Unopened(match["name"], why if refused is None else os.strerror(int(refused["errno"])))


class LogFolder:
    """Turns chunks of Envoy's standard error into entries."""

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
        """Drop the rest of an entry. True if its end has come."""
        _, end, after = self._rest.partition(_END)
        # The end may be split between two chunks.
        self._rest = after if end else self._rest[-len(_END) + 1 :]
        self._left_out = not end
        return bool(end)

    def end(self) -> Iterator[Entry]:
        """The last entries, after Envoy has closed its log."""
        rest, self._rest = self._rest.lstrip(_BEGIN), b""
        yield from self._outside(rest)

    def _entry(self, raw: bytes) -> Iterator[Entry]:
        level, component, text = [*raw.decode(errors="replace").split(_FIELD.decode(), 2), "", ""][:3]
        self._last = text
        message = unquoted(text)
        if not any(component == name and pattern.search(message) for name, pattern in _NOISE):
            yield Entry(_LEVELS.get(level, "info"), component, message)

    def _outside(self, raw: bytes) -> Iterator[Entry]:
        # Envoy ends a parse error with two pages of its arguments.
        message = raw.decode(errors="replace").partition("Brief USAGE:")[0].strip()
        # Envoy writes its last error twice: as an entry, then without the control characters.
        if message and message not in self._last:
            yield Entry("warning", "stderr", unquoted(message))
