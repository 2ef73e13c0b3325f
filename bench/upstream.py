"""The upstream of all apps: ``python -m bench.upstream N`` listens on N ports of loopback.

It writes the ports as a line of JSON, answers every request with what can be seen of it here, and ends with
its standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from itertools import count

ENDPOINT = "x-bench-endpoint"
"""Response header that says which port answered."""

CONNECTION = "x-bench-connection"
"""Response header with the number of the connection that the request came by."""

TIMEOUT = "x-envoy-expected-rq-timeout-ms"
"""Request header with the timeout of the route, if Envoy says it; it stands in the answer, too."""

_TIMEOUT = f"\r\n{TIMEOUT}:".encode()

_connections = count()


class _Answering(asyncio.Protocol):
    def __init__(self, port: int) -> None:
        of = next(_connections)
        head = f"HTTP/1.1 200 OK\r\n{ENDPOINT}: {port}\r\n{CONNECTION}: {of}\r\ncontent-length: 0\r\n"
        self._head = head.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # Envoy does not pipeline, and these requests have no body: a blank line is the end of one.
        if data.endswith(b"\r\n\r\n"):
            timeout = b""
            if (at := data.find(_TIMEOUT)) >= 0:
                timeout = data[at + 2 : data.index(b"\r\n", at + 2) + 2]
            self._transport.write(b"%b%b\r\n" % (self._head, timeout))


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
