"""Messages about manifests, each with its place."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from moongate.api.base import Ref
from moongate.api.marks import NOT_SUPPORTED
from moongate.problem import Problem
from moongate.sources.chunks import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence

Severity = Literal["error", "warning", "info"]
"""``error``: not in force as it is written. ``warning``: read, but without effect. ``info``: passed over."""

EMPTY = "Empty"
"""Reason of a path without manifests: a program that was to write them may have failed."""
NOWHERE = Place("", 0, 0)
"""The place of what stands in no file."""

NAMED = 5
"""The most resources that a message names."""

_ITEM = re.compile(r"^items\[\d+\]\.")
"""The beginning of a path in a list of resources."""


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

    @property
    def unbuilt(self) -> tuple[Ref, str] | None:
        """The field that is not built yet, if that is the problem: its resource, and its path there."""
        if self.resource is None or self.problem.reason != NOT_SUPPORTED:
            return None
        return self.resource, _ITEM.sub("", self.problem.path)

    def __str__(self) -> str:
        parts = [str(self.place), str(self.resource or ""), self.problem.path, self.problem.message]
        line = ": ".join(part for part in parts if part)
        return f"{line} {self.effect}" if self.effect else line


def some(refs: Sequence[Ref]) -> str:
    """Resources as a message names them: not more than ``NAMED``."""
    return ", ".join(map(str, refs[:NAMED])) + (", …" if len(refs) > NAMED else "")


def as_of(at: int) -> str:
    """When a former process put something in force; "" if it was none, but this one."""
    return f", as it was at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC" if at else ""


def refused_resources(diagnostics: Iterable[Diagnostic], in_force: Container[Ref]) -> dict[Ref, str]:
    """The resources that are not in force at all because of faults, each with its first fault."""
    faults: dict[Ref, str] = {}
    for each in diagnostics:
        if each.severity == "error" and each.resource is not None and each.resource not in in_force:
            parts = (str(each.place), each.problem.path, each.problem.message.removesuffix("."))
            faults.setdefault(each.resource, ": ".join(part for part in parts if part))
    return faults


def without_reported(
    diagnostics: Iterable[Diagnostic], reported: Callable[[Ref], Collection[str]]
) -> Iterator[Diagnostic]:
    """Diagnostics without those about a field that is not built yet and that is reported already.

    Args:
        diagnostics: those of manifests.
        reported: the paths of the fields of a resource that its status reports.
    """
    for each in diagnostics:
        unbuilt = each.unbuilt
        if unbuilt is None or unbuilt[1] not in reported(unbuilt[0]):
            yield each
