"""What ends a command before it has done its work: it is shown in one line, without a traceback."""

from __future__ import annotations

REFUSED = 1
"""Exit code: something is wrong with what was looked at, or with the machine."""
USAGE = 2
"""Exit code: the command cannot be meant as it was given."""
INTERRUPTED = 130
"""Exit code: ended by Ctrl-C, as shells have it."""


class UsageError(Exception):
    """Something that a user can mend.

    Args:
        message: what is wrong and what to do, in full sentences.
        code: the exit code.
    """

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
