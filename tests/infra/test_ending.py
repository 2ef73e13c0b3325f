from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from moongate.infra.ending import end_kept
from moongate.infra.rundir import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
async def test_an_envoy_without_a_moongate_is_ended(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, *, ignored: bool
) -> None:
    """Also one that does not answer, and one that is deaf to SIGTERM."""
    monkeypatch.setattr("moongate.infra.ending.TERM_WAIT_S", 0.5 if ignored else 60)
    envoy = run.envoy("default/eg")
    source = "import signal; print(flush=True); signal.pause()"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" * ignored
    command = [sys.executable, "-c", deaf + source, envoy.bootstrap]
    # A child of its own, which no loop waits for.
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        process.stdout.readline()
        envoy.write_record(process.pid)
        assert run.envoys() == [envoy]

        await end_kept(envoy, 1)

        assert process.wait() == -(signal.SIGKILL if ignored else signal.SIGTERM)
    assert run.envoys() == []
    assert list(run.path.iterdir()) == []


@pytest.mark.slow
async def test_an_envoy_has_its_time_to_end_though_moongate_stands_still(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole machine may have stood still."""
    monkeypatch.setattr("moongate.infra.ending.TERM_WAIT_S", 2.0)
    loop, may_end = asyncio.get_running_loop(), tmp_path / "may end"

    def stand_still() -> None:
        time.sleep(3)
        loop.call_later(0.2, may_end.touch)

    envoy = run.envoy("default/eg")
    source = """
import pathlib, signal, sys, time
def end(*_):
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(flush=True)
signal.pause()
"""
    command = [sys.executable, "-c", source, may_end, envoy.bootstrap]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        process.stdout.readline()
        envoy.write_record(process.pid)
        loop.call_later(0.2, stand_still)

        await end_kept(envoy, 1)

        assert process.wait() == 0


async def test_of_an_envoy_that_has_ended_only_the_files_are_left(run: RunDirectory) -> None:
    envoy = run.envoy("default/eg")
    envoy.record.write_text('{"pid": 1, "started": 1, "boot": "another"}')

    await end_kept(envoy, 1)

    assert list(run.path.iterdir()) == []
