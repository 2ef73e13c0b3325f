"""Which endpoint gets a request: by hashes, by reports of load, by age, or by the request itself."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import Site
from tests.e2e.standstills import measures_time
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


ALL = {"one", "two", "three"}
MANY = 60
"""So many hashes leave none of three endpoints out, but once in billions of runs."""


async def balanced(site: Site, name: str, balancer: str, *backends: Echo) -> None:
    """A route to some backends as endpoints of one, or to those of the site, with a policy."""
    ports = [each.port for each in backends or site.backends.values()]
    await site.apply(
        m.local(name, *ports),
        m.route(name, f"[{{{m.to(name)}}}]"),
        m.policy("BackendTrafficPolicy", name, f"loadBalancer: {balancer}", f"HTTPRoute/{name}"),
    )


def hashed(kind: str, more: str = "") -> str:
    return f"{{type: ConsistentHash, consistentHash: {{type: {kind}{more}}}}}"


# -- hashes ------------------------------------------------------------------------


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.consistentHash.type")
async def test_an_address_always_has_the_same_endpoint(site: Site) -> None:
    await balanced(site, "source", hashed("SourceIP"))

    context = site.authority.client_context()  # that of the system takes longer to read than all else here

    async def by(address: str) -> set[str]:
        transport = httpx.AsyncHTTPTransport(local_address=address, verify=context)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=DEADLINE_S) as client:
            return {(await site.reached("source.test", client=client)).by for _ in range(5)}

    answered: list[set[str]] = []
    while len(answered) < MANY and set().union(*answered) != ALL:
        answered.append(await by(f"127.0.0.{len(answered) + 1}"))

    assert {len(each) for each in answered} == {1}
    assert set().union(*answered) == ALL


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.consistentHash.headers[].name",
    "loadBalancer.consistentHash.queryParams[].name",
)
@pytest.mark.parametrize(
    ("name", "balancer"),
    [
        ("of-headers", hashed("Headers", ", headers: [{name: x-a}, {name: x-b}]")),
        ("of-params", hashed("QueryParams", ", queryParams: [{name: a}, {name: b}]")),
    ],
)
async def test_requests_with_the_same_values_have_the_same_endpoint(
    site: Site, name: str, balancer: str
) -> None:
    """Each of the values counts, and nothing else does."""
    await balanced(site, name, balancer)

    async def by(a: str, b: str, c: str) -> str:
        path, headers = f"/?a={a}&b={b}&c={c}", {"x-a": a, "x-b": b, "x-c": c}
        return (await site.reached(f"{name}.test", path, headers=headers)).by

    same = {await by("a", "b", f"{n}") for n in range(40)}
    by_first = {await by(f"{n}", "b", "c") for n in range(MANY)}
    by_second = {await by("a", f"{n}", "c") for n in range(MANY)}

    assert len(same) == 1
    assert by_first == by_second == ALL


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.consistentHash.cookie.name",
    "loadBalancer.consistentHash.cookie.ttl",
    "loadBalancer.consistentHash.cookie.attributes",
)
async def test_a_cookie_is_given_as_a_policy_says(site: Site) -> None:
    cookie = "{name: cart, ttl: 90s, attributes: {SameSite: Strict}}"
    await balanced(site, "given", hashed("Cookie", f", cookie: {cookie}"))

    cookie = (await site.ask("given.test")).headers["set-cookie"]

    name, *attributes = cookie.split("; ")
    assert name.startswith("cart=")
    assert {"Max-Age=90", "SameSite=Strict"} <= set(attributes)


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.consistentHash.tableSize")
async def test_a_table_has_as_many_entries_as_a_policy_says(site: Site) -> None:
    """Of two entries there are two endpoints at most, and one of three gets nothing."""
    of_user = ", header: {name: x-user}"
    answered: list[set[str]] = []
    for size in ("", ", tableSize: 2"):
        await balanced(site, "table", hashed("Header", f"{of_user}{size}"))
        users = [{"x-user": f"u{n}"} for n in range(MANY)]
        answered.append({(await site.reached("table.test", headers=user)).by for user in users})

    assert [len(each) for each in answered] == [3, 2]


# -- what endpoints report ------------------------------------------------------------


BUSY, IDLE = "TEXT cpu_utilization=0.9,rps_fractional=100", "TEXT cpu_utilization=0.1,rps_fractional=100"
AT_ONCE = "blackoutPeriod: 1ms, weightUpdatePeriod: 100ms"


async def reporting(site: Site, name: str, settings: str, busy: str = BUSY, idle: str = IDLE) -> None:
    """Two endpoints that report their load, on a route whose policy heeds it."""
    site.one.answer_headers["endpoint-load-metrics"] = busy
    site.two.answer_headers["endpoint-load-metrics"] = idle
    await balanced(
        site,
        name,
        f"{{type: BackendUtilization, backendUtilization: {{{settings}}}}}",
        site.one,
        site.two,
    )


async def share_of_two(site: Site, host: str) -> float:
    """Which part of some requests the endpoint gets that is less busy."""
    answered = Counter([(await site.reached(host)).by for _ in range(60)])
    return answered["two"] / 60


async def until_preferred(site: Site, host: str) -> None:
    """Return when the endpoint that is less busy gets most requests."""
    async with asyncio.timeout(DEADLINE_S):
        while await share_of_two(site, host) < 0.75:
            pass


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.backendUtilization.blackoutPeriod",
    "loadBalancer.backendUtilization.weightUpdatePeriod",
)
@pytest.mark.slow
async def test_what_is_reported_counts_after_a_time_and_from_time_to_time(site: Site) -> None:
    """Sooner than ten seconds after the start here, which is the default; and never, if it takes an hour."""
    await reporting(site, "soon", AT_ONCE)
    async with asyncio.timeout(8):
        await until_preferred(site, "soon.test")

    for never in (
        "blackoutPeriod: 1h, weightUpdatePeriod: 100ms",
        "blackoutPeriod: 1ms, weightUpdatePeriod: 1h",
    ):
        await reporting(site, "never", never)
        loop = asyncio.get_running_loop()
        end = loop.time() + 2
        shares: list[float] = []
        while loop.time() < end:
            shares.append(await share_of_two(site, "never.test"))

        assert 0.4 < sum(shares) / len(shares) < 0.6


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.backendUtilization.weightExpirationPeriod")
async def test_what_is_reported_counts_for_a_time(site: Site) -> None:
    """Here until there is no report for half a second, instead of for three minutes."""
    await reporting(site, "expires", f"{AT_ONCE}, weightExpirationPeriod: 500ms")
    await until_preferred(site, "expires.test")
    site.one.answer_headers.clear()
    site.two.answer_headers.clear()

    async with asyncio.timeout(DEADLINE_S):
        while abs(await share_of_two(site, "expires.test") - 0.5) > 0.1:
            pass


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.backendUtilization.errorUtilizationPenaltyPercent")
async def test_errors_that_are_reported_count_as_load(site: Site) -> None:
    """Both are as busy, and one reports errors."""
    same = "TEXT cpu_utilization=0.3,rps_fractional=100"
    settings = f"{AT_ONCE}, errorUtilizationPenaltyPercent: 300"
    await reporting(site, "errors", settings, busy=f"{same},eps=50", idle=f"{same},eps=0")

    await until_preferred(site, "errors.test")


@pytest.mark.proves(
    "BackendTrafficPolicy", "loadBalancer.backendUtilization.metricNamesForComputingUtilization"
)
async def test_load_may_be_a_metric_of_the_endpoints_own(site: Site) -> None:
    """Goes before what is reported of the processor, which is the same here."""
    load = "TEXT rps_fractional=100,cpu_utilization=0.5,named_metrics.queue={}"
    settings = f"{AT_ONCE}, metricNamesForComputingUtilization: [named_metrics.queue]"
    await reporting(site, "queue", settings, busy=load.format(0.9), idle=load.format(0.1))

    await until_preferred(site, "queue.test")


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.backendUtilization.keepResponseHeaders")
@pytest.mark.parametrize(("settings", "kept"), [("", False), ("keepResponseHeaders: true", True)])
async def test_clients_get_reports_only_if_a_policy_says_so(site: Site, settings: str, kept: bool) -> None:
    await reporting(site, "kept", settings)

    assert ("endpoint-load-metrics" in (await site.ask("kept.test")).headers) is kept


# -- age, and what a request says --------------------------------------------------------


@pytest.mark.slow
@measures_time()
@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.slowStart.window")
async def test_a_new_endpoint_gets_few_requests_at_first(site: Site) -> None:
    """An endpoint that is older than the window gets the rest."""
    loop = asyncio.get_running_loop()
    balancer = "{type: RoundRobin, slowStart: {window: 4s}}"
    await balanced(site, "grows", balancer, site.one)
    began = loop.time()
    # Until the first endpoint is old.
    while loop.time() < began + 4.5:
        assert await site.status("grows.test") == 200
        await asyncio.sleep(0.05)
    site.one.forget()

    await balanced(site, "grows", balancer, site.one, site.two)
    answered: Counter[str] = Counter()
    async with asyncio.timeout(DEADLINE_S):
        while answered["two"] < 3:
            answered[(await site.reached("grows.test")).by] += 1

    assert answered["one"] > 2.5 * answered["two"]


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.endpointOverride.extractFrom[].header")
async def test_a_request_may_choose_its_endpoint(site: Site) -> None:
    """By one header or another; an endpoint that is none of the backend's is passed over."""
    override = "endpointOverride: {extractFrom: [{header: x-first}, {header: x-second}]}"
    await balanced(site, "chosen", f"{{type: RoundRobin, {override}}}", site.one, site.two)

    async def by(**headers: int) -> set[str]:
        named = {f"x-{name}": f"127.0.0.1:{port}" for name, port in headers.items()}
        return {(await site.reached("chosen.test", headers=named)).by for _ in range(10)}

    assert await by(first=site.one.port) == {"one"}
    assert await by(second=site.two.port) == {"two"}
    assert await by(first=site.two.port, second=site.one.port) == {"two"}
    assert await by(first=free_port()) == {"one", "two"}
    assert await by() == {"one", "two"}
