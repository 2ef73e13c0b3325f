"""A program of its own: a backend that counts, and a load of so many requests a second on several ports.

Its arguments are the number of requests a second and of seconds. It prints the port of its backend, waits for
a line with the ports to ask, and prints how many requests reached the backend, and how many were answered
with each status and how late, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from time import monotonic

CONNECTIONS = 48


class Backend(asyncio.Protocol):
    """Answers at once."""

    count = 0

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        Backend.count += len(heads)
        assert self._transport is not None
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * len(heads))


async def main(rate: int, seconds: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ports = [int(word) for word in (await asyncio.to_thread(sys.stdin.readline)).split()]
    statuses: Counter[str] = Counter()
    took: list[float] = []
    began = monotonic()

    async def ask(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[n % len(ports)])
        for k in range(n, rate * seconds, CONNECTIONS):
            if (wait := began + k / rate - monotonic()) > 0:
                await asyncio.sleep(wait)
            sent = monotonic()
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            status = head[9:12].decode()
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
            await reader.readexactly(length)
            statuses[status] += 1
            took.append(monotonic() - sent)
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for n in range(CONNECTIONS):
            tasks.create_task(ask(n))
    took.sort()
    result = {
        "backend": Backend.count,
        "statuses": dict(statuses),
        "seconds": monotonic() - began,
        "p50_ms": 1000 * took[len(took) // 2],
        "p99_ms": 1000 * took[int(len(took) * 0.99)],
    }
    sys.stdout.write(f"{json.dumps(result)}\n")
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
