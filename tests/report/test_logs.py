from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from moongate.report.logs import LogFormat, configure


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
    told = json.loads(logged(monkeypatch, terminal=False).splitlines()[-1])

    assert told["event"] == "envoy.ready"
    assert told["level"] == "info"
    assert told["gateway"] == "default/web"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_in_a_terminal_it_is_text_with_colours_unless_unwanted(
    monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)

    told = logged(monkeypatch, terminal=True)

    assert "envoy.ready" in told
    assert ("\x1b[" in told) is (no_color == "")


def test_the_form_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    told = logged(monkeypatch, terminal=False, form="text")

    assert "gateway=default/web" in told
    assert "\x1b[" not in told


def test_details_are_told_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "detail" not in logged(monkeypatch, terminal=False)
    assert "detail" in logged(monkeypatch, terminal=False, debug=True)


def test_envoy_tells_as_much_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
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
