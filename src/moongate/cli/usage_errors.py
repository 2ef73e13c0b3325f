"""The error that ends a command because of its user: shown in one line, without a traceback."""

from __future__ import annotations

REFUSED = 1
"""Exit code: a manifest, a run or the machine has a fault."""
USAGE = 2
"""Exit code: the command line is wrong."""
INTERRUPTED = 130
"""Exit code: ended by Ctrl-C, the same as in a shell."""


class UsageError(Exception):
    """An error that the user can fix.

    Args:
        message: what is wrong and what to do, in full sentences.
        code: the exit code.
    """

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
