"""One endpoint of three has a fault: what clients see, for each load balancer and each remedy.

The pages of features promise it: with retries nobody notices, with health checks the endpoint gets no
requests until it is back, and with a circuit breaker the rest is not held up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import DEADLINE_S, Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

BALANCERS = [
    "RoundRobin",
    pytest.param("LeastRequest", marks=pytest.mark.long),
    pytest.param("Random", marks=pytest.mark.long),
]
FAULTS = ["refuses", "hangs", "resets", "answers 500", "is slow"]
REQUESTS = 60
SLOW_S = 0.6


class Faulty:
    """A port behind which a backend stands, and a fault that comes and goes.

    Attributes:
        port: where it is reached.
        fault: one of ``FAULTS``; "" for none.
        taken: how many requests have come, besides those of health checks.
    """

    def __init__(self, backend: Echo) -> None:
        self.backend = backend
        self.port = 0
        self.fault = ""
        self.taken = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Faulty]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.break_off()

    def begin(self, fault: str) -> None:
        """Have a fault from now on."""
        self.fault = fault
        if fault == "refuses":
            self.break_off()

    def end(self) -> None:
        """Have none any more."""
        self.fault = ""
        self.break_off()

    def break_off(self) -> None:
        """End what is open."""
        for writer in list(self._open):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                if self.fault == "refuses":
                    self._reset(writer)
                    break
                head = await reader.readuntil(b"\r\n\r\n")
                self.taken += b"/ready" not in head
                if self.fault == "resets":
                    self._reset(writer)
                    break
                if self.fault == "hangs":
                    await reader.read()
                    break
                if self.fault == "is slow":
                    await asyncio.sleep(SLOW_S)
                status = 500 if self.fault == "answers 500" else 200
                name = self.backend.name.encode()
                writer.write(b"HTTP/1.1 %d X\r\nx-backend: %s\r\ncontent-length: 0\r\n\r\n" % (status, name))
                await writer.drain()
        self._open.discard(writer)
        writer.close()

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


class Seen:
    """What clients saw of some requests."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.by: Counter[str] = Counter()
        self.longest_s = 0.0


async def ask(site: Site, host: str, *, times: int = REQUESTS, at_once: int = 6) -> Seen:
    """Requests, some at a time."""
    seen = Seen()

    async def one_after_another(count: int) -> None:
        for _ in range(count):
            began = monotonic()
            answer = await site.ask(host)
            seen.longest_s = max(seen.longest_s, monotonic() - began)
            seen.statuses[answer.status_code] += 1
            seen.by[answer.headers.get("x-backend", "")] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(one_after_another(times // at_once))
    return seen


@asynccontextmanager
async def faulty_site(site: Site, name: str, spec: str) -> AsyncGenerator[Faulty]:
    """A route to two sound endpoints and one with a fault, with a policy of its own."""
    async with Faulty(Echo("faulty")).serving() as faulty:
        route = m.route(name, f"[{{{m.to(name)}}}]")
        policy = m.policy("BackendTrafficPolicy", name, spec, f"HTTPRoute/{name}")
        backend = m.local(name, site.one.port, site.two.port, faulty.port)
        await site.apply(backend, route, policy)
        # Connections are open, as at any other time when a fault comes.
        before = await ask(site, f"{name}.test")
        assert before.statuses == {200: REQUESTS}
        await returned(site, f"{name}.test")
        yield faulty
        await site.delete(route, policy, backend)


async def settled(site: Site, host: str) -> Seen:
    """What clients see when the remedy has done its work: when a whole series goes to sound endpoints."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            seen = await ask(site, host)
            if seen.statuses == {200: REQUESTS} and not seen.by["faulty"]:
                return seen


async def returned(site: Site, host: str) -> None:
    """Return when the endpoint gets requests again."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await ask(site, host)).by["faulty"]:
            pass


LIMITS = "timeout: {http: {requestTimeout: 300ms}}"
OF_FAULT = {
    "refuses": {200, 503},
    "hangs": {200, 504},
    "resets": {200, 503},
    "answers 500": {200, 500},
    "is slow": {200, 504},
}
"""What clients see without a remedy, if a request may take 300 ms."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("balancer", BALANCERS)
async def test_without_a_remedy_the_share_of_the_endpoint_fails(
    site: Site, balancer: str, fault: str
) -> None:
    name = "bare"
    async with faulty_site(site, name, f"{{loadBalancer: {{type: {balancer}}}, {LIMITS}}}") as faulty:
        faulty.begin(fault)

        seen = await ask(site, f"{name}.test")

        assert set(seen.statuses) == OF_FAULT[fault]
        faulty.end()
        await returned(site, f"{name}.test")
        await settled_again(site, f"{name}.test")


async def settled_again(site: Site, host: str) -> None:
    """No request fails any more, whoever answers."""
    async with asyncio.timeout(DEADLINE_S):
        while (await ask(site, host)).statuses != {200: REQUESTS}:
            pass


RETRIES = (
    "retry: {numRetries: 3, retryOn: {triggers: ['5xx', reset, connect-failure]}, "
    "perRetry: {timeout: 150ms, backOff: {baseInterval: 1ms}}}"
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("balancer", BALANCERS)
async def test_with_retries_no_client_notices(site: Site, balancer: str, fault: str) -> None:
    """A retry goes to another endpoint; one that hangs or is slow costs the time of a try."""
    name = "retried"
    async with faulty_site(site, name, f"{{loadBalancer: {{type: {balancer}}}, {RETRIES}}}") as faulty:
        faulty.begin(fault)

        seen = await ask(site, f"{name}.test")

        assert seen.statuses == {200: REQUESTS}
        assert not seen.by["faulty"]
        assert seen.longest_s < 5


ACTIVE = (
    "healthCheck: {panicThreshold: 0, active: {type: HTTP, timeout: 300ms, interval: 100ms, "
    "unhealthyThreshold: 1, http: {path: /ready}}}"
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("balancer", BALANCERS)
async def test_with_active_checks_the_endpoint_gets_nothing_until_it_is_back(
    site: Site, balancer: str, fault: str
) -> None:
    name = "checked-fault"
    async with faulty_site(
        site, name, f"{{loadBalancer: {{type: {balancer}}}, {LIMITS}, {ACTIVE}}}"
    ) as faulty:
        faulty.begin(fault)
        await settled(site, f"{name}.test")
        faulty.taken = 0

        seen = await ask(site, f"{name}.test")

        assert seen.statuses == {200: REQUESTS}
        assert faulty.taken == 0

        faulty.end()
        await returned(site, f"{name}.test")


PASSIVE = (
    "healthCheck: {passive: {consecutive5XxErrors: 2, consecutiveLocalOriginFailures: 2, interval: 100ms, "
    "baseEjectionTime: 300ms, maxEjectionPercent: 40}}"
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("balancer", BALANCERS)
async def test_with_passive_checks_a_few_requests_fail_and_then_none(
    site: Site, balancer: str, fault: str
) -> None:
    """Also for an endpoint that is too slow: its requests end with 504."""
    name = "ejected-fault"
    long = PASSIVE.replace("300ms, max", "1h, max")
    async with faulty_site(site, name, f"{{loadBalancer: {{type: {balancer}}}, {LIMITS}, {long}}}") as faulty:
        faulty.begin(fault)
        await settled(site, f"{name}.test")
        faulty.taken = 0

        seen = await ask(site, f"{name}.test")

        assert seen.statuses == {200: REQUESTS}
        assert faulty.taken == 0


async def test_an_ejected_endpoint_comes_back_by_itself(site: Site) -> None:
    name = "comes-back"
    async with faulty_site(site, name, f"{{loadBalancer: {{type: RoundRobin}}, {PASSIVE}}}") as faulty:
        faulty.begin("answers 500")
        await settled(site, f"{name}.test")
        faulty.end()

        await returned(site, f"{name}.test")


async def test_of_three_endpoints_the_default_ejects_none(site: Site) -> None:
    """As the page of health checks says."""
    name = "ten-percent"
    spec = "{loadBalancer: {type: RoundRobin}, healthCheck: {passive: {consecutive5XxErrors: 1}}}"
    async with faulty_site(site, name, spec) as faulty:
        faulty.begin("answers 500")
        await ask(site, f"{name}.test")

        seen = await ask(site, f"{name}.test")

        assert seen.statuses[500] >= REQUESTS // 6


async def test_requests_over_the_limit_fail_at_once_while_an_endpoint_hangs(site: Site) -> None:
    """The rest is not held up behind it; the limit is one of all endpoints of the cluster together."""
    name = "limited-fault"
    spec = "{loadBalancer: {type: RoundRobin}, circuitBreaker: {maxParallelRequests: 6}}"
    async with faulty_site(site, name, spec) as faulty:
        faulty.begin("hangs")
        faulty.taken = 0

        async def given_up() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(site.ask(f"{name}.test"), 5)

        async with asyncio.TaskGroup() as tasks:
            async with asyncio.timeout(DEADLINE_S):
                while faulty.taken < 6:  # most requests go to the others, and are answered
                    for _ in range(6):
                        tasks.create_task(given_up())
                    await asyncio.sleep(0.01)
            began = monotonic()
            assert await site.status(f"{name}.test") == 503
            assert monotonic() - began < 1
            faulty.end()

        await settled_again(site, f"{name}.test")


async def test_an_endpoint_has_no_more_connections_than_it_may(site: Site) -> None:
    """A client waits for its turn at an endpoint that is slow."""
    name = "per-endpoint"
    spec = "{loadBalancer: {type: RoundRobin}, circuitBreaker: {perEndpoint: {maxConnections: 1}}}"
    async with faulty_site(site, name, spec) as faulty:
        faulty.begin("is slow")

        seen = await ask(site, f"{name}.test", times=18)

        assert set(seen.statuses) <= {200, 503}
        assert seen.statuses[200] >= 12
