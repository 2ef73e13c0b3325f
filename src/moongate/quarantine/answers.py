"""The last answers of the Envoys of a fleet about one resource.

Facts
-----
* while all Envoys have the same version, nothing is kept for each of them: a fleet may have hundreds of
  Envoys, and thousands of tables
* an Envoy that has not answered yet is not waited for: it may never ask for the resource
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NONE: Final = ""
"""The version of what an Envoy has not."""


class LastAnswers(Struct):
    """The last answers of one Envoy."""

    acknowledged: str = NONE
    """The version that it acknowledged last."""
    refused: str = NONE
    """The version that it refused last."""
    message: str = ""
    """Why it did."""
    lacks: tuple[tuple[str, str], ...] = ()
    """The clusters for which it was not even sent that version, each with Envoy's message about it."""
    at_odds: bool = False
    """Whether it refuses what the others have in force. It has no say until it takes something."""


class Refused(NamedTuple):
    """A version that an Envoy refuses."""

    node: str
    version: str
    message: str
    lacks: tuple[tuple[str, str], ...] = ()


class Answers:
    """The last answers of each Envoy.

    Args:
        nodes: the connected Envoys, each with the time at which it came; changed by the owner.
    """

    def __init__(self, nodes: Mapping[str, int]) -> None:
        self._nodes = nodes
        self._by_node: dict[str, LastAnswers] = {}
        """By Envoy: those that differ from the others."""
        self._common = NONE
        """What all others hold that were connected at ``_common_since``."""
        self._common_since = -1

    def acknowledge(self, node: str, version: str) -> bool:
        """An Envoy has a version in force. False if that was known."""
        if node not in self._by_node and self._acknowledged(node) == version:
            return False
        last = self._of(node)
        last.acknowledged, last.at_odds = version, False
        if last.refused == version:
            last.refused = NONE
        return True

    def refuse(self, node: str, version: str, message: str, lacks: tuple[tuple[str, str], ...] = ()) -> None:
        """An Envoy refuses a version, or was not sent it for clusters that it lacks."""
        last = self._of(node)
        last.refused, last.message, last.lacks = version, message, lacks

    def forgive(self) -> None:
        """What Envoys refused they may take now, although it did not change."""
        for last in self._by_node.values():
            last.refused = NONE

    def forget(self, node: str) -> None:
        """An Envoy is gone: nobody waits for it."""
        self._by_node.pop(node, None)

    def refusals(self) -> Iterator[Refused]:
        """What Envoys refuse, by Envoy, but for those that have no say."""
        for node, last in sorted(self._by_node.items()):
            if last.refused and not last.at_odds:
                yield Refused(node, last.refused, last.message, last.lacks)

    def unanimous(self) -> str | None:
        """The version that all Envoys hold which have answered; ``None`` when there is none."""
        versions = {last.acknowledged for last in self._by_node.values() if not last.at_odds}
        if any(node not in self._by_node and self._acknowledged(node) for node in self._nodes):
            versions.add(self._common)
        return versions.pop() or None if len(versions) == 1 else None

    def agree(self, version: str, now: int) -> None:
        """All hold a version, and it is what they should have: nothing is kept for each of them any more."""
        if all(node in self._by_node or self._acknowledged(node) for node in self._nodes) and not any(
            last.at_odds for last in self._by_node.values()
        ):
            self._common, self._common_since = version, now
            self._by_node.clear()

    def is_in_force_elsewhere(self, node: str, version: str) -> bool:
        """Whether another connected Envoy has a version in force."""
        return any(other != node and self._acknowledged(other) == version for other in self._nodes)

    def put_at_odds(self, node: str) -> None:
        """An Envoy refuses what the others have in force."""
        self._of(node).at_odds = True

    def __len__(self) -> int:
        """For how many Envoys something is kept."""
        return len(self._by_node)

    def _acknowledged(self, node: str) -> str:
        if (last := self._by_node.get(node)) is not None:
            return last.acknowledged
        return self._common if self._nodes[node] <= self._common_since else NONE

    def _of(self, node: str) -> LastAnswers:
        if node not in self._by_node:
            self._by_node[node] = LastAnswers(self._acknowledged(node))
        return self._by_node[node]
