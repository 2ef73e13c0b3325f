"""Colours are for people who see them."""

from __future__ import annotations

import io

import pytest

from moongate.terminal import is_styled


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


VARIABLES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM")


@pytest.mark.parametrize(
    ("environment", "in_terminal", "in_file"),
    [
        ({}, True, False),
        ({"TERM": "xterm-256color"}, True, False),
        ({"NO_COLOR": ""}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "unknown"}, False, False),
        ({"CLICOLOR": "0"}, False, False),
        ({"CLICOLOR": "1"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "0", "CLICOLOR_FORCE": "0"}, True, False),
    ],
)
def test_the_environment_says_whether_there_are_colours(
    environment: dict[str, str], in_terminal: bool, in_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert (is_styled(Terminal()), is_styled(io.StringIO())) == (in_terminal, in_file)
