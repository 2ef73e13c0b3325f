"""A client of HTTP/3."""

# aioquic's own types leave out what some callbacks return.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

from tests.e2e.conftest import DEADLINE_S

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent

    from tests.e2e.certificates import Authority


class Http3Answer(NamedTuple):
    """What a request got."""

    status: int
    body: bytes


class _Client(QuicConnectionProtocol):
    http: H3Connection | None = None

    async def get(self, host: str, path: str) -> Http3Answer:
        self.http = H3Connection(self._quic)
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.done = asyncio.get_running_loop().create_future()
        stream = self._quic.get_next_available_stream_id()
        request = {":method": "GET", ":scheme": "https", ":authority": host, ":path": path}
        fields = [(name.encode(), value.encode()) for name, value in request.items()]
        self.http.send_headers(stream, fields, end_stream=True)
        self.transmit()
        await self.done
        return Http3Answer(int(self.headers[b":status"]), self.body)

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self.http.handle_event(event) if self.http is not None else ():
            self._on_http(each)

    def _on_http(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self.headers.update(event.headers)
        if isinstance(event, DataReceived):
            self.body += event.data
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_ended and not self.done.done():
            self.done.set_result(None)


async def http3_get(
    authority: Authority,
    port: int,
    host: str,
    path: str = "/",
    *,
    asking_for: str = "",
    patience_s: float = DEADLINE_S,
) -> Http3Answer:
    """One request over HTTP/3 on a new connection.

    Args:
        authority: what the client trusts.
        port: of UDP.
        host: of the request.
        path: of the request.
        asking_for: the hostname of the handshake, if it is another one.
        patience_s: how long to wait for an answer.

    Raises:
        ConnectionError: the handshake fails.
        TimeoutError: nobody answers.
    """
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=asking_for or host, idle_timeout=DEADLINE_S
    )
    configuration.load_verify_locations(cadata=authority.pem)
    async with (
        asyncio.timeout(patience_s),
        connect("127.0.0.1", port, configuration=configuration, create_protocol=_Client) as client,
    ):
        assert isinstance(client, _Client)
        return await client.get(host, path)
