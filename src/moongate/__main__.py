"""``moongate`` and ``python -m moongate``: the command line as a process of its own.

Facts
-----
* importing a command takes half a second, and a supervisor or a closed terminal does not wait for that. So
  signals get their meaning before anything else, see ``infra.signals``
* before this module come Python's own start, and what pip writes into the script ``moongate``. No code of
  ours can handle a signal in these first hundredths of a second
* asyncio leaves a handler for SIGINT that raises when its loop is closed, so that is set again at the end
* a standard stream may be closed at the start (``moongate run shop/ >&-``). The next file that is opened
  would take its number, and the log would be written into that
"""

import os
import sys

from moongate.infra.signals import handle_at_the_start, let_ctrl_c_end

SERVING = ("run", "quickstart")
"""The commands that serve until a signal ends them."""


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    handle_at_the_start(serves=command in SERVING)

    from moongate.cli import main as command_line  # noqa: PLC0415 - slow, and signals are handled before

    _open_standard_streams()
    code = command_line()
    let_ctrl_c_end()
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
