"""SecurityPolicy, as clients see it: cross-origin requests, passwords, and that it fails closed."""

from __future__ import annotations

import base64
import hashlib

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.ports import free_port
from tests.unbuilt import PROTECTIONS

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CORS = "{allowOrigins: ['https://*.good.test'], allowMethods: [GET, PUT], allowHeaders: [x-a], maxAge: 10m}"
PREFLIGHT = {"origin": "https://a.good.test", "access-control-request-method": "PUT"}


def on(target: str, name: str, body: str) -> m.Document:
    return m.policy("SecurityPolicy", name, body, target)


def htpasswd(**users: str) -> str:
    """Lines as ``htpasswd -s`` writes them."""
    digests = {user: base64.b64encode(hashlib.sha1(word.encode()).digest()) for user, word in users.items()}
    return "".join(f"{user}:{{SHA}}{digest.decode()}\n" for user, digest in digests.items())


async def test_a_preflight_is_answered_by_the_gateway(site: Site) -> None:
    await site.apply(m.route("cors", f"[{{{m.to('one')}}}]"), on("HTTPRoute/cors", "cors", f"cors: {CORS}"))

    answer = await site.ask("cors.test", method="OPTIONS", headers=PREFLIGHT)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.good.test"
    assert answer.headers["access-control-allow-methods"] == "GET, PUT"
    assert answer.headers["access-control-max-age"] == "600"
    assert site.one.requests == []


async def test_browsers_learn_only_about_allowed_origins(site: Site) -> None:
    await site.apply(
        m.route("origin", f"[{{{m.to('one')}}}]"), on("HTTPRoute/origin", "origin", f"cors: {CORS}")
    )

    good = await site.ask("origin.test", headers={"origin": "https://a.good.test"})
    evil = await site.ask("origin.test", headers={"origin": "https://evil.test"})

    assert good.headers["access-control-allow-origin"] == "https://a.good.test"
    assert "access-control-allow-origin" not in evil.headers


async def test_a_preflight_is_answered_by_the_filter_of_a_rule(site: Site) -> None:
    """Also where the rule takes another method than the preflight's."""
    cors = "{type: CORS, cors: {allowOrigins: ['https://a.good.test'], allowMethods: [PUT], maxAge: 7}}"
    await site.apply(
        m.route("rule-cors", f"[{{matches: [{{method: PUT}}], filters: [{cors}], {m.to('one')}}}]")
    )

    answer = await site.ask("rule-cors.test", method="OPTIONS", headers=PREFLIGHT)

    assert answer.headers["access-control-allow-origin"] == "https://a.good.test"
    assert answer.headers["access-control-max-age"] == "7"
    assert site.one.requests == []


async def test_a_password_is_asked_for(site: Site) -> None:
    users = m.secret("users", _htpasswd="# people: who may\r\n\r\n" + htpasswd(ann="secret"))
    basic = "basicAuth: {users: {name: users}, forwardUsernameHeader: x-user}"
    await site.apply(m.route("basic", f"[{{{m.to('one')}}}]"), users, on("HTTPRoute/basic", "basic", basic))

    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        ann, bob = ("ann", "secret"), ("bob", "other")
        assert await site.status("basic.test", client=client) == 401
        assert await site.status("basic.test", client=client, auth=("ann", "wrong")) == 401
        assert (await site.reached("basic.test", client=client, auth=ann)).header("x-user") == "ann"

        await site.apply(m.secret("users", _htpasswd=htpasswd(bob="other")))

        assert await site.status("basic.test", client=client, auth=ann) == 401
        assert await site.status("basic.test", client=client, auth=bob) == 200


async def test_a_name_that_a_client_sends_itself_is_replaced(site: Site) -> None:
    """Also where another policy forwards names in a header that was chosen for its digest (32 equal bits)."""
    headers = {"forged": "x-50523", "chosen": "x-78182"}
    await site.apply(m.secret("staff", _htpasswd=htpasswd(ann="secret")))
    for name, header in headers.items():
        policy = f"basicAuth: {{users: {{name: staff}}, forwardUsernameHeader: {header}}}"
        await site.apply(m.route(name, f"[{{{m.to('one')}}}]"), on(f"HTTPRoute/{name}", name, policy))

    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        for name, header in headers.items():
            sent = {header: "boss"}
            request = await site.reached(f"{name}.test", client=client, auth=("ann", "secret"), headers=sent)
            assert request.header(header) == "ann"


async def test_a_policy_that_cannot_be_built_fails_closed(site: Site) -> None:
    """Its route answers 500, with or without a password, until what it needs is there."""
    policy = on("HTTPRoute/closed", "closed", "basicAuth: {users: {name: not-there}}")
    await site.apply(
        m.route("closed", f"[{{{m.to('one')}}}]"), m.route("open", f"[{{{m.to('one')}}}]"), policy
    )

    assert await site.status("closed.test", auth=("ann", "secret")) == 500
    assert site.conditions(policy)["Accepted"]["status"] == "False"
    assert site.one.requests == []
    assert await site.status("open.test") == 200

    await site.apply(m.secret("not-there", _htpasswd=htpasswd(ann="secret")))

    assert await site.status("closed.test") == 401
    assert await site.status("closed.test", auth=("ann", "secret")) == 200
    assert site.conditions(policy)["Accepted"]["status"] == "True"


async def test_a_policy_that_asks_for_what_is_not_built_yet_fails_closed(site: Site) -> None:
    asking = f"{PROTECTIONS[0]}: {{}}"
    await site.apply(m.route("asks", f"[{{{m.to('one')}}}]"), on("HTTPRoute/asks", "asks", asking))

    assert await site.status("asks.test") == 500


async def test_a_policy_of_the_gateway_holds_for_all_its_routes_but_those_with_their_own(site: Site) -> None:
    left, right = free_port(), free_port()
    parents = "[{name: guarded}]"
    await site.apply(
        m.gateway(
            "guarded",
            f"[{{name: left, port: {left}, protocol: HTTP}}, {{name: right, port: {right}, protocol: HTTP}}]",
        ),
        m.route("under", f"[{{{m.to('one')}}}]", parents=parents),
        m.route(
            "own",
            f"[{{name: rule, matches: [{{path: {{value: /rule}}}}], {m.to('one')}}}, {{{m.to('one')}}}]",
            parents=parents,
        ),
        *(
            m.secret(f"of-{name}", _htpasswd=htpasswd(**{name: "x"}))
            for name in ("gate", "side", "route", "rule")
        ),
        on("Gateway/guarded", "of-gate", "basicAuth: {users: {name: of-gate}}"),
        on("Gateway/guarded/right", "of-side", "basicAuth: {users: {name: of-side}}"),
        on("HTTPRoute/own", "of-route", "basicAuth: {users: {name: of-route}}"),
        on("HTTPRoute/own/rule", "of-rule", "basicAuth: {users: {name: of-rule}}"),
    )

    passing: dict[str, list[str]] = {}
    for name, host, path, port in (
        ("gateway", "under.test", "/", left),
        ("listener", "under.test", "/", right),
        ("route", "own.test", "/", right),
        ("rule", "own.test", "/rule", right),
    ):
        users = ("gate", "side", "route", "rule")
        passing[name] = [u for u in users if await site.status(host, path, port=port, auth=(u, "x")) == 200]

    assert passing == {"gateway": ["gate"], "listener": ["side"], "route": ["route"], "rule": ["rule"]}
