from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf.json_format import ParseDict

from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.infra.process import Backoff, EnvoyProcess
from moongate.infra.rundir import RunDirectory
from tests.tcp_servers import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

# Parsing a listener from JSON wants the types of what it holds.
_ = (stream_pb2, router_pb2, http_connection_manager_pb2)


FILTERS = "type.googleapis.com/envoy.extensions.filters"


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for runs, with a path short enough for sockets, which pytest's own may not be."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder:
        yield Path(folder, "run")


@pytest.fixture
def run(base: Path) -> Iterator[RunDirectory]:
    with RunDirectory(base) as run:
        yield run


def standalone(run: RunDirectory, gateway: str = "default/eg", *listeners: Listener) -> Bootstrap:
    """A bootstrap that waits for no control plane."""
    files = run.envoy(gateway)
    made = bootstrap(gateway, "node-1", xds_socket=files.xds, admin_socket=files.admin)
    made.ClearField("dynamic_resources")
    made.static_resources.listeners.extend(listeners)
    return made


def envoy(
    run: RunDirectory,
    made: Bootstrap | None = None,
    *,
    gateway: str = "default/eg",
    drain_s: int = 5,
    access_log: Callable[[bytes], None] = lambda _lines: None,
    beside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    extra_args: tuple[str, ...] = (),
    first_pause_s: float = 0.01,
) -> EnvoyProcess:
    return EnvoyProcess(
        gateway,
        binary=envoy_binary(),
        files=run.envoy(gateway),
        bootstrap=made or standalone(run, gateway),
        options=EnvoyOptions(concurrency=1, drain_s=drain_s, extra_args=extra_args),
        access_log=access_log,
        beside=beside,
        backoff=Backoff(first_s=first_pause_s),
    )


def listener(port: int, backend_port: int = 1) -> Listener:
    """Answers everything itself, but sends ``/slow`` to a backend; logs to standard output."""
    log = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    fields = {"method": "%REQ(:METHOD)%", "response_code": "%RESPONSE_CODE%", "route_name": "%ROUTE_NAME%"}
    http: dict[str, Any] = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http-8080",
        "access_log": [
            {"name": "stdout", "typed_config": {"@type": log, "log_format": {"json_format": fields}}},
        ],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"path": "/slow"}, "route": {"cluster": f"backend-{backend_port}"}},
                        {"match": {"prefix": "/"}, "name": "here", "direct_response": {"status": 200}},
                    ],
                }
            ],
            "validate_clusters": False,
        },
    }
    made: dict[str, Any] = {
        "name": "default/eg/http",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    return ParseDict(made, Listener())


def add_backend(made: Bootstrap, port: int) -> None:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    ParseDict(
        {
            "name": f"backend-{port}",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": f"backend-{port}",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        },
        made.static_resources.clusters.add(),
    )


class HeldBackend:
    """Answers one request, when it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[HeldBackend]:
        async with tcp_server(self._answer) as self.port:
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await self.let_go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()


async def let_go_when_refused(port: int, backend: HeldBackend) -> None:
    """Let a backend answer once the gateway in front of it takes no more connections."""
    refused = False
    while not refused:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
        except ConnectionRefusedError:
            refused = True
        except ConnectionResetError:
            # It was in the queue of the socket when that was closed.
            continue
    backend.let_go.set()
