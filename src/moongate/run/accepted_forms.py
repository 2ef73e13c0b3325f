"""What resources were like before the edits for which Envoy refuses them, also for the next process.

Theory of operation
===================
While Envoy refuses a new form of a route or a cluster, its former one stays in force, and only this process
knows it. So the texts of the resources that it is made from, as they were before their last edit, are written
to the disk as long as that lasts. The next process builds the xDS of these once, and hands out none of it: it
only stands in for what Envoy refuses again, in the same way as if this process had handed it out before.

Nobody relies on these texts. What was built from them may be refused as well, and is then no longer used.
Secrets are not among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.sources.file_states import LastGood
from moongate.sources.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moongate.api.base import Ref, Resource
    from moongate.infra.journal import Journal
    from moongate.quarantine import Refusal

_ABSENT: Final = ""
"""The text of a resource that was not there."""


class AcceptedForms:
    """The texts of resources before the edits for which Envoy refuses them.

    Args:
        journal: keeps them on the disk, with those that a former process left.
    """

    def __init__(self, journal: Journal[Ref, LastGood]) -> None:
        self._journal = journal
        self._before = dict(journal.entries)
        """The text of each resource before its last edit."""
        self._refused: frozenset[Ref] = frozenset()
        self._is_start = True

    def edited(self, known: Mapping[Ref, LastGood], states: Mapping[Ref, LastGood | None]) -> None:
        """Take the texts of resources that changed.

        Args:
            known: all texts before.
            states: those that differ now; None for resources that have none.
        """
        for ref, state in states.items():
            before = known.get(ref)
            if state is None:
                self._forget(ref)
            elif ref in self._refused or (before is not None and before.text == state.text):
                continue
            else:
                self._forget(ref)
                if known:
                    self._before[ref] = before or LastGood(state.file, _ABSENT)

    def observe(self, refusals: Iterable[Refusal]) -> None:
        """Take all that Envoys refuse now."""
        refused = frozenset(ref for each in refusals for ref in (*each.resources, *each.policies))
        came = (refused - self._refused) & self._before.keys() - self._journal.entries.keys()
        gone = (self._refused - refused) & self._journal.entries.keys()
        self._refused = refused
        self._journal.put({ref: self._before[ref] for ref in came} | dict.fromkeys(gone))

    def recall(self, resources: Mapping[Ref, Resource | None], namespace: str) -> dict[Ref, Resource | None]:
        """The former forms of what Envoys of a former process refused, None for what was new. Only once.

        Args:
            resources: as they are now.
            namespace: of those that name none.
        """
        entries = self._journal.entries if self._is_start else {}
        self._is_start = False
        recalled: dict[Ref, Resource | None] = {}
        for ref, state in entries.items():
            former = Folder(namespace=namespace).update(state.file, state.text).get(ref)
            is_known = former is not None or state.text == _ABSENT
            if is_known and resources.get(ref) not in (None, former):
                recalled[ref] = former
        return recalled

    def _forget(self, ref: Ref) -> None:
        self._before.pop(ref, None)
        if ref in self._journal.entries:
            self._journal.put({ref: None})
