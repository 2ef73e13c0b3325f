"""``moongate``, which besides says how many tasks it has, and whose clock a test can move.

At SIGUSR2 it writes the number of its asyncio tasks to the descriptor that ``CAMPAIGN_TASKS`` names.
``CAMPAIGN_SHIFT`` names the descriptor of a file with the seconds that are added to its clock.
Both are open before it starts, so it needs none to spare.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

from moongate.__main__ import main

TASKS, SHIFT = int(os.environ["CAMPAIGN_TASKS"]), int(os.environ["CAMPAIGN_SHIFT"])


def count_tasks(_signal: int, _frame: object) -> None:
    """Write the number of tasks in a line."""
    os.write(TASKS, f"{len(asyncio.all_tasks())}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, count_tasks)
    real = time.time  # noqa: TID251 - the clock that moongate reads is the subject
    time.time = lambda: real() + float(os.pread(SHIFT, 32, 0) or 0)  # noqa: TID251 - the same
    main()
