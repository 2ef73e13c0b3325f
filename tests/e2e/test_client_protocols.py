"""ClientTrafficPolicy ``http1``, ``http2`` and ``grpc``, as clients and backends see them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, PingReceived, RemoteSettingsChanged
from h2.settings import SettingCodes

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.calls import CallServer
from tests.e2e.conftest import Site, open_site
from tests.e2e.differing import OTHER_FORMS
from tests.ports import free_port
from tests.tcp_servers import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.api.envoygateway import EnvoyGateway

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

WEB = "application/grpc-web+proto"
ADD = "/shop.Cart/Add"
MESSAGE = b"\0" + len(b"hello").to_bytes(4, "big") + b"hello"


async def listening(
    site: Site, name: str, body: str, *, hostnames: tuple[str, ...] = (), to: str = "one"
) -> int:
    """A Gateway with one HTTP listener, that policy, and a route to a Backend; the port."""
    port = free_port()
    await site.apply(
        m.gateway(name, f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route(name, f"[{{{m.to(to)}}}]", hostnames=hostnames, parents=f"[{{name: {name}}}]"),
        m.policy("ClientTrafficPolicy", name, body, f"Gateway/{name}"),
    )
    return port


class Raw:
    """A backend that notes what it gets, byte by byte, and answers with what is set.

    Attributes:
        port: where it listens on loopback.
        heads: of the requests that reached it.
        rests: what came after each body that was sent in chunks: its trailers.
        answer: the whole answer.
    """

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[bytes] = []
        self.rests: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Raw]:
        async with tcp_server(self._connected) as self.port:
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if b"chunked" in head.lower():
                    await reader.readuntil(b"\r\n0\r\n")
                    rest = b""
                    while (line := await reader.readline()) != b"\r\n":
                        rest += line
                    self.rests.append(rest)
                writer.write(self.answer)


async def said(port: int, sent: bytes, *, until: bytes = b"") -> bytes:
    """The answer to some bytes on a new connection: all of it, or up to a mark."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await (reader.readuntil(until) if until else reader.read())
        writer.close()
    return answer


@pytest.mark.proves("ClientTrafficPolicy", "http1.preserveHeaderCase")
@pytest.mark.parametrize("kept", [False, True])
async def test_the_case_of_headers_is_kept_both_ways(site: Site, kept: bool) -> None:
    async with Raw().serving() as raw:
        raw.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-FromBackend: 1\r\n\r\n"
        await site.apply(m.local("raw", raw.port))
        port = await listening(site, "case", f"http1: {{preserveHeaderCase: {str(kept).lower()}}}", to="raw")

        answer = await said(
            port, b"GET / HTTP/1.1\r\nHost: case.test\r\nX-FromClient: 1\r\n\r\n", until=b"\r\n\r\n"
        )

    assert (b"X-FromClient: 1" in raw.heads[0]) is kept
    assert (b"X-FromBackend: 1" in answer) is kept


@pytest.mark.proves("ClientTrafficPolicy", "http1.enableTrailers")
@pytest.mark.parametrize("enabled", [False, True])
async def test_trailers_are_passed_on_both_ways(site: Site, enabled: bool) -> None:
    async with Raw().serving() as raw:
        raw.answer = (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
            b"2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
        )
        await site.apply(m.local("raw", raw.port))
        port = await listening(site, "trail", f"http1: {{enableTrailers: {str(enabled).lower()}}}", to="raw")

        answer = await said(
            port,
            b"POST / HTTP/1.1\r\nhost: trail.test\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            b"2\r\nhi\r\n0\r\nx-check: 9\r\n\r\n",
        )

    assert answer.startswith(b"HTTP/1.1 200")
    assert (b"x-check: 9" in raw.rests[0]) is enabled
    assert answer.endswith(b"x-sum: 7\r\n\r\n") is enabled


@pytest.mark.proves("ClientTrafficPolicy", "http1.http10.useDefaultHost")
@pytest.mark.parametrize(
    ("http1", "head", "status"),
    [
        ("{}", b"GET / HTTP/1.0\r\nhost: old.test\r\n\r\n", b"426"),
        ("{http10: {}}", b"GET / HTTP/1.0\r\nhost: old.test\r\n\r\n", b"200"),
        ("{http10: {}}", b"GET / HTTP/1.0\r\n\r\n", b"400"),
        ("{http10: {useDefaultHost: true}}", b"GET / HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_requests_of_http_1_0(site: Site, http1: str, head: bytes, status: bytes) -> None:
    port = await listening(site, "old", f"http1: {http1}")

    assert (await said(port, head)).split()[1] == status


async def test_without_a_hostname_that_stands_out_the_listener_answers_500(site: Site) -> None:
    hostnames = ("left.test", "right.test")
    port = await listening(site, "both", "http1: {http10: {useDefaultHost: true}}", hostnames=hostnames)

    assert await site.status("left.test", port=port) == 500

    await site.apply(
        m.route("both", f"[{{{m.to('one')}}}]", hostnames=("left.test",), parents="[{name: both}]")
    )
    assert await site.status("left.test", port=port) == 200


@pytest.mark.proves("ClientTrafficPolicy", "http1.ignoredUpgradeTypes[].*")
@pytest.mark.parametrize(("ignored", "status"), [("[]", b"403"), ("[{type: Prefix, value: TLS/}]", b"200")])
async def test_upgrades_that_are_not_taken_may_be_ignored(site: Site, ignored: str, status: bytes) -> None:
    port = await listening(site, "switch", f"http1: {{ignoredUpgradeTypes: {ignored}}}")
    head = b"GET / HTTP/1.1\r\nhost: switch.test\r\nconnection: upgrade\r\nupgrade: TLS/1.2\r\n\r\n"

    assert (await said(port, head, until=b"\r\n")).split()[1] == status


@pytest.mark.proves(
    "ClientTrafficPolicy",
    "http2.maxConcurrentStreams",
    "http2.initialStreamWindowSize",
    "http2.initialConnectionWindowSize",
)
async def test_http2_has_the_limits_that_are_asked_for(site: Site) -> None:
    port = await listening(
        site,
        "streams",
        "http2: {maxConcurrentStreams: 7, initialStreamWindowSize: 128Ki, initialConnectionWindowSize: 3Mi}",
    )

    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = H2Connection(H2Configuration())
        client.initiate_connection()
        writer.write(client.data_to_send())
        settings: dict[int, int] = {}
        window = client.outbound_flow_control_window
        while SettingCodes.MAX_CONCURRENT_STREAMS not in settings or window == 65535:
            for event in client.receive_data(await reader.read(65536)):
                if isinstance(event, RemoteSettingsChanged):
                    settings |= {code: change.new_value for code, change in event.changed_settings.items()}
            window = client.outbound_flow_control_window
        writer.close()

    assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 7
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 128 * 1024
    assert window == 3 * 1024 * 1024


@pytest.mark.proves(
    "ClientTrafficPolicy", "http2.connectionKeepalive.interval", "http2.connectionKeepalive.timeout"
)
async def test_a_client_that_answers_no_ping_is_disconnected(site: Site) -> None:
    port = await listening(
        site, "pings", "http2: {connectionKeepalive: {interval: 200ms, timeout: 100ms, intervalJitter: 0}}"
    )

    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = H2Connection(H2Configuration())
        client.initiate_connection()
        writer.write(client.data_to_send())
        pinged = ended = False
        while chunk := await reader.read(65536):
            for event in client.receive_data(chunk):
                pinged |= isinstance(event, PingReceived)
                ended |= isinstance(event, ConnectionTerminated)
        writer.close()

    assert pinged


async def first_ping(port: int) -> float:
    """How long after connecting a client is pinged for the first time."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = H2Connection(H2Configuration())
        client.initiate_connection()
        writer.write(client.data_to_send())
        began, pinged = monotonic(), False
        while not pinged:
            pinged = any(
                isinstance(event, PingReceived) for event in client.receive_data(await reader.read(65536))
            )
        writer.close()
    return monotonic() - began


@pytest.mark.slow
@pytest.mark.proves("ClientTrafficPolicy", "http2.connectionKeepalive.intervalJitter")
async def test_pings_are_delayed_at_random(site: Site) -> None:
    """By half of the interval on average, of many; by default it would be 15 percent at most.

    Less than a fifth of it would be a chance of 1 in 10^11.
    """
    port = await listening(
        site, "jitter", "http2: {connectionKeepalive: {interval: 500ms, timeout: 400ms, intervalJitter: 100}}"
    )

    delays = await asyncio.gather(*(first_ping(port) for _ in range(40)))

    assert sum(delays) / len(delays) > 1.2 * 0.5


@pytest.mark.proves("ClientTrafficPolicy", "http2.onInvalidMessage")
@pytest.mark.parametrize(("action", "stays"), [("TerminateStream", True), ("TerminateConnection", False)])
async def test_a_malformed_message_ends_its_request_or_all(site: Site, action: str, stays: bool) -> None:
    port = await listening(site, "bad", f"http2: {{onInvalidMessage: {action}}}")
    config = H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
    )
    client = H2Connection(config)
    client.initiate_connection()
    common = [(":method", "GET"), (":scheme", "http"), (":authority", "bad.test"), (":path", "/")]
    client.send_headers(1, [*common, ("Not-Lower", "1")], end_stream=True)
    client.send_headers(3, common, end_stream=True)

    answered = False
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(client.data_to_send())
        while not answered and (chunk := await reader.read(65536)):
            answered = any(getattr(event, "stream_id", 0) == 3 for event in client.receive_data(chunk))
        writer.close()

    assert answered is stays


async def _web(site: Site, host: str, port: int) -> bytes:
    """The answer to a call of gRPC-Web."""
    headers = {"content-type": WEB, "x-grpc-web": "1"}
    answer = await site.ask(host, ADD, port=port, method="POST", headers=headers, content=MESSAGE)
    return answer.content


@pytest.mark.proves("ClientTrafficPolicy", "grpc.enableWeb")
@OTHER_FORMS
async def test_a_listener_takes_grpc_web_for_all_routes_or_for_none(config: EnvoyGateway) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site(config=config))
        server = await stack.enter_async_context(CallServer("cart").serving())
        on, off = free_port(), free_port()
        listeners = (
            f"[{{name: taken, port: {on}, protocol: HTTP}}, {{name: left, port: {off}, protocol: HTTP}}]"
        )
        await site.apply(
            m.backend(
                "cart",
                f"ip: {{address: 127.0.0.1, port: {server.port}}}",
                appProtocols=["gateway.envoyproxy.io/h2c"],
            ),
            m.gateway("web", listeners),
            m.route("plain", f"[{{{m.to('cart')}}}]", parents="[{name: web}]"),
            m.grpc_route("calls", f"[{{{m.to('cart')}}}]", parents="[{name: web}]"),
            m.policy("ClientTrafficPolicy", "taken", "grpc: {enableWeb: true}", "Gateway/web/taken"),
            m.policy("ClientTrafficPolicy", "left", "grpc: {}", "Gateway/web/left"),
        )

        answers = {
            (host, port): await _web(site, host, port)
            for host in ("plain.test", "calls.test")
            for port in (on, off)
        }

    taken = {at: answer.startswith(MESSAGE + b"\x80") for at, answer in answers.items()}
    assert taken == {
        ("plain.test", on): True,
        ("calls.test", on): True,
        ("plain.test", off): False,
        ("calls.test", off): False,
    }
