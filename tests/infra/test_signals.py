from __future__ import annotations

import os
import signal
import threading

import pytest

from moongate.infra.signals import ENDING, exiting_by_signals


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_raises_so_that_what_is_open_is_closed(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with pytest.raises(SystemExit) as exit_, exiting_by_signals():
        os.kill(os.getpid(), number)

    assert exit_.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """``nohup moongate validate shop/ --envoy`` goes on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exiting_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone() -> None:
    """Python lets only the main thread set handlers."""
    handlers: list[object] = []

    def check() -> None:
        with exiting_by_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()

    assert handlers == [before]
