"""Rate limits, as clients see them: 429, the headers that say what is left, and what the service is asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from moongate.xds.rate_limits import SERVICE
from moongate.xds.wire import LISTENER
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.auth_servers import AuthServer
from tests.e2e.conftest import Site, open_site, until
from tests.e2e.limit_service import LimitService
from tests.e2e.rate_limiters import patient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

TWICE = "limit: {requests: 2, unit: Hour}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncGenerator[Site]:
    """One for all tests. A request does not pass because this process, which judges it, stood still."""
    async with open_site(config=patient()) as at:
        yield at


def limited(name: str, body: str) -> tuple[m.Document, m.Document]:
    """A route and its limits."""
    policy = m.policy("BackendTrafficPolicy", name, f"rateLimit: {body}", f"HTTPRoute/{name}")
    return m.route(name, f"[{{{m.to('one')}}}]"), policy


async def statuses(site: Site, host: str, times: int, path: str = "/", **more: Any) -> list[int]:
    return [await site.status(host, path, **more) for _ in range(times)]


# -- local ------------------------------------------------------------------------------------------------


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.local.rules[].limit.requests",
)
async def test_what_is_above_a_local_limit_gets_429(site: Site) -> None:
    await site.apply(*limited("all", f"{{local: {{rules: [{{{TWICE}}}]}}}}"))

    answers = [await site.ask("all.test") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit"].startswith("2")
    assert len(site.one.requests) == 2


SELECTORS: dict[str, tuple[str, dict[str, Any] | None, dict[str, Any] | None]] = {
    "header": ("headers: [{name: x-user, value: ali}]", {"headers": {"x-user": "ali"}}, {}),
    "pattern": (
        "headers: [{name: x-user, type: RegularExpression, value: 'a.*'}]",
        {"headers": {"x-user": "ali"}},
        {"headers": {"x-user": "bob"}},
    ),
    "others": (
        "headers: [{name: x-user, value: ali, invert: true}]",
        {"headers": {"x-user": "bob"}},
        {"headers": {"x-user": "ali"}},
    ),
    "distinct": (
        "headers: [{name: x-user, type: Distinct}]",
        {"headers": {"x-user": "ali"}},
        {"headers": {"x-user": "bob"}},
    ),
    "prefix": ("path: {value: /a/}", {"path": "/a?b"}, {"path": "/ab"}),
    "exact": ("path: {type: Exact, value: /a}", {"path": "/a"}, {"path": "/a?b"}),
    "expression": ("path: {type: RegularExpression, value: '/a[0-9]'}", {"path": "/a1"}, {"path": "/ab"}),
    "query": ("queryParams: [{name: q, value: a}]", {"path": "/?q=a"}, {"path": "/?q=b"}),
    "each-query": ("queryParams: [{name: q, type: Distinct}]", {"path": "/?q=a"}, {"path": "/?q=b"}),
    "query-expression": (
        "queryParams: [{name: q, type: RegularExpression, value: 'a+'}]",
        {"path": "/?q=aa"},
        {"path": "/?q=ab"},
    ),
    "other-queries": (
        "queryParams: [{name: q, value: a, invert: true}]",
        {"path": "/?q=b"},
        {"path": "/?q=a"},
    ),
    "other-paths": ("path: {type: Exact, value: /a, invert: true}", {"path": "/b"}, {"path": "/a"}),
    "other-methods": ("methods: [{value: GET, invert: true}]", {"method": "PUT"}, {}),
    "address": ("sourceCIDR: {value: 127.0.0.0/8}", {}, None),
    "each-address": ("sourceCIDR: {value: 127.0.0.0/8, type: Distinct}", {}, None),
    "elsewhere": ("sourceCIDR: {value: 10.0.0.0/8, invert: true}", {}, None),
    "not-here": ("sourceCIDR: {value: 10.0.0.0/8}", None, {}),
    "all-of-it": (
        "headers: [{name: x-user, value: ali}], path: {value: /a}, sourceCIDR: {value: 127.0.0.0/8}",
        {"headers": {"x-user": "ali"}, "path": "/a"},
        {"headers": {"x-user": "ali"}, "path": "/b"},
    ),
}


@pytest.mark.parametrize("kind", SELECTORS)
@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.local.rules[].clientSelectors[].headers[].*",
    "rateLimit.local.rules[].clientSelectors[].methods[].*",
    "rateLimit.local.rules[].clientSelectors[].path.*",
    "rateLimit.local.rules[].clientSelectors[].queryParams[].*",
    "rateLimit.local.rules[].clientSelectors[].sourceCIDR.value",
    "rateLimit.local.rules[].clientSelectors[].sourceCIDR.invert",
)
async def test_a_selector_limits_what_it_selects(site: Site, kind: str) -> None:
    selector, within, beside = SELECTORS[kind]
    rule = f"{{clientSelectors: [{{{selector}}}], {TWICE}}}"
    await site.apply(*limited(kind, f"{{local: {{rules: [{rule}]}}}}"))

    if within is not None:
        assert await statuses(site, f"{kind}.test", 3, **within) == [200, 200, 429]
    if beside is not None:
        assert await statuses(site, f"{kind}.test", 2, **beside) == [200, 200]


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.local.rules[].limit.unit")
async def test_a_local_limit_is_for_a_time(site: Site) -> None:
    """Here for a second, after which requests pass again."""
    await site.apply(*limited("moment", "{local: {rules: [{limit: {requests: 1, unit: Second}}]}}"))
    async with asyncio.timeout(DEADLINE_S):
        while await site.status("moment.test") != 429:
            pass
        while await site.status("moment.test") != 200:
            pass


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.local.rules[].clientSelectors[].methods[].value",
)
async def test_several_methods_have_one_limit(site: Site) -> None:
    rule = f"{{clientSelectors: [{{methods: [{{value: GET}}, {{value: PUT}}]}}], {TWICE}}}"
    await site.apply(*limited("methods", f"{{local: {{rules: [{rule}]}}}}"))

    assert await statuses(site, "methods.test", 1, method="PUT") == [200]
    assert await statuses(site, "methods.test", 2) == [200, 429]
    assert await statuses(site, "methods.test", 1, method="DELETE") == [200]


@pytest.mark.parametrize(("kind", "other"), [("Distinct", 200), ("Exact", 429)])
@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.local.rules[].clientSelectors[].sourceCIDR.type")
async def test_addresses_of_a_block_have_a_limit_each_or_one_together(
    site: Site, kind: str, other: int
) -> None:
    rule = f"{{clientSelectors: [{{sourceCIDR: {{value: 127.0.0.0/8, type: {kind}}}}}], {TWICE}}}"
    name = f"block-{kind}".lower()
    await site.apply(*limited(name, f"{{local: {{rules: [{rule}]}}}}"))
    context = site.authority.client_context()
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2", verify=context)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=DEADLINE_S) as neighbour:
        assert await statuses(site, f"{name}.test", 3) == [200, 200, 429]
        assert await site.status(f"{name}.test", client=neighbour) == other


async def test_what_no_rule_selects_has_the_limit_of_the_rule_without_selectors(site: Site) -> None:
    rest = "{limit: {requests: 1, unit: Hour}}"
    rule = f"{{clientSelectors: [{{headers: [{{name: x-user, value: ali}}]}}], {TWICE}}}"
    await site.apply(*limited("rest", f"{{local: {{rules: [{rest}, {rule}]}}}}"))

    assert await statuses(site, "rest.test", 3, headers={"x-user": "ali"}) == [200, 200, 429]
    assert await statuses(site, "rest.test", 2) == [200, 429]


async def test_more_clients_than_envoy_tells_apart_by_itself_are_told_apart(site: Site) -> None:
    """It is 20 where nobody says how many; then the first ones are forgotten, and may begin anew."""
    rule = (
        "{clientSelectors: [{headers: [{name: x-user, type: Distinct}]}], limit: {requests: 1, unit: Hour}}"
    )
    await site.apply(*limited("many", f"{{local: {{rules: [{rule}]}}}}"))

    answers = [
        await site.status("many.test", headers={"x-user": f"u{n}"}) for _ in range(2) for n in range(40)
    ]

    assert answers == [200] * 40 + [429] * 40


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.local.rules[].shadowMode",
)
async def test_in_shadow_mode_all_pass(site: Site) -> None:
    """Envoy knows the field, although our messages do not."""
    rule = f"{{clientSelectors: [{{path: {{value: /}}}}], {TWICE}, shadowMode: true}}"
    await site.apply(*limited("shadow", f"{{local: {{rules: [{rule}]}}}}"))

    assert await statuses(site, "shadow.test", 4) == [200] * 4


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.local.rules[].xRateLimitHeaders",
)
async def test_a_rule_says_whether_responses_tell_what_is_left(site: Site) -> None:
    def rule(user: str, more: str) -> str:
        return f"{{clientSelectors: [{{headers: [{{name: x-user, value: {user}}}]}}], {TWICE}{more}}}"

    quiet, loud = rule("ali", ", xRateLimitHeaders: 'Off'"), rule("bob", "")
    await site.apply(*limited("tells", f"{{local: {{rules: [{quiet}, {loud}]}}}}"))

    of_ali = await site.ask("tells.test", headers={"x-user": "ali"})
    of_bob = await site.ask("tells.test", headers={"x-user": "bob"})

    assert "x-ratelimit-remaining" not in of_ali.headers
    assert of_bob.headers["x-ratelimit-remaining"] == "1"


async def test_a_limit_that_comes_and_goes_changes_no_listener(site: Site) -> None:
    """The filters stand in every chain from the start, so open connections live on, and are limited."""
    plain, policy = limited("comes", f"{{local: {{rules: [{{{TWICE}}}]}}}}")
    await site.apply(plain)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{site.port}", trust_env=False, timeout=DEADLINE_S
    ) as client:
        assert (await client.get("/", headers={"host": "comes.test"})).status_code == 200
        listeners = site.laptop.world.xds()["default/gateway"][LISTENER]
        await site.apply(policy)

        assert await statuses(site, "comes.test", 3, client=client) == [200, 200, 429]
        assert site.laptop.world.xds()["default/gateway"][LISTENER] == listeners


# -- global -----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LimitService]:
    socket: Path = tmp_path_factory.mktemp("limits") / "s"
    async with LimitService().serving(socket) as running:
        site.laptop.world.write(SERVICE, str(socket))
        yield running


@pytest.fixture
def service(serving: LimitService) -> LimitService:
    serving.asked.clear()
    serving.limits.clear()
    serving.over = False
    return serving


def named(name: str) -> tuple[str, str]:
    """The first entry of the descriptors of a route."""
    key = f"httproute/default/{name}/rule/0/match/0/{name}_test"
    return key, key


def entry(key: str) -> tuple[str, str]:
    return key, key


ENTRIES: dict[str, tuple[str, dict[str, Any], list[tuple[str, str]] | None]] = {
    "g-all": ("", {}, [entry("rule-0-match--1")]),
    "g-header": (
        "headers: [{name: x-user, value: ali}]",
        {"headers": {"x-user": "ali"}},
        [entry("rule-0-match-0")],
    ),
    "g-distinct": (
        "headers: [{name: x-user, type: Distinct}]",
        {"headers": {"x-user": "ali"}},
        [("rule-0-match-0", "ali")],
    ),
    "g-pattern": (
        "headers: [{name: x-user, type: RegularExpression, value: 'a.*'}]",
        {"headers": {"x-user": "ali"}},
        [entry("rule-0-match-0")],
    ),
    "g-no-pattern": (
        "headers: [{name: x-user, type: RegularExpression, value: 'a.*'}]",
        {"headers": {"x-user": "bob"}},
        None,
    ),
    "g-others": (
        "headers: [{name: x-user, value: ali, invert: true}]",
        {"headers": {"x-user": "bob"}},
        [entry("rule-0-match-0")],
    ),
    "g-other-methods": ("methods: [{value: GET, invert: true}]", {"method": "PUT"}, [entry("rule-0-method")]),
    "g-no-other-method": ("methods: [{value: GET, invert: true}]", {}, None),
    "g-other-paths": (
        "path: {type: Exact, value: /a, invert: true}",
        {"path": "/a/b"},
        [entry("rule-0-path")],
    ),
    "g-no-other-path": ("path: {type: Exact, value: /a, invert: true}", {"path": "/a"}, None),
    "g-expression": (
        "path: {type: RegularExpression, value: '/a[0-9]'}",
        {"path": "/a1"},
        [entry("rule-0-path")],
    ),
    "g-query-expression": (
        "queryParams: [{name: q, type: RegularExpression, value: 'a+'}]",
        {"path": "/?q=aa"},
        [entry("rule-0-match-0")],
    ),
    "g-other-queries": (
        "queryParams: [{name: q, value: a, invert: true}]",
        {"path": "/?q=b"},
        [entry("rule-0-match-0")],
    ),
    "g-no-other-query": ("queryParams: [{name: q, value: a, invert: true}]", {"path": "/?q=a"}, None),
    "g-method": ("methods: [{value: GET}, {value: PUT}]", {"method": "PUT"}, [entry("rule-0-method")]),
    "g-path": ("path: {value: /a}", {"path": "/a/b"}, [entry("rule-0-path")]),
    "g-query": (
        "queryParams: [{name: q, value: a}, {name: r, type: Distinct}]",
        {"path": "/?q=a&r=b"},
        [entry("rule-0-match-0"), ("rule-0-match-1", "b")],
    ),
    "g-address": (
        "sourceCIDR: {value: 127.0.0.0/8}",
        {},
        [("masked_remote_address", "127.0.0.0/8")],
    ),
    "g-each-address": (
        "sourceCIDR: {value: 127.0.0.0/8, type: Distinct}",
        {},
        [("masked_remote_address", "127.0.0.0/8"), ("remote_address", "127.0.0.1")],
    ),
    "g-elsewhere": (
        "sourceCIDR: {value: 10.0.0.0/8, invert: true}",
        {},
        [("masked_remote_address", "invert:10.0.0.0/8")],
    ),
    "g-none": ("sourceCIDR: {value: 10.0.0.0/8}", {}, None),
}


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.global.rules[].clientSelectors[].*",
)
async def test_the_service_is_asked_in_the_words_of_envoy_gateway(
    site: Site, service: LimitService, kind: str
) -> None:
    selector, request, entries = ENTRIES[kind]
    selecting = f"clientSelectors: [{{{selector}}}], " if selector else ""
    await site.apply(*limited(kind, f"{{global: {{rules: [{{{selecting}{TWICE}}}]}}}}"))

    assert await site.status(f"{kind}.test", **request) == 200
    expected = [] if entries is None else [("default/gateway/http", None, (named(kind), *entries))]
    assert service.asked == expected


async def test_two_limits_for_the_same_addresses_are_asked_about_apart(
    site: Site, service: LimitService
) -> None:
    """Or a request would count twice in one of them."""
    block = "clientSelectors: [{sourceCIDR: {value: 127.0.0.0/8}}]"
    rules = f"{{{block}, {TWICE}}}, {{{block}, limit: {{requests: 9, unit: Year}}}}"
    await site.apply(*limited("g-twice", f"{{global: {{rules: [{rules}]}}}}"))

    assert await site.status("g-twice.test") == 200
    masked = (named("g-twice"), ("masked_remote_address", "127.0.0.0/8"))
    assert [entries for _, _, *all_ in service.asked for entries in all_] == [
        masked,
        (*masked, entry("rule-1-match--1")),
    ]


async def test_what_the_service_refuses_gets_429(site: Site, service: LimitService) -> None:
    await site.apply(*limited("g-over", f"{{global: {{rules: [{{{TWICE}}}]}}}}"))

    passed = await site.ask("g-over.test")
    service.over = True
    refused = await site.ask("g-over.test")

    assert (passed.status_code, refused.status_code) == (200, 429)
    assert passed.headers["x-ratelimit-remaining"] == "4"
    assert "x-envoy-ratelimited" not in refused.headers


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.global.rules[].xRateLimitHeaders",
)
async def test_a_rule_says_whether_responses_tell_what_the_service_says(
    site: Site, service: LimitService
) -> None:
    quiet = f"{{{TWICE}, xRateLimitHeaders: 'Off'}}"
    await site.apply(*limited("g-quiet", f"{{global: {{rules: [{quiet}]}}}}"))

    answer = await site.ask("g-quiet.test")

    assert len(service.asked) == 1
    assert "x-ratelimit-remaining" not in answer.headers


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.global.rules[].cost.request.number",
    "rateLimit.global.rules[].cost.response.number",
)
async def test_a_request_says_what_it_costs_and_its_response_too(site: Site, service: LimitService) -> None:
    cost = "cost: {request: {from: Number, number: 0}, response: {from: Number, number: 3}}"
    await site.apply(*limited("g-cost", f"{{global: {{rules: [{{{TWICE}, {cost}}}]}}}}"))

    assert await site.status("g-cost.test") == 200
    await until(lambda: len(service.asked) == 2)
    assert [asked[1] for asked in service.asked] == [0, 3]


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.type")
@pytest.mark.parametrize(("kind", "asked", "status"), [("Local", 0, 429), ("Global", 2, 200), (None, 2, 429)])
async def test_a_type_leaves_the_other_limits_out(
    site: Site, service: LimitService, kind: str | None, asked: int, status: int
) -> None:
    type_field = f"type: {kind}, " if kind else ""
    local = "local: {rules: [{limit: {requests: 1, unit: Hour}}]}"
    name = f"typed-{kind or 'none'}".lower()
    await site.apply(*limited(name, f"{{{type_field}global: {{rules: [{{{TWICE}}}]}}, {local}}}"))

    assert await statuses(site, f"{name}.test", 2) == [200, status]
    # What is above a local limit is not asked about.
    assert len(service.asked) == (1 if kind is None else asked)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def noting(site: Site) -> AsyncGenerator[AuthServer]:
    """An auth server that lets all pass, and tells the limits what it knows of them."""
    async with AuthServer().serving() as server:
        await site.apply(m.local("noting", server.port))
        yield server


def noted(name: str, rule: str) -> tuple[m.Document, m.Document]:
    """A route on which the auth server is asked before the limits, and a limit."""
    auth = f"{{backendRef: {m.backend_ref('noting')}, protocol: GRPC, grpc: {{}}}}"
    filters = f"filters: [{{type: ExternalAuth, externalAuth: {auth}}}]"
    _, policy = limited(name, f"{{global: {{rules: [{{{rule}}}]}}}}")
    return m.route(name, f"[{{{filters}, {m.to('one')}}}]"), policy


NOTED = "namespace: envoy.filters.http.ext_authz"
KEY = {"x-key": "sesame"}


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.global.rules[].limit.fromMetadata.*")
async def test_a_limit_is_what_a_filter_before_says(
    site: Site, service: LimitService, noting: AuthServer
) -> None:
    noting.noted = ParseDict({"plan": {"requests_per_unit": 7, "unit": "MINUTE"}}, Struct())
    limit = f"limit: {{requests: 2, unit: Hour, fromMetadata: {{{NOTED}, key: plan}}}}"
    await site.apply(*noted("g-plan", limit))

    assert await site.status("g-plan.test", headers=KEY) == 200
    assert service.limits == [(7, "MINUTE")]


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.global.rules[].cost.request.metadata.*",
    "rateLimit.global.rules[].cost.response.metadata.*",
)
async def test_a_cost_is_what_a_filter_before_says(
    site: Site, service: LimitService, noting: AuthServer
) -> None:
    noting.noted = ParseDict({"size": 5, "after": 6}, Struct())
    request, response = (
        f"{{from: Metadata, metadata: {{{NOTED}, key: {key}}}}}" for key in ("size", "after")
    )
    cost = f"cost: {{request: {request}, response: {response}}}"
    await site.apply(*noted("g-metadata", f"{TWICE}, {cost}"))

    assert await site.status("g-metadata.test", headers=KEY) == 200
    await until(lambda: len(service.asked) == 2)
    assert [asked[1] for asked in service.asked] == [5, 6]


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "rateLimit.global.rules[].shared",
)
async def test_each_domain_is_asked_about_once(site: Site, service: LimitService) -> None:
    """The listener, the policy of the route, and that of the Gateway which it merges into."""
    shared = f"{{{TWICE}, shared: true}}"
    body = f"rateLimit: {{global: {{rules: [{shared}]}}}}"
    wide = m.policy("BackendTrafficPolicy", "wide", body, "Gateway/gateway")
    own = f"{{rateLimit: {{global: {{rules: [{shared}, {{{TWICE}}}]}}}}, mergeType: StrategicMerge}}"
    narrow = m.policy("BackendTrafficPolicy", "g-merged", own, "HTTPRoute/g-merged")
    await site.apply(m.route("g-merged", f"[{{{m.to('one')}}}]"), wide, narrow)

    assert await site.status("g-merged.test") == 200
    await site.delete(wide)

    last = entry("rule-0-match--1")
    assert sorted(service.asked) == [
        ("default/g-merged", None, (entry("default/g-merged/rule/0"), last)),
        ("default/gateway/http", None, (named("g-merged"), last)),
        ("default/wide", None, (entry("default/wide/rule/0"), last)),
    ]


async def test_a_request_passes_while_the_service_does_not_answer(site: Site, service: LimitService) -> None:
    await site.apply(*limited("g-gone", f"{{global: {{rules: [{{{TWICE}}}]}}}}"))
    socket = site.laptop.world.db.read(SERVICE)
    service.over = True
    assert await site.status("g-gone.test") == 429

    site.laptop.world.write(SERVICE, None)
    await site.apply(m.route("another", f"[{{{m.to('one')}}}]"))
    assert await site.status("g-gone.test") == 200

    site.laptop.world.write(SERVICE, socket)
    await site.apply(m.route("another", f"[{{{m.to('two')}}}]"))
    assert await site.status("g-gone.test") == 429
