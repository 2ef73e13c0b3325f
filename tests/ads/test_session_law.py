"""Whatever is published, answered and refused, in whatever order: no route is without its cluster."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.ads.session import Session
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, XdsResource, encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLUSTERS: tuple[str, ...] = ("a", "b", "c", "d")
ROUTES = ("r", "s", "t")
REFUSED = 6
"""The client refuses clusters and routes of this content."""


@dataclass(frozen=True)
class World:
    """Clusters and endpoints with their content, and the cluster and content of each route.

    The one listener that asks for routes never changes.
    """

    clusters: Mapping[str, int]
    endpoints: Mapping[str, int]
    routes: Mapping[str, tuple[str, int]]

    def resources(self) -> dict[tuple[str, str], XdsResource]:
        made = [LISTENING, *(_cluster(name, what) for name, what in self.clusters.items())]
        made += [XdsResource.of(ENDPOINT, name, b"%d" % what) for name, what in self.endpoints.items()]
        made += [
            XdsResource.of(ROUTE, name, f"{of} {what}".encode()) for name, (of, what) in self.routes.items()
        ]
        return {(resource.type_url, resource.name): resource for resource in made}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Worlds whose routes refer to clusters that exist, and whose clusters mostly have endpoints."""
    content = st.integers(1, REFUSED)
    clusters = draw(st.dictionaries(st.sampled_from(CLUSTERS), content, min_size=1))
    names = sorted(clusters)
    endpoints = {name: draw(content) for name in names if draw(st.integers(0, 3))}
    routes = {name: (draw(st.sampled_from(names)), draw(content)) for name in ROUTES}
    return World(clusters, endpoints, routes)


@dataclass(frozen=True)
class Edit:
    """One cluster, or one cluster's endpoints, changes or goes alone. A cluster that a route uses stays."""

    type_url: str
    name: str
    what: int
    """The content; 0 for none."""

    def of(self, world: World) -> World:
        if self.type_url == ENDPOINT:
            return replace(world, endpoints=self._edited(world.endpoints))
        if not self.what and self.name in {cluster for cluster, _ in world.routes.values()}:
            return world
        return replace(world, clusters=self._edited(world.clusters))

    def _edited(self, those: Mapping[str, int]) -> dict[str, int]:
        edited = {**those, self.name: self.what}
        return {name: what for name, what in edited.items() if what}


def steps(*others: str) -> st.SearchStrategy[list[World | Edit | str]]:
    content = st.sampled_from((0, 0, 1, 2, REFUSED))
    edits = st.builds(Edit, st.sampled_from((CLUSTER, ENDPOINT)), st.sampled_from(CLUSTERS), content)
    # Answers come more often than changes, or hardly any change would ever be through.
    words = st.sampled_from(("read",) * 4 + ("read all",) * 2 + ("wait", "wait long", *others))
    one = st.one_of(worlds(), edits, words, words).map(lambda step: [step])
    several = st.lists(one | st.sampled_from(CLUSTERS).map(_leaves), min_size=10, max_size=50)
    return several.map(lambda parts: [step for part in parts for step in part])


def _leaves(name: str) -> list[World | Edit | str]:
    """A cluster goes after its endpoints, while another is on its way."""
    return [Edit(ENDPOINT, name, 0), "wait", Edit(CLUSTER, name, 0), Edit(CLUSTER, "new", 1), "wait long"]


@dataclass
class Client:
    """Behaves as Envoy does: its ACK of a cluster waits until the endpoints came after it."""

    session: Session
    now: float = 0.0
    inbox: deque[DeltaDiscoveryResponse] = field(default_factory=deque[DeltaDiscoveryResponse])
    clusters: dict[str, bytes] = field(default_factory=dict[str, bytes])
    warming: set[str] = field(default_factory=set[str])
    in_force: set[str] = field(default_factory=set[str])
    """Clusters that have been warm: while a changed one warms, the former serves."""
    refused: set[str] = field(default_factory=set[str])
    """Clusters that were refused at least once: routes do not wait for these."""
    subscribed: set[str] = field(default_factory=set[str])
    endpoints: dict[str, bytes] = field(default_factory=dict[str, bytes])
    listeners: dict[str, bytes] = field(default_factory=dict[str, bytes])
    routes: dict[str, bytes] = field(default_factory=dict[str, bytes])
    withheld: list[DeltaDiscoveryRequest] = field(default_factory=list[DeltaDiscoveryRequest])
    slow: bool = False
    """Its clusters do not become warm just now, whatever they are told."""
    hurried: bool = False
    """The session soon stops waiting for them: routes may come before they are warm."""

    def start(self) -> None:
        """Open a stream, and say what is here already."""
        self._ask(CLUSTER, (), self.clusters)
        if self.subscribed:
            held = {name: self.endpoints[name] for name in self.subscribed if name in self.endpoints}
            self._ask(ENDPOINT, self.subscribed, held)
        self._ask(LISTENER, (), self.listeners)
        self._ask(ROUTE, ROUTES, self.routes)

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
                self.listeners.update(news)
                self.say(answer)
            case _:
                if any(value.endswith(b"%d" % REFUSED) for value in news.values()):
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
            used = [route for route, value in self.routes.items() if value.split()[0] == name.encode()]
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

    def _read_routes(self, news: dict[str, bytes]) -> None:
        for name, value in news.items():
            cluster = value.split()[0].decode()
            known = self.in_force | self.refused | (set(self.clusters) if self.hurried else set[str]())
            assert cluster in known, f"{name} uses {cluster}, which is not there"
        self.routes.update(news)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps("reconnect"))
def test_no_route_is_ever_without_its_warm_cluster_and_in_the_end_all_is_there(
    history: list[World | Edit | str],
) -> None:
    converse(history)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps("warm slowly", "warm at once"))
def test_in_the_end_all_is_there_also_where_clusters_warmed_for_too_long(
    history: list[World | Edit | str],
) -> None:
    """What is not waited for any more may be refused later than what came after it."""
    converse(history, hurried=True)


def converse(history: list[World | Edit | str], *, hurried: bool = False) -> None:
    snapshot = Snapshot()
    patience = 5 if hurried else inf

    def session() -> Session:
        return Session("eg", "one", snapshot, linger_seconds=5, patience_seconds=patience)

    client = Client(session(), hurried=hurried)
    client.start()
    world = World({}, {}, {})

    for step in history:
        match step:
            case World() | Edit():
                before = world.resources()
                world = step if isinstance(step, World) else step.of(world)
                after = world.resources()
                client.session.touch(snapshot.apply(after.values(), before.keys() - after.keys()))
            case "read all":
                while client.inbox:
                    client.read()
            case "wait":
                client.now += 1
            case "wait long":
                client.now += 6
            case "reconnect":
                client.reconnect(session())
            case "warm slowly" | "warm at once":
                client.warm(slowly=step == "warm slowly")
            case _ if client.inbox:
                client.read()
            case _:
                pass
        client.listen()
    client.warm(slowly=False)
    for _ in range(4):
        while client.inbox:
            client.read()
        client.now += 6
        client.listen()

    if not snapshot.seq:
        return
    refused = {(no.type_url, no.name) for no in client.session.rejections()}
    for (type_url, name), resource in world.resources().items():
        held = client.holds(type_url)
        if (type_url, name) in refused or (type_url == ENDPOINT and name not in client.subscribed):
            continue
        assert held.get(name) == resource.body
    assert client.session.settled(snapshot.seq)
    if not refused:
        assert client.clusters.keys() == world.clusters.keys()


def _cluster(name: str, what: int) -> XdsResource:
    made = Cluster(name=name, alt_stat_name=str(what), type=Cluster.EDS)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    return XdsResource.of(CLUSTER, name, encode(made))


def _listener() -> XdsResource:
    manager = HttpConnectionManager()
    manager.rds.config_source.ads.SetInParent()
    made = Listener(name="l")
    made.filter_chains.add().filters.add().typed_config.CopyFrom(packed(manager))
    return XdsResource.of(LISTENER, made.name, encode(made))


LISTENING = _listener()


def _refused(body: bytes) -> bool:
    return Cluster.FromString(body).alt_stat_name == str(REFUSED)
