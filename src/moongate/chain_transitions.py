"""Keeping filter chains and routes in step: no route is in force without the filters that it relies on.

Theory of operation
===================
Routes rely on filters in the chain of their listener, and the two change at different times. So a chain grows
before its routes switch, and shrinks after they have:

1. Routes begin to need another filter. The chain that is handed out has the new one, and still the one that
   no route needs any more: that one *lingers*.
2. Envoy has the listener, and then the routes (``ads.session`` sends them in this order).
3. Every Envoy of the fleet has acknowledged the routes. What lingers leaves the chain.

Envoy may refuse the listener. Its chains then stay as they were, and it *lacks* the filters that they do not
have in the form in which they are handed out: the routes that rely on these answer 500 until Envoy takes a
listener that has them. What ``quarantine`` keeps out of the listener is not handed out, so no Envoy lacks it;
``xds.filters.missing_on`` puts both together.

Both are facts about Envoys. They go into cells, which ``xds.filters`` reads.

Facts
-----
* a filter that changes under its name replaces the former one; it cannot linger. With stable chains a filter
  that carries configuration is named by what it carries, so it never changes
* while routes are searched for one that Envoy refuses, others stand in their last good form, which may rely
  on what lingers
* an Envoy that is away keeps what it has, and nobody waits for it; stable chains protect it all the same
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from moongate import names
from moongate.attach.envoy_listeners import TableId
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY
from moongate.recent_versions import RecentVersions
from moongate.xds.filters import chain_filters, lacking, lingering
from moongate.xds.listeners import filters_by_chain
from moongate.xds.wire import LISTENER, ROUTE, SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from moongate.api.base import FleetId
    from moongate.engine import Root
    from moongate.world import World
    from moongate.xds.filters import ChainFilter
    from moongate.xds.wire import XdsResource

    Filters: TypeAlias = frozenset[ChainFilter]
    _Place: TypeAlias = tuple[str, str]
    """A node, and one of its listeners: with HTTP/3 a chain is in two, and Envoy may refuse one of them."""


class _Chain:
    """What is known of one chain, which has the name of its route configuration."""

    def __init__(self) -> None:
        self.needed: dict[str, ChainFilter] = {}
        """By name, the filters that routes need as they are written now."""
        self.relied: dict[str, ChainFilter] = {}
        """By name, the filters that some route relies on which an Envoy may have in force."""
        self.handed_out = False
        """Whether routes that need no more than ``needed`` are handed out."""
        self.in_force: dict[_Place, Filters] = {}
        """The filters that the chain has at a place."""
        self.lacking: dict[_Place, Filters] = {}
        """The filters that it should have there; none once the Envoy takes the listener."""
        self.messages: dict[_Place, str] = {}
        """What the Envoy says of the listener that it refuses."""

    def leave(self, place: _Place) -> bool:
        """The chain is at a place no more. True if it lacked filters there."""
        self.in_force.pop(place, None)
        self.messages.pop(place, None)
        return bool(self.lacking.pop(place, None))


class _Fleet:
    """The chains of one fleet, and what its Envoys have said."""

    def __init__(self, root: Root[tuple[tuple[str, tuple[ChainFilter, ...]], ...]]) -> None:
        self.root = root
        self.chains: dict[str, _Chain] = {}
        self.nodes: set[str] = set()
        """Those that are connected."""
        self.tables: dict[str, dict[tuple[str, str], str]] = {}
        """Chain → type URL and name of its route configuration, or its parts → version handed out."""
        self.behind: dict[tuple[str, str], dict[tuple[str, str], str | None]] = {}
        """Node and chain → those that the node does not have as handed out → what it has; None if nothing."""
        self.listeners: dict[str, RecentVersions[dict[str, Filters]]] = {}
        """Listener → its recent versions, each with the filters of its chains, by name of the chain."""
        self.places: defaultdict[_Place, set[str]] = defaultdict(set)
        """Place → the chains that are there, as far as they are known."""


def _nothing(_fleet: FleetId) -> Iterable[tuple[str, str]]:
    return ()


def _chain_of(type_url: str, name: str) -> str | None:
    """The chain that uses a route configuration, or a part of one; ``None`` of another resource."""
    if type_url == SCOPE:
        return names.chain_of_table(names.table_of_scope(name))
    return name if type_url == ROUTE else None


class ChainTransitions:
    """Takes what is handed out and what Envoys answer, and writes what lingers and what is lacking.

    Args:
        world: has the cells.
        searched: the resources of a fleet that are searched for what Envoy refuses: type URLs and names.
    """

    def __init__(
        self, world: World, searched: Callable[[FleetId], Iterable[tuple[str, str]]] = _nothing
    ) -> None:
        self._world = world
        self._searched = searched
        self._fleets: dict[FleetId, _Fleet] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        root = self._world.observers.observe(
            chain_filters, (fleet_id,), INVENTORY, lambda root: self._needs(fleet_id, root.value)
        )
        self._fleets[fleet_id] = _Fleet(root)

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone: nothing is known of it any more."""
        fleet = self._fleets.pop(fleet_id, None)
        if fleet is None:
            return
        self._world.observers.release(fleet.root)
        for name in fleet.chains:
            self._forget(fleet_id, name)

    def handed_out(
        self, fleet_id: FleetId, put: Iterable[XdsResource], gone: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Take what is handed out to a fleet of the settled world, as it differs.

        Args:
            fleet_id: which fleet.
            put: resources that are new or changed.
            gone: type URLs and names of those that it has no more.
        """
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return
        for type_url, name in gone:
            if type_url == LISTENER:
                fleet.listeners.pop(name, None)
            elif (chain := _chain_of(type_url, name)) is not None:
                key = type_url, name
                fleet.tables.get(chain, {}).pop(key, None)
                for node in fleet.nodes:
                    behind = fleet.behind.setdefault((node, chain), {})
                    if behind.setdefault(key, "") is None:
                        del behind[key]  # it never had it
        for resource in put:
            if resource.type_url == LISTENER:
                filters = filters_by_chain(self._world.parts(fleet_id, LISTENER, resource.name))
                versions = fleet.listeners.setdefault(resource.name, RecentVersions())
                versions.note(resource.version, filters)
                for name in filters:
                    fleet.chains.setdefault(name, _Chain())
            elif (chain := _chain_of(resource.type_url, resource.name)) is not None:
                key = resource.type_url, resource.name
                before = fleet.tables.setdefault(chain, {}).get(key)
                fleet.tables[chain][key] = resource.version
                for node in fleet.nodes:
                    fleet.behind.setdefault((node, chain), {}).setdefault(key, before)

    def review(self) -> bool:
        """All that differs is handed out. True if the world is to be settled again."""
        for fleet in self._fleets.values():
            for chain in fleet.chains.values():
                chain.handed_out = True
        return any(
            [  # noqa: C419 - all of them
                self._shrink(fleet_id, fleet, fleet.chains) for fleet_id, fleet in self._fleets.items()
            ]
        )

    def connected(self, fleet_id: FleetId, node: str) -> None:
        """An Envoy has opened its stream."""
        if (fleet := self._fleets.get(fleet_id)) is not None:
            fleet.nodes.add(node)
            for chain, tables in fleet.tables.items():
                fleet.behind[node, chain] = dict.fromkeys(tables)

    def disconnected(self, fleet_id: FleetId, node: str) -> bool:
        """An Envoy's stream has ended. True if the world is to be settled again."""
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return False
        fleet.nodes.discard(node)
        for at in [at for at in fleet.behind if at[0] == node]:
            del fleet.behind[at]
        wrote = False
        for place in [place for place in fleet.places if place[0] == node]:
            wrote |= self._leave(fleet_id, fleet, place, set(fleet.places[place]))
        return self._shrink(fleet_id, fleet, fleet.chains) or wrote

    def acknowledged(self, fleet_id: FleetId, node: str, type_url: str, name: str, version: str) -> bool:
        """An Envoy has a version of some resource in force. True if the world is to be settled again."""
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return False
        if node not in fleet.nodes:
            self.connected(fleet_id, node)
        if (chain := _chain_of(type_url, name)) is not None:
            behind = fleet.behind.setdefault((node, chain), {})
            if fleet.tables.get(chain, {}).get((type_url, name)) == version:
                behind.pop((type_url, name), None)
            else:
                behind[type_url, name] = version
            return self._shrink(fleet_id, fleet, (chain,))
        return type_url == LISTENER and self._took(fleet_id, fleet, node, name, version)

    def removed(self, fleet_id: FleetId, node: str, type_url: str, name: str) -> bool:
        """An Envoy has dropped some resource. True if the world is to be settled again."""
        fleet, chain = self._fleets.get(fleet_id), _chain_of(type_url, name)
        if fleet is None:
            return False
        if chain is None:
            place = node, name
            chains = set(fleet.places[place]) if type_url == LISTENER else set[str]()
            return self._leave(fleet_id, fleet, place, chains)
        behind = fleet.behind.get((node, chain), {})
        if (type_url, name) in fleet.tables.get(chain, {}):
            behind[type_url, name] = None  # it has unsubscribed: when the table goes, no answer will come
        else:
            behind.pop((type_url, name), None)
        return self._shrink(fleet_id, fleet, (chain,))

    def refused(self, fleet_id: FleetId, node: str, listener: str, version: str, message: str) -> bool:
        """An Envoy has refused a listener, with this message. True if the world is to be settled again."""
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return False
        wrote = False
        for name, filters in _filters(fleet, listener, version).items():
            chain = fleet.chains.get(name)
            # Without a former chain nobody can connect, so nobody can pass.
            place = node, listener
            if chain is not None and (in_force := chain.in_force.get(place)) is not None:
                chain.lacking[place], chain.messages[place] = filters - in_force, message
                wrote |= self._write_lacking(fleet_id, name, chain)
        return wrote

    def versions_kept(self) -> int:
        """How many versions of listeners are kept."""
        return sum(len(versions) for fleet in self._fleets.values() for versions in fleet.listeners.values())

    def _needs(
        self, fleet_id: FleetId, chains: tuple[tuple[str, tuple[ChainFilter, ...]], ...] | Failed | None
    ) -> None:
        """Let what routes no longer need linger. Called before the listeners are built."""
        if chains is None or isinstance(chains, Failed):
            return
        fleet = self._fleets[fleet_id]
        needs = {name: {one.name: one for one in filters} for name, filters in chains}
        for name in [name for name in fleet.chains if name not in needs]:
            del fleet.chains[name]
            self._forget(fleet_id, name)
        for name, needed in needs.items():
            chain = fleet.chains.setdefault(name, _Chain())
            if needed == chain.needed:
                continue
            chain.needed, chain.handed_out = needed, False
            chain.relied |= needed
            self._write_lingering(fleet_id, name, chain)

    def _shrink(self, fleet_id: FleetId, fleet: _Fleet, names: Iterable[str]) -> bool:
        """Drop what lingers in some chains where the routes that are in force everywhere need it no more."""
        shrinking = {name: fleet.chains[name] for name in names if self._may_shrink(fleet, name)}
        if not shrinking:
            return False
        # Asked for those that are searched, which are few: a chain may have thousands of parts.
        for type_url, resource in self._searched(fleet_id):
            chain = _chain_of(type_url, resource)
            if chain is not None and (type_url, resource) in fleet.tables.get(chain, {}):
                shrinking.pop(chain, None)
        wrote = False
        for name, chain in shrinking.items():
            chain.relied = dict(chain.needed)
            wrote |= self._write_lingering(fleet_id, name, chain)
        return wrote

    def _may_shrink(self, fleet: _Fleet, name: str) -> bool:
        """Whether something lingers in a chain whose routes are in force as they are handed out."""
        chain = fleet.chains.get(name)
        return (
            chain is not None
            and chain.handed_out
            and len(chain.relied) > len(chain.needed)
            and self._switched(fleet, name)
        )

    def _switched(self, fleet: _Fleet, chain: str) -> bool:
        """Whether each connected Envoy, and at least one, has the routes of a chain as handed out."""
        return bool(fleet.nodes) and not any(fleet.behind.get((node, chain)) for node in fleet.nodes)

    def _forget(self, fleet_id: FleetId, name: str) -> None:
        """A chain is gone: nothing lingers in it, and no Envoy lacks anything."""
        for cell in (lingering, lacking):
            self._world.write(cell(TableId(fleet_id, name)), None)

    def _write_lingering(self, fleet_id: FleetId, name: str, chain: _Chain) -> bool:
        rest = tuple(sorted(one for key, one in chain.relied.items() if key not in chain.needed))
        return self._world.write(lingering(TableId(fleet_id, name)), rest or None)

    def _write_lacking(self, fleet_id: FleetId, name: str, chain: _Chain) -> bool:
        messages = {
            one.name: chain.messages[place]
            for place, filters in sorted(chain.lacking.items())
            for one in sorted(filters)
        }
        return self._world.write(lacking(TableId(fleet_id, name)), messages or None)

    def _leave(self, fleet_id: FleetId, fleet: _Fleet, place: _Place, left: set[str]) -> bool:
        """Some chains are at a place no more. True if one of them lacked filters there."""
        fleet.places[place] -= left
        if not fleet.places[place]:
            del fleet.places[place]
        wrote = False
        for name in left:
            chain = fleet.chains.get(name)
            if chain is not None and chain.leave(place):
                wrote |= self._write_lacking(fleet_id, name, chain)
        return wrote

    def _took(self, fleet_id: FleetId, fleet: _Fleet, node: str, listener: str, version: str) -> bool:
        versions = fleet.listeners.get(listener, RecentVersions())
        wrote = False
        if versions.get(version) is None:
            # An Envoy that was away, or is late, has a version that is forgotten. It may have none of the
            # filters.
            for name in {name for filters in versions for name in filters} & fleet.chains.keys():
                fleet.chains[name].in_force[node, listener] = frozenset()
                fleet.places[node, listener].add(name)
        of_chains = _filters(fleet, listener, version)
        if versions.get(version) is not None:
            # Over QUIC a chain may leave that goes on over TCP.
            left = fleet.places[node, listener] - of_chains.keys()
            wrote |= self._leave(fleet_id, fleet, (node, listener), left)
        for name, filters in of_chains.items():
            if (chain := fleet.chains.get(name)) is not None:
                chain.in_force[node, listener] = filters
                fleet.places[node, listener].add(name)
                if chain.lacking.pop((node, listener), None):
                    wrote |= self._write_lacking(fleet_id, name, chain)
        versions.acknowledge(version)
        return wrote


def _filters(fleet: _Fleet, listener: str, version: str) -> dict[str, Filters]:
    """The filters of each chain of a version of a listener; empty when that is forgotten."""
    versions = fleet.listeners.get(listener)
    return (versions.get(version) if versions is not None else None) or {}
