"""The process as a program; ``tests/infra/test_rate_limit_process.py`` has it as moongate runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from moongate.rate_limits.settings import Settings


@pytest.mark.slow
def test_it_ends_when_its_lifeline_does_and_takes_the_place_of_a_socket(tmp_path: Path) -> None:
    """A file that a killed process left is no obstacle."""
    socket = tmp_path / "limits.sock"
    socket.touch()
    settings = Settings(configuration=f"unix:{tmp_path}/none")
    lifeline, ours = os.pipe()
    os.close(ours)
    ended = subprocess.run(
        [sys.executable, "-m", "moongate.rate_limits", str(socket), str(lifeline)],
        input=msgspec.json.encode(settings),
        pass_fds=(lifeline,),
        capture_output=True,
        timeout=60,
        check=False,
    )
    os.close(lifeline)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["limits.sock"]
    assert socket.is_socket()
