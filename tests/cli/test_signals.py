"""Signals to the command as a process of its own: what ends it, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import pty
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from moongate.cli.forwarding import forwarding
from tests.cli.process import Moongate, left_in
from tests.deadline import DEADLINE_S
from tests.infra.conftest import HeldBackend, let_go_when_refused
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.cli.conftest import Command

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _hangups_count() -> Generator[None]:
    """Also in tests that were started below nohup: their children would ignore a hangup, as they are to."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDING)
def test_a_check_that_is_ended_leaves_no_private_key_behind(
    tmp_path: Path, shop: Path, number: signal.Signals
) -> None:
    """The configuration that Envoy is to check lies in a file."""
    temporary, binary = tmp_path / "tmp", tmp_path / "envoy"
    temporary.mkdir()
    binary.write_text(
        "#!/bin/sh\n"
        'test "$1" = --version && echo "envoy  version: 0/1.40.0/Clean/RELEASE/x" && exit\n'
        f'ls "$TMPDIR"/*; kill -{number} $PPID; exec sleep {DEADLINE_S}\n'
    )
    binary.chmod(0o755)

    done = subprocess.run(
        [sys.executable, "-m", "moongate", "validate", shop, f"--envoy={binary}"],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 128 + number
    assert done.stderr == ""
    assert left_in(temporary) == []


@pytest.mark.envoy
@pytest.mark.slow
async def test_a_terminal_that_is_closed_ends_a_run_that_drains(tmp_path: Path) -> None:
    """The request in flight is answered, and nothing is left."""
    runs, port = tmp_path / "runs", free_port()
    async with HeldBackend().serving() as backend:
        target = f"127.0.0.1:{backend.port}"
        with in_a_terminal("run", "--to", target, "--port", port, "--run-dir", runs) as (process, terminal):
            async with (
                httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
                asyncio.TaskGroup() as tasks,
            ):
                request = tasks.create_task(until_served(client, f"http://127.0.0.1:{port}/"))
                await backend.asked.wait()
                os.close(terminal)
                tasks.create_task(let_go_when_refused(port, backend))

            assert request.result() == "done"
            assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0

    assert left_in(runs) == []


@pytest.mark.envoy
@pytest.mark.slow
async def test_without_a_terminal_a_hangup_reads_the_files_again(tmp_path: Path) -> None:
    """It is what other daemons do; and no event comes from the files of another machine."""
    runs, shop = tmp_path / "runs", tmp_path / "shop.yaml"
    shop.write_text(forwarding("localhost:1", free_port(), "default"))
    async with Moongate("run", shop, "--run-dir", runs, new_session=True) as running:
        await running.says("gateway.serving")

        running.process.send_signal(signal.SIGHUP)

        await running.says("files.reread")
        await running.says("manifests.loaded")
        assert await running.ended_by(signal.SIGTERM) == 0


@pytest.mark.envoy
@pytest.mark.slow
async def test_a_run_below_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    runs, port = tmp_path / "runs", free_port()
    async with HeldBackend().serving() as backend:
        target = f"127.0.0.1:{backend.port}"
        arguments = ("run", "--to", target, "--port", port, "--run-dir", runs)
        with in_a_terminal(*arguments, before="trap '' HUP;") as (process, terminal):
            async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
                backend.let_go.set()
                await until_served(client, f"http://127.0.0.1:{port}/")
                os.close(terminal)

                assert await until_served(client, f"http://127.0.0.1:{port}/") == "done"

            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_envoy_is_started_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with Moongate("run", "--to", "localhost:1", "--port", free_port(), "--run-dir", tmp_path) as run:
        await run.says("envoy.started")

        assert await run.ended_by(number) == 0

    assert left_in(tmp_path) == []


def test_a_command_in_a_process_of_others_changes_no_signals(command: Command) -> None:
    """Whoever calls it from Python has handlers of their own."""
    before = [signal.getsignal(number) for number in ENDING]

    command("version")

    assert [signal.getsignal(number) for number in ENDING] == before


@contextmanager
def in_a_terminal(
    *arguments: str | int | Path, before: str = ""
) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """``moongate`` with a controlling terminal of its own, and our end of that; killed if it still runs."""
    ours, theirs = pty.openpty()
    command = shlex.join([sys.executable, "-m", "moongate", *map(str, arguments)])
    name = os.ttyname(theirs)
    # A session's leader gets the first terminal that it opens as its controlling one.
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"{before} exec {command} <{name} >{name} 2>&1"], start_new_session=True
    )
    os.close(theirs)
    with process:
        try:
            yield process, ours
        finally:
            process.kill()


async def until_served(client: httpx.AsyncClient, url: str) -> str:
    """The first answer of a gateway that starts."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return (await client.get(url, timeout=DEADLINE_S)).text
            except httpx.ConnectError:
                await asyncio.sleep(0.01)
