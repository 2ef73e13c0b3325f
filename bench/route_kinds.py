"""What a change costs by kind of route: ``python -m bench.route_kinds``, with 1,000 routes of one kind each.

Each route has a hostname and a Backend of its own. A changed route leads to another upstream, a new one comes
with its Backend; each is served when a client of its own protocol is answered by the right upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import TYPE_CHECKING, Final

import grpc.aio
import psutil
from msgspec import Struct

from bench.child import Child
from bench.figures import p50, plain_table
from bench.measure import cpu_s
from bench.prober import DEADLINE_S, PAUSE_S, Prober
from bench.scene import GATEWAY, Edit
from tests.e2e.certificates import Authority
from tests.ports import free_port

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

METHOD: Final = "/bench.Bench/Ask"

_ROUTE = """\
apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: bench}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: {backend}}}]}}]
---
"""

_BACKEND = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: {name}}}
spec: {{endpoints: [{{ip: {{address: 127.0.0.1, port: {port}}}}}]}}
"""

Ask = Callable[[str], Awaitable[str]]
"""A hostname → the port of the upstream that answered; "" when none did."""


class Kind(Struct, frozen=True):
    """A kind of route, and how its requests are made and answered.

    Args:
        name: of the kind.
        listener: the protocol of its listener, in YAML.
        upstreams: two servers, which answer with their ports.
        client: who asks at a port.
    """

    name: str
    listener: str
    upstreams: Callable[[], AbstractAsyncContextManager[tuple[int, ...]]]
    client: Callable[[int], AbstractAsyncContextManager[Ask]]


class Series(Struct, frozen=True, kw_only=True):
    """Changes of one sort: milliseconds until served, and means of CPU in milliseconds and of bytes sent."""

    served_ms: list[float]
    cpu_ms: float
    envoy_cpu_ms: float
    bytes: float


class Figures(Struct, frozen=True, kw_only=True):
    """What one kind took: seconds until all was served, bytes of memory, and its changes."""

    kind: str
    routes: int
    cold: float
    rss: int
    changed: Series
    added: Series


@asynccontextmanager
async def http_upstreams() -> AsyncGenerator[tuple[int, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        async with Child("bench.upstream", "2", log=Path(folder) / "upstream.log") as upstream:
            yield tuple(await upstream.line())


@asynccontextmanager
async def http_client(port: int) -> AsyncGenerator[Ask]:
    async with Prober(port) as prober:

        async def ask(host: str) -> str:
            answer = await prober.ask(host)
            return answer.headers.get("x-bench-endpoint", "") if answer is not None else ""

        yield ask


@asynccontextmanager
async def grpc_upstreams() -> AsyncGenerator[tuple[int, ...]]:
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for _ in range(2):
            server = grpc.aio.server()
            ports.append(server.add_insecure_port("127.0.0.1:0"))

            async def answer(port: int, _request: bytes, _context: object) -> bytes:
                return str(port).encode()

            handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
                partial(answer, ports[-1])
            )
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("bench.Bench", {"Ask": handler}),)
            )
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield tuple(ports)


@asynccontextmanager
async def grpc_client(port: int) -> AsyncGenerator[Ask]:
    async def ask(host: str) -> str:
        options = [("grpc.default_authority", host)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            try:
                return str(await channel.unary_unary(METHOD, response_deserializer=bytes.decode)(b""))
            except grpc.aio.AioRpcError:
                return ""

    yield ask


@asynccontextmanager
async def tls_upstreams() -> AsyncGenerator[tuple[int, ...]]:
    certificate = Authority().sign("bench.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "certificate.pem"
        pem.write_bytes(certificate.pem + certificate.key)
        context.load_cert_chain(pem)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{writer.get_extra_info('sockname')[1]}\n".encode())
        writer.close()

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context))
            for _ in range(2)
        ]
        yield tuple(server.sockets[0].getsockname()[1] for server in servers)


@asynccontextmanager
async def tls_client(port: int) -> AsyncGenerator[Ask]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def ask(host: str) -> str:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname=host
            )
            answer = await reader.readline()
            writer.close()
        except OSError:
            return ""
        return answer.decode().strip()

    yield ask


KINDS: Final = (
    Kind("HTTPRoute", "protocol: HTTP", http_upstreams, http_client),
    Kind("GRPCRoute", "protocol: HTTP", grpc_upstreams, grpc_client),
    Kind("TLSRoute", "protocol: TLS, tls: {mode: Passthrough}", tls_upstreams, tls_client),
)


class _Scene:
    """A folder of routes, and moongate that follows it."""

    def __init__(self, kind: Kind, folder: Path, ports: tuple[int, ...], ask: Ask, gateway: Child) -> None:
        self._kind, self._folder, self._ports, self._ask = kind, folder, ports, ask
        self.gateway = gateway

    def edit(self, n: int, upstream: int = 0) -> Edit:
        """A route that leads to one of the upstreams: to the first by its own Backend."""
        name = f"app-{n:05d}"
        route = _ROUTE.format(
            version="v1",
            kind=self._kind.name,
            name=name,
            host=self.host(n),
            backend=name if not upstream else "other",
        )
        return Edit(self._folder / f"{name}.yaml", route + _BACKEND.format(name=name, port=self._ports[0]))

    def host(self, n: int) -> str:
        return f"app-{n:05d}.bench.test"

    async def served(self, n: int, upstream: int = 0) -> float:
        """When a route is served by an upstream: seconds of ``perf_counter``."""
        async with asyncio.timeout(DEADLINE_S):
            while await self._ask(self.host(n)) != str(self._ports[upstream]):  # noqa: ASYNC110 - only answers tell
                await asyncio.sleep(PAUSE_S)
        return perf_counter()

    async def sent(self) -> int:
        figures = await self.gateway.ask("figures")
        return sum(tally["bytes"] for tally in figures["sent"].values())

    async def series(self, changes: Iterator[tuple[int, int]]) -> Series:
        """Bring about the changes, each ``(route, upstream)``; the first is not counted."""
        (envoy,) = psutil.Process(self.gateway.pid).children()
        times: list[float] = []
        cpus: list[tuple[float, float]] = []
        before = 0
        for count, (n, upstream) in enumerate(changes):
            if count == 1:
                before = await self.sent()
            used = cpu_s(self.gateway.pid), cpu_s(envoy.pid)
            began = perf_counter()
            self.edit(n, upstream).write()
            times.append(1000 * (await self.served(n, upstream) - began))
            await asyncio.sleep(0.05)
            cpus.append((cpu_s(self.gateway.pid) - used[0], cpu_s(envoy.pid) - used[1]))
        sent = await self.sent() - before
        return Series(
            served_ms=times[1:],
            cpu_ms=1000 * mean(own for own, _ in cpus[1:]),
            envoy_cpu_ms=1000 * mean(envoys for _, envoys in cpus[1:]),
            bytes=sent / (len(times) - 1),
        )


async def measure(kind: Kind, routes: int, changes: int) -> Figures:
    """The figures of one kind."""
    async with AsyncExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moongate-bench-")))
        ports = await stack.enter_async_context(kind.upstreams())
        port = free_port()
        ask = await stack.enter_async_context(kind.client(port))
        folder = top / "apps"
        folder.mkdir()
        gateway = GATEWAY.format(port=port).replace("protocol: HTTP", kind.listener)
        (folder / "gateway.yaml").write_text(f"{gateway}---\n{_BACKEND.format(name='other', port=ports[1])}")
        child = Child("bench.gateway", str(folder), log=top / "gateway.log")
        scene = _Scene(kind, folder, ports, ask, child)
        for n in range(routes):
            scene.edit(n).write()
        began = perf_counter()
        await stack.enter_async_context(child)
        for n in (routes - 1, *range(0, routes, 50)):
            await scene.served(n)
        cold = perf_counter() - began
        await child.line()
        return Figures(
            kind=kind.name,
            routes=routes,
            cold=cold,
            rss=psutil.Process(child.pid).memory_info().rss,
            # Each of some routes goes away from its own Backend and back.
            changed=await scene.series((n // 2 * 7 % routes, (n + 1) % 2) for n in range(changes + 1)),
            added=await scene.series((routes + n, 0) for n in range(changes + 1)),
        )


def shown(figures: list[Figures]) -> str:
    """The figures as a table."""
    head = ("", *(f"{each.routes:,} {each.kind}s" for each in figures))
    rows: list[tuple[str, ...]] = [
        head,
        ("cold start → all served", *(f"{each.cold:.2f} s" for each in figures)),
        ("memory of moongate", *(f"{each.rss / 1e6:.0f} MB" for each in figures)),
    ]
    for name, series in (
        ("changed route", [each.changed for each in figures]),
        ("new route", [each.added for each in figures]),
    ):
        rows += [
            (f"{name}: written → served p50", *(f"{p50(each.served_ms):.1f} ms" for each in series)),
            (
                "… CPU of moongate (of its Envoy)",
                *(f"{each.cpu_ms:.1f} ({each.envoy_cpu_ms:.1f}) ms" for each in series),
            ),
            ("… bytes sent", *(f"{each.bytes:,.0f}" for each in series)),
        ]
    return plain_table(rows)


def main() -> int:
    """The exit status: 0, whatever was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.route_kinds", description=__doc__)
    parser.add_argument("--routes", type=int, default=1000, help="routes of each kind [%(default)s]")
    parser.add_argument("--changes", type=int, default=30, help="changes of each sort [%(default)s]")
    options = parser.parse_args()

    async def all_kinds() -> list[Figures]:
        return [await measure(kind, options.routes, options.changes) for kind in KINDS]

    print(shown(asyncio.run(all_kinds())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
