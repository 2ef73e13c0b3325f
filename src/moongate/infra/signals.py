"""The signals that end a command which has something to clean up.

Facts
-----
* a terminal that is closed sends SIGHUP. Where it is ignored at the start (``nohup``), it stays ignored
* without a terminal, SIGHUP asks a daemon to read its configuration again: systemd's and logrotate's custom
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_ignored(number: signal.Signals) -> bool:
    """Whether this process was started with a signal ignored."""
    return signal.getsignal(number) is signal.SIG_IGN


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, whose end would send it SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def exiting_by_signals() -> Generator[None]:
    """Let signals that end the process raise ``SystemExit``, so that files and processes are removed.

    In another thread than the main one nothing changes: only that one can set handlers.
    """

    def on_signal(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING if not is_ignored(number)}
    try:
        for number in before:
            signal.signal(number, on_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
