"""The commands under one name, and how each may end.

Rules
=====
1. A command answers with its exit code. What a user can mend is a ``UsageError``, shown in one line.
2. What is left is a bug: one line as well, and the traceback for whoever asks for it.
3. Nothing that is slow to import is imported before a command runs, so that help is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, cast

from cyclopts import App, CycloptsError

from moongate.cli.manifests import STDIN_TOKEN
from moongate.cli.printing import called, complain
from moongate.cli.quickstart import quickstart
from moongate.cli.run import run
from moongate.cli.status import status
from moongate.cli.translate import translate
from moongate.cli.usage_errors import INTERRUPTED, REFUSED, USAGE, UsageError
from moongate.cli.validate import validate
from moongate.cli.version import version

if TYPE_CHECKING:
    from collections.abc import Sequence

app = App(
    name="moongate",
    help="""A gateway from Gateway API manifests, with Envoy doing the work.

Start with an example that brings its own backends, then with manifests of
your own:

    moongate quickstart
    moongate run shop/
    moongate validate shop/
    moongate status
""",
    help_epilogue="""Exit codes: 0 all is well, 1 something is wrong with what was looked at or with
the machine, 2 the command cannot be meant as it was given (an option that does
not exist, a path that is not there), 130 ended by Ctrl-C.

`--debug`, or MOONGATE_DEBUG=1 in the environment, shows the traceback of an
internal error. Colours are shown in a terminal only; NO_COLOR=1 turns them off.""",
    help_format="plaintext",
    help_formatter="plain",
    version=lambda: f"moongate {installed('moongate')}",
    suppress_keyboard_interrupt=False,
)

COMMANDS = {each.__name__: each for each in (run, translate, validate, status, quickstart, version)}
"""In the order of help and reference."""

for _number, _command in enumerate(COMMANDS.values()):
    app.command(_command, help_epilogue="", sort_key=_number)


def main(arguments: Sequence[str] | None = None, commands: App = app) -> int:
    """Run one command line, and answer its exit code.

    Args:
        arguments: without the program's name; those of the process when ``None``.
        commands: what there is to run.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens or os.environ.get("MOONGATE_DEBUG", "") not in ("", "0")
    try:
        answer = commands(
            _spelled(tokens), exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{_first_line(error)} `{_help_for(tokens)}` tells what there is.")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough (`| head`). What is still buffered must not be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if explained := _explained(error):
            complain(explained[0])
            return explained[1]
        complain(
            f"Internal error, {type(error).__name__} in {_place_of(error)}. This is a bug of moongate: "
            "please report it with what the same command says with --debug."
        )
        return REFUSED
    return answer if isinstance(answer, int) else 0


def _spelled(tokens: list[str]) -> list[str]:
    """The tokens as Cyclopts takes them: it has no "-", and a flag has no value."""
    spelled = [STDIN_TOKEN if word == "-" else word for word in tokens if word != "--debug"]
    if spelled[:1] == ["validate"]:
        spelled = [word.replace("--envoy=", "--envoy-binary=", 1) for word in spelled]
    return spelled


def _help_for(tokens: Sequence[str]) -> str:
    named = next((token for token in tokens if token in COMMANDS), None)
    return f"{called()} {named} --help" if named else f"{called()} --help"


def _place_of(error: Exception) -> str:
    """Where an error was raised. Its text is not shown: it may quote a secret."""
    *_, raised = traceback.extract_tb(error.__traceback__)
    return f"{raised.name} ({raised.filename.rpartition('/')[2]}:{raised.lineno})"


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["no more is known"])[0].rstrip()
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _explained(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of an error whose words were written for users; ``None`` for all others."""
    while isinstance(error, ExceptionGroup):
        inner = cast("ExceptionGroup[Exception]", error).exceptions
        if len(inner) != 1:
            return None
        (error,) = inner
    if isinstance(error, UsageError):
        return error.message, error.code
    for name, module, code in _EXPLAINED:
        # An error can only be of a class whose module was imported.
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and isinstance(error, known):
            return str(error), code
    return None


_EXPLAINED = (
    ("ManifestError", "moongate.run", USAGE),
    ("EnvoyMissingError", "moongate.infra.binary", REFUSED),
    ("EnvoyFailedError", "moongate.infra.process", REFUSED),
    ("PortError", "moongate.infra.ports", REFUSED),
    ("NoRunDirectoryError", "moongate.infra.rundir", REFUSED),
)
"""Errors of layers below that name what a user can do: class, module, exit code."""
