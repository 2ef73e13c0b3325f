"""ClientTrafficPolicy, as clients see it: timeouts, limits, TLS, paths, whose address counts."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


SEEN = m.tell_backend("x-seen", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")
"""Tells the backend whom Envoy takes for the client."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
async def connected(port: int, **tls: Any) -> AsyncGenerator[Connection]:
    """A raw connection to the gateway, for a shorter time than the 15 seconds that any request may take."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


def get(host: str) -> bytes:
    """A whole request."""
    return f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


async def status_over(connection: Connection, request: bytes) -> int:
    """The status that a request, or the beginning of one, is answered with over an open connection."""
    reader, writer = connection
    writer.write(request)
    return int((await reader.readline()).split()[1])


@pytest.mark.proves("ClientTrafficPolicy", "timeout.http.idleTimeout")
async def test_an_idle_connection_is_closed(site: Site) -> None:
    port = await listening(site, "idle", "timeout: {http: {idleTimeout: 100ms}}")

    async with connected(port) as (reader, _):
        assert await reader.read() == b""


@pytest.mark.proves("ClientTrafficPolicy", "timeout.http.requestReceivedTimeout")
async def test_a_request_that_does_not_come_to_its_end_is_answered_408(site: Site) -> None:
    port = await listening(site, "slow", "timeout: {http: {requestReceivedTimeout: 100ms}}")

    async with connected(port) as over:
        half = b"POST / HTTP/1.1\r\nhost: slow.test\r\ncontent-length: 10\r\n\r\nhalf"
        assert await status_over(over, half) == 408


@pytest.mark.proves("ClientTrafficPolicy", "timeout.http.requestHeadersReceivedTimeout")
async def test_the_head_of_a_request_has_its_own_time(site: Site) -> None:
    port = await listening(site, "head", "timeout: {http: {requestHeadersReceivedTimeout: 100ms}}")

    async with connected(port) as over:
        assert await status_over(over, get("head.test").removesuffix(b"\r\n")) == 408


@pytest.mark.proves("ClientTrafficPolicy", "timeout.http.streamIdleTimeout")
async def test_a_request_on_which_nothing_moves_is_given_up(site: Site) -> None:
    port = await listening(site, "still", "timeout: {http: {streamIdleTimeout: 100ms}}")
    site.one.faults.append("stall")

    async with connected(port) as over:
        assert await status_over(over, get("still.test")) == 504


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.maxStreamDuration")
async def test_a_request_that_lasts_too_long_is_cut_off(site: Site) -> None:
    port = await listening(site, "lasting", "connection: {connectionLimit: {maxStreamDuration: 100ms}}")
    site.one.faults.append("stall")

    async with connected(port) as over:
        assert await status_over(over, get("lasting.test")) == 504


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.value")
async def test_a_connection_over_the_limit_is_closed(site: Site) -> None:
    port = await listening(site, "crowded", "connection: {connectionLimit: {value: 1}}")

    async with connected(port) as over:
        assert await status_over(over, get("crowded.test")) == 200
        async with connected(port) as (other, _):
            assert await other.read() == b""


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.closeDelay")
async def test_a_connection_over_the_limit_is_held_before_it_is_closed(site: Site) -> None:
    limit = "connection: {connectionLimit: {value: 1, closeDelay: 500ms}}"
    port = await listening(site, "held", limit)

    async with connected(port) as over:
        assert await status_over(over, get("held.test")) == 200
        began = monotonic()
        async with connected(port) as (other, _):
            assert await other.read() == b""

    assert monotonic() - began >= 0.4


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.maxConnectionDuration")
async def test_an_old_connection_ends_with_an_answer(site: Site) -> None:
    port = await listening(site, "aged", "connection: {connectionLimit: {maxConnectionDuration: 300ms}}")

    async with connected(port) as over:
        while not await closes(over, "aged.test"):
            pass
        assert await over[0].read() == b""


@pytest.mark.slow
@pytest.mark.proves(
    "ClientTrafficPolicy",
    "connection.connectionLimit.maxConnectionDuration",
    "http1.disableSafeMaxConnectionDuration",
)
async def test_an_old_connection_may_end_between_two_requests(site: Site) -> None:
    """Its client hears of it only by its end, when the time for draining is over."""
    port = await listening(
        site,
        "cut",
        "connection: {connectionLimit: {maxConnectionDuration: 500ms}}\n"
        "http1: {disableSafeMaxConnectionDuration: true}",
    )

    async with connected(port) as over:
        await closes(over, "cut.test")
        assert await over[0].read() == b""


@pytest.mark.proves("ClientTrafficPolicy", "connection.bufferLimit")
@pytest.mark.parametrize(("limit", "status"), [("32Ki", 200), ("1Ki", 503)])
async def test_what_exceeds_the_buffer_is_not_sent_again(site: Site, limit: str, status: int) -> None:
    port = await listening(site, "again", f"connection: {{bufferLimit: {limit}}}")
    retry = "retry: {numRetries: 1, retryOn: {triggers: [5xx]}}"
    await site.apply(m.policy("BackendTrafficPolicy", "again", retry, "HTTPRoute/again"))
    site.one.statuses.append(503)

    answer = await site.ask("again.test", port=port, method="POST", content=b"x" * 16384)

    assert answer.status_code == status
    await site.delete(m.policy("BackendTrafficPolicy", "again", retry, "HTTPRoute/again"))


@pytest.mark.proves("ClientTrafficPolicy", "connection.connectionLimit.maxRequestsPerConnection")
async def test_a_connection_takes_no_more_requests_than_allowed(site: Site) -> None:
    port = await listening(site, "few", "connection: {connectionLimit: {maxRequestsPerConnection: 1}}")

    answer = await site.ask("few.test", port=port)

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


@pytest.mark.proves("ClientTrafficPolicy", "tls.minVersion")
async def test_older_versions_of_tls_are_turned_away(site: Site) -> None:
    port = await listening_with_tls(site, "versions", "tls: {minVersion: '1.3'}")

    assert await handshake(site, port, "versions", newest=ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        await handshake(site, port, "versions", newest=ssl.TLSVersion.TLSv1_2)


@pytest.mark.proves("ClientTrafficPolicy", "tls.maxVersion")
async def test_newer_versions_of_tls_can_be_turned_off(site: Site) -> None:
    port = await listening_with_tls(site, "old", "tls: {maxVersion: '1.2'}")

    assert await handshake(site, port, "old", newest=ssl.TLSVersion.TLSv1_3) == "TLSv1.2"


@pytest.mark.proves("ClientTrafficPolicy", "tls.ciphers")
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


@pytest.mark.proves("ClientTrafficPolicy", "tls.ecdhCurves")
async def test_only_the_given_curves_are_spoken(site: Site) -> None:
    port = await listening_with_tls(site, "curves", "tls: {ecdhCurves: [P-384]}")

    async def meets(curve: str) -> bool:
        context = site.authority.client_context()
        context.set_ecdh_curve(curve)
        try:
            async with connected(port, ssl=context, server_hostname="curves.test"):
                return True
        except (ssl.SSLError, ConnectionError):
            return False

    assert [await meets("secp384r1"), await meets("prime256v1")] == [True, False]


@pytest.mark.proves("ClientTrafficPolicy", "tls.signatureAlgorithms")
@pytest.mark.parametrize(
    ("algorithms", "digest"), [("rsa_pss_rsae_sha512", "SHA512"), ("rsa_pss_rsae_sha384", "SHA384")]
)
async def test_only_the_given_algorithms_sign(site: Site, algorithms: str, digest: str) -> None:
    port = await listening_with_tls(site, "signed", f"tls: {{signatureAlgorithms: [{algorithms}]}}")
    await site.apply(site.authority.sign("signed.test", rsa=True).secret("signed"))

    openssl = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "signed.test"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await openssl.communicate()

    assert f"Peer signing digest: {digest}".encode() in said


def resumes(context: ssl.SSLContext, port: int, name: str) -> bool:
    """Whether a second connection resumes the session of a first one."""
    session = None
    resumed = False
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=name, session=session) as tls,
        ):
            tls.sendall(get(name))
            assert tls.recv(12) == b"HTTP/1.1 200"
            session, resumed = tls.session, bool(tls.session_reused)
    return resumed


@pytest.mark.proves("ClientTrafficPolicy", "tls.session.*")
@pytest.mark.parametrize(
    ("resumption", "by_ticket", "by_id"),
    [("{}", False, False), ("{stateless: {}}", True, False), ("{stateful: {}}", True, True)],
)
async def test_sessions_are_resumed_as_the_policy_says(
    site: Site, resumption: str, by_ticket: bool, by_id: bool
) -> None:
    """A client that knows tickets knows ids as well."""
    port = await listening_with_tls(site, "resume", f"tls: {{session: {{resumption: {resumption}}}}}")
    context = site.authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with_tickets = await asyncio.to_thread(resumes, context, port, "resume.test")
    context.options |= ssl.OP_NO_TICKET
    without = await asyncio.to_thread(resumes, context, port, "resume.test")

    assert (with_tickets, without) == (by_ticket, by_id)


@pytest.mark.proves("ClientTrafficPolicy", "tls.fingerprints")
@pytest.mark.parametrize(
    ("asked", "fingerprints"), [("JA3", (True, False)), ("JA4", (False, True)), ("JA3, JA4", (True, True))]
)
async def test_clients_have_fingerprints(site: Site, asked: str, fingerprints: tuple[bool, bool]) -> None:
    port = await listening_with_tls(site, "prints", f"tls: {{fingerprints: [{asked}]}}")
    tell = m.tell_backend("x-prints", "%TLS_JA3_FINGERPRINT%/%TLS_JA4_FINGERPRINT%")
    await site.apply(m.route("prints", f"[{{filters: [{tell}], {m.to('one')}}}]", parents="[{name: prints}]"))

    request = await site.reached("prints.test", port=port, tls=True)

    ja3, ja4 = (request.header("x-prints") or "").split("/")
    assert (len(ja3) == 32, ja4.startswith("t")) == fingerprints


@pytest.mark.proves("ClientTrafficPolicy", "tls.alpnProtocols")
async def test_only_the_given_protocols_are_offered(site: Site) -> None:
    port = await listening_with_tls(site, "alpn", "tls: {alpnProtocols: [http/1.1]}")
    context = site.authority.client_context()

    async with httpx.AsyncClient(verify=context, http2=True, trust_env=False, timeout=DEADLINE_S) as client:
        answer = await site.ask("alpn.test", port=port, tls=True, client=client)

    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


@pytest.mark.proves("ClientTrafficPolicy", "path.escapedSlashesAction")
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


@pytest.mark.proves("ClientTrafficPolicy", "path.disableMergeSlashes")
@pytest.mark.parametrize(("disabled", "path"), [("false", "/a/b"), ("true", "/a//b")])
async def test_double_slashes_are_merged_by_default(site: Site, disabled: str, path: str) -> None:
    port = await listening(site, "slashes", f"path: {{disableMergeSlashes: {disabled}}}")

    assert (await site.reached("slashes.test", "/a//b", port=port)).path == path


@pytest.mark.proves("ClientTrafficPolicy", "clientIPDetection.xForwardedFor.numTrustedHops")
async def test_the_client_is_whom_the_trusted_proxies_name(site: Site) -> None:
    port = await listening(site, "hops", "clientIPDetection: {xForwardedFor: {numTrustedHops: 2}}")

    request = await site.reached(
        "hops.test", port=port, headers={"x-forwarded-for": "6.6.6.6, 1.2.3.4, 10.0.0.1"}
    )

    assert request.header("x-seen") == "1.2.3.4"


@pytest.mark.proves("ClientTrafficPolicy", "clientIPDetection.xForwardedFor.trustedCIDRs")
async def test_trusted_proxies_may_be_known_by_their_addresses(site: Site) -> None:
    trusted = "clientIPDetection: {xForwardedFor: {trustedCIDRs: [127.0.0.0/8, 10.0.0.0/8]}}"
    port = await listening(site, "blocks", trusted)

    request = await site.reached(
        "blocks.test", port=port, headers={"x-forwarded-for": "6.6.6.6, 1.2.3.4, 10.0.0.1"}
    )

    assert request.header("x-seen") == "1.2.3.4"


@pytest.mark.proves("ClientTrafficPolicy", "clientIPDetection.xForwardedFor.disableXForwardedForAppend")
@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize(("disabled", "added"), [("false", 1), ("true", 0)])
async def test_the_address_of_who_connected_is_added_or_not(
    site: Site, hops: int, disabled: str, added: int
) -> None:
    """For one on its own machine Envoy says its own address."""
    asked = f"{{numTrustedHops: {hops}, disableXForwardedForAppend: {disabled}}}"
    port = await listening(site, "append", f"clientIPDetection: {{xForwardedFor: {asked}}}")

    request = await site.reached("append.test", port=port, headers={"x-forwarded-for": "1.2.3.4"})

    first, *others = (request.header("x-forwarded-for") or "").split(",")
    assert (first, len(others)) == ("1.2.3.4", added)


@pytest.mark.proves("ClientTrafficPolicy", "clientIPDetection.directSourceIP")
async def test_the_client_may_be_who_connected_whatever_headers_say(site: Site) -> None:
    """As without a policy; here it takes the place of a header that was believed."""
    port = await listening(site, "direct", "clientIPDetection: {customHeader: {name: x-client}}")
    headers = {"x-client": "1.2.3.4", "x-forwarded-for": "1.2.3.4", "connection": "close"}
    before = await site.reached("direct.test", port=port, headers=headers)

    direct = "clientIPDetection: {directSourceIP: {}}"
    await site.apply(m.policy("ClientTrafficPolicy", "direct", direct, "Gateway/direct"))
    after = await site.reached("direct.test", port=port, headers=headers)

    assert [request.header("x-seen") for request in (before, after)] == ["1.2.3.4", "127.0.0.1"]


async def test_without_trusted_proxies_nobody_can_say_who_the_client_is(site: Site) -> None:
    """With 0 of them, the header is the client's own word."""
    port = await listening(site, "nohops", "clientIPDetection: {xForwardedFor: {numTrustedHops: 0}}")

    request = await site.reached("nohops.test", port=port, headers={"x-forwarded-for": "1.2.3.4"})

    assert request.header("x-seen") == "127.0.0.1"


@pytest.mark.proves("ClientTrafficPolicy", "clientIPDetection.customHeader.*")
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


@pytest.mark.proves("ClientTrafficPolicy", "mergeType")
async def test_a_policy_of_a_listener_may_be_laid_over_that_of_the_gateway(site: Site) -> None:
    """Without ``mergeType`` nothing of the other holds."""
    ports = {name: free_port() for name in ("replaced", "merged")}
    listeners = (f"{{name: {name}, port: {port}, protocol: HTTP}}" for name, port in ports.items())
    allow = "headers: {withUnderscoresAction: Allow}"
    await site.apply(
        m.gateway("laid", f"[{', '.join(listeners)}]"),
        m.route("laid", f"[{{{m.to('one')}}}]", parents="[{name: laid}]"),
        m.policy(
            "ClientTrafficPolicy", "laid", "path: {escapedSlashesAction: RejectRequest}", "Gateway/laid"
        ),
        m.policy("ClientTrafficPolicy", "replaced", allow, "Gateway/laid/replaced"),
        m.policy(
            "ClientTrafficPolicy", "merged", f"mergeType: StrategicMerge\n{allow}", "Gateway/laid/merged"
        ),
    )

    escaped = {name: await site.status("laid.test", "/a%2Fb", port=port) for name, port in ports.items()}
    scored = {
        name: await site.status("laid.test", port=port, headers={"x_user": "1"})
        for name, port in ports.items()
    }

    assert escaped == {"replaced": 307, "merged": 400}
    assert scored == {"replaced": 200, "merged": 200}


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
    writer.write(get(host))
    async with asyncio.timeout(DEADLINE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
    return b"connection: close" in head
