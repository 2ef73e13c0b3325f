"""A server of the user's says who may pass: by gRPC, and by HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.auth_servers import AuthServer
from tests.e2e.backends import Echo
from tests.e2e.conftest import Site, open_site
from tests.e2e.differing import OTHER_FORMS
from tests.e2e.guarded import watching
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from moongate.api.envoygateway import EnvoyGateway

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

KEY = {"x-key": "sesame"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_grpc(site: Site) -> AsyncGenerator[AuthServer]:
    async with AuthServer().serving() as server:
        await site.apply(m.local("grpc-auth", server.port))
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_http(site: Site) -> AsyncGenerator[Echo]:
    async with Echo("auth").serving() as server:
        await site.apply(m.local("http-auth", server.port))
        yield server


@pytest.fixture(autouse=True)
def _unasked(by_grpc: AuthServer, by_http: Echo) -> None:
    by_grpc.asked.clear()
    by_http.forget()


def another_client() -> httpx.AsyncClient:
    """One without connections: those that are open when a list of headers comes lack its instance."""
    return httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False)


def asking(server: str, settings: str, more: str = "") -> str:
    """A rule to backend ``one`` that asks a server first."""
    auth = f"{{backendRef: {m.backend_ref(server)}, {settings}{more}}}"
    return f"{{filters: [{{type: ExternalAuth, externalAuth: {auth}}}], {m.to('one')}}}"


GRPC = "protocol: GRPC, grpc: {}"
HTTP = "protocol: HTTP, http: {}"
FORWARD = ", forwardBody: {maxSize: 10}"


async def test_a_server_that_speaks_grpc_lets_pass_and_keeps_out(site: Site, by_grpc: AuthServer) -> None:
    await site.apply(m.route("grpc", f"[{asking('grpc-auth', GRPC)}]"))

    passed = await site.ask("grpc.test", "/cart?all", headers={**KEY, "x-more": "1"})
    refused = await site.ask("grpc.test", headers={"x-key": "guess"})

    assert (passed.status_code, passed.headers["x-checked"]) == (200, "yes")
    assert (refused.status_code, refused.text, refused.headers["x-why"]) == (401, "no key", "key")
    [request] = site.one.requests
    assert (request.header("x-user"), request.header("host")) == ("ali", "grpc.test")
    assert (by_grpc.asked[0].path, by_grpc.asked[0].headers["x-more"]) == ("/cart?all", "1")


async def test_it_sees_the_listed_headers_alone(site: Site, by_grpc: AuthServer) -> None:
    settings = "protocol: GRPC, grpc: {allowedHeaders: [X-Key]}"
    await site.apply(m.route("listed", f"[{asking('grpc-auth', settings)}]"))

    async with another_client() as client:
        status = await site.status("listed.test", headers={**KEY, "x-secret": "1"}, client=client)

    assert status == 200
    assert by_grpc.asked[-1].headers.keys() == {"x-key"}


async def test_a_body_is_shown_up_to_its_limit(site: Site, by_grpc: AuthServer, by_http: Echo) -> None:
    await site.apply(
        m.route("body", f"[{asking('grpc-auth', GRPC, FORWARD)}]"),
        m.route("http-body", f"[{asking('http-auth', HTTP, FORWARD)}]"),
    )

    assert (await site.reached("body.test", method="POST", headers=KEY, content=b"short")).body == "short"
    assert await site.status("body.test", method="POST", headers=KEY, content=b"much too long") == 413
    assert (await site.reached("http-body.test", method="POST", content=b"short")).body == "short"

    assert [asked.body for asked in by_grpc.asked] == ["short"]
    assert [asked.body for asked in by_http.requests] == ["short"]


async def test_a_server_that_speaks_http_lets_pass_and_keeps_out(site: Site, by_http: Echo) -> None:
    settings = "protocol: HTTP, http: {path: /check/, allowedHeaders: [x-tenant]}"
    await site.apply(m.route("http", f"[{asking('http-auth', settings)}]"))
    by_http.statuses[:] = [200, 403]

    sent = {"x-tenant": "a", "x-secret": "1", "authorization": "Bearer b"}
    async with another_client() as client:
        passed = await site.reached(
            "http.test", "/cart", method="POST", headers=sent, content=b"body", client=client
        )
        status = await site.status("http.test", client=client)

    asked = by_http.requests[0]
    assert (asked.path, asked.method, asked.body) == ("/check/cart", "POST", "")
    assert (asked.header("x-tenant"), asked.header("authorization")) == ("a", "Bearer b")
    assert asked.header("x-secret") is None
    assert (passed.header("x-backend"), passed.header("content-type"), passed.body) == ("auth", None, "body")
    assert status == 403
    assert len(site.one.requests) == 1


async def test_the_backend_gets_the_listed_headers_of_the_answer_alone(site: Site, by_http: Echo) -> None:
    del by_http
    settings = "protocol: HTTP, http: {allowedResponseHeaders: [x-other]}"
    await site.apply(m.route("few", f"[{asking('http-auth', settings)}]"))

    assert (await site.reached("few.test")).header("x-backend") is None


async def test_nobody_passes_where_nobody_can_be_asked(site: Site) -> None:
    silent = m.route("silent", f"[{asking('silent', GRPC)}]")
    missing = m.route("missing", f"[{asking('gone', HTTP)}]")
    await site.apply(m.local("silent", free_port()), silent, missing)

    assert await site.status("silent.test", headers=KEY) == 403
    assert await site.status("missing.test") == 500
    assert site.conditions(missing)["ResolvedRefs"]["reason"] == "BackendNotFound"
    assert site.one.requests == []


async def test_nobody_passes_whom_the_old_and_the_new_server_refuse(site: Site, tmp_path: Path) -> None:
    """Servers, their protocols' settings and the filter itself change under load, over all connections."""
    users = ("ann", "bob")
    everybody = frozenset({*users, "nobody"})
    credentials = {"nobody": dict[str, str](), **{user: {"x-key": user} for user in users}}
    listed = "protocol: GRPC, grpc: {allowedHeaders: [x-key]}"
    open_to_all = m.route("asked", f"[{{{m.to('one')}}}]")
    chance = Random(1)
    async with AsyncExitStack() as stack:
        for user in users:
            server = await stack.enter_async_context(AuthServer(user).serving())
            await site.apply(m.local(user, server.port))
        await site.apply(open_to_all)
        watch = await stack.enter_async_context(watching(tmp_path, site.port, ["asked.test"], credentials))
        await watch.begin({"asked.test": everybody})
        for _ in range(40):
            user = chance.choice((*users, ""))
            rule = asking(user, chance.choice((GRPC, listed)))
            async with watch.change({"asked.test": frozenset({user}) if user else everybody}):
                await site.apply(m.route("asked", f"[{rule}]") if user else open_to_all)
            await asyncio.sleep(chance.uniform(0, 0.05))
        await watch.end()

    assert {answer.status for answer in watch.answers} >= {200, 401}
    assert watch.strangers() == []
    assert {status for _, status, _ in watch.shut_out()} <= {500}, "on connections without a list's instance"


async def test_what_a_policy_asks_for_is_asked_besides(site: Site, by_grpc: AuthServer) -> None:
    digest = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="  # of "password"
    await site.apply(
        m.secret("both", _htpasswd=f"ann:{digest}"),
        m.route("both", f"[{asking('grpc-auth', GRPC)}]"),
        m.policy("SecurityPolicy", "both", "{basicAuth: {users: {name: both}}}", "HTTPRoute/both"),
    )
    ann = {"authorization": "Basic YW5uOnBhc3N3b3Jk"}

    statuses = [await site.status("both.test", headers=sent) for sent in ({}, KEY, ann, {**KEY, **ann})]

    assert statuses == [401, 401, 401, 200]
    assert len(by_grpc.asked) == 4


@OTHER_FORMS
async def test_a_server_is_asked_in_each_form_of_tables_and_chains(
    by_grpc: AuthServer, config: EnvoyGateway
) -> None:
    """Under a wildcard, too, where a scoped table is found by a filter."""
    async with open_site(config=config) as other:
        names = ("exact.test", "*.wide.test")
        await other.apply(
            m.local("grpc-auth", by_grpc.port),
            m.route("asked", f"[{asking('grpc-auth', GRPC)}]", hostnames=names),
        )

        for host in ("exact.test", "EXACT.test", "any.wide.test"):
            assert await other.status(host) == 401
            assert (await other.reached(host, headers=KEY)).header("x-user") == "ali"
