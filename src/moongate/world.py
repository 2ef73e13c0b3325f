"""The core as a library: resources in; xDS, statuses and problems out. No I/O, no clock, no asyncio.

Theory of operation
===================
``apply`` writes a batch into the store, in steps if the caller likes; no query runs then. ``settle``
recomputes the results that are in doubt. It yields after each query that ran, so its driver can do other work
in between, and can even apply another batch. ``take`` returns the differences since the last ``take``.

Endpoints do not wait for a whole recomputation. When a Service, an EndpointSlice or a Backend changes
endpoints, they can be settled and taken alone (``urgent``), also in the middle of a recomputation. An
ordinary ``take`` is complete even if urgent endpoints still wait: a new cluster always comes with its
endpoints.

A source may hand over resources that belong together (a file that was saved), or simply all that arrived. So
the changed endpoints of a batch go first, unless another change of the batch affects their use. Endpoints
wait for an edited route that used them before, because the route may stop using a backend that loses its
endpoints. They also wait for any other change that puts a resource of their fleet in doubt, because that
change may replace their cluster, or may decide who is allowed to send requests to it.

``fleet_inventory`` holds the resources of one fleet of Envoys; this module holds what all fleets share, and
the statuses. The status of a resource reports a failed query that concerns it (``status.failures``). No
method here raises because a query failed.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, structs

from moongate import names
from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import Ref
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.api.listenerset import ListenerSet
from moongate.attach import (
    backends,
    connections,
    fleets,
    gateways,
    grants,
    host_ports,
    listener_sets,
    patch_policies,
    policies,
    routes,
    scopes,
)
from moongate.attach.backend_tls import authorities_problem
from moongate.attach.refused import refused
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.engine import STRIDE, Db, Failed
from moongate.fleet_inventory import INVENTORY, RESOURCE, STATUS, FleetInventory, Observers, Outbox
from moongate.policies import POLICY_KINDS
from moongate.policies.effective import effective_policy
from moongate.status import failures
from moongate.status.backend_tls import USERS, backend_tls_status
from moongate.status.backends import backend_status
from moongate.status.gateways import class_status, gateway_status, proxy_status
from moongate.status.listener_sets import listener_set_status
from moongate.status.patch_policies import patch_policy_status
from moongate.status.policies import policy_status
from moongate.status.routes import route_status
from moongate.store import Store
from moongate.xds import local
from moongate.xds.json_patches import JSON_PATCHES
from moongate.xds.rate_limits import LIMITING, Domains, rate_limit_config, rate_limit_domains
from moongate.xds.wire import XdsResource

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping

    from moongate.api.base import FleetId, Resource
    from moongate.api.envoygateway import EnvoyGateway
    from moongate.engine import Demand, Query, Root
    from moongate.fleet_inventory import Entry
    from moongate.problem import Problem
    from moongate.store.store import AnyIndex
    from moongate.xds.patches import Form, Patched, Patches

INDEXES: Final[tuple[AnyIndex, ...]] = (
    gateways.CLASSES,
    gateways.GATEWAYS,
    gateways.PROXY_USERS,
    listener_sets.LISTENER_SETS,
    host_ports.PORT_USERS,
    grants.GRANTS,
    routes.DEFAULT_GATEWAYS,
    routes.ROUTES,
    routes.HOSTNAMES,
    scopes.HASHES,
    routes.ROUTES_BY_HOSTNAME,
    routes.ROUTES_BY_PATH,
    connections.CONNECTION_ROUTES,
    connections.ROUTES_BY_PLACE,
    backends.SLICES,
    local.FLEET_SERVICES,
    structs.replace(policies.TARGETS, kinds=(*policies.TARGETS.kinds, *POLICY_KINDS)),
    structs.replace(policies.SELECTORS, kinds=POLICY_KINDS),
    policies.LABELLED,
    policies.TARGET_NAMESPACES,
    USERS,
    LIMITING,
    patch_policies.PATCH_POLICIES,
)
"""All indexes of the store. The module that reads an index declares it."""

STATUSES: Final[Mapping[type[Resource], Query[..., Any]]] = {
    GatewayClass: class_status,
    Gateway: gateway_status,
    ListenerSet: listener_set_status,
    **dict.fromkeys(ROUTE_TYPES, route_status),
    Backend: backend_status,
    BackendTLSPolicy: backend_tls_status,
    EnvoyProxy: proxy_status,
    **dict.fromkeys(POLICY_KINDS, policy_status),
    EnvoyPatchPolicy: patch_policy_status,
}
"""The kinds that have a status, each with the query that computes it."""

MOMENT: Final = 16
"""How many strides of marking may run before endpoints that came in one batch with other changes are sent.

It takes some milliseconds.
"""

WRITTEN: Final = 100
"""How many resources are written in one step: some milliseconds.

Each step sorts the values of an index anew, which may be thousands under one key, so it is not one of them.
"""


class Changes(Struct, frozen=True):
    """What differs since the last time.

    Args:
        put: new or changed resources, by fleet.
        gone: ``(type URL, name)`` of resources that a fleet should no longer have, by fleet.
        fleets: fleets that appeared or went; ``None`` for one that went.
        statuses: statuses that changed; ``None`` where a resource has no status any more.
        limits: what the rate limit service must know, by domain, where it changed; ``None`` for a domain that
            has no limits any more.
    """

    put: Mapping[str, tuple[XdsResource, ...]]
    gone: Mapping[str, tuple[tuple[str, str], ...]]
    fleets: Mapping[str, FleetId | None]
    statuses: Mapping[Ref, Struct | None]
    limits: Mapping[str, XdsResource | None] = {}

    def __bool__(self) -> bool:
        return bool(self.put or self.gone or self.fleets or self.statuses or self.limits)


class Ran:
    """The queries that ran inside a block (``World.ran``)."""

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
        patches: the queries that change resources after they were built; those of EnvoyPatchPolicies, unless
            a test has others.
    """

    def __init__(
        self,
        config: EnvoyGateway | None = None,
        clock: Callable[[], float] | None = None,
        patches: Patches = JSON_PATCHES,
    ) -> None:
        self._patches = patches
        self._refused = frozenset[Ref]()
        self.db = Db(clock)
        self.store = Store(self.db, INDEXES)
        if config is not None:
            self.db.put(gateways.CONFIG, config)
        self.observers = Observers(self.db)
        self._outbox = Outbox()
        self._fleets: dict[FleetId, FleetInventory] = {}
        self._statuses: dict[Ref, Root[Any]] = {}
        self._computed: dict[Ref, Struct | None] = {}
        """Statuses as their queries last answered."""
        self._recomputed: dict[Ref, None] = {}
        self._concerned: Mapping[Ref, tuple[Failed, ...]] = {}
        self._reported: dict[Ref, Struct] = {}
        """Statuses as they are handed out: with the failures of queries added."""
        self._fleet_changes: dict[str, FleetId | None] = {}
        self._status_changes: dict[Ref, Struct | None] = {}
        self._limits: dict[str, Root[Any]] = {}
        self._limit_configs: dict[str, XdsResource] = {}
        """What the rate limit service must know, by domain, as last settled."""
        self._limit_changes: dict[str, XdsResource | None] = {}
        self.observers.observe(fleets.fleets, (), INVENTORY, self._on_fleets)
        self.observers.observe(rate_limit_domains, (), INVENTORY, self._on_domains)

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
        steps = self.applying(batch, most=max(len(batch), 1))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def applying(
        self, batch: Mapping[Ref, Resource | None], *, most: int = WRITTEN
    ) -> Generator[None, None, bool]:
        """``apply`` in steps. Until the last one half of the batch is in force, so nothing is to be settled.

        Args:
            batch: as of ``apply``. Others may be applied between two steps.
            most: how many resources are written in one step.
        """
        resources = self.store.resources()
        endpoints: dict[Ref, Resource | None] = {}
        edited_routes: dict[Ref, Resource | None] = {}
        others: dict[Ref, Resource | None] = {}
        for ref, new in batch.items():
            if (before := resources.get(ref)) != new:
                apart = edited_routes if any(map(ref.is_a, ROUTE_TYPES)) else others
                (endpoints if backends.is_of_endpoints(before, new) else apart)[ref] = new
            yield
        yield from self._write(others, most)
        if endpoints:
            self._hold_back(edited_routes, others=bool(others))
        yield from self._write(edited_routes, most)
        yield from self._write(endpoints, most, urgent=True)
        for ref, resource in batch.items():
            if resource is None:
                self._forget_status(ref)
            elif ref not in self._statuses and (status := STATUSES.get(type(resource))) is not None:
                self._statuses[ref] = self.observers.observe(status, (ref,), STATUS, self._status(ref))
            yield
        return bool(endpoints or edited_routes or others)

    def _write(
        self, changes: Mapping[Ref, Resource | None], most: int, *, urgent: bool = False
    ) -> Iterator[None]:
        """Put changes in force, some in each step."""
        rest = iter(changes.items())
        while some := dict(islice(rest, most)):
            self.store.apply(self.store.differing(some), urgent=urgent)
            yield

    def _hold_back(self, edited_routes: Iterable[Ref], *, others: bool) -> None:
        """Let endpoints wait if other changes of their batch may change how they are used."""
        if others:
            for _ in islice(self.db.propagate(), MOMENT):
                # Once each fleet is in doubt, all wait, however much more is to be marked.
                if all(fleet.in_doubt for fleet in self._fleets.values()):
                    break
        for fleet in self._fleets.values():
            if others and (fleet.in_doubt or not self.db.propagated):
                fleet.hold_back()
            else:
                fleet.hold_back_those_of(edited_routes)

    def configure(self, config: EnvoyGateway) -> bool:
        """Put another EnvoyGateway configuration in force. True if it differs."""
        return self.db.put(gateways.CONFIG, config)

    def write(self, key: Hashable, value: Any) -> bool:
        """Put a fact that is no resource into its cell (``None`` for none). True if it differs."""
        return self.db.put(key, value)

    def refuse(self, faults: Mapping[Ref, str]) -> bool:
        """Say which resources are not in force as their manifests have faults. True if that differs.

        Args:
            faults: all of them, each with the place and the words of its fault.
        """
        differing = [self.db.put(refused(ref), faults.get(ref)) for ref in sorted({*self._refused, *faults})]
        self._refused = frozenset(faults)
        return any(differing)

    def demand(self, *kinds: type[Resource]) -> Demand[Ref]:
        """The resources of some kinds that queries read, whether they exist or not.

        A source that could deliver all Secrets of a cluster needs to keep only these. It takes the
        differences when the world is settled.
        """
        return self.db.demand(lambda key: isinstance(key, Ref) and any(map(key.is_a, kinds)))

    # -- recomputation ------------------------------------------------------

    def settle(self, *, urgent: bool = False) -> Iterator[None]:
        """Recompute the results that are in doubt. Yields after each query that ran, or more often.

        Args:
            urgent: settle only the endpoints that need not wait for other changes, in the order in which
                they came; otherwise settle everything except those.
        """
        if urgent:
            yield from self._settle(self.db.next_urgent)
            return
        while True:
            yield from self.db.propagate()
            if self.db.next_dirty() is not None:
                # A write that happens between two steps is propagated first, in slices.
                yield from self._settle(self.db.next_marked)
            elif self.db.collect(STRIDE) or self._report(STRIDE):
                yield
            else:
                return

    def _settle(self, first: Callable[[], Root[Any] | None]) -> Iterator[None]:
        """Settle the first root, again and again, until there is none."""
        while (root := first()) is not None:
            for _ in self.db.settle(root):
                yield
                if first() is not root:
                    break
            else:
                self.observers.settled(root)
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
        """The settled differences since the last ``take``.

        Args:
            urgent: take only endpoints that were settled as urgent, of clusters that the fleet already has
                and whose backends all have endpoints. All other differences stay for the next ``take``.
        """
        if urgent:
            return Changes(self._outbox.take_endpoints(), {}, {}, {})
        self._report_statuses()
        changes = Changes(
            *self._outbox.take(),
            dict(self._fleet_changes),
            dict(self._status_changes),
            dict(self._limit_changes),
        )
        self._fleet_changes.clear()
        self._status_changes.clear()
        self._limit_changes.clear()
        return changes

    # -- out ----------------------------------------------------------------

    def xds(self) -> dict[str, dict[str, dict[str, XdsResource]]]:
        """All resources: fleet → type URL → name → resource."""
        resources: dict[str, dict[str, dict[str, XdsResource]]] = {}
        for fleet, inventory in self._fleets.items():
            of = resources.setdefault(names.fleet(fleet), {})
            for (type_url, _), entry in inventory.resources.items():
                if entry.built is not None:
                    of.setdefault(type_url, {})[entry.built.name] = entry.built
        return resources

    def rate_limits(self) -> Mapping[str, XdsResource]:
        """What the rate limit service must know: for each domain its ``RateLimitConfig``, as last settled."""
        return self._limit_configs

    def resource(self, fleet: FleetId, type_url: str, name: str) -> XdsResource | None:
        """One resource of a fleet, as last settled."""
        entry = self._entry(fleet, type_url, name)
        return entry.built if entry is not None else None

    def fails(self, fleet: FleetId, type_url: str, name: str) -> bool:
        """Whether a resource could not be built, by a bug of moongate, when it was last to be settled."""
        entry = self._entry(fleet, type_url, name)
        return entry is not None and entry.root is not None and isinstance(entry.root.value, Failed)

    def names_resource(self, fleet: FleetId, type_url: str, name: str) -> bool:
        """Whether a fleet is to have a resource of that name, as last settled."""
        return self._entry(fleet, type_url, name) is not None

    def built_from(self, fleet: FleetId, type_url: str, name: str) -> tuple[Any, ...]:
        """The arguments of the query that builds a resource; none if there is no such resource."""
        entry = self._entry(fleet, type_url, name)
        return entry.built_by[1] if entry is not None and entry.built_by is not None else ()

    def parts(self, fleet: FleetId, type_url: str, name: str) -> tuple[Any, ...]:
        """The parts that a joined resource, as last settled, consists of.

        A part that did not change is the same object.
        """
        entry = self._entry(fleet, type_url, name)
        return entry.parts if entry is not None else ()

    def patches(self, fleet: FleetId, type_url: str, name: str) -> tuple[Form, ...]:
        """What a resource, as last settled, was changed by after it was built."""
        entry = self._entry(fleet, type_url, name)
        return entry.patches if entry is not None else ()

    def patched(self, fleet: FleetId, type_url: str, name: str) -> Patched | None:
        """What patches of a resource change; ``None`` when it is not patched."""
        entry = self._entry(fleet, type_url, name)
        return entry.target if entry is not None else None

    def _entry(self, fleet: FleetId, type_url: str, name: str) -> Entry | None:
        inventory = self._fleets.get(fleet)
        return inventory.resources.get((type_url, name)) if inventory is not None else None

    def statuses(self) -> Mapping[Ref, Struct]:
        """All statuses, as last handed out."""
        return self._reported

    def problems(self) -> Iterator[tuple[Ref, Problem]]:
        """The problems of the policies that are in force, with paths into their manifests."""
        policy_kinds = {kind.KIND for kind in POLICY_KINDS}
        for ref in sorted(r for r in self.store.resources() if r.kind in policy_kinds):
            policy = effective_policy.attempt(self.db, ref, None, None)
            if policy is not None and not isinstance(policy, Failed):
                yield from ((ref, problem) for problem in policy.problems)
        for ref in sorted(r for r in self.store.resources() if r.is_a(BackendTLSPolicy)):
            problem = authorities_problem.attempt(self.db, ref)
            if problem is not None and not isinstance(problem, Failed):
                yield ref, problem

    def failures(self) -> Mapping[str, Failed]:
        """Queries that failed and still do: bugs of moongate, contained."""
        return self.db.failures

    def everything(self) -> Any:
        """Everything that the world hands out, in a form to compare. Worlds of equal resources are equal."""
        bodies = {
            fleet: {t: {n: r.body for n, r in sorted(rs.items())} for t, rs in sorted(types.items())}
            for fleet, types in sorted(self.xds().items())
        }
        limits = {name: config.body for name, config in sorted(self._limit_configs.items())}
        return bodies, sorted(self.statuses().items(), key=lambda item: item[0]), limits

    @contextmanager
    def ran(self) -> Generator[Ran]:
        """Count the queries that run inside the block."""
        before = self.db.counts.copy()
        ran = Ran()
        yield ran
        ran.note(self.db.counts - before)

    def _on_fleets(self, root: Root[tuple[FleetId, ...]]) -> None:
        value = root.value
        if value is None or isinstance(value, Failed):
            return
        for fleet in [each for each in self._fleets if each not in value]:
            self._fleets.pop(fleet).close()
            self._fleet_changes[names.fleet(fleet)] = None
        for fleet in value:
            if fleet not in self._fleets:
                self._fleets[fleet] = FleetInventory(self.observers, self._outbox, fleet, self._patches)
                self._fleet_changes[names.fleet(fleet)] = fleet

    def _on_domains(self, root: Root[Domains]) -> None:
        value = root.value
        if value is None or isinstance(value, Failed):
            return
        for name in value.names:
            if name not in self._limits:
                of = partial(self._on_limits, name)
                self._limits[name] = self.observers.observe(rate_limit_config, (name,), RESOURCE, of)
        for name in self._limits.keys() - set(value.names) if not value.growing else ():
            self.observers.release(self._limits.pop(name))
            if self._limit_configs.pop(name, None) is not None:
                self._limit_changes[name] = None

    def _on_limits(self, name: str, root: Root[XdsResource | None]) -> None:
        value = root.value
        # Of a domain without limits it is heard once it has none for good.
        if value is not None and not isinstance(value, Failed) and value != self._limit_configs.get(name):
            self._limit_configs[name] = self._limit_changes[name] = value

    def _status(self, ref: Ref) -> Callable[[Root[Any]], None]:
        def handle(root: Root[Any]) -> None:
            if not isinstance(root.value, Failed):
                self._computed[ref] = root.value
                self._recomputed[ref] = None

        return handle

    def _report_statuses(self) -> None:
        """Note all statuses that differ from those reported, with what fails just now."""
        # Whom a failure concerns may differ although the same calls fail: members of a fleet come and go.
        concerned, self._concerned = self._concerned, failures.concerned(self.db)
        self._recomputed |= dict.fromkeys((*concerned, *self._concerned))
        while self._report(STRIDE):
            pass

    def _report(self, most: int) -> bool:
        """Note which of some recomputed statuses differ from those reported. False if none was recomputed.

        The failures that are added to them are those of the last ``take``.
        """
        resources = self.store.resources()
        some = tuple(islice(self._recomputed, most))
        for ref in some:
            del self._recomputed[ref]
            status = self._computed.get(ref)
            failed = self._concerned.get(ref)
            # Without a status it is not ours, unless it is the status that failed.
            if failed and ref in resources and (status or isinstance(self._statuses[ref].value, Failed)):
                status = failures.with_failures(self.db, resources[ref], status, failed)
            if status != self._reported.get(ref):
                self._status_changes[ref] = status
                if status is None:
                    del self._reported[ref]
                else:
                    self._reported[ref] = status
        return bool(some)

    def _forget_status(self, ref: Ref) -> None:
        root = self._statuses.pop(ref, None)
        if root is not None:
            self.observers.release(root)
            self._computed.pop(ref, None)
            self._recomputed[ref] = None
