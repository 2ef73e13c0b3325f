"""What a command line says that no command understands."""

from __future__ import annotations

import pytest

from moongate.cli.app import COMMANDS
from moongate.cli.mistyped import _COMMANDS, _OPTIONS  # pyright: ignore[reportPrivateUsage]
from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run --host 0.0.0.0", "Unknown option: --host. Did you mean --bind?"),
        ("run --host=0.0.0.0", "Unknown option: --host. Did you mean --bind?"),
        ("run -p 80", "Unknown option: -p. Did you mean --port?"),
        ("run --tls shop", "Unknown option: --tls. `"),
        ("run -f shop", "Unknown option: -f. Files and folders are named without an option."),
        ("validate --file=shop", "Unknown option: --file. Files and folders are named without an option."),
        ("validate --stric shop", "Unknown option: --stric. Did you mean --strict?"),
        ("validate --format json shop", "Unknown option: --format. Did you mean --output?"),
        ("status -f json", "Unknown option: -f. `"),
        ("status --host a", "Unknown option: --host. `"),
    ],
)
def test_an_unknown_option_leads_to_the_one_that_is_meant(command: Command, line: str, said: str) -> None:
    """Names come from other tools; an option that the command does not have, or that is hardly meant, is
    not proposed."""
    assert command(*line.split()).err.startswith(f"moongate: {said}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("validat shop", "Unknown command: validat. Did you mean validate? The commands are run, "),
        ("start", "Unknown command: start. Did you mean run? "),
        ("apply -f shop", "Unknown command: apply. Did you mean run? "),
        ("logs", "Unknown command: logs. The commands are run, "),
        ("help run", "Unknown command: help. Did you mean --help? "),
        ("--verbose run", "Unknown option: --verbose. `"),
        ("-V", "Unknown option: -V. Did you mean --version? "),
    ],
)
def test_an_unknown_command_leads_to_the_one_that_is_meant(command: Command, line: str, said: str) -> None:
    """What begins with a dash is no command."""
    assert command(*line.split()).err.startswith(f"moongate: {said}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("status routes", "status takes no 'routes'. Did you mean --of routes?"),
        ("status json", "status takes no 'json'. Did you mean --output json?"),
        ("status shop", "status takes no 'shop'. `"),
        ("stop now", "stop takes no 'now'. `"),
        ("validate", "There is nothing to validate; name files or folders of manifests."),
        ("run --to", "--to needs a value."),
        ("status -o", "-o needs a value."),
        ("run shop --permissive=maybe", "The value of --permissive is 'maybe'; it takes none."),
        ("run shop --port 80.5", "The port is '80.5'; it must be a whole number from 1 to 65535."),
        ("run shop --port http", "The port is 'http'; it must be a whole number from 1 to 65535."),
        ("quickstart --port 0", "The port is '0'; it must be a whole number from 1 to 65535."),
        (
            "run localhost:8000",
            "There is no file or folder 'localhost:8000'. Did you mean --to localhost:8000?",
        ),
        ("run 8000", "There is no file or folder '8000'. Did you mean --to localhost:8000?"),
        (
            "run http://a.test:1/x",
            "There is no file or folder 'http://a.test:1/x'. Did you mean --to a.test:1?",
        ),
        ("run main:app", "There is no file or folder 'main:app' in "),
    ],
)
def test_a_value_in_the_wrong_place_is_explained(command: Command, line: str, said: str) -> None:
    """In words of the command line, not of Python's types."""
    ended = command(*line.split())

    assert ended.err.startswith(f"moongate: {said}")
    assert ended.code == 2


def test_a_command_that_is_proposed_exists() -> None:
    """A name that was changed would be proposed for ever."""
    assert set(_COMMANDS.values()) <= {*COMMANDS, "--help"}


@pytest.mark.parametrize("option", sorted(set(_OPTIONS.values())))
def test_an_option_that_is_proposed_exists(command: Command, option: str) -> None:
    assert any(f"  {option}" in command(each, "--help").out for each in COMMANDS)
