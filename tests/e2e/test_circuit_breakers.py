"""What a backend is given at a time, as the backend and clients see it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import Site
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(site: Site) -> int:
    """Of a gateway whose Envoy has one worker: each opens a connection to an endpoint if it has none itself,
    whatever the limit is."""
    at = free_port()
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "one-worker"}
    metadata = {"name": "one-worker", "namespace": "default"}
    await site.apply(
        {"apiVersion": m.ENVOY, "kind": "EnvoyProxy", "metadata": metadata, "spec": {"concurrency": 1}},
        m.gateway(
            "breaking", f"[{{name: http, port: {at}, protocol: HTTP}}]", infrastructure={"parametersRef": ref}
        ),
    )
    return at


async def limited(site: Site, name: str, policy: str, *backends: Echo) -> None:
    """A route to some backends as endpoints of one, with a policy."""
    await site.apply(
        m.local(name, *(each.port for each in backends)),
        m.route(name, f"[{{{m.to(name)}}}]", parents="[{name: breaking}]"),
        m.policy("BackendTrafficPolicy", name, policy, f"HTTPRoute/{name}"),
    )


@asynccontextmanager
async def held(*backends: Echo) -> AsyncGenerator[asyncio.TaskGroup]:
    """Has backends answer nothing until the block is left."""
    for each in backends:
        each.go.clear()
    async with asyncio.TaskGroup() as tasks:
        try:
            yield tasks
        finally:
            for each in backends:
                each.go.set()


@pytest.mark.proves(
    "BackendTrafficPolicy", "circuitBreaker.maxConnections", "circuitBreaker.maxPendingRequests"
)
async def test_requests_wait_for_a_connection_and_no_more_than_may(site: Site, port: int) -> None:
    """One is under way and one waits for its connection; the next is answered 503 at once."""
    echo = Echo("single")
    async with echo.serving():
        await limited(site, "waiting", "circuitBreaker: {maxConnections: 1, maxPendingRequests: 1}", echo)
        async with held(echo) as tasks:
            first = tasks.create_task(site.status("waiting.test", port=port))
            await echo.arrived(1)
            second = tasks.create_task(site.status("waiting.test", port=port))
            await until_statistic(site, "waiting.*upstream_rq_pending_active", 1)

            assert await site.status("waiting.test", port=port) == 503
            assert (echo.connections, len(echo.requests)) == (1, 1)
        assert (first.result(), second.result()) == (200, 200)
        assert echo.connections == 1


async def until_statistic(site: Site, pattern: str, value: int) -> None:
    """Return when a statistic of Envoy has a value: it alone knows which requests wait."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            lines = (await site.statistics(pattern, "breaking")).splitlines()
            if any(line.endswith(f": {value}") for line in lines):
                return


@pytest.mark.proves("BackendTrafficPolicy", "circuitBreaker.perEndpoint.maxConnections")
async def test_each_endpoint_has_no_more_connections_than_it_may(site: Site, port: int) -> None:
    """Eight requests are under way to two endpoints."""
    pair = Echo("left"), Echo("right")
    async with pair[0].serving(), pair[1].serving():
        policy = "{circuitBreaker: {perEndpoint: {maxConnections: 1}}, loadBalancer: {type: RoundRobin}}"
        await limited(site, "each", policy, *pair)
        async with held(*pair) as tasks:
            asked = [tasks.create_task(site.status("each.test", port=port)) for _ in range(8)]
            for echo in pair:
                await echo.arrived(1)
            await until_statistic(site, "/each/.*upstream_rq_pending_active", 6)

            assert [(echo.connections, len(echo.requests)) for echo in pair] == [(1, 1)] * 2
        assert [each.result() for each in asked] == [200] * 8


@pytest.mark.proves("BackendTrafficPolicy", "circuitBreaker.maxParallelRetries")
@pytest.mark.parametrize(("most", "tries"), [("{}", 2), ("{maxParallelRetries: 0}", 1)])
async def test_no_more_retries_are_under_way_than_may(site: Site, port: int, most: str, tries: int) -> None:
    await limited(site, "retries", f"{{circuitBreaker: {most}, retry: {{numRetries: 1}}}}", site.one)
    site.one.statuses.extend([503] * 2)

    assert await site.status("retries.test", port=port) == 503
    assert len(site.one.requests) == tries


@pytest.mark.proves("BackendTrafficPolicy", "circuitBreaker.maxRequestsPerConnection")
async def test_a_connection_is_closed_after_so_many_requests(site: Site, port: int) -> None:
    echo = Echo("few")
    async with echo.serving():
        await limited(site, "few", "circuitBreaker: {maxRequestsPerConnection: 2}", echo)

        assert [await site.status("few.test", port=port) for _ in range(6)] == [200] * 6
        assert echo.connections == 3


BUDGETS = [
    ("percent: {numerator: 0}, minRetryConcurrency: 0", 1),
    ("percent: {numerator: 0}, minRetryConcurrency: 1", 2),
    ("percent: {numerator: 1, denominator: 1}, minRetryConcurrency: 0", 2),
    ("percent: {numerator: 1, denominator: 100}, minRetryConcurrency: 0", 1),
]


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "circuitBreaker.retryBudget.percent.numerator",
    "circuitBreaker.retryBudget.percent.denominator",
    "circuitBreaker.retryBudget.minRetryConcurrency",
)
@pytest.mark.parametrize(("budget", "tries"), BUDGETS)
async def test_retries_are_a_share_of_the_requests(site: Site, port: int, budget: str, tries: int) -> None:
    """Here of one request, which is under way alone."""
    policy = f"{{circuitBreaker: {{retryBudget: {{{budget}}}}}, retry: {{numRetries: 1}}}}"
    await limited(site, "budget", policy, site.one)
    site.one.statuses.extend([503] * 2)

    assert await site.status("budget.test", port=port) == 503
    assert len(site.one.requests) == tries
