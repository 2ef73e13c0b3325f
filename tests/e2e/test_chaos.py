"""Random histories of edits under a constant load: no request fails, and Envoy ends with what the files say.

A history is known by its seed. One is played with all other tests; ``CHAOS=100`` in the environment plays the
first hundred. How the edits meet the answers of Envoy is chance, so a seed that fails may need some tries.

What is left out fails for a reason: who is connected to an HTTPS listener does not find a hostname that moves
to another, and a route that Envoy refuses holds up what came with it (``test_recovery``).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from msgspec import Struct

from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.envoy_listeners import table_forms
from moongate.attach.fleets import fleets
from moongate.attach.gateways import BIND, LOCALHOST
from moongate.run import Laptop
from moongate.world import World
from moongate.xds.draining import draining
from moongate.xds.messages import message
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site, admitted, reference
from tests.e2e.load import Answer
from tests.e2e.test_no_request_fails import BACKENDS, SWITCH_S, constant_load
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SEEDS = range(int(os.environ.get("CHAOS", "1")))
BATCHES = 120
PLACES = tuple(f"b{n}" for n in range(BACKENDS))
SERVICES = ("s0", "s1", "s2")

MATCHES = (
    "{path: {value: /flip}}",
    "{path: {type: Exact, value: /flip}}",
    "{path: {value: /flip}, method: GET}",
    "{path: {value: /elsewhere}}, {path: {type: Exact, value: /flip}}",
)
FILTERS = (
    "{type: URLRewrite, urlRewrite: {hostname: rewritten.test}}",
    "{type: RequestMirror, requestMirror: {backendRef: {name: s2, port: 80}}}",
    m.tell_client("x-some", "value"),
    m.tell_backend("x-some", "value"),
)
HOSTNAMES = (("chaos.test",), ("chaos.test", "other.test"), ("*.other.test", "chaos.test"))
POLICIES = {
    "BackendTrafficPolicy": (
        "loadBalancer: {type: Random}",
        "loadBalancer: {type: ConsistentHash, consistentHash: {type: SourceIP}}",
        "{mergeType: StrategicMerge, circuitBreaker: {maxConnections: 900}}",
        "timeout: {http: {requestTimeout: 9s}}",
        "retry: {numRetries: 2}",
        "faultInjection: {abort: {httpStatus: 503, percentage: 0}}",
    ),
    "SecurityPolicy": ("cors: {allowOrigins: ['https://a.good.test']}", "cors: {allowOrigins: ['*']}"),
    "ClientTrafficPolicy": (
        "connection: {bufferLimit: 64Ki}",
        "path: {disableMergeSlashes: true}",
        "timeout: {http: {streamIdleTimeout: 50s}}",
    ),
}
MERGING: tuple[m.Document, ...] = (
    {"mergeBackends": {}},
    {"mergeBackends": {"selector": {"matchLabels": {"app": "x"}}}},
)


class State(NamedTuple):
    """What is in force from ``put`` on, and is all that is, once ``acknowledged``.

    Args:
        backends: where the steady route sends its requests.
        places: who is behind a backend.
        put: when moongate was to put it in force.
        acknowledged: when Envoy had it, or a later one.
    """

    backends: frozenset[str]
    places: dict[str, tuple[str, ...]]
    put: float
    acknowledged: float = float("inf")


class Edit(Struct):
    """Documents to put, and some to delete."""

    put: list[m.Document]
    gone: list[m.Document] = []


class History:
    """Edits of everything about one route whose requests are to be answered all the time."""

    def __init__(self, site: Site, seed: int, ports: list[int]) -> None:
        self.random = Random(seed)
        self._site, self._ports = site, ports
        self._https, self._extra = free_port(), free_port()
        self.places: dict[str, tuple[str, ...]] = {
            **{b: (b,) for b in PLACES},
            **dict.fromkeys(SERVICES, (PLACES[0],)),
        }
        self.weights = {PLACES[0]: 1}
        self._name, self._match, self._filters, self._hostnames = "chaos-a", MATCHES[0], "", HOSTNAMES[0]
        self._before, self._rule = 0, "own"
        self._held: dict[str, m.Document] = {}
        self._listeners = 0

    def first(self) -> list[m.Document]:
        """All that there is before the first edit."""
        services = [doc for s in SERVICES for doc in (m.service(s), *self._slices(s))]
        backends = [self._backend(b, "ip") for b in PLACES]
        return [self._proxy(0), self._certificate(), *services, *backends, self._route(), self._gateway()]

    def edit(self) -> Edit:
        """The next one."""
        often: tuple[Callable[[], Edit], ...] = (self._send, self._shape, self._endpoints, self._policy)
        seldom = (self._rename, self._neighbour, self._listen, self._trust, self._merge)
        return self.random.choice((*often, *often, *seldom))()

    # -- edits ---------------------------------------------------------------

    def _send(self) -> Edit:
        """Other backends, or other weights."""
        backends = self.random.sample((*PLACES, *SERVICES), self.random.randint(1, 3))
        self.weights = {b: self.random.choice((1, 2, 5)) for b in backends}
        return Edit([self._route()])

    def _shape(self) -> Edit:
        """Another match, filters, hostnames, name or place of the rule; all take the requests of the load."""
        match self.random.randrange(5):
            case 0:
                self._match = self.random.choice(MATCHES)
            case 1:
                self._filters = ", ".join(self.random.sample(FILTERS, self.random.randrange(3)))
            case 2:
                self._hostnames = self.random.choice(HOSTNAMES)
            case 3:
                self._before = self.random.randrange(3)
            case _:
                self._rule = self.random.choice(("own", "another"))
        return Edit([self._route()])

    def _rename(self) -> Edit:
        """Another route takes its place."""
        before = self._route()
        self._name = "chaos-b" if self._name == "chaos-a" else "chaos-a"
        return Edit([self._route()], [before])

    def _endpoints(self) -> Edit:
        """Other endpoints of a Service or Backend, or names instead of addresses."""
        of = self.random.choice((*PLACES, *SERVICES))
        before = self._slices(of)
        self.places[of] = tuple(self.random.sample(PLACES, self.random.randint(1, 2)))
        if of in PLACES:
            return Edit([self._backend(of, self.random.choice(("ip", "ip", "fqdn")))])
        after = self._slices(of)
        return Edit(after, before[len(after) :])

    def _policy(self) -> Edit:
        """A policy comes, changes, moves or goes."""
        kind = self.random.choice(list(POLICIES))
        name = f"{kind.lower()}-{self.random.randrange(2)}"
        targets = ["Gateway/gateway", "Gateway/gateway/http", "Gateway/gateway/https"]
        if kind != "ClientTrafficPolicy":
            targets += [f"HTTPRoute/{self._name}", f"HTTPRoute/{self._name}/own", "HTTPRoute/neighbour-0"]
        body, target = self.random.choice(POLICIES[kind]), self.random.choice(targets)
        if not target.startswith("HTTPRoute"):
            body = body.replace("mergeType: StrategicMerge, ", "")
        return self._come_or_go(m.policy(kind, name, body, target))

    def _neighbour(self) -> Edit:
        """A route of the same hostname, or of all, with backends that may not be there."""
        to = ("{name: s0, port: 80}", "{name: nobody, port: 80}", "{name: s1, port: 80, weight: 0}")
        refs = ", ".join(self.random.sample(to, self.random.randrange(3)))
        path = self.random.choice(("/", "/fli", "/flip/further"))
        rule = f"{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{refs}]}}"
        hostname = self.random.choice(("chaos.test", "*.test"))
        return self._come_or_go(
            m.route(f"neighbour-{self.random.randrange(2)}", f"[{rule}]", hostnames=(hostname,))
        )

    def _listen(self) -> Edit:
        """Listeners come and go beside the two that are there always."""
        self._listeners = self.random.randrange(8)
        return Edit([self._gateway()])

    def _trust(self) -> Edit:
        """Another certificate."""
        return Edit([self._certificate()])

    def _merge(self) -> Edit:
        """All backends have shared clusters, or some, or not the same."""
        if self.random.randrange(2):
            return Edit([self._proxy(self.random.randrange(len(MERGING)))])
        of = self.random.choice(PLACES)
        backend = self._backend(of, "ip")
        backend["metadata"]["labels"] = {"app": self.random.choice("xy")}
        return Edit([backend])

    def _come_or_go(self, document: m.Document) -> Edit:
        name = document["metadata"]["name"]
        if name in self._held and self.random.randrange(2):
            return Edit([], [self._held.pop(name)])
        self._held[name] = document
        return Edit([document])

    # -- documents -----------------------------------------------------------

    def _route(self) -> m.Document:
        refs = ", ".join(
            f"{{name: {b}, port: 80, weight: {w}}}"
            if b in SERVICES
            else f"{{group: gateway.envoyproxy.io, kind: Backend, name: {b}, weight: {w}}}"
            for b, w in self.weights.items()
        )
        before = [
            f"{{matches: [{{path: {{value: /before-{n}}}}}], {m.to(PLACES[n])}}}" for n in range(self._before)
        ]
        own = f"name: {self._rule}, matches: [{self._match}], filters: [{self._filters}]"
        rules = ", ".join([*before, f"{{{own}, backendRefs: [{refs}]}}"])
        return m.route(self._name, f"[{rules}]", hostnames=self._hostnames)

    def _backend(self, name: str, kind: str) -> m.Document:
        form = {
            "ip": "ip: {{address: 127.0.0.1, port: {}}}",
            "fqdn": "fqdn: {{hostname: localhost, port: {}}}",
        }
        return m.backend(name, *(form[kind].format(self._port(at)) for at in self.places[name]))

    def _slices(self, service: str) -> list[m.Document]:
        slices = [m.endpoint_slice(service, self._port(at)) for at in self.places[service]]
        for n, each in enumerate(slices):
            each["metadata"]["name"] = f"{service}-{n}"
        return slices

    def _port(self, place: str) -> int:
        return self._ports[PLACES.index(place)]

    def _certificate(self) -> m.Document:
        return self._site.authority.sign("chaos.test").secret("certificate")

    def _gateway(self) -> m.Document:
        trust = "tls: {certificateRefs: [{name: certificate}]}"
        listeners = [
            f"{{name: http, port: {self._site.port}, protocol: HTTP}}",
            f"{{name: https, port: {self._https}, protocol: HTTPS, {trust}}}",
        ]
        if self._listeners & 1:
            listeners.append(f"{{name: extra, port: {self._extra}, protocol: HTTP}}")
        if self._listeners & 2:
            listeners.append(f"{{name: own, port: {self._site.port}, protocol: HTTP, hostname: chaos.test}}")
        if self._listeners & 4:
            listeners.reverse()
        proxy = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "proxy"}
        return m.gateway("gateway", f"[{', '.join(listeners)}]", infrastructure={"parametersRef": proxy})

    def _proxy(self, n: int) -> m.Document:
        metadata = {"name": "proxy", "namespace": "default"}
        return {"apiVersion": m.ENVOY, "kind": "EnvoyProxy", "metadata": metadata, "spec": MERGING[n]}


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_is_edited_no_request_fails_and_envoy_has_it_in_the_end(
    site: Site, tmp_path: Path, seed: int
) -> None:
    before = set(site.laptop.world.store.resources())
    try:
        await play(site, tmp_path, seed)
    finally:
        site.laptop.put({ref: None for ref in site.laptop.world.store.resources() if ref not in before})
        await site.laptop.served()


async def play(site: Site, tmp_path: Path, seed: int) -> None:
    async with constant_load(tmp_path, site.port, "chaos.test") as load:
        history = History(site, seed, load.ports)
        await site.apply(*history.first())
        states = [State(frozenset(history.weights), dict(history.places), monotonic(), monotonic())]
        load.begin()
        for _ in range(BATCHES):
            batch: dict[Any, Any] = {}
            for _ in range(history.random.choice((1, 1, 1, 2, 4))):
                edit = history.edit()
                batch |= admitted(*edit.put) | dict.fromkeys(map(reference, edit.gone))
            states.append(State(frozenset(history.weights), dict(history.places), monotonic()))
            site.laptop.put(batch)
            if history.random.randrange(2):
                await site.laptop.served()
                states = acknowledged(states)
            else:
                await asyncio.sleep(history.random.choice((0, 0.001, 0.01, 0.1)))
        await site.laptop.served()
        states = acknowledged(states)
        await load.end()

    assert load.failures() == {}
    assert strangers(load.answers, states) == []
    assert site.laptop.world.failures() == {}
    cold = World(EnvoyGateway.shipped().on_host())
    cold.write(BIND, LOCALHOST)
    cold.apply(site.laptop.world.store.resources())
    cold.pull()
    for fleet in fleets(cold.db):
        cold.write(table_forms(fleet), site.laptop.world.db.read(table_forms(fleet)))
    cold.pull()
    wanted = wants(cold)
    for fleet in fleets(cold.db):
        cold.write(draining(fleet), site.laptop.world.db.read(draining(fleet)))
    cold.pull()
    assert site.laptop.world.everything() == cold.everything()
    async with asyncio.timeout(DEADLINE_S):
        while await has(site.laptop, wanted) != wanted:  # noqa: ASYNC110 - of Envoy's own state no event tells
            await asyncio.sleep(0.2)


def acknowledged(states: list[State]) -> list[State]:
    """All that was put so far is in force now."""
    now = monotonic()
    return [s if s.acknowledged <= now else s._replace(acknowledged=now) for s in states]


def strangers(answers: list[Answer], states: list[State]) -> list[Answer]:
    """Answers of somebody who was behind no backend of the route, while the request was under way.

    Endpoints do not wait for routes, so for a moment the routes of one state may meet those of the next.
    """
    wrong: list[Answer] = []
    for answer in answers:
        met = [
            state
            for state, next_ in zip(states, [*states[1:], None], strict=True)
            if state.put <= answer.received
            and (next_ is None or answer.sent <= next_.acknowledged + SWITCH_S)
        ]
        named = {b for state in met for b in state.backends}
        if not any(answer.backend in state.places[b] for state in met for b in named):
            wrong.append(answer)
    return wrong


Held = dict[str, dict[str, Any]]
"""By type and name: the version; of listeners nothing, as Envoy tells that of an older one where it can take
over chains; of parts of scoped tables nothing either, as Envoy tells none; of endpoints their addresses."""


def wants(world: World) -> Held:
    """What Envoy should have."""
    [types] = world.xds().values()
    held: Held = {t: {n: r.version for n, r in types.get(t, {}).items()} for t in (CLUSTER, ROUTE, SECRET)}
    held[SCOPE] = dict.fromkeys(types.get(SCOPE, {}))
    held[LISTENER] = dict.fromkeys(types[LISTENER])
    held[ENDPOINT] = {}
    for name, resource in types[ENDPOINT].items():
        assignment: Any = message(resource)
        addresses = (
            e.endpoint.address.socket_address for lo in assignment.endpoints for e in lo.lb_endpoints
        )
        held[ENDPOINT][name] = {(a.address, a.port_value) for a in addresses}
    return held


async def has(laptop: Laptop, wanted: Held) -> Held:
    """What Envoy has.

    Route configurations, secrets and endpoints that are not wanted are passed over: a listener that drains
    may hold them, and clusters that resolve names have endpoints, too.
    """
    [gateway] = laptop.report()["gateways"]
    [bootstrap] = (w for w in psutil.Process(gateway["envoy"]["pid"]).cmdline() if w.endswith(".json"))
    transport = httpx.AsyncHTTPTransport(uds=str(Path(bootstrap).with_suffix(".sock")))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=DEADLINE_S) as admin:
        dump = json.loads((await admin.get("/config_dump?include_eds")).content)
    of: dict[str, Mapping[str, Any]] = {c["@type"].rpartition(".")[2]: c for c in dump["configs"]}
    clusters = of["ClustersConfigDump"]
    held: Held = {
        CLUSTER: {c["cluster"]["name"]: c["version_info"] for c in clusters["dynamic_active_clusters"]},
        ROUTE: {
            r["route_config"]["name"]: r["version_info"]
            for r in of["RoutesConfigDump"].get("dynamic_route_configs", ())
        },
        SECRET: {s["name"]: s["version_info"] for s in of["SecretsConfigDump"]["dynamic_active_secrets"]},
        LISTENER: {
            li["name"]: None for li in of["ListenersConfigDump"]["dynamic_listeners"] if "active_state" in li
        },
        SCOPE: {
            scope["name"]: None
            for table in of.get("ScopedRoutesConfigDump", {}).get("dynamic_scoped_route_configs", ())
            for scope in table.get("scoped_route_configs", ())
        },
        ENDPOINT: {},
    }
    for each in of["EndpointsConfigDump"]["dynamic_endpoint_configs"]:
        assignment = each["endpoint_config"]
        held[ENDPOINT][assignment["cluster_name"]] = {
            (address["address"], address["port_value"])
            for locality in assignment.get("endpoints", ())
            for e in locality.get("lb_endpoints", ())
            for address in [e["endpoint"]["address"]["socket_address"]]
        }
    for kind in (ROUTE, SCOPE, SECRET, ENDPOINT):
        held[kind] = {name: of_it for name, of_it in held[kind].items() if name in wanted[kind]}
    return held
