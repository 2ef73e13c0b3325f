"""How ready listeners share Envoy's listeners, filter chains and route configurations.

Theory of operation
===================
Envoy has one listener for a port, and chooses a filter chain for each connection. The kind of a chain
(``ChainKind``) follows from the protocol of its listeners. Plaintext HTTP connections to one port cannot be
distinguished before their first request, so all HTTP listeners of a port share one chain and one route
configuration. Each HTTPS listener has its own; Envoy chooses it by the hostname in the TLS handshake (SNI).
TLS and TCP listeners have a chain for each of their routes, and no route configuration. TLS and HTTPS may
share a port. UDP is another network: a port of it is an Envoy listener of its own.

An HTTPS listener that cannot check its clients is not ready. But while others serve its port it keeps its
hostname there (``EnvoyListener.shut``), so that no wider listener gets its connections.

Source: Envoy Gateway's grouping of listeners, and its naming schemes v1 and ``XDSNameSchemeV2``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from moongate import names
from moongate.attach.fleets import fleet_of, members
from moongate.attach.gateways import config
from moongate.attach.listeners import HTTP_CHAINS, SECURE, ChainKind, Listener, all_last_judged
from moongate.attach.patch_policies import named_resources
from moongate.attach.sizes import Size, table_size
from moongate.engine import Failed, query
from moongate.xds.wire import LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moongate.api.base import FleetId, ListenerId
    from moongate.engine import Db


class ChainGroup(NamedTuple):
    """Listeners of a port that Envoy serves by the same filter chains.

    Args:
        kind: the kind of its chains.
        name: of its HTTP filter chain, and of its route configuration; a group of another kind has neither.
        stat_prefix: what the names of its statistics begin with.
        members: in the order of the spec, at least one.
        scoped: whether each of its hostnames has a route configuration of its own.
    """

    kind: ChainKind
    name: str
    stat_prefix: str
    members: tuple[ListenerId, ...]
    scoped: bool = False

    @property
    def has_table(self) -> bool:
        """Whether it has a route configuration."""
        return self.kind in HTTP_CHAINS

    @property
    def table(self) -> RouteTable:
        """Its route configuration."""
        name = names.scoped_table(self.name) if self.scoped else self.name
        return RouteTable(name, self.members, self.scoped)


class EnvoyListener(Struct, frozen=True):
    """Listeners of one port that share an Envoy listener.

    Args:
        name: the resource's name.
        container_port: where Envoy listens.
        is_udp: whether it listens for UDP.
        groups: in the order of the spec, at least one.
        shut: listeners whose connections are ended, one for each hostname that none of the groups has.
    """

    name: str
    container_port: int
    is_udp: bool
    groups: tuple[ChainGroup, ...]
    shut: tuple[ListenerId, ...] = ()

    @property
    def members(self) -> tuple[ListenerId, ...]:
        """All listeners of the port that are served."""
        return tuple(member for group in self.groups for member in group.members)


class TableId(NamedTuple):
    """The identity of the routes of an HTTP filter chain, by the name of the chain."""

    fleet: FleetId
    name: str


class Renamed(NamedTuple):
    """What does not have its usual name in Envoy: ``((usual, name), …)``, sorted.

    Args:
        tables: route configurations and their chains. One needs another name while connections to another
            place still use its usual one (``draining_tables``).
        listeners: Envoy listeners. Envoy never gets one at another address, as it would refuse a listener
            that comes to an address which another one leaves. So it closes one and opens the other there, and
            the socket stays open.
    """

    tables: tuple[tuple[str, str], ...] = ()
    listeners: tuple[tuple[str, str], ...] = ()


def renamed(fleet: FleetId) -> tuple[str, FleetId]:
    """The cell with what does not have its usual name: a ``Renamed``; or absent."""
    return ("renamed", fleet)


@query
def usual_names(db: Db, fleet: FleetId) -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """What does not have its usual name in Envoy: ``(type URL, usual name)`` → the same with the other."""
    others: Renamed = db.read(renamed(fleet)) or Renamed()
    tables = {(ROUTE, name): ((ROUTE, other),) for name, other in others.tables}
    return tables | {(LISTENER, name): ((LISTENER, other),) for name, other in others.listeners}


TableForm: TypeAlias = Literal["whole", "scoped", "whole for good"]
"""The form of a table that is scoped once it is large. "Whole for good" is one that was scoped before."""


def table_forms(fleet: FleetId) -> tuple[str, FleetId]:
    """The cell with the forms of tables, by name of the chain: a ``Mapping[str, TableForm]``; or absent.

    With it, a new hostname puts no route in doubt as long as all tables keep their forms.
    """
    return ("table-forms", fleet)


class RouteTable(NamedTuple):
    """A route configuration, whole or in parts.

    Args:
        name: of the whole, or what the parts are named after.
        members: the listeners whose virtual hosts it holds, in order.
        scoped: whether it is in parts, one for each hostname.
    """

    name: str
    members: tuple[ListenerId, ...]
    scoped: bool = False

    @property
    def chain(self) -> str:
        """The name of the chain that uses it."""
        return names.chain_of_table(self.name) if self.scoped else self.name


@query
def envoy_listeners(db: Db, fleet: FleetId) -> tuple[EnvoyListener, ...]:
    """The Envoy listeners of a fleet, with the ready Gateway listeners that share each, by first member."""
    ports: dict[tuple[int, bool], list[Listener]] = defaultdict(list)
    shut: dict[int, list[Listener]] = defaultdict(list)
    for each in all_last_judged(db, members(db, fleet)):
        if each.ready and each.chain_kind is not None:
            ports[each.container_port, each.chain_kind == "UDP"].append(each)
        elif each.shut:
            shut[each.container_port].append(each)
    by_port = config(db).runtime_flags.on("XDSNameSchemeV2")
    others: Renamed = db.read(renamed(fleet)) or Renamed()
    other_names, other_listeners = dict(others.tables), dict(others.listeners)
    return tuple(
        EnvoyListener(
            listener,
            port,
            is_udp,
            tuple(
                group._replace(scoped=_is_scoped(db, fleet, group, listener))
                for group in _groups(members, other_names, by_port=by_port)
            ),
            _shut_beside(members, shut.get(port, ())),
        )
        for (port, is_udp), members in ports.items()
        for name in (_by_port(members[0], is_udp=is_udp) if by_port else names.listener(members[0].id),)
        for listener in (other_listeners.get(name, name),)
    )


def _is_scoped(db: Db, fleet: FleetId, group: ChainGroup, listener: str) -> bool:
    """Whether the hostnames of a group are to have route configurations of their own."""
    flags = config(db).runtime_flags
    if not group.has_table or not (flags.on("ScopedTables") or flags.on("ScopedLargeTables")):
        return False
    if flags.on("ScopedTables"):
        return not _is_patched(db, fleet, group, listener)
    forms: Mapping[str, TableForm] = db.read(table_forms(fleet)) or {}
    return (forms.get(group.name) or _next_form(db, fleet, group, listener)) == "scoped"


@query
def next_forms(db: Db, fleet: FleetId) -> tuple[tuple[str, TableForm], ...]:
    """The forms that tables should have from now on: ``((name of the chain, form), …)``.

    None where the size of a table does not matter.
    """
    flags = config(db).runtime_flags
    if flags.on("ScopedTables") or not flags.on("ScopedLargeTables"):
        return ()
    forms: Mapping[str, TableForm] = db.read(table_forms(fleet)) or {}
    return tuple(
        (group.name, _next_form(db, fleet, group, envoy.name, forms.get(group.name)))
        for envoy, group in http_groups(db, fleet)
    )


def _next_form(
    db: Db, fleet: FleetId, group: ChainGroup, listener: str, form: TableForm | None = None
) -> TableForm:
    """The form that a table should have, by what it has now, and by its form until now if there is one."""
    if form == "whole for good":
        return form
    known = table_size.last_good(db, group.members)
    # What was never known is no reason for a form of its own, and no other table is to wait for it.
    size = known if not isinstance(known, Failed) else Size(large=False, has_others=False)
    if size.has_others or _is_patched(db, fleet, group, listener):
        return "whole for good" if form == "scoped" else "whole"
    return "scoped" if size.large or form == "scoped" else "whole"


def _is_patched(db: Db, fleet: FleetId, group: ChainGroup, listener: str) -> bool:
    """Whether a patch names the route configuration, or the listener, by its usual name.

    A patch is written for the whole one, and for the filters that a connection manager has then.
    """
    others: Renamed = db.read(renamed(fleet)) or Renamed()
    listener = next((usual for usual, other in others.listeners if other == listener), listener)
    return _has_patched_table(db, fleet, group.name) or (LISTENER, listener) in named_resources(db, fleet)


def _has_patched_table(db: Db, fleet: FleetId, table: str) -> bool:
    """Whether a patch names a route configuration by its usual name."""
    others: Renamed = db.read(renamed(fleet)) or Renamed()
    table = next((usual for usual, other in others.tables if other == table), table)
    return (ROUTE, table) in named_resources(db, fleet)


def _shut_beside(members: Sequence[Listener], shut: Sequence[Listener]) -> tuple[ListenerId, ...]:
    """The listeners that have a hostname beside those that are served, each hostname once."""
    if not shut or any(each.chain_kind not in SECURE for each in members):
        return ()
    served = {each.hostname for each in members}
    first = {each.hostname: each.id for each in reversed(shut) if each.hostname not in served}
    return tuple(reversed(first.values()))


def _by_port(first: Listener, *, is_udp: bool) -> str:
    return f"{'udp' if is_udp else 'tcp'}-{first.port}"


@query
def _by_name(db: Db, fleet: FleetId) -> Mapping[str, EnvoyListener]:
    return {envoy.name: envoy for envoy in envoy_listeners(db, fleet)}


@query
def envoy_listener(db: Db, fleet: FleetId, name: str) -> EnvoyListener | None:
    """One of ``envoy_listeners``: with thousands of ports, one that changes does not concern the others."""
    return _by_name(db, fleet).get(name)


@query
def ready_listeners(db: Db, fleet: FleetId) -> frozenset[ListenerId]:
    """The listeners that a fleet's Envoys serve."""
    return frozenset(member for each in envoy_listeners(db, fleet) for member in each.members)


@query
def is_served(db: Db, fleet: FleetId, listener: ListenerId) -> bool:
    """Whether a fleet's Envoys serve a listener. Thousands of routes ask this of their own listeners."""
    return listener in ready_listeners(db, fleet)


def http_groups(db: Db, fleet: FleetId) -> Iterator[tuple[EnvoyListener, ChainGroup]]:
    """Every chain group of a fleet with a route configuration, each with its Envoy listener."""
    return (
        (envoy, group) for envoy in envoy_listeners(db, fleet) for group in envoy.groups if group.has_table
    )


@query
def route_configurations(db: Db, fleet: FleetId) -> tuple[RouteTable, ...]:
    """The route configurations of a fleet: one for an HTTPS listener, one for the HTTP ones of a port."""
    return tuple(group.table for _, group in http_groups(db, fleet))


class Placement(NamedTuple):
    """Where listeners are served together.

    Args:
        envoy: the Envoy listener.
        group: their filter chains in it.
    """

    envoy: EnvoyListener
    group: ChainGroup


# A port may have a thousand listeners, each of which asks where it is. So one walk answers all of them.


@query
def _placements(db: Db, fleet: FleetId) -> Mapping[str, Placement]:
    """All chain groups of a fleet, by name."""
    return {
        group.name: Placement(envoy, group) for envoy in envoy_listeners(db, fleet) for group in envoy.groups
    }


@query
def _groups_of(db: Db, fleet: FleetId) -> Mapping[ListenerId, str]:
    """The listeners that a fleet's Envoys serve, each with the name of its chain group."""
    return {
        member: group.name
        for envoy in envoy_listeners(db, fleet)
        for group in envoy.groups
        for member in group.members
    }


def placement_of(db: Db, listener: ListenerId) -> Placement | None:
    """Where a listener is served; ``None`` if no Envoy serves it."""
    fleet = fleet_of(db, listener.gateway)
    name = _groups_of(db, fleet).get(listener)
    return None if name is None else _placements(db, fleet).get(name)


@query
def table_of(db: Db, listener: ListenerId) -> TableId | None:
    """The HTTP chain with a listener's routes; ``None`` when it has none, or Envoy does not serve it."""
    placement = placement_of(db, listener)
    if placement is None or not placement.group.has_table:
        return None
    return TableId(fleet_of(db, listener.gateway), placement.group.name)


@query
def has_patched_routes(db: Db, listener: ListenerId) -> bool:
    """Whether a patch names the route configuration with a listener's routes."""
    table = table_of(db, listener)
    return table is not None and _has_patched_table(db, table.fleet, table.name)


def chain_of(db: Db, table: TableId) -> tuple[str, tuple[ListenerId, ...]] | None:
    """The Envoy listener whose chain uses a route configuration, and the members of that chain."""
    placement = _placements(db, table.fleet).get(table.name)
    return (
        (placement.envoy.name, placement.group.members)
        if placement is not None and placement.group.has_table
        else None
    )


def _groups(
    members: list[Listener], other_names: Mapping[str, str], *, by_port: bool
) -> Iterator[ChainGroup]:
    together: dict[ListenerId | None, list[Listener]] = defaultdict(list)
    for each in members:
        together[None if each.chain_kind == "HTTP" else each.id].append(each)
    for first, *others in together.values():
        assert first.chain_kind is not None, "only listeners that Envoy can serve are grouped"
        port = first.port if by_port else first.container_port
        name = f"http-{port}" if by_port and first.chain_kind == "HTTP" else names.listener(first.id)
        yield ChainGroup(
            kind=first.chain_kind,
            name=other_names.get(name, name),
            stat_prefix=f"{_stats(first)}-{port}",
            members=tuple(each.id for each in (first, *others)),
        )


def _stats(listener: Listener) -> str:
    """What the names of a chain's statistics begin with, before its port."""
    kind = (listener.chain_kind or "").lower()
    if kind == "tls":
        return "tls-passthrough" if listener.passthrough else "tls-terminate"
    return kind
