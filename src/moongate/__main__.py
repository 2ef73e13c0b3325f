"""``moongate`` and ``python -m moongate``: the command line as a process of its own.

Facts
-----
* importing the commands takes a tenth of a second or more, and Python turns a Ctrl-C in that time into a
  traceback. So SIGINT has its default action here, which ends the process at once: there is nothing to clean
  up. Code that has something to clean up handles the signals itself, see ``infra.signals``
* before this module come Python's own start, and what pip writes into the script ``moongate``. A Ctrl-C in
  these first milliseconds shows a traceback of Python, and no code of ours can prevent that
* asyncio leaves a handler that raises when its loop is closed, so the default action is set again at the end
* a SIGINT that is ignored, as in the background of a script, stays ignored
* a standard stream may be closed at the start (``moongate run shop/ >&-``). The next file that is opened
  would take its number, and the log would be written into that
"""

import os
import signal
import sys


def _end_at_once_by_ctrl_c() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


_end_at_once_by_ctrl_c()


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    from moongate.cli import main as command_line  # noqa: PLC0415 - slow, and signals are set before

    _open_standard_streams()
    code = command_line()
    _end_at_once_by_ctrl_c()
    sys.exit(code)


def _open_standard_streams() -> None:
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        # What is closed is None, so the numbers before this one are open.
        if getattr(sys, name) is None:
            mode = "w" if fd else "r"
            null = os.open(os.devnull, os.O_RDWR)
            assert null == fd, "the lowest number that is free"
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - open as long as we run


if __name__ == "__main__":
    main()
