"""Becomes Envoy, after asking the kernel to kill it when its parent dies.

Run as a file: ``python -I -S launch.py PARENT_PID BINARY ARGUMENT…``. It is a program of its own
because code between fork and exec (``preexec_fn``) is unsafe in a process with threads, and grpcio
has threads. The exec keeps the process id, so the parent sees Envoy where it started this.

Facts
-----
* the kernel sends the signal when the *thread* that started us ends; that is the event loop's
* the request is lost when the binary has file capabilities (``setcap``); for that case the next
  start of moongate sweeps, see ``rundir``

Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
# What a shell answers for a command that it cannot run.
CANNOT_RUN = 126


def main(parent: int, command: list[str]) -> None:
    """Replace this process by ``command``; return only when it cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before we asked: nobody is left to end us.
        return
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}.\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
