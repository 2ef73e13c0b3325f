"""A program of its own: callers with and without credentials, who note every answer while policies change.

It asks over connections of all kinds: new ones, old ones that are busy, old ones that are mostly idle, over
HTTP/1.1 and HTTP/2, or over HTTP/3. It reads a plan from its first argument, asks, prints a line when all
connections are open, goes on until standard input is closed, and then writes what became of each request to a
file.
"""

# aioquic's own types leave out what some callbacks return.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamReset
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent

KINDS = ("new", "http1", "http2", "idle1", "idle2")
"""New connections for each request; busy ones of HTTP/1.1 and HTTP/2; idle ones of both."""
QUIC_KINDS = ("new3", "http3", "idle3")
"""The same of HTTP/3."""

PATIENCE_S = 30.0
"""For an answer; whoever ends the callers waits longer."""

IDLE_EVERY = 40
"""An idle connection asks so many times less often."""


class Plan(msgspec.Struct):
    """What to ask.

    Args:
        port: of the gateway, on loopback.
        hosts: whom to ask for: a hostname, or an origin such as ``https://a.test:8443``, at another port, or
            ``quic://a.test:8443``, over HTTP/3.
        credentials: caller → the headers that say who it is.
        pause_s: between two requests of a busy connection.
        result: the file to write.
    """

    port: int
    hosts: list[str]
    credentials: dict[str, dict[str, str]]
    pause_s: float
    result: str
    certificates: dict[str, str] = {}
    """Caller → a file with the certificate and the key that it shows."""
    quic_patience_s: float = PATIENCE_S
    """For an answer of HTTP/3, but the first: where nobody listens for QUIC, nobody says so."""


class Place(NamedTuple):
    """Where connections for a host are opened, and who opens them.

    Args:
        port: of the gateway.
        tls: the name in the TLS handshake; "" for no TLS.
        quic: whether they are of HTTP/3.
        certificate: the file with what is shown; "" for nothing.
    """

    port: int
    tls: str
    quic: bool = False
    certificate: str = ""

    async def connect(self, *, http2: bool) -> Http1 | Http2 | Http3:
        if self.quic:
            return await Http3.to(self.port, self.tls)  # which Envoy asks for no certificate
        context = None
        if self.tls:
            # Without the authorities of the system, which take longer to read than all else here.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
            if self.certificate:
                context.load_cert_chain(self.certificate)
        streams = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=self.tls or None
        )
        return Http2(*streams, scheme="https" if self.tls else "http") if http2 else Http1(*streams)


class Answer(NamedTuple):
    """What became of one request.

    Args:
        begun: when, on the clock that is common to all processes of a machine. If its connection is opened
            for it, that begins here: a listener may take a connection long before its client knows.
        sent: when it was sent over its connection.
        received: when its status was known, or that there is none.
        host: who was asked for.
        caller: who asked.
        kind: over which kind of connection.
        status: 0 when there was no answer.
        error: why there was no answer.
        opened: when its connection was begun to be opened; no other of the same kind has the same.
    """

    begun: float
    sent: float
    received: float
    host: str
    caller: str
    kind: str
    status: int
    error: str = ""
    opened: float = 0.0


class Http1:
    """One connection of HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, host: str, headers: dict[str, str]) -> tuple[int, bool]:
        """The status of one request, and whether the connection stays open."""
        sent = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, **headers}.items())
        self._writer.write(f"GET / HTTP/1.1\r\n{sent}\r\n".encode())
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:-2])}
        await self._reader.readexactly(int(answer.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), answer.get("connection") != "close"

    def close(self) -> None:
        self._writer.close()


class Http2Answer(NamedTuple):
    """The fields of an answer and of its trailers, its body, and whether the connection stays open."""

    fields: list[tuple[bytes, bytes]]
    body: bytes
    stays: bool

    @property
    def status(self) -> int:
        return next((int(value) for name, value in self.fields if name == b":status"), 0)


class Http2:
    """One connection of HTTP/2, known to be so beforehand; one request at a time.

    Frame by frame: a library that keeps the state of a connection takes GOAWAY for its end, but the answer of
    a request that is under way may follow it.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, scheme: str = "http"
    ) -> None:
        self._reader, self._writer, self.scheme = reader, writer, scheme
        self._encoder, self._decoder = Encoder(), Decoder()
        self._stream = -1
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())

    async def ask(self, host: str, headers: dict[str, str]) -> tuple[int, bool]:
        """The status of one request, and whether the connection stays open."""
        sent = {":method": "GET", ":path": "/", ":scheme": self.scheme, ":authority": host, **headers}
        answer = await self.exchange(list(sent.items()))
        return answer.status, answer.stays

    async def exchange(self, fields: list[tuple[str, str]]) -> Http2Answer:
        """What is answered to a request of these header fields, which has no body.

        Raises:
            EOFError: nothing was.
        """
        self._stream += 2
        asking = HeadersFrame(self._stream, self._encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self._writer.write(asking.serialize())
        answered: list[tuple[bytes, bytes]] = []
        body, ended, stays = b"", False, True
        while not ended:
            frame = await self._frame()
            match frame:
                case HeadersFrame(stream_id=self._stream):
                    answered += self._decoder.decode(frame.data, raw=True)
                    ended = "END_STREAM" in frame.flags
                case DataFrame(stream_id=self._stream):
                    body += frame.data
                    ended = "END_STREAM" in frame.flags
                    if frame.data and not ended:
                        self._writer.write(_room(0, len(frame.data)) + _room(self._stream, len(frame.data)))
                    elif frame.data:
                        self._writer.write(_room(0, len(frame.data)))
                case RstStreamFrame(stream_id=self._stream):
                    raise EOFError(f"the stream was reset: {frame.error_code}")
                case GoAwayFrame():
                    stays = False
                    if frame.error_code:
                        raise EOFError(f"the stream ended with GOAWAY: {frame.error_code}")
                    if frame.last_stream_id < self._stream:
                        raise EOFError("the request came after GOAWAY")
                case SettingsFrame() if "ACK" not in frame.flags:
                    self._writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
                case PingFrame() if "ACK" not in frame.flags:
                    self._writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                case _:
                    pass
        return Http2Answer(answered, body, stays)

    async def _frame(self) -> Frame:
        frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
        frame.parse_body(memoryview(await self._reader.readexactly(length)))
        return frame

    def close(self) -> None:
        self._writer.close()


class _Streams(H3Connection):
    """The streams of a connection. They note that it is to end, which the library passes over."""

    is_to_end = False

    def _check_control_frame_type(self, frame_type: int) -> None:
        self.is_to_end |= frame_type == FrameType.GOAWAY
        super()._check_control_frame_type(frame_type)


class Http3(QuicConnectionProtocol):
    """One connection of HTTP/3; one request at a time."""

    http: _Streams | None = None

    @classmethod
    async def to(cls, port: int, name: str, authorities: bytes = b"") -> Http3:
        """Open a connection to a port of loopback.

        Args:
            port: of UDP.
            name: that of the handshake.
            authorities: as PEM, those that the client trusts; everybody if there are none.
        """
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
        configuration.verify_mode = ssl.CERT_REQUIRED if authorities else ssl.CERT_NONE
        if authorities:
            configuration.load_verify_locations(cadata=authorities)
        quic = QuicConnection(configuration=configuration)
        transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(quic), local_addr=("127.0.0.1", 0)
        )
        client.transport = transport
        try:
            client.connect(("127.0.0.1", port))
            await client.opened
        except BaseException:
            client.close()
            transport.close()  # nobody answers, so nothing would end it
            raise
        return client

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.opened = asyncio.get_running_loop().create_future()
        self._ended = False
        self.transport: asyncio.BaseTransport | None = None

    @property
    def is_to_end(self) -> bool:
        """Whether the server has said so, or has ended it, maybe between two requests."""
        return self._ended or (self.http is not None and self.http.is_to_end)

    async def ask(self, host: str, headers: dict[str, str], path: str = "/") -> tuple[int, bool]:
        """The status of one request, and whether the connection stays open."""
        if self.http is None:
            self.http = _Streams(self._quic)
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self._done = asyncio.get_running_loop().create_future()
        stream = self._quic.get_next_available_stream_id()
        request = {":method": "GET", ":scheme": "https", ":authority": host, ":path": path, **headers}
        fields = [(name.encode(), value.encode()) for name, value in request.items()]
        self.http.send_headers(stream, fields, end_stream=True)
        self.transmit()
        await self._done
        return int(self.headers[b":status"]), not self.is_to_end

    def quic_event_received(self, event: QuicEvent) -> None:
        self._ended |= isinstance(event, ConnectionTerminated)
        if isinstance(event, HandshakeCompleted):
            self.opened.set_result(None)
        elif isinstance(event, ConnectionTerminated) and not self.opened.done():
            self.opened.set_exception(ConnectionError(repr(event)))
        elif isinstance(event, ConnectionTerminated | StreamReset) and self.http is not None:
            self._end(EOFError(repr(event)))
        if isinstance(event, ConnectionTerminated) and self.transport is not None:
            asyncio.get_running_loop().call_soon(self.transport.close)
        for each in self.http.handle_event(event) if self.http is not None else ():
            self._on_http(each)

    def _on_http(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self.headers.update(event.headers)
        if isinstance(event, DataReceived):
            self.body += event.data
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_ended:
            self._end()

    def _end(self, error: Exception | None = None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


def _room(stream: int, octets: int) -> bytes:
    return WindowUpdateFrame(stream, octets).serialize()


class Callers:
    """All connections, and what they were answered."""

    def __init__(self, plan: Plan) -> None:
        self.answers: list[Answer] = []
        self._plan = plan
        self._waiting = 0

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for place, pairs in self._pairs().items():
                for kind in QUIC_KINDS if place.quic else KINDS:
                    # One connection for each host and caller where it is to be idle, else two that ask for
                    # all.
                    shares = [[pair] for pair in pairs] if kind.startswith("idle") else [pairs, pairs[::-1]]
                    self._waiting += len(shares)
                    for share in shares:
                        tasks.create_task(self._call(kind, place, share, stop))

    def _pairs(self) -> dict[Place, list[tuple[str, str]]]:
        pairs: dict[Place, list[tuple[str, str]]] = defaultdict(list)
        for host in self._plan.hosts:
            at = urlsplit(host)
            tls = (at.hostname or "") if at.scheme in ("https", "quic") else ""
            for caller in self._plan.credentials:
                shown = self._plan.certificates.get(caller, "") if tls else ""
                place = Place(at.port or self._plan.port, tls, at.scheme == "quic", shown)
                pairs[place].append((host, caller))
        return pairs

    async def _call(self, kind: str, place: Place, pairs: list[tuple[str, str]], stop: asyncio.Event) -> None:
        connection: Http1 | Http2 | Http3 | None = None
        pause_s = self._plan.pause_s * (IDLE_EVERY if kind.startswith("idle") else 1)
        opened_once, opened = False, 0.0
        for host, caller in cycle(pairs):
            if stop.is_set():
                break
            if isinstance(connection, Http3) and connection.is_to_end:
                connection.close()
                connection = None
            begun = sent = monotonic()
            status, error, stays = 0, "", False
            try:
                async with asyncio.timeout(
                    self._plan.quic_patience_s if place.quic and opened_once else PATIENCE_S
                ):
                    if connection is None:
                        opened = begun
                        connection = await place.connect(http2=kind.endswith("2"))
                        sent = monotonic()
                    status, stays = await connection.ask(
                        urlsplit(host).hostname or host, self._plan.credentials[caller]
                    )
            except (OSError, EOFError, TimeoutError, ValueError) as failure:
                error = repr(failure)
            if not opened_once:
                opened_once = True
                self._waiting -= 1
                if not self._waiting:
                    print(flush=True)  # noqa: T201 - what the parent waits for
            self.answers.append(Answer(begun, sent, monotonic(), host, caller, kind, status, error, opened))
            if connection is not None and (not stays or kind.startswith("new")):
                connection.close()
                connection = None
            await asyncio.sleep(pause_s)
        if connection is not None:
            connection.close()


async def main(plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    callers, stop = Callers(plan), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(callers.run(stop))
        await stdin.read()
        stop.set()
    Path(plan.result).write_bytes(msgspec.json.encode(callers.answers))  # noqa: ASYNC240 - nothing else is left


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
