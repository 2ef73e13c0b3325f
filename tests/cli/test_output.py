"""Where a run writes, and what holds if nobody reads it: serving never waits for a reader."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from moongate.cli.forwarding import forwarding
from tests.cli.process import left_in
from tests.deadline import DEADLINE_S
from tests.e2e.backends import Echo
from tests.ports import free_port
from tests.run.conftest import is_, until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def test_envoy_writes_to_a_file_itself_and_no_line_is_overwritten(tmp_path: Path) -> None:
    """The log of moongate goes to the same file, as a shell has it: ``>log 2>&1``."""
    async with Echo("up").serving() as up:
        port = free_port()
        with (tmp_path / "log").open("w") as log:
            async with started(tmp_path, log.fileno(), "--to", f"127.0.0.1:{up.port}", "--port", port) as run:
                await answered(port, 200, times=50)
                # One more line of moongate, after those of Envoy.
                run.terminate()
                await run.wait()
            log.write("the shell goes on\n")

    *lines, last = (tmp_path / "log").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert sum(entry.get("response_code") == 200 for entry in entries) == 50
    assert [e["event"] for e in entries if "event" in e][-1] == "gateway.stopped"
    assert last == "the shell goes on"


async def test_an_access_log_can_be_done_without(tmp_path: Path) -> None:
    async with Echo("up").serving() as up:
        port = free_port()
        to = ("--to", f"127.0.0.1:{up.port}", "--port", port)
        with (tmp_path / "log").open("w") as log:
            async with started(tmp_path, log.fileno(), *to, "--access-log", "none") as run:
                await answered(port, 200, times=3)
                run.terminate()
                await run.wait()

    assert "response_code" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal", "a full disk", "closed"])
async def test_nothing_waits_for_who_does_not_read_the_log(tmp_path: Path, kind: str) -> None:
    """Requests are answered, an edit takes effect, and a signal ends it."""
    shop = tmp_path / "shop.yaml"
    async with Echo("one").serving() as one, Echo("two").serving() as two:
        port = free_port()
        shop.write_text(forwarding(f"127.0.0.1:{one.port}", port, "default"))
        ours, theirs = ends(kind)
        async with started(tmp_path, theirs, shop) as run:
            async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
                url = f"http://127.0.0.1:{port}/"
                await answered(port, 200, times=1)
                # Several times what a pipe holds.
                for _ in range(300):
                    assert (await client.get(url + "x" * 1000)).headers["x-backend"] == "one"

                shop.write_text(forwarding(f"127.0.0.1:{two.port}", port, "default"))
                await until(lambda: is_(port, "two"))
            run.send_signal(signal.SIGINT)
            async with asyncio.timeout(DEADLINE_S):
                assert await run.wait() == 0
        os.close(ours)
        os.close(theirs)

    assert left_in(tmp_path / "runs") == []


async def test_a_quickstart_that_nobody_reads_serves_and_ends(tmp_path: Path) -> None:
    """It prints what to try, and that may be more than a pipe takes."""
    ours, theirs = ends("pipe")
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"x" * (1 << 12))
    os.set_blocking(theirs, True)
    port = free_port()
    async with started(tmp_path, theirs, "--port", port, "--show", command="quickstart") as run:
        await answered(port, 200, times=1)
        run.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            assert await run.wait() == 0
    os.close(ours)
    os.close(theirs)


def ends(kind: str) -> tuple[int, int]:
    """Our end of something to write to, from which nobody reads, and the end for a process."""
    match kind:
        case "pipe":
            return os.pipe()
        case "socket":
            return tuple(end.detach() for end in socket.socketpair())  # pyright: ignore[reportReturnType]
        case "terminal":
            return os.openpty()
        case "a full disk":
            return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
        case _:
            reader, writer = os.pipe()
            os.close(reader)
            return os.open(os.devnull, os.O_RDONLY), writer


@asynccontextmanager
async def started(
    folder: Path, output: int, *arguments: object, command: str = "run"
) -> AsyncGenerator[Process]:
    """``moongate run`` with standard output and standard error on one descriptor."""
    line = ["-m", "moongate", command, *map(str, arguments), "--run-dir", str(folder / "runs")]
    process = await asyncio.create_subprocess_exec(sys.executable, *line, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answered(port: int, status: int, *, times: int) -> None:
    """Return after so many answers of a gateway that starts."""
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        while times:
            try:
                times -= (await client.get(f"http://127.0.0.1:{port}/")).status_code == status
            except httpx.TransportError:
                await asyncio.sleep(0.01)
