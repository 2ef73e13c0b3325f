"""Upstream servers of our own: each says who it is and what reached it, as JSON."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import TYPE_CHECKING, Any

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded
from msgspec import Struct
from websockets.asyncio.server import ServerConnection, serve

from tests.deadline import DEADLINE_S
from tests.tcp_servers import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.e2e.certificates import Certificate


class Request(Struct, frozen=True):
    """The request that reached a backend, and who it is: the body of its answer.

    Args:
        by: the backend's name.
        method: upper case.
        path: with its query, as it came.
        headers: in order; names in lower case.
        body: as text.
        version: ``1.1`` or ``2``.
    """

    by: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str = ""
    version: str = "1.1"

    def header(self, name: str) -> str | None:
        """All values of a header, joined; ``None`` when it was not sent."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None


class Echo:
    """An HTTP/1.1 server that answers with the request.

    Attributes:
        port: where it listens on loopback; 0 for a Unix socket.
        requests: all that reached it, oldest first.
        statuses: what to answer next, one each; 200 when there is none left.
        by_path: paths whose status is always the same; they take none of ``statuses``.
        faults: what to do next instead of an answer, one each: ``reset`` or ``close`` the connection, or
            ``stall``, which leaves the request without an answer.
        go: answers wait until this is set.
        connections: how many were opened so far.
        ports: the client's port of the connection of each request.
        times: when each request had arrived, on the clock of the event loop.
        told: headers that answers have besides.
        untold: headers of requests that answers leave out.
    """

    def __init__(self, name: str, *, untold: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.untold = untold
        self.port = 0
        self.requests: list[Request] = []
        self.statuses: list[int] = []
        self.by_path: dict[str, int] = {}
        self.faults: list[str] = []
        self.connections = 0
        self.ports: list[int] = []
        self.times: list[float] = []
        self.answer_headers: dict[str, str] = {}
        self.go = asyncio.Event()
        self.go.set()
        self._arrived = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def arrived(self, count: int) -> None:
        """Return when so many requests have arrived."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def forget(self) -> None:
        """Start anew: as if nothing had been asked of it."""
        self.requests.clear()
        self.statuses.clear()
        self.by_path.clear()
        self.faults.clear()
        self.ports.clear()
        self.times.clear()
        self.answer_headers.clear()
        self.go.set()

    @asynccontextmanager
    async def serving(self, unix: Path | None = None) -> AsyncGenerator[Echo]:
        """Serve until the block is left; connections are cut then."""
        if unix is not None:
            server = await asyncio.start_unix_server(self._connected, unix)
        else:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.go.set()
            for writer in list(self._open):
                writer.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = await self._read(head, reader)
                self.ports.append(writer.get_extra_info("peername")[1] if self.port else 0)
                self._take(request)
                await self.go.wait()
                fault = self.faults.pop(0) if self.faults else ""
                if fault == "stall":
                    # Until the other side gives up.
                    await reader.read()
                if fault == "reset":
                    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
                if fault:
                    break
                if request.header("upgrade") == "websocket":
                    await _switch(request, reader, writer)
                    break
                writer.write(_answer(self._status(request.path), request, self.answer_headers))
                await writer.drain()
        self._open.discard(writer)
        writer.close()

    def _status(self, path: str) -> int:
        if path in self.by_path:
            return self.by_path[path]
        return self.statuses.pop(0) if self.statuses else 200

    def _take(self, request: Request) -> None:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        self._arrived.set()

    async def _read(self, head: bytes, reader: asyncio.StreamReader) -> Request:
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
        headers = [header for header in headers if header[0] not in self.untold]
        fields = dict(headers)
        body = b""
        if "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            while size := int((await reader.readline()).strip(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        return Request(self.name, method, path, headers, body.decode())


def _answer(status: int, request: Request, added: dict[str, str]) -> bytes:
    body = msgspec.json.encode(request)
    more = "".join(f"{name}: {value}\r\n" for name, value in added.items())
    head = (
        f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\nx-backend: {request.by}\r\n"
        f"{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + (b"" if request.method == "HEAD" else body)


async def _switch(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agree to another protocol, say in a header what was asked, and send back what comes then."""
    asked = msgspec.json.encode(request).decode()
    writer.write(
        f"HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-backend: {request.by}\r\n"
        f"x-asked: {asked}\r\n\r\n".encode()
    )
    while chunk := await reader.read(4096):
        writer.write(chunk)


class EchoOverHttp2(Echo):
    """The same over HTTP/2 in clear text, with prior knowledge: an HTTP/1.1 client gets nothing of it.

    Attributes:
        window: how much of an answer the other side takes before it grants more; as it said last.
        connection_window: the same of all answers together, before any was sent.
        pings: when each ping came, on the clock of the event loop.
        deaf: whether pings are left without an answer.
        malformed: whether answers have a header that none may have.
    """

    window = 0
    connection_window = 0
    deaf = False
    malformed = False

    def __init__(self, name: str, *, untold: frozenset[str] = frozenset()) -> None:
        super().__init__(name, untold=untold)
        self.pings: list[float] = []

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(
            H2Configuration(
                client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        asked: dict[int, Request] = {}
        self._open.add(writer)
        self.connections += 1
        with suppress(ConnectionError):
            while chunk := await reader.read(65536):
                events = connection.receive_data(chunk)
                self.window = connection.remote_settings.initial_window_size
                if not self.requests:
                    self.connection_window = connection.outbound_flow_control_window
                if any(isinstance(event, PingReceived) for event in events):
                    self.pings.append(asyncio.get_running_loop().time())
                    if self.deaf:
                        connection.clear_outbound_data_buffer()
                for event in events:
                    match event:
                        case RequestReceived(stream_id=int(stream), headers=headers):
                            asked[stream] = self._from_headers(headers)
                            if asked[stream].method == "CONNECT":
                                connection.reset_stream(stream)
                        case DataReceived(stream_id=int(stream), flow_controlled_length=int(size)):
                            connection.acknowledge_received_data(size, stream)
                        case StreamEnded(stream_id=int(stream)):
                            self._take(asked[stream])
                            await self.go.wait()
                            more = [("X Bad", "1")] if self.malformed else []
                            connection.send_headers(
                                stream, [(":status", "200"), ("x-backend", self.name), *more]
                            )
                            has_body = asked[stream].method != "HEAD"
                            body = msgspec.json.encode(asked[stream]) if has_body else b""
                            for start in range(0, len(body), connection.max_outbound_frame_size):
                                frame = body[start : start + connection.max_outbound_frame_size]
                                connection.send_data(stream, frame)
                            connection.end_stream(stream)
                        case _:
                            pass
                writer.write(connection.data_to_send())
                await writer.drain()
        self._open.discard(writer)
        writer.close()

    def _from_headers(self, headers: Any) -> Request:
        fields = [(bytes(k).decode(), bytes(v).decode()) for k, v in headers]
        fields = [field for field in fields if field[0] not in self.untold]
        by_name = dict(fields)
        # The order of those that stand for the first line means nothing.
        fields.sort(key=lambda field: field[0] if field[0].startswith(":") else "~")
        return Request(self.name, by_name[":method"], by_name[":path"], fields, version="2")


@asynccontextmanager
async def websocket_echo() -> AsyncGenerator[int]:
    """A WebSocket server that sends back what it gets; its port."""

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(answer, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1]


class EchoOverTls(Echo):
    """The same over TLS.

    Attributes:
        folder: for its certificate.
        context: of its TLS; another certificate that is loaded there is shown to connections from then on.
        asked: the server names that clients sent, oldest first; ``None`` for none.
        shown: the subjects of the certificates that clients showed, one for each request; "" for none.
    """

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder
        self.asked: list[str | None] = []
        self.shown: list[str] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._asked

    def show(self, certificate: Certificate) -> None:
        """Show this certificate to whoever connects from now on."""
        chain, key = self.folder / f"{self.name}.crt", self.folder / f"{self.name}.key"
        chain.write_bytes(certificate.pem)
        key.write_bytes(certificate.key)
        self.context.load_cert_chain(chain, key)

    def demand(self, pem: bytes) -> None:
        """Demand certificates of these authorities of whoever connects from now on."""
        self.context.load_verify_locations(cadata=pem.decode())
        self.context.verify_mode = ssl.CERT_REQUIRED

    def forget(self) -> None:
        super().forget()
        self.asked.clear()
        self.shown.clear()

    @asynccontextmanager
    async def serving(self, unix: Path | None = None) -> AsyncGenerator[Echo]:
        assert unix is None, "TLS is served on a port"
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._open):
                writer.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: Any = writer.get_extra_info("peercert") or {}
        self.shown += ["/".join(value for part in peer.get("subject", ()) for _, value in part)]
        await super()._connected(reader, writer)

    def _asked(self, _connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked.append(name)


HANDSHAKE = b"\x16"
"""The first byte of TLS."""
PRIOR_KNOWLEDGE = b"PRI * HTTP/2.0"
"""What HTTP/2 begins with."""


@asynccontextmanager
async def either(plain: int, other: int, begin: bytes = HANDSHAKE) -> AsyncGenerator[int]:
    """One port that passes connections on: those that begin so to one port, the others to another."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            first = await reader.read(4096)
            if first:
                port = other if first.startswith(begin) else plain
                there, back = await asyncio.open_connection("127.0.0.1", port)
                back.write(first)
                await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async with tcp_server(connected) as through:
        yield through


@asynccontextmanager
async def after_proxy_header(port: int, headers: list[bytes]) -> AsyncGenerator[int]:
    """One port that passes connections on without the header of the proxy protocol, which it keeps."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            header = await reader.readexactly(12)
            if header.startswith(b"PROXY "):
                header += await reader.readuntil(b"\r\n")
            else:
                rest = await reader.readexactly(4)
                header += rest + await reader.readexactly(int.from_bytes(rest[2:]))
            headers.append(header)
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async with tcp_server(connected) as through:
        yield through


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
    finally:
        writer.close()
