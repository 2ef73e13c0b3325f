"""An outage of a whole backend: as many tries reach it as ``docs/how-to/retries-and-timeouts.md`` says."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.e2e.standstills import measures_time
from tests.e2e.test_backend_faults import Faulty, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "retries-and-timeouts.md"
HEADING = "An outage, tried"
CLIENTS = 20
REQUESTS = 200

TIMEOUT = "timeout: {http: {requestTimeout: 300ms}}"
RETRY = (
    f"{TIMEOUT}, retry: {{numRetries: 3, retryOn: {{triggers: [5xx, reset]}}, perRetry: {{timeout: 75ms}}}}"
)
POLICIES = {
    "no `retry`": TIMEOUT,
    "`retry` with `numRetries: 3`": RETRY,
    "the same with a `retryBudget` of 20 percent": f"{RETRY}, "
    "circuitBreaker: {retryBudget: {percent: {numerator: 20}, minRetryConcurrency: 3}}",
    "the same with `maxParallelRetries: 3`": f"{RETRY}, circuitBreaker: {{maxParallelRetries: 3}}",
    "`retry`, and `healthCheck.passive`": f"{RETRY}, "
    "healthCheck: {passive: {consecutive5XxErrors: 5, baseEjectionTime: 30s, maxEjectionPercent: 100}}",
    "`retry`, and `healthCheck.active` with `panicThreshold: 0`": f"{RETRY}, "
    "healthCheck: {panicThreshold: 0, active: {type: HTTP, interval: 200ms, timeout: 100ms, "
    "unhealthyThreshold: 1, http: {path: /ready}}}",
}
FAULTS = {"both answer 500": "answers 500", "both are too slow": "is slow"}


def in_time(policy: str, fault: str) -> str:
    """A policy, with more time for a fault that takes none: the machine may stand still during a request."""
    return policy if fault == "is slow" else policy.replace("300ms", "60s").replace("75ms", "15s")


def cells() -> Iterator[tuple[str, str, str, str]]:
    """Each cell of the page's table, with a name for its route: endpoints of another are not checked yet."""
    for row, (policy, columns) in enumerate(rows(PAGE, HEADING).items()):
        for fault, cell in columns.items():
            yield f"outage-{row}-{FAULTS[fault].split()[0]}", policy, fault, cell


async def until_answered(site: Site, host: str, status: int) -> None:
    """Return when a request gets this status: who stands still for a moment is too slow, or not healthy."""
    async with asyncio.timeout(DEADLINE_S):
        while await site.status(host) != status:
            pass


@pytest.mark.parametrize(("name", "policy", "fault", "cell"), [*cells()])
@measures_time(fault={"both are too slow"})
async def test_as_many_tries_reach_the_backend_as_the_page_says(
    site: Site, name: str, policy: str, fault: str, cell: str
) -> None:
    """So many; or up to so many, and one for each request at least."""
    spec = in_time(POLICIES[policy], FAULTS[fault])
    async with AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(Faulty(n).serving()) for n in ("one", "two")]
        documents = [
            m.local(name, *(endpoint.port for endpoint in endpoints)),
            m.route(name, f"[{{{m.to(name)}}}]"),
            m.policy("BackendTrafficPolicy", name, f"{{{spec}}}", f"HTTPRoute/{name}"),
        ]
        await site.apply(*documents)
        await until_answered(site, f"{name}.test", 200)
        for endpoint in endpoints:
            endpoint.begin(FAULTS[fault])

        if "once" in cell:
            await until_answered(site, f"{name}.test", 503)
        for endpoint in endpoints:
            endpoint.taken = 0

        async def one_after_another() -> None:
            for _ in range(REQUESTS // CLIENTS):
                await site.ask(f"{name}.test")

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(one_after_another())
        tries = sum(endpoint.taken for endpoint in endpoints)
        await site.delete(*documents)

    most = int(re.sub(r"\D", "", cell))
    assert (REQUESTS if "up to" in cell else most) <= tries <= most


@pytest.mark.parametrize("fault", ["resets them", "answers 500", "is slow"])
async def test_an_order_reaches_a_backend_once_whatever_becomes_of_it(site: Site, fault: str) -> None:
    """Other requests of the route are tried again; a connection that fails is one try that reached nobody."""
    name = f"orders-{fault.split(maxsplit=1)[0]}"
    orders = f"{TIMEOUT}, retry: {{numRetries: 1, retryOn: {{triggers: [connect-failure]}}}}"
    orders = in_time(orders, fault)
    async with Faulty("one").serving() as endpoint:
        rule = m.to(name)
        await site.apply(
            m.local(name, endpoint.port),
            m.route(name, f"[{{name: orders, matches: [{{method: POST}}], {rule}}}, {{{rule}}}]"),
            m.policy("BackendTrafficPolicy", name, f"{{{in_time(RETRY, fault)}}}", f"HTTPRoute/{name}"),
            m.policy("BackendTrafficPolicy", f"{name}-orders", f"{{{orders}}}", f"HTTPRoute/{name}/orders"),
        )
        await until_answered(site, f"{name}.test", 200)
        endpoint.begin(fault)

        tries: dict[str, int] = {}
        for method in ("POST", "GET"):
            endpoint.taken = 0
            await site.ask(f"{name}.test", method=method)
            tries[method] = endpoint.taken

    assert tries["POST"] == 1
    assert tries["GET"] > 1
