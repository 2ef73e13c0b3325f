from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from moongate.report.logs import LogFormat, configure, logging_aside


class Stream(io.StringIO):
    """Standard error, in a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    structlog.reset_defaults()


def test_elsewhere_than_in_a_terminal_an_event_is_a_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    event = json.loads(logged(monkeypatch, terminal=False).splitlines()[-1])

    assert event["event"] == "envoy.ready"
    assert event["level"] == "info"
    assert event["gateway"] == "default/web"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_in_a_terminal_it_is_text_with_colours_unless_unwanted(
    monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)

    output = logged(monkeypatch, terminal=True)

    assert "envoy.ready" in output
    assert ("\x1b[" in output) is (no_color == "")


def test_the_form_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    output = logged(monkeypatch, terminal=False, form="text")

    assert "gateway=default/web" in output
    assert "\x1b[" not in output


def test_a_log_that_nobody_reads_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read at last is in order, and says where lines are missing, and how many."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stderr, os.fdopen(reader) as out:
        monkeypatch.setattr(sys, "stderr", stderr)
        read: list[str] = []
        with logging_aside("json"):
            for n in range(600):  # of 10 kB each, and 4 MB are kept
                structlog.get_logger().info("event", n=n, padding="x" * 10_000)
            while "log.dropped" not in (line := out.readline()):
                read.append(line)
            logging.getLogger("asyncio").error("by the standard library")
            last = out.readline()

    assert 400 < len(read) < 500
    assert [json.loads(each)["n"] for each in read] == list(range(len(read)))
    gap = json.loads(line)
    assert (gap["event"], gap["level"], gap["lines"]) == ("log.dropped", "warning", 600 - len(read))
    assert last == "by the standard library\n"


def test_a_standard_error_that_is_no_file_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls a command within a process may have put an object there."""
    stderr = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with logging_aside("json"):
        structlog.get_logger().info("event")

        assert json.loads(stderr.getvalue())["event"] == "event"


def test_what_was_logged_is_written_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is logged after that, directly."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as out:
        with os.fdopen(writer, "w") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            with logging_aside("json"):
                for n in range(100):
                    structlog.get_logger().info("event", n=n)
            structlog.get_logger().info("event", n=100)

        assert [json.loads(line)["n"] for line in out] == list(range(101))


def test_details_are_logged_for_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "detail" not in logged(monkeypatch, terminal=False)
    assert "detail" in logged(monkeypatch, terminal=False, debug=True)


def test_what_envoy_logs_at_debug_level_is_logged_without_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its level is set in the EnvoyProxy; whoever asks for debug there wants to see it."""
    assert "asked for" in logged(monkeypatch, terminal=False)


def logged(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, form: LogFormat = "auto", debug: bool = False
) -> str:
    """What three events become on standard error."""
    stream = Stream(terminal=terminal)
    monkeypatch.setattr("sys.stderr", stream)
    configure(form, debug=debug)
    log = structlog.get_logger("test")
    log.debug("detail")
    log.debug("envoy.log", message="asked for")
    log.info("envoy.ready", gateway="default/web")
    return stream.getvalue()
