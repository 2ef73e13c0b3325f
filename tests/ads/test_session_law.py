"""Whatever is published, answered and refused, in whatever order: no route is without its cluster.

Nor is it without its listener: a route may rely on a filter that the listener has only since the same edit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from math import inf
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.ads.ledger import collection_of
from moongate.ads.parts import MOST
from moongate.ads.scopes import shared
from moongate.ads.session import Session
from moongate.ads.snapshot import PART, Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, XdsResource, encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

CLUSTERS: tuple[str, ...] = ("a", "b", "c", "d")
ROUTES = ("r", "s", "t")
SCOPED = ("x", "y")
"""Tables in scopes."""
HOSTS = ("h", "i", "_")
LISTENERS = ("k", "l")
REFUSED = "6"
"""The client refuses clusters, listeners and routes whose content ends so."""
MEND_SECONDS = 5
ONE = dict.fromkeys(MOST, 1)
TWO = dict.fromkeys(MOST, 2)
"""How much a response may have, instead of dozens."""


@dataclass(frozen=True)
class World:
    """Clusters and endpoints with their content, routes with their cluster, listeners with their table."""

    clusters: Mapping[str, int]
    endpoints: Mapping[str, int]
    routes: Mapping[str, tuple[str, int]]
    listeners: Mapping[str, tuple[str, int]]
    scopes: Mapping[tuple[str, str], tuple[str, int]] = field(
        default_factory=dict[tuple[str, str], tuple[str, int]]
    )
    """By table and hostname."""

    def resources(self) -> dict[tuple[str, str], XdsResource]:
        made = [_cluster(name, what) for name, what in self.clusters.items()]
        made += [XdsResource.of(ENDPOINT, name, b"%d" % what) for name, what in self.endpoints.items()]
        made += [
            XdsResource.of(ROUTE, name, f"{_sends_to(of)} {what}".encode())
            for name, (of, what) in self.routes.items()
        ]
        made += [_listener(name, of, what) for name, (of, what) in self.listeners.items()]
        made += [_scope(*at, of, what) for at, (of, what) in self.scopes.items()]
        return {(resource.type_url, resource.name): resource for resource in made}

    def used_clusters(self) -> set[str]:
        return {cluster for cluster, _ in (*self.routes.values(), *self.scopes.values())}


CONTENT = st.integers(1, 6) | st.integers(1, 40)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Worlds in which what is referred to exists, but for some endpoints."""
    clusters = draw(st.dictionaries(st.sampled_from(CLUSTERS), CONTENT, min_size=1))
    names = sorted(clusters)
    endpoints = {name: draw(CONTENT) for name in names if draw(st.integers(0, 3))}
    tables = [name for name in ROUTES if draw(st.integers(0, 2))] or [ROUTES[0]]
    routes = {name: (draw(st.sampled_from(names)), draw(CONTENT)) for name in tables}
    scoped = [name for name in SCOPED if draw(st.booleans())]
    scopes = {
        (table, host): (draw(st.sampled_from(names)), draw(CONTENT))
        for table in scoped
        for host in draw(st.lists(st.sampled_from(HOSTS), min_size=1, unique=True))
    }
    used = st.sampled_from((*tables, *scoped))
    listeners = {name: (draw(used), draw(CONTENT)) for name in LISTENERS if draw(st.integers(0, 4))}
    return World(clusters, endpoints, routes, listeners, scopes)


@dataclass(frozen=True)
class Edit:
    """One resource changes or goes alone. What another refers to does not go."""

    type_url: str
    name: str
    what: int
    """The content; 0 for none."""

    def of(self, world: World) -> World:
        match self.type_url:
            case t if t == ENDPOINT:
                return replace(world, endpoints=self._edited(world.endpoints, self.what))
            case t if t == CLUSTER and (self.what or self.name not in world.used_clusters()):
                return replace(world, clusters=self._edited(world.clusters, self.what))
            case t if t == ROUTE and self.name in world.routes:
                if not self.what and self.name in {table for table, _ in world.listeners.values()}:
                    return world
                what = (world.routes[self.name][0], self.what) if self.what else None
                return replace(world, routes=self._edited(world.routes, what))
            case t if t == SCOPE:
                return self._of_scope(world)
            case t if t == LISTENER and self.name in world.listeners:
                what = (world.listeners[self.name][0], self.what) if self.what else None
                return replace(world, listeners=self._edited(world.listeners, what))
            case _:
                return world

    def _of_scope(self, world: World) -> World:
        """The content of a scope, or its end, or the beginning of one in a table that is there."""
        table, _, host = self.name.partition("/")
        others = {at: each for at, each in world.scopes.items() if at != (table, host)}
        if table not in {of for of, _ in others}:
            return world
        cluster, _ = world.scopes.get((table, host), next(iter(others.values())))
        return replace(world, scopes=others | ({(table, host): (cluster, self.what)} if self.what else {}))

    def _edited(self, those: Mapping[str, T], what: T | None) -> dict[str, T]:
        rest = {name: each for name, each in those.items() if name != self.name}
        return {**rest, self.name: what} if what else rest


@dataclass(frozen=True)
class Rewrite:
    """Much that is there changes at once, but for listeners."""

    contents: tuple[int, ...]
    """They are given out in turn; 0 for what stays as it is."""
    turn: int
    """Which other cluster each route and scope sends to."""
    ends: bool
    """Whether all send to the same one, and another cluster ends, as well as a scope."""

    def of(self, world: World) -> World:
        if not world.clusters:
            return world
        contents = cycle(self.contents)
        names = sorted(world.clusters)
        moved = {
            name: names[self.turn % len(names) if self.ends else (n + self.turn) % len(names)]
            for n, name in enumerate(names)
        }
        gone = {name for name in names if name not in moved.values()} if self.ends else set[str]()
        ended = [at for at in world.scopes if self.ends and at[1] != "_"][:1]
        return replace(
            world,
            clusters={n: next(contents) or what for n, what in world.clusters.items() if n not in gone},
            endpoints={n: next(contents) or what for n, what in world.endpoints.items() if n not in gone},
            routes={n: (moved[to], next(contents) or what) for n, (to, what) in world.routes.items()},
            scopes={
                at: (moved[to], next(contents) or what)
                for at, (to, what) in world.scopes.items()
                if at not in ended
            },
        )


NAMES = [
    *((CLUSTER, name) for name in CLUSTERS),
    *((ENDPOINT, name) for name in CLUSTERS),
    *((ROUTE, name) for name in ROUTES),
    *((LISTENER, name) for name in LISTENERS),
    *((SCOPE, f"{table}/{host}") for table in SCOPED for host in HOSTS),
]


Step: TypeAlias = "World | Edit | Rewrite | str"


def steps(*others: str) -> st.SearchStrategy[list[Step]]:
    edits = st.tuples(st.sampled_from(NAMES), CONTENT | st.just(0)).map(lambda e: Edit(*e[0], e[1]))
    contents = st.lists(CONTENT | st.just(0), min_size=1, max_size=7).map(tuple)
    rewrites = st.builds(Rewrite, contents, st.integers(0, 3), st.booleans())
    # Answers come more often than changes, or hardly any change would ever be through.
    words = st.sampled_from(("read",) * 4 + ("read all",) * 2 + ("wait", "wait long", "drain", *others))
    one = st.one_of(worlds(), edits, rewrites, words, words).map(lambda step: [step])
    several = st.lists(one | st.sampled_from(CLUSTERS).map(_leaves), min_size=10, max_size=50)
    return several.map(lambda parts: [step for part in parts for step in part])


def _leaves(name: str) -> list[Step]:
    """A cluster goes after its endpoints, while another is on its way."""
    return [Edit(ENDPOINT, name, 0), "wait", Edit(CLUSTER, name, 0), Edit(CLUSTER, "new", 1), "wait long"]


@dataclass
class Client:
    """Behaves as Envoy does.

    Its ACK of a cluster waits until the endpoints came after it. It acknowledges a listener at once, but asks
    for the routes before that.
    """

    session: Session
    history: History
    now: float = 0.0
    inbox: deque[DeltaDiscoveryResponse] = field(default_factory=deque[DeltaDiscoveryResponse])
    clusters: dict[str, bytes] = field(default_factory=dict[str, bytes])
    warming: set[str] = field(default_factory=set[str])
    in_force: set[str] = field(default_factory=set[str])
    """Clusters that have been warm: while a changed one warms, the former serves."""
    refused: set[str] = field(default_factory=set[str])
    """Clusters that were refused at least once."""
    subscribed: set[str] = field(default_factory=set[str])
    endpoints: dict[str, bytes] = field(default_factory=dict[str, bytes])
    listeners: dict[str, bytes] = field(default_factory=dict[str, bytes])
    refused_listeners: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """The last version of each that was refused."""
    tables: set[str] = field(default_factory=set[str])
    """The route configurations that it has asked for."""
    routes: dict[str, bytes] = field(default_factory=dict[str, bytes])
    collections: set[str] = field(default_factory=set[str])
    """Those that it has asked for; some only for listeners that drain."""
    scopes: dict[str, bytes] = field(default_factory=dict[str, bytes])
    kept_scopes: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Also those that it did not put in force, because another one of their response was refused."""
    served: set[str] = field(default_factory=set[str])
    """Scopes that have been in force since it asked for their collection."""
    refused_at: dict[str, float] = field(default_factory=dict[str, float])
    """Collection → when scopes of it were refused first while no shared one was in force."""
    withheld: list[DeltaDiscoveryRequest] = field(default_factory=list[DeltaDiscoveryRequest])
    slow: bool = False
    """Its clusters do not become warm just now, whatever they are sent."""
    hurried: bool = False
    """The session soon stops waiting for them: routes may come before they are warm."""

    def start(self) -> None:
        """Open a stream, and say what is here already."""
        self._ask(CLUSTER, (), self.clusters)
        if self.subscribed:
            held = {name: self.endpoints[name] for name in self.subscribed if name in self.endpoints}
            self._ask(ENDPOINT, self.subscribed, held)
        self._ask(LISTENER, (), self.listeners)
        if self.tables:
            self._ask(ROUTE, self.tables, self.routes)
        if self.collections:
            # It has scopes, and does not say which.
            self._ask(SCOPE, self.collections, {})

    def reconnect(self, session: Session) -> None:
        """Lose what is on its way. Endpoints that are here already are not asked for again."""
        self.session = session
        self.inbox.clear()
        self.withheld.clear()
        self.warming -= self.endpoints.keys()
        self.start()
        self.answer_when_warm()

    def holds(self, type_url: str) -> Mapping[str, bytes]:
        by_type = {CLUSTER: self.clusters, ENDPOINT: self.endpoints, LISTENER: self.listeners}
        return by_type.get(type_url, self.routes)

    def _ask(self, type_url: str, names: Iterable[str], held: Mapping[str, bytes]) -> None:
        request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=sorted(names))
        for name, body in held.items():
            request.initial_resource_versions[name] = XdsResource.of(type_url, name, body).version
        self.say(request)

    def say(self, request: DeltaDiscoveryRequest) -> None:
        self.session.receive(request, self.now)
        self.listen()

    def listen(self) -> None:
        while (response := self.session.next(self.now)) is not None:
            self.inbox.append(DeltaDiscoveryResponse.FromString(response))
            if self.inbox[-1].type_url in (ROUTE, SCOPE) and not self.hurried:
                self._check_listeners(self.inbox[-1])
        for no in self.session.rejections():
            # Some are not sent, because their clusters are refused.
            if no.type_url == SCOPE and shared(collection_of(no.name)) not in self.scopes:
                self.refused_at.setdefault(collection_of(no.name), self.now)
        due = self.session.wake_at(self.now)
        assert due is None or due > self.now, "it has nothing to say, and asks to be woken at once"

    def read(self) -> None:
        """Act upon the oldest response."""
        response = self.inbox.popleft()
        news = {r.name: r.resource.value for r in response.resources}
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        match response.type_url:
            case t if t == CLUSTER:
                self._read_clusters(news, [*response.removed_resources], answer)
            case t if t == ENDPOINT:
                self.endpoints.update(news)
                self.warming -= {*news, *response.removed_resources}
                self.say(answer)
            case t if t == LISTENER:
                self._read_listeners(news, [*response.removed_resources], answer)
            case t if t == SCOPE:
                self._read_scopes(response, answer)
            case _:
                if any(value.endswith(REFUSED.encode()) for value in news.values()):
                    answer.error_detail.message = "one of these, who knows which"
                else:
                    self._read_routes(news)
                self.say(answer)
        self.answer_when_warm()

    def warm(self, *, slowly: bool) -> None:
        self.slow = slowly
        self.answer_when_warm()

    def answer_when_warm(self) -> None:
        if self.slow or self.warming:
            return
        self.in_force = set(self.clusters)
        answers, self.withheld = self.withheld, []
        for answer in answers:
            self.say(answer)

    def _read_clusters(self, news: dict[str, bytes], gone: list[str], answer: DeltaDiscoveryRequest) -> None:
        bad = sorted(name for name, value in news.items() if _refused(value))
        if bad:
            answer.error_detail.message = "Error adding/updating cluster(s) " + ", ".join(
                f"{name}: no" for name in bad
            )
        for name in gone:
            used = [route for route, value in self.routes.items() if _cluster_of(value) == name]
            used += [each for each, body in self.scopes.items() if _scope_content(body)[0] == name]
            assert not used, f"cluster {name} is removed while {used} use it"
            self.clusters.pop(name, None)
            self.warming.discard(name)
            self.in_force.discard(name)
        self.refused.update(bad)
        changed = {n: v for n, v in news.items() if n not in bad and self.clusters.get(n) != v}
        self.clusters.update(changed)
        self.warming.update(changed)
        new = sorted(changed.keys() - self.subscribed)
        old = sorted(self.subscribed - self.clusters.keys())
        self.subscribed = set(self.clusters)
        for name in old:
            self.endpoints.pop(name, None)
        assert self.hurried or not self.withheld, "a second response in flight"
        self.withheld.append(answer)
        if new or old:
            request = DeltaDiscoveryRequest(type_url=ENDPOINT)
            request.resource_names_subscribe.extend(new)
            request.resource_names_unsubscribe.extend(old)
            self.say(request)

    def _read_listeners(self, news: dict[str, bytes], gone: list[str], answer: DeltaDiscoveryRequest) -> None:
        bad = sorted(name for name, value in news.items() if _stat_prefix(value).endswith(REFUSED))
        if bad:
            answer.error_detail.message = "Error adding/updating listener(s) " + "".join(
                f"{name}: no\n" for name in bad
            )
        self.refused_listeners.update({name: news.pop(name) for name in bad})
        for name in gone:
            self.listeners.pop(name, None)
        self.listeners.update(news)
        scoped = {_collection(table) for table in map(_table, self.listeners.values()) if table in SCOPED}
        if new := sorted(scoped - self.collections):
            # Of those that no listener uses any more, some still drain.
            self.collections |= scoped
            self.say(DeltaDiscoveryRequest(type_url=SCOPE, resource_names_subscribe=new))
        before = self.tables
        self.tables = {_table(value) for value in self.listeners.values()} - {*SCOPED}
        new, old = sorted(self.tables - before), sorted(before - self.tables)
        for name in old:
            self.routes.pop(name, None)
        if new or old:
            request = DeltaDiscoveryRequest(type_url=ROUTE)
            request.resource_names_subscribe.extend(new)
            request.resource_names_unsubscribe.extend(old)
            self.say(request)
        self.say(answer)

    def drain(self) -> None:
        """The old versions of listeners are gone, and with them their subscriptions."""
        scoped = {_collection(_table(value)) for value in self.listeners.values()}
        old = sorted(self.collections - scoped)
        self.collections -= {*old}
        for name in [name for name in self.kept_scopes | self.scopes if collection_of(name) in old]:
            for those in (self.scopes, self.kept_scopes):
                those.pop(name, None)
        self.served = {name for name in self.served if collection_of(name) not in old}
        for collection in old:
            self.refused_at.pop(collection, None)
        if old:
            self.say(DeltaDiscoveryRequest(type_url=SCOPE, resource_names_unsubscribe=old))

    def _read_scopes(self, response: DeltaDiscoveryResponse, answer: DeltaDiscoveryRequest) -> None:
        for name in response.removed_resources:
            for those in (self.scopes, self.kept_scopes):
                those.pop(name, None)
        wanted = [each for each in response.resources if collection_of(each.name) in self.collections]
        taken: dict[str, bytes] = {}
        for each in wanted:
            cluster, what = _scope_content(each.resource.value)
            if what.endswith(REFUSED):
                answer.error_detail.message = "one of these, who knows which"
                for collection in {collection_of(every.name) for every in wanted}:
                    if shared(collection) not in self.scopes:
                        self.refused_at.setdefault(collection, self.now)
                break
            if self.kept_scopes.get(each.name) != each.resource.value:
                known = self.in_force | (self.refused | set(self.clusters) if self.hurried else set[str]())
                assert cluster in known, f"{each.name} uses {cluster}, which is not there"
                self.kept_scopes[each.name] = taken[each.name] = each.resource.value
        else:
            self.served.update(taken)
            for name in taken.keys() - self.scopes.keys():
                if name == shared(collection_of(name)):
                    self._check_shared(name, taken[name])
            self.scopes.update(taken)
        self.say(answer)

    def _check_shared(self, name: str, body: bytes) -> None:
        """Hold that no hostname is answered by a shared scope that has a scope of its own in the same edit.

        Unless that was refused, and not mended in time.
        """
        table, host = name.split("/")[-2:]
        content = _scope_content(body)
        late = self.now - self.refused_at.get(collection_of(name), inf) >= MEND_SECONDS
        all_served = any(
            {_scope_name(*at) for at in scopes if at[0] == table} <= self.served
            for scopes in self.history.scopes
            if scopes.get((table, host)) == content
        )
        assert all_served or late, f"{name} is in force, and others of its edit never were"

    def check_scopes(self, world: World) -> None:
        """Hold that requests meet what the fleet should have, and nothing else, but for what is refused."""
        refused = {no.name for no in self.session.rejections() if no.type_url == SCOPE}
        expected = {
            resource.name: _scope_content(resource.body)
            for (type_url, name), resource in world.resources().items()
            if type_url == SCOPE and collection_of(name) in self.collections and name not in refused
        }
        scopes = {n: _scope_content(body) for n, body in self.scopes.items() if n not in refused}
        assert scopes == expected

    def _check_listeners(self, response: DeltaDiscoveryResponse) -> None:
        """Hold that the listeners of the same edit are answered, where one in force uses the routes."""
        in_use = {_table(value) for value in self.listeners.values()}
        for resource in response.resources:
            table = resource.name.split("/")[-2] if response.type_url == SCOPE else resource.name
            if table not in in_use:
                continue
            body = resource.resource.value
            if response.type_url == SCOPE:
                body = _scope(table, resource.name.split("/")[-1], *_scope_content(body)).body
            edit = self.history.first[response.type_url, resource.name, body]
            for name, value in self.listeners.items():
                answered = [
                    value,
                    *([self.refused_listeners[name]] if name in self.refused_listeners else []),
                ]
                newest = max(self.history.last.get((LISTENER, name, each), -1) for each in answered)
                assert newest >= edit, f"{resource.name} of edit {edit}, while listener {name} is of {newest}"

    def _read_routes(self, news: dict[str, bytes]) -> None:
        for name, value in news.items():
            cluster = _cluster_of(value)
            known = self.in_force | (self.refused | set(self.clusters) if self.hurried else set[str]())
            assert cluster in known, f"{name} uses {cluster}, which is not there"
        self.routes.update({name: value for name, value in news.items() if name in self.tables})


@dataclass
class History:
    """The first and the last edit as of which each content was published, by type, name and body."""

    edits: int = 0
    first: dict[tuple[str, str, bytes], int] = field(default_factory=dict[tuple[str, str, bytes], int])
    last: dict[tuple[str, str, bytes], int] = field(default_factory=dict[tuple[str, str, bytes], int])
    scopes: list[dict[tuple[str, str], tuple[str, str]]] = field(
        default_factory=list[dict[tuple[str, str], tuple[str, str]]]
    )
    """Of each edit, by table and hostname."""

    def add(self, world: World) -> None:
        self.edits += 1
        self.scopes.append({at: (cluster, str(what)) for at, (cluster, what) in world.scopes.items()})
        for (type_url, name), resource in world.resources().items():
            self.first.setdefault((type_url, name, resource.body), self.edits)
            self.last[type_url, name, resource.body] = self.edits


@dataclass
class Publisher:
    """Publishes what a world has, much of it in parts: as the server does."""

    snapshot: Snapshot
    client: Client
    world: World
    pending: list[Sequence[XdsResource]] = field(default_factory=list[Sequence[XdsResource]])
    """The parts that are still to be put."""
    gone: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    overtaken: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def publish(self, step: World | Edit | Rewrite) -> None:
        before, world = self.world.resources(), step if isinstance(step, World) else step.of(self.world)
        after = world.resources()
        put = [each for key, each in after.items() if each != before.get(key)]
        urgent = all(each.type_url == ENDPOINT and (ENDPOINT, each.name) in before for each in put)
        if self.pending and not (put and urgent and after.keys() == before.keys()):
            self.finish()
        self.world = world
        self.client.history.add(world)
        if self.pending:
            self.overtaken |= {(ENDPOINT, each.name) for each in put}
            self._edit(put, ())
            return
        self.overtaken.clear()
        self.gone = before.keys() - after.keys()
        self.pending = self.snapshot.in_parts(put, self.gone)
        self.go_on()

    def go_on(self) -> None:
        """Put the next part, if there is one."""
        if self.pending:
            put = [each for each in self.pending.pop(0) if (each.type_url, each.name) not in self.overtaken]
            self._edit(put, () if self.pending else self.gone)

    def finish(self) -> None:
        while self.pending:
            self.go_on()

    def _edit(self, put: Iterable[XdsResource], gone: Iterable[tuple[str, str]]) -> None:
        self.client.session.touch(self.snapshot.apply(put, gone))
        self.client.listen()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps("reconnect"), st.sampled_from((MOST, ONE, TWO)), st.sampled_from((PART, 1, 2)))
def test_no_route_is_ever_without_its_warm_cluster_and_in_the_end_all_is_there(
    history: list[Step], most: Mapping[str, int], part: int
) -> None:
    """Nor if it takes many responses to send what is one edit, or many edits to publish what changed."""
    converse(history, most, part)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps("warm slowly", "warm at once"), st.sampled_from((MOST, ONE, TWO)), st.sampled_from((PART, 1, 2)))
def test_in_the_end_all_is_there_also_where_clusters_warmed_for_too_long(
    history: list[Step], most: Mapping[str, int], part: int
) -> None:
    """What is not waited for any more may be refused later than what came after it."""
    converse(history, most, part, hurried=True)


def converse(history: list[Step], most: Mapping[str, int], part: int, *, hurried: bool = False) -> None:
    snapshot = Snapshot(part=part)
    patience = 5 if hurried else inf

    def session() -> Session:
        return Session(
            "eg",
            "one",
            snapshot,
            linger_seconds=5,
            patience_seconds=patience,
            mend_seconds=MEND_SECONDS,
            most=most,
        )

    client = Client(session(), History(), hurried=hurried)
    snapshot.departures.connected(client.session, client.now)
    client.start()
    publisher = Publisher(snapshot, client, World({}, {}, {}, {}))

    for step in history:
        match step:
            case World() | Edit() | Rewrite():
                publisher.publish(step)
            case "read all":
                while client.inbox:
                    client.read()
            case "wait":
                client.now += 1
            case "wait long":
                client.now += 6
            case "drain":
                client.drain()
            case "reconnect":
                snapshot.departures.disconnected(client.session, client.now)
                again = session()
                snapshot.departures.connected(again, client.now)
                client.reconnect(again)
            case "warm slowly" | "warm at once":
                client.warm(slowly=step == "warm slowly")
            case _ if client.inbox:
                client.read()
            case _:
                pass
        client.listen()
        if isinstance(step, str):
            publisher.go_on()
        snapshot.departures.forget(client.now)
        if client.session.settled(snapshot.seq) and not publisher.pending:
            client.check_scopes(publisher.world)
            assert not len(snapshot.departures), "Envoy has answered for all"
    publisher.finish()
    world = publisher.world
    client.warm(slowly=False)
    for _ in range(6):
        while client.inbox:
            client.read()
        client.now += 6
        client.listen()

    if not snapshot.seq:
        return
    refused = {(no.type_url, no.name) for no in client.session.rejections()}
    for (type_url, name), resource in world.resources().items():
        held = client.holds(type_url)
        asked = {ENDPOINT: client.subscribed, ROUTE: client.tables}.get(type_url)
        if (type_url, name) in refused or (asked is not None and name not in asked) or type_url == SCOPE:
            continue
        assert held.get(name) == resource.body
    assert client.session.settled(snapshot.seq)
    client.check_scopes(world)
    if not refused:
        assert client.clusters.keys() == world.clusters.keys()


def _cluster(name: str, what: int) -> XdsResource:
    made = Cluster(name=name, alt_stat_name=str(what), type=Cluster.EDS)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    return XdsResource.of(CLUSTER, name, encode(made))


def _listener(name: str, table: str, what: int) -> XdsResource:
    manager = HttpConnectionManager(stat_prefix=str(what))
    if table in SCOPED:
        manager.scoped_routes.name = table
        scoped = manager.scoped_routes.scoped_rds
        scoped.srds_resources_locator = _collection(table)
        scoped.scoped_rds_config_source.ads.SetInParent()
    else:
        manager.rds.route_config_name = table
        manager.rds.config_source.ads.SetInParent()
    made = Listener(name=name)
    made.filter_chains.add().filters.add().typed_config.CopyFrom(packed(manager))
    return XdsResource.of(LISTENER, made.name, encode(made))


def _manager(body: bytes) -> HttpConnectionManager:
    manager = HttpConnectionManager()
    Listener.FromString(body).filter_chains[0].filters[0].typed_config.Unpack(manager)
    return manager


def _table(listener: bytes) -> str:
    manager = _manager(listener)
    return manager.rds.route_config_name or manager.scoped_routes.name


def _collection(table: str) -> str:
    return f"xdstp:///envoy.config.route.v3.ScopedRouteConfiguration/{table}/*"


def _scope(table: str, host: str, cluster: str, what: int | str) -> XdsResource:
    made = ScopedRouteConfiguration(name=_scope_name(table, host))
    made.route_configuration.name = f"{cluster} {what}"
    made.route_configuration.virtual_hosts.add().routes.add().route.cluster = cluster
    return XdsResource.of(SCOPE, made.name, encode(made))


def _sends_to(cluster: str) -> str:
    """The name of a cluster as it stands in a message."""
    return f"{chr(len(cluster))}{cluster}"


def _cluster_of(table: bytes) -> str:
    return table.split()[0][1:].decode()


def _scope_name(table: str, host: str) -> str:
    return _collection(table).replace("*", host)


def _scope_content(body: bytes) -> tuple[str, str]:
    cluster, what = ScopedRouteConfiguration.FromString(body).route_configuration.name.split()
    return cluster, what


def _stat_prefix(listener: bytes) -> str:
    return _manager(listener).stat_prefix


def _refused(body: bytes) -> bool:
    return Cluster.FromString(body).alt_stat_name.endswith(REFUSED)
