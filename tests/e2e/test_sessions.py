"""Requests of a session go to one endpoint, whatever else happens."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.calls import CallServer, call, calling
from tests.e2e.conftest import Site, open_site
from tests.e2e.differing import OTHER_FORMS
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.api.envoygateway import EnvoyGateway

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trio(site: Site) -> AsyncGenerator[m.Document]:
    """A Backend of three endpoints."""
    document = m.local("trio", *(each.port for each in site.backends.values()))
    await site.apply(document)
    yield document


def rule(session: str, more: str = "") -> str:
    return f"[{{{more}{m.to('trio')}, sessionPersistence: {session}}}]"


async def by(site: Site, host: str, path: str = "/", **more: Any) -> str:
    """Who answers; the client keeps no cookies."""
    site.client.cookies.clear()
    return (await site.reached(host, path, **more)).by


async def test_a_cookie_leads_to_the_same_endpoint(site: Site, trio: m.Document) -> None:
    del trio
    await site.apply(m.route("cookie", rule("{sessionName: at}", "matches: [{path: {value: /cart}}], ")))

    first = await site.ask("cookie.test", "/cart/1")
    cookie = first.headers["set-cookie"]
    sent = {"cookie": cookie.partition(";")[0]}
    again = [await by(site, "cookie.test", "/cart/2", headers=sent) for _ in range(30)]
    others = {await by(site, "cookie.test", "/cart/3") for _ in range(60)}

    assert cookie.startswith("at=")
    assert "Path=/cart" in cookie
    assert "HttpOnly" in cookie
    assert set(again) == {first.headers["x-backend"]}
    assert others == {"one", "two", "three"}


async def test_a_cookie_that_lasts_says_how_long(site: Site, trio: m.Document) -> None:
    """Without a match, too: the reference forgets the session there."""
    del trio
    lasting = "{absoluteTimeout: 1h30m, cookieConfig: {lifetimeType: Permanent}}"
    await site.apply(m.route("lasting", rule(lasting)))

    cookie = (await site.ask("lasting.test")).headers["set-cookie"]

    assert cookie.startswith("httproute-default-lasting-rule-0=")
    assert "Max-Age=5400" in cookie


async def test_a_header_leads_to_the_same_endpoint(site: Site, trio: m.Document) -> None:
    del trio
    await site.apply(m.route("header", rule("{type: Header, sessionName: x-at}")))

    first = await site.ask("header.test")
    sent = {"x-at": first.headers["x-at"]}

    assert {await by(site, "header.test", headers=sent) for _ in range(30)} == {first.headers["x-backend"]}


async def test_a_session_of_an_endpoint_that_is_gone_goes_on_with_another(
    site: Site, trio: m.Document
) -> None:
    await site.apply(m.route("gone", rule("{type: Header, sessionName: x-at}")))
    first = await site.ask("gone.test")
    left = [each.port for each in site.backends.values() if each.name != first.headers["x-backend"]]

    await site.apply(m.local("trio", *left))
    second = await site.ask("gone.test", headers={"x-at": first.headers["x-at"]})
    sent = {"x-at": second.headers["x-at"]}
    third = {await by(site, "gone.test", headers=sent) for _ in range(20)}
    await site.apply(trio)

    assert second.status_code == 200
    assert third == {second.headers["x-backend"]}


@pytest.mark.parametrize("kind", ["Cookie", "Header"])
async def test_a_client_chooses_no_endpoint_that_its_route_does_not_have(site: Site, kind: str) -> None:
    """What it shows is its own word: of an address elsewhere, or nonsense, comes but a new session."""
    elsewhere, name = site.three, f"chosen-{kind.lower()}"
    session = f"{{type: {kind}, sessionName: x-at}}"
    await site.apply(
        m.local("pair", site.one.port, site.two.port),
        m.route(name, f"[{{{m.to('pair')}, sessionPersistence: {session}}}]"),
        m.route("other", f"[{{{m.to('three')}}}]"),
    )
    await site.ask("other.test")  # Envoy has a connection to it
    before = len(elsewhere.requests)

    address = f"127.0.0.1:{elsewhere.port}".encode()
    sound = base64.b64encode(b"\n" + bytes([len(address)]) + address).decode()
    forged = [
        address.decode(),
        base64.b64encode(address).decode(),
        sound,
        sound[:-3],
        sound[: len(sound) // 2],
        "A" * 8192,
        "%00%ff",
        "",
    ]
    shown = [value if kind == "Header" else f"x-at={value}" for value in forged]
    shown += ["; ".join(shown[:3])] if kind == "Cookie" else []
    header = "x-at" if kind == "Header" else "cookie"
    answered = {await by(site, f"{name}.test", headers={header: value}) for value in shown for _ in range(5)}

    assert answered <= {"one", "two"}
    assert len(elsewhere.requests) == before


async def test_calls_of_a_session_go_to_one_server(site: Site) -> None:
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(CallServer(name).serving())
            for name in ("left", "middle", "right")
        ]
        session = "{type: Header, sessionName: x-at}"
        await site.apply(
            m.local("callees", *(server.port for server in servers)),
            m.grpc_route("calls", f"[{{{m.to('callees')}, sessionPersistence: {session}}}]"),
        )

        async with calling(site.port, "calls.test") as channel:
            first = await call(channel, "/a.B/C", b"1")
            sent = (("x-at", first.initial["x-at"]),)
            again = {(await call(channel, "/a.B/C", b"2", metadata=sent)).by for _ in range(20)}

    assert again == {first.by}


async def test_a_session_outlives_moongate_and_envoy(site: Site, trio: m.Document) -> None:
    """The cookie has the address of the endpoint, and nothing that a new Envoy would not know."""
    port = free_port()
    listener = f"[{{name: http, port: {port}, protocol: HTTP}}]"
    documents = [m.gateway("gateway", listener), trio, m.route("restarted", rule("{}"))]
    answers: list[httpx.Response] = []
    cookie = ""
    for _ in range(2):
        async with (
            Laptop() as laptop,
            httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client,
        ):
            await laptop.apply(documents)
            for _ in range(10):
                sent = {"host": "restarted.test", **({"cookie": cookie} if cookie else {})}
                answers.append(await client.get(f"http://127.0.0.1:{port}/", headers=sent))
                cookie = cookie or answers[0].headers["set-cookie"].partition(";")[0]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-backend"] for answer in answers}) == 1
    assert site.backends[answers[0].headers["x-backend"]].requests


@OTHER_FORMS
async def test_sessions_are_kept_in_each_form_of_tables_and_chains(config: EnvoyGateway) -> None:
    async with open_site(config=config) as other:
        session = "{type: Header, sessionName: x-at}"
        await other.apply(
            m.local("trio", *(each.port for each in other.backends.values())),
            m.route("kept", rule(session), hostnames=("exact.test", "*.wide.test")),
        )

        for host in ("exact.test", "any.wide.test"):
            first = await other.ask(host)
            sent = {"x-at": first.headers["x-at"]}
            assert {await by(other, host, headers=sent) for _ in range(20)} == {first.headers["x-backend"]}
