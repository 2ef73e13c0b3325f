"""How commands print: tables like those of ``kubectl``, YAML or JSON documents, and single lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from moongate.terminal import is_styled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

Output = Literal["yaml", "json"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {"True": "green", "False": "red", "Unknown": "yellow"}
_GAP = "   "


def program() -> str:
    """How to start moongate again from a shell, for use in messages: it may not be on the PATH."""
    path = Path(sys.argv[0])
    if path.parts[-2:] == ("moongate", "__main__.py"):
        return shlex.join([sys.orig_argv[0], "-m", "moongate"])
    installed = shutil.which("moongate")
    if path.name != "moongate" or (installed is not None and path.exists() and path.samefile(installed)):
        return "moongate"
    return shlex.quote(sys.argv[0])


def complain(message: str) -> None:
    """Print an error in one line on standard error."""
    line = Text("moongate: ", style="bold red")
    line.append(escaped(message), style="default not bold")
    _console(stderr=True).print(line, soft_wrap=True)


def say(text: str | Text, *, stderr: bool = False) -> None:
    """Print one line, without wrapping it."""
    shown = text if isinstance(text, Text) else Text(escaped(text))
    _console(stderr=stderr).print(shown, soft_wrap=True)


@contextmanager
def saying_aside() -> Generator[Callable[[str], None]]:
    """A function like ``say`` that waits for no reader, for a process that must go on serving."""
    from moongate.line_writer import LineWriter

    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):
        # It is no file but an object of the caller, and there is no pipe to wait for.
        yield say
        return
    with LineWriter(fd, "banner", lambda lines, _dropped, _last: (lines, False)) as writer:
        yield lambda text: writer.write(f"{escaped(text)}\n".encode(errors="backslashreplace"))


def say_document(value: Any, output: Output) -> None:
    """Print plain data as a document on standard output."""
    sys.stdout.write(as_yaml(value) if output == "yaml" else as_json(value))


def say_documents(values: Sequence[Any], output: Output) -> None:
    """Print resources on standard output as ``kubectl`` reads them: one after the other, or as a list."""
    if output == "yaml":
        sys.stdout.write("---\n".join(map(as_yaml, values)))
    else:
        sys.stdout.write(as_json({"apiVersion": "v1", "kind": "List", "items": values}))


def as_yaml(value: Any) -> str:
    """YAML in the order of the data, without anchors."""
    import yaml
    from yaml import CSafeDumper

    class Dumper(CSafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    # Also for the mapping types of protobuf.
    Dumper.add_multi_representer(dict, CSafeDumper.represent_dict)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def as_json(value: Any) -> str:
    """Indented JSON with one line feed at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def say_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a title. Each column is as wide as its widest cell.

    No cell is cut or wrapped, so that ``grep`` and ``awk`` work. The status of a condition has a colour.
    """
    shown = [[_one_line(cell) or "-" for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headers, *shown, strict=True)]
    say(Text(title, style="bold"))
    say(_line(headers, widths, header=True))
    for row in shown:
        say(_line(row, widths))


def escaped(text: str) -> str:
    """A text with its control characters escaped, because text of manifests must not control the terminal.

    >>> escaped("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda control: f"\\x{ord(control[0]):02x}", text)


def _one_line(cell: str) -> str:
    return escaped(" ".join(cell.split()))


def _line(cells: Sequence[str], widths: Sequence[int], *, header: bool = False) -> Text:
    line = Text()
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        line.append(cell, style="dim" if header else _STYLES.get(cell, ""))
        if number < len(cells) - 1:
            line.append(" " * (width - cell_len(cell)) + _GAP)
    return line


def _console(*, stderr: bool = False) -> Console:
    # A new console for each line, because a test or a pager may have redirected the streams since the last.
    styled = is_styled(sys.stderr if stderr else sys.stdout)
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=styled,
        # Without it there is no style at all. "NO_COLOR" of Rich leaves bold and dim.
        color_system="auto" if styled else None,
    )
