"""Small HTTP servers that answer with their name and the request: upstreams for trying things out."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_MOST_BYTES = 1 << 20


@asynccontextmanager
async def upstream(name: str) -> AsyncGenerator[int]:
    """Run a server on a free port of loopback until the block ends.

    It answers every request with JSON: its name, and the method, path, host, headers and length of the body.

    Args:
        name: the name in its answers.

    Yields:
        The port.
    """
    open_now: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        try:
            with suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError
            ):
                while await _answer(name, reader, writer):
                    pass
        finally:
            open_now.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_MOST_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in list(open_now):
            writer.close()
        await server.wait_closed()


async def _answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request. True if the connection stays open for another.

    A client that closes the connection between two requests makes ``readuntil`` raise.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, version = first.split(" ")
    headers = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = await _body_length(reader, headers)
    answer = {
        "upstream": name,
        "method": method,
        "path": path,
        "host": headers.get("host", ""),
        "headers": headers,
        "body_bytes": length,
    }
    body = json.dumps(answer, indent=2).encode() + b"\n"
    keep = version != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(body)}\r\nconnection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        + (b"" if method == "HEAD" else body)
    )
    await writer.drain()
    return keep


async def _body_length(reader: asyncio.StreamReader, headers: dict[str, str]) -> int:
    """Read the body to its end and return its length."""
    if "chunked" not in headers.get("transfer-encoding", "").lower():
        left = length = int(headers.get("content-length") or 0)
        while left:
            chunk = await reader.read(min(left, 1 << 16))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(chunk)
        return length
    length = 0
    while size := int((await reader.readline()).partition(b";")[0], 16):
        await reader.readexactly(size + 2)
        length += size
    while (await reader.readline()).strip():
        pass  # Trailers.
    return length
