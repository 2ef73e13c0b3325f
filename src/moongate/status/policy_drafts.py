"""Collecting the statements of a policy's status, for each ancestor, while its targets are judged one by one.

Theory of operation
===================
Many targets may lead to one ancestor, and a selector may match thousands of targets, which are judged in
shards. So a draft has, for each of its statements, the *place* of the first target that leads to it. Drafts
can be joined in any order, and their statements still have the order of the targets.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moongate.api.base import Ref

Place: TypeAlias = tuple[int, int, tuple[str, ...]]
"""The place of a target among those of a policy: its level, then selected ones by age, then the others."""
Statement: TypeAlias = tuple[str, "Problem | str"]
"""A statement of a draft: its subject (see ``Draft``) and its content."""
Judged: TypeAlias = "tuple[tuple[tuple[Ref, str], tuple[tuple[Statement, Place], ...]], ...]"
"""Drafts as a value: ancestor → its statements, each with the place of the first target that leads to it."""


class Draft:
    """An ancestor while the targets that lead to it are judged.

    Args:
        statements: the statements so far, each with the place of the first target that leads to it.
        place: the place of the target that is judged now.
    """

    def __init__(self, statements: dict[Statement, Place], place: Place = (0, 0, ())) -> None:
        self._statements = statements
        self._place = place

    def refuse(self, problem: Problem) -> None:
        """The policy is refused at a target that leads here."""
        self._state("judged", "")
        self._state("fault", problem)

    def apply(self, problems: Iterable[Problem]) -> None:
        """The policy applies to a target that leads here, with these problems."""
        self._state("judged", "")
        self._state("applies", "")
        for problem in problems:
            self._state("fault", problem)

    def merge(self, message: str) -> None:
        """The policy merges with others."""
        self._state("merged", message)

    def override(self, message: str) -> None:
        """Others override the policy."""
        self._state("overridden", message)

    def lack(self, message: str) -> None:
        """A filter that the policy asks for is not in force."""
        self._state("lacking", message)

    def drop(self, listener: str) -> None:
        """A listener has no HTTP/3, as it checks certificates of clients."""
        self._state("dropped", listener)

    def warn(self, warning: Problem) -> None:
        """Something of the policy shuts somebody out, though it is in force as it is written."""
        self._state("warning", warning)

    @property
    def warnings(self) -> list[Problem]:
        return [content for content in self._about("warning") if isinstance(content, Problem)]

    @property
    def faults(self) -> list[Problem]:
        return [content for content in self._about("fault") if isinstance(content, Problem)]

    def messages(self, subject: str) -> list[str]:
        """The messages about a subject, in the order of the targets."""
        return [content for content in self._about(subject) if isinstance(content, str)]

    @property
    def judged(self) -> bool:
        """Whether its status has ``Accepted``. If it only names merged policies, it has not."""
        return ("judged", "") in self._statements

    @property
    def applies(self) -> bool:
        """Whether the policy applies to a target that leads here."""
        return ("applies", "") in self._statements

    def _about(self, subject: str) -> list[Problem | str]:
        own = [(place, content) for (about, content), place in self._statements.items() if about == subject]
        return [content for _, content in sorted(own, key=itemgetter(0))]

    def _state(self, subject: str, content: Problem | str) -> None:
        self._statements.setdefault((subject, content), self._place)


class Drafts:
    """The ancestors of a policy while its targets are judged. ``place`` is that of the present target."""

    def __init__(self) -> None:
        self.place: Place = (0, 0, ())
        self._statements: dict[tuple[Ref, str], dict[Statement, Place]] = {}
        """By ancestor: Gateway and section."""

    def at(self, gateway: Ref, section: str) -> Draft:
        """The draft of an ancestor."""
        return Draft(self._statements.setdefault((gateway, section), {}), self.place)

    def judged(self) -> Judged:
        """All drafts as a value."""
        return tuple((ancestor, tuple(own.items())) for ancestor, own in self._statements.items())

    def join(self, judged: Judged) -> None:
        """Take over the statements for other targets."""
        for ancestor, statements in judged:
            own = self._statements.setdefault(ancestor, {})
            for statement, place in statements:
                own[statement] = min(place, own.get(statement, place))

    def in_order(self) -> list[tuple[tuple[Ref, str], Draft]]:
        """The ancestors with their drafts, in the order of the first targets that lead to them."""
        ancestors = sorted(self._statements.items(), key=lambda each: min(each[1].values()))
        return [(ancestor, Draft(statements)) for ancestor, statements in ancestors]
