"""TLS to backends: who is trusted, who is asked for, what is shown, and what happens while it changes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway
from moongate.infra.authorities import VARIABLE
from moongate.xds.wire import CLUSTER, SECRET
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo, EchoOverTls, either
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, open_site
from tests.e2e.load import Load
from tests.e2e.secret_server import SecretServer, served
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

NAME = "shop.internal"
OURS = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ours}]"
UNKNOWN = f"{{caCertificateRefs: [{{group: '', kind: ConfigMap, name: gone}}], hostname: {NAME}}}"
RATE = 120.0
SWITCH_S = 0.1
"""Workers of Envoy may be so much behind what it acknowledges."""


class Secured(Site):
    """A site whose Backend ``tls`` speaks TLS, with a certificate of ``authority`` for ``NAME``."""

    tls: EchoOverTls


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    trusted = Authority()
    # The system of these tests trusts this authority alone.
    (folder / "system.pem").write_bytes(trusted.pem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "system.pem"))
        async with AsyncExitStack() as stack:
            opened: Any = await stack.enter_async_context(open_site())
            opened.authority = trusted
            opened.tls = EchoOverTls("tls", folder)
            opened.tls.show(trusted.sign(NAME))
            await stack.enter_async_context(opened.tls.serving())
            await opened.apply(m.local("tls", opened.tls.port), m.authorities("ours", trusted.pem))
            yield opened


@pytest.fixture(autouse=True)
def _forget_tls(site: Secured) -> None:
    site.tls.forget()


async def settled(site: Site, host: str, status: int) -> None:
    """Return when a host is answered with a status: a connection that is open lives a moment longer."""
    async with asyncio.timeout(DEADLINE_S):
        while await site.status(host) != status:  # noqa: ASYNC110 - only asking shows it
            await asyncio.sleep(0.02)


async def test_requests_go_by_tls_to_whom_the_policy_names(site: Secured) -> None:
    policy = m.backend_tls_policy("named", f"{{{OURS}, hostname: {NAME}}}", "Backend/tls")
    await site.apply(policy, m.route("named", f"[{{{m.to('tls')}}}]"))

    reached = await site.reached("named.test")

    assert reached.by == "tls"
    assert site.tls.asked == [NAME]
    assert site.tls.shown == [""]
    conditions = site.conditions(policy)
    assert {c: conditions[c]["status"] for c in conditions} == {"Accepted": "True", "ResolvedRefs": "True"}
    await site.delete(policy)


@pytest.mark.parametrize(
    ("validation", "answer"),
    [
        pytest.param(f"{{{OURS}, hostname: other.internal}}", 503, id="another-name"),
        pytest.param(
            "{caCertificateRefs: [{group: '', kind: ConfigMap, name: theirs}], hostname: shop.internal}",
            503,
            id="another-authority",
        ),
        pytest.param(f"{{wellKnownCACertificates: System, hostname: {NAME}}}", 200, id="of-the-system"),
        pytest.param(
            f"{{{OURS}, hostname: other.internal, subjectAltNames: [{{type: Hostname, hostname: {NAME}}}]}}",
            200,
            id="another-name-that-is-listed",
        ),
        pytest.param(
            f"{{{OURS}, hostname: {NAME}, subjectAltNames: [{{type: URI, uri: 'spiffe://a.test/b'}}]}}",
            503,
            id="none-of-the-listed-names",
        ),
        pytest.param(
            f"{{caCertificateRefs: [{{group: '', kind: ConfigMap, name: gone}}], hostname: {NAME}}}",
            500,
            id="no-authority",
        ),
    ],
)
async def test_only_the_right_certificate_gets_requests(site: Secured, validation: str, answer: int) -> None:
    """Whoever is not known for sure gets no request: the handshake ends before anything is sent."""
    policy = m.backend_tls_policy("judged", validation, "Backend/tls")
    await site.apply(
        m.authorities("theirs", Authority().pem), policy, m.route("judged", f"[{{{m.to('tls')}}}]")
    )

    assert await site.status("judged.test") == answer
    assert len(site.tls.requests) == (answer == 200)
    await site.delete(policy)


async def test_a_backend_says_itself_how_it_is_reached(site: Secured) -> None:
    """Without a policy: its own CAs, with a fixed name, the one that is asked for, or of the endpoint."""
    at = f"ip: {{address: 127.0.0.1, port: {site.tls.port}}}"
    authority = m.spec(f"{{{OURS}}}")
    await site.apply(
        m.backend("fixed", at, tls={**authority, "sni": NAME}),
        m.backend("asked", at, tls=authority),
        m.backend(
            "endpoint", f"{at}, hostname: {NAME}", tls={**authority, "autoSNIFromEndpointHostname": True}
        ),
        m.backend("skipped", at, tls={"insecureSkipVerify": True, "sni": "any.internal"}),
        *(
            m.route(f"own-{name}", f"[{{{m.to(name)}}}]", hostnames=(f"own-{name}.test", NAME))
            for name in ("fixed", "endpoint", "skipped")
        ),
        m.route(
            "own-asked", f"[{{matches: [{{path: {{value: /asked}}}}], {m.to('asked')}}}]", hostnames=(NAME,)
        ),
        m.route("own-asked-other", f"[{{{m.to('asked')}}}]"),
    )

    for name in ("fixed", "endpoint", "skipped"):
        assert (await site.reached(f"own-{name}.test")).by == "tls"
    assert (await site.reached(NAME, "/asked")).by == "tls"
    assert site.tls.asked == [NAME, NAME, "any.internal", NAME]
    assert await site.status("own-asked-other.test") == 503


async def test_certificates_are_shown_to_a_backend_that_demands_them(site: Secured) -> None:
    """The Backend's own before the Gateway's; a renewed one is another secret, and nothing else changes."""
    clients = Authority()
    async with AsyncExitStack() as stack:
        strict = EchoOverTls("strict", site.tls.folder)
        strict.show(site.authority.sign(NAME))
        strict.demand(clients.pem)
        await stack.enter_async_context(strict.serving())
        at = f"ip: {{address: 127.0.0.1, port: {strict.port}}}"
        own = {"sni": NAME, **m.spec(f"{{{OURS}}}")}
        plain = m.gateway("gateway", f"[{{name: http, port: {site.port}, protocol: HTTP}}]")
        shown = {"backend": {"clientCertificateRef": {"name": "of-gateway"}}}
        await site.apply(
            m.backend("strict", at, tls=own),
            m.backend("strict-own", at, tls={**own, "clientCertificateRef": {"name": "of-backend"}}),
            m.route("strict", f"[{{{m.to('strict')}}}]"),
            m.route("strict-own", f"[{{{m.to('strict-own')}}}]"),
            clients.sign("of-backend").secret("of-backend"),
        )
        assert await site.status("strict.test") == 503
        assert (await site.reached("strict-own.test")).by == "strict"

        gateway = {**plain, "spec": {**plain["spec"], "tls": shown}}
        await site.apply(clients.sign("of-gateway").secret("of-gateway"), gateway)
        assert site.conditions(gateway)["ResolvedRefs"]["status"] == "True"
        assert (await site.reached("strict.test")).by == "strict"
        assert strict.shown[-1] == "of-gateway"
        before = dict(site.laptop.world.xds()["default/gateway"][CLUSTER])
        await site.apply(clients.sign("renewed").secret("of-gateway"))
        await settled(site, "strict.test", 200)

        assert site.laptop.world.xds()["default/gateway"][CLUSTER] == before
        assert "default/of-gateway" in site.laptop.world.xds()["default/gateway"][SECRET]
        assert strict.shown[:2] == ["of-backend", "of-gateway"]
        await site.delete(clients.sign("x").secret("of-gateway"))
        assert site.conditions(gateway)["ResolvedRefs"]["reason"] == "InvalidClientCertificateRef"
        await site.apply(plain)


async def test_connections_that_end_here_go_on_by_tls(site: Secured) -> None:
    """Through a TCPRoute and a TLSRoute, with the Gateway's certificate; to the right backend, or nowhere."""
    clients, tcp, tls = Authority(), free_port(), free_port()
    ports = ((tcp, False), (tls, True))
    async with AsyncExitStack() as stack:
        strict = EchoOverTls("strict", site.tls.folder)
        strict.show(site.authority.sign(NAME))
        strict.demand(clients.pem)
        await stack.enter_async_context(strict.serving())
        certificate = "tls: {certificateRefs: [{name: onward}]}"
        gateway = m.gateway(
            "onward",
            f"[{{name: tcp, port: {tcp}, protocol: TCP}},"
            f" {{name: tls, port: {tls}, protocol: TLS, {certificate}}}]",
            tls={"backend": {"clientCertificateRef": {"name": "shown"}}},
        )
        policy = m.backend_tls_policy("onward", f"{{{OURS}, hostname: {NAME}}}", "Backend/onward")
        await site.apply(
            site.authority.sign("onward.test").secret("onward"),
            clients.sign("of-gateway").secret("shown"),
            m.local("onward", strict.port),
            policy,
            gateway,
            m.connections("TCPRoute", "onward", "onward", parents="[{name: onward, sectionName: tcp}]"),
            m.connections(
                "TLSRoute",
                "onward",
                "onward",
                hostnames=("onward.test",),
                parents="[{name: onward, sectionName: tls}]",
            ),
        )

        assert [await through(site, *at) for at in ports] == ["strict"] * 2
        assert (strict.asked, strict.shown) == ([NAME] * 2, ["of-gateway"] * 2)

        for validation in (f"{{{OURS}, hostname: other.internal}}", UNKNOWN):
            await site.apply(m.backend_tls_policy("onward", validation, "Backend/onward"))
            async with asyncio.timeout(DEADLINE_S):
                while any([await through(site, *at) for at in ports]):  # noqa: ASYNC110 - as in ``settled``
                    await asyncio.sleep(0.02)
            strict.forget()
            assert [await through(site, *at) for at in ports] == [None] * 2
            assert strict.requests == []
        await site.delete(gateway, policy)


async def through(site: Secured, port: int, tls: bool) -> str | None:
    """Who answers a request on a new connection to a port; ``None`` if that is closed instead."""
    async with httpx.AsyncClient(
        verify=site.authority.client_context(), trust_env=False, timeout=DEADLINE_S
    ) as client:
        try:
            return (await site.reached("onward.test", port=port, tls=tls, client=client)).by
        except httpx.HTTPError:
            return None


async def test_the_older_of_two_policies_is_in_force_and_goes_without_a_gap(site: Secured) -> None:
    first = m.backend_tls_policy("first", f"{{{OURS}, hostname: {NAME}}}", "Backend/tls")
    second = m.backend_tls_policy("second", f"{{{OURS}, hostname: other.internal}}", "Backend/tls")
    await site.apply(first, second, m.route("rivals", f"[{{{m.to('tls')}}}]"))

    assert (await site.reached("rivals.test")).by == "tls"
    assert site.conditions(second)["Accepted"]["reason"] == "Conflicted"

    await site.delete(first)
    assert site.conditions(second)["Accepted"]["status"] == "True"
    await settled(site, "rivals.test", 503)
    assert site.tls.asked[-1] == "other.internal"
    await site.delete(second)


async def test_a_policy_comes_and_goes_under_load_and_no_request_fails(site: Secured) -> None:
    """As soon as a policy is in force, nothing is sent in the clear; and no request fails for the change."""
    clear = Echo("clear")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(clear.serving())
        port = await stack.enter_async_context(either(clear.port, site.tls.port))
        policy = m.backend_tls_policy("sudden", f"{{{OURS}, hostname: {NAME}}}", "Backend/both")
        await site.apply(m.local("both", port), m.route("sudden", f"[{{{m.to('both')}}}]"))
        load, stop = Load(site.port, "sudden.test", RATE, 8), asyncio.Event()
        spans: list[tuple[float, float]] = []
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run(stop))
            for _ in range(3):
                await asyncio.sleep(0.3)
                await site.apply(policy)
                secure_from = loop.time()
                await asyncio.sleep(0.5)
                spans.append((secure_from + SWITCH_S, loop.time()))
                await site.delete(policy)
            stop.set()
            await running

    assert {(a.status, a.error) for a in load.answers} == {(200, "")}
    secured = [a for a in load.answers if any(low <= a.sent and a.received <= high for low, high in spans)]
    assert {a.backend for a in secured} == {"tls"}
    assert {a.backend for a in load.answers} == {"tls", "clear"}
    assert len(load.answers) > RATE


async def test_nothing_is_sent_in_the_clear_to_an_endpoint_that_comes_with_tls(site: Secured) -> None:
    """A Backend gets another endpoint and TLS in one edit: its old form knows neither."""
    in_the_clear = Echo("in-the-clear")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(in_the_clear.serving())
        port = await stack.enter_async_context(either(in_the_clear.port, site.tls.port))
        plain = m.local("moving", site.one.port)
        secure = m.local("moving", port, tls={**m.spec(f"{{{OURS}}}"), "sni": NAME})
        await site.apply(plain, m.route("moving", f"[{{{m.to('moving')}}}]"))
        load, stop = Load(site.port, "moving.test", 4 * RATE, 16), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run(stop))
            for _ in range(5):
                for document in (secure, plain):
                    await asyncio.sleep(0.1)
                    await site.apply(document)
            stop.set()
            await running

    assert in_the_clear.requests == []
    assert {(a.status, a.error) for a in load.answers} == {(200, "")}
    assert {a.backend for a in load.answers} == {"one", "tls"}


async def test_authorities_are_exchanged_under_load_and_no_request_fails(site: Secured) -> None:
    """Both are trusted while the backend changes its certificate; a step changes one secret, no cluster."""
    later = Authority()
    policy = m.backend_tls_policy("moved", f"{{{OURS}, hostname: {NAME}}}", "Backend/tls")
    await site.apply(policy, m.route("moved", f"[{{{m.to('tls')}}}]"))
    clusters = dict(site.laptop.world.xds()["default/gateway"][CLUSTER])
    load, stop = Load(site.port, "moved.test", RATE, 8), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.run(stop))
        await asyncio.sleep(0.2)
        await site.apply(m.authorities("ours", site.authority.pem, later.pem))
        # Envoy's workers take it later than its main thread, on a busy machine by tenths of a second.
        await asyncio.sleep(20 * SWITCH_S)
        site.tls.show(later.sign(NAME))
        await asyncio.sleep(0.2)
        await site.apply(m.authorities("ours", later.pem))
        await asyncio.sleep(0.3)
        stop.set()
        await running

    assert {(a.status, a.error) for a in load.answers} == {(200, "")}
    assert site.laptop.world.xds()["default/gateway"][CLUSTER] == clusters
    site.tls.show(site.authority.sign(NAME))
    await site.apply(m.authorities("ours", site.authority.pem))
    await site.delete(policy)


async def test_secrets_may_come_from_another_server(site: Secured, tmp_path: Path) -> None:
    """Envoy asks it by itself: moongate never has the certificates."""
    clients, servers = Authority(), SecretServer()
    shipped = EnvoyGateway.shipped()
    apis = structs.replace(shipped.extension_apis, enable_sds_secret_ref=True)
    servers.trust("ROOTCA", site.authority.pem)
    servers.show("default", clients.sign("of-the-server"))
    socket = tmp_path / "sds"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(servers.serving(socket))
        other = await stack.enter_async_context(
            open_site(config=structs.replace(shipped, extension_apis=apis))
        )
        strict = EchoOverTls("strict", tmp_path)
        strict.show(site.authority.sign(NAME))
        strict.demand(clients.pem)
        await stack.enter_async_context(strict.serving())
        await other.apply(
            served("root", "ROOTCA", socket),
            served("client", "default", socket),
            m.backend(
                "strict",
                f"ip: {{address: 127.0.0.1, port: {strict.port}}}",
                tls={
                    "sni": NAME,
                    "caCertificateRefs": [{"group": "", "kind": "Secret", "name": "root"}],
                    "clientCertificateRef": {"name": "client"},
                },
            ),
            m.route("served", f"[{{{m.to('strict')}}}]"),
        )
        await settled(other, "served.test", 200)

        assert strict.shown[-1] == "of-the-server"
