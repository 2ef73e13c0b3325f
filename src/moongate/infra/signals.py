"""The signals that end a command: at its start, and where it has something to clean up.

Facts
-----
* a terminal that is closed sends SIGHUP. Where it is ignored at the start (``nohup``), it stays ignored
* without a terminal, SIGHUP asks a daemon to read its configuration again: systemd's and logrotate's custom
* a terminal that is closed is no controlling terminal any more when its SIGHUP comes, so whether there is one
  is asked once, at the start
* to process 1 (of a container) the kernel delivers only signals that have a handler
* Python turns a Ctrl-C into an exception at whatever line it runs, and shows it with a traceback

This is loaded before any command, so it imports nothing that is slow.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from functools import cache

TYPE_CHECKING = False  # type checkers know the name; `typing` itself takes longer than this module
if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType
    from typing import Final, NoReturn

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_ignored(number: signal.Signals) -> bool:
    """Whether this process was started with a signal ignored."""
    return signal.getsignal(number) is signal.SIG_IGN


@cache
def has_terminal() -> bool:
    """Whether this process had a controlling terminal, whose end sends it SIGHUP, when it was first asked."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def handle_at_the_start(*, serves: bool) -> None:
    """Give signals their meaning before a command has begun: imports alone take half a second.

    Nothing is there yet that must be cleaned up, so what ends the process ends it at once. A command that has
    something to clean up handles the signals itself from then on.

    Args:
        serves: whether the command serves until a signal ends it. Then that is success, as it is later, and a
            SIGHUP without a terminal changes nothing: no file has been read yet.
    """
    if serves:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _succeed)
        if not is_ignored(signal.SIGHUP):
            signal.signal(signal.SIGHUP, _succeed if has_terminal() else _go_on)
    elif os.getpid() == 1:
        for number in ENDING:
            signal.signal(number, _end_process_1)
    else:
        let_ctrl_c_end()


def let_ctrl_c_end() -> None:
    """Let SIGINT end the process at once, without a traceback. If it is ignored, it stays ignored: a script
    starts so what is in its background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _succeed(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)


def _end_process_1(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Not ``SIG_IGN``: that would say that the process was started with the signal ignored."""


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
