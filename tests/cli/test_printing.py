from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from moongate.cli.printing import as_yaml, complain, escaped, program, say_table


def test_columns_are_as_wide_as_what_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    say_table("FRUIT", ["NAME", "COLOUR"], [["apple", "red"], ["梨", ""]])

    assert capsys.readouterr().out == "FRUIT\nNAME    COLOUR\napple   red\n梨      -\n"


def test_long_lines_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """``grep`` must find a message whole."""
    say_table("T", ["MESSAGE"], [["word " * 100]])

    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("text", ["\x1b[31m", "\x07", "\x9b2J", "\r"])
def test_what_would_command_a_terminal_is_spelt_out(text: str) -> None:
    assert escaped(text).isprintable()


def test_yaml_has_no_anchors() -> None:
    """The same object twice is written twice: people read it, and tools without anchors do."""
    shared = {"a": 1}

    text = as_yaml({"one": shared, "two": shared})

    assert "&" not in text
    assert yaml.safe_load(text) == {"one": shared, "two": shared}


def test_a_command_that_is_on_the_path_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we print to be typed must work where it is typed, as from a checkout's ``.venv/bin``."""
    command = tmp_path / "moongate"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(command), "status"])

    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "moongate"
    monkeypatch.setenv("PATH", "")
    assert program() == str(command)


def test_a_module_is_run_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/moongate/__main__.py", "status"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "-m", "moongate", "status"])

    assert program() == ".venv/bin/python -m moongate"


def test_without_colours_there_is_no_style_at_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither colour nor bold: ``NO_COLOR`` is set by people for whose terminal or script each is noise."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    say_table("FRUIT", ["NAME"], [["True"]])

    assert "\x1b[1m" in capsys.readouterr().out

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    say_table("FRUIT", ["NAME"], [["True"]])
    complain("wrong")

    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
