"""Manifests of a small application, a folder to write them to, and who answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from moongate.run import Laptop
from moongate.sources.files import Files
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        yield Path(name)


def text(*documents: dict[str, Any]) -> str:
    """Manifests as a file has them."""
    return "\n---\n".join(msgspec.json.encode(document).decode() for document in documents)


def app(port: int, upstream: int) -> str:
    """A Gateway and a route that takes all hostnames, as a file has them."""
    route = m.route("app", f"[{{{m.to('up')}}}]")
    del route["spec"]["hostnames"]
    return text(
        m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.local("up", upstream),
        route,
    )


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


async def who(port: int) -> str:
    """Who answers there; "" when nobody does."""
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            return (await client.get(f"http://127.0.0.1:{port}/")).headers.get("x-backend", "")
    return ""


async def until(claim: Callable[[], Any]) -> None:
    """Return when ``claim`` holds. For what no event tells: that a change of a file is served."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = claim()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(running: Laptop, files: Files) -> AsyncGenerator[None]:
    """Follow files until the block is left."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running.follow(files))
        try:
            yield
        finally:
            task.cancel()


async def is_(port: int, name: str) -> bool:
    return await who(port) == name
