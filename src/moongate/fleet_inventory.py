"""The xDS resources of one fleet of Envoys: their names, and each resource as it was last built.

Theory of operation
===================
*Inventories* say which resources a fleet has: its listeners, route configurations and secrets, and per shard
of routes the clusters that they need, so that a route that comes or goes costs its shard. Each resource is a
query of its own. Both are observed, and it is counted who names what; a resource that nobody names any more
leaves the fleet.

A failure is not an emptiness. A resource whose query failed keeps its last bytes in force. An inventory that
failed keeps all that it named, and one of which a part failed keeps what it named of that part. What was
never built stays away, and what needs it stays closed: a listener waits for its routes and certificates, and
no request passes to a cluster that Envoy does not know. But Gateways may share Envoys and routes, so of a
route there are the clusters of the listeners that are known, and they are as the first of these has them.

While all Gateways of a fleet are rejected, its Envoys keep all they have.

Patches
=======
What changes a resource after it was built, as an EnvoyPatchPolicy does, is one query around the one that
builds it (``xds.patches``). Only the resources that some patch names have it, so it costs nothing where
nothing patches. A patch may also make a resource of its own: an inventory names it, as any other, and nothing
builds it but the patch. Where something else builds a resource of that name, the patch changes that one.

Which call is patched is written into a cell (``patches.patching``), for the statuses of patches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from moongate import names
from moongate.attach.envoy_listeners import route_configurations
from moongate.attach.fleets import keeps_what_it_has
from moongate.engine import Failed
from moongate.store import shard
from moongate.xds import (
    client_certificates,
    clusters,
    connection_chains,
    listeners,
    local,
    needed_resources,
    patches,
    routes,
    secrets,
    sinks,
)
from moongate.xds.cluster_keys import (
    AuthoritiesSecret,
    CertificateSecret,
    ClientAuthoritiesSecret,
    PolicySecret,
    SecretServerCluster,
)
from moongate.xds.draining import draining_tables
from moongate.xds.patches import Patched
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET, XdsResource

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.attach.backends import Target
    from moongate.attach.envoy_listeners import RouteTable
    from moongate.engine import Db, Query, Root
    from moongate.xds.cluster_keys import ResourceKey, SinkCluster
    from moongate.xds.needed_resources import Needs
    from moongate.xds.patches import Call, Form, Patches
    from moongate.xds.sinks import Sink

FORM, INVENTORY, RESOURCE, STATUS = range(4)
"""Ranks of roots. The forms of tables are settled first, inventories before resources, and statuses last."""

JOINED_FROM: Final[Mapping[str, Callable[..., tuple[Any, ...]]]] = {
    LISTENER: listeners.parts_of,
    ROUTE: routes.parts_of,
    SCOPE: routes.scope_parts,
}
"""For each type of joined resource, the function that returns the parts of a resource just built.

It takes the arguments of the query that built the resource.
"""

Named: TypeAlias = "tuple[str, str, Query[..., Any], tuple[Any, ...]]"
"""An entry of an inventory: type URL and name of a resource, and the query call that builds it."""
_Part: TypeAlias = "tuple[Hashable, Iterable[Named] | None]"
_Parts: TypeAlias = "Mapping[Hashable, Mapping[tuple[str, str], Call]]"


class Observers:
    """The functions that are called when a root was settled."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self._handlers: dict[Root[Any], Callable[[Root[Any]], None]] = {}

    def observe(
        self,
        query: Query[..., Any],
        args: tuple[Any, ...],
        rank: int,
        handle: Callable[[Root[Any]], None],
        *,
        eager: bool = False,
        owner: FleetId | None = None,
    ) -> Root[Any]:
        """Call ``handle`` each time a query call was settled."""
        root = self.db.observe(query, *args, rank=rank, eager=eager, owner=owner)
        assert root not in self._handlers, f"{root} has an observer, which would hear of it no more"
        self._handlers[root] = handle
        return root

    def release(self, root: Root[Any]) -> None:
        """Stop observing."""
        self._handlers.pop(root, None)
        self.db.release(root)

    def settled(self, root: Root[Any]) -> None:
        """Call the observer of a root that was settled."""
        if (handle := self._handlers.get(root)) is not None:
            handle(root)


class Outbox:
    """The resources of all fleets that differ since they were last taken."""

    def __init__(self) -> None:
        self.takes = 0
        """How many times ``take`` was called."""
        self._put: dict[str, dict[tuple[str, str], XdsResource]] = {}
        self._endpoints: dict[str, dict[tuple[str, str], XdsResource]] = {}
        self._gone: dict[str, dict[tuple[str, str], None]] = {}

    def put(self, fleet: str, resource: XdsResource, *, urgent: bool) -> None:
        """Note a resource for the next ``take``, or also for ``take_endpoints``."""
        key = (resource.type_url, resource.name)
        news, other = (self._endpoints, self._put) if urgent else (self._put, self._endpoints)
        news.setdefault(fleet, {})[key] = resource
        for pending in (other, self._gone):
            pending.get(fleet, {}).pop(key, None)

    def drop(self, fleet: str, key: tuple[str, str]) -> None:
        """Note the end of a resource for the next ``take``."""
        for pending in (self._put, self._endpoints):
            pending.get(fleet, {}).pop(key, None)
        self._gone.setdefault(fleet, {})[key] = None

    def take_endpoints(self) -> dict[str, tuple[XdsResource, ...]]:
        """Take the urgent endpoints, by fleet."""
        endpoints = {fleet: tuple(news.values()) for fleet, news in self._endpoints.items() if news}
        self._endpoints.clear()
        return endpoints

    def take(
        self,
    ) -> tuple[dict[str, tuple[XdsResource, ...]], dict[str, tuple[tuple[str, str], ...]]]:
        """Take all differences, by fleet: resources to put, and ``(type URL, name)`` of removed ones."""
        self.takes += 1
        endpoints = self.take_endpoints()
        put = {fleet: tuple(news.values()) for fleet, news in self._put.items() if news}
        gone = {fleet: tuple(keys) for fleet, keys in self._gone.items() if keys}
        self._put.clear()
        self._gone.clear()
        return {fleet: put.get(fleet, ()) + endpoints.get(fleet, ()) for fleet in put | endpoints}, gone


class Entry:
    """One resource of a fleet: the inventories that name it, and the resource as it was last built."""

    __slots__ = (
        *("beside_failure", "built", "built_by", "call", "key", "made"),
        *("parts", "patches", "root", "users", "waits"),
    )

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.built_by: Call | None = None
        self.call: Call | None = None
        """The observed call: the one that builds it, or the patching call around that."""
        self.made: Call | None = None
        """What builds it if a patch alone makes it; ``None`` when no patch does."""
        self.root: Root[Any] | None = None
        self.users = 0
        self.built: XdsResource | None = None
        self.beside_failure = False
        """Whether what builds it failed before it had built anything."""
        self.waits = -1
        """Endpoints are not urgent until ``Outbox.takes`` exceeds this: they or their use are new."""
        self.parts: tuple[Any, ...] = ()
        """The parts of ``built``, if it is a joined resource."""
        self.patches: tuple[Form, ...] = ()
        """The patches that changed ``built``."""

    @property
    def target(self) -> Patched | None:
        """The resource as patches name it, if there are any."""
        return self.call[1][0] if self.call is not None and self.call[0] is patches.patched else None


class _Inventory:
    """One inventory of a fleet.

    Args:
        parts: splits its value into parts. ``None`` is what failed of a part; the resources that
            it named stay.
    """

    __slots__ = ("named", "parts", "taken")

    def __init__(self, parts: Callable[[Any], Iterator[_Part]]) -> None:
        self.parts = parts
        self.named: _Parts = {}
        """The resources that it names, by part."""
        self.taken: object = None
        """The value from which ``named`` was last computed."""


class FleetInventory:
    """The inventories and resources of one fleet."""

    def __init__(
        self, observers: Observers, outbox: Outbox, fleet: FleetId, changed_by: Patches | None = None
    ) -> None:
        self.resources: dict[tuple[str, str], Entry] = {}
        self._patches = changed_by
        self._patched: frozenset[tuple[str, str]] = frozenset()
        self._observers = observers
        self._outbox = outbox
        self._fleet = fleet
        self._name = names.fleet(fleet)
        self._inventories: dict[Root[Any], _Inventory] = {}
        self._passed_over: dict[Root[Any], None] = {}
        self._others = [self._root(keeps_what_it_has, (fleet,), self._accepted)]
        self._of_patches: list[Root[Any]] = []
        """The inventory of what patches make, as long as there are patches."""
        self._of_sinks: list[Root[Any]] = []
        """The inventories of sinks, as long as there are sinks."""
        if changed_by is not None:
            self._others.append(self._root(changed_by.names, (fleet,), self._name_patched))
        self._inventory(listeners.listener_names, (fleet,), self._listeners)
        self._inventory(route_configurations, (fleet,), self._route_configurations)
        self._inventory(draining_tables, (fleet,), self._route_configurations)
        self._inventory(secrets.secret_refs, (fleet,), self._secrets)
        self._inventory(secrets.listener_needs, (fleet,), self._keys)
        self._others.append(self._root(sinks.sinks, (fleet,), self._observe_sinks))
        self._inventory(connection_chains.empty_clusters, (fleet,), self._empty_clusters)
        self._shards: dict[int, Root[Any]] = {}
        """The inventory of clusters of each shard that has routes."""
        self._scopes: dict[tuple[str, ListenerId, int], Root[Any]] = {}
        """The inventory of the parts of scoped tables of each shard that has hostnames."""
        self._waits = -1
        """The same limit as ``_Entry.waits``, for all endpoints of the fleet."""
        self._others.append(self._root(needed_resources.route_shards_of, (fleet,), self._shard))
        self._others.append(self._root(routes.scope_shards, (fleet,), self._shard_scopes))
        self._inventory(local.local_targets, (fleet,), self._local)

    def close(self) -> None:
        """End the fleet: stop observing its resources, and hand out none of them any more."""
        for root in (*self._others, *self._inventories):
            self._observers.release(root)
        for entry in self.resources.values():
            self._withdraw(entry)
        self.resources.clear()
        # An inventory refers to this object. As a circle of garbage it would stay in memory for long, or for
        # ever if it is excluded from garbage collection, as what a long turn made is.
        for roots in (self._inventories, self._passed_over, self._shards, self._scopes):
            roots.clear()
        for observed in (self._others, self._of_patches, self._of_sinks):
            observed.clear()

    @property
    def in_doubt(self) -> bool:
        """Whether a resource or an inventory of the fleet may differ from its last settled value."""
        return self._observers.db.has_news_for(self._fleet)

    def hold_back(self) -> None:
        """Let all endpoints wait for the next ordinary ``take``."""
        self._waits = self._outbox.takes

    def hold_back_those_of(self, routes: Iterable[Ref]) -> None:
        """Let the endpoints that these routes have used wait for the next ordinary ``take``."""
        for route in routes:
            root = self._shards.get(shard(str(route)))
            for key in self._inventories[root].named.get(route, ()) if root is not None else ():
                self.resources[key].waits = self._outbox.takes

    def _accepted(self, root: Root[Any]) -> None:
        """Handle the inventories that were ignored while all Gateways of the fleet were rejected."""
        if root.value is False:
            for each in self._passed_over:
                self._observers.db.requeue(each)
            self._passed_over.clear()

    def _passes_over(self, root: Root[Any]) -> bool:
        """Whether all Gateways of the fleet are rejected: its Envoys then keep what they have."""
        # If this query fails, the answer is unknown, so the Envoys keep their configuration too.
        if keeps_what_it_has.attempt(self._observers.db, self._fleet) is False:
            return False
        self._passed_over[root] = None
        return True

    def _listeners(self, value: tuple[str, ...]) -> Iterator[_Part]:
        yield "", [(LISTENER, name, listeners.listener, (self._fleet, name)) for name in value]

    def _route_configurations(self, value: tuple[RouteTable, ...]) -> Iterator[_Part]:
        yield "", [self._route_configuration(table) for table in value]

    def _route_configuration(self, table: RouteTable) -> Named:
        args = self._fleet, table.name
        if table.scoped:
            return SCOPE, names.scope(table.name, names.OTHERS), routes.scope_of_others, args
        return ROUTE, table.name, routes.route_configuration, args

    def _scopes_of(self, table: str, value: tuple[str, ...]) -> Iterator[_Part]:
        yield "", [(SCOPE, names.scope(table, h), routes.scope, (self._fleet, table, h)) for h in value]

    def _empty_clusters(self, value: tuple[str, ...]) -> Iterator[_Part]:
        yield "", [(CLUSTER, name, clusters.empty_cluster, (self._fleet,)) for name in value]

    def _secrets(self, value: tuple[Ref, ...]) -> Iterator[_Part]:
        yield "", [(SECRET, names.secret(ref), secrets.secret, (self._fleet, ref)) for ref in value]

    def _keys(self, value: tuple[ResourceKey, ...]) -> Iterator[_Part]:
        yield "", [named for key in value for named in _built_from(key)]

    def _metric_sinks(self, value: tuple[SinkCluster, ...]) -> Iterator[_Part]:
        yield "", [(ENDPOINT, key.name, clusters.load_assignment, (key,)) for key in value]

    def _local(self, value: tuple[Target, ...]) -> Iterator[_Part]:
        if value:
            cluster = CLUSTER, self._name, local.local_cluster, (self._fleet,)
            yield "", [cluster, (ENDPOINT, self._name, local.local_assignment, (self._fleet,))]

    def _created(self, value: tuple[tuple[str, str], ...]) -> Iterator[_Part]:
        yield "", [(*key, patches.nothing, (self._fleet, *key)) for key in value]

    def _clusters(self, value: tuple[Needs, ...]) -> Iterator[_Part]:
        for route, keys, all_known in value:
            yield route, [named for key in keys for named in _built_from(key)]
            if not all_known:
                yield route, None

    def _shard(self, root: Root[tuple[int, ...]]) -> None:
        """Keep one inventory of clusters for each shard that has routes."""
        shards = root.value
        if shards is None or isinstance(shards, Failed) or self._passes_over(root):
            return
        for part in shards:
            if part not in self._shards:
                keys, args = needed_resources.resource_keys, (self._fleet, part)
                self._shards[part] = self._inventory(keys, args, self._clusters)
        for part in [part for part in self._shards if part not in shards]:
            self._end_inventory(self._shards.pop(part))

    def _shard_scopes(self, root: Root[tuple[tuple[str, ListenerId, int], ...]]) -> None:
        """Keep one inventory of parts of scoped tables for each shard that has hostnames."""
        shards = root.value
        if shards is None or isinstance(shards, Failed) or self._passes_over(root):
            return
        for at in shards:
            if at not in self._scopes:
                named = partial(self._scopes_of, at[0])
                self._scopes[at] = self._inventory(routes.scopes_in, (self._fleet, *at), named)
        for at in self._scopes.keys() - set(shards):
            self._end_inventory(self._scopes.pop(at))

    def _observe_sinks(self, root: Root[tuple[Sink, ...]]) -> None:
        """Keep the inventories of sinks as long as there are sinks: most fleets have none."""
        if root.value is None or isinstance(root.value, Failed) or self._passes_over(root):
            return
        if root.value and not self._of_sinks:
            self._of_sinks = [
                self._inventory(sinks.sink_keys, (self._fleet,), self._keys),
                self._inventory(sinks.sink_secrets, (self._fleet,), self._keys),
                self._inventory(sinks.metric_keys, (self._fleet,), self._metric_sinks),
            ]
        while self._of_sinks and not root.value:
            self._end_inventory(self._of_sinks.pop())

    def _end_inventory(self, inventory: Root[Any]) -> None:
        self._observers.release(inventory)
        self._passed_over.pop(inventory, None)
        for key, call in _without(self._inventories.pop(inventory).named, {}):
            self._leave(key, call)

    def _inventory(
        self, query: Query[..., Any], args: tuple[Any, ...], parts: Callable[[Any], Iterator[_Part]]
    ) -> Root[Any]:
        """Add the resources that an inventory names now, and remove those that it names no more."""
        root = self._root(query, args, self._take_inventory)
        self._inventories[root] = _Inventory(parts)
        return root

    def _root(
        self, query: Query[..., Any], args: tuple[Any, ...], handle: Callable[[Root[Any]], None]
    ) -> Root[Any]:
        """Observe what says which resources the fleet has."""
        return self._observers.observe(query, args, INVENTORY, handle, owner=self._fleet)

    def _take_inventory(self, root: Root[Any]) -> None:
        inventory, value = self._inventories[root], root.value
        # A changed endpoint puts this inventory in doubt, but its value stays the same.
        if value is inventory.taken or value is None or isinstance(value, Failed) or self._passes_over(root):
            return
        before = inventory.named
        after: dict[Hashable, Mapping[tuple[str, str], Call]] = {}
        for part, named in inventory.parts(value):
            calls = before.get(part, {}) if named is None else {(t, n): (q, a) for t, n, q, a in named}
            after[part] = {**after[part], **calls} if part in after else calls
        inventory.taken, inventory.named = value, after
        for key, call in _without(after, before):
            self._use(key, call)
        for key, call in _without(before, after):
            self._leave(key, call)

    def _use(self, key: tuple[str, str], call: Call) -> None:
        entry = self.resources.get(key)
        if entry is None:
            entry = self.resources[key] = Entry(key)
        entry.users += 1
        if call[0] is patches.nothing:
            entry.made = call
        if call[0] is not patches.nothing or entry.built_by is None:
            entry.built_by = call
        self._observe(entry)

    def _observe(self, entry: Entry) -> None:
        """Observe the call that builds a resource: its own query, or the patching query around it."""
        key, call = entry.key, entry.built_by
        assert call is not None, "a resource that is used is built by some query"
        if entry.beside_failure:
            call = clusters.beside_failure(call)
        if self._patches is not None and key in self._patched:
            target = Patched(self._patches, self._fleet, *key, key[0] in JOINED_FROM, call)
            call = patches.patched, (target,)
        if entry.call == call:
            return
        self._say_patched(entry, call)
        # Another call may take over a name, for example that of a mirror's cluster when the mirror moves.
        if entry.root is not None:
            self._observers.release(entry.root)
        entry.call = call
        built = partial(self._built, entry)
        entry.root = self._observers.observe(
            *call, RESOURCE, built, eager=key[0] == ENDPOINT, owner=self._fleet
        )

    def _say_patched(self, entry: Entry, call: Call | None) -> None:
        """Write which call is patched; ``None`` for a resource that leaves."""
        target: Patched | None = call[1][0] if call is not None and call[0] is patches.patched else None
        if target is not None or entry.target is not None:
            self._observers.db.put(patches.patching(self._fleet, *entry.key), target)

    def _name_patched(self, root: Root[tuple[tuple[str, str], ...]]) -> None:
        if root.value is None or isinstance(root.value, Failed):
            return
        before, self._patched = self._patched, frozenset(root.value)
        for key in sorted(before ^ self._patched):
            if (entry := self.resources.get(key)) is not None:
                self._observe(entry)
        if self._patches is None or self._passes_over(root):
            return
        if self._patched and not self._of_patches:
            self._of_patches = [self._inventory(self._patches.created, (self._fleet,), self._created)]
        while self._of_patches and not self._patched:
            self._end_inventory(self._of_patches.pop())

    def _leave(self, key: tuple[str, str], call: Call) -> None:
        entry = self.resources[key]
        entry.users -= 1
        if call[0] is patches.nothing:
            entry.made = None
        elif entry.users == 1 and entry.made is not None:
            entry.built_by = entry.made
            self._observe(entry)
        # A route that stops using it must be handed out before the resource goes.
        entry.waits = self._outbox.takes
        if entry.users == 0:
            self._withdraw(entry)
            del self.resources[key]

    def _withdraw(self, entry: Entry) -> None:
        """Build a resource no more, and let no Envoy have it any more."""
        self._say_patched(entry, None)
        if entry.root is not None:
            self._observers.release(entry.root)
        if entry.built is not None:
            self._outbox.drop(self._name, (entry.key[0], entry.built.name))

    def _built(self, entry: Entry, root: Root[Any]) -> None:
        type_url, _ = entry.key
        value: XdsResource | Failed | None = root.value
        if isinstance(value, Failed):
            if entry.built is None and not entry.beside_failure:
                entry.beside_failure = True
                self._observe(entry)
            return
        # Another patch may have the same effect.
        entry.patches = self._patches_of(entry)
        if value == entry.built:
            return
        before = entry.built
        if (value is None or _is_reshaped(before, value)) and self._passes_over(root):
            return
        entry.built = value
        if before is None or value is None or before.name != value.name:
            # The endpoints of a cluster have another name when TLS is spoken to them in another way.
            entry.waits = self._outbox.takes
            if before is not None:
                self._outbox.drop(self._name, (type_url, before.name))
        endpoints = self.resources.get((ENDPOINT, entry.key[1])) if type_url == CLUSTER else None
        if endpoints is not None and endpoints.root is not None:
            # The cluster may look for them by another name from now on, so they are handed out with it.
            self._observers.db.defer(endpoints.root)
        if (parts_of := JOINED_FROM.get(type_url)) is not None:
            assert entry.built_by is not None, "a resource that is used is built by some query"
            builder, args = entry.built_by
            # What a patch alone makes is in one piece.
            entry.parts = () if builder is patches.nothing else parts_of(self._observers.db, *args)
        if value is not None:
            waits = max(entry.waits, self._waits) == self._outbox.takes
            self._outbox.put(self._name, value, urgent=root.urgent and not waits and _serves(value))

    def _patches_of(self, entry: Entry) -> tuple[Form, ...]:
        """The patches that a resource which was just built is changed by."""
        if entry.target is None:
            return ()
        forms = patches.in_force.attempt(self._observers.db, entry.target)
        return () if isinstance(forms, Failed) else forms


def _built_from(key: ResourceKey) -> Iterator[Named]:
    """The resources that a key stands for."""
    if isinstance(key, PolicySecret):
        yield SECRET, key.name, secrets.policy_secret, (key,)
    elif isinstance(key, AuthoritiesSecret):
        yield SECRET, key.name, secrets.authorities_secret, (key,)
    elif isinstance(key, ClientAuthoritiesSecret):
        yield SECRET, key.name, client_certificates.client_authorities_secret, (key,)
    elif isinstance(key, CertificateSecret):
        # The same call as for a listener, which may serve the same certificate.
        yield SECRET, key.name, secrets.secret, (key.fleet, key.secret)
    elif isinstance(key, SecretServerCluster):
        yield CLUSTER, key.name, clusters.secret_server, (key,)
    else:
        yield CLUSTER, key.name, clusters.cluster, (key,)
        yield ENDPOINT, key.name, clusters.load_assignment, (key,)


def _without(one: _Parts, other: _Parts) -> Iterator[tuple[tuple[str, str], Call]]:
    """The resources that one inventory names and the other does not, or builds by another call."""
    for part, named in one.items():
        others = other.get(part, {})
        if named is not others:
            yield from ((key, call) for key, call in named.items() if others.get(key) != call)


def _is_reshaped(before: XdsResource | None, after: XdsResource) -> bool:
    """Whether a resource is made by other settings of its fleet, and not of other contents alone.

    Endpoints are the contents of a cluster, and have another name if TLS is spoken to them in another way.
    """
    if before is None or after.type_url == SECRET:
        return False
    return after.type_url != ENDPOINT or after.name != before.name


def _serves(assignment: XdsResource) -> bool:
    """Whether all backends of a load assignment have endpoints.

    When a backend loses its last endpoint, routes change too, and some may stop using it.
    """
    return all(each.lb_endpoints for each in ClusterLoadAssignment.FromString(assignment.body).endpoints)
