"""Whether what is printed may have colours and other styles."""

from __future__ import annotations

import os
from typing import TextIO


def is_styled(file: TextIO) -> bool:
    """Whether text for this file may be styled: bold, dim, in colours.

    Source:
        https://no-color.org (``NO_COLOR``), https://bixense.com/clicolors (``CLICOLOR``, ``CLICOLOR_FORCE``).
    """
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "") not in ("", "0") for name in ("CLICOLOR_FORCE", "FORCE_COLOR")):
        return True
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown") or os.environ.get("CLICOLOR") == "0":
        return False
    return file.isatty()
