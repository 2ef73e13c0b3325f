"""The upstream of all apps: ``python -m bench.upstream N`` listens on N ports of loopback.

It writes the ports as a line of JSON, answers every request with the port that it came to, and ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

ENDPOINT = "x-bench-endpoint"
"""Response header that says which port answered."""


class _Answering(asyncio.Protocol):
    def __init__(self, port: int) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\n{ENDPOINT}: {port}\r\ncontent-length: 0\r\n\r\n".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # Envoy does not pipeline, and these requests have no body: a blank line is the end of one.
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(self._answer)


async def _serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    ports: list[int] = []
    for _ in range(count):
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        servers.append(await loop.create_server(lambda port=port: _Answering(port), sock=listening))
        ports.append(port)
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
