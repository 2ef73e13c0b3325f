from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from moongate.rate_limits.config import Limits
from moongate.rate_limits.counters import CountersError, MemoryCounters
from moongate.rate_limits.service import FORMER_S, RateLimitService, Use, is_same, reported
from moongate.xds.wire import encode
from tests.rate_limits.configs import ASK, config, descriptor, level, request

_Code = RateLimitResponse.Code
ANNE = descriptor(("user", "anne"))


class Service:
    """A service that counts in memory, with a clock that tests set."""

    def __init__(self, *configs: object) -> None:
        self.now = 0.0
        self.service = RateLimitService(MemoryCounters(lambda: self.now), lambda: self.now)
        self.take(*configs)

    def take(self, *configs: object) -> None:
        self.service.take(Limits(configs))  # pyright: ignore[reportArgumentType] - of configurations

    async def codes(self, count: int, *descriptors: object, hits: int = 0) -> str:
        """The answers to some equal requests: ``.`` for one that may pass, ``x`` for one over a limit."""
        each = request(*descriptors, hits=hits)  # pyright: ignore[reportArgumentType] - of descriptors
        answers = [await self.service.answer(each) for _ in range(count)]
        return "".join("x" if answer.overall_code == _Code.OVER_LIMIT else "." for answer in answers)


async def test_as_many_requests_pass_as_the_limit_says() -> None:
    service = Service(config(level("user", limit=(3, "MINUTE"))))

    assert await service.codes(5, ANNE) == "...xx"
    assert await service.codes(4, descriptor(("user", "bob"))) == "...x"


async def test_a_limit_of_zero_lets_nothing_pass() -> None:
    service = Service(config(level("user", limit=(0, "YEAR"))))

    assert await service.codes(2, ANNE) == "xx"


async def test_the_next_window_begins_with_the_clock() -> None:
    """At its edge, not a whole window after the first request."""
    service = Service(config(level("user", limit=(1, "MINUTE"))))
    service.now = 59.999

    before = await service.codes(2, ANNE)
    service.now = 60.0

    assert before == ".x"
    assert await service.codes(2, ANNE) == ".x"


async def test_for_a_while_the_limits_of_a_former_configuration_count_that_are_gone() -> None:
    """An Envoy that has not got its new routes yet asks about them; or a request could pass in between."""
    service = Service(config(level("user", limit=(1, "YEAR")), level("plan", limit=(1, "YEAR"))))
    await service.codes(1, ANNE)

    for _ in range(2):
        service.take(config(level("user", limit=(3, "YEAR"))))
    assert await service.codes(3, ANNE) == "..x"
    assert await service.codes(2, descriptor(("plan", "gold"))) == ".x"

    service.now += FORMER_S
    assert await service.codes(2, descriptor(("plan", "gold"))) == ".."


async def test_many_configurations_make_no_limit_forgotten_before_its_time() -> None:
    """They may be about other routes. And those that go on to come do not keep it for good."""
    gold, silver = descriptor(("plan", "gold")), descriptor(("plan", "silver"))
    service = Service(config(level("plan", "gold", limit=(0, "YEAR")), level("plan", limit=(1, "YEAR"))))

    for n in range(100):
        service.take(config(level("plan", "silver", level("user", limit=(n, "YEAR")))))
    service.now += FORMER_S - 1
    service.take(config(level("user", limit=(1, "YEAR"))))

    assert await service.codes(1, gold) == "x"
    assert await service.codes(2, silver) == ".."
    assert await service.codes(1, descriptor(("plan", "silver"), ("user", "anne")), hits=99) == "."
    assert await service.codes(1, descriptor(("plan", "silver"), ("user", "anne"))) == "x"
    service.now += 2
    service.take(config(level("user", limit=(2, "YEAR"))))
    service.now += FORMER_S - 3
    assert await service.codes(1, gold) == "x"
    for n in range(2 * int(FORMER_S)):
        service.now += 1
        service.take(config(level("user", limit=(n, "YEAR"))))
    assert await service.codes(1, gold) == "."


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("SECOND", 1),
        ("MINUTE", 60),
        ("HOUR", 3600),
        ("DAY", 86_400),
        ("WEEK", 604_800),
        ("MONTH", 2_592_000),
        ("YEAR", 31_536_000),
    ],
)
async def test_an_answer_says_what_remains_and_when_the_window_ends(unit: str, seconds: int) -> None:
    """Envoy makes the ``x-ratelimit-*`` headers of it."""
    service = Service(config(level("user", limit=(3, unit))))
    service.now = 2 * seconds - 0.5

    answer = await service.service.answer(request(ANNE))

    [status] = answer.statuses
    assert status.current_limit.requests_per_unit == 3
    assert RateLimitResponse.RateLimit.Unit.Name(status.current_limit.unit) == unit
    assert status.limit_remaining == 2
    assert status.duration_until_reset.seconds == 1


async def test_in_shadow_everything_passes_and_is_counted() -> None:
    service = Service(config(level("user", limit=(1, "MINUTE"), shadow=True)))

    assert await service.codes(3, ANNE) == "..."
    assert service.service.report().limits[0].used == 3


async def test_what_is_unlimited_or_unknown_passes() -> None:
    service = Service(config(level("user", unlimited=True), level("route", "a", limit=(0, "DAY"))))

    assert await service.codes(2, ANNE, descriptor(("path", "/"))) == ".."
    assert await service.codes(1, ANNE, descriptor(("route", "a"))) == "x"


async def test_a_request_is_counted_in_all_its_buckets() -> None:
    """Also where one of them is over its limit, as by Envoy's own service."""
    service = Service(config(level("user", limit=(1, "HOUR")), level("all", limit=(9, "HOUR"))))

    await service.codes(4, ANNE, descriptor(("all", "")))

    assert [use.used for use in service.service.report().limits] == [4, 4]


async def test_a_request_costs_what_it_says() -> None:
    """A descriptor's own cost wins over the request's; none is one hit, and 0 of a descriptor asks."""
    service = Service(config(level("user", limit=(10, "HOUR"))))

    assert await service.codes(3, ANNE, hits=4) == "..x"
    assert await service.codes(1, descriptor(("user", "bob"), hits=10), hits=99) == "."
    assert await service.codes(2, descriptor(("user", "bob"), hits=0), hits=99) == ".."
    assert await service.codes(1, descriptor(("user", "bob"))) == "x"
    assert await service.codes(1, descriptor(("user", "bob"), hits=0)) == "x"


async def test_without_a_configuration_there_is_no_answer() -> None:
    """Envoy then does what it does when there is no service."""
    service = RateLimitService(MemoryCounters())

    with pytest.raises(CountersError, match="No configuration"):
        await service.answer(request(ANNE))


async def test_a_report_has_each_limit_with_its_use() -> None:
    """Of several buckets the fullest; their values may be secrets, and are not in it."""
    service = Service(
        config(level("route", "a", level("user", limit=(2, "MINUTE"))), level("all", "b", limit=(9, "HOUR")))
    )
    service.now = 10.0
    await service.codes(5, descriptor(("route", "a"), ("user", "secret")))
    await service.codes(1, descriptor(("route", "a"), ("user", "bob")))

    report = service.service.report()
    service.now = 70.0
    later = service.service.report()

    assert report.limits == (
        Use(
            domain="shop",
            path=(("route", "a"), ("user", "")),
            requests=2,
            unit="MINUTE",
            shadow=False,
            buckets=2,
            used=5,
            reset_s=50,
        ),
        Use(
            domain="shop",
            path=(("all", "b"),),
            requests=9,
            unit="HOUR",
            shadow=False,
            buckets=0,
            used=0,
            reset_s=3590,
        ),
    )
    assert later.limits[0].buckets == 0


async def test_it_is_known_although_who_asks_stood_still(tmp_path: Path) -> None:
    """Otherwise another would take its place, and count from the beginning."""
    address = f"unix:{tmp_path}/s"
    async with Service().service.listening(address, b"settings"):
        asyncio.get_running_loop().call_soon(time.sleep, 1.5)

        assert await is_same(address, b"settings", 1)


async def test_it_is_asked_and_reports_over_grpc(tmp_path: Path) -> None:
    """As Envoy asks it: what cannot be counted is an error, which Envoy treats by its own settings."""
    service = Service(config(level("user", limit=(0, "MINUTE"))))
    address = f"unix:{tmp_path}/s"
    async with (
        service.service.listening(address, b"settings"),
        grpc.aio.insecure_channel(address) as channel,
    ):
        same = [await is_same(address, identity, 5) for identity in (b"settings", b"others", b"")]
        ask = channel.unary_unary(
            ASK,
            encode,
            RateLimitResponse.FromString,
        )
        answer: RateLimitResponse = await ask(request(ANNE))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(RateLimitRequest())
        report = await reported(address, 5)

    assert answer.overall_code == _Code.OVER_LIMIT
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [use.used for use in report.limits] == [1]
    assert same == [True, False, False]
