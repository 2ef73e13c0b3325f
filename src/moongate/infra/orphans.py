"""Children that this process did not start: as process 1, it inherits those of others.

Facts
-----
* the parent of a process that has lost its own becomes process 1 of its PID namespace. Nobody but the parent
  can remove what is left of a process that has ended
* SIGCHLD comes also when a process that has ended already gets a new parent
* what we start is in our session, except Envoys. A container runtime makes process 1 the leader of a session,
  and what it starts there later (a health check, ``docker exec``) is in another one. Under ``unshare``, both
  may be in a session of outside, which is 0: such orphans are left alone, as they cannot be told from ours
* somebody waits for each process that we start. If we took its exit status here, it would be lost
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PROCESSES: Final = Path("/proc")


def reap_orphans(ours: Collection[int]) -> None:
    """Remove what is left of children that have ended and that nobody here waits for.

    Args:
        ours: the processes that we started in a session of their own.
    """
    us, session = os.getpid(), os.getsid(0)
    for pid, state, parent, its_session in _processes():
        if state == "Z" and parent == us and its_session != session and pid not in ours:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _processes() -> Iterator[tuple[int, str, int, int]]:
    for entry in _PROCESSES.iterdir():
        if entry.name.isdecimal():
            # It may end while we look.
            with suppress(OSError):
                # The name of the program may contain spaces and brackets.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry.name), fields[0], int(fields[1]), int(fields[3])
