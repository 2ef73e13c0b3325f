"""What is to be said of a policy under its ancestors, while its targets are judged one after another.

Theory of operation
===================
Many targets may lead to one ancestor, and a selector may match thousands of targets, which are judged in
shards. So a draft holds, for each thing that it says, the *place* of the first target for which it is said.
Drafts are joined in any order, and what they say stands in the order of the targets.
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
Said: TypeAlias = tuple[str, "Problem | str"]
"""Something that a draft says: one of the subjects of ``Draft``, and the words."""
Judged: TypeAlias = "tuple[tuple[tuple[Ref, str], tuple[tuple[Said, Place], ...]], ...]"
"""Drafts as a value: of each ancestor all that is said, with the place where it is said first."""


class Draft:
    """An ancestor while the targets that lead to it are judged.

    Args:
        said: all that is said so far, with the place of the first target for which it is said.
        place: the place of the target that is judged now.
    """

    def __init__(self, said: dict[Said, Place], place: Place = (0, 0, ())) -> None:
        self._said = said
        self._place = place

    def refuse(self, problem: Problem) -> None:
        """The policy does not hold a target that leads here."""
        self._say("judged", "")
        self._say("fault", problem)

    def hold(self, problems: Iterable[Problem]) -> None:
        """The policy holds a target that leads here, with these problems."""
        self._say("judged", "")
        self._say("held", "")
        for problem in problems:
            self._say("fault", problem)

    def merge(self, message: str) -> None:
        """The policy merges with others."""
        self._say("merged", message)

    def override(self, message: str) -> None:
        """Others override the policy."""
        self._say("overridden", message)

    def lack(self, message: str) -> None:
        """A filter that the policy asks for is not in force."""
        self._say("lacking", message)

    @property
    def faults(self) -> list[Problem]:
        return [words for words in self._about("fault") if isinstance(words, Problem)]

    def messages(self, subject: str) -> list[str]:
        """What is said about a subject, in the order of the targets."""
        return [words for words in self._about(subject) if isinstance(words, str)]

    @property
    def judged(self) -> bool:
        """Whether it has ``Accepted``; a listener that only says with what the policy merged has not."""
        return ("judged", "") in self._said

    @property
    def held(self) -> bool:
        return ("held", "") in self._said

    def _about(self, subject: str) -> list[Problem | str]:
        said = [(place, words) for (about, words), place in self._said.items() if about == subject]
        return [words for _, words in sorted(said, key=itemgetter(0))]

    def _say(self, subject: str, words: Problem | str) -> None:
        self._said.setdefault((subject, words), self._place)


class Drafts:
    """The ancestors of a policy while its targets are judged. ``place`` is that of the present target."""

    def __init__(self) -> None:
        self.place: Place = (0, 0, ())
        self._of: dict[tuple[Ref, str], dict[Said, Place]] = {}

    def at(self, gateway: Ref, section: str) -> Draft:
        return Draft(self._of.setdefault((gateway, section), {}), self.place)

    def judged(self) -> Judged:
        return tuple((ancestor, tuple(said.items())) for ancestor, said in self._of.items())

    def join(self, judged: Judged) -> None:
        """Take over what was said for other targets."""
        for ancestor, all_said in judged:
            said = self._of.setdefault(ancestor, {})
            for one, place in all_said:
                said[one] = min(place, said.get(one, place))

    def in_order(self) -> list[tuple[tuple[Ref, str], Draft]]:
        """The ancestors with their drafts, in the order of the first targets that lead to them."""
        ancestors = sorted(self._of.items(), key=lambda each: min(each[1].values()))
        return [(ancestor, Draft(said)) for ancestor, said in ancestors]
