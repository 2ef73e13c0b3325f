"""What a client sends before its handshake over QUIC is done: whoever records it can send it again."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted

from tests.e2e import manifests as m
from tests.e2e.backends import Request
from tests.e2e.conftest import DEADLINE_S
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aioquic.quic.events import QuicEvent
    from aioquic.tls import SessionTicket

    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

HOST = "early.test"


class Connection:
    """A connection of QUIC of which nothing is sent before ``events`` is asked for any.

    Args:
        port: of UDP, on loopback.
        ticket: of an earlier connection, which this one resumes.

    Attributes:
        tickets: those that the server has sent.
    """

    def __init__(self, port: int, ticket: SessionTicket | None = None) -> None:
        self.tickets: list[SessionTicket] = []
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=H3_ALPN,
            server_name=HOST,
            session_ticket=ticket,
            verify_mode=ssl.CERT_NONE,
        )
        self.quic = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self._server = ("127.0.0.1", port)
        self._loop = asyncio.get_running_loop()
        self.quic.connect(self._server, self._loop.time())

    def pay(self) -> H3Connection:
        """Begin with a request that nobody wants twice."""
        http = H3Connection(self.quic)
        request = {":method": "POST", ":scheme": "https", ":authority": HOST, ":path": "/pay"}
        fields = [(name.encode(), value.encode()) for name, value in request.items()]
        http.send_headers(self.quic.get_next_available_stream_id(), fields, end_stream=True)
        return http

    async def events(self) -> AsyncGenerator[QuicEvent]:
        """What happens, until the deadline."""
        with self._socket() as udp:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    for datagram, _ in self.quic.datagrams_to_send(self._loop.time()):
                        await self._loop.sock_sendto(udp, datagram, self._server)
                    try:
                        async with asyncio.timeout_at(self.quic.get_timer()):
                            datagram = await self._loop.sock_recv(udp, 65536)
                    except TimeoutError:
                        self.quic.handle_timer(self._loop.time())  # which sends again what was lost
                    else:
                        self.quic.receive_datagram(datagram, self._server, self._loop.time())
                    while (event := self.quic.next_event()) is not None:
                        yield event

    @contextmanager
    def _socket(self) -> Generator[socket.socket]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            udp.bind(("127.0.0.1", 0))
            yield udp


async def test_a_request_is_not_served_before_the_handshake_of_its_client(site: Site) -> None:
    """Until then Envoy does not know that its first packets are new, nor that they come from their sender."""
    port = free_port()
    https = f"{{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: early}}]}}}}"
    await site.apply(
        site.authority.sign(HOST).secret("early"),
        m.gateway("early", f"[{https}]"),
        m.route("early", f"[{{{m.to('one')}}}]", parents="[{name: early}]"),
        m.policy("ClientTrafficPolicy", "early", "{http3: {}}", "Gateway/early"),
    )
    first = Connection(port)
    async for _ in first.events():
        if first.tickets:
            break
    ticket = first.tickets[0]
    assert not ticket.max_early_data_size

    # A client may send some all the same; it is put aside until the handshake is done. Each thread of Envoy
    # knows its own tickets only.
    resumed = False
    while not resumed:
        handshake, request = await paid(port, replace(ticket, max_early_data_size=0xFFFFFFFF))
        resumed = handshake.session_resumed

        assert not handshake.early_data_accepted
        assert (request.method, request.header("early-data")) == ("POST", None)


async def paid(port: int, ticket: SessionTicket) -> tuple[HandshakeCompleted, Request]:
    """The handshake of a client that sends a request before it is done, and what the backend got."""
    connection = Connection(port, ticket)
    http, body, handshakes = connection.pay(), b"", list[HandshakeCompleted]()
    async for event in connection.events():
        if isinstance(event, HandshakeCompleted):
            handshakes.append(event)
        of_http = [each for each in http.handle_event(event) if isinstance(each, DataReceived)]
        body += b"".join(each.data for each in of_http)
        if any(each.stream_ended for each in of_http):
            break
    return handshakes[0], msgspec.json.decode(body, type=Request)
