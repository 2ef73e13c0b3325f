"""The commands under one name, and how each may end.

Rules
=====
1. A command returns its exit code. An error that the user can fix is a ``UsageError``, shown in one line.
2. Any other error is a bug. It is shown in one line too, and with its traceback only if the user asks for
   that.
3. Modules that are slow to import are imported when a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, cast

from cyclopts import App, CycloptsError

from moongate.cli.crds import crds
from moongate.cli.effective import effective
from moongate.cli.manifests import STDIN_TOKEN
from moongate.cli.mistyped import explained
from moongate.cli.printing import complain, program
from moongate.cli.quickstart import quickstart
from moongate.cli.run import run
from moongate.cli.status import status
from moongate.cli.stop import stop
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
    help_epilogue="""Exit codes: 0 all is well, 1 a manifest, a run or the machine has a fault, 2 the
command line is wrong (an option or a path that does not exist), 130 ended by
Ctrl-C.

`--debug`, or MOONGATE_DEBUG=1 in the environment, shows the traceback of an
internal error. Colours are shown in a terminal only; NO_COLOR=1 turns them off.""",
    help_format="plaintext",
    help_formatter="plain",
    version=lambda: f"moongate {installed('moongate')}",
    suppress_keyboard_interrupt=False,
)

COMMANDS = {
    each.__name__: each
    for each in (run, translate, validate, status, effective, stop, quickstart, crds, version)
}
"""In the order of help and reference."""

for _number, _command in enumerate(COMMANDS.values()):
    app.command(_command, help_epilogue="", sort_key=_number)


def main(arguments: Sequence[str] | None = None, commands: App = app) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: without the program's name; those of the process when ``None``.
        commands: the commands that exist.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens or os.environ.get("MOONGATE_DEBUG", "") not in ("", "0")
    try:
        result = commands(
            _normalized(tokens), exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{explained(error, COMMANDS)} `{_help_for(tokens)}` lists the options.")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Python must not write the rest of the buffer again at its
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if for_user := _for_user(error):
            complain(for_user[0])
            return for_user[1]
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            # What is left in the buffer must not fail again at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            complain(f"The output cannot be written: {os.strerror(error.errno).lower()}.")
            return REFUSED
        complain(
            f"Internal error, {type(error).__name__} in {_place_of(error)}. This is a bug of moongate: "
            "please report it, with the output of the same command with --debug."
        )
        return REFUSED
    return result if isinstance(result, int) else 0


def _normalized(tokens: list[str]) -> list[str]:
    """The tokens in a form that Cyclopts accepts: no "-" as an argument, and no value after a flag."""
    normalized = [STDIN_TOKEN if word == "-" else word for word in tokens if word != "--debug"]
    if normalized[:1] == ["validate"]:
        normalized = [word.replace("--envoy=", "--envoy-binary=", 1) for word in normalized]
    return normalized


def _help_for(tokens: Sequence[str]) -> str:
    named = next((token for token in tokens if token in COMMANDS), None)
    return f"{program()} {named} --help" if named else f"{program()} --help"


def _place_of(error: Exception) -> str:
    """Where an error was raised. Its text is not shown: it may quote a secret."""
    *_, raised = traceback.extract_tb(error.__traceback__)
    return f"{raised.name} ({raised.filename.rpartition('/')[2]}:{raised.lineno})"


def _for_user(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of an error whose message is written for users; ``None`` for any other error."""
    while isinstance(error, ExceptionGroup):
        inner = cast("ExceptionGroup[Exception]", error).exceptions
        if len(inner) != 1:
            return None
        (error,) = inner
    if isinstance(error, UsageError):
        return error.message, error.code
    for name, module, code in _FOR_USERS:
        # If the module is not imported, no error of its class can exist.
        error_class = getattr(sys.modules.get(module), name, None)
        if error_class is not None and isinstance(error, error_class):
            return str(error), code
    return None


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

_FOR_USERS = (
    ("ManifestError", "moongate.run", USAGE),
    ("EnvoyMissingError", "moongate.infra.binary", REFUSED),
    ("EnvoyFailedError", "moongate.infra.process", REFUSED),
    ("PortError", "moongate.infra.ports", REFUSED),
    ("NoRunDirectoryError", "moongate.infra.rundir", REFUSED),
)
"""Errors of lower layers whose message says what the user can do: class, module, exit code."""
