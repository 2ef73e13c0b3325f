"""Credentials that backends get and clients do not: of rules and of backendRefs, changed, and missing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Request
from tests.e2e.conftest import open_site, until
from tests.e2e.differing import OTHER_FORMS

if TYPE_CHECKING:
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ONCE = {"connection": "close"}
"""Connections that are open keep the chain with which they were accepted."""


def named(name: str) -> str:
    """The filter of a rule or backendRef, in YAML, that names an HTTPRouteFilter."""
    ref = f"{{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name}}}"
    return f"filters: [{{type: ExtensionRef, extensionRef: {ref}}}]"


def injection(name: str, secret: str, more: str = "") -> m.Document:
    return m.http_route_filter(
        name, f"{{credentialInjection: {{credential: {{valueRef: {{name: {secret}}}}}{more}}}}}"
    )


def injected(name: str, *backends: str) -> m.Document:
    """A route whose one rule names the HTTPRouteFilter of its own name."""
    return m.route(name, f"[{{{named(name)}, {m.to(*backends)}}}]")


async def test_a_backend_gets_the_credential_in_place_of_the_clients_only_if_asked(site: Site) -> None:
    await site.apply(
        m.secret("token", credential="Bearer inside"),
        injection("kept", "token"),
        injected("kept", "one"),
        injection("replaced", "token", ", overwrite: true"),
        injected("replaced", "one"),
        injection("elsewhere", "token", ", header: x-token"),
        injected("elsewhere", "one"),
    )
    own = {"authorization": "Basic mine"}

    assert (await site.reached("kept.test")).header("authorization") == "Bearer inside"
    assert (await site.reached("kept.test", headers=own)).header("authorization") == "Basic mine"
    assert (await site.reached("replaced.test", headers=own)).header("authorization") == "Bearer inside"
    request = await site.reached("elsewhere.test", headers=own)
    assert (request.header("authorization"), request.header("x-token")) == ("Basic mine", "Bearer inside")


async def test_each_backend_of_a_rule_gets_its_own_and_nothing_of_the_others(site: Site) -> None:
    def ref(name: str) -> str:
        return m.backend_ref(name).removesuffix("}") + f", {named(name)}}}"

    await site.apply(
        *(m.secret(name, credential=f"for {name}") for name in ("one", "two")),
        *(injection(name, name) for name in ("one", "two")),
        m.route("each", f"[{{backendRefs: [{ref('one')}, {ref('two')}, {m.backend_ref('three')}]}}]"),
    )

    requests = [await site.reached("each.test") for _ in range(60)]

    assert {(each.by, each.header("authorization")) for each in requests} == {
        ("one", "for one"),
        ("two", "for two"),
        ("three", None),
    }


@pytest.mark.parametrize("of", ["rule", "backend"])
async def test_a_changed_credential_is_given_without_a_failed_request(site: Site, of: str) -> None:
    ref = m.backend_ref("one").removesuffix("}") + f", {named('turning')}}}"
    rule = f"{{{named('turning')}, {m.to('one')}}}" if of == "rule" else f"{{backendRefs: [{ref}]}}"
    await site.apply(m.secret("turning", credential="v0"), injection("turning", "turning"))
    await site.apply(m.route("turning", f"[{rule}]"))
    seen: Counter[tuple[int, str]] = Counter()

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            while not done.is_set():
                answer = await site.ask("turning.test", client=client)
                token = ""
                if answer.status_code == 200:
                    token = msgspec.json.decode(answer.content, type=Request).header("authorization") or ""
                seen[answer.status_code, token] += 1

    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(ask())
        for version in range(6):
            await site.apply(m.secret("turning", credential=f"v{version}"))
            await until(lambda token=f"v{version}": bool(seen[200, token]))
        done.set()

    assert set(seen) == {(200, f"v{version}") for version in range(6)}


def by_index() -> EnvoyGateway:
    """The configuration that moongate ships, but each rule has clusters of its own."""
    shipped = EnvoyGateway.shipped()
    assert shipped.envoy_proxy is not None
    return structs.replace(shipped, envoy_proxy=structs.replace(shipped.envoy_proxy, merge_backends=None))


@pytest.mark.parametrize("config", [EnvoyGateway.shipped(), by_index()], ids=["merged", "by index"])
@pytest.mark.parametrize("changes", ["filter", "secret"])
async def test_no_backend_gets_the_credential_of_the_next(config: EnvoyGateway, changes: str) -> None:
    """The backend of a rule changes together with its filter, or with the Secret of that."""
    states = [
        (
            injection("a", secret if changes == "secret" else "one"),
            injection("b", "two"),
            m.route("next", f"[{{{named(filter_ if changes == 'filter' else 'a')}, {m.to(secret)}}}]"),
        )
        for filter_, secret in (("a", "one"), ("b", "two"))
    ]
    seen: set[tuple[str, str | None]] = set()

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            while not done.is_set():
                request = await site.reached("next.test", client=client)
                seen.add((request.by, request.header("authorization")))

    done = asyncio.Event()
    async with open_site(config=config) as site:
        await site.apply(*(m.secret(name, credential=f"for {name}") for name in ("one", "two")), *states[0])
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask())
            for n in range(1, 9):
                await site.apply(*states[n % 2])
                await until(lambda by=("one", "two")[n % 2]: (by, f"for {by}") in seen)
            done.set()

    assert seen == {("one", "for one"), ("two", "for two")}


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "Secret default/lost, which does not exist"),
        ({"password": "x"}, "has nothing under the key credential"),
        ({"credential": ""}, "has nothing under the key credential"),
        ({"credential": "hidden\n"}, "no value of a header"),
        ({"credential": "hidden\r\nx-admin: yes"}, "no value of a header"),
    ],
)
async def test_without_a_sound_credential_nothing_is_sent(
    site: Site, secret: dict[str, str] | None, words: str
) -> None:
    rule, backend = injected("lost", "one"), m.backend_ref("two").removesuffix("}") + f", {named('lost')}}}"
    of_backend = m.route("lost-backend", f"[{{backendRefs: [{backend}]}}]")
    await site.apply(m.secret("lost", credential="sound"), injection("lost", "lost"), rule, of_backend)
    assert (await site.reached("lost.test")).header("authorization") == "sound"
    assert (await site.reached("lost-backend.test")).header("authorization") == "sound"
    site.one.forget()
    site.two.forget()

    if secret is None:
        await site.delete(m.secret("lost"))
    else:
        await site.apply(m.secret("lost", **secret))

    assert await site.status("lost.test") == await site.status("lost-backend.test") == 500
    assert site.one.requests == site.two.requests == []
    message = site.conditions(rule)["Accepted"]["message"]
    assert words in message
    assert "hidden" not in message
    assert words in site.conditions(of_backend)["ResolvedRefs"]["message"]

    await site.apply(m.secret("lost", credential="sound"))

    assert (await site.reached("lost.test")).header("authorization") == "sound"
    assert (await site.reached("lost-backend.test")).header("authorization") == "sound"


@OTHER_FORMS
async def test_credentials_are_given_in_each_form_of_tables_and_chains(config: EnvoyGateway) -> None:
    """Without stable chains they stand in the chain of the listener, which then changes for the first one."""
    ref = m.backend_ref("two").removesuffix("}") + f", {named('second')}}}"
    async with open_site(config=config) as other:
        await other.apply(
            m.secret("token", credential="v0"),
            *(
                injection(name, "token", f", header: x-{name}, overwrite: true")
                for name in ("first", "second")
            ),
            injected("first", "one"),
            m.route("both", f"[{{{named('first')}, backendRefs: [{ref}]}}]", hostnames=("*.wide.test",)),
        )

        assert (await other.reached("first.test", headers=ONCE)).header("x-first") == "v0"
        both = await other.reached("any.wide.test", headers={**ONCE, "x-first": "mine"})
        assert (both.header("x-first"), both.header("x-second")) == ("v0", "v0")

        await other.apply(m.secret("token", credential="v1"))
        async with asyncio.timeout(DEADLINE_S):
            # Only requests tell, when a worker of Envoy has it.
            while (await other.reached("any.wide.test")).header("x-first") != "v1":
                pass

        await other.delete(m.secret("token"))
        assert await other.status("first.test") == await other.status("any.wide.test") == 500
