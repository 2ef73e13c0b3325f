"""What the access log costs: requests per second of ``moongate run`` without one, and to several places.

``python -m bench.access_log`` starts a ``moongate run`` for each place, and asks their Envoys the same thing
in turns: no access log, a file, also one in the watched folder or beside it, a pipe that is read, a terminal.
Each is compared with the run without an access log next to it. A place is a descriptor for standard output,
as a shell gives it.

h2load makes the load (Debian: ``nghttp2-client``); an Envoy that answers by itself is the upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import sys
import threading
from asyncio.subprocess import DEVNULL, Process
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import psutil

from bench.figures import plain_table
from bench.measure import cpu_s
from bench.throughput import MANIFESTS, compared, load, static_envoy, upstream_that_answers
from moongate.infra.rundir import RunDirectory
from moongate.report.logs import configure
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.throughput import Run

NONE: Final = "no access log"


def _file(_manifests: Path, logs: Path) -> int:
    return os.open(logs / "access.log", os.O_WRONLY | os.O_CREAT)


def _file_within(manifests: Path, _logs: Path) -> int:
    return _file(manifests, manifests)


def _file_beside(manifests: Path, _logs: Path) -> int:
    return _file(manifests, manifests.parent)


def _pipe(_manifests: Path, _logs: Path) -> int:
    reader, writer = os.pipe()
    _read_all(reader)
    return writer


def _terminal(_manifests: Path, _logs: Path) -> int:
    reader, writer = pty.openpty()
    _read_all(reader)
    return writer


def _read_all(fd: int) -> None:
    def read() -> None:
        try:
            while os.read(fd, 1 << 16):
                pass
        except OSError:
            pass  # the end of a terminal

    threading.Thread(target=read, daemon=True).start()


PLACES: Final[dict[str, Callable[[Path, Path], int]]] = {
    NONE: _file,
    "a file": _file,
    "a file in the watched folder": _file_within,
    "a file beside it": _file_beside,
    "a pipe that is read": _pipe,
    "a terminal": _terminal,
}


async def _moongate(stack: AsyncExitStack, name: str, port: int, upstream: int) -> tuple[Process, int]:
    """A ``moongate run`` that serves, and the process id of its Envoy."""
    runs = stack.enter_context(TemporaryDirectory(prefix="mg-", dir="/tmp"))
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="mg-", dir="/tmp"))) / "gateway"
    folder.mkdir()
    manifests = MANIFESTS.format(port=port, upstream=upstream)
    if name != NONE:
        manifests = manifests.replace("accessLog: {disable: true}", "{}")
    (folder / "bench.yaml").write_text(manifests)
    logs = stack.enter_context(TemporaryDirectory(prefix="mg-", dir="/tmp"))
    stdout = PLACES[name](folder, Path(logs))
    command = ["-m", "moongate", "run", folder, "--run-dir", runs]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=stdout, stderr=DEVNULL)
    os.close(stdout)
    stack.push_async_callback(_end, process)
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            break
    [envoy] = psutil.Process(process.pid).children()
    return process, envoy.pid


async def _end(process: Process) -> None:
    process.terminate()
    await process.wait()


async def measure(pairs: int, requests: int, connections: int) -> str:
    """A table in Markdown."""
    runs: dict[str, list[Run]] = {name: [] for name in PLACES}
    own: dict[str, list[float]] = {name: [] for name in PLACES}
    async with AsyncExitStack() as stack:
        run = stack.enter_context(RunDirectory())
        upstream = free_port()
        await static_envoy(stack, run, "upstream", upstream_that_answers(upstream))
        ports = {name: free_port() for name in PLACES}
        started = {name: await _moongate(stack, name, ports[name], upstream) for name in PLACES}
        for turn in range(pairs + 1):
            # There and back again, so that a machine that gets slower hits all alike.
            for name in list(PLACES) if turn % 2 == 0 else reversed(PLACES):
                process, envoy = started[name]
                before = cpu_s(process.pid)
                run_ = await load(envoy, ports[name], requests, connections)
                if turn:  # the first is for connections to the upstream, and caches
                    runs[name].append(run_)
                    own[name].append((cpu_s(process.pid) - before) / requests * 1e6)
    rows = [("standard output", "requests/s", "of those without", "Envoy's CPU", "moongate's CPU")]
    for name, those in runs.items():
        beside = zip(those, runs[NONE], strict=True)
        part = median(one.per_second / base.per_second for one, base in beside)
        cpu = compared(name, those, runs[NONE]).cpu_us
        rows.append(
            (
                name,
                f"{median(r.per_second for r in those):,.0f}",
                f"{part:.0%}",
                f"{cpu:.1f} µs",
                f"{median(own[name]):.1f} µs",
            )
        )
    return plain_table(rows)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.access_log", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="runs to each place [%(default)s]")
    parser.add_argument("--requests", type=int, default=20_000, help="in a run [%(default)s]")
    parser.add_argument("--connections", type=int, default=64, help="[%(default)s]")
    options = parser.parse_args()
    configure("json")  # what moongate logs goes to standard error
    print(f"{os.cpu_count()} cores; load average before the start {os.getloadavg()[0]:.1f}\n")
    print(asyncio.run(measure(options.pairs, options.requests, options.connections)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
