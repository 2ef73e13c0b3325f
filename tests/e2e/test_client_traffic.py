"""ClientTrafficPolicy, as clients see it: timeouts, limits, TLS, paths, whose address counts."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


SEEN = m.tell_backend("x-seen", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")
"""Tells the backend whom Envoy takes for the client."""


async def listening(site: Site, name: str, body: str) -> int:
    """A Gateway with one HTTP listener, that policy, and a route to ``one``; the port."""
    port = free_port()
    await site.apply(
        m.gateway(name, f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route(name, f"[{{filters: [{SEEN}], {m.to('one')}}}]", parents=f"[{{name: {name}}}]"),
        m.policy("ClientTrafficPolicy", name, body, f"Gateway/{name}"),
    )
    return port


async def listening_with_tls(site: Site, name: str, body: str) -> int:
    """The same with an HTTPS listener."""
    port = free_port()
    await site.apply(
        site.authority.sign(f"{name}.test").secret(name),
        m.gateway(
            name,
            f"[{{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: {name}}}]}}}}]",
        ),
        m.route(name, f"[{{{m.to('one')}}}]", parents=f"[{{name: {name}}}]"),
        m.policy("ClientTrafficPolicy", name, body, f"Gateway/{name}"),
    )
    return port


@asynccontextmanager
async def connected(
    port: int, **tls: Any
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to the gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


async def test_an_idle_connection_is_closed(site: Site) -> None:
    port = await listening(site, "idle", "timeout: {http: {idleTimeout: 100ms}}")

    async with connected(port) as (reader, _):
        assert await reader.read() == b""


async def test_a_request_that_does_not_come_to_its_end_is_answered_408(site: Site) -> None:
    port = await listening(site, "slow", "timeout: {http: {requestReceivedTimeout: 100ms}}")

    async with connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: slow.test\r\ncontent-length: 10\r\n\r\nhalf")
        assert (await reader.readline()).split()[1] == b"408"


async def test_a_connection_over_the_limit_is_closed(site: Site) -> None:
    port = await listening(site, "crowded", "connection: {connectionLimit: {value: 1}}")

    async with connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: crowded.test\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        async with connected(port) as (other, _):
            assert await other.read() == b""


async def test_a_connection_takes_no_more_requests_than_allowed(site: Site) -> None:
    port = await listening(site, "few", "connection: {connectionLimit: {maxRequestsPerConnection: 1}}")

    answer = await site.ask("few.test", port=port)

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


async def test_older_versions_of_tls_are_turned_away(site: Site) -> None:
    port = await listening_with_tls(site, "versions", "tls: {minVersion: '1.3'}")

    assert await handshake(site, port, "versions", newest=ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        await handshake(site, port, "versions", newest=ssl.TLSVersion.TLSv1_2)


async def test_newer_versions_of_tls_can_be_turned_off(site: Site) -> None:
    port = await listening_with_tls(site, "old", "tls: {maxVersion: '1.2'}")

    assert await handshake(site, port, "old", newest=ssl.TLSVersion.TLSv1_3) == "TLSv1.2"


async def test_only_the_given_ciphers_are_spoken(site: Site) -> None:
    cipher = "ECDHE-ECDSA-AES256-GCM-SHA384"
    port = await listening_with_tls(site, "ciphers", f"tls: {{maxVersion: '1.2', ciphers: [{cipher}]}}")

    assert await handshake(site, port, "ciphers", ciphers=cipher) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        await handshake(site, port, "ciphers", ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")


async def handshake(
    site: Site,
    port: int,
    name: str,
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ciphers: str = "DEFAULT",
) -> str | None:
    """The version of TLS that a client speaks with the gateway."""
    context = site.authority.client_context()
    context.maximum_version = newest
    context.set_ciphers(ciphers)
    async with connected(port, ssl=context, server_hostname=f"{name}.test") as (_, writer):
        tls: Any = writer.get_extra_info("ssl_object")
        return tls.version()


async def test_only_the_given_protocols_are_offered(site: Site) -> None:
    port = await listening_with_tls(site, "alpn", "tls: {alpnProtocols: [http/1.1]}")
    context = site.authority.client_context()

    async with httpx.AsyncClient(verify=context, http2=True, trust_env=False) as client:
        answer = await site.ask("alpn.test", port=port, tls=True, client=client)

    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


@pytest.mark.parametrize(
    ("action", "status", "reaching"),
    [
        ("KeepUnchanged", 200, "/a%2Fb"),
        ("RejectRequest", 400, ""),
        ("UnescapeAndForward", 200, "/a/b"),
        ("UnescapeAndRedirect", 307, "/a/b"),
    ],
)
async def test_escaped_slashes_are_treated_as_configured(
    site: Site, action: str, status: int, reaching: str
) -> None:
    port = await listening(site, "escaped", f"path: {{escapedSlashesAction: {action}}}")

    answer = await site.ask("escaped.test", "/a%2Fb", port=port)

    assert answer.status_code == status
    match status:
        case 200:
            assert answer.json()["path"] == reaching
        case 307:
            assert answer.headers["location"].endswith(reaching)
        case _:
            assert site.one.requests == []


@pytest.mark.parametrize(("disabled", "path"), [("false", "/a/b"), ("true", "/a//b")])
async def test_double_slashes_are_merged_by_default(site: Site, disabled: str, path: str) -> None:
    port = await listening(site, "slashes", f"path: {{disableMergeSlashes: {disabled}}}")

    assert (await site.reached("slashes.test", "/a//b", port=port)).path == path


async def test_the_client_is_whom_the_trusted_proxies_name(site: Site) -> None:
    port = await listening(site, "hops", "clientIPDetection: {xForwardedFor: {numTrustedHops: 2}}")

    request = await site.reached(
        "hops.test", port=port, headers={"x-forwarded-for": "6.6.6.6, 1.2.3.4, 10.0.0.1"}
    )

    assert request.header("x-seen") == "1.2.3.4"


async def test_without_trusted_proxies_nobody_can_say_who_the_client_is(site: Site) -> None:
    """With 0 of them, the header is the client's own word."""
    port = await listening(site, "nohops", "clientIPDetection: {xForwardedFor: {numTrustedHops: 0}}")

    request = await site.reached("nohops.test", port=port, headers={"x-forwarded-for": "1.2.3.4"})

    assert request.header("x-seen") == "127.0.0.1"


async def test_the_client_is_whom_a_header_names_and_without_it_the_answer_is_403(site: Site) -> None:
    port = await listening(
        site, "custom", "clientIPDetection: {customHeader: {name: x-client, failClosed: true}}"
    )

    request = await site.reached("custom.test", port=port, headers={"x-client": "1.2.3.4"})

    assert request.header("x-seen") == "1.2.3.4"
    assert await site.status("custom.test", port=port) == 403


async def test_a_policy_of_a_listener_stands_in_for_that_of_the_gateway(site: Site) -> None:
    left, right = free_port(), free_port()
    await site.apply(
        m.gateway(
            "sides",
            f"[{{name: left, port: {left}, protocol: HTTP}}, {{name: right, port: {right}, protocol: HTTP}}]",
        ),
        m.route("sides", f"[{{{m.to('one')}}}]", parents="[{name: sides}]"),
        m.policy(
            "ClientTrafficPolicy", "sides", "path: {escapedSlashesAction: RejectRequest}", "Gateway/sides"
        ),
        m.policy(
            "ClientTrafficPolicy",
            "side",
            "path: {escapedSlashesAction: KeepUnchanged}",
            "Gateway/sides/right",
        ),
    )

    assert await site.status("sides.test", "/a%2Fb", port=left) == 400
    assert await site.status("sides.test", "/a%2Fb", port=right) == 200


async def test_a_policy_that_cannot_be_built_answers_500(site: Site) -> None:
    """It may be what keeps strangers out."""
    port = await listening(site, "broken", "tls: {ciphers: [NONE-SUCH]}")

    assert await site.status("broken.test", port=port) == 500


async def test_a_listener_that_changes_lets_the_connections_of_others_on_its_port_live(site: Site) -> None:
    """Both are filter chains of one Envoy listener, which gets a new one of the two and keeps the other."""
    port = free_port()
    tls = "protocol: HTTPS, tls: {certificateRefs: [{name: chains}]}"
    await site.apply(
        site.authority.sign("kept.chains.test", "changed.chains.test").secret("chains"),
        m.gateway(
            "chains",
            f"[{{name: kept, port: {port}, hostname: kept.chains.test, {tls}}},"
            f" {{name: changed, port: {port}, hostname: changed.chains.test, {tls}}}]",
        ),
        m.route("chains", f"[{{{m.to('one')}}}]", parents="[{name: chains}]", hostnames=("*.chains.test",)),
    )
    async with (
        connection(site, port, "kept.chains.test") as kept,
        connection(site, port, "changed.chains.test") as changed,
    ):
        assert await closes(kept, "kept.chains.test") is False
        assert await closes(changed, "changed.chains.test") is False

        idle = "timeout: {http: {idleTimeout: 90s}}"
        await site.apply(m.policy("ClientTrafficPolicy", "chains", idle, "Gateway/chains/changed"))

        assert await closes(kept, "kept.chains.test") is False
        assert await closes(changed, "changed.chains.test") is True


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(site: Site, port: int, name: str) -> AsyncGenerator[Connection]:
    """A TLS connection that asks for ``name``."""
    context = site.authority.client_context("http/1.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.close()


async def closes(over: Connection, host: str) -> bool:
    """Whether Envoy answers a request over an open connection, and says that it was the last one there."""
    reader, writer = over
    writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
    return b"connection: close" in head
