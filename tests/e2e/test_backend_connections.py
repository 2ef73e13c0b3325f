"""Connections to backends, as backends see them: what is spoken, what is kept, and how they are found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e import manifests as m
from tests.e2e.backends import PRIOR_KNOWLEDGE, Echo, EchoOverHttp2, EchoOverTls, after_proxy_header, either
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, until

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def policy(name: str, body: str) -> m.Document:
    """A policy of the route of that name."""
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


# -- proxy protocol ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "begin"), [("V1", b"PROXY TCP4 127.0.0.1 "), ("V2", b"\r\n\r\n\0\r\nQUIT\n!")]
)
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


async def test_the_protocol_of_the_client_is_spoken(site: Site) -> None:
    over_http2 = EchoOverHttp2("two")
    async with (
        over_http2.serving(),
        either(site.one.port, over_http2.port, PRIOR_KNOWLEDGE) as port,
        httpx.AsyncClient(http1=False, http2=True, trust_env=False) as client,
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
    found: set[str] = set()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if state == "01" and int(remote.rpartition(":")[2], 16) == port:
            found.add(timer.partition(":")[0])
    return found


# -- how they are found ------------------------------------------------------------


async def test_addresses_are_of_the_family_that_is_asked_for(site: Site) -> None:
    """The backend listens on IPv4 only."""
    await site.apply(
        m.backend("named", f"fqdn: {{hostname: localhost, port: {site.one.port}}}"),
        m.route("named", f"[{{{m.to('named')}}}]"),
    )

    for family, expected in (("IPv4", 200), ("IPv6", 503), ("IPv4Preferred", 200)):
        await site.apply(policy("named", f"dns: {{lookupFamily: {family}}}"))

        assert await site.status("named.test") == expected


# -- admission control -------------------------------------------------------------


async def test_most_requests_are_rejected_while_a_backend_fails(site: Site) -> None:
    await site.apply(
        m.route("failing", f"[{{{m.to('one')}}}]"),
        policy(
            "failing",
            "admissionControl: {samplingWindow: 5s, minSuccessRate: 100, maxRejectionPercent: 90}",
        ),
    )
    site.one.statuses.extend([500] * 200)

    statuses = Counter([await site.status("failing.test") for _ in range(100)])

    assert set(statuses) == {500, 503}
    assert statuses[503] > 50
    assert len(site.one.requests) == statuses[500]


async def test_a_status_that_is_named_is_a_success(site: Site) -> None:
    await site.apply(
        m.route("teapot", f"[{{{m.to('one')}}}]"),
        policy(
            "teapot",
            "admissionControl: {minSuccessRate: 100, maxRejectionPercent: 100, "
            "successCriteria: {http: {statusCodes: [500]}}}",
        ),
    )
    site.one.statuses.extend([500] * 40)

    assert [await site.status("teapot.test") for _ in range(40)] == [500] * 40
