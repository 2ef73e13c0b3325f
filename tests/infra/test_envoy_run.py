from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moongate.infra.envoy_run import EnvoyRun, Pipes
from moongate.infra.rundir import RunDirectory

if TYPE_CHECKING:
    from moongate.infra.rundir import EnvoyFiles

LINES = "import sys; print('a request'); print('a word', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def files(run: RunDirectory) -> EnvoyFiles:
    return run.envoy("default/eg")


async def test_what_a_process_writes_is_read_to_its_end(files: EnvoyFiles) -> None:
    process = await EnvoyRun.start([sys.executable, "-c", LINES], files, None)

    await process.ended.wait()

    assert (await process.access_log.read(), await process.log.read()) == (b"a request\n", b"a word\n")
    assert process.status == 3
    process.close()


async def test_a_process_can_have_another_standard_output(files: EnvoyFiles) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as out:
        process = await EnvoyRun.start([sys.executable, "-c", LINES], files, writer)
        os.close(writer)
        await process.ended.wait()
        process.close()

        assert out.read() == b"a request\n"


async def test_a_program_that_does_not_run_leaves_nothing_open(files: EnvoyFiles) -> None:
    before = open_files()

    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await EnvoyRun.start(["/no/such/program"], files, None)

    await asyncio.sleep(0)
    assert open_files() == before


@pytest.mark.slow
async def test_a_process_of_others_is_taken_over(files: EnvoyFiles) -> None:
    """It goes on to write into its FIFOs, and its end is seen, though not how it ended."""
    source = "import signal; signal.signal(signal.SIGUSR1, lambda *_: print('more', flush=True))\n"
    source += "print('a request', flush=True)\nwhile True: signal.pause()"
    first = await EnvoyRun.start([sys.executable, "-c", source], files, None)
    assert await first.access_log.readline() == b"a request\n"
    first.close()
    second = await EnvoyRun.adopt(first.pid, files)

    second.send(signal.SIGUSR1)
    assert await second.access_log.readline() == b"more\n"
    second.send(signal.SIGKILL)
    await second.ended.wait()

    assert second.status is None
    second.send(signal.SIGKILL)
    second.close()
    await asyncio.to_thread(os.waitpid, first.pid, 0)


async def test_who_writes_while_nobody_reads_does_not_wait(files: EnvoyFiles) -> None:
    """Envoy goes on serving while no moongate runs, and its threads write these lines."""
    pipes = await Pipes.open(files)
    writer = os.open(files.access_log, os.O_WRONLY)
    pipes.close()
    await asyncio.sleep(0)

    with os.fdopen(writer, "wb", buffering=0) as fifo, pytest.raises(BrokenPipeError):
        fifo.write(b"a request\n")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
