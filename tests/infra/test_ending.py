from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from moongate.infra.ending import end_kept
from moongate.infra.rundir import RunDirectory


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


async def test_of_an_envoy_that_has_ended_only_the_files_are_left(run: RunDirectory) -> None:
    envoy = run.envoy("default/eg")
    envoy.record.write_text('{"pid": 1, "started": 1, "boot": "another"}')

    await end_kept(envoy, 1)

    assert list(run.path.iterdir()) == []
