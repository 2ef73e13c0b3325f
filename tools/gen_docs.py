"""Write ``docs/reference/cli.md`` from the docstrings and parameters of the commands.

What ``moongate COMMAND --help`` says and what the page says is one text, so neither can be forgotten.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moongate.cli.app import COMMANDS, app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"


def main() -> None:
    text = page()
    changed = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
    if changed:
        PAGE.write_text(text, encoding="utf-8")
    print(f"docs: {len(COMMANDS)} commands, {int(changed)} page changed")


def page() -> str:
    """The whole page."""
    assert isinstance(app.help, str)
    assert isinstance(app.help_epilogue, str)
    parts = ["# Commands", *_prose(app.help), *_prose(app.help_epilogue)]
    for name, command in COMMANDS.items():
        parts += [f"## moongate {name}", *_prose(inspect.getdoc(command) or ""), *_parameters(name, command)]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> Iterator[str]:
    """Paragraphs, one sentence a line; what is indented is a block of shell."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            yield "\n".join(["```sh", *(line[4:] for line in lines), "```"])
        else:
            joined = " ".join(line.strip() for line in lines)
            yield _marked(re.sub(r"([.;:]) (?=[A-Z`])", _break, joined))


def _break(match: re.Match[str]) -> str:
    return match[0] if match[1] != "." else ".\n"


def _parameters(name: str, command: Callable[..., Any]) -> Iterator[str]:
    rows: list[str] = []
    for argument in app[name].assemble_argument_collection():
        choices = argument.get_choices()
        default = argument.field_info.default
        value = "" if argument.hint is bool else " " + ("\\|".join(choices) if choices else "VALUE")
        names = argument.names if argument.index is None else (f"{argument.name.rstrip('S')}…",)
        shown = ", ".join(f"`{each}`" for each in names) + (
            f" {value.strip()}" if argument.index is None else ""
        )
        meaning = _marked(argument.parameter.help or "")
        if isinstance(default, str):
            meaning += f" Default: `{default}`."
        rows.append(f"| {shown.strip()} | {meaning} |")
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _marked(text: str) -> str:
    """Words of the command line as code: options, what is in quotes, names in capitals with an underscore."""
    return "".join(part if part.startswith("`") else _marked_words(part) for part in _CODE.split(text))


_CODE = re.compile(r"(`[^`]+`)")
"""What is marked as code already, as a whole."""


def _marked_words(text: str) -> str:
    text = re.sub(r"(?<![\w-])(--?[a-z][\w-]*(?:=[A-Z]+)?)(?!\w)", r"`\1`", text)
    return re.sub(r"'([^']+)'", r"`\1`", text)


if __name__ == "__main__":
    main()
