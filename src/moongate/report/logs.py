"""How moongate logs: events with fields, readable in a terminal, JSON elsewhere. Always on standard error."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
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
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal and not os.environ.get("NO_COLOR"), pad_event_to=24)
        if text
        else structlog.processors.JSONRenderer()
    )

    def worth_it(_logger: object, method: str, event: EventDict) -> EventDict:
        # How much Envoy logs is set by its own level, in the EnvoyProxy.
        if method == "debug" and not debug and event["event"] != ENVOY_LOG:
            raise structlog.DropEvent
        return event

    structlog.configure(
        processors=[
            worth_it,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
