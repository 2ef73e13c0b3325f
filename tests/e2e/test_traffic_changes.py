"""Policies of backends that come, change, move and go while requests run: none of them fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LARGE = f"{{body: {{inline: {'gone' * 1_500}}}}}"
HASH = "loadBalancer: {type: ConsistentHash, consistentHash: "
FIELDS = (
    f"{HASH}{{type: SourceIP}}}}",
    f"{HASH}{{type: Headers, headers: [{{name: x-user}}]}}}}",
    f"{HASH}{{type: Cookie, cookie: {{name: c, ttl: 1h}}, tableSize: 101}}}}",
    "loadBalancer: {type: RoundRobin, slowStart: {window: 2s}}",
    "loadBalancer: {type: Random, zoneAware: {preferLocal: {}}}",
    "loadBalancer: {type: BackendUtilization, backendUtilization: {}}",
    "loadBalancer: {type: LeastRequest, endpointOverride: {extractFrom: [{header: x-to}]}}",
    "loadBalancer: {type: RoundRobin, zoneAware: {weightedZones: [{zone: a, weight: 3}]}}",
    "healthCheck: {active: {type: TCP, interval: 100ms, tcp: {}}, panicThreshold: 0}",
    "healthCheck: {active: {type: HTTP, interval: 100ms, http: {path: /}}}",
    "healthCheck: {active: {type: GRPC, interval: 100ms}, panicThreshold: 0}",
    "healthCheck: {passive: {interval: 100ms, consecutive5XxErrors: 1}}",
    "circuitBreaker: {maxConnections: 100, maxRequestsPerConnection: 3, perEndpoint: {maxConnections: 50}}",
    "timeout: {tcp: {connectTimeout: 3s}, http: {connectionIdleTimeout: 1s, maxConnectionDuration: 1s}}",
    "useClientProtocol: true",
    "http2: {maxConcurrentStreams: 7}",
    "dns: {lookupFamily: IPv4, dnsRefreshRate: 1s}",
    "connection: {bufferLimit: 64Ki, preconnect: {perEndpointPercent: 200}}",
    "tcpKeepalive: {probes: 3}",
    "admissionControl: {samplingWindow: 5s}",
    "bandwidthLimit: {response: {limit: {value: 1Gi, unit: Second}}}",
    "compressor: [{type: Gzip, gzip: {}}, {type: Zstd, zstd: {}}]",
    "compressor: [{type: Gzip, gzip: {}, minContentLength: 1Ki}, {type: Brotli, brotli: {}}]",
    "responseOverride: [{match: {statusCodes: [{value: 404}]}, response: {body: {inline: gone}}}]",
    f"responseOverride: [{{match: {{statusCodes: [{{value: 404}}]}}, response: {LARGE}}}]",
    "httpUpgrade: [{type: websocket}, {type: spdy/3.1}]",
    "requestBuffer: {limit: 1Mi}",
    "telemetry: {metrics: {routeStatName: '%ROUTE_NAME%'}, tracing: {tags: {a: b}}}",
    "retry: {numRetries: 0}",
    "routingType: Service",
    "faultInjection: {delay: {fixedDelay: 1ms, percentage: 1}}",
)
TARGETS = ("Gateway/gateway", "HTTPRoute/busy", "HTTPRoute/busy/one")


@asynccontextmanager
async def requests(site: Site, host: str, *, tasks: int = 4) -> AsyncGenerator[Counter[str]]:
    """How requests were answered in the block, over connections that stay and over new ones."""
    answers: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask(*, stays: bool) -> None:
        url, headers = f"http://127.0.0.1:{site.port}/", {"host": host, "x-user": "ann"}
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            while not stop.is_set():
                more = {} if stays else {"connection": "close"}
                try:
                    answer = await client.get(url, headers=headers | more)
                except httpx.HTTPError as error:
                    answers[repr(error)] += 1
                else:
                    flags = answer.text if answer.status_code != 200 else ""
                    answers[f"{answer.status_code} {flags}".strip()] += 1

    async with asyncio.TaskGroup() as group:
        for n in range(tasks):
            group.create_task(ask(stays=n % 2 == 0))
        yield answers
        stop.set()


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_request_fails_while_policies_of_backends_change(site: Site, seed: int) -> None:
    """From any field to any other, from a Gateway to a route to a rule and back, merged and not."""
    chance = Random(seed)
    rules = f"[{{name: one, {m.to('one', 'two')}}}]"
    await site.apply(m.route("busy", rules))

    async with requests(site, "busy.test") as answers:
        for _ in range(2):
            for body in chance.sample(FIELDS, len(FIELDS)):
                target = chance.choice(TARGETS)
                merge = "" if target.startswith("Gateway") else chance.choice(["", ", mergeType: JSONMerge"])
                name = chance.choice(["narrow", "wide"])
                await site.apply(m.policy("BackendTrafficPolicy", name, f"{{{body}{merge}}}", target))
                if chance.random() < 0.2:
                    await site.delete(m.policy("BackendTrafficPolicy", name, "{}", target))
    for name in ("narrow", "wide"):
        await site.delete(m.policy("BackendTrafficPolicy", name, "{}", TARGETS[0]))

    assert answers.keys() == {"200"}, answers


async def test_no_request_fails_while_addresses_become_names_and_back(site: Site) -> None:
    """What discovers the endpoints of a cluster changes; so do those that its hostnames are looked up by."""
    ip, fqdn = "ip: {address: 127.0.0.1, port: %d}", "fqdn: {hostname: localhost, port: %d}"
    await site.apply(m.backend("moving", ip % site.one.port), m.route("moving", f"[{{{m.to('moving')}}}]"))

    async with requests(site, "moving.test") as answers:
        for n in range(12):
            endpoint = (fqdn, ip)[n % 2] % (site.one.port if n % 3 else site.two.port)
            body = ("dns: {lookupFamily: IPv4}", "loadBalancer: {type: Random}", "retry: {numRetries: 0}")[
                n % 3
            ]
            policy = m.policy("BackendTrafficPolicy", "moving", body, "HTTPRoute/moving")
            await site.apply(m.backend("moving", endpoint), policy)

    assert answers.keys() == {"200"}, answers
