"""Finding the one entry that Envoy refuses in a resource of thousands, and taking it alone out of force.

Theory of operation
===================
Envoy takes or refuses a resource as a whole, and does not say which of the entries that it is joined from is
at fault. ``DIFFERENCES`` has the types that are searched: route configurations. What an Envoy has
acknowledged is good; what differs from that in a version that it refused is suspect. A single suspect is the
culprit. Several are withheld together (their last good form stays in force, or nothing where there was none),
and released again half by half: what is acknowledged is good, what is refused is halved once more.

A version is judged once: as refused when one Envoy refuses it, as good when all have acknowledged it that
answer at all. So any number of Envoys, of any versions, takes part in one search, and what one of them does
not take is out of force for all, for they share a configuration.

The facts go into cells that the builders of entries read (``xds.fallbacks``), so the rest of a resource goes
on changing meanwhile.

Facts
-----
* parts of a resource that did not change are the same object, so comparing two versions costs what differs
* a culprit is one form of an entry: an edit makes another form, which is tried at once
* an answer may come when the resource is another already. Should it become again what was answered, nothing
  is sent to Envoy, and so nothing answered: what each Envoy said last of each kind is kept
* while all Envoys have the same version of a resource and nothing is searched for, nothing is kept per Envoy
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.xds import routes
from moongate.xds.fallbacks import Fallback, withheld
from moongate.xds.wire import ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from moongate.api.base import FleetId, Ref
    from moongate.world import World
    from moongate.xds.fallbacks import Group, Suspect

MOST_TRIES: Final = 24
"""How often a version may be among the suspects: halving finds one among millions in fewer."""


_Key: TypeAlias = "tuple[FleetId, str, str]"
"""Fleet, type URL and name of a resource."""

DIFFERENCES: Final[Mapping[str, Callable[[tuple[Any, ...], tuple[Any, ...]], Iterator[Suspect]]]] = {
    ROUTE: routes.differing,
}
"""What of the parts of a version is not in the parts of a good one, for each type that is joined."""


class Refusal(NamedTuple):
    """An entry that an Envoy refused, and why.

    Args:
        fleet: whose Envoys.
        origin: the resource that the entry is made from.
        message: Envoy's words.
    """

    fleet: FleetId
    origin: Ref
    message: str


class _Fact(Struct):
    """What an Envoy said last about a resource."""

    held: str = ""
    """The version that it acknowledged last."""
    good: tuple[Any, ...] = ()
    """The parts of that version."""
    refused: str = ""
    """The version that it refused last."""
    message: str = ""


class _Search:
    """What is known of one joined resource, and what is kept out of it."""

    def __init__(self, world: World, fleet: FleetId, type_url: str, name: str) -> None:
        self._world = world
        self._at = (fleet, type_url, name)
        self.facts: dict[str, _Fact] = {}
        """By Envoy: those that differ from ``common``."""
        self.common = _Fact()
        """What all other Envoys have that were connected at ``common_since``."""
        self.common_since = -1
        self.parts: dict[str, tuple[Any, ...]] = {}
        """Version → its parts, of those that may still be answered."""
        self.judged: tuple[str, bool] = ("", True)
        """The version that was judged last, and whether it is good."""
        self.tries: Counter[str] = Counter()
        self.withheld: defaultdict[Group, dict[str, Suspect]] = defaultdict(dict)
        self.queue: list[list[Suspect]] = []
        self.culprits: dict[str, tuple[Suspect, str]] = {}

    @property
    def at_rest(self) -> bool:
        """Whether nothing is searched for, kept out, or known of one Envoy and not of the others."""
        return not (self.facts or self.queue or self.culprits or any(self.withheld.values()))

    def is_known(self, node: str, joined: int, version: str) -> bool:
        """Whether it is no news that an Envoy has a version."""
        return node not in self.facts and joined <= self.common_since and version == self.common.held

    def is_held(self, version: str, nodes: dict[str, int]) -> bool:
        """Whether all Envoys that say anything have a version in force, and at least one does."""
        others = any(joined <= self.common_since and node not in self.facts for node, joined in nodes.items())
        if others and self.common.held != version:
            return False
        return (others or bool(self.facts)) and all(fact.held == version for fact in self.facts.values())

    def fact(self, node: str, joined: int) -> _Fact:
        """What is known of an Envoy, to be changed."""
        if node not in self.facts:
            known = self.common if joined <= self.common_since else _Fact()
            self.facts[node] = _Fact(known.held, known.good)
        return self.facts[node]

    def take(self, version: str, nodes: dict[str, int], now: int) -> None:
        """A version is in force with all Envoys that say anything."""
        parts = self._parts_of(version)
        if all(node in self.facts or joined <= self.common_since for node, joined in nodes.items()):
            self.common, self.common_since = _Fact(version, parts), now
            self.facts.clear()
        else:
            for fact in self.facts.values():
                fact.held, fact.good = version, parts
        self.parts = {version: parts}

    def go_on(self) -> bool:
        """What is in force is good. True if the world is to be settled again."""
        # What is not kept out was taken: that it was among suspects before says nothing any more.
        kept_out = {key for forms in self.withheld.values() for key in forms}
        self.tries = Counter({key: n for key, n in self.tries.items() if key in kept_out})
        if self.queue:
            return self.release()
        self.tries.clear()  # the search is over
        return False

    def refuse(self, version: str, fact: _Fact) -> bool:
        """An Envoy refuses the version in force. True if the world is to be settled again."""
        # What other Envoys have in force is not taken from them because a new one does not like it.
        good = fact.good or self.common.good
        suspects = list(DIFFERENCES[self._at[1]](good, self._parts_of(version)))
        if not suspects:
            return False
        self.tries.update(each.version for each in suspects)
        tried = [each for each in suspects if self.tries[each.version] > MOST_TRIES]
        # A single one is the culprit. And if it is no single entry that is at fault, all of them stay out,
        # rather than being tried for ever.
        culprits = suspects if len(suspects) == 1 else tried
        self.culprits.update({each.version: (each, fact.message) for each in culprits})
        if culprits:
            self._withhold(culprits)
        else:
            self._withhold(suspects)
            middle = len(suspects) // 2
            self.queue += [suspects[middle:], suspects[:middle]]
        return True

    def release(self) -> bool:
        """Let the next group in. True, for the world is to be settled again."""
        group = self.queue.pop()
        for suspect in group:
            self.withheld[suspect.group].pop(suspect.version, None)
        self._write({suspect.group for suspect in group})
        return True

    def forget_mended(self) -> bool:
        """Drop culprits of which there is another form by now. True if there were some."""
        mended = [
            suspect
            for suspect, _ in self.culprits.values()
            if (forms := self._world.route_forms(suspect.origin)) is not None and suspect.version not in forms
        ]
        for suspect in mended:
            del self.culprits[suspect.version]
            self.withheld[suspect.group].pop(suspect.version, None)
            self.tries.pop(suspect.version, None)
        self._write({suspect.group for suspect in mended})
        return bool(mended)

    def drop(self) -> None:
        """Keep nothing out any more."""
        groups = set(self.withheld)
        self.withheld.clear()
        self._write(groups)

    def note_parts(self, version: str) -> None:
        """Remember what the version in force is joined from, as long as it may be answered."""
        self.parts.setdefault(version, self._world.parts(*self._at))

    def _parts_of(self, version: str) -> tuple[Any, ...]:
        return self.parts.get(version) or self._world.parts(*self._at)

    def _withhold(self, suspects: Iterable[Suspect]) -> None:
        for suspect in suspects:
            self.withheld[suspect.group][suspect.version] = suspect
        self._write({suspect.group for suspect in suspects})

    def _write(self, groups: set[Group]) -> None:
        """Write what is kept out of some groups of entries into their cells."""
        for group in groups:
            fallbacks = {
                key: Fallback(suspect.last_good, key in self.culprits)
                for key, suspect in self.withheld[group].items()
            }
            self._world.write(withheld(*self._at, group), fallbacks or None)
            if not fallbacks:
                del self.withheld[group]


class Quarantine:
    """Takes what Envoys answer about joined resources, and writes what must stay out of force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._searches: dict[_Key, _Search] = {}
        self._awake: dict[_Key, None] = {}
        """Those that are not at rest."""
        self._nodes: defaultdict[FleetId, dict[str, int]] = defaultdict(dict)
        """Connected Envoys, by fleet, each with the time at which it came."""
        self._now = 0

    def connected(self, fleet: FleetId, node: str) -> None:
        """An Envoy has opened its stream."""
        self._now += 1
        self._nodes[fleet][node] = self._now

    def disconnected(self, fleet: FleetId, node: str) -> bool:
        """An Envoy's stream has ended: nobody waits for it. True if the world is to be settled again."""
        self._nodes[fleet].pop(node, None)
        keys = [key for key in self._awake if key[0] == fleet]
        for key in keys:
            self._searches[key].facts.pop(node, None)
        return any([self._judge(key) for key in keys])  # noqa: C419 - all of them

    def acknowledged(self, fleet: FleetId, node: str, type_url: str, name: str, version: str) -> bool:
        """An Envoy has a version in force. True if the world is to be settled again."""
        search = self._searches.get((fleet, type_url, name))
        if search is not None and search.is_known(node, self._joined(fleet, node), version):
            return False
        fact = self._fact(fleet, node, type_url, name)
        fact.held = version
        if version == fact.refused:
            fact.refused = ""
        fact.good = self._searches[fleet, type_url, name].parts.get(version, fact.good)
        return self._judge((fleet, type_url, name))

    def refused(
        self, fleet: FleetId, node: str, type_url: str, name: str, version: str, message: str
    ) -> bool:
        """An Envoy refused a version. True if the world is to be settled again."""
        fact = self._fact(fleet, node, type_url, name)
        fact.refused, fact.message = version, message
        return self._judge((fleet, type_url, name))

    def review(self) -> bool:
        """Judge what can be judged by now, and forget refusals of what is gone or has another form.

        True if the world is to be settled again. To be called whenever the world has been settled.
        """
        for key in [key for key in self._awake if not self._world.names_resource(*key)]:
            self._drop(key)
        return any([self._judge(key, settled=True) for key in list(self._awake)])  # noqa: C419 - all of them

    def refusals(self) -> tuple[Refusal, ...]:
        """The entries that are out of force just now, sorted."""
        return tuple(
            sorted(
                {
                    Refusal(key[0], suspect.origin, message)
                    for key in self._awake
                    for suspect, message in self._searches[key].culprits.values()
                }
            )
        )

    def facts_kept(self) -> int:
        """How many facts are kept of single Envoys, because they differ from what the others have."""
        return sum(len(search.facts) for search in self._searches.values())

    def forget(self, fleet: FleetId) -> None:
        """The fleet is gone, or starts anew: nothing is known of it any more."""
        for key in [key for key in self._searches if key[0] == fleet]:
            self._drop(key)
        self._nodes.pop(fleet, None)

    def _judge(self, key: _Key, *, settled: bool = False) -> bool:
        """Go on with a search as far as is known what Envoys say. True if the world is to be settled again.

        Args:
            key: which search.
            settled: whether the resource is as it follows from what is withheld now.
        """
        search = self._searches[key]
        moved = search.forget_mended()
        resource = self._world.resource(*key)
        if resource is None:
            # All of it is kept out, so no Envoy will say anything; there may be something that it takes.
            return search.go_on() or moved if settled and search.queue else moved
        version = resource.version
        search.note_parts(version)
        if search.judged == (version, False):
            return moved
        refusing = [fact for _, fact in sorted(search.facts.items()) if fact.refused == version]
        for fact in refusing:
            if search.refuse(version, fact):
                search.judged = (version, False)
                return True
        nodes = self._nodes[key[0]]
        if refusing or not search.is_held(version, nodes):
            return moved
        if search.facts:
            search.take(version, nodes, self._now)
        # A group that made no difference when it was released is good: its entries are others meanwhile.
        if search.judged != (version, True) or (settled and search.queue):
            search.judged = (version, True)
            moved |= search.go_on()
        if search.at_rest:
            self._awake.pop(key, None)
        return moved

    def _fact(self, fleet: FleetId, node: str, type_url: str, name: str) -> _Fact:
        """What is known of an Envoy and a resource, to be changed."""
        key = (fleet, type_url, name)
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = _Search(self._world, *key)
        if (resource := self._world.resource(*key)) is not None:
            search.note_parts(resource.version)
        self._awake[key] = None
        return search.fact(node, self._joined(fleet, node))

    def _joined(self, fleet: FleetId, node: str) -> int:
        if node not in self._nodes[fleet]:
            self.connected(fleet, node)
        return self._nodes[fleet][node]

    def _drop(self, key: _Key) -> None:
        self._awake.pop(key, None)
        search = self._searches.pop(key, None)
        if search is not None:
            search.drop()
