"""One endpoint of three has a fault: what clients see, for each load balancer and each remedy.

The pages of the features promise it in tables, and these tables are what is tested: that of the load balancer
says who is concerned, that of a remedy says what they see of each fault.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, product
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct, field

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.e2e.standstills import measures_time
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

FEATURES = Path(__file__).parents[2] / "src" / "moongate" / "features"
REQUESTS = 60
USERS = 30
TIMEOUT_S = 0.3
TRY_S = 0.15
SLOW_S = 0.6
EJECTED_S = 1.0
SOON, SOON_S = 20, 10.0
"""After so many series of requests and so many seconds it is not soon any more."""


class Faulty:
    """An endpoint that may have a fault.

    Attributes:
        port: where it is reached.
        fault: one of ``FAULTS``; "" for none.
        taken: how many requests have come, besides those of health checks.
    """

    def __init__(self, name: str) -> None:
        self.name = name
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
        if fault == "refuses connections":
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
                if self.fault == "refuses connections":
                    self._reset(writer)
                    break
                head = await reader.readuntil(b"\r\n\r\n")
                self.taken += b"/ready" not in head
                if self.fault == "resets them":
                    self._reset(writer)
                    break
                if self.fault == "hangs":
                    await reader.read()
                    break
                if self.fault == "is slow":
                    await asyncio.sleep(SLOW_S)
                writer.write(self._answer())
                await writer.drain()
        self._open.discard(writer)
        writer.close()

    def _answer(self) -> bytes:
        """With a report of its load, which is about errors when it answers with such."""
        failing = self.fault == "answers 500"
        report = f"TEXT cpu_utilization=0.2,rps_fractional=10,eps={10 if failing else 0}"
        head = f"HTTP/1.1 {500 if failing else 200} X\r\nx-backend: {self.name}\r\n"
        return f"{head}endpoint-load-metrics: {report}\r\ncontent-length: 0\r\n\r\n".encode()

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


Asks = Callable[[int, tuple[Faulty, ...]], dict[str, Any]]
"""What the request of a user has, besides its host."""


class Answer(NamedTuple):
    """What one request was answered with, after so many seconds."""

    status: int
    by: str
    after_s: float


class Seen(Struct):
    """What clients saw of some requests, by user."""

    answers: defaultdict[int, list[Answer]] = field(default_factory=lambda: defaultdict(list))

    @property
    def all(self) -> list[Answer]:
        return [answer for answers in self.answers.values() for answer in answers]

    @property
    def statuses(self) -> set[int]:
        return {answer.status for answer in self.all}

    def share(self, name: str) -> float:
        return sum(answer.by == name for answer in self.all) / len(self.all)


class Trial:
    """Three endpoints on a route with a policy of its own, and clients. The first endpoint gets a fault."""

    def __init__(self, site: Site, name: str, port: int, endpoints: tuple[Faulty, ...], asks: Asks) -> None:
        self.site = site
        self.host = f"{name}.test"
        self.port = port
        self.faulty = endpoints[0]
        self.endpoints = endpoints
        self.asks = asks
        self._first_user = 0

    async def ask(self, *, times: int = REQUESTS, at_once: int = 6) -> Seen:
        """Requests, some at a time."""
        seen = Seen()

        async def some(start: int) -> None:
            for n in range(start, times, at_once):
                user = self._first_user + n % USERS
                began = monotonic()
                answer = await self.site.ask(self.host, port=self.port, **self.asks(user, self.endpoints))
                by = answer.headers.get("x-backend", "")
                seen.answers[user].append(Answer(answer.status_code, by, monotonic() - began))

        async with asyncio.TaskGroup() as tasks:
            for start in range(at_once):
                tasks.create_task(some(start))
        return seen

    async def spared(self) -> None:
        """Return when a whole series goes to sound endpoints."""
        await self._until(lambda seen: seen.statuses == {200} and not seen.share("faulty"))

    async def returned(self) -> None:
        """Return when the endpoint gets requests again, and none fails.

        Ports and users say whom a hash leads there. In one trial of 190,000 it is none, so others are tried.
        """
        await self._until(lambda seen: seen.statuses == {200} and seen.share("faulty") > 0, by_others=True)

    async def _until(self, claim: Callable[[Seen], bool], *, by_others: bool = False) -> None:
        """Return when a claim holds of a series; with ``by_others``, the next one is of other users.

        Raises:
            AssertionError: it soon did not. Where a request may take 300 ms, a machine that stands still may
                have an endpoint ejected, and then another one never is, or the same does not come back.
        """
        end = monotonic() + SOON_S
        for n in count():
            if claim(seen := await self.ask()):
                return
            assert n < SOON or monotonic() < end, seen.statuses
            self._first_user += USERS * by_others


def alike(_user: int, _endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {}


def from_an_address(user: int, _endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {"client": ADDRESSED[user % USERS]}


def with_a_header(user: int, _endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {"headers": {"x-user": f"u{user}"}}


def with_a_cookie(user: int, _endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {"headers": {"cookie": f"user=u{user}"}}


def with_a_parameter(user: int, _endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {"path": f"/?user=u{user}"}


def naming_an_endpoint(user: int, endpoints: tuple[Faulty, ...]) -> dict[str, Any]:
    return {"headers": {"x-endpoint": f"127.0.0.1:{endpoints[user % len(endpoints)].port}"}}


ADDRESSED: list[httpx.AsyncClient] = []
"""A client for each user, with an address of its own."""


class Balancer(NamedTuple):
    """One row of the page of load balancers.

    Args:
        spec: ``loadBalancer``, in YAML.
        asks: what tells a user's requests from those of others.
        zones: of the endpoints, that with the fault first; the gateway is in zone ``a``.
        long: runs only where that is asked for, as another row is alike.
    """

    spec: str
    asks: Asks = alike
    zones: tuple[str, ...] = ()
    long: bool = False


def hashed(by: str) -> str:
    return f"{{type: ConsistentHash, consistentHash: {{{by}}}}}"


UTILIZATION = (
    "{type: BackendUtilization, backendUtilization: "
    "{blackoutPeriod: 1ms, weightUpdatePeriod: 100ms, errorUtilizationPenaltyPercent: 100}}"
)
NEAR = "preferLocal: {minEndpointsThreshold: 1, force: {minEndpointsInZoneThreshold: 1}}"
SHARES = "weightedZones: [{zone: a, weight: 2}, {zone: b, weight: 1}]"

BALANCERS = {
    "`RoundRobin`": Balancer("{type: RoundRobin}"),
    "`LeastRequest`": Balancer("{type: LeastRequest}", long=True),
    "`Random`": Balancer("{type: Random}", long=True),
    "`BackendUtilization`": Balancer(UTILIZATION),
    "`ConsistentHash`, `SourceIP`": Balancer(hashed("type: SourceIP"), from_an_address, long=True),
    "`ConsistentHash`, `Header`": Balancer(hashed("type: Header, header: {name: x-user}"), with_a_header),
    "`ConsistentHash`, `Cookie`": Balancer(
        hashed("type: Cookie, cookie: {name: user}"), with_a_cookie, long=True
    ),
    "`ConsistentHash`, `QueryParams`": Balancer(
        hashed("type: QueryParams, queryParams: [{name: user}]"), with_a_parameter, long=True
    ),
    "`endpointOverride`": Balancer(
        "{type: RoundRobin, endpointOverride: {extractFrom: [{header: x-endpoint}]}}", naming_an_endpoint
    ),
    "`zoneAware.weightedZones`": Balancer(
        f"{{type: RoundRobin, zoneAware: {{{SHARES}}}}}", zones=("a", "a", "b"), long=True
    ),
    "`zoneAware.preferLocal`": Balancer(
        f"{{type: RoundRobin, zoneAware: {{{NEAR}}}}}", zones=("a", "b", "b")
    ),
}
"""The rows of load_balancer.md."""


def rows(page: Path, heading: str) -> dict[str, dict[str, str]]:
    """The table below a heading of a page: row → column → cell."""
    section = page.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    columns, _, *rest = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rest}


def table(page: str) -> dict[str, dict[str, str]]:
    """The table of faults of a feature's page."""
    return rows(FEATURES / f"{page}.md", "When an endpoint has a fault")


class Remedy(NamedTuple):
    """One column of the page of load balancers.

    Args:
        spec: of the policy, in YAML.
        page: that of its feature.
        column: of that page's table.
    """

    spec: str
    page: str
    column: str

    def said(self, fault: str) -> str:
        """What its page says."""
        return table(self.page)[fault][self.column]

    def against(self, fault: str) -> str:
        """Its part of a policy: tries and checks may take long where the fault is not about time."""
        return self.spec if fault in SLOW else re.sub(r"timeout: \d+ms", "timeout: 5s", self.spec)


REMEDIES = {
    "none": Remedy("", "retry", "without `retry`"),
    "`retry`": Remedy(
        "retry: {numRetries: 3, retryOn: {triggers: ['5xx', reset, connect-failure]}, "
        "perRetry: {timeout: 150ms, backOff: {baseInterval: 1ms}}}",
        "retry",
        "with `retry`",
    ),
    "`healthCheck.active`": Remedy(
        "healthCheck: {panicThreshold: 0, active: {type: HTTP, timeout: 300ms, interval: 100ms, "
        "unhealthyThreshold: 1, http: {path: /ready}}}",
        "health_check",
        "with `active`",
    ),
    "`healthCheck.passive`": Remedy(
        "healthCheck: {passive: {consecutive5XxErrors: 2, consecutiveLocalOriginFailures: 2, "
        "interval: 100ms, baseEjectionTime: 1h, maxEjectionPercent: 40}}",
        "health_check",
        "with `passive`",
    ),
}
"""The columns of load_balancer.md; "`healthCheck`" there stands for both."""


FAULTS = {fault: int(cells["without `retry`"].strip("`")[:3]) for fault, cells in table("retry").items()}
"""What one endpoint does, and the status of requests that reach it."""

SLOW = {fault for fault, status in FAULTS.items() if status == 504}


def all_fail(seen: Seen, bad: int) -> bool:
    return seen.statuses == {bad}


def some_fail(seen: Seen, bad: int) -> bool:
    return seen.statuses == {200, bad}


def all_of_some_users_fail(seen: Seen, bad: int) -> bool:
    each = [{answer.status for answer in answers} for answers in seen.answers.values()]
    return {bad} in each and {200} in each and {200, bad} not in each


def hardly_any_fails(seen: Seen, bad: int) -> bool:
    """Half of what would fail otherwise, at most; most often it is none."""
    return seen.statuses <= {200, bad} and sum(a.status == bad for a in seen.all) <= len(seen.all) / 6


def none_fails(seen: Seen, _bad: int) -> bool:
    return seen.statuses == {200}


CONCERNED = {
    "all fail": all_fail,
    "some fail": some_fail,
    "all of some users fail": all_of_some_users_fail,
    "hardly any fails": hardly_any_fails,
    "none fails": none_fails,
    "soon none fails": none_fails,
}
"""What a cell of the page of load balancers may say of the requests of clients."""


def at_once(answer: Answer) -> bool:
    return answer.after_s < TIMEOUT_S


def after_the_timeout(answer: Answer) -> bool:
    return answer.after_s > TIMEOUT_S * 0.9


def a_try_later(answer: Answer) -> bool:
    return answer.after_s > TRY_S * 0.9


TIMES = {"at once": at_once, "after `requestTimeout`": after_the_timeout, "one try later": a_try_later}
"""What a cell of another page may say besides the status."""


def statuses_of(cell: str) -> list[int]:
    """The statuses that a cell names, in its order."""
    return [int(status) for status in re.findall(r"`(\d{3})`", cell)]


def in_time(cell: str, seen: Seen) -> bool:
    """Whether what the cell says of time holds; of successes it holds for some, and of failures for most."""
    status = statuses_of(cell)[0]
    when = cell.partition(";")[0].partition(", ")[2]
    judged = [TIMES[when](answer) for answer in seen.all if answer.status == status] if when else []
    return not judged or (any(judged) if status == 200 else sum(judged) > len(judged) / 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zonal(site: Site) -> int:
    """The port of a gateway in zone ``a``."""
    port = free_port()
    await site.apply(*m.gateway_in_zone("a", "zonal", port))
    return port


@asynccontextmanager
async def trial(site: Site, port: int, name: str, balancer: Balancer, more: str) -> AsyncGenerator[Trial]:
    """A route to three endpoints, with a policy of its own."""
    async with AsyncExitStack() as stack:
        endpoints = tuple(
            [await stack.enter_async_context(Faulty(n).serving()) for n in ("faulty", "sound", "other")]
        )
        zones = [f", zone: {zone}" for zone in balancer.zones] or [""] * len(endpoints)
        documents = [
            m.backend(
                name,
                *(
                    f"ip: {{address: 127.0.0.1, port: {each.port}}}{zone}"
                    for each, zone in zip(endpoints, zones, strict=True)
                ),
            ),
            m.route(name, f"[{{{m.to(name)}}}]", parents="[{name: zonal}]"),
            m.policy(
                "BackendTrafficPolicy",
                name,
                f"{{loadBalancer: {balancer.spec}{more and ', '}{more}}}",
                f"HTTPRoute/{name}",
            ),
        ]
        await site.apply(*documents)
        begun = Trial(site, name, port, endpoints, balancer.asks)
        # Connections are open, as at any other time when a fault comes.
        await begun.returned()
        yield begun
        await site.delete(*documents)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addressed() -> AsyncGenerator[None]:
    """A client for each user, with an address of its own."""
    context = ssl.create_default_context()
    async with AsyncExitStack() as stack:
        for user in range(USERS):
            transport = httpx.AsyncHTTPTransport(verify=context, local_address=f"127.0.1.{user + 1}")
            client = httpx.AsyncClient(transport=transport, timeout=DEADLINE_S, trust_env=False)
            ADDRESSED.append(await stack.enter_async_context(client))
        yield
    ADDRESSED.clear()


def limits(fault: str) -> str:
    """A request may take 300 ms where the fault is about time; else it takes its time on a busy machine."""
    return f"timeout: {{http: {{requestTimeout: {'300ms' if fault in SLOW else '15s'}}}}}"


SHORT = {*product(["`RoundRobin`"], FAULTS), *product(BALANCERS, ["hangs", "answers 500"])}
"""What runs always: all faults once, and two of them with each load balancer that is not like another."""


def cells() -> Iterator[Any]:
    """Each cell of the page of load balancers, with each fault."""
    for balancer, columns in table("load_balancer").items():
        for column, cell in columns.items():
            for remedy in (name for name in REMEDIES if name.startswith(column.rstrip("`"))):
                for fault in FAULTS:
                    long = BALANCERS[balancer].long or (balancer, fault) not in SHORT
                    marks = pytest.mark.long if long else ()
                    name = f"{balancer}-{remedy}-{fault}".replace("`", "")
                    yield pytest.param(balancer, remedy, fault, cell, marks=marks, id=name)


async def test_each_page_has_each_row() -> None:
    """What has no row is not tested."""
    named = {
        page: list(table(page)) for page in ("load_balancer", "retry", "health_check", "circuit_breaker")
    }

    assert named == {
        "load_balancer": list(BALANCERS),
        "retry": list(FAULTS),
        "health_check": [*FAULTS, "is over it"],
        "circuit_breaker": list(FAULTS),
    }


@pytest.mark.usefixtures("addressed")
@pytest.mark.parametrize(("balancer", "remedy", "fault", "cell"), [*cells()])
@measures_time(fault=SLOW)
async def test_clients_see_what_the_pages_say(
    site: Site, zonal: int, balancer: str, remedy: str, fault: str, cell: str
) -> None:
    """The page of load balancers says who is concerned, and that of the remedy what those see, and when."""
    bad, said = FAULTS[fault], REMEDIES[remedy].said(fault)
    more = ", ".join(filter(None, (limits(fault), REMEDIES[remedy].against(fault))))
    async with trial(site, zonal, "fault", BALANCERS[balancer], more) as t:
        t.faulty.begin(fault)
        if cell.startswith("soon"):
            assert (await t.ask()).statuses <= set(statuses_of(said))
            await t.spared()
            t.faulty.taken = 0

        seen = await t.ask()

        assert CONCERNED[cell](seen, bad)
        if cell.startswith("soon"):
            assert t.faulty.taken == 0
        elif REMEDIES[remedy].page == "retry":
            assert in_time(said, seen)


@pytest.mark.parametrize("remedy", ["`healthCheck.active`", "`healthCheck.passive`"])
@pytest.mark.parametrize("fault", FAULTS)
@measures_time(fault=SLOW)
async def test_an_endpoint_comes_back_when_the_page_says_it(
    site: Site, zonal: int, fault: str, remedy: str
) -> None:
    """With the next check; or when it was ejected for its time, however well it is before."""
    checked = REMEDIES[remedy]
    spec = checked.against(fault).replace("baseEjectionTime: 1h", f"baseEjectionTime: {EJECTED_S:.0f}s")
    async with trial(site, zonal, "back", BALANCERS["`RoundRobin`"], f"{limits(fault)}, {spec}") as t:
        t.faulty.begin(fault)
        begun = monotonic()
        await t.spared()
        t.faulty.end()
        t.faulty.taken = 0

        async with asyncio.timeout(DEADLINE_S):
            while not t.faulty.taken:
                assert (await t.ask(times=6)).statuses == {200}

        assert checked.said("is over it") == (
            "`200`, as soon as a check succeeds" if "active" in remedy else "`200`, after `baseEjectionTime`"
        )
        assert "active" in remedy or monotonic() - begun > EJECTED_S
        await t.returned()


async def test_of_three_endpoints_the_default_ejects_none(site: Site, zonal: int) -> None:
    """As the page of health checks says."""
    spec = "healthCheck: {passive: {consecutive5XxErrors: 1}}"
    async with trial(site, zonal, "ten-percent", BALANCERS["`RoundRobin`"], spec) as t:
        t.faulty.begin("answers 500")
        await t.ask()

        assert (await t.ask()).share("faulty") > 1 / 6


@pytest.mark.parametrize("fault", FAULTS)
@measures_time(fault=SLOW)
async def test_a_circuit_breaker_fails_at_once_what_would_wait(site: Site, zonal: int, fault: str) -> None:
    """And nothing else: it does not look at answers."""
    said = table("circuit_breaker")[fault]["with `maxParallelRequests`"]
    more = f"{limits(fault)}, circuitBreaker: {{maxParallelRequests: 6}}"
    async with trial(site, zonal, "limited", BALANCERS["`RoundRobin`"], more) as t:
        t.faulty.begin(fault)

        seen = await t.ask(times=120, at_once=12 if fault in SLOW else 6)

        assert seen.statuses == {200, *statuses_of(said)}
        assert in_time(said, seen)


async def test_an_endpoint_has_no_more_connections_than_it_may(site: Site, zonal: int) -> None:
    """A client waits for its turn at an endpoint that is slow."""
    spec = "circuitBreaker: {perEndpoint: {maxConnections: 1}}"
    async with trial(site, zonal, "per-endpoint", BALANCERS["`RoundRobin`"], spec) as t:
        t.faulty.begin("is slow")

        seen = await t.ask(times=18)

        assert seen.statuses <= {200, 503}
        assert sum(answer.status == 200 for answer in seen.all) >= 12


async def test_an_endpoint_that_reports_errors_gets_fewer_requests(site: Site, zonal: int) -> None:
    """With ``errorUtilizationPenaltyPercent``: a failing endpoint is not the least busy one of all."""
    async with trial(site, zonal, "reported", BALANCERS["`BackendUtilization`"], "") as t:
        before = (await t.ask(times=240)).share("faulty")
        t.faulty.begin("answers 500")

        async with asyncio.timeout(DEADLINE_S):
            while (await t.ask(times=240)).share("faulty") > before / 2:
                pass

        assert before > 1 / 4
        assert (await t.ask(times=240)).share("faulty") > 0


@pytest.mark.long
async def test_an_endpoint_that_is_back_starts_slowly(site: Site, zonal: int) -> None:
    """With ``slowStart``, where active checks say that it is back."""
    slowly = Balancer("{type: RoundRobin, slowStart: {window: 5s}}")
    async with trial(site, zonal, "slowly", slowly, REMEDIES["`healthCheck.active`"].spec) as t:
        t.faulty.begin("answers 500")
        await t.spared()
        begun = monotonic()
        while monotonic() < begun + 6:  # the others have started
            await t.ask()
        t.faulty.end()
        await t.returned()

        assert (await t.ask()).share("faulty") < 0.2
        async with asyncio.timeout(DEADLINE_S):
            while (await t.ask()).share("faulty") < 0.3:
                pass
