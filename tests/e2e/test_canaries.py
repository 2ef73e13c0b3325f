"""A new version gets its share of the users, and a user stays with the version that they have.

As ``docs/how-to/canary-with-sessions.md`` says.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

USERS = 240
BY_HEADER = "consistentHash: {type: Header, header: {name: x-user}}"


def canary(name: str, shares: tuple[int, int], session: str = "", *, filtered: bool = False) -> m.Document:
    """A route to ``one`` and to ``two``, the canary, which has a filter of its own if it is ``filtered``."""
    old, new = m.backend_ref(f"one={shares[0]}"), m.backend_ref(f"two={shares[1]}")
    if filtered:
        new = f"{new[:-1]}, filters: [{m.tell_backend('x-canary', 'yes')}]}}"
    more = f", sessionPersistence: {session}" if session else ""
    return m.route(name, f"[{{backendRefs: [{old}, {new}]{more}}}]")


async def with_cookies(site: Site, name: str, cookies: list[str]) -> tuple[list[str], list[str]]:
    """Who answers each user, and the cookie that each has from then on."""
    by: list[str] = []
    kept: list[str] = []
    for cookie in cookies:
        site.client.cookies.clear()
        answer = await site.ask(f"{name}.test", headers={"cookie": cookie} if cookie else {})
        assert answer.status_code == 200
        by.append(answer.headers["x-backend"])
        kept.append(answer.headers.get("set-cookie", cookie).partition(";")[0])
    return by, kept


async def by_user(site: Site, name: str, path: str = "/", *, users: int = USERS) -> list[str]:
    """Who answers each user; they say who they are."""
    return [
        (await site.reached(f"{name}.test", path, headers={"x-user": f"user-{n}"})).by for n in range(users)
    ]


def is_a_tenth(answers: list[str]) -> bool:
    """As far as chance goes: it is not in one run of 3 * 10^9."""
    return 2 <= Counter(answers)["two"] <= 60


async def test_a_session_stays_with_its_version_whatever_the_weights_are(site: Site) -> None:
    """A weight is a share of the new sessions; weight 0 ends those that there are."""
    session = "{sessionName: shop}"
    await site.apply(canary("sessions", (9, 1), session))

    first, cookies = await with_cookies(site, "sessions", [""] * USERS)
    again, _ = await with_cookies(site, "sessions", cookies)
    await site.apply(canary("sessions", (1, 9), session))
    after_more, _ = await with_cookies(site, "sessions", cookies)
    new, _ = await with_cookies(site, "sessions", [""] * USERS)
    await site.apply(canary("sessions", (1, 0), session))
    after_none, _ = await with_cookies(site, "sessions", cookies)

    assert is_a_tenth(first)
    assert again == first
    assert after_more == first
    assert Counter(new)["two"] > USERS * 0.7
    assert set(after_none) == {"one"}


async def test_a_session_does_not_outlive_the_draw_of_weights_between_clusters(site: Site) -> None:
    """Where the canary has a filter, weights are drawn for each request, before Envoy looks at the cookie."""
    await site.apply(canary("drawn", (1, 1), "{sessionName: shop}", filtered=True))

    first, cookies = await with_cookies(site, "drawn", [""] * 50)
    again, _ = await with_cookies(site, "drawn", cookies)

    assert again != first


@pytest.mark.parametrize("filtered", [False, True])
async def test_a_hash_keeps_the_weights_and_the_user(site: Site, *, filtered: bool) -> None:
    """Also where the canary has a filter; with more weight, those who are there already stay there."""
    name = f"hashed-{filtered}".lower()
    spec = f"{{loadBalancer: {{type: ConsistentHash, {BY_HEADER}}}}}"
    policy = m.policy("BackendTrafficPolicy", name, spec, f"HTTPRoute/{name}")
    await site.apply(canary(name, (9, 1), filtered=filtered), policy)

    first = await by_user(site, name)
    again = await by_user(site, name)
    await site.apply(canary(name, (5, 5), filtered=filtered), policy)
    after_more = await by_user(site, name)
    await site.apply(canary(name, (1, 0), filtered=filtered), policy)
    after_none = await by_user(site, name)

    assert is_a_tenth(first)
    assert again == first
    assert USERS * 0.25 < Counter(after_more)["two"] < USERS * 0.75
    left = sum(before == "two" != after for before, after in zip(first, after_more, strict=True))
    assert left <= Counter(first)["two"] / 4
    assert set(after_none) == {"one"}


async def test_a_hash_leads_to_the_same_version_in_all_rules(site: Site) -> None:
    """Where they have the same backends with the same weights; sessions are of one rule each."""
    rule = m.to("one=1", "two=1")
    paths = [f"matches: [{{path: {{value: {path}}}}}]" for path in ("/page", "/script")]
    spec = f"{{loadBalancer: {{type: ConsistentHash, {BY_HEADER}}}}}"
    await site.apply(
        m.route("rules", "[" + ", ".join(f"{{{path}, {rule}}}" for path in paths) + "]"),
        m.policy("BackendTrafficPolicy", "rules", spec, "HTTPRoute/rules"),
    )

    pages, scripts = [await by_user(site, "rules", path, users=50) for path in ("/page", "/script")]

    assert pages == scripts
    assert set(pages) == {"one", "two"}


@pytest.mark.parametrize(
    "balancer",
    [
        "type: RoundRobin",
        "type: LeastRequest",
        "type: Random",
        "type: BackendUtilization, backendUtilization: {}",
        "type: RoundRobin, endpointOverride: {extractFrom: [{header: x-endpoint}]}",
        f"type: ConsistentHash, {BY_HEADER}, endpointOverride: {{extractFrom: [{{header: x-endpoint}}]}}",
    ],
)
async def test_every_load_balancer_heeds_the_weights_of_backends(site: Site, balancer: str) -> None:
    spec = f"{{loadBalancer: {{{balancer}}}}}"
    policy = m.policy("BackendTrafficPolicy", "heeded", spec, "HTTPRoute/heeded")
    await site.apply(canary("heeded", (9, 1)), policy)

    assert is_a_tenth(await by_user(site, "heeded"))
