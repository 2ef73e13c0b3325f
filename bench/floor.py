"""The floor: Envoy alone, fed what moongate would feed it by a server that does nothing but send.

``python -m bench.floor PATH...`` translates manifests (and says how long that took, cold), then serves the
result to an Envoy with moongate's bootstrap. It hears of each change beforehand, so that what it sends is
ready; what then passes until the change is served is Envoy's own time.

The server sends at once all that changed, clusters first, and waits for nobody: that is no control plane to
use, but nobody can be faster.
"""

# The stubs of grpcio leave the types of its handler factories open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import sys
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import psutil
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from bench.child import answer_commands, write_line
from moongate.ads.server import OPTIONS, SERVICE
from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import bootstrap
from moongate.infra.process import EnvoyProcess
from moongate.infra.rundir import RunDirectory
from moongate.loading import loading
from moongate.report.logs import configure
from moongate.sources.files import Files
from moongate.world import World
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, encode, message_field
from tests.core import WHOLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from moongate.world import Changes
    from moongate.xds.wire import XdsResource

_ORDER = (CLUSTER, ENDPOINT, SECRET, LISTENER, ROUTE)


class BareServer:
    """Delta ADS for one Envoy, without acknowledgements, order of switching, or memory of what was sent."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, XdsResource]] = {t: {} for t in _ORDER}
        self._asked: dict[str, set[str]] = {}
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._nonces = 0

    def take(self, put: Iterable[XdsResource], gone: Iterable[tuple[str, str]]) -> list[bytes]:
        """The responses that bring a change about, encoded and in order; others wait to be asked for."""
        news: dict[str, list[XdsResource]] = {t: [] for t in _ORDER}
        lost: dict[str, list[str]] = {t: [] for t in _ORDER}
        for resource in put:
            self._resources[resource.type_url][resource.name] = resource
            if self._wants(resource.type_url, resource.name):
                news[resource.type_url].append(resource)
        for type_url, name in gone:
            if self._resources[type_url].pop(name, None) and self._wants(type_url, name):
                lost[type_url].append(name)
        return [self._response(t, news[t], lost[t]) for t in _ORDER if news[t] or lost[t]]

    def send(self, responses: Iterable[bytes]) -> None:
        for response in responses:
            self._out.put_nowait(response)

    async def stream(self, requests: AsyncIterator[DeltaDiscoveryRequest], context: Any) -> None:
        """Serve one Envoy until it leaves."""
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(context))
            async for request in requests:
                self._hear(request)
            writer.cancel()

    def _hear(self, request: DeltaDiscoveryRequest) -> None:
        if request.HasField("error_detail"):
            raise RuntimeError(f"Envoy refused {request.type_url}: {request.error_detail.message}")
        first = request.type_url not in self._asked
        asked = self._asked.setdefault(request.type_url, set())
        new = set(request.resource_names_subscribe) - {"*"}
        asked |= new
        asked -= set(request.resource_names_unsubscribe)
        resources = self._resources[request.type_url]
        if first and request.type_url in (CLUSTER, LISTENER):
            self.send([self._response(request.type_url, list(resources.values()), [])])
        elif new:
            self.send(
                [self._response(request.type_url, [resources[n] for n in sorted(new) if n in resources], [])]
            )

    def _wants(self, type_url: str, name: str) -> bool:
        asked = self._asked.get(type_url)
        return asked is not None and (type_url in (CLUSTER, LISTENER) or name in asked)

    def _response(self, type_url: str, news: list[XdsResource], gone: list[str]) -> bytes:
        self._nonces += 1
        head = DeltaDiscoveryResponse(type_url=type_url, nonce=str(self._nonces), removed_resources=gone)
        tag = DeltaDiscoveryResponse.RESOURCES_FIELD_NUMBER
        return encode(head) + b"".join(message_field(tag, resource.wire()) for resource in news)

    async def _write(self, context: Any) -> None:
        while True:
            await context.write(await self._out.get())


class _Floor:
    """What the benchmark has this process do."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._files = Files(paths)
        self._world = World(WHOLE, perf_counter)
        self.server = BareServer()
        self._ready: list[bytes] = []
        self.started = asyncio.Event()
        self.stop = asyncio.Event()
        self.envoy: EnvoyProcess | None = None

    def translate(self) -> dict[str, Any]:
        """Translate the manifests, and say what it took in seconds and bytes."""
        rss, cpu, began = _rss(), time.process_time(), perf_counter()
        with loading():
            loaded = self._files.load()
            assert not loaded.errors, loaded.errors[0]
            read = perf_counter()
            self._world.apply(loaded.batch)
            changes = self._world.pull()
            built, cpu = perf_counter(), time.process_time() - cpu
        took = {
            "read_s": read - began,
            "build_s": built - read,
            "cpu_s": cpu,
            "rss": _rss() - rss,
            "xds_bytes": sum(len(r.body) for news in changes.put.values() for r in news),
            "runs": sum(self._world.db.counts.values()),
        }
        self._take(changes)
        return took

    def prepare(self, edits: Mapping[str, str | None]) -> int:
        """Translate a change of files ahead; how many bytes it is to send."""
        self._world.apply(self._files.folder.update_many(edits))
        self._take(self._world.pull())
        return sum(map(len, self._ready))

    def go(self) -> float:
        """Send what was prepared; when that was, in seconds of ``perf_counter``, which processes share."""
        began = perf_counter()
        self.server.send(self._ready)
        self._ready = []
        return began

    def start(self) -> float:
        """Start Envoy; when that was."""
        began = perf_counter()
        self.started.set()
        return began

    def pid(self) -> int | None:
        """Envoy's process id."""
        return self.envoy.pid if self.envoy is not None else None

    def _take(self, changes: Changes) -> None:
        (news,) = changes.put.values() or ((),)
        (gone,) = changes.gone.values() or ((),)
        self._ready += self.server.take(news, gone)

    async def serve(self) -> None:
        await self.started.wait()
        with RunDirectory() as run:
            server = grpc.aio.server(options=OPTIONS)
            method = grpc.stream_stream_rpc_method_handler(
                self.server.stream, DeltaDiscoveryRequest.FromString, None
            )
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method}),)
            )
            server.add_insecure_port(f"unix:{run.socket('xds')}")
            await server.start()
            files = run.envoy("floor")
            start = bootstrap(
                "default/bench", "floor", xds_socket=run.socket("xds"), admin_socket=files.admin
            )
            async with EnvoyProcess(
                "floor", binary=envoy_binary(None), files=files, bootstrap=start
            ) as envoy:
                self.envoy = envoy
                await self.stop.wait()
                envoy.skip_drain()
            await server.stop(grace=None)


def _rss() -> int:
    return psutil.Process().memory_info().rss


async def _run(paths: tuple[str, ...]) -> None:
    floor = _Floor(paths)
    commands = {name: getattr(floor, name) for name in ("translate", "prepare", "go", "start", "pid")}

    def end() -> None:
        floor.started.set()
        floor.stop.set()

    answer_commands(commands, end)
    write_line("listening")
    await floor.serve()


if __name__ == "__main__":
    configure("json")
    asyncio.run(_run(tuple(sys.argv[1:])))
