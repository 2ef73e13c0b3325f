"""Fields with a mark in their type: those that are not built yet, deprecated ones, and private ones."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

from moongate.api.base import Model
from moongate.api.plans import plan
from moongate.problem import Problem

NOT_SUPPORTED = "NotSupported"
"""Reason of a problem about a field that is not built yet."""

REDACTED: Final = "[redacted]"
"""What is shown in place of a value that may be a secret."""


def unbuilt(resource: Model) -> Iterator[Problem]:
    """A problem for each field that is set in a resource, is accepted, and is not built yet."""
    for path, consequence, value in plan(type(resource)).marked(resource, "unbuilt"):
        if value is not None:
            yield Problem(path, f"This field is not built yet; {consequence}.", NOT_SUPPORTED)


def deprecated(resource: Model) -> Iterator[tuple[str, str]]:
    """Field paths of all that is set in a resource and deprecated, each with the path to write instead."""
    for path, successors, value in plan(type(resource)).marked(resource, "deprecated"):
        for below, (instead, only_if_true) in successors.items():
            at, entry = path, value
            for name in below.split(".") if below else ():
                at = f"{at}.{name}"
                entry = cast("dict[str, Any]", entry).get(name) if isinstance(entry, dict) else None
            if entry is True or (entry not in (None, (), []) and not only_if_true):
                yield at, f"{at.rpartition('.')[0]}.{instead}"


def shareable(model: Model) -> Any:
    """A model as plain data to show, in which each private value is ``[redacted]``."""
    data = msgspec.to_builtins(model)
    for path, _, value in plan(type(model)).marked(model, "private"):
        if value is not None:
            *steps, last = re.findall(r"[^.\[\]]+", path)
            within = functools.reduce(lambda at, step: at[int(step) if step.isdigit() else step], steps, data)
            within[last] = REDACTED
    return data
