"""Conversations with an Envoy, written down.

A script is what happens, and what the session answers to it, line by line:

    == C+a=1 C-b       the fleet gets cluster ``a`` with content 1, and loses ``b``
    >> C *             Envoy asks for all clusters (``+a`` for one, ``-a`` no longer, ``a=1`` it has already)
    << C a=1 -b        the session sends ``a`` and the removal of ``b``
    >> C ack           Envoy answers the last response of the type (``nack words …`` refuses it)
    .. 5               five seconds pass

C cluster, E endpoints, S secret, L listener, R route configuration, X scope: ``X+t/a=1`` is that of ``a``
in the table ``t``, and a listener ``l=1/~t`` uses this table. A route configuration ``r=1/b``, a scope or a
listener of connections ``l=1/:b`` sends to cluster ``b``. ``play`` returns the script with the
answers that really came, so a test is one comparison.
"""

from __future__ import annotations

from textwrap import dedent

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource

from moongate.ads.events import Acknowledged, Counters, Event
from moongate.ads.secrets import respelled
from moongate.ads.session import Session
from moongate.ads.snapshot import Differences, Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET, XdsResource, encode, packed

TYPES = {"C": CLUSTER, "E": ENDPOINT, "S": SECRET, "L": LISTENER, "R": ROUTE, "X": SCOPE}
SCOPES = "xdstp:///envoy.config.route.v3.ScopedRouteConfiguration/"
LETTERS = {type_url: letter for letter, type_url in TYPES.items()}


class Conversation:
    """A session, and a client that says what the script says."""

    def __init__(self, snapshot: Snapshot | None = None, *, node: str = "envoy-1") -> None:
        self.snapshot = Snapshot() if snapshot is None else snapshot
        self.counters: dict[str, Counters] = {}
        self.session = Session(
            "eg", node, self.snapshot, self.counters, linger_seconds=5, patience_seconds=30
        )
        self.now = 0.0
        self.nonces: dict[str, str] = {}

    def play(self, script: str) -> str:
        """The script, with the answers that really came."""
        said: list[str] = []
        for line in dedent(script).strip().splitlines():
            mark, _, rest = line.partition(" ")
            if mark == "<<":
                continue
            said.append(line)
            match mark:
                case "==":
                    self.session.touch(edit(self.snapshot, rest))
                case ">>":
                    self.session.receive(self._request(*rest.split()), self.now)
                case "..":
                    self.now += float(rest)
                case _:
                    raise AssertionError(f"A line starts with {mark!r}; '==', '>>', '..' or '<<' is known.")
            while (response := self.session.next(self.now)) is not None:
                said.append(self._written(DeltaDiscoveryResponse.FromString(response)))
        return "\n".join(said)

    def says(self, script: str) -> None:
        assert self.play(script) == dedent(script).strip()

    def events(self) -> list[Event]:
        events = list(self.session.events)
        self.session.events.clear()
        return events

    def acknowledged(self) -> list[Acknowledged]:
        return [event for event in self.events() if isinstance(event, Acknowledged)]

    def refused(self) -> dict[str, str]:
        """Name → content of what is in quarantine."""
        return {no.name: content(no.version) for no in self.session.rejections()}

    def _request(self, letter: str, *words: str) -> DeltaDiscoveryRequest:
        request = DeltaDiscoveryRequest(type_url=TYPES.get(letter, letter))
        match words:
            case ["ack", *rest]:
                request.response_nonce = self.nonces[letter]
                words = tuple(rest)
            case ["nack", *rest]:
                request.response_nonce = self.nonces[letter]
                request.error_detail.message = " ".join(rest).replace("|", "\n")
                words = ()
            case _:
                pass
        for word in words:
            if "=" in word:
                name, _, held = word.removeprefix("+").partition("=")
                made = resource(letter, name, held)
                request.initial_resource_versions[made.name] = made.version
                if word[0] == "+":
                    request.resource_names_subscribe.append(made.name)
            elif word[0] == "-":
                request.resource_names_unsubscribe.append(full_name(letter, word[1:]))
            else:
                request.resource_names_subscribe.append(full_name(letter, word.lstrip("+")))
        return request

    def _written(self, response: DeltaDiscoveryResponse) -> str:
        letter = LETTERS.get(response.type_url, response.type_url)
        self.nonces[letter] = response.nonce
        written = _scope_content if letter == "X" else _content
        news = [f"{r.name}={written(r)}" for r in response.resources]
        said = [*news, *(f"-{name}" for name in response.removed_resources)]
        return " ".join(["<<", letter, *(words.replace(SCOPES, "") for words in said)])


_CONTENTS: dict[str, str] = {}


def resource(letter: str, name: str, what: str) -> XdsResource:
    match letter:
        case "C":
            cluster = Cluster(name=name, alt_stat_name=what, type=Cluster.EDS)
            cluster.eds_cluster_config.eds_config.ads.SetInParent()
            body = encode(cluster)
        case "L":
            manager = HttpConnectionManager(stat_prefix=what)
            where, _, table = what.partition("/")
            proxy = TcpProxy(stat_prefix=what, cluster=table[1:]) if table.startswith(":") else None
            if table.startswith("~"):
                scoped = manager.scoped_routes.scoped_rds
                scoped.srds_resources_locator = f"{SCOPES}{table[1:]}/*"
                scoped.scoped_rds_config_source.ads.SetInParent()
            else:
                manager.rds.route_config_name = table or "r"
                manager.rds.config_source.ads.SetInParent()
            listener = Listener(name=name)
            for port in filter(None, where.partition("@")[2].split(",")):
                listener.additional_addresses.add().address.socket_address.port_value = int(port)
            listener.filter_chains.add().filters.add().typed_config.CopyFrom(packed(proxy or manager))
            body = encode(listener)
        case "X":
            name = full_name(letter, name)
            scope = ScopedRouteConfiguration(name=name)
            scope.route_configuration.name = what
            _send_to(scope.route_configuration, what)
            body = encode(scope)
        case "R" if "/" in what:
            table = RouteConfiguration(name=name)
            table.virtual_hosts.add(name=what)
            _send_to(table, what)
            body = encode(table)
        case "S" if what.startswith("pem"):
            secret = Secret(name=name)
            secret.tls_certificate.certificate_chain.inline_bytes = what.encode()
            body = encode(secret)
        case _:
            body = f"{name} {what}".encode()
    made = XdsResource.of(TYPES[letter], name, body)
    _CONTENTS[made.version] = what
    if (other := respelled(made)) is not None:
        _CONTENTS[other.version] = f"{what}'"
    return made


def _send_to(table: RouteConfiguration, what: str) -> None:
    cluster = what.partition("/")[2]
    if cluster:
        table.virtual_hosts.add().routes.add().route.cluster = cluster


def full_name(letter: str, name: str) -> str:
    return f"{SCOPES}{name}" if letter == "X" else name


def _content(sent: Resource) -> str:
    return content(sent.version)


def _scope_content(sent: Resource) -> str:
    """With a mark where it was sent in other bytes."""
    what = ScopedRouteConfiguration.FromString(sent.resource.value).route_configuration.name
    return what if sent.version in _CONTENTS else f"{what}'"


def versions(letter: str, **contents: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, resource(letter, name, what).version) for name, what in contents.items())


def content(version: str) -> str:
    return _CONTENTS[version]


def edit(snapshot: Snapshot, words: str) -> Differences:
    put: list[XdsResource] = []
    gone: list[tuple[str, str]] = []
    for word in words.split():
        if word[1] == "+":
            name, _, what = word[2:].partition("=")
            put.append(resource(word[0], name, what))
        else:
            gone.append((TYPES[word[0]], full_name(word[0], word[2:])))
    return snapshot.apply(put, gone)


COLD_START = """
    == C+a=1 E+a=1 L+l=1 R+r=1
    >> C *
    << C a=1
    >> E +a
    << E a=1
    >> C ack
    >> E ack
    >> L *
    << L l=1
    >> R +r
    >> L ack
    << R r=1
    >> R ack
"""
