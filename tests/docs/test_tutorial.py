"""The tutorial and how-to pages, as a reader does them: files are written, commands are run, and what they
print is compared.

Rules
=====
1. Ports are exchanged for free ones. What differs from run to run (times, process ids, versions, lengths) is
   left out, and so is how tables are aligned.
2. What a file says is in force soon after it was written, so a command is asked again until it answers as
   shown, or its time is over.
3. ``console edited`` needs an edit that only the prose describes; it is passed over.
4. A how-to page starts from the shop of the tutorial, which is being served. Its blocks of ``sh`` are for the
   reader to choose from, and are passed over.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.deadline import DEADLINE_S
from tests.docs.test_docs import DOCS, SHOP, blocks, laid_on
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

PAGE = DOCS / "tutorial" / "first-gateway.md"
PAUSE_S = 0.1
VOLATILE = re.compile(
    r"^(date|last-modified|server|content-length|Python|Envoy|moongate  )\b.*$", re.IGNORECASE
)


def test_a_reader_sees_what_the_tutorial_shows(tmp_path: Path) -> None:
    with ExitStack() as stack:
        runs = stack.enter_context(tempfile.TemporaryDirectory(prefix="mg-"))
        reader = Reader(tmp_path, Path(runs), stack)
        for block in blocks(PAGE):
            text = reader.exchanged(block.text)
            match block.words:
                case ["yaml", path]:
                    (tmp_path / path).parent.mkdir(exist_ok=True)
                    (tmp_path / path).write_text(text, "utf-8")
                case ["sh"]:
                    reader.do(text)
                case ["console"]:
                    for command, shown in commands(text):
                        assert reader.see(command, shown) == shown, f"line {block.line}: {command}"
                case _:
                    pass


HOW_TO = [
    page
    for page in sorted((DOCS / "how-to").glob("*.md"))
    if any(block.words == ("console",) for block in blocks(page))
]


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_reader_sees_what_a_how_to_shows(tmp_path: Path, page: Path) -> None:
    """What is wrong on purpose stays until the next manifest takes its place."""
    if "jq" in page.read_text("utf-8") and shutil.which("jq") is None:
        pytest.skip("The page uses jq, which is not installed.")
    shop = tmp_path / "shop"
    shop.mkdir()
    with ExitStack() as stack:
        runs = stack.enter_context(tempfile.TemporaryDirectory(prefix="mg-"))
        reader = Reader(tmp_path, Path(runs), stack)
        files = {path.name: reader.exchanged(path.read_text("utf-8")) for path in SHOP}
        reader.write(shop, files)
        reader.do(reader.exchanged("python3 -m http.server --directory . --bind 127.0.0.1 3000"))
        reader.serve("moongate run shop/")
        for block in blocks(page):
            text = reader.exchanged(block.text)
            match block.words:
                case ["yaml", path] if path != "part":
                    files = laid_on(files, path.removeprefix("shop/").removesuffix(".yaml") + ".yaml", text)
                    reader.write(shop, files)
                case ["console"]:
                    for command, shown in commands(text):
                        assert reader.see(command, shown) == shown, f"line {block.line}: {command}"
                case _:
                    pass


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands with what they print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        # A command goes on after a backslash.
        command, shown = re.split(r"(?<!\\)\n", part, maxsplit=1)
        yield command, steady(shown)


def steady(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    lines = [" ".join(line.split()) for line in text.replace("\r", "").splitlines()]
    steadied = [re.sub(r"Envoy [\d.]+", "Envoy", line) for line in lines if line]
    return [line for line in steadied if not VOLATILE.match(line)]


class Reader:
    """Somebody with three terminals in one folder."""

    def __init__(self, folder: Path, runs: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._runs = runs
        self._stack = stack
        self._ports = {port: str(free_port()) for port in ("3000", "8080", "8443")}

    def exchanged(self, text: str) -> str:
        """With ports that are free."""
        return re.sub(r"\b(3000|8080|8443)\b", lambda port: self._ports[port[0]], text)

    def do(self, script: str) -> None:
        """Run a block of shell; a server goes on running, and what installs is passed over."""
        if "pip install" in script:
            return
        prelude, server, last = script.rpartition("python3 -m http.server")
        self._shell(prelude if server else script)
        if server:
            command = f"exec {sys.executable} -m http.server{last}"
            self._stack.enter_context(running(command, self._folder))

    def see(self, command: str, shown: list[str]) -> list[str]:
        """What a command prints, as shown if it does before its time is over."""
        if command.startswith("moongate run"):
            return self._serve(command, shown)
        end = time.monotonic() + DEADLINE_S
        while (seen := steady(self._shell(command, quiet=True))) != shown and time.monotonic() < end:
            time.sleep(PAUSE_S)
        return seen

    def write(self, folder: Path, files: dict[str, str]) -> None:
        """Let the folder have these files and no others."""
        for name, text in files.items():
            if not (folder / name).exists() or (folder / name).read_text("utf-8") != text:
                (folder / name).write_text(text, "utf-8")
        for path in folder.iterdir():
            if path.name not in files:
                path.unlink()

    def serve(self, command: str) -> None:
        """Serve a folder until the end, whatever the log says."""
        self._stack.enter_context(running(f"exec {self._ours(command)} 2>/dev/null", self._folder))

    def _serve(self, command: str, shown: list[str]) -> list[str]:
        """The log, as shown; times and process ids differ."""
        process = self._stack.enter_context(
            running(f"exec {self._ours(command)} --log-format text", self._folder)
        )
        assert process.stderr is not None, "it is a pipe"
        seen = [next(process.stderr).decode() for _ in shown]
        same = [_event(line) for line in seen] == [_event(line) for line in shown]
        return shown if same else steady("".join(seen))

    def _shell(self, script: str, *, quiet: bool = False) -> str:
        silent = self._ours(script).replace("curl ", "curl -sS ")
        done = subprocess.run(
            ["/bin/bash", "-c", silent],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert quiet or done.returncode == 0, done.stderr
        return done.stdout

    def _ours(self, script: str) -> str:
        """With this interpreter's moongate, and a place for its sockets that is nobody else's."""
        script = re.sub(r"\bmoongate (run|status)\b", rf"moongate \1 --run-dir {self._runs}", script)
        return re.sub(r"\bmoongate (?=run|status|validate|version)", f"{sys.executable} -m moongate ", script)


def _event(line: str) -> list[str]:
    """A line of the log without its time, and without what differs from run to run."""
    return re.sub(r"^\S+ |\b(pid|ms)=\d+", r"\1", line).split()


@contextmanager
def running(command: str, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process in the background, ended at the end."""
    with subprocess.Popen(
        ["/bin/bash", "-c", command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)
