from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest

from moongate.cli.upstreams import upstream
from tests.deadline import DEADLINE_S


async def test_an_upstream_says_who_it_is_and_what_it_was_asked() -> None:
    async with (
        upstream("apple") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        answer = await client.put("/a?b=c", content=b"12345", headers={"x-colour": "red"})

    reply = answer.json()
    assert (reply["upstream"], reply["method"], reply["path"]) == ("apple", "PUT", "/a?b=c")
    assert (reply["host"], reply["headers"]["x-colour"]) == (f"127.0.0.1:{port}", "red")
    assert reply["body_bytes"] == 5


async def test_a_connection_serves_many_requests_of_all_kinds() -> None:
    """Bodies with and without a length are read to their ends, or the next request would be garbled."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"one"
        yield b"three"

    async with (
        upstream("apple") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        lengths = [
            (await client.post("/", content=pieces())).json()["body_bytes"],
            (await client.get("/")).json()["body_bytes"],
            (await client.post("/", content=b"x" * 300_000)).json()["body_bytes"],
        ]
        head = await client.head("/")

    assert lengths == [8, 0, 300_000]
    assert (head.status_code, head.content) == (200, b"")


async def test_an_upstream_ends_with_connections_open() -> None:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        async with upstream("apple") as port:
            await client.get(f"http://127.0.0.1:{port}/")

        with pytest.raises(httpx.TransportError):
            await client.get(f"http://127.0.0.1:{port}/")
