from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from moongate.cli import main
from moongate.cli.app import COMMANDS
from tests.cli.conftest import Command
from tests.deadline import DEADLINE_S

HELP = Path(__file__).parent / "help"
MOONGATE = (sys.executable, "-m", "moongate")


@pytest.mark.parametrize("name", ["moongate", *COMMANDS])
def test_help_is_what_the_golden_says(command: Command, name: str) -> None:
    """Help is read more often than any page: a change of it is a change that a reviewer should see."""
    asked = ["--help"] if name == "moongate" else [name, "--help"]

    ended = command(*asked)

    assert ended.code == 0
    assert ended.out == (HELP / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_exit_codes(command: Command, name: str) -> None:
    text = command(name, "--help").out

    assert f"\n    moongate {name}" in text or f"| moongate {name}" in text
    assert "\nExits 0" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "frobnicate"),
        (["translate"], "name files or folders of manifests"),
        (["translate", "--of", "routs", "x"], "routs"),
        (["validate", "--no-such-option", "x"], "--no-such-option"),
        (["run"], "--to"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(command: Command, arguments: list[str], message: str) -> None:
    ended = command(*arguments)

    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("moongate: ")
    assert message in ended.err


def test_a_path_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    ended = command("translate", tmp_path / "sohp")

    assert ended.code == 2
    assert "sohp" in ended.err
    assert ended.err.count("\n") == 1


def test_a_bug_is_one_line_that_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["broken"], with_a_bug())

    text = capsys.readouterr().err
    assert code == 1
    assert text.count("\n") == 1
    assert "ZeroDivisionError in broken (test_app.py:" in text
    assert "division" not in text, "the text of an exception may quote a secret"
    assert "--debug" in text


def test_a_bug_shows_its_traceback_to_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        main(["broken", "--debug"], with_a_bug())

    monkeypatch.setenv("MOONGATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["broken"], with_a_bug())


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(shop: Path) -> None:
    """``moongate translate shop/ | head -1`` says nothing about a broken pipe."""
    running = subprocess.Popen(
        [*MOONGATE, "translate", shop], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    running.stdout.close()

    _, err = running.communicate(timeout=DEADLINE_S)

    assert (running.returncode, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("set_up", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_whose_user_wants_them(set_up: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color"} | set_up
    subprocess.run([*MOONGATE, "run"], stderr=theirs, env=environment, check=False, timeout=DEADLINE_S)
    os.close(theirs)

    said = os.read(ours, 4096)
    os.close(ours)

    assert (b"31m" in said) is coloured
    assert b"nothing to serve" in said


def test_there_are_no_colours_in_a_file(command: Command) -> None:
    assert "\x1b" not in command("run").err


def with_a_bug() -> App:
    """Commands of which one breaks."""
    commands = App()

    @commands.command
    def broken() -> int:  # pyright: ignore[reportUnusedFunction]
        return 1 // 0

    return commands
