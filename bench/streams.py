"""What many Envoys of one fleet cost: what is kept of their streams, and a change that goes to all of them.

``python -m bench.streams`` builds the xDS of many routes, lets clients connect that ask and acknowledge as
Envoy does, and prints what that took of this process. The sessions are those of the ADS server; there is no
network between them and the clients, so the figures are moongate's own, without gRPC. The xDS is built in
another process, whose memory would hide what the streams take.
"""

from __future__ import annotations

import argparse
import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from time import process_time

import psutil
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from msgspec import Struct

from bench.figures import plain_table, verdict
from moongate.ads.session import Session
from moongate.ads.snapshot import Snapshot
from moongate.world import World
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, XdsResource
from tests import worlds

TARGET_AT = (5000, 640)
"""The numbers of routes and streams that the targets are for."""
TARGET_MB = 150


class Figures(Struct, frozen=True, kw_only=True):
    """Bytes, and seconds of CPU.

    Args:
        routes, streams: how many there are.
        published: memory of the process when the resources are there, and no stream.
        connected: memory when all streams have acknowledged everything.
        entries: names and versions that are kept then of all streams, each of one stream alone.
        connect_cpu: of one stream that starts with nothing, with what its client takes.
        change_cpu: of a changed route table, for all streams together, without their clients.
        change_responses: how many responses were encoded for it.
        change_bytes: of one response.
        changed: memory after the changes.
        reconnect_cpu: of one stream whose client says what it has, with what that takes.
        reconnected: memory when all streams were opened a second time.
    """

    routes: int
    streams: int
    published: int
    connected: int
    entries: int
    connect_cpu: float
    change_cpu: float
    change_responses: int
    change_bytes: int
    changed: int
    reconnect_cpu: float
    reconnected: int


@lru_cache(maxsize=2)
def _decoded(response: bytes) -> DeltaDiscoveryResponse:
    return DeltaDiscoveryResponse.FromString(response)


class Client:
    """Asks and acknowledges as Envoy does, and keeps nothing but names."""

    def __init__(self, snapshot: Snapshot, number: int) -> None:
        self.session = Session("eg", f"envoy-{number}", snapshot, stream=number)

    def connect(self, tables: list[str], former: Snapshot | None = None) -> None:
        """Open a stream, and take all that comes.

        Args:
            tables: the route tables that the listeners name.
            former: what the client has already, if it has anything.
        """
        asked = {CLUSTER: (), ENDPOINT: former.of(ENDPOINT) if former else (), LISTENER: (), ROUTE: tables}
        for type_url, names in asked.items():
            if type_url == ENDPOINT and former is None:
                continue  # it asks for those of the clusters that come
            request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
            for name, resource in former.of(type_url).items() if former else ():
                request.initial_resource_versions[name] = resource.version
            self.session.receive(request, 0)
            self.take()
        self.session.events.clear()

    def take(self) -> None:
        """Take and acknowledge what is sent until nothing more comes."""
        while (response := self.session.next(0)) is not None:
            self.answer(response)

    def answer(self, response: bytes) -> None:
        """Acknowledge a response. The endpoints of clusters come first."""
        message = _decoded(response)
        if message.type_url == CLUSTER and message.resources:
            names = [resource.name for resource in message.resources]
            self.session.receive(DeltaDiscoveryRequest(type_url=ENDPOINT, resource_names_subscribe=names), 0)
            self.take()
        answer = DeltaDiscoveryRequest(type_url=message.type_url, response_nonce=message.nonce)
        self.session.receive(answer, 0)


def measure(routes: int, streams: int, *, changes: int = 5) -> Figures:
    """Connect streams in this process, change the table, and connect them anew."""
    snapshot, tables = _published(routes)
    published = _memory()

    began = process_time()
    clients = [Client(snapshot, number) for number in range(streams)]
    for client in clients:
        client.connect(tables)
    connect_cpu = (process_time() - began) / streams
    assert all(client.session.settled(snapshot.seq) for client in clients)
    connected = _memory()
    entries = sum(client.session.entries() for client in clients)

    change_cpu, made, sent = 0.0, snapshot.responses.encoded, b""
    for change in range(changes):
        body = snapshot.of(ROUTE)[tables[0]].body
        began = process_time()
        # What the decoder does not know, it keeps: another table of the same length, whatever is in it.
        differences = snapshot.apply([XdsResource.of(ROUTE, tables[0], body + b"\xf8\x7f%c" % change)], [])
        responses: list[bytes | None] = []
        for client in clients:
            client.session.touch(differences)
            responses.append(client.session.next(0))
        change_cpu += process_time() - began
        assert responses[0] is not None
        sent = responses[0]
        answer = DeltaDiscoveryRequest(type_url=ROUTE, response_nonce=_decoded(sent).nonce)
        began = process_time()
        for client in clients:
            client.session.receive(answer, 0)
            client.session.events.clear()
            assert client.session.next(0) is None
        change_cpu += process_time() - began
        responses.clear()
    assert all(client.session.settled(snapshot.seq) for client in clients)
    changed = _memory()

    began = process_time()
    for number in range(streams):
        clients[number] = Client(snapshot, streams + number)
        clients[number].connect(tables, former=snapshot)
    reconnect_cpu = (process_time() - began) / streams
    assert all(client.session.settled(snapshot.seq) for client in clients)

    return Figures(
        routes=routes,
        streams=streams,
        published=published,
        connected=connected,
        entries=entries,
        connect_cpu=connect_cpu,
        change_cpu=change_cpu / changes,
        change_responses=(snapshot.responses.encoded - made) // changes,
        change_bytes=len(sent),
        changed=changed,
        reconnect_cpu=reconnect_cpu,
        reconnected=_memory(),
    )


def _published(routes: int) -> tuple[Snapshot, list[str]]:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        resources = process.submit(_built, routes).result()
    snapshot = Snapshot()
    snapshot.apply([XdsResource.of(*each) for each in resources], [])
    return snapshot, sorted(snapshot.of(ROUTE))


def _built(routes: int) -> list[tuple[str, str, bytes]]:
    """In a process of its own: type, name and body of all resources."""
    world = World.of(worlds.routes_with_services(routes))
    ((_, by_type),) = world.xds().items()
    resources = (resource for named in by_type.values() for resource in named.values())
    return [(resource.type_url, resource.name, resource.body) for resource in resources]


def _memory() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def shown(figures: Figures) -> str:
    """The figures as a table, with the targets beside them."""
    streams, memory = figures.streams, figures.connected - figures.published
    is_met = memory < TARGET_MB * 1e6
    at = (figures.routes, streams) == TARGET_AT
    rows = [
        (f"{streams:,} Envoys of a fleet with {figures.routes:,} routes", "", "target"),
        (
            "memory of all streams",
            _mb(memory),
            f"< {TARGET_MB} MB" + (f": {verdict(is_met=is_met)}" if at else ""),
        ),
        ("… of one", f"{memory / streams / 1e3:.1f} kB", ""),
        ("… names and versions kept of single streams", f"{figures.entries:,}", ""),
        ("… of all, after changes", _mb(figures.changed - figures.published), ""),
        ("… of all, connected anew", _mb(figures.reconnected - figures.published), ""),
        ("an Envoy starts, with what a client takes", _ms(figures.connect_cpu), ""),
        ("an Envoy connects anew, with what a client takes", _ms(figures.reconnect_cpu), ""),
        ("a changed route, for all Envoys", _ms(figures.change_cpu), ""),
        (
            "… responses encoded",
            f"{figures.change_responses}",
            f"1: {verdict(is_met=figures.change_responses == 1)}",
        ),
        ("… bytes of a response", f"{figures.change_bytes:,}", ""),
    ]
    return plain_table(rows)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms of CPU"


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--routes", type=int, default=TARGET_AT[0], help="[%(default)s]")
    parser.add_argument("--streams", type=int, default=TARGET_AT[1], help="[%(default)s]")
    arguments = parser.parse_args()
    print(shown(measure(arguments.routes, arguments.streams)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
