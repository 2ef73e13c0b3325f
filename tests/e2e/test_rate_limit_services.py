"""Both rate limit services give the same answers: moongate's own, in memory and on Redis, and Envoy's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time  # noqa: TID251 - windows are aligned to the clock
from typing import Any, get_args

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.deadline import DEADLINE_S
from tests.e2e import paced
from tests.e2e.limited_envoys import Limited, limited
from tests.e2e.rate_limiters import Kind, RateLimiter

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_NUMBERS = count()

Json = dict[str, Any]
ONCE: Json = {"requests": 1, "unit": "Year"}
TWICE: Json = {"requests": 2, "unit": "Year"}
OVER = 429


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets, which pytest's own may not be."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=get_args(Kind))
async def running(request: pytest.FixtureRequest) -> AsyncIterator[RateLimiter]:
    """One for all tests that do not end it: it takes as long to start as they take."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        async with RateLimiter(Path(name), request.param) as limiter:
            yield limiter


@pytest.fixture
def limiter(running: RateLimiter) -> RateLimiter:
    """It counts nothing with what other tests asked."""
    running.namespace = f"of-test-{next(_NUMBERS)}"
    return running


@pytest_asyncio.fixture(loop_scope="module", params=get_args(Kind))
async def own(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[RateLimiter]:
    """One that a test may end."""
    async with RateLimiter(folder, request.param) as limiter:
        yield limiter


@pytest_asyncio.fixture(loop_scope="module", params=["redis", "envoy"])
async def persistent(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[RateLimiter]:
    """The same, whose counts outlive it: those in memory end with the process."""
    async with RateLimiter(folder, request.param) as limiter:
        yield limiter


def selected(limit: Json = ONCE, **selector: Any) -> Json:
    return {"clientSelectors": [selector], "limit": limit}


async def test_a_limit_for_all_requests_of_a_route(limiter: RateLimiter, folder: Path) -> None:
    """What is over it is answered by Envoy, and does not reach the backend; the headers say what remains."""
    async with limited(limiter, folder, {"limit": TWICE}) as gateway:
        answers = [await gateway.ask() for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, OVER, OVER]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit"].startswith("2, 2;w=31536000")
    assert len(gateway.backend.requests) == 2


@pytest.mark.parametrize(
    ("selector", "counted", "passing"),
    [
        ({"headers": [{"name": "plan", "value": "free"}]}, {"plan": "free"}, {"plan": "gold"}),
        (
            {"headers": [{"name": "plan", "type": "RegularExpression", "value": "a+"}]},
            {"plan": "aaa"},
            {"plan": "gold"},
        ),
        (
            {"headers": [{"name": "plan", "value": "gold", "invert": True}]},
            {"plan": "free"},
            {"plan": "gold"},
        ),
        (
            {"headers": [{"name": "plan", "value": "free"}, {"name": "bot", "value": "yes"}]},
            {"plan": "free", "bot": "yes"},
            {"plan": "free"},
        ),
        ({"methods": [{"value": "POST"}, {"value": "PUT"}]}, {"method": "PUT"}, {"method": "GET"}),
        ({"methods": [{"value": "GET", "invert": True}]}, {"method": "PUT"}, {"method": "GET"}),
        ({"path": {"type": "Exact", "value": "/buy"}}, {"path": "/buy"}, {"path": "/look"}),
        (
            {"path": {"type": "RegularExpression", "value": "/b.*", "invert": True}},
            {"path": "/look"},
            {"path": "/buy"},
        ),
        ({"queryParams": [{"name": "a", "value": "1"}]}, {"path": "/?a=1"}, {"path": "/?a=2"}),
        (
            {"queryParams": [{"name": "a", "type": "RegularExpression", "value": "1+"}]},
            {"path": "/?a=11"},
            {"path": "/?a=2"},
        ),
        (
            {"queryParams": [{"name": "a", "value": "1", "invert": True}]},
            {"path": "/?a=2"},
            {"path": "/?a=1"},
        ),
    ],
)
async def test_a_selector_says_which_requests_count(
    limiter: RateLimiter, folder: Path, selector: Json, counted: Json, passing: Json
) -> None:
    async with limited(limiter, folder, selected(ONCE, **selector)) as gateway:
        assert await gateway.statuses(2, **passing) == [200, 200]
        assert await gateway.statuses(2, **counted) == [200, OVER]
        assert await gateway.statuses(2, **passing) == [200, 200]


@pytest.mark.parametrize(
    ("selector", "one", "other", "without"),
    [
        (
            {"headers": [{"name": "user", "type": "Distinct"}]},
            {"user": "anne"},
            {"user": "bob"},
            {},
        ),
        (
            {"queryParams": [{"name": "user", "type": "Distinct"}]},
            {"path": "/?user=anne"},
            {"path": "/?user=bob"},
            {"path": "/"},
        ),
    ],
)
async def test_each_distinct_value_has_a_limit_of_its_own(
    limiter: RateLimiter, folder: Path, selector: Json, one: Json, other: Json, without: Json
) -> None:
    """A request without a value is not counted."""
    async with limited(limiter, folder, selected(ONCE, **selector)) as gateway:
        assert await gateway.statuses(2, **one) == [200, OVER]
        assert await gateway.statuses(2, **other) == [200, OVER]
        assert await gateway.statuses(2, **without) == [200, 200]


@pytest.mark.parametrize(
    ("source", "first", "second"),
    [
        ({"value": "127.0.0.0/30"}, [200, OVER], [OVER, OVER]),
        ({"value": "127.0.0.0/30", "type": "Distinct"}, [200, OVER], [200, OVER]),
        ({"value": "127.0.0.1/32"}, [200, OVER], [200, 200]),
        ({"value": "127.0.0.1/32", "invert": True}, [200, 200], [200, OVER]),
    ],
)
async def test_addresses_of_clients(
    limiter: RateLimiter, folder: Path, source: Json, first: list[int], second: list[int]
) -> None:
    """A block has one limit together, or with Distinct each address one."""
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with (
        limited(limiter, folder, selected(ONCE, sourceCIDR=source)) as gateway,
        httpx.AsyncClient(transport=transport, timeout=DEADLINE_S) as client,
    ):
        assert await gateway.statuses(2) == first
        gateway.client, own = client, gateway.client
        assert await gateway.statuses(2) == second
        gateway.client = own


async def test_each_route_and_gateway_has_limits_of_its_own(limiter: RateLimiter, folder: Path) -> None:
    async with limited(limiter, folder, {"limit": ONCE}, routes=("/a", "/b"), listeners=2) as gateway:
        assert await gateway.statuses(2, "/a") == [200, OVER]
        assert await gateway.statuses(2, "/b") == [200, OVER]
        assert await gateway.statuses(2, "/a", of=1) == [200, OVER]


async def test_a_shared_limit_is_one_for_all_routes_gateways_and_envoys(
    limiter: RateLimiter, folder: Path
) -> None:
    rule = {"limit": {"requests": 3, "unit": "Year"}, "shared": True}
    async with limited(limiter, folder, rule, routes=("/a", "/b"), listeners=2, envoys=2) as gateway:
        answers = [
            *await gateway.statuses(1, "/a"),
            *await gateway.statuses(1, "/b", of=1),
            *await gateway.statuses(1, "/a", of=2),
            *await gateway.statuses(1, "/b", of=3),
        ]

    assert answers == [200, 200, 200, OVER]


async def test_of_several_rules_each_counts(limiter: RateLimiter, folder: Path) -> None:
    rules = (selected(ONCE, headers=[{"name": "user", "type": "Distinct"}]), {"limit": TWICE, "shared": True})
    async with limited(limiter, folder, *rules) as gateway:
        answers = [(await gateway.ask(user=user)).status_code for user in ("anne", "bob", "eve")]

    assert answers == [200, 200, OVER]


async def test_in_shadow_nothing_is_refused(limiter: RateLimiter, folder: Path) -> None:
    async with limited(limiter, folder, {"limit": ONCE, "shadowMode": True}) as gateway:
        assert await gateway.statuses(3) == [200, 200, 200]


async def test_a_limit_of_zero_refuses_everything(limiter: RateLimiter, folder: Path) -> None:
    async with limited(limiter, folder, {"limit": {"requests": 0, "unit": "Year"}}) as gateway:
        assert await gateway.statuses(2) == [OVER, OVER]


def from_header(request: str = "", response: str = "") -> Json:
    """A filter that makes metadata of headers: ``cost`` in the namespace ``shop``, as numbers."""

    def rules(header: str) -> list[Json]:
        present = {"metadata_namespace": "shop", "key": "cost", "type": "NUMBER"}
        return [{"header": header, "on_header_present": present}] if header else []

    kind = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    config = {"@type": kind, "request_rules": rules(request), "response_rules": rules(response)}
    return {"name": "header_to_metadata", "typed_config": config}


COST: Json = {"from": "Metadata", "metadata": {"namespace": "shop", "key": "cost"}}


async def test_a_request_costs_what_its_metadata_says(limiter: RateLimiter, folder: Path) -> None:
    rule = {"limit": {"requests": 10, "unit": "Year"}, "cost": {"request": COST}}
    async with limited(limiter, folder, rule, filters=(from_header("x-cost"),)) as gateway:
        answers = [(await gateway.ask(x_cost=cost)).status_code for cost in ("4", "6", "1")]

    assert answers == [200, 200, OVER]


async def test_a_cost_of_nothing_only_asks(limiter: RateLimiter, folder: Path) -> None:
    rule = {"limit": ONCE, "cost": {"request": {"from": "Number", "number": 0}}}
    async with limited(limiter, folder, rule) as gateway:
        assert await gateway.statuses(3) == [200, 200, 200]


async def test_a_response_is_charged_when_it_is_complete(limiter: RateLimiter, folder: Path) -> None:
    """So it limits later requests: tokens of a language model, for example."""
    cost = {"request": {"from": "Number", "number": 0}, "response": {"from": "Number", "number": 5}}
    async with limited(limiter, folder, {"limit": {"requests": 4, "unit": "Year"}, "cost": cost}) as gateway:
        first = await gateway.statuses(1)
        async with asyncio.timeout(DEADLINE_S):
            while (await gateway.ask()).status_code != OVER:  # noqa: ASYNC110 - it is charged after the answer
                await asyncio.sleep(0.02)

    assert first == [200]


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("Second", 1),
        ("Minute", 60),
        ("Hour", 3600),
        ("Day", 86_400),
        ("Week", 604_800),
        ("Month", 2_592_000),
        ("Year", 31_536_000),
    ],
)
async def test_windows_of_each_unit_are_aligned_to_the_clock(
    limiter: RateLimiter, folder: Path, unit: str, seconds: int
) -> None:
    async with limited(limiter, folder, {"limit": {"requests": 5, "unit": unit}}) as gateway:
        before = int(time())
        answer = await gateway.ask()
        after = int(time())

    assert f";w={seconds}" in answer.headers["x-ratelimit-limit"]
    resets = {seconds - now % seconds for now in range(before, after + 1)}
    assert int(answer.headers["x-ratelimit-reset"]) in resets


async def test_the_next_second_begins_with_all_its_requests(limiter: RateLimiter, folder: Path) -> None:
    """At the edge of a window as many may pass as the limit says, in each of the two."""
    async with limited(limiter, folder, {"limit": {"requests": 3, "unit": "Second"}}) as gateway:
        passed: dict[int, int] = {}
        # The last one may be at its beginning.
        while len(passed) < 4:
            before = int(time())
            status = (await gateway.ask()).status_code
            if status == 200 and int(time()) == before:
                passed[before] = passed.get(before, 0) + 1

    assert max(passed.values()) <= 3


async def test_without_a_service_requests_pass_or_are_refused_as_is_set(
    own: RateLimiter, folder: Path
) -> None:
    """When it comes back, limits hold again without anybody's help."""
    (folder / "closed").mkdir()
    async with (
        limited(own, folder, {"limit": {"requests": 0, "unit": "Year"}}) as gateway,
        limited(
            own, folder / "closed", {"limit": {"requests": 0, "unit": "Year"}}, fail_closed=True
        ) as closed,
    ):
        before = (await gateway.statuses(1), await closed.statuses(1))
        await own.end()
        without = (await gateway.statuses(2), await closed.statuses(2))
        await own.start()
        async with asyncio.timeout(DEADLINE_S):
            while (await gateway.ask()).status_code != OVER or (await closed.ask()).status_code != OVER:  # noqa: ASYNC110 - Envoy connects again in its own time
                await asyncio.sleep(0.05)

    assert before == ([OVER], [OVER])
    assert without == ([200, 200], [500, 500])


async def test_without_redis_requests_pass_or_are_refused_as_is_set(
    persistent: RateLimiter, folder: Path
) -> None:
    """When it comes back it has the counts that it had."""
    redis = persistent.redis
    assert redis is not None
    (folder / "closed").mkdir()
    async with (
        limited(persistent, folder, {"limit": ONCE}) as gateway,
        limited(persistent, folder / "closed", {"limit": ONCE}, fail_closed=True) as closed,
    ):
        before = await gateway.statuses(2)
        await redis.kill()
        without = (await gateway.statuses(2), await closed.statuses(2))
        await redis.start()
        after = await first_counted(closed)

    assert before == [200, OVER]
    assert without == ([200, 200], [500, 500])
    assert after == OVER


async def test_counts_outlive_a_restart_of_the_service(persistent: RateLimiter, folder: Path) -> None:
    async with limited(persistent, folder, {"limit": TWICE}, fail_closed=True) as gateway:
        before = await gateway.statuses(2)
        await persistent.end()
        await persistent.start()
        after = await first_counted(gateway)

    assert before == [200, 200]
    assert after == OVER


async def first_counted(gateway: Limited) -> int:
    """The first answer to a request that is counted; it refuses those that are not."""
    async with asyncio.timeout(DEADLINE_S):
        while (status := (await gateway.ask()).status_code) == 500:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.05)
    return status


async def test_a_move_from_envoys_service_to_moongates_keeps_the_counts(folder: Path) -> None:
    """Both have the same names in Redis."""
    async with RateLimiter(folder, "envoy") as theirs:
        async with limited(theirs, folder, {"limit": TWICE}) as gateway:
            before = await gateway.statuses(2)
        await theirs.end()
        theirs.kind = "redis"
        await theirs.start()
        async with limited(theirs, folder, {"limit": TWICE}) as gateway:
            after = await gateway.statuses(1)

    assert (before, after) == ([200, 200], [OVER])


@pytest.mark.parametrize(
    ("unit", "requests", "seconds"), [("Year", 2_500, 2), ("Second", 1_000, 4)], ids=["Year", "Second"]
)
async def test_a_limit_is_kept_under_load_from_several_envoys(
    limiter: RateLimiter, folder: Path, unit: str, requests: int, seconds: int
) -> None:
    """2,000 requests a second: at most 1% over the limit pass, and no others reach the backend."""
    program = (sys.executable, paced.__file__, "2000", str(seconds))
    pipe = asyncio.subprocess.PIPE
    load = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe)
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        backend = int(await load.stdout.readline())
        rule = {"limit": {"requests": requests, "unit": unit}, "shared": True}
        async with limited(limiter, folder, rule, envoys=3, backend_port=backend) as gateway:
            load.stdin.write(f"{' '.join(map(str, gateway.ports))}\n".encode())
            result = msgspec.json.decode(await load.stdout.readline(), type=Result)
            await load.wait()
    finally:
        if load.returncode is None:
            load.kill()
            await load.wait()

    # The load takes longer on a slow machine, and windows do not begin with it.
    windows = 1 if unit == "Year" else int(result.seconds) + 2
    assert sum(result.statuses.values()) == 2000 * seconds
    assert result.statuses.keys() <= {"200", "429"}
    assert result.backend == result.statuses["200"]
    assert result.backend <= 1.01 * requests * windows
    if unit == "Year":
        assert result.backend >= requests


class Result(msgspec.Struct, frozen=True):
    """What ``paced`` prints."""

    backend: int
    statuses: dict[str, int]
    seconds: float
    p50_ms: float
    p99_ms: float
