"""Servers that look at no requests: each answers what it gets, after its name."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deadline import DEADLINE_S
from tests.tcp_servers import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.e2e.certificates import Certificate


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """For a server that shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(certificate.pem)
        key.write_bytes(certificate.key)
        context.load_cert_chain(chain, key)
    return context


@asynccontextmanager
async def serving_lines(name: str, certificate: Certificate | None = None) -> AsyncGenerator[int]:
    """A server that answers each line with ``name:line``, with TLS if it has a certificate; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(f"{name}:".encode() + line)
                await writer.drain()

    context = server_context(certificate) if certificate is not None else None
    async with tcp_server(answer, context=context) as port:
        yield port


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None, "it is connected"
        self._transport.sendto(f"{self._name}:".encode() + data, addr)


@asynccontextmanager
async def serving_datagrams(name: str) -> AsyncGenerator[int]:
    """A server that answers each datagram with ``name:datagram``; its port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(name), local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


class Line:
    """A connection of a client, open to be used again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, line: str) -> str | None:
        """The answer to a line; ``None`` if the connection is closed instead."""
        try:
            self.writer.write(f"{line}\n".encode())
            await self.writer.drain()
            answer = await asyncio.wait_for(self._reader.readline(), DEADLINE_S)
        except ConnectionError:
            return None
        return answer.decode().strip() or None


@asynccontextmanager
async def line_to(
    port: int, context: ssl.SSLContext | None = None, name: str | None = None
) -> AsyncGenerator[Line]:
    """A connection to a port of this machine; with TLS it asks for ``name``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def asked(port: int, context: ssl.SSLContext | None = None, name: str | None = None) -> str | None:
    """Who answers on a new connection; ``None`` if it is closed before."""
    try:
        async with line_to(port, context, name) as line:
            answer = await line.ask("x")
    except (ssl.SSLError, ConnectionError):
        return None
    return None if answer is None else answer.partition(":")[0]


async def datagram(port: int, text: str = "x", wait_s: float = DEADLINE_S) -> str | None:
    """The answer to a datagram; ``None`` if none comes."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            del addr
            if not answer.done():
                answer.set_result(data)

    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port))
    try:
        transport.sendto(text.encode())
        return (await asyncio.wait_for(answer, wait_s)).decode()
    except TimeoutError:
        return None
    finally:
        transport.close()
