"""A part of the requests to a backend that fails is rejected, so that it can recover."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.e2e import manifests as m
from tests.e2e.calls import CallServer, call, calling
from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

REQUESTS = 100


async def controlled(site: Site, name: str, control: str) -> None:
    """A route to the first backend, with a policy.

    Envoy counts in each cluster, so that a name of its own is a count of its own.
    """
    policy = m.policy("BackendTrafficPolicy", name, f"admissionControl: {control}", f"HTTPRoute/{name}")
    await site.apply(m.route(name, f"[{{{m.to('one')}}}]"), policy)


async def rejected(site: Site, name: str, *statuses: int) -> int:
    """How many of some requests are rejected, if the backend answers with each of these in turn."""
    site.one.forget()
    site.one.statuses.extend(statuses * REQUESTS)
    answered = Counter([await site.status(f"{name}.test") for _ in range(REQUESTS)])
    assert len(site.one.requests) == REQUESTS - answered[503]
    return answered[503]


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.maxRejectionPercent")
async def test_most_requests_are_rejected_while_a_backend_fails(site: Site) -> None:
    """Unless a policy says that fewer may be."""
    await controlled(site, "failing", "{minSuccessRate: 100, maxRejectionPercent: 90}")
    await controlled(site, "few", "{minSuccessRate: 100, maxRejectionPercent: 10}")

    assert await rejected(site, "failing", 500) > 50
    assert await rejected(site, "few", 500) < 35


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.minSuccessRate")
async def test_requests_are_rejected_below_a_rate_of_successes(site: Site) -> None:
    """Of every second request, here."""
    await controlled(site, "high-rate", "{minSuccessRate: 100}")
    await controlled(site, "low-rate", "{minSuccessRate: 20}")

    assert await rejected(site, "high-rate", 200, 500) > 10
    assert await rejected(site, "low-rate", 200, 500) == 0


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.rejectionAggression")
async def test_few_failures_may_reject_many_requests(site: Site) -> None:
    """A fifth of the requests fails."""
    answers = (500, 200, 200, 200, 200)
    await controlled(site, "linear", "{minSuccessRate: 100, maxRejectionPercent: 95}")
    aggressive = "{minSuccessRate: 100, maxRejectionPercent: 95, rejectionAggression: 1000}"
    await controlled(site, "aggressive", aggressive)

    assert await rejected(site, "linear", *answers) < 55
    assert await rejected(site, "aggressive", *answers) > 55


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.minRequestRate")
async def test_nothing_is_rejected_of_few_requests(site: Site) -> None:
    """Fewer than a million a second."""
    await controlled(site, "rare", "{minSuccessRate: 100, minRequestRate: 1000000}")

    assert await rejected(site, "rare", 500) == 0


@pytest.mark.slow
@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.samplingWindow")
async def test_failures_count_for_a_time(site: Site) -> None:
    """Here for a second, instead of for half a minute."""
    await controlled(site, "forgets", "{samplingWindow: 1s, minSuccessRate: 100, maxRejectionPercent: 100}")
    assert await rejected(site, "forgets", 500) > 50

    await asyncio.sleep(1.5)  # the samples of one second are counted together

    assert await rejected(site, "forgets", 200) == 0


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.successCriteria.http.statusCodes")
async def test_a_status_that_is_named_is_a_success(site: Site) -> None:
    criteria = "successCriteria: {http: {statusCodes: [500]}}"
    await controlled(site, "named", f"{{minSuccessRate: 100, maxRejectionPercent: 100, {criteria}}}")

    assert await rejected(site, "named", 500) == 0


@pytest.mark.proves("BackendTrafficPolicy", "admissionControl.successCriteria.grpc.statusCodes")
@pytest.mark.parametrize(("code", "most"), [("FailedPrecondition", 0), ("Ok", REQUESTS)])
async def test_a_code_of_calls_that_is_named_is_a_success(site: Site, code: str, most: int) -> None:
    name = f"calls-{code}".lower()
    criteria = f"successCriteria: {{grpc: {{statusCodes: [{code}]}}}}"
    control = f"{{minSuccessRate: 100, maxRejectionPercent: 100, {criteria}}}"
    server = CallServer("cart")
    async with server.serving(), calling(site.port, f"{name}.test") as channel:
        await site.apply(
            m.local("cart", server.port),
            m.grpc_route(name, f"[{{{m.to('cart')}}}]"),
            m.policy("BackendTrafficPolicy", name, f"admissionControl: {control}", f"GRPCRoute/{name}"),
        )
        answers = [
            await call(channel, "/shop.Cart/Add", b"x", metadata=[("fail", "no")]) for _ in range(REQUESTS)
        ]

    refused = sum(answer.by is None for answer in answers)
    assert len(server.calls) == REQUESTS - refused
    assert refused == 0 if most == 0 else refused > REQUESTS / 2
