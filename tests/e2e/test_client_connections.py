"""ClientTrafficPolicy, where connections begin: the PROXY protocol, keepalive, probes of load balancers, the
scheme; and what of it holds for connections of TCP and TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from ctypes import addressof, create_string_buffer
from pathlib import Path
from socket import AF_INET, AF_INET6, SOL_SOCKET, inet_pton
from struct import pack
from typing import TYPE_CHECKING

import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import EchoOverTls
from tests.e2e.conftest import Site, until
from tests.e2e.lines import asked, line_to, serving_lines
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SEEN = m.tell_backend("x-seen", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")
"""Tells the backend whom Envoy takes for the client."""


async def listening(site: Site, name: str, body: str, *, rules: str = "") -> int:
    """A Gateway with one HTTP listener, that policy, and a route to ``one``; the port."""
    port = free_port()
    await site.apply(
        m.gateway(name, f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route(
            name,
            rules or f"[{{filters: [{SEEN}], {m.to('one')}}}]",
            parents=f"[{{name: {name}}}]",
        ),
        m.policy("ClientTrafficPolicy", name, body, f"Gateway/{name}"),
    )
    return port


def v1(source: str, family: str = "TCP4") -> bytes:
    """A header of the PROXY protocol, version 1."""
    here = "127.0.0.1" if family == "TCP4" else "::1"
    return f"PROXY {family} {source} {here} 50000 80\r\n".encode()


def v2(source: str = "", family: str = "TCP4") -> bytes:
    """A header of the PROXY protocol, version 2; without a source, one of the proxy itself (LOCAL)."""
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    if not source:
        return signature + pack(">BBH", 0x20, 0, 0)
    kind, code = (AF_INET, 0x11) if family == "TCP4" else (AF_INET6, 0x21)
    addresses = inet_pton(kind, source) + inet_pton(kind, "127.0.0.1" if kind == AF_INET else "::1")
    body = addresses + pack(">HH", 50000, 80)
    return signature + pack(">BBH", 0x21, code, len(body)) + body


async def seen(port: int, header: bytes, host: str, tls: ssl.SSLContext | None = None) -> str:
    """Whom Envoy takes for the client of a connection that begins with a header; "" if it is closed."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(header)
        if tls is not None:
            await writer.start_tls(tls, server_hostname=host)
        writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        writer.close()
    if not answer:
        return ""
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return answer.partition(b'"x-seen","')[2].partition(b'"')[0].decode()


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (v1("203.0.113.7"), "203.0.113.7"),
        (v1("2001:db8::7", "TCP6"), "2001:db8::7"),
        (v2("203.0.113.7"), "203.0.113.7"),
        (v2("2001:db8::7", "TCP6"), "2001:db8::7"),
        (v2(), "127.0.0.1"),
        (b"", ""),
    ],
)
async def test_a_load_balancer_says_who_connected(site: Site, header: bytes, client: str) -> None:
    port = await listening(site, "proxied", "proxyProtocol: {}")

    assert await seen(port, header, "proxied.test") == client


@pytest.mark.proves("ClientTrafficPolicy", "proxyProtocol.optional")
@pytest.mark.parametrize(("header", "client"), [(v1("203.0.113.7"), "203.0.113.7"), (b"", "127.0.0.1")])
async def test_connections_may_do_without(site: Site, header: bytes, client: str) -> None:
    port = await listening(site, "either", "proxyProtocol: {optional: true}")

    assert await seen(port, header, "either.test") == client


@pytest.mark.proves("ClientTrafficPolicy", "enableProxyProtocol")
async def test_the_former_field_says_the_same_and_is_deprecated(site: Site) -> None:
    port = await listening(site, "former", "enableProxyProtocol: true")

    assert await seen(port, v2("203.0.113.7"), "former.test") == "203.0.113.7"
    assert await seen(port, b"", "former.test") == ""
    policy = m.policy("ClientTrafficPolicy", "former", "{}", "Gateway/former")
    assert site.conditions(policy)["Warning"]["reason"] == "DeprecatedField"


async def test_a_load_balancer_says_it_before_tls(site: Site) -> None:
    port = free_port()
    listener = f"{{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: lb}}]}}}}"
    await site.apply(
        site.authority.sign("lb.test").secret("lb"),
        m.gateway("lb", f"[{listener}]"),
        m.route("lb", f"[{{filters: [{SEEN}], {m.to('one')}}}]", parents="[{name: lb}]"),
        m.policy("ClientTrafficPolicy", "lb", "proxyProtocol: {}", "Gateway/lb"),
    )
    context = site.authority.client_context("http/1.1")

    assert await seen(port, v2("203.0.113.7"), "lb.test", context) == "203.0.113.7"


def timers(port: int) -> set[str]:
    """The kinds of timers that run on the gateway's connections to clients, as Linux names them."""
    kinds = set[str]()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, _, state, _, timer, *_ = line.split()
        if int(local.partition(":")[2], 16) == port and state == "01":
            kinds.add(timer.partition(":")[0])
    return kinds


KEEPALIVE = "02"


async def test_silent_connections_are_probed(site: Site) -> None:
    port = await listening(site, "silent", "tcpKeepalive: {probes: 3, idleTime: 10s, interval: 5s}")
    async with open_to(port):
        await until(lambda: timers(port) == {KEEPALIVE})


async def test_keepalive_comes_to_a_listener_that_is_there(site: Site) -> None:
    port = await listening(site, "later", "{}")
    async with open_to(port):
        await until(lambda: timers(port) == {"00"})

    policy = m.policy("ClientTrafficPolicy", "later", "tcpKeepalive: {idleTime: 10s}", "Gateway/later")
    await site.apply(policy)

    # Envoy refuses to change it while the port is open, and nobody is to blame: the port is opened again.
    assert list(site.laptop.fleets.refusals()) == []
    assert site.conditions(policy)["Accepted"]["status"] == "True"
    assert await site.status("later.test", port=port) == 200
    async with open_to(port):
        await until(lambda: KEEPALIVE in timers(port))


SO_ATTACH_FILTER = 26


def fall_silent(writer: asyncio.StreamWriter) -> None:
    """Take nothing more of what comes on a connection, as if the machine were gone: no probe is answered."""
    nothing = create_string_buffer(pack("HBBI", 0x06, 0, 0, 0))  # a program for packets: "return 0"
    program = pack("HP", 1, addressof(nothing))
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)


@pytest.mark.proves("ClientTrafficPolicy", "tcpKeepalive.*")
@pytest.mark.slow
async def test_a_client_that_is_gone_is_noticed_by_its_probes(site: Site) -> None:
    """One that answers is not; and with more probes, or more time, it takes longer."""
    settings = {
        "gone": "{probes: 1, idleTime: 1s, interval: 1s}",
        "answering": "{probes: 1, idleTime: 1s, interval: 1s}",
        "often": "{probes: 100, idleTime: 1s, interval: 1s}",
        "late": "{probes: 1, idleTime: 1h, interval: 1s}",
        "slow": "{probes: 1, idleTime: 1s, interval: 1h}",
    }
    ports = {name: free_port() for name in settings}
    listeners = (f"{{name: {name}, port: {port}, protocol: HTTP}}" for name, port in ports.items())
    await site.apply(
        m.gateway("probes", f"[{', '.join(listeners)}]"),
        *(
            m.policy(
                "ClientTrafficPolicy", f"probes-{name}", f"tcpKeepalive: {body}", f"Gateway/probes/{name}"
            )
            for name, body in settings.items()
        ),
    )
    async with AsyncExitStack() as stack:
        for name, port in ports.items():
            _, writer = await stack.enter_async_context(open_to(port))
            await until(lambda port=port: bool(timers(port)))
            if name != "answering":
                fall_silent(writer)

        await until(lambda: not timers(ports["gone"]))

        assert {name for name, port in ports.items() if timers(port)} == {*settings} - {"gone"}


@pytest.mark.proves("ClientTrafficPolicy", "timeout.tcp.connectionInspectionTimeout")
async def test_what_precedes_the_protocol_may_take_a_time_only(site: Site) -> None:
    timeout = "timeout: {tcp: {connectionInspectionTimeout: 200ms}}"
    port = await listening(site, "unsaid", f"proxyProtocol: {{}}\n{timeout}")

    # It would be fifteen seconds.
    async with asyncio.timeout(10), open_to(port) as (reader, _):
        assert await reader.read() == b""


@asynccontextmanager
async def open_to(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which nothing is said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.proves("ClientTrafficPolicy", "healthCheck.path")
async def test_a_load_balancers_probe_is_answered_before_routes_and_credentials(site: Site) -> None:
    port = await listening(site, "probed", "healthCheck: {path: /healthz}")
    await site.apply(
        m.secret("users", _htpasswd="ann:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs="),
        m.policy("SecurityPolicy", "probed", "basicAuth: {users: {name: users}}", "HTTPRoute/probed"),
    )

    statuses = [
        await site.status(host, path, port=port)
        for host, path in (
            ("probed.test", "/healthz"),
            ("unknown.test", "/healthz"),
            ("probed.test", "/healthz/more"),
            ("probed.test", "/"),
        )
    ]

    assert statuses == [200, 200, 401, 401]
    assert site.one.requests == []


@pytest.mark.proves("ClientTrafficPolicy", "scheme")
@pytest.mark.parametrize(("scheme", "sent"), [("Preserve", "http"), ("MatchBackend", "https")])
async def test_the_scheme_may_be_that_of_the_backend(
    site: Site, tmp_path: Path, scheme: str, sent: str
) -> None:
    """A backend of HTTP/1 does not see ``:scheme``; headers of a route can say what Envoy makes of it."""
    backend = EchoOverTls("secure", tmp_path)
    backend.show(site.authority.sign("secure.test"))
    rules = f"[{{filters: [{m.tell_client('x-scheme', '%REQ(:SCHEME)%')}], {m.to('secure')}}}]"
    async with backend.serving():
        await site.apply(
            m.local("secure", backend.port),
            m.authorities("ours", site.authority.pem),
            m.backend_tls_policy(
                "secure",
                "{hostname: secure.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ours}]}",
                "Backend/secure",
            ),
        )
        port = await listening(site, "scheme", f"scheme: {scheme}", rules=rules)
        answer = await site.ask("scheme.test", port=port)

    assert (answer.status_code, answer.headers["x-scheme"]) == (200, sent)


# -- connections that carry TCP or TLS -----------------------------------------


async def passing(site: Site, name: str, body: str, listener: str = "") -> int:
    """A Gateway with one TCP listener, or another, that policy, and a route to a server of lines."""
    port = free_port()
    await site.apply(
        m.gateway(name, f"[{{name: all, port: {port}, {listener or 'protocol: TCP'}}}]"),
        m.connections("TCPRoute", name, name),
        m.policy("ClientTrafficPolicy", name, body, f"Gateway/{name}"),
    )
    return port


@asynccontextmanager
async def lines(site: Site, name: str) -> AsyncGenerator[None]:
    """A Backend of this name, with a server of lines behind it."""
    async with serving_lines(name) as port:
        await site.apply(m.local(name, port))
        yield


@pytest.mark.proves("ClientTrafficPolicy", "timeout.tcp.idleTimeout")
async def test_a_connection_of_tcp_may_be_silent_for_a_time_only(site: Site) -> None:
    async with lines(site, "quiet"):
        port = await passing(site, "quiet", "timeout: {tcp: {idleTimeout: 200ms}}")

        async with asyncio.timeout(DEADLINE_S), open_to(port) as (reader, writer):
            writer.write(b"a\n")
            assert await reader.read() == b"quiet:a\n"


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.value")
async def test_connections_of_tcp_are_limited(site: Site) -> None:
    async with lines(site, "full"):
        port = await passing(site, "full", "connection: {connectionLimit: {value: 1}}")

        async with line_to(port) as first:
            assert await first.ask("a") == "full:a"
            async with asyncio.timeout(DEADLINE_S), open_to(port) as (reader, _):
                assert await reader.read() == b""


async def test_the_proxy_protocol_is_read_before_tcp(site: Site) -> None:
    async with lines(site, "front"):
        port = await passing(site, "front", "proxyProtocol: {}")

        async with asyncio.timeout(DEADLINE_S), open_to(port) as (reader, writer):
            writer.write(v2("203.0.113.7") + b"a\n")
            assert await reader.readline() == b"front:a\n"
        async with line_to(port) as line:
            assert await line.ask("no such header, but a line that is long enough to tell") is None


async def test_connections_of_tcp_are_probed(site: Site) -> None:
    async with lines(site, "probe"):
        port = await passing(site, "probe", "tcpKeepalive: {idleTime: 10s}")

        async with line_to(port) as line:
            assert await line.ask("a") == "probe:a"
            await until(lambda: timers(port) == {KEEPALIVE})


@pytest.mark.proves("ClientTrafficPolicy", "tls.minVersion", "tls.maxVersion")
@pytest.mark.parametrize(
    ("body", "versions"),
    [
        ("timeout: {tcp: {idleTimeout: 1h}}", {"TLSv1.2", "TLSv1.3"}),
        ("tls: {minVersion: '1.3'}", {"TLSv1.3"}),
        ("tls: {maxVersion: '1.2'}", {"TLSv1.2"}),
    ],
)
async def test_tls_that_ends_here_has_the_versions_of_the_policy(
    site: Site, body: str, versions: set[str]
) -> None:
    async with lines(site, "ends"):
        await site.apply(site.authority.sign("ends.test").secret("ends"))
        tls = "protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: ends}]}"
        port = await passing(site, "ends", body, tls)

        spoken = set[str]()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = site.authority.client_context()
            context.minimum_version = context.maximum_version = version
            try:
                async with line_to(port, context, "ends.test") as line:
                    assert await line.ask("a") == "ends:a"
                    spoken.add(line.writer.get_extra_info("ssl_object").version())
            except ssl.SSLError:
                pass

    assert spoken == versions


@pytest.mark.proves("ClientTrafficPolicy", "timeout.tcp.tlsHandshakeTimeout")
async def test_a_handshake_may_take_a_time_only(site: Site) -> None:
    async with lines(site, "slowly"):
        await site.apply(site.authority.sign("slowly.test").secret("slowly"))
        tls = "protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: slowly}]}"
        port = await passing(site, "slowly", "timeout: {tcp: {tlsHandshakeTimeout: 200ms}}", tls)

        async with asyncio.timeout(DEADLINE_S), open_to(port) as (reader, _):
            assert await reader.read() == b""


async def test_a_policy_that_cannot_be_built_lets_no_connection_pass(site: Site) -> None:
    async with lines(site, "shut"):
        port = await passing(site, "shut", "connection: {bufferLimit: 4Gi}")

        assert await asked(port) is None


async def test_what_is_about_requests_means_nothing_to_connections(site: Site) -> None:
    """Also if it is wrong."""
    async with lines(site, "mixed"):
        for headers in ("{enableEnvoyHeaders: true}", "{maxRequestHeaderLimit: 1}"):
            body = (
                f"headers: {headers}\nhttp1: {{http10: {{useDefaultHost: true}}}}\ngrpc: {{enableWeb: true}}"
            )
            port = await passing(site, "mixed", body)

            assert await asked(port) == "mixed"
