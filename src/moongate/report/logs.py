"""How moongate logs: events with fields, readable in a terminal, JSON elsewhere. Always on standard error.

A run logs *aside*, in a thread: whoever reads its log late, or not at all, must not stop the event loop,
which serves the Envoys. Lines that are dropped because of that are counted in the log itself.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import structlog

from moongate.line_writer import LineWriter
from moongate.terminal import is_styled

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "text", "json"]

ENVOY_LOG = "envoy.log"
"""The event that passes on an entry of Envoy's own log."""


def configure(form: LogFormat = "auto", *, debug: bool = False) -> None:
    """Set up logging for this process.

    Args:
        form: ``auto`` is ``text`` in a terminal and ``json`` elsewhere. A terminal gets colours, unless
            ``NO_COLOR`` is set.
        debug: log more.
    """
    _log_to(sys.stderr, _processors(form, debug=debug))


@contextmanager
def logging_aside(form: LogFormat = "auto") -> Generator[None]:
    """Log as ``configure`` says, but wait for nobody who reads it.

    What is pending when this is left is written within a second, or given up.
    """
    processors = _processors(form, debug=False)

    def with_gap(lines: bytes, dropped: int, _last: bool) -> tuple[bytes, bool]:
        event: Any = {"event": "log.dropped", "lines": dropped}
        for processor in processors if dropped else ():
            event = processor(None, "warning", event)
        return lines + (f"{event}\n".encode() if dropped else b""), False

    try:
        fd = sys.stderr.fileno()
    except (OSError, ValueError):
        # It is no file but an object of whoever called us, and there is no pipe to wait for.
        _log_to(sys.stderr, processors)
        yield
        return
    with LineWriter(fd, "log", with_gap) as writer:
        aside = cast("TextIO", _Aside(writer))
        _log_to(aside, processors)
        # asyncio and libraries log by the standard library.
        handler = logging.StreamHandler(aside)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            _log_to(sys.stderr, processors)


class _Aside:
    """What a logger needs of a file."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def write(self, text: str) -> None:
        self._writer.write(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        pass


def _log_to(file: TextIO, processors: Sequence[Processor]) -> None:
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=False,
    )


def _processors(form: LogFormat, *, debug: bool) -> list[Processor]:
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=is_styled(sys.stderr), pad_event_to=24)
        if text
        else structlog.processors.JSONRenderer()
    )

    def worth_it(_logger: object, method: str, event: EventDict) -> EventDict:
        # How much Envoy logs is set by its own level, in the EnvoyProxy.
        if method == "debug" and not debug and event["event"] != ENVOY_LOG:
            raise structlog.DropEvent
        return event

    return [
        worth_it,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
        structlog.processors.format_exc_info,
        renderer,
    ]
