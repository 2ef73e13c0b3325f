"""Signals that come to a command at a given moment of its start."""

from __future__ import annotations

import textwrap


def while_importing(sends: dict[str, int]) -> str:
    """The source of a program that is ``moongate`` and sends itself signals.

    Args:
        sends: the signal for each module, sent when its import begins; 0 prints the name, and ends the
            program.
    """
    numbers = {module: int(number) for module, number in sends.items()}
    return textwrap.dedent(f"""\
        import os, sys

        class Sends:
            def find_spec(self, name, path=None, target=None, sends={numbers!r}):
                if name in sends:
                    if not sends[name]:
                        os._exit(0 if os.write(1, name.encode()) else 1)
                    os.kill(os.getpid(), sends[name])

        sys.meta_path.insert(0, Sends())
        sys.argv[0] = "moongate"
        from moongate.__main__ import main

        main()
    """)
