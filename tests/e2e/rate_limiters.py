"""The two rate limit services behind one configuration: moongate's own, and that of Envoy's project.

``RATELIMIT_SERVICE`` names the binary of the latter. Without it, it is built with Go, once, into a cache.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import pytest
from msgspec import structs

from moongate.ads.sotw import SotwServer
from moongate.api.envoygateway import EnvoyGateway
from moongate.infra.rate_limit_process import RateLimitProcess
from moongate.infra.rundir import ServiceFiles
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.settings import Redis, Settings
from moongate.rate_limits.subscription import NODE
from moongate.xds.wire import RATE_LIMIT_CONFIG
from tests.deadline import DEADLINE_S
from tests.ports import free_port
from tests.redis_servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

Kind = Literal["memory", "redis", "envoy"]
"""moongate's own in memory, and on Redis; Envoy's, which needs Redis."""

VERSION = "v1.4.1-0.20260122083618-3fb702589d36"


def patient() -> EnvoyGateway:
    """The configuration of a laptop whose Envoys wait for its rate limit service on a slow machine, too."""
    shipped = EnvoyGateway.shipped()
    assert shipped.rate_limit is not None
    return structs.replace(
        shipped, rate_limit=structs.replace(shipped.rate_limit, timeout=f"{DEADLINE_S:.0f}s")
    )


class RateLimiter:
    """A service that Envoys ask on a Unix socket: an async context manager.

    Args:
        folder: for its files.
        kind: which of them.

    Attributes:
        socket: where Envoys ask.
        redis: where it counts.
        namespace: of the Gateways whose requests are counted; those of another one begin at zero.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.kind: Kind = kind
        self.namespace = "default"
        self.socket = folder / "limits.sock"
        self.redis = RedisServer(folder / "redis") if kind != "memory" else None
        self._folder = folder
        self._xds_port = free_port()
        self._xds = f"unix:{folder}/xds.sock" if kind != "envoy" else f"127.0.0.1:{self._xds_port}"
        self._server = SotwServer(RATE_LIMIT_CONFIG, NODE)
        self._stack = AsyncExitStack()
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start it, and Redis."""
        self._server.publish({})
        await self._stack.enter_async_context(self._server.listen(self._xds))
        if self.redis is not None:
            await self._stack.enter_async_context(self.redis)
        self._stack.push_async_callback(self.end)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def publish(self, configs: Mapping[str, bytes]) -> None:
        """Let these limits be in force, by name; they are when this returns."""
        self._server.publish(configs)
        await self._server.settled()

    async def start(self) -> None:
        """Start the process, and return when it has the limits."""
        if self.kind == "envoy":
            assert self.redis is not None, "it needs one"
            self.socket.unlink(missing_ok=True)
            own = envoys_own(self._folder, self.redis.port, self._xds, GRPC_UDS=str(self.socket))
            await self._running.enter_async_context(own)
        else:
            redis = Redis(address=redis_address(self.redis.url)) if self.redis is not None else None
            settings = msgspec.json.encode(Settings(configuration=self._xds, redis=redis))
            process = RateLimitProcess(settings, ServiceFiles.of(self._folder))
            await self._running.enter_async_context(process)
        async with asyncio.timeout(DEADLINE_S):
            await self._server.settled()
            await self._answering()

    async def end(self) -> None:
        """End the process."""
        await self._running.aclose()

    async def _answering(self) -> None:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_unix_connection(self.socket)
                writer.close()
                return
            await asyncio.sleep(0.02)  # no event tells that a foreign process listens


@asynccontextmanager
async def envoys_own(folder: Path, redis_port: int, xds: str, **more: str) -> AsyncGenerator[None]:
    """Envoy's service, which may not answer yet.

    Args:
        folder: where it looks for files.
        redis_port: of its Redis, on loopback.
        xds: where it gets its configuration.
        more: of its settings.
    """
    settings = {
        "CONFIG_TYPE": "GRPC_XDS_SOTW",
        "CONFIG_GRPC_XDS_SERVER_URL": xds,
        "CONFIG_GRPC_XDS_NODE_ID": NODE,
        "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis_port}",
        "REDIS_TIMEOUT": "1s",
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": str(free_port()),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": str(free_port()),
        "RUNTIME_ROOT": str(folder),
        "USE_STATSD": "false",
        "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "100ms",
        "LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(envoys_ratelimit(), env={**os.environ, **settings, **more})
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def envoys_ratelimit() -> str:
    """The binary of Envoy's rate limit service; the test is skipped if it can neither be found nor built."""
    if (named := os.environ.get("RATELIMIT_SERVICE")) is not None:
        return named
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "moongate", "ratelimit", VERSION)
    binary = cache / "service_cmd"
    if binary.exists():
        return str(binary)
    if (go := shutil.which("go")) is None:
        pytest.skip("Envoy's rate limit service needs Go, or RATELIMIT_SERVICE=…/service_cmd.")
    built = subprocess.run(
        [go, "install", f"github.com/envoyproxy/ratelimit/src/service_cmd@{VERSION}"],
        env={**os.environ, "GOFLAGS": "-mod=mod", "GOBIN": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"Envoy's rate limit service cannot be built: {built.stderr[-500:]}")
    return str(binary)
