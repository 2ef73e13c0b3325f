"""What Envoys answer about joined resources, and what of these must stay out of force because of it.

Theory of operation
===================
An answer of an Envoy is only noted. After the world has been settled, ``review`` goes on with the searches
(``search``), in steps, so that the event loop runs in between. What it writes into cells is settled, handed
out and answered before the next review.

A version is refused if one Envoy refuses it, and good if all Envoys that answer have acknowledged it. So any
number of Envoys, of different versions, takes part in one search. What one of them refuses is out of force
for all, because they share a configuration.

Facts
-----
* parts of a resource that did not change are the same object, so comparing two versions costs as much as they
  differ
* a culprit is one form of an entry. An edit makes another form, which is tried at once
* an answer may come when the resource has changed already. If it changes back, nothing is sent to Envoy, and
  nothing is answered. So the last acknowledgement and the last refusal of each Envoy are kept
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from moongate.quarantine.search import JOINED, Search
from moongate.xds.wire import LISTENER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.quarantine.search import Steps
    from moongate.world import World
    from moongate.xds.patches import Form

    _Key: TypeAlias = "tuple[FleetId, str, str]"
    """Fleet, type URL and name of a resource."""


STEP: Final = 16
"""Searches that are looked at together: below 1 ms."""


class Refusal(NamedTuple):
    """An entry that an Envoy refuses, and why.

    Args:
        fleet: whose Envoys.
        what: the entry, in words.
        resources: the resources that it is made from.
        listeners: the listeners that are not served as they should be because of it.
        message: Envoy's words.
        policies: the policies with settings in it that may be meant.
    """

    fleet: FleetId
    what: str
    resources: tuple[Ref, ...]
    listeners: tuple[ListenerId, ...]
    message: str
    policies: tuple[Ref, ...] = ()


class Quarantine:
    """Takes what Envoys answer about joined resources, and writes what must stay out of force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._searches: dict[_Key, Search] = {}
        self._awake: dict[_Key, None] = {}
        """Those that are not at rest."""
        self._nodes: defaultdict[FleetId, dict[str, int]] = defaultdict(dict)
        """Connected Envoys, by fleet, each with the time at which it came."""
        self._now = 0
        self._lacked: defaultdict[tuple[FleetId, str], dict[_Key, None]] = defaultdict(dict)
        """By fleet and name, the clusters that an Envoy refuses, each with what needs it."""
        self._news: dict[_Key, None] = {}
        """Those of which something was noted that no review has looked at."""

    @property
    def has_news(self) -> bool:
        """Whether something was noted that no review has looked at."""
        return bool(self._news)

    def searches(self, fleet: FleetId, type_url: str, name: str) -> bool:
        """Whether a resource has entries that can be kept out of it."""
        return type_url in JOINED or self._world.patched(fleet, type_url, name) is not None

    def connected(self, fleet: FleetId, node: str) -> None:
        """An Envoy has opened its stream."""
        self._now += 1
        self._nodes[fleet][node] = self._now

    def disconnected(self, fleet: FleetId, node: str) -> None:
        """An Envoy's stream has ended: nobody waits for it."""
        self._nodes[fleet].pop(node, None)
        for key in self._awake:
            if key[0] == fleet:
                self._searches[key].answers.forget(node)
                self._news[key] = None

    def recall(
        self, fleet: FleetId, type_url: str, name: str, parts: tuple[Any, ...], patches: tuple[Form, ...]
    ) -> None:
        """Take what a former process had in force of a resource, before anything of it is handed out."""
        key = (fleet, type_url, name)
        if self.searches(*key):
            self._search(key).recall(parts, patches)

    def left(self, fleet: FleetId, gone: Iterable[tuple[str, str]]) -> None:
        """Resources have left a fleet, by type URL and name: the next review forgets them."""
        for type_url, name in gone:
            key = (fleet, type_url, name)
            if key in self._searches:
                self._awake[key] = None

    def acknowledged(self, fleet: FleetId, node: str, type_url: str, name: str, version: str) -> None:
        """An Envoy has a version in force."""
        key = (fleet, type_url, name)
        if not self.searches(*key):
            return
        self._meet(fleet, node)
        if self._search(key).answers.acknowledge(node, version):
            self._awake[key] = self._news[key] = None

    def refused(
        self,
        fleet: FleetId,
        node: str,
        type_url: str,
        name: str,
        version: str,
        message: str,
        lacks: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """An Envoy refused a version, or was not sent it for clusters that it refuses and does not have."""
        key = (fleet, type_url, name)
        if not self.searches(*key):
            return
        self._meet(fleet, node)
        self._search(key).answers.refuse(node, version, message, lacks)
        for cluster, _ in lacks:
            self._lacked[fleet, cluster][key] = None
        self._awake[key] = self._news[key] = None

    def retry(self, fleet: FleetId, type_url: str) -> None:
        """Try again what is refused of a type: it may have been for something else, which is mended."""
        for key in [key for key in self._awake if key[:2] == (fleet, type_url)]:
            self._searches[key].retry()
            self._news[key] = None

    def retry_with(self, fleet: FleetId, cluster: str) -> None:
        """Try again what was refused for lack of a cluster: the Envoys have it now."""
        for key in self._lacked.pop((fleet, cluster), ()):
            if key in self._awake:
                self._searches[key].retry_with(cluster)
                self._news[key] = None

    def review(self) -> Steps:
        """Go on with what can be judged by now, and forget what is gone; in steps.

        To be called whenever the world has been settled. The steps end with whether it is to be settled
        again.
        """
        wrote = False
        news, self._news = self._news, {}
        for n, key in enumerate(list(self._awake)):
            if n % STEP == STEP - 1:
                yield
            search = self._searches.get(key)
            if search is None:
                continue  # the fleet ended between two steps
            if not self._world.names_resource(*key) or not self.searches(*key):
                self._drop(key)
                continue
            if key not in news and search.is_idle:
                continue  # it waits for an Envoy that is silent
            wrote |= yield from search.judge(self._now)
            if search.at_rest:
                self._awake.pop(key, None)
        return wrote

    def refusals(self) -> tuple[Refusal, ...]:
        """The entries that are out of force because they are at fault, sorted."""
        refusals = {
            Refusal(
                key[0],
                concern.what,
                concern.resources,
                concern.listeners,
                culprit.message,
                # Those of a cluster that it lacks are reported with the cluster.
                concern.policies if not culprit.lacks else (),
            )
            for key in self._awake
            for culprit, concern in self._searches[key].concerns()
        }
        return tuple(sorted(refusals))

    def is_searching(self, fleet: FleetId, type_url: str, name: str) -> bool:
        """Whether the search for what is at fault in a resource goes on."""
        key = (fleet, type_url, name)
        return key in self._news or (key in self._searches and self._searches[key].under_way)

    def searched(self, fleet: FleetId) -> Iterator[tuple[str, str]]:
        """The resources of a fleet of which ``is_searching``: type URLs and names."""
        awake = (key for key in self._awake if key[0] == fleet)
        return ((type_url, name) for _, type_url, name in awake if self.is_searching(fleet, type_url, name))

    def has_patches_in_doubt(self, fleet: FleetId) -> bool:
        """Whether a patch of a fleet's listeners is still to be tried."""
        return any(self._searches[key].doubts_patches for key in self._awake if key[:2] == (fleet, LISTENER))

    def facts_kept(self) -> int:
        """How many records of single Envoys are kept, because these differ from the others."""
        return sum(len(search.answers) for search in self._searches.values())

    def versions_kept(self) -> int:
        """Of how many versions of resources the parts are kept."""
        return sum(search.versions_kept() for search in self._searches.values())

    def forget(self, fleet: FleetId) -> None:
        """The fleet is gone, or starts anew: nothing is known of it any more."""
        for key in [key for key in self._searches if key[0] == fleet]:
            self._drop(key)
        for lacked in [each for each in self._lacked if each[0] == fleet]:
            del self._lacked[lacked]
        self._nodes.pop(fleet, None)

    def _meet(self, fleet: FleetId, node: str) -> None:
        if node not in self._nodes[fleet]:
            self.connected(fleet, node)

    def _search(self, key: _Key) -> Search:
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = Search(self._world, key, self._nodes[key[0]])
        return search

    def _drop(self, key: _Key) -> None:
        self._awake.pop(key, None)
        self._news.pop(key, None)
        search = self._searches.pop(key, None)
        if search is not None:
            search.drop()
