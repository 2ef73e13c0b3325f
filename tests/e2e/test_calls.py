"""Calls of gRPC through a GRPCRoute: a real client, a real server, and Envoy between them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.calls import Answered, CallServer, call, calling, many_messages, one_each, one_message
from tests.e2e.conftest import Site, open_site, until
from tests.e2e.differing import OTHER_FORMS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.api.envoygateway import EnvoyGateway

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

OK = grpc.StatusCode.OK
ADD = "/shop.Cart/Add"


class Callees(NamedTuple):
    """Two servers of gRPC, which Backends of their names lead to."""

    cart: CallServer
    stock: CallServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callees(site: Site) -> AsyncGenerator[Callees]:
    async with AsyncExitStack() as stack:
        servers = Callees(CallServer("cart"), CallServer("stock"))
        for server in servers:
            await stack.enter_async_context(server.serving())
        await site.apply(*(m.local(server.name, server.port) for server in servers))
        yield servers


async def one_call(site: Site, host: str, method: str = ADD, *messages: bytes, **metadata: str) -> Answered:
    async with calling(site.port, host) as channel:
        return await call(channel, method, *messages or (b"hello",), metadata=tuple(metadata.items()))


async def test_a_call_has_its_messages_headers_and_trailers(site: Site, callees: Callees) -> None:
    await site.apply(m.grpc_route("whole", f"[{{{m.to('cart')}}}]"))

    answer = await one_call(site, "whole.test", ADD, b"one", b"two", tier="gold")
    failed = await one_call(site, "whole.test", fail="no such cart")

    assert (answer.code, answer.messages, answer.by) == (OK, [b"one", b"two"], "cart")
    assert answer.trailing["x-said"] == "goodbye"
    assert (callees.cart.calls[-2].method, callees.cart.calls[-2].metadata["tier"]) == (ADD, "gold")
    assert (failed.code, failed.details) == (grpc.StatusCode.FAILED_PRECONDITION, "no such cart")


async def test_messages_stream_both_ways_at_once(site: Site, callees: Callees) -> None:
    """Each is answered before the next is sent: nothing is held back until the call ends."""
    await site.apply(m.grpc_route("streams", f"[{{{m.to(callees.cart.name)}}}]"))

    async with calling(site.port, "streams.test") as channel, asyncio.timeout(DEADLINE_S):
        stream = many_messages(channel, "/shop.Cart/Chat")
        received: list[object] = []
        for n in range(50):
            await stream.write(b"%d" % n)
            received.append(await stream.read())
        await stream.done_writing()
        ended = await stream.read()

    assert received == [b"%d" % n for n in range(50)]
    assert ended is grpc.aio.EOF


async def test_calls_of_one_message_and_many_are_answered(site: Site, callees: Callees) -> None:
    await site.apply(m.grpc_route("unary", f"[{{{m.to(callees.cart.name)}}}]"))

    async with calling(site.port, "unary.test") as channel:
        one = await one_each(channel, ADD, b"one")
        many = [each async for each in one_message(channel, "/shop.Cart/List", b"many")]

    assert (one, many) == (b"one", [b"many"])


async def test_calls_go_where_their_method_says(site: Site, callees: Callees) -> None:
    del callees

    def to_stock(match: str) -> str:
        return f"{{matches: [{match}], {m.to('stock')}}}"

    await site.apply(
        m.grpc_route(
            "methods",
            "["
            + ", ".join(
                [
                    to_stock("{method: {service: shop.Stock}}"),
                    to_stock("{method: {service: shop.Cart, method: Count}}"),
                    to_stock("{method: {method: Reserve}}"),
                    to_stock("{method: {type: RegularExpression, service: 'depot[.].*|store[.].*'}}"),
                    to_stock("{headers: [{name: to, value: stock}]}"),
                    f"{{{m.to('cart')}}}",
                ]
            )
            + "]",
        )
    )

    asked: list[tuple[str, dict[str, str]]] = [
        ("/shop.Stock/Any", {}),
        ("/shop.Stocks/Any", {}),
        ("/shop.Cart/Count", {}),
        ("/shop.Cart/Counts", {}),
        ("/shop.Cart/Reserve", {}),
        ("/depot.A/B", {}),
        ("/my.depot.A/B", {}),
        ("/shop.Cart/Add", {"to": "stock"}),
    ]
    answers = [await one_call(site, "methods.test", method, **metadata) for method, metadata in asked]

    assert [answer.by for answer in answers] == [
        "stock", "cart", "stock", "cart", "stock", "stock", "cart", "stock",
    ]  # fmt: skip


async def test_filters_change_headers_and_copies_are_sent(site: Site, callees: Callees) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {m.backend_ref('stock')}}}}}"
    filters = f"[{m.tell_backend('x-a', '1')}, {m.tell_client('x-b', '2')}, {mirror}]"
    await site.apply(m.grpc_route("filters", f"[{{filters: {filters}, {m.to('cart')}}}]"))
    before = len(callees.stock.calls)

    answers = [await one_call(site, "filters.test", f"/shop.Cart/Copied{n}") for n in range(5)]
    await until(lambda: len(callees.stock.calls) == before + 5)

    assert {(answer.code, answer.by, answer.initial["x-b"]) for answer in answers} == {(OK, "cart", "2")}
    assert callees.cart.calls[-1].metadata["x-a"] == "1"
    assert [each.method for each in callees.stock.calls[before:]] == [
        f"/shop.Cart/Copied{n}" for n in range(5)
    ]


async def test_mirrors_of_two_rules_are_two(site: Site, callees: Callees) -> None:
    """The reference names both alike, and one of them would get the copies of both."""

    def copied(service: str, to: str) -> str:
        mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {m.backend_ref(to)}}}}}"
        return f"{{matches: [{{method: {{service: {service}}}}}], filters: [{mirror}], {m.to('cart')}}}"

    await site.apply(m.grpc_route("mirrors", f"[{copied('a', 'stock')}, {copied('b', 'cart')}]"))
    before = len(callees.stock.calls)

    await one_call(site, "mirrors.test", "/b/B")
    await one_call(site, "mirrors.test", "/a/A")
    await until(lambda: len(callees.stock.calls) > before)

    assert [each.method for each in callees.stock.calls[before:]] == ["/a/A"]


async def test_what_moongate_answers_itself_has_a_status_of_grpc(site: Site, callees: Callees) -> None:
    del callees
    extension = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: gone}"
    gone = f"{{type: ExtensionRef, extensionRef: {extension}}}"
    forbid = gone.replace("name: gone", "name: forbid")
    await site.apply(
        m.http_route_filter("forbid", "{directResponse: {statusCode: 403}}"),
        m.service("hollow"),
        m.endpoint_slice("hollow", 0),
        m.grpc_route(
            "answers",
            f"[{{matches: [{{method: {{service: closed}}}}], filters: [{gone}], {m.to('cart')}}},"
            f" {{matches: [{{method: {{service: missing}}}}], {m.to('nobody')}}},"
            f" {{matches: [{{method: {{service: hollow}}}}], backendRefs: [{{name: hollow, port: 80}}]}},"
            f" {{matches: [{{method: {{service: forbidden}}}}], filters: [{forbid}]}}]",
        ),
    )

    codes = {
        service: (await one_call(site, "answers.test", f"/{service}/Any")).code
        for service in ("closed", "missing", "hollow", "forbidden", "elsewhere")
    }

    assert codes == {
        "closed": grpc.StatusCode.UNKNOWN,
        "missing": grpc.StatusCode.UNAVAILABLE,
        "hollow": grpc.StatusCode.UNAVAILABLE,
        "forbidden": grpc.StatusCode.PERMISSION_DENIED,
        "elsewhere": grpc.StatusCode.UNIMPLEMENTED,
    }


async def test_policies_hold_for_calls_as_for_requests(site: Site, callees: Callees) -> None:
    del callees
    password = "Basic YW5uOnBhc3N3b3Jk"
    await site.apply(
        m.secret("staff", _htpasswd="ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
        m.grpc_route("guarded", f"[{{{m.to('cart')}}}]"),
        m.policy("SecurityPolicy", "guarded", "{basicAuth: {users: {name: staff}}}", "GRPCRoute/guarded"),
    )

    assert (await one_call(site, "guarded.test")).code == grpc.StatusCode.UNAUTHENTICATED
    assert (await one_call(site, "guarded.test", authorization=password)).code == OK


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "faultInjection.abort.grpcStatus",
)
async def test_a_rule_of_calls_may_have_a_name_that_a_policy_names(site: Site, callees: Callees) -> None:
    del callees
    await site.apply(
        m.grpc_route(
            "named",
            f"[{{name: cart, matches: [{{method: {{service: shop.Cart}}}}], {m.to('cart')}}},"
            f" {{{m.to('stock')}}}]",
        ),
        m.policy(
            "BackendTrafficPolicy",
            "named",
            "{faultInjection: {abort: {grpcStatus: 8}}}",
            "GRPCRoute/named/cart",
        ),
    )

    assert (await one_call(site, "named.test", "/shop.Cart/Add")).code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await one_call(site, "named.test", "/shop.Stock/Add")).by == "stock"


WEB = "application/grpc-web+proto"


async def test_a_browser_calls_by_grpc_web(site: Site, callees: Callees) -> None:
    """Over HTTP/1.1, with the trailers as the last part of the body. HTTPRoutes leave it as it is."""
    await site.apply(m.grpc_route("web", f"[{{{m.to('cart')}}}]"), m.route("raw", f"[{{{m.to('one')}}}]"))
    body = b"\0" + len(b"hello").to_bytes(4, "big") + b"hello"

    answer = await site.ask(
        "web.test", ADD, method="POST", headers={"content-type": WEB, "x-grpc-web": "1"}, content=body
    )
    raw = await site.reached("raw.test", ADD, method="POST", headers={"content-type": WEB}, content=body)

    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-backend"]) == (
        200,
        WEB,
        "cart",
    )
    assert answer.content.startswith(body + b"\x80")
    assert b"grpc-status:0" in answer.content
    assert callees.cart.calls[-1].metadata.get("content-type") != WEB
    assert raw.header("content-type") == WEB


@OTHER_FORMS
async def test_calls_are_answered_in_each_form_of_tables_and_chains(config: EnvoyGateway) -> None:
    """Under an exact hostname, whose part of a scoped table is found at once, and under a wildcard."""
    async with (
        open_site(config=config) as other,
        CallServer("cart").serving() as server,
    ):
        names = ("exact.test", "*.wide.test")
        await other.apply(
            m.local("cart", server.port),
            m.grpc_route(
                "calls", f"[{{matches: [{{method: {{method: Add}}}}], {m.to('cart')}}}]", hostnames=names
            ),
        )
        body = b"\0" + len(b"hello").to_bytes(4, "big") + b"hello"

        for host in ("exact.test", "any.wide.test"):
            answer = await one_call(other, host)
            missing = await one_call(other, host, "/shop.Cart/Remove")
            web = await other.ask(host, ADD, method="POST", headers={"content-type": WEB}, content=body)

            assert (answer.code, answer.messages, answer.by) == (OK, [b"hello"], "cart")
            assert missing.code == grpc.StatusCode.UNIMPLEMENTED
            assert web.content.startswith(body + b"\x80")
