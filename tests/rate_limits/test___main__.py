"""The process as a program; ``tests/infra/test_rate_limit_process.py`` has it as moongate runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from moongate.rate_limits.settings import Settings


@pytest.mark.slow
def test_it_ends_when_standard_input_does_and_takes_the_place_of_a_socket(tmp_path: Path) -> None:
    """A file that a killed process left is no obstacle."""
    socket = tmp_path / "limits.sock"
    socket.touch()
    settings = Settings(socket=str(socket), configuration=f"unix:{tmp_path}/none")
    ended = subprocess.run(
        [sys.executable, "-m", "moongate.rate_limits"],
        input=msgspec.json.encode(settings) + b"\n",
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert socket.is_socket()
