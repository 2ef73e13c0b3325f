"""Messages about manifests, each with its place."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from moongate.api.base import Ref
from moongate.problem import Problem
from moongate.sources.chunks import Place

Severity = Literal["error", "warning", "info"]
"""``error``: not in force as it is written. ``warning``: read, but without effect. ``info``: passed over."""

NOWHERE = Place("", 0, 0)
"""The place of what stands in no file."""


class Diagnostic(Struct, frozen=True):
    """A message about a manifest: a fault, a warning, a note.

    Args:
        place: where to look; for a fault, the value that is wrong.
        resource: None when the text does not say which it is.
        problem: its path is that within the document; ``items[3].spec`` in a list.
        effect: what is in force meanwhile, a full sentence; "" when there is nothing to say.
        trace: the frames of an exception that kept the document from being read, for the log.
    """

    place: Place
    resource: Ref | None
    problem: Problem
    severity: Severity = "error"
    effect: str = ""
    trace: str = ""

    def __str__(self) -> str:
        parts = [str(self.place), str(self.resource or ""), self.problem.path, self.problem.message]
        line = ": ".join(part for part in parts if part)
        return f"{line} {self.effect}" if self.effect else line
