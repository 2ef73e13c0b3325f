"""A real Redis (or Valkey) for a test, on a port of its own, with no data before and none left after."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import pytest

from tests.deadline import DEADLINE_S
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

PROGRAMS = ("redis-server", "valkey-server")


class RedisServer:
    """A server that can be ended and started again: its data stays in its folder.

    Args:
        folder: for its data.
        options: the lines of its configuration, besides the usual ones; ``port`` of them wins.

    Attributes:
        port: where it listens on loopback.
        url: the address of that.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.options = list(options)
        self._program = _program()
        self._process: asyncio.subprocess.Process | None = None

    def use_tls(self, certificate: Path, key: Path, ca: Path) -> None:
        """Speak TLS only, and ask clients for a certificate."""
        self.options += [
            "port 0",
            f"tls-port {self.port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {ca}",
        ]

    def use_sentinel(self, name: str, port: int) -> None:
        """Be a Sentinel for a Redis, which takes no standstill for its end: it is told to replace it."""
        self.options += [
            f"sentinel monitor {name} 127.0.0.1 {port} 1",
            f"sentinel down-after-milliseconds {name} {1000 * DEADLINE_S:.0f}",
            f"sentinel failover-timeout {name} 3000",
        ]

    async def start(self) -> None:
        """Start it, and return when it answers."""
        file = self.folder / "redis.conf"
        is_sentinel = any(option.startswith("sentinel ") for option in self.options)
        if not file.exists():
            usual = ["bind 127.0.0.1", f"port {self.port}", f"dir {self.folder}"]
            # It would wait for more replicas before it sends its data to one.
            usual += [] if is_sentinel else ["appendonly yes", "repl-diskless-sync-delay 0"]
            file.write_text("\n".join((*usual, *self.options, "")))
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            str(file),
            *(["--sentinel"] if is_sentinel else []),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)  # no event tells that a foreign process listens

    async def kill(self) -> None:
        """End it at once. What it has written stays."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@asynccontextmanager
async def redis_server(folder: Path, *options: str) -> AsyncGenerator[RedisServer]:
    """A Redis that runs while the block does."""
    async with RedisServer(folder, *options) as server:
        yield server


def _program() -> str:
    for name in PROGRAMS:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("There is no redis-server and no valkey-server: install redis-server with apt.")
