"""A user's mistake as data: it becomes a condition, a line of ``validate``, a row of ``status``."""

from __future__ import annotations

from msgspec import Struct


class Problem(Struct, frozen=True, order=True):
    """One fault in one resource.

    Args:
        path: field path as ``kubectl explain`` writes it (``spec.rules[0].filters[1]``), "" for the whole.
        message: a full sentence that names the value found and what would be right.
        reason: the condition reason that it leads to, in the reference's words: ``Invalid``, ``InvalidKind``.
    """

    path: str
    message: str
    reason: str = "Invalid"

    def under(self, prefix: str) -> Problem:
        """The same fault, seen from a resource or field that holds the one it was found in."""
        joined = (
            f"{prefix}.{self.path}" if self.path and not self.path.startswith("[") else prefix + self.path
        )
        return Problem(joined, self.message, self.reason)

    def saying(self, effect: str) -> Problem:
        """The same fault, and what happens to requests because of it.

        Args:
            effect: a full sentence, or "" if nothing happens to them.
        """
        if not effect:
            return self
        end = "" if self.message.endswith((".", "?", "!")) else "."
        return Problem(self.path, f"{self.message}{end} {effect}", self.reason)
