"""The core as a library: resources in; xDS, statuses and problems out. No I/O, no clock, no asyncio.

Theory of operation
===================
``apply`` writes a batch into the store; nothing runs then. ``settle`` recomputes what is in doubt and stops
after each query that ran, so that its driver can serve others in between and even apply more. ``take`` hands
out the differences since it was last asked.

Endpoints do not wait for all that: what a Service, an EndpointSlice or a Backend has changed of them can be
settled and taken alone (``urgent``) in the midst of a recomputation. When all else is settled, what is taken
is whole although endpoints may still wait: clusters that are new never do without theirs.

What a fleet of Envoys has is a set of *resources*, each a query of its own. *Inventories* say which: per
shard of routes, so that a route that comes or goes costs its shard. The world observes both and counts who
names what; a resource that nobody names any more leaves the fleet.

A failure is not an emptiness. A resource whose query failed keeps its last bytes in force. An inventory that
failed keeps all that it named, and one of which a part failed keeps what it named of that part. What was
never built stays away, and what needs it stays closed: a listener waits for its routes and certificates, and
no request passes to a cluster that Envoy does not know.

The Envoys of a Gateway that is rejected keep all they have.

Statuses say what failed: see ``status.failures``. Nothing here raises because a query failed.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from msgspec import Struct, structs

from moongate import names
from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.core import EndpointSlice, Service
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach import backends, gateways, grants, policies, routes
from moongate.attach.envoy_listeners import route_configurations
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.engine import STRIDE, Db, Failed
from moongate.policies import POLICY_KINDS
from moongate.policies.effective import effective_policy
from moongate.status import failures
from moongate.status.backends import backend_status
from moongate.status.gateways import class_status, gateway_status, proxy_status
from moongate.status.policies import policy_status
from moongate.status.routes import route_status
from moongate.store import Store
from moongate.xds import clusters, destinations, listeners, local, secrets
from moongate.xds.cluster_keys import PolicySecret
from moongate.xds.route_entries import fail_closed
from moongate.xds.routes import host_part, route_configuration
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, XdsResource, version

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping

    from moongate.api.envoygateway import EnvoyGateway
    from moongate.attach.envoy_listeners import RouteTable
    from moongate.engine import Demand, Query, Root
    from moongate.problem import Problem
    from moongate.store.store import AnyIndex
    from moongate.xds.cluster_keys import ResourceKey
    from moongate.xds.routes import Part

INDEXES: Final[tuple[AnyIndex, ...]] = (
    gateways.CLASSES,
    gateways.GATEWAYS,
    gateways.PROXY_USERS,
    grants.GRANTS,
    routes.ROUTES,
    routes.HOSTNAMES,
    routes.ROUTES_BY_HOSTNAME,
    routes.ROUTES_BY_PATH,
    backends.SLICES,
    local.FLEET_SERVICES,
    structs.replace(policies.TARGETS, kinds=POLICY_KINDS),
    structs.replace(policies.SELECTORS, kinds=POLICY_KINDS),
    structs.replace(policies.TARGETED, kinds=POLICY_KINDS),
    policies.TARGETABLE,
)
"""All indexes of the store; who reads one declares it beside the reading."""

STATUSES: Final[Mapping[type[Resource], Query[..., Any]]] = {
    GatewayClass: class_status,
    Gateway: gateway_status,
    **dict.fromkeys(ROUTE_TYPES, route_status),
    Backend: backend_status,
    EnvoyProxy: proxy_status,
    **dict.fromkeys(POLICY_KINDS, policy_status),
}
"""Kinds that have a status, with the query that tells it."""

ENDPOINT_KINDS: Final = (EndpointSlice, Service, Backend)
"""What endpoints come from. A batch of these alone waits for nothing else."""

INVENTORY, _RESOURCE, _STATUS = 1, 2, 3
"""Ranks of roots: what decides which resources there are is settled before these, and statuses come last."""

Named: TypeAlias = "tuple[str, str, Query[..., Any], tuple[Any, ...]]"
"""An entry of an inventory: type URL and name of a resource, and the query call that builds it."""


class Changes(Struct, frozen=True):
    """What differs since the last time.

    Args:
        put: new or changed resources, by fleet.
        gone: ``(type URL, name)`` of resources that a fleet should no longer have, by fleet.
        fleets: fleets that appeared or went; ``None`` for one that went.
        statuses: statuses that changed; ``None`` where there is nothing to say any more.
    """

    put: Mapping[str, tuple[XdsResource, ...]]
    gone: Mapping[str, tuple[tuple[str, str], ...]]
    fleets: Mapping[str, Ref | None]
    statuses: Mapping[Ref, Struct | None]

    def __bool__(self) -> bool:
        return bool(self.put or self.gone or self.fleets or self.statuses)


class Ran:
    """Which queries ran while it was open."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Runs by query name."""
        return dict(self._counts)

    def note(self, counts: Counter[str]) -> None:
        self._counts = counts


class World:
    """All resources, and all that follows from them.

    Args:
        config: the EnvoyGateway configuration; the one that moongate ships when ``None``.
        clock: monotonic seconds, for figures only.
    """

    def __init__(self, config: EnvoyGateway | None = None, clock: Callable[[], float] | None = None) -> None:
        self.db = Db(clock)
        self.store = Store(self.db, INDEXES)
        if config is not None:
            self.db.put(gateways.CONFIG, config)
        self._handlers: dict[Root[Any], Callable[[Root[Any]], None]] = {}
        self._fleets: dict[Ref, _Fleet] = {}
        self._statuses: dict[Ref, Root[Any]] = {}
        self._judged: dict[Ref, Struct | None] = {}
        """Statuses as their queries last told them."""
        self._judged_anew: dict[Ref, None] = {}
        self._concerned: Mapping[Ref, tuple[Failed, ...]] = {}
        self._failing = 0
        self._shown: dict[Ref, Struct] = {}
        """Statuses as they were handed out: with what fails."""
        self._put: dict[str, dict[tuple[str, str], XdsResource]] = {}
        self.takes = 0
        """How often all that differs was taken."""
        self._endpoints: dict[str, dict[tuple[str, str], XdsResource]] = {}
        self._gone: dict[str, dict[tuple[str, str], None]] = {}
        self._came: dict[str, Ref | None] = {}
        self._status_news: dict[Ref, Struct | None] = {}
        self.observe(gateways.managed_gateways, (), INVENTORY, self._gateways)

    @classmethod
    def of(cls, resources: Iterable[Resource], config: EnvoyGateway | None = None) -> World:
        """A settled world of these resources."""
        world = cls(config)
        world.apply({resource.ref: resource for resource in resources})
        world.pull()
        return world

    # -- in -----------------------------------------------------------------

    def apply(self, batch: Mapping[Ref, Resource | None]) -> bool:
        """Put new states of resources in force (``None`` deletes). True if anything differs from before."""
        # What comes together goes together: a route may be about to leave what its endpoints lose.
        changed = self.store.apply(batch, urgent=all(any(map(ref.is_a, ENDPOINT_KINDS)) for ref in batch))
        for ref, resource in batch.items():
            if resource is None:
                self._forget_status(ref)
            elif ref not in self._statuses and (status := STATUSES.get(type(resource))) is not None:
                self._statuses[ref] = self.observe(status, (ref,), _STATUS, self._status(ref))
        return changed

    def configure(self, config: EnvoyGateway) -> bool:
        """Put another EnvoyGateway configuration in force. True if it differs."""
        return self.db.put(gateways.CONFIG, config)

    def write(self, key: Hashable, value: Any) -> bool:
        """Put a fact that is no resource into its cell (``None`` for none). True if it differs."""
        return self.db.put(key, value)

    def demand(self, *kinds: type[Resource]) -> Demand[Ref]:
        """Which resources of some kinds are asked for, whether they exist or not.

        A source that could deliver all Secrets of a cluster keeps those. It takes the differences whenever
        all is settled, and need look at nothing else.
        """
        return self.db.demand(lambda key: isinstance(key, Ref) and any(map(key.is_a, kinds)))

    # -- recomputation ------------------------------------------------------

    def settle(self, *, urgent: bool = False) -> Iterator[None]:
        """Recompute what is in doubt, stopping at the latest after each query that ran.

        Args:
            urgent: only endpoints that a batch of nothing else has changed, in the order in which they came;
                otherwise everything but those.
        """
        if urgent:
            yield from self._settle(self.db.next_urgent)
            return
        while True:
            yield from self.db.propagate()
            if self.db.next_dirty() is not None:
                # What is written in between is propagated first, in slices.
                yield from self._settle(lambda: self.db.next_dirty() if self.db.propagated else None)
            elif self.db.collect(STRIDE):
                yield
            else:
                return

    def _settle(self, first: Callable[[], Root[Any] | None]) -> Iterator[None]:
        """Settle what is first, until nothing is."""
        while (root := first()) is not None:
            for _ in self.db.settle(root):
                yield
                if first() is not root:
                    break
            else:
                if (handle := self._handlers.get(root)) is not None:
                    handle(root)
                yield

    @property
    def settled(self) -> bool:
        """Whether nothing is in doubt."""
        return self.db.next_urgent() is None and self.db.next_dirty() is None

    def pull(self) -> Changes:
        """Settle all at once, and take what differs."""
        for urgent in (True, False):
            for _ in self.settle(urgent=urgent):
                pass
        return self.take()

    def take(self, *, urgent: bool = False) -> Changes:
        """What differs since the last time, as far as it is settled.

        Args:
            urgent: only endpoints that were settled as urgent, of clusters that a fleet already has, as long
                as each of their backends has some; the rest stays for the next time.
        """
        endpoints = {fleet: tuple(news.values()) for fleet, news in self._endpoints.items() if news}
        self._endpoints.clear()
        if urgent:
            return Changes(endpoints, {}, {}, {})
        self.takes += 1
        self._show_statuses()
        put = {fleet: tuple(news.values()) for fleet, news in self._put.items() if news}
        changes = Changes(
            {fleet: put.get(fleet, ()) + endpoints.get(fleet, ()) for fleet in put | endpoints},
            {fleet: tuple(gone) for fleet, gone in self._gone.items() if gone},
            dict(self._came),
            dict(self._status_news),
        )
        for pending in (self._put, self._gone, self._came, self._status_news):
            pending.clear()
        return changes

    # -- out ----------------------------------------------------------------

    def xds(self) -> dict[str, dict[str, dict[str, XdsResource]]]:
        """All resources: fleet → type URL → name → resource."""
        told: dict[str, dict[str, dict[str, XdsResource]]] = {}
        for gateway, fleet in self._fleets.items():
            of = told.setdefault(names.fleet(gateway), {})
            for (type_url, name), entry in fleet.resources.items():
                if entry.held is not None:
                    of.setdefault(type_url, {})[name] = entry.held
        return told

    def resource(self, gateway: Ref, type_url: str, name: str) -> XdsResource | None:
        """One resource of a Gateway's fleet, as last settled."""
        fleet = self._fleets.get(gateway)
        entry = fleet.resources.get((type_url, name)) if fleet is not None else None
        return entry.held if entry is not None else None

    def names_resource(self, gateway: Ref, type_url: str, name: str) -> bool:
        """Whether a fleet is to have a resource of that name, as last settled."""
        fleet = self._fleets.get(gateway)
        return fleet is not None and (type_url, name) in fleet.resources

    def parts(self, gateway: Ref, type_url: str, name: str) -> tuple[Part, ...]:
        """What a joined resource, as last settled, was joined from.

        A part that did not change is the same object.
        """
        fleet = self._fleets.get(gateway)
        entry = fleet.resources.get((type_url, name)) if fleet is not None else None
        return entry.parts if entry is not None else ()

    def joined_parts(self, gateway: Ref, name: str) -> tuple[Part, ...]:
        """The parts of a route configuration; to be asked for when it has just been settled."""
        tables = route_configurations.attempt(self.db, gateway)
        if isinstance(tables, Failed):
            return ()
        members = next((table.members for table in tables if table.name == name), ())
        shards = ((member, part) for member in members for part in routes.host_shards(self.db, member))
        parts = (host_part.attempt(self.db, member, part) for member, part in shards)
        return tuple(p for p in parts if not isinstance(p, Failed))

    def route_forms(self, route: Ref) -> frozenset[str] | None:
        """The versions of a route's entries, wherever served: as its manifest has them, and closed.

        ``None`` when they cannot be told just now.
        """
        versions: set[str] = set()
        attachments = routes.attachments.attempt(self.db, route)
        if isinstance(attachments, Failed):
            return None
        for listener in (listener for each in attachments for listener, _ in each.hosts):
            entries = route_entries_of.attempt(self.db, listener, route)
            if isinstance(entries, Failed):
                return None
            versions.update(version(form.body) for entry in entries for form in (entry, fail_closed(entry)))
        return frozenset(versions)

    def statuses(self) -> Mapping[Ref, Struct]:
        """All statuses that there are, as last handed out."""
        return self._shown

    def problems(self) -> Iterator[tuple[Ref, Problem]]:
        """What is wrong inside policies that are in force, with paths into their manifests."""
        policy_kinds = {kind.KIND for kind in POLICY_KINDS}
        for ref in sorted(r for r in self.store.held() if r.kind in policy_kinds):
            found = effective_policy.attempt(self.db, ref, None)
            if found is not None and not isinstance(found, Failed):
                yield from ((ref, problem) for problem in found.problems)

    def failures(self) -> Mapping[str, Failed]:
        """Queries that failed and still do: bugs of moongate, contained."""
        return self.db.failures

    def everything(self) -> Any:
        """All that is told to anybody, comparable: two worlds of equal resources must agree on it."""
        bodies = {
            fleet: {t: {n: r.body for n, r in sorted(rs.items())} for t, rs in sorted(types.items())}
            for fleet, types in sorted(self.xds().items())
        }
        return bodies, sorted(self.statuses().items(), key=lambda item: item[0])

    @contextmanager
    def ran(self) -> Generator[Ran]:
        """Count what runs inside the block."""
        before = self.db.counts.copy()
        ran = Ran()
        yield ran
        ran.note(self.db.counts - before)

    # -- observation --------------------------------------------------------

    def observe(
        self,
        query: Query[..., Any],
        args: tuple[Any, ...],
        rank: int,
        handle: Callable[[Root[Any]], None],
        *,
        eager: bool = False,
    ) -> Root[Any]:
        """Have ``handle`` called each time that a query call was settled."""
        root = self.db.observe(query, *args, rank=rank, eager=eager)
        self._handlers[root] = handle
        return root

    def release(self, root: Root[Any]) -> None:
        """Stop observing."""
        self._handlers.pop(root, None)
        self.db.release(root)

    def put_resource(self, fleet: str, resource: XdsResource, *, urgent: bool = False) -> None:
        """Note a resource for the next ``take``, also for one that is urgent."""
        key = (resource.type_url, resource.name)
        news, other = (self._endpoints, self._put) if urgent else (self._put, self._endpoints)
        news.setdefault(fleet, {})[key] = resource
        for pending in (other, self._gone):
            pending.get(fleet, {}).pop(key, None)

    def drop_resource(self, fleet: str, key: tuple[str, str]) -> None:
        """Note the end of a resource for the next ``take``."""
        for pending in (self._put, self._endpoints):
            pending.get(fleet, {}).pop(key, None)
        self._gone.setdefault(fleet, {})[key] = None

    def _gateways(self, root: Root[tuple[Ref, ...]]) -> None:
        value = root.value
        if value is None or isinstance(value, Failed):
            return
        for gateway in [g for g in self._fleets if g not in value]:
            self._fleets.pop(gateway).close()
            self._came[names.fleet(gateway)] = None
        for gateway in value:
            if gateway not in self._fleets:
                self._fleets[gateway] = _Fleet(self, gateway)
                self._came[names.fleet(gateway)] = gateway

    def _status(self, ref: Ref) -> Callable[[Root[Any]], None]:
        def handle(root: Root[Any]) -> None:
            if not isinstance(root.value, Failed):
                self._judged[ref] = root.value
                self._judged_anew[ref] = None

        return handle

    def _show_statuses(self) -> None:
        """Note the statuses that differ from those handed out, with what fails just now."""
        concerned = self._concerned
        if self.db.failures_version != self._failing:
            self._failing = self.db.failures_version
            self._concerned = failures.concerned(self.db)
        held = self.store.held()
        for ref in self._judged_anew | dict.fromkeys((*concerned, *self._concerned)):
            status = self._judged.get(ref)
            failed = self._concerned.get(ref)
            # Without a status it is not ours, unless it is the status that failed.
            if failed and ref in held and (status or isinstance(self._statuses[ref].value, Failed)):
                status = failures.with_failures(self.db, held[ref], status, failed)
            if status != self._shown.get(ref):
                self._status_news[ref] = status
                if status is None:
                    del self._shown[ref]
                else:
                    self._shown[ref] = status
        self._judged_anew.clear()

    def _forget_status(self, ref: Ref) -> None:
        root = self._statuses.pop(ref, None)
        if root is not None:
            self.release(root)
            self._judged.pop(ref, None)
            self._judged_anew[ref] = None


_Call: TypeAlias = "tuple[Query[..., Any], tuple[Any, ...]]"
_Part: TypeAlias = "tuple[Hashable, Iterable[Named] | None]"
_Parts: TypeAlias = "Mapping[Hashable, Mapping[tuple[str, str], _Call]]"


class _Entry:
    """One resource of a fleet: who names it, and what was last told of it."""

    __slots__ = ("call", "held", "parts", "root", "since", "users")

    def __init__(self) -> None:
        self.call: _Call | None = None
        self.root: Root[Any] | None = None
        self.users = 0
        self.held: XdsResource | None = None
        self.since = 0
        """The ``World.takes`` at which it came to be held: later, the fleet was told of it."""
        self.parts: tuple[Part, ...] = ()
        """What a route configuration was joined from, when ``held`` is one."""


class _Fleet:
    """The inventories and resources of one Gateway's Envoys."""

    def __init__(self, world: World, gateway: Ref) -> None:
        self.resources: dict[tuple[str, str], _Entry] = {}
        self._world = world
        self._gateway = gateway
        self._name = names.fleet(gateway)
        self._inventories: dict[Root[Any], _Parts] = {}
        """What each inventory names, by part."""
        self._passed_over: dict[Root[Any], None] = {}
        self._rejection = world.observe(gateways.rejection, (gateway,), INVENTORY, self._accepted)
        self._inventory(listeners.listener_names, (gateway,), self._listeners)
        self._inventory(route_configurations, (gateway,), self._route_configurations)
        self._inventory(secrets.secret_refs, (gateway,), self._secrets)
        self._shards: dict[int, Root[Any]] = {}
        """The inventory of clusters of each shard that has routes."""
        self._route_shards = world.observe(routes.route_shards, (gateway,), INVENTORY, self._shard)
        self._use((CLUSTER, self._name), local.local_cluster, (gateway,))
        self._use((ENDPOINT, self._name), local.local_assignment, (gateway,))

    def close(self) -> None:
        """End the fleet: nothing of it is observed or told any more."""
        for root in (self._rejection, self._route_shards, *self._inventories):
            self._world.release(root)
        for key, entry in self.resources.items():
            if entry.root is not None:
                self._world.release(entry.root)
            if entry.held is not None:
                self._world.drop_resource(self._name, key)
        self.resources.clear()

    def _accepted(self, root: Root[Any]) -> None:
        """Look again at what was passed over while the Gateway was rejected."""
        if root.value is None:
            for each in self._passed_over:
                self._world.db.requeue(each)
            self._passed_over.clear()

    def _passes_over(self, root: Root[Any]) -> bool:
        """Whether the Gateway is rejected as a whole: its Envoys then keep what they have."""
        # Should that fail, nobody knows whether it is, so they keep it as well.
        if gateways.rejection.attempt(self._world.db, self._gateway) is None:
            return False
        self._passed_over[root] = None
        return True

    def _listeners(self, value: tuple[str, ...]) -> Iterator[_Part]:
        yield "", [(LISTENER, name, listeners.listener, (self._gateway, name)) for name in value]

    def _route_configurations(self, value: tuple[RouteTable, ...]) -> Iterator[_Part]:
        yield "", [(ROUTE, table.name, route_configuration, (self._gateway, table.name)) for table in value]

    def _secrets(self, value: tuple[Ref, ...]) -> Iterator[_Part]:
        yield "", [(SECRET, names.secret(ref), secrets.secret, (self._gateway, ref)) for ref in value]

    def _clusters(self, value: tuple[tuple[Ref, tuple[ResourceKey, ...] | None], ...]) -> Iterator[_Part]:
        for route, keys in value:
            yield route, None if keys is None else [named for key in keys for named in _built_from(key)]

    def _shard(self, root: Root[Any]) -> None:
        """Have an inventory of clusters for each shard that has routes."""
        shards = root.value
        if shards is None or isinstance(shards, Failed) or self._passes_over(root):
            return
        for part in shards:
            if part not in self._shards:
                keys, args = destinations.resource_keys, (self._gateway, part)
                self._shards[part] = self._inventory(keys, args, self._clusters)
        for part in self._shards.keys() - {*shards}:
            inventory = self._shards.pop(part)
            self._world.release(inventory)
            self._passed_over.pop(inventory, None)
            for key, _ in _without(self._inventories.pop(inventory), {}):
                self._leave(key)

    def _inventory(
        self, query: Query[..., Any], args: tuple[Any, ...], parts: Callable[[Any], Iterator[_Part]]
    ) -> Root[Any]:
        """Have all that an inventory names, as long as it does so.

        Args:
            query: the inventory.
            args: its arguments.
            parts: takes its value apart. A part that failed is ``None``, and what it named stays.
        """

        def handle(root: Root[Any]) -> None:
            value = root.value
            if value is None or isinstance(value, Failed) or self._passes_over(root):
                return
            before = self._inventories[root]
            after: _Parts = {
                part: before.get(part, {}) if named is None else {(t, n): (q, a) for t, n, q, a in named}
                for part, named in parts(value)
            }
            self._inventories[root] = after
            for key, call in _without(after, before):
                self._use(key, *call)
            for key, _ in _without(before, after):
                self._leave(key)

        root = self._world.observe(query, args, INVENTORY, handle)
        self._inventories[root] = {}
        return root

    def _use(self, key: tuple[str, str], query: Query[..., Any], args: tuple[Any, ...]) -> None:
        entry = self.resources.setdefault(key, _Entry())
        entry.users += 1
        if entry.call != (query, args):
            # A name may pass to something else, as that of a mirror's cluster does when the mirror moves.
            if entry.root is not None:
                self._world.release(entry.root)
            entry.call = query, args
            handle = self._resource(key, entry)
            entry.root = self._world.observe(query, args, _RESOURCE, handle, eager=key[0] == ENDPOINT)

    def _leave(self, key: tuple[str, str]) -> None:
        entry = self.resources[key]
        entry.users -= 1
        if entry.users == 0:
            if entry.root is not None:
                self._world.release(entry.root)
            if entry.held is not None:
                self._world.drop_resource(self._name, key)
            del self.resources[key]

    def _resource(self, key: tuple[str, str], entry: _Entry) -> Callable[[Root[Any]], None]:
        def handle(root: Root[Any]) -> None:
            value: XdsResource | Failed | None = root.value
            if isinstance(value, Failed) or value == entry.held:
                return
            if value is None and self._passes_over(root):
                return
            if entry.held is None:
                entry.since = self._world.takes
            entry.held = value
            if key[0] == ROUTE:
                entry.parts = self._world.joined_parts(self._gateway, key[1])
            if value is None:
                self._world.drop_resource(self._name, key)
            else:
                told = entry.since < self._world.takes
                self._world.put_resource(self._name, value, urgent=root.urgent and told and _serves(value))

        return handle


def _built_from(key: ResourceKey) -> Iterator[Named]:
    """The resources that a key stands for."""
    if isinstance(key, PolicySecret):
        yield SECRET, key.name, secrets.policy_secret, (key,)
    else:
        yield CLUSTER, key.name, clusters.cluster, (key,)
        yield ENDPOINT, key.name, clusters.load_assignment, (key,)


def _without(one: _Parts, other: _Parts) -> Iterator[tuple[tuple[str, str], _Call]]:
    """What some parts name and others do not, or by another call."""
    for part, named in one.items():
        known = other.get(part, {})
        if named is not known:
            yield from ((key, call) for key, call in named.items() if known.get(key) != call)


def _serves(assignment: XdsResource) -> bool:
    """Whether all backends of a load assignment have endpoints.

    When one has none any more, routes change with it, and some may be about to leave it.
    """
    return all(each.lb_endpoints for each in ClusterLoadAssignment.FromString(assignment.body).endpoints)
