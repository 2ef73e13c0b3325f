"""What commands print: tables as ``kubectl`` has them, documents, and single lines for people."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Output = Literal["yaml", "json"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {"True": "green", "False": "red", "Unknown": "yellow"}
_GAP = "   "


def called() -> str:
    """What to write for ``moongate`` in a shell, as this process shows: it may not be on the PATH."""
    program = Path(sys.argv[0])
    if program.parts[-2:] == ("moongate", "__main__.py"):
        return shlex.join([sys.orig_argv[0], "-m", "moongate"])
    installed = shutil.which("moongate")
    if program.name != "moongate" or (
        installed is not None and program.exists() and program.samefile(installed)
    ):
        return "moongate"
    return shlex.quote(sys.argv[0])


def complain(message: str) -> None:
    """One line on standard error."""
    line = Text("moongate: ", style="bold red")
    line.append(harmless(message), style="default not bold")
    _console(stderr=True).print(line, soft_wrap=True)


def say(text: str | Text, *, stderr: bool = False) -> None:
    """One line, as it is, for a person."""
    shown = text if isinstance(text, Text) else Text(harmless(text))
    _console(stderr=stderr).print(shown, soft_wrap=True)


def say_document(value: Any, output: Output) -> None:
    """Plain data on standard output, for people and programs."""
    sys.stdout.write(as_yaml(value) if output == "yaml" else as_json(value))


def as_yaml(value: Any) -> str:
    """YAML in the order of the data, without anchors."""
    import yaml
    from yaml import CSafeDumper

    class Dumper(CSafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    # Protobuf's own mappings, too.
    Dumper.add_multi_representer(dict, CSafeDumper.represent_dict)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def as_json(value: Any) -> str:
    """JSON, indented, one line feed at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def say_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with a title; columns as wide as what they hold, the last one as long as it is.

    Nothing is cut or wrapped, so that ``grep`` and ``awk`` find what they look for. A cell that is a
    condition's status has its colour.
    """
    shown = [[_one_line(cell) or "-" for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headers, *shown, strict=True)]
    say(Text(title, style="bold"))
    say(_line(headers, widths, header=True))
    for row in shown:
        say(_line(row, widths))


def harmless(text: str) -> str:
    """A text without the characters that would command a terminal: what manifests say is others' words.

    >>> harmless("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda control: f"\\x{ord(control[0]):02x}", text)


def _one_line(cell: str) -> str:
    return harmless(" ".join(cell.split()))


def _line(cells: Sequence[str], widths: Sequence[int], *, header: bool = False) -> Text:
    line = Text()
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        line.append(cell, style="dim" if header else _STYLES.get(cell, ""))
        if number < len(cells) - 1:
            line.append(" " * (width - cell_len(cell)) + _GAP)
    return line


def _console(*, stderr: bool = False) -> Console:
    # Made for each line: whoever redirects the streams (a test, a pager) has done so by now.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
