"""Connections to backends, as backends see them: what is spoken, what is kept, and how they are found."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import PRIOR_KNOWLEDGE, Echo, EchoOverHttp2, EchoOverTls, after_proxy_header, either
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, until
from tests.ports import free_port
from tests.tcp_servers import tcp_server

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def policy(name: str, body: str) -> m.Document:
    """A policy of the route of that name."""
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


# -- proxy protocol ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "begin"), [("V1", b"PROXY TCP4 127.0.0.1 "), ("V2", b"\r\n\r\n\0\r\nQUIT\n!")]
)
@pytest.mark.proves("BackendTrafficPolicy", "proxyProtocol.version")
async def test_a_connection_begins_with_the_address_of_the_client(
    site: Site, version: str, begin: bytes
) -> None:
    headers: list[bytes] = []
    async with after_proxy_header(site.one.port, headers) as port:
        await site.apply(
            m.local("proxied", port),
            m.route("proxied", f"[{{{m.to('proxied')}}}]"),
            policy("proxied", f"proxyProtocol: {{version: {version}}}"),
        )

        assert (await site.reached("proxied.test")).by == "one"
    assert headers
    assert headers[0].startswith(begin)


async def test_each_client_has_connections_of_its_own(site: Site) -> None:
    """So the address is right for every request."""
    headers: list[bytes] = []
    async with after_proxy_header(site.one.port, headers) as port:
        await site.apply(
            m.local("clients", port),
            m.route("clients", f"[{{{m.to('clients')}}}]"),
            policy("clients", "proxyProtocol: {version: V1}"),
        )
        ports: list[str] = []
        for n in range(3):
            at = ("127.0.0.1", 0)
            async with httpx.AsyncClient(
                trust_env=False, transport=httpx.AsyncHTTPTransport(local_address=at[0])
            ) as client:
                assert await site.status("clients.test", client=client) == 200
                assert await site.status("clients.test", client=client) == 200
            assert len(headers) == n + 1
            ports.append(headers[-1].decode().split(" ")[4])

    assert len(set(ports)) == 3


async def test_tls_comes_after_the_address(site: Site, tmp_path: Path) -> None:
    authority, headers = Authority(), list[bytes]()
    secure = EchoOverTls("secure", tmp_path)
    secure.show(authority.sign("secure.test"))
    async with secure.serving(), after_proxy_header(secure.port, headers) as port:
        await site.apply(
            m.authorities("authority", authority.pem),
            m.local("secure", port),
            m.backend_tls_policy(
                "secure",
                "{hostname: secure.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: authority}]}",
                "Backend/secure",
            ),
            m.route("secure", f"[{{{m.to('secure')}}}]"),
            policy("secure", "proxyProtocol: {version: V1}"),
        )

        assert (await site.reached("secure.test")).by == "secure"
        assert headers[0].startswith(b"PROXY TCP4 ")
        assert secure.asked == ["secure.test"]


# -- what is spoken ----------------------------------------------------------------


@pytest.mark.proves("BackendTrafficPolicy", "useClientProtocol")
async def test_the_protocol_of_the_client_is_spoken(site: Site) -> None:
    over_http2 = EchoOverHttp2("two")
    async with (
        over_http2.serving(),
        either(site.one.port, over_http2.port, PRIOR_KNOWLEDGE) as port,
        httpx.AsyncClient(http1=False, http2=True, trust_env=False, timeout=DEADLINE_S) as client,
    ):
        await site.apply(
            m.local("both", port),
            m.route("both", f"[{{{m.to('both')}}}]"),
            policy("both", "{useClientProtocol: true, http2: {initialStreamWindowSize: 128Ki}}"),
        )

        assert (await site.reached("both.test")).version == "1.1"
        assert (await site.reached("both.test", client=client)).version == "2"
        assert over_http2.window == 128 * 1024


async def test_settings_of_http2_reach_backends_that_speak_it(site: Site) -> None:
    echo = EchoOverHttp2("h2")
    async with echo.serving():
        await site.apply(
            m.local("h2-window", echo.port, appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route("h2-window", f"[{{{m.to('h2-window')}}}]"),
        )
        assert await site.status("h2-window.test") == 200
        assert echo.window == 65536

        await site.apply(policy("h2-window", "http2: {initialStreamWindowSize: 256Ki}"))

        assert await site.status("h2-window.test") == 200
        assert echo.window == 256 * 1024


# -- when connections are opened, and kept -----------------------------------------


@pytest.mark.proves("BackendTrafficPolicy", "connection.preconnect.perEndpointPercent")
async def test_a_connection_is_opened_in_advance(site: Site) -> None:
    echo = Echo("ready")
    async with echo.serving():
        await site.apply(
            m.local("in-advance", echo.port),
            m.route("in-advance", f"[{{{m.to('in-advance')}}}]"),
            policy("in-advance", "connection: {preconnect: {perEndpointPercent: 200}}"),
        )

        assert await site.status("in-advance.test") == 200
        await until(lambda: echo.connections == 2)


@pytest.mark.proves("BackendTrafficPolicy", "connection.preconnect.predictivePercent")
async def test_a_connection_is_opened_to_the_endpoint_that_is_next(site: Site) -> None:
    """A single request, and both endpoints have a connection.

    By an Envoy of its own: free connections of other clusters would do, as Envoy counts them.
    """
    pair, port = (Echo("left"), Echo("right")), free_port()
    async with pair[0].serving(), pair[1].serving():
        fresh = m.gateway("fresh", f"[{{name: http, port: {port}, protocol: HTTP}}]")
        await site.apply(
            fresh,
            m.local("next", *(each.port for each in pair)),
            m.route("next", f"[{{{m.to('next')}}}]", parents="[{name: fresh}]"),
            policy(
                "next",
                "{connection: {preconnect: {predictivePercent: 200}}, loadBalancer: {type: RoundRobin}}",
            ),
        )

        assert await site.status("next.test", port=port) == 200
        await until(lambda: all(each.connections for each in pair))
        assert sum(len(each.requests) for each in pair) == 1
        await site.delete(fresh)


@pytest.mark.proves("BackendTrafficPolicy", "connection.bufferLimit")
async def test_a_gateway_buffers_as_much_for_a_slow_backend_as_a_policy_says(site: Site) -> None:
    """All of a large request, where kernels alone would not hold it."""
    stuck = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await stuck.wait()

    size = 64 * 1024 * 1024
    async with tcp_server(hold) as port, asyncio.timeout(DEADLINE_S):
        await site.apply(
            m.local("stuck", port),
            m.route("stuck", f"[{{{m.to('stuck')}}}]"),
            policy("stuck", "connection: {bufferLimit: 128Mi}"),
        )
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"POST / HTTP/1.1\r\nhost: stuck.test\r\ncontent-length: {size}\r\n\r\n".encode())
        for _ in range(64):
            writer.write(bytes(size // 64))
            await writer.drain()
        writer.transport.set_write_buffer_limits(0)
        await writer.drain()
        stuck.set()
        writer.close()


@pytest.mark.proves("BackendTrafficPolicy", "timeout.tcp.connectTimeout")
async def test_a_backend_that_takes_no_connections_is_given_up(site: Site) -> None:
    """Without the policy that would take ten seconds. Envoy's timers are some milliseconds coarse."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        # One connection is in the queue, and the kernel lets no more be opened.
        with socket.create_connection(address):
            await site.apply(
                m.local("full", address[1]),
                m.route("full", f"[{{{m.to('full')}}}]"),
                policy("full", "timeout: {tcp: {connectTimeout: 100ms}}"),
            )

            answer = await site.ask("full.test")

    assert answer.status_code == 503
    assert 0.08 <= answer.elapsed.total_seconds() < 5


@pytest.mark.proves("BackendTrafficPolicy", "timeout.http.connectionIdleTimeout")
async def test_an_idle_connection_is_closed_after_its_time(site: Site) -> None:
    """Without the policy that would be an hour."""
    echo = Echo("idle")
    async with echo.serving():
        await site.apply(
            m.local("idle", echo.port),
            m.route("idle", f"[{{{m.to('idle')}}}]"),
            policy("idle", "timeout: {http: {connectionIdleTimeout: 100ms}}"),
        )
        assert await site.status("idle.test") == 200

        await until(lambda: echo.connections == 1 and not echo.open)


@pytest.mark.proves("BackendTrafficPolicy", "timeout.http.maxConnectionDuration")
async def test_a_connection_is_replaced_after_its_time_even_if_it_is_busy(site: Site) -> None:
    echo = Echo("old")
    async with echo.serving(), asyncio.timeout(DEADLINE_S):
        await site.apply(
            m.local("old", echo.port),
            m.route("old", f"[{{{m.to('old')}}}]"),
            policy("old", "timeout: {http: {maxConnectionDuration: 100ms}}"),
        )

        while echo.connections < 5:
            assert await site.status("old.test") == 200


KEPT = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


@pytest.mark.proves(
    "BackendTrafficPolicy", "tcpKeepalive.idleTime", "tcpKeepalive.interval", "tcpKeepalive.probes"
)
async def test_the_kernel_knows_when_to_give_a_silent_backend_up(site: Site) -> None:
    """It is asked about the connection itself: to be silent, a backend would have to be off the network."""
    echo = Echo("silent")
    async with echo.serving():
        await site.apply(
            m.local("silent", echo.port),
            m.route("silent", f"[{{{m.to('silent')}}}]"),
            policy("silent", "tcpKeepalive: {idleTime: 61s, interval: 7s, probes: 4}"),
        )
        assert await site.status("silent.test") == 200

        [fleet] = site.laptop.fleets.report()
        with connection_of(fleet["envoy"]["pid"], echo.port) as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert [connection.getsockopt(socket.IPPROTO_TCP, each) for each in KEPT] == [61, 7, 4]


def connection_of(pid: int, port: int) -> socket.socket:
    """The established connection of a process to a port of this machine."""
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
        if line.split()[3] == "01" and int(line.split()[2].rpartition(":")[2], 16) == port
    }
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(entry.readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
                    # Python has no name for pidfd_getfd, whose number is the same on all machines.
                    number = ctypes.CDLL(None, use_errno=True).syscall(438, process, int(entry.name), 0)
                    assert number >= 0, os.strerror(ctypes.get_errno())
                    return socket.socket(fileno=number)
    finally:
        os.close(process)
    raise AssertionError(f"process {pid} has no connection to port {port}")


async def test_connections_are_kept_alive(site: Site) -> None:
    """The kernel has a timer for each of Envoy's connections to the backend: the last time says which."""
    echo = Echo("alive")
    async with echo.serving():
        await site.apply(m.local("alive", echo.port), m.route("alive", f"[{{{m.to('alive')}}}]"))
        assert await site.status("alive.test") == 200
        assert timers(echo.port) == {"00"}

        await site.apply(policy("alive", "tcpKeepalive: {idleTime: 60s, interval: 5s, probes: 2}"))

        assert await site.status("alive.test") == 200
        await until(lambda: "02" in timers(echo.port))


def timers(port: int) -> set[str]:
    """The timers of established connections to a port of this machine: ``02`` is keepalive, ``00`` none."""
    ports: set[str] = set()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if state == "01" and int(remote.rpartition(":")[2], 16) == port:
            ports.add(timer.partition(":")[0])
    return ports


# -- how they are found ------------------------------------------------------------


@pytest.mark.proves("BackendTrafficPolicy", "dns.lookupFamily")
async def test_addresses_are_of_the_family_that_is_asked_for(site: Site) -> None:
    """The backend listens on IPv4 only."""
    await site.apply(
        m.backend("named", f"fqdn: {{hostname: localhost, port: {site.one.port}}}"),
        m.route("named", f"[{{{m.to('named')}}}]"),
    )

    for family, expected in (("IPv4", 200), ("IPv6", 503), ("IPv4Preferred", 200)):
        await site.apply(policy("named", f"dns: {{lookupFamily: {family}}}"))

        assert await site.status("named.test") == expected
