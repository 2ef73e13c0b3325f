"""BackendTrafficPolicy, as clients and backends see it: timeouts, retries, limits, balancing, faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.e2e.standstills import measures_time
from tests.ports import free_port
from tests.tcp_servers import tcp_server

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def on_route(name: str, body: str, section: str = "") -> m.Document:
    """A policy of the route of that name."""
    target = f"HTTPRoute/{name}/{section}" if section else f"HTTPRoute/{name}"
    return m.policy("BackendTrafficPolicy", f"{name}{section}", body, target)


async def test_a_request_that_takes_too_long_is_answered_504(site: Site) -> None:
    await site.apply(m.route("late", f"[{{timeouts: {{request: 50ms}}, {m.to('one')}}}]"))
    site.one.go.clear()

    assert await site.status("late.test") == 504


async def test_a_backend_that_takes_too_long_is_answered_504(site: Site) -> None:
    await site.apply(m.route("late-backend", f"[{{timeouts: {{backendRequest: 50ms}}, {m.to('one')}}}]"))
    site.one.go.clear()

    assert await site.status("late-backend.test") == 504


@pytest.mark.proves("BackendTrafficPolicy", "timeout.http.requestTimeout")
async def test_a_timeout_of_a_policy_holds_where_the_rule_has_none(site: Site) -> None:
    own = "matches: [{path: {value: /own}}], timeouts: {request: 30s}"
    await site.apply(
        m.route("waits", f"[{{{own}, {m.to('one')}}}, {{{m.to('one')}}}]"),
        on_route("waits", "timeout: {http: {requestTimeout: 50ms}}"),
    )
    site.one.go.clear()

    answer = await site.ask("waits.test")
    assert answer.status_code == 504
    assert answer.elapsed.total_seconds() < 10, "without a policy it is 15 seconds"

    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(site.status("waits.test", "/own"))
        await site.one.arrived(2)
        await asyncio.sleep(0.1)  # twice what the policy allows
        site.one.go.set()
    assert asked.result() == 200


@pytest.mark.proves("BackendTrafficPolicy", "retry.numRetries")
async def test_a_failed_request_is_tried_again_as_often_as_asked(site: Site) -> None:
    await site.apply(
        m.route("again", f"[{{{m.to('one')}}}]"),
        on_route(
            "again",
            "retry: {numRetries: 3, retryOn: {triggers: ['5xx']}, perRetry: {backOff: {baseInterval: 1ms}}}",
        ),
    )
    site.one.statuses.extend([503, 503, 503])

    assert await site.status("again.test") == 200
    assert len(site.one.requests) == 4

    site.one.forget()
    site.one.statuses.extend([503] * 9)

    assert await site.status("again.test") == 503
    assert len(site.one.requests) == 4


@pytest.mark.proves("BackendTrafficPolicy", "retry.retryOn.httpStatusCodes")
async def test_only_listed_statuses_are_tried_again(site: Site) -> None:
    retry = "retry: {retryOn: {triggers: [retriable-status-codes], httpStatusCodes: [418]}}"
    await site.apply(m.route("listed", f"[{{{m.to('one')}}}]"), on_route("listed", retry))
    site.one.statuses.extend([418, 503])

    assert await site.status("listed.test") == 503
    assert len(site.one.requests) == 2


async def test_a_rule_has_its_own_retries(site: Site) -> None:
    await site.apply(
        m.route("own-retry", f"[{{retry: {{attempts: 1, codes: [500], backoff: 1ms}}, {m.to('one')}}}]")
    )
    site.one.statuses.extend([500, 500, 500])

    assert await site.status("own-retry.test") == 500
    assert len(site.one.requests) == 2


def retrying(name: str, more: str = "") -> m.Document:
    """A route whose rule has the Gateway API's ``retry``."""
    return m.route(name, f"[{{retry: {{attempts: 3, backoff: 1ms}}, {more}{m.to('one')}}}]")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_rules_own_retries_cover_connections_that_break(site: Site, fault: str, method: str) -> None:
    """Also one that was kept open, and a request whose body was sent already. Source: ``HTTPRouteRetry``."""
    await site.apply(retrying("broken"))
    assert await site.status("broken.test") == 200
    site.one.forget()
    site.one.faults.extend([fault] * 3)

    request = await site.reached("broken.test", method=method, content=b"body" if method == "POST" else b"")

    assert request.body == ("body" if method == "POST" else "")
    assert len(site.one.requests) == 4

    site.one.forget()
    site.one.faults.extend([fault] * 9)

    assert await site.status("broken.test") == 503
    assert len(site.one.requests) == 4


@measures_time()
async def test_a_rules_own_retries_cover_tries_that_take_too_long(site: Site) -> None:
    await site.apply(retrying("stalled", "timeouts: {request: 10s, backendRequest: 150ms}, "))
    site.one.forget()
    site.one.faults.extend(["stall", "reset", "stall"])

    assert await site.status("stalled.test") == 200
    assert len(site.one.requests) == 4

    site.one.forget()
    site.one.faults.extend(["stall"] * 9)

    assert await site.status("stalled.test") == 504
    assert len(site.one.requests) == 4


@measures_time()
async def test_all_tries_together_take_no_longer_than_the_request_may(site: Site) -> None:
    await site.apply(retrying("hurried", "timeouts: {request: 300ms, backendRequest: 150ms}, "))
    site.one.forget()
    site.one.faults.extend(["stall"] * 9)

    assert await site.status("hurried.test") == 504
    assert len(site.one.requests) == 2


async def test_a_rules_own_retries_replace_those_of_a_policy(site: Site) -> None:
    """The policy would not try a reset again, and tries more often."""
    await site.apply(
        retrying("both-retry"),
        on_route("both-retry", "retry: {numRetries: 7, retryOn: {triggers: [connect-failure]}}"),
    )
    site.one.faults.extend(["reset"] * 9)

    assert await site.status("both-retry.test") == 503
    assert len(site.one.requests) == 4


@pytest.mark.parametrize(("size", "tries"), [(30_000, 2), (100_000, 1)])
async def test_a_body_is_sent_again_up_to_the_buffer_limit(site: Site, size: int, tries: int) -> None:
    """Envoy keeps no more of it; as documented with ``retry``."""
    await site.apply(retrying("body"))
    site.one.faults.append("reset")

    status = await site.status("body.test", method="POST", content=b"x" * size)

    assert (status, len(site.one.requests)) == (200 if tries == 2 else 503, tries)


async def test_a_policys_retries_cover_resets_only_if_it_says_so(site: Site) -> None:
    """The request may have been processed, and nobody said that it may be twice."""
    await site.apply(m.route("careful", f"[{{{m.to('one')}}}]"), on_route("careful", "retry: {}"))
    site.one.faults.append("reset")

    assert await site.status("careful.test") == 503
    assert len(site.one.requests) == 1


@pytest.mark.proves("BackendTrafficPolicy", "timeout.http.maxStreamDuration")
async def test_a_request_may_not_go_on_for_longer_than_a_policy_says(site: Site) -> None:
    """Even if the answer has begun, and comes bit by bit."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

    async with tcp_server(trickle) as port:
        await site.apply(
            m.local("endless", port),
            m.route("endless", f"[{{{m.to('endless')}}}]"),
            on_route("endless", "timeout: {http: {requestTimeout: 0s, maxStreamDuration: 300ms}}"),
        )

        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(site.ask("endless.test"), DEADLINE_S)


@pytest.mark.proves("BackendTrafficPolicy", "timeout.http.streamIdleTimeout")
async def test_a_request_where_nothing_happens_ends_after_its_time(site: Site) -> None:
    await site.apply(
        m.route("still", f"[{{{m.to('one')}}}]"),
        on_route("still", "timeout: {http: {requestTimeout: 0s, streamIdleTimeout: 100ms}}"),
    )
    site.one.faults.append("stall")

    assert await site.status("still.test") == 504


@pytest.mark.proves("BackendTrafficPolicy", "retry.retryOn.triggers", "retry.perRetry.timeout")
@measures_time()
async def test_a_try_that_takes_too_long_is_followed_by_another(site: Site) -> None:
    await site.apply(
        m.route("each-try", f"[{{{m.to('one')}}}]"),
        on_route("each-try", "retry: {retryOn: {triggers: [reset]}, perRetry: {timeout: 150ms}}"),
    )
    site.one.forget()
    site.one.faults.append("stall")

    assert await site.status("each-try.test") == 200
    assert len(site.one.requests) == 2


@pytest.mark.proves("BackendTrafficPolicy", "retry.numAttemptsPerPriority")
@pytest.mark.parametrize(("attempts", "by"), [("", None), ("numAttemptsPerPriority: 1, ", "two")])
async def test_a_retry_may_go_to_a_fallback(site: Site, attempts: str, by: str | None) -> None:
    """Also if the other backends are healthy."""
    retry = f"{{{attempts}numRetries: 1, retryOn: {{triggers: ['5xx']}}}}"
    await site.apply(
        m.local("first", site.one.port),
        m.local("second", site.two.port, fallback=True),
        m.route("falls-back", f"[{{{m.to('first', 'second')}}}]"),
        on_route("falls-back", f"retry: {retry}"),
    )
    site.one.statuses.extend([500] * 2)

    answer = await site.ask("falls-back.test")

    assert (answer.status_code, answer.headers["x-backend"]) == ((200, by) if by else (500, "one"))


@pytest.mark.slow
@pytest.mark.proves(
    "BackendTrafficPolicy", "retry.perRetry.backOff.baseInterval", "retry.perRetry.backOff.maxInterval"
)
async def test_pauses_between_tries_are_as_long_as_a_policy_says(site: Site) -> None:
    """Each is random: up to the base at first, and then up to the maximum.

    By default they would be shorter than 25 ms, and up to ten times the base. All are shorter than a third of
    the base by a chance of 1 in 10^11. The fastest of several requests shows an upper bound, because the
    machine may stand still during one.
    """
    site.one.by_path["/"] = 500

    async def times(name: str, retries: int, back_off: str, *, requests: int) -> list[float]:
        retry = (
            f"{{numRetries: {retries}, retryOn: {{triggers: ['5xx']}}, perRetry: {{backOff: {back_off}}}}}"
        )
        await site.apply(m.route(name, f"[{{{m.to('one')}}}]"), on_route(name, f"retry: {retry}"))
        answers = await asyncio.gather(*(site.ask(f"{name}.test") for _ in range(requests)))
        assert len(site.one.requests) == (1 + retries) * requests
        site.one.requests.clear()
        return [answer.elapsed.total_seconds() for answer in answers]

    assert max(await times("long-base", 1, "{baseInterval: 900ms, maxInterval: 900ms}", requests=24)) > 0.3
    short = "{baseInterval: 100ms, maxInterval: 100ms}"
    assert min([max(await times("short-max", 8, short, requests=1)) for _ in range(3)]) < 1.25


@pytest.mark.proves("BackendTrafficPolicy", "circuitBreaker.maxParallelRequests")
async def test_no_more_than_the_allowed_requests_are_under_way_at_once(site: Site) -> None:
    """The rest is answered 503 at once, instead of waiting."""
    await site.apply(
        m.route("limited", f"[{{{m.to('one')}}}]"),
        on_route("limited", "circuitBreaker: {maxParallelRequests: 2}"),
    )
    site.one.go.clear()

    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(site.status("limited.test")) for _ in range(2)]
        await site.one.arrived(2)
        assert await site.status("limited.test") == 503
        site.one.go.set()
    assert [each.result() for each in held] == [200, 200]


@pytest.mark.parametrize("kind", ["RoundRobin", "Random", "LeastRequest"])
@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.type")
async def test_requests_go_to_all_endpoints(site: Site, kind: str) -> None:
    await site.apply(
        m.local("pair", site.one.port, site.two.port),
        m.route("balanced", f"[{{{m.to('pair')}}}]"),
        on_route("balanced", f"loadBalancer: {{type: {kind}}}"),
    )

    answers = Counter([(await site.reached("balanced.test")).by for _ in range(60)])

    assert set(answers) == {"one", "two"}
    if kind == "RoundRobin":
        assert abs(answers["one"] - answers["two"]) <= 2  # each worker of Envoy takes turns for itself


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.consistentHash.header.name")
async def test_a_consistent_hash_sends_the_same_header_to_the_same_endpoint(site: Site) -> None:
    hashed = "loadBalancer: {type: ConsistentHash, consistentHash: {type: Header, header: {name: x-user}}}"
    await site.apply(
        m.local("trio", site.one.port, site.two.port, site.three.port),
        m.route("sticky", f"[{{{m.to('trio')}}}]"),
        on_route("sticky", hashed),
    )

    # Where an endpoint stands depends on its port, so one that nobody meets is a chance of 3 * (2/3)^60.
    users = [f"user-{n}" for n in range(60)]
    first = [(await site.reached("sticky.test", headers={"x-user": user})).by for user in users]
    second = [(await site.reached("sticky.test", headers={"x-user": user})).by for user in users]

    assert first == second
    assert set(first) == {"one", "two", "three"}


async def test_a_consistent_hash_gives_a_cookie_and_heeds_it(site: Site) -> None:
    hashed = (
        "loadBalancer: {type: ConsistentHash, consistentHash: {type: Cookie, cookie: {name: cart, ttl: 1h}}}"
    )
    await site.apply(
        m.local("trio", site.one.port, site.two.port, site.three.port),
        m.route("cookie", f"[{{{m.to('trio')}}}]"),
        on_route("cookie", hashed),
    )

    answer = await site.ask("cookie.test")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    again = {(await site.reached("cookie.test", headers={"cookie": cookie})).by for _ in range(10)}

    assert cookie.startswith("cart=")
    assert again == {answer.headers["x-backend"]}


@pytest.mark.proves("BackendTrafficPolicy", "faultInjection.abort.httpStatus")
async def test_requests_are_failed_on_purpose(site: Site) -> None:
    await site.apply(
        m.route("abort", f"[{{{m.to('one')}}}]"),
        on_route("abort", "faultInjection: {abort: {httpStatus: 418}}"),
    )

    assert await site.status("abort.test") == 418
    assert site.one.requests == []


@pytest.mark.proves("BackendTrafficPolicy", "faultInjection.delay.fixedDelay")
async def test_requests_are_delayed_on_purpose(site: Site) -> None:
    await site.apply(
        m.route("delay", f"[{{{m.to('one')}}}]"),
        on_route("delay", "faultInjection: {delay: {fixedDelay: 200ms}}"),
    )

    answer = await site.ask("delay.test")

    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() >= 0.15


@pytest.mark.proves(
    "BackendTrafficPolicy", "faultInjection.abort.percentage", "faultInjection.delay.percentage"
)
async def test_a_share_of_the_requests_has_a_fault(site: Site) -> None:
    """About half of them fail; and none is delayed, of which a single one would take a minute."""
    abort = "abort: {httpStatus: 418, percentage: 50}"
    await site.apply(
        m.route("half", f"[{{{m.to('one')}}}]"),
        on_route("half", f"faultInjection: {{{abort}, delay: {{fixedDelay: 60s, percentage: 0}}}}"),
    )

    statuses = Counter([await site.status("half.test") for _ in range(100)])

    assert set(statuses) == {200, 418}
    assert 15 < statuses[418] < 85


def teapot(name: str, targets: str) -> m.Document:
    """A policy that answers 418, with targets in YAML."""
    document = m.policy("BackendTrafficPolicy", name, "{faultInjection: {abort: {httpStatus: 418}}}")
    del document["spec"]["targetRefs"]
    return {**document, "spec": {**document["spec"], **m.spec(targets)}}


@pytest.mark.proves("BackendTrafficPolicy", "targetRef.*")
async def test_a_policy_has_the_target_that_it_names(site: Site) -> None:
    """By the older field; here a rule of a route, and not another one, nor a route beside it."""
    rules = f"[{{name: own, matches: [{{path: {{value: /own}}}}], {m.to('one')}}}, {{{m.to('one')}}}]"
    ref = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: aimed, sectionName: own}"
    await site.apply(
        m.route("aimed", rules), m.route("missed", rules), teapot("aimed", f"{{targetRef: {ref}}}")
    )

    asked = [("aimed.test", "/own"), ("aimed.test", "/"), ("missed.test", "/own")]

    assert [await site.status(*each) for each in asked] == [418, 200, 200]


ROUTES = "group: gateway.networking.k8s.io, kind: HTTPRoute"
FAR = "namespaces: {from: Selector, selector: {matchLabels: {place: far}}}"
NEAR = (
    "namespaces: {from: Selector, "
    "selector: {matchExpressions: [{key: place, operator: In, values: [near, here]}]}}"
)
SELECTORS = [
    (f"{{{ROUTES}, matchLabels: {{tier: a}}}}", {"a"}),
    (f"{{{ROUTES}, matchExpressions: [{{key: tier, operator: In, values: [a, b]}}]}}", {"a", "b"}),
    (f"{{{ROUTES}, matchExpressions: [{{key: tier, operator: DoesNotExist}}]}}", {"bare"}),
    (f"{{{ROUTES}, matchLabels: {{tier: a}}, namespaces: {{from: All}}}}", {"a", "far-a", "near-a"}),
    (f"{{{ROUTES}, matchLabels: {{tier: a}}, {FAR}}}", {"far-a"}),
    (f"{{{ROUTES}, matchLabels: {{tier: a}}, {NEAR}}}", {"near-a"}),
    ("{group: gateway.networking.k8s.io, kind: Gateway, matchLabels: {tier: a}}", set[str]()),
]


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "targetSelectors[].kind",
    "targetSelectors[].matchLabels",
    "targetSelectors[].matchExpressions[].*",
    "targetSelectors[].namespaces.*",
)
async def test_a_policy_has_the_targets_that_its_selectors_select(site: Site) -> None:
    """By kind, by labels, and by namespaces, where a grant of the other namespace allows it."""
    port = free_port()
    listener = f"{{name: http, port: {port}, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}"
    at = "[{name: selected, namespace: default}]"
    labels: dict[str, dict[str, str]] = {
        "a": {"tier": "a"},
        "b": {"tier": "b"},
        "bare": {},
        "far-a": {"tier": "a"},
        "near-a": {"tier": "a"},
    }
    routes: list[m.Document] = []
    grants: list[m.Document] = []
    for name, own in labels.items():
        namespace = name.removesuffix("-a") if name.endswith("-a") else "default"
        if namespace != "default":
            grants += [
                m.namespace(namespace, place=namespace),
                m.grant(namespace, kind="BackendTrafficPolicy", of="default", to_kind="HTTPRoute"),
                m.local("one", site.one.port, namespace=namespace),
            ]
        route = m.route(name, f"[{{{m.to('one')}}}]", parents=at, namespace=namespace)
        route["metadata"]["labels"] = own
        routes.append(route)
    await site.apply(m.gateway("selected", f"[{listener}]"), *grants, *routes)

    for selector, expected in SELECTORS:
        policy = teapot("selecting", f"{{targetSelectors: [{selector}]}}")
        await site.apply(policy)
        statuses = {name: await site.status(f"{name}.test", port=port) for name in labels}
        await site.delete(policy)

        assert {name for name, status in statuses.items() if status == 418} == expected, selector
        assert set(statuses.values()) <= {200, 418}


@pytest.mark.proves("BackendTrafficPolicy", "routingType")
async def test_requests_go_to_a_service_or_to_its_endpoints(site: Site) -> None:
    """The address of the Service leads to one backend here, and its slice names another."""
    service = m.service("shop")
    service["spec"]["clusterIP"] = "127.0.0.1"
    service["spec"]["ports"][0]["port"] = site.two.port
    rule = f"[{{backendRefs: [{{name: shop, port: {site.two.port}}}]}}]"
    await site.apply(service, m.endpoint_slice("shop", site.one.port), m.route("routed", rule))

    assert (await site.reached("routed.test")).by == "one"

    await site.apply(on_route("routed", "routingType: Service"))

    assert (await site.reached("routed.test")).by == "two"


@pytest.mark.proves("BackendTrafficPolicy", "targetRefs[].*")
async def test_the_most_specific_policy_wins(site: Site) -> None:
    """Gateway, then listener, then route, then rule: each answers with a status of its own here."""
    left, right = free_port(), free_port()

    def abort(name: str, status: int, target: str) -> m.Document:
        return m.policy(
            "BackendTrafficPolicy", name, f"faultInjection: {{abort: {{httpStatus: {status}}}}}", target
        )

    parents = "[{name: levels}]"
    await site.apply(
        m.gateway(
            "levels",
            f"[{{name: left, port: {left}, protocol: HTTP}}, {{name: right, port: {right}, protocol: HTTP}}]",
        ),
        m.route("plain", f"[{{{m.to('one')}}}]", parents=parents),
        m.route(
            "special",
            f"[{{name: own, matches: [{{path: {{value: /own}}}}], {m.to('one')}}}, {{{m.to('one')}}}]",
            parents=parents,
        ),
        abort("of-gateway", 411, "Gateway/levels"),
        abort("of-listener", 412, "Gateway/levels/right"),
        abort("of-route", 413, "HTTPRoute/special"),
        abort("of-rule", 414, "HTTPRoute/special/own"),
    )

    statuses = [
        await site.status("plain.test", port=left),
        await site.status("plain.test", port=right),
        await site.status("special.test", port=left),
        await site.status("special.test", port=right),
        await site.status("special.test", "/own", port=right),
    ]

    assert statuses == [411, 412, 413, 413, 414]


@pytest.mark.proves("BackendTrafficPolicy", "mergeType")
async def test_a_policy_that_is_merged_adds_to_that_of_the_gateway(site: Site) -> None:
    port = free_port()
    await site.apply(
        m.gateway("merged", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route("merged", f"[{{{m.to('one')}}}]", parents="[{name: merged}]"),
        m.policy(
            "BackendTrafficPolicy", "parent", "faultInjection: {abort: {httpStatus: 418}}", "Gateway/merged"
        ),
        on_route("merged", "{mergeType: StrategicMerge, timeout: {http: {requestTimeout: 9s}}}"),
    )

    assert await site.status("merged.test", port=port) == 418

    await site.apply(on_route("merged", "timeout: {http: {requestTimeout: 9s}}"))

    assert await site.status("merged.test", port=port) == 200


async def test_a_policy_that_goes_takes_its_effect_with_it(site: Site) -> None:
    policy = on_route("gone", "faultInjection: {abort: {httpStatus: 418}}")
    await site.apply(m.route("gone", f"[{{{m.to('one')}}}]"), policy)
    assert await site.status("gone.test") == 418

    await site.delete(policy)

    assert await site.status("gone.test") == 200
