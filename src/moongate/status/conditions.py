"""Building conditions in the form that an API server accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import Condition
from moongate.api.marks import NOT_SUPPORTED, unbuilt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moongate.api.base import Resource
    from moongate.problem import Problem

MAX_MESSAGE: Final = 32_768
"""The most characters in the message of a condition."""


def condition(type_: str, status: str, reason: str, message: str, generation: int) -> Condition:
    """One condition.

    Args:
        type_: such as ``Accepted``.
        status: ``True`` or ``False``.
        reason: one word, with the reference's vocabulary.
        message: is put into the form of ``sentence``.
        generation: ``metadata.generation`` of the resource.
    """
    return Condition(
        type=type_, status=status, reason=reason, message=sentence(message), observed_generation=generation
    )


def accepted(problems: Sequence[Problem], generation: int, *, message: str = "Accepted.") -> Condition:
    """The ``Accepted`` condition of a resource.

    Args:
        problems: all of them, in the order of the spec. The first gives the reason. The condition has all
            messages, so that a user can fix all faults at once.
        generation: ``metadata.generation`` of the resource.
        message: the message if there is no problem.
    """
    if not problems:
        return condition("Accepted", "True", "Accepted", message, generation)
    return condition("Accepted", "False", problems[0].reason, summary(problems), generation)


def unsupported(resource: Resource) -> tuple[Condition, ...]:
    """A warning about fields that moongate does not support yet; empty if none is set."""
    problems = tuple(unbuilt(resource))
    if not problems:
        return ()
    return (condition("Warning", "True", NOT_SUPPORTED, summary(problems), resource.metadata.generation),)


def summary(problems: Sequence[Problem]) -> str:
    """All problems in one text, a line for each. It begins with the path."""
    return "\n".join(
        p.message if not p.path or p.message.startswith(p.path) else f"{p.path}: {p.message}"
        for p in problems
    )


def sentence(message: str) -> str:
    """A message with a capital letter at its start and a full stop at its end, cut to ``MAX_MESSAGE``.

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
