"""A program of its own: backends that say who they are, and a constant load that notes every answer.

It prints the ports of its backends, waits for a line on standard input, asks until that is closed, and then
writes what became of each request to a file. It shares nothing with the gateway but the clock, so a gateway
that is busy does not slow it down unnoticed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import NamedTuple

SLOW_EVERY, SLOW_S = 10, 0.03
PATIENCE_S = 30.0
"""For an answer; whoever ends the load waits longer."""


class Answer(NamedTuple):
    """What became of one request.

    Args:
        sent: when, on the clock that is common to all processes of a machine.
        received: when the answer was complete, or the failure known.
        status: 0 when there was no answer.
        backend: who answered.
        tag: header ``x-config`` of the answer, "" for none.
        error: why there was no answer.
    """

    sent: float
    received: float
    status: int
    backend: str
    tag: str
    error: str = ""


class Backend(asyncio.Protocol):
    """Answers at once, but every tenth request after a moment, so that some are always in flight."""

    def __init__(self, name: str) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\nx-backend: {name}\r\ncontent-length: 2\r\n\r\nok".encode()
        self._rest = b""
        self._count = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for _ in heads:
            self._count += 1
            if self._count % SLOW_EVERY:
                self._write()
            else:
                asyncio.get_running_loop().call_later(SLOW_S, self._write)

    def _write(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._answer)


class Load:
    """So many connections, each asking at its share of the rate; what is late is made up for."""

    def __init__(self, port: int, host: str, rate: float, connections: int) -> None:
        self.answers: list[Answer] = []
        self.connects = 0
        self._port, self._rate, self._connections = port, rate, connections
        self._request = f"GET /flip HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()

    async def run(self, stop: asyncio.Event) -> None:
        began = monotonic()
        async with asyncio.TaskGroup() as tasks:
            for n in range(self._connections):
                tasks.create_task(self._ask(began + n / self._rate, stop))

    async def _ask(self, due: float, stop: asyncio.Event) -> None:
        step = self._connections / self._rate
        reader = writer = None
        while not stop.is_set():
            if (pause := due - monotonic()) > 0:
                await asyncio.sleep(pause)
            due += step
            sent = monotonic()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if writer is None or reader is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                        self.connects += 1
                    writer.write(self._request)
                    answer, stays = await _read(reader, sent)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                answer, stays = Answer(sent, monotonic(), 0, "", "", repr(error)), False
            self.answers.append(answer)
            if not stays and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()


async def _read(reader: asyncio.StreamReader, sent: float) -> tuple[Answer, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
    await reader.readexactly(int(headers.get("content-length", "0")))
    answer = Answer(
        sent,
        monotonic(),
        int(head[0].split(" ")[1]),
        headers.get("x-backend", ""),
        headers.get("x-config", ""),
    )
    return answer, headers.get("connection") != "close"


async def main(port: int, host: str, rate: float, connections: int, backends: int, result: Path) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for n in range(backends):
            server = await loop.create_server(lambda n=n: Backend(f"b{n}"), "127.0.0.1", 0, backlog=1024)
            await stack.enter_async_context(server)
            ports.append(server.sockets[0].getsockname()[1])
        print(json.dumps(ports), flush=True)  # noqa: T201 - what the parent waits for
        await stdin.readline()
        load, stop = Load(port, host, rate, connections), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(stop))
            await stdin.read()
            stop.set()
        report = json.dumps({"connects": load.connects, "answers": load.answers})
        result.write_text(report)  # noqa: ASYNC240 - nothing else is left to do
        # Envoy keeps its connections to the backends; in Python 3.12 and later, a server would wait for them.
        sys.stdout.flush()
        stack.pop_all()


if __name__ == "__main__":
    args = sys.argv[1:]
    asyncio.run(main(int(args[0]), args[1], float(args[2]), int(args[3]), int(args[4]), Path(args[5])))
