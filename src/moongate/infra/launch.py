"""A launcher: asks the kernel to kill this process when its parent dies, then executes Envoy.

Envoy may open as many files as the system lets it: every connection is one, and the limit that a shell passes
on is often 1024.

Run as a file: ``python -I -S launch.py PARENT_PID BINARY ARGUMENT…``. It is a program of its own
because code between fork and exec (``preexec_fn``) is unsafe in a process with threads, and grpcio
has threads. The process id stays the same after the exec, so the parent has the process id of Envoy.

Facts
-----
* the kernel sends the signal when the *thread* that started us ends; that is the thread of the event loop
* the kernel forgets the request if the binary has file capabilities (``setcap``); in that case the next start
  of moongate ends Envoy, see ``rundir``

Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
# The exit code of a shell for a command that it cannot run.
CANNOT_RUN = 126


def main(parent: int, command: list[str]) -> None:
    """Replace this process by ``command``. Returns only if the parent has died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent died before our request, so nothing would end Envoy.
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems call a limit infinite and take a lower one only
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        os.execv(command[0], command)  # noqa: S606 - without a shell on purpose
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}.\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
