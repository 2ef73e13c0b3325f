"""Conditions, in the form that an API server takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import Condition
from moongate.api.marks import NOT_SUPPORTED, no_effect, unbuilt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moongate.api.base import Resource
    from moongate.problem import Problem

MAX_MESSAGE: Final = 32_768
"""Characters that a condition's message may have."""


def condition(type_: str, status: str, reason: str, message: str, generation: int) -> Condition:
    """One condition, its message a sentence.

    Args:
        type_: ``Accepted``.
        status: ``True`` or ``False``.
        reason: one word, in the reference's vocabulary.
        message: put into the form of ``sentence``.
        generation: ``metadata.generation`` of the resource that was judged.
    """
    return Condition(
        type=type_, status=status, reason=reason, message=sentence(message), observed_generation=generation
    )


def accepted(problems: Sequence[Problem], generation: int, *, message: str = "Accepted.") -> Condition:
    """The ``Accepted`` condition of a resource.

    Args:
        problems: all of them, in the order of the spec. The first gives the reason. Every message is in
            the condition, so that a user can mend all at once.
        generation: ``metadata.generation`` of the resource that was judged.
        message: what to say when there is none.
    """
    if not problems:
        return condition("Accepted", "True", "Accepted", message, generation)
    return condition("Accepted", "False", problems[0].reason, summary(problems), generation)


def unsupported(resource: Resource) -> tuple[Condition, ...]:
    """A warning about fields that are known and have no effect yet; empty when none is set."""
    problems = tuple(map(no_effect, unbuilt(resource)))
    if not problems:
        return ()
    return (condition("Warning", "True", NOT_SUPPORTED, summary(problems), resource.metadata.generation),)


def summary(problems: Sequence[Problem]) -> str:
    """Problems in one text, each with its path unless the message begins with it."""
    return " ".join(
        p.message if not p.path or p.message.startswith(p.path) else f"{p.path}: {p.message}"
        for p in problems
    )


def sentence(message: str) -> str:
    """A message with a capital letter at its start and a full stop at its end, cut to what a status may hold.

    A field path stays as it is written.

    >>> sentence("tls is missing")
    'Tls is missing.'
    >>> sentence("spec.tls is missing")
    'spec.tls is missing.'
    """
    text = message.strip()
    if not text.startswith("spec."):
        text = text[:1].upper() + text[1:]
    if text and text[-1] not in ".!?":
        text += "."
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
