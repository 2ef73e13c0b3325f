"""Test runs side by side do not get in each other's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = """
import os, sys
os.getpid = lambda: 4711
from tests.ports import free_port
print(free_port(), flush=True)
sys.stdin.read()
"""
"""Begins to look at the same place as others of its kind, and goes on until its input ends."""


def run() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_runs_do_not_get_the_same_port() -> None:
    """It is free for a moment whenever a gateway restarts, and two Envoys can listen on one."""
    with run() as one, run() as other:
        assert one.stdout is not None
        assert other.stdout is not None
        ports = one.stdout.readline(), other.stdout.readline()
        one.communicate()
        other.communicate()

    assert len({int(port) for port in ports}) == 2
