"""Global rate limits of a run: moongate, its own rate limit service, and a real Envoy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway
from moongate.run import Laptop
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.manifests import Document

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

NOTHING = "limit: {requests: 0, unit: Year}"
ALL = f"{{{NOTHING}}}"
BY_PATH = f"{{clientSelectors: [{{path: {{value: /}}}}], {NOTHING}}}"
BY_METHOD = f"{{clientSelectors: [{{methods: [{{value: GET}}]}}], {NOTHING}, shared: true}}"


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(90):
        yield


def limited(rule: str) -> Document:
    body = f"rateLimit: {{type: Global, global: {{rules: [{rule}]}}}}"
    return m.policy("BackendTrafficPolicy", "limits", body, "HTTPRoute/app")


async def test_no_request_passes_that_both_configurations_refuse() -> None:
    """Neither while the service is started for the first limit, nor when rules change under load."""
    port, statuses, done = free_port(), set[int](), asyncio.Event()

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
            while not done.is_set():
                statuses.add((await client.get("/")).status_code)

    shipped = EnvoyGateway.shipped()
    assert shipped.rate_limit is not None
    patient = structs.replace(shipped, rate_limit=structs.replace(shipped.rate_limit, timeout="30s"))
    async with Echo("one").serving() as one, Laptop(config=patient) as laptop:
        http = f"[{{name: http, port: {port}, protocol: HTTP}}]"
        await laptop.apply([m.gateway("gateway", http), m.local("one", one.port)])
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask())
            route = m.route("app", f"[{{{m.to('one')}}}]")
            del route["spec"]["hostnames"]
            await laptop.apply([route, limited(ALL)], timeout_s=60)
            for n in range(30):
                await laptop.apply([limited((BY_PATH, BY_METHOD, ALL)[n % 3])])
            done.set()

    assert statuses == {404, 429}
    assert one.requests == []
