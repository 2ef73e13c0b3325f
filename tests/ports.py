"""Ports for the listeners of tests."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""First and last port of those that the kernel gives to sockets that ask for none."""

_FIRST = 10_000


def _outside_of_the_ephemeral() -> list[int]:
    first, last = (int(word) for word in _EPHEMERAL.read_text().split())
    return [*range(_FIRST, first), *range(last + 1, 65_536)]


_CANDIDATES = _outside_of_the_ephemeral()
# Test runs side by side begin at places of their own.
_next = os.getpid() * 97 % len(_CANDIDATES)

# Each byte of this file stands for a port, and a process locks those of its ports until it ends.
_claims = (Path(tempfile.gettempdir()) / f"moongate-test-ports-{os.getuid()}").open("wb")


def _claim(port: int) -> bool:
    """Whether a port belongs to this process from now on, and not to another test run."""
    try:
        fcntl.lockf(_claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on, and that nobody will take by chance.

    It lies outside of the range that the kernel chooses from (a server on port 0, a client's connection),
    so it stays free until a test's gateway takes it. No port comes twice in a process, nor in two that run at
    a time: while the gateway of one restarts, its port is free, and two Envoys could listen on it.
    """
    global _next  # noqa: PLW0603 - which ports are taken is a fact of the process
    for _ in range(len(_CANDIDATES)):
        port = _CANDIDATES[_next]
        _next = (_next + 1) % len(_CANDIDATES)
        if not _claim(port):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
                probe.listen(1)
            except OSError:
                continue
            return port
    raise RuntimeError("all ports are taken")
