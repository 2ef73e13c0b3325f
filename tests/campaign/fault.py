"""A row of the campaign: what is done to a healthy folder, and what its user must read and get.

``HERE`` in the text of a file is where the reader is to be pointed: the harness takes it out before it writes
the file, and knows the line and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from msgspec import Struct, structs

from tests.campaign.healthy import FILES

HERE: Final = "«"

Act = Callable[[Path], Any]


class NotApplicable(Struct, frozen=True):
    """A part that a message of a fault cannot have, and why."""

    why: str


class Reading(Struct, frozen=True, kw_only=True):
    """What a user must read of a fault, each part for itself.

    Args:
        at: the file; with the line and column of its ``HERE``, if the row writes one.
        mark: which ``HERE`` of the file it is.
        of: the resource, as "KIND NAMESPACE/NAME"; "" where the text does not say which it is.
        field: the path within the resource.
        value: what is wrong, as it was written.
        right: words that say what would be right.
        meanwhile: words that say what happens to requests until it is mended.
        severity: an error is not in force as it is written.
    """

    at: str = ""
    mark: int = 0
    of: str = ""
    field: str = ""
    value: str | NotApplicable
    right: str | NotApplicable
    meanwhile: str | NotApplicable
    severity: str = "error"


class Fault(Struct, frozen=True, kw_only=True):
    """One deliberate fault.

    Args:
        name: a sentence about the product.
        files: what is written, by file name; ``None`` removes the file.
        act: what else is done to the folder, after that.
        reads: all that a user must read.
        requests: what requests get meanwhile, where it is not what ``HEALTHY`` says.
        exits: the exit code of ``validate``.
        unseen: why ``validate`` does not see it, where it cannot.
        alone: whether it must be an edit of its own: what changes with it would count as new.
        differs: why ``validate`` has other words for it than ``run``.
    """

    name: str
    files: Mapping[str, str | bytes | None] = {}
    act: Act = lambda _folder: None
    reads: tuple[Reading, ...] = ()
    requests: Mapping[str, int | str] = {}
    exits: int = 1
    alone: bool = False
    unseen: str = ""
    differs: str = ""


class Place(NamedTuple):
    line: int
    column: int


def places(text: str) -> tuple[Place, ...]:
    """Where each ``HERE`` of a text stands, when all of them are taken out."""
    marked: list[Place] = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split(HERE)
        before = 0
        for part in parts[:-1]:
            before += len(part)
            marked.append(Place(number, before + 1))
    return tuple(marked)


def swap(file: str, *swaps: tuple[str, str]) -> dict[str, str]:
    """A file of the healthy folder in which some words stand for others; each must stand there once."""
    text = FILES[file]
    for old, new in swaps:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        text = text.replace(old, new)
    return {file: text}


def more(file: str, text: str) -> dict[str, str]:
    """A file of the healthy folder with another document."""
    return {file: f"{FILES[file]}---\n{text}"}


def params(groups: Mapping[str, tuple[Fault, ...]]) -> list[Any]:
    """Rows as parameters of a test, named after the table that they are in."""
    return [
        pytest.param(fault, id=f"{group}: {fault.name}")
        for group, faults in groups.items()
        for fault in faults
    ]


MISSING: Final = NotApplicable("something is missing, so there is no value")
SECRET: Final = NotApplicable("a value within a Secret is never shown")
PLACE: Final = NotApplicable("the place shows what is wrong")
ONCE: Final = NotApplicable("another reading of the same resource says it")
GONE: Final = NotApplicable("what was meant is gone, and no other name is like it")
COLD: Final = NotApplicable("nothing was in force before, so something else is meanwhile")
ENVOY: Final = NotApplicable("only Envoy knows what it would take")


def same(reading: Reading, **changes: Any) -> Reading:
    """A reading that differs from another in some parts."""
    return structs.replace(reading, **changes)
