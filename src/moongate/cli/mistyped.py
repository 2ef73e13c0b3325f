"""What is wrong with a command line that no command understands, with what was probably meant.

Rules
=====
1. Only an option of the same command is proposed.
2. Words that other tools have for the same (``--host``, ``-f``, ``serve``) lead to ours.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from cyclopts import App, CycloptsError

_OPTIONS = {
    "--address": "--bind",
    "--backend": "--to",
    "--file-format": "--output",
    "--format": "--output",
    "--host": "--bind",
    "--ip": "--bind",
    "--listen": "--bind",
    "--ns": "--namespace",
    "--target": "--to",
    "--upstream": "--to",
    "-p": "--port",
}
"""Options of other tools, with ours."""

_PATHS = {"-f", "-k", "-R", "-r", "--dir", "--file", "--filename", "--folder", "--manifests", "--path"}
"""Options of other tools that name files."""

_COMMANDS = {
    "apply": "run",
    "build": "translate",
    "check": "validate",
    "describe": "status",
    "down": "stop",
    "get": "status",
    "help": "--help",
    "kill": "stop",
    "lint": "validate",
    "list": "status",
    "ls": "status",
    "ps": "status",
    "render": "translate",
    "serve": "run",
    "start": "run",
    "template": "translate",
    "test": "validate",
    "up": "run",
    "verify": "validate",
}
"""Commands of other tools, with ours."""

_FLAGS = {"-V": "--version", "-?": "--help", "-help": "--help"}
"""Options that other tools take instead of a command, with ours."""

_LIKE = 0.75
"""The similarity of a word and an option, from 0 to 1, from which on the option is proposed."""


def explained(error: CycloptsError, commands: Collection[str]) -> str:
    """What is wrong with a command line, in one sentence or two.

    Args:
        error: of Cyclopts.
        commands: the names of the commands.
    """
    match error:
        case UnknownOptionError():
            return _option(error)
        case UnknownCommandError(unused_tokens=[word, *_]):
            return _command(word, commands)
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"{_name(error)} takes no {word!r}.{_chosen_by(error.app, error.command_chain, word)}"
        case MissingArgumentError(argument=argument) if argument is not None:
            if argument.field_info.is_keyword:
                return f"{error.keyword or argument.name} needs a value."
            return f"There is nothing to {_name(error)}; name files or folders of manifests."
        case CoercionError(argument=argument, token=token, target_type=type_) if (
            argument is not None and token is not None and type_ in _TYPES
        ):
            return f"The value of {argument.name} is {token.value!r}; {_TYPES[type_]}."
        case _:
            return _first_sentence(error)


_TYPES: dict[object, str] = {bool: "it takes none", int: "it must be a whole number"}


def _name(error: CycloptsError) -> str:
    return " ".join(error.command_chain or ()) or "moongate"


def _option(error: UnknownOptionError) -> str:
    word = (error.token.keyword or error.token.value).partition("=")[0]
    options = [name for each in error.argument_collection for name in each.names if name.startswith("-")]
    takes_paths = any(each.name == "PATHS" for each in error.argument_collection)
    if takes_paths and word in _PATHS:
        return f"Unknown option: {word}. Files and folders are named without an option."
    return f"Unknown option: {word}.{_proposal(word, options, _OPTIONS)}"


def _command(word: str, commands: Collection[str]) -> str:
    if word.startswith("-"):
        return f"Unknown option: {word}.{_proposal(word, ('--help', '--version'), _FLAGS)}"
    return (
        f"Unknown command: {word}.{_proposal(word, (*commands, '--help'), _COMMANDS)} "
        f"The commands are {', '.join(commands)}."
    )


def _proposal(word: str, candidates: Sequence[str], others: dict[str, str]) -> str:
    """A question whether one of the candidates is meant; "" if none is similar."""
    same = others.get(word)
    close = [same] if same in candidates else difflib.get_close_matches(word, candidates, n=1, cutoff=_LIKE)
    return f" Did you mean {close[0]}?" if close else ""


def _chosen_by(app: App | None, chain: Iterable[str] | None, word: str) -> str:
    """A question whether the option is meant that has this word among its values; "" if there is none."""
    if app is None:
        return ""
    _, apps, _ = app.parse_commands([*(chain or ())])
    for argument in apps[-1].assemble_argument_collection():
        if word in (argument.get_choices(force=True) or ()):
            return f" Did you mean {argument.name} {word}?"
    return ""


def _first_sentence(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["the command line is wrong"])[0].rstrip()
    return line if line.endswith((".", "!", "?")) else f"{line}."
