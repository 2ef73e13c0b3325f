from __future__ import annotations

import asyncio
import shutil
import socket
import time
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import psutil
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from structlog.testing import capture_logs

from moongate.infra.journal import Journal
from moongate.infra.ports import PortError
from moongate.infra.rundir import RunDirectory
from moongate.patience import Clock
from moongate.rate_limits import transition
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.settings import Redis
from moongate.rate_limits.subscription import follow
from moongate.rate_limits.transition import at_once
from moongate.run import rate_limits
from moongate.run.rate_limits import ExternalService, RateLimits
from moongate.xds.wire import encode
from tests.deadline import DEADLINE_S
from tests.ports import free_port
from tests.rate_limits.configs import ASK, config, descriptor, level, request
from tests.redis_servers import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.rate_limits.config import Limits

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report waits for the service, also where that gets no time for a while."""
    monkeypatch.setattr(rate_limits, "_REPORT_WITHIN_S", DEADLINE_S)


TWO_A_YEAR = {"shop": encode(config(level("user", limit=(2, "YEAR"))))}


class NoRoutes:
    """What is known of routes where there is no Envoy."""

    held = False

    def edits(self) -> dict[str, int]:
        return {}

    def in_force(self, name: str, edit: int) -> bool:
        raise AssertionError(f"there is no {name} with {edit}")


class OldRoutes(NoRoutes):
    """One fleet, whose Envoys do not answer."""

    def edits(self) -> dict[str, int]:
        return {"one": 2}

    def in_force(self, name: str, edit: int) -> bool:
        return False


class NewRoutes(OldRoutes):
    """The same fleet, whose Envoys have answered."""

    def in_force(self, name: str, edit: int) -> bool:
        return True


class LastRoutes(OldRoutes):
    """The same fleet, of which Envoys have all routes but the newest."""

    def edits(self) -> dict[str, int]:
        return {"one": 3}

    def in_force(self, name: str, edit: int) -> bool:
        return edit < 3


@asynccontextmanager
async def limited(
    tmp_path: Path, redis: Redis | None = None
) -> AsyncGenerator[tuple[RateLimits, RunDirectory]]:
    """Rate limits of a run, where two requests a year are allowed."""
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run, redis=redis) as limits:
            at_once(limits.publish(TWO_A_YEAR, {}))
            await limits.served()
            yield limits, run


async def over(limits: RateLimits, user: str = "anne") -> bool:
    """Whether one request is over the limit."""
    async with grpc.aio.insecure_channel(f"unix:{limits.service}") as channel:
        ask = channel.unary_unary(ASK, encode, RateLimitResponse.FromString)
        answer = await ask(request(descriptor(("user", user))))
        return answer.overall_code == RateLimitResponse.OVER_LIMIT


async def test_without_limits_no_process_runs(tmp_path: Path) -> None:
    """Nobody pays for what is not used."""
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run) as limits:
            at_once(limits.publish({}, {}))
            await limits.served()

            assert list(run.path.iterdir()) == []
            assert (await limits.report())["limits"] == ()


async def test_limits_are_enforced_and_reported(tmp_path: Path) -> None:
    async with limited(tmp_path) as (limits, _):
        answers = [await over(limits) for _ in range(3)]
        report = await limits.report()
        at_once(limits.publish({"shop": None}, {}))
        await limits.served()
        after = await limits.report()

    assert answers == [False, False, True]
    assert list(after["limits"]) == []
    assert report["service"]["counts_in"] == "memory"
    assert report["service"]["trouble"] == ""
    [limit] = report["limits"]
    assert (limit["domain"], limit["path"], limit["requests"], limit["unit"]) == (
        "shop",
        (("user", ""),),
        2,
        "YEAR",
    )
    assert (limit["used"], limit["buckets"]) == (3, 1)


async def test_routes_wait_until_the_service_has_their_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would be served without; but not for good, if the service does not take them."""
    changed = asyncio.Event()
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run, on_change=changed.set) as limits:
            at_once(limits.publish({}, {}))
            assert limits.enforced()
            at_once(limits.publish(TWO_A_YEAR, {}))
            assert not limits.enforced()
            await limits.served()
            assert limits.enforced()

            service = psutil.Process((await limits.report())["service"]["pid"])
            service.suspend()
            try:
                monkeypatch.setattr(rate_limits, "ENFORCED_WITHIN_S", 0.2)
                at_once(limits.publish({"other": TWO_A_YEAR["shop"]}, {}))
                changed.clear()
                assert not limits.enforced()
                with capture_logs() as log:
                    await changed.wait()
                assert limits.enforced()
            finally:
                service.resume()

    assert [entry["event"] for entry in log] == ["rate_limits.late"]


async def test_routes_do_not_wait_for_what_the_service_has(tmp_path: Path) -> None:
    """A change that is taken back at once reaches no service, so that none answers."""
    async with limited(tmp_path) as (limits, _):
        at_once(limits.publish({"other": TWO_A_YEAR["shop"]}, {}))
        waiting = not limits.enforced()
        at_once(limits.publish({"other": None}, {}))
        limits.review(NoRoutes())

        assert waiting
        assert limits.enforced()


async def test_while_envoys_may_ask_by_former_routes_former_limits_count(tmp_path: Path) -> None:
    """The service gets them, and then the newest alone; the report does not have what is gone."""
    async with limited(tmp_path) as (limits, _):
        before = [await over(limits) for _ in range(3)]
        at_once(limits.publish({"shop": encode(config(level("user", limit=(9, "SECOND"))))}, {"one": 1}))
        at_once(limits.publish({"other": TWO_A_YEAR["shop"]}, {"one": 1}))
        at_once(limits.publish({"other": None}, {"one": 1}))
        limits.review(OldRoutes())
        await limits.served()
        during, report = await over(limits), await limits.report()
        limits.review(NewRoutes())
        waits = not limits.enforced()
        await limits.served()

        assert before == [False, False, True]
        assert during
        assert [limit["domain"] for limit in report["limits"]] == ["shop"]
        assert not waits, "what Envoys have asks by no limit that the service has not"
        assert not await over(limits)


async def test_an_envoy_that_never_answers_does_not_keep_former_limits_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may happen by which the end of a wait would be noticed."""
    now = 0.0
    monkeypatch.setattr(transition, "FORMER_S", 0.05)
    monkeypatch.setattr(rate_limits, "Clock", partial(Clock, time=lambda: now))
    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    taken: asyncio.Queue[Limits] = asyncio.Queue()
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run, external=service) as limits, asyncio.TaskGroup() as tasks:
            at_once(limits.publish(TWO_A_YEAR, {"one": 1}))
            at_once(limits.publish({"shop": encode(config(level("user", limit=(9, "SECOND"))))}, {"one": 1}))
            at = f"127.0.0.1:{service.configuration_port}"
            following = tasks.create_task(follow(at, taken.put_nowait))
            async with asyncio.timeout(DEADLINE_S):
                [during] = await taken.get()
                limits.review(OldRoutes())
                now += transition.FORMER_S
                [after] = await taken.get()
            following.cancel()

    assert (during.requests, after.requests) == (2, 9)


async def test_former_limits_count_until_envoys_have_their_routes_though_the_process_stands_still(
    tmp_path: Path,
) -> None:
    """It does not hand out routes meanwhile, so Envoys ask by the former ones."""
    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    with RunDirectory(tmp_path / "r") as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(transition, "FORMER_S", 1.5)
        patch.setattr(rate_limits, "FORMER_S", 1.5)
        async with RateLimits(run, external=service) as limits:
            at_once(limits.publish(TWO_A_YEAR, {"one": 1}))
            at_once(limits.publish({"shop": encode(config(level("user", limit=(9, "SECOND"))))}, {"one": 1}))
            limits.review(OldRoutes())
            time.sleep(2)  # noqa: ASYNC251 - this is the standstill
            limits.review(OldRoutes())
            [[during]] = await _taken(service)
            [*_, [after]] = await _taken(service, 2)

    assert (during.requests, after.requests) == (2, 9)


async def _taken(service: ExternalService, count: int = 1) -> list[Limits]:
    """The first configurations that a service of the user's gets."""
    taken: asyncio.Queue[Limits] = asyncio.Queue()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(f"127.0.0.1:{service.configuration_port}", taken.put_nowait))
        configurations = [await taken.get() for _ in range(count)]
        following.cancel()
    return configurations


@pytest.mark.parametrize("keep", [True, False])
async def test_limits_of_a_former_moongate_count_until_envoys_that_outlived_it_have_new_routes(
    tmp_path: Path, keep: bool
) -> None:
    """Without such Envoys nothing of them is kept."""
    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    with RunDirectory(tmp_path / "r", keep=keep) as run:
        async with RateLimits(run, external=service) as first:
            at_once(first.publish({"shop": b"", "gone": b""}, {}))
            at_once(first.publish({**TWO_A_YEAR, "gone": None}, {}))
            first.review(NoRoutes())
        async with RateLimits(run, external=service) as limits:
            at_once(limits.publish({"shop": encode(config(level("user", limit=(9, "SECOND"))))}, {}))
            limits.review(OldRoutes())
            [[during]] = await _taken(service)
            limits.review(NewRoutes())
            [*_, [after]] = await _taken(service, 2 if keep else 1)
            kept = sorted(path.name for path in run.path.iterdir())

    assert (during.requests, after.requests) == (2 if keep else 9, 9)
    assert kept == (["lifeline", "limits"] if keep else [])


def _of_another_version() -> bytes:
    later = config(level("user", limit=(2, "YEAR")))
    later.descriptors[0].rate_limit.unit = 99  # pyright: ignore[reportAttributeAccessIssue] - it is unknown here
    return encode(later)


@pytest.mark.parametrize("kept", [_of_another_version(), b"\xff\xff", b"other"])
async def test_kept_limits_that_cannot_be_used_end_nothing(tmp_path: Path, kept: bytes) -> None:
    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    with RunDirectory(tmp_path / "r", keep=True) as run:
        with Journal[str, bytes](run.path / "limits", tuple[str, bytes | None]) as journal:
            journal.put({"shop": kept})
            assert journal.flush(DEADLINE_S)
        async with RateLimits(run, external=service) as limits:
            at_once(limits.publish(TWO_A_YEAR, {}))
            limits.review(OldRoutes())
            [[during]] = await _taken(service)

    assert during.requests == 2


async def test_limits_are_kept_for_the_next_moongate_though_somebody_removes_the_folder(
    tmp_path: Path,
) -> None:
    """It finds the Envoys all the same, and they ask by the former routes."""
    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    with RunDirectory(tmp_path / "r", keep=True) as run:
        async with RateLimits(run, external=service) as first:
            at_once(first.publish(TWO_A_YEAR, {}))
            shutil.rmtree(run.path)
            await run.restore()
        async with RateLimits(run, external=service) as limits:
            at_once(limits.publish({"shop": encode(config(level("user", limit=(9, "SECOND"))))}, {}))
            limits.review(OldRoutes())
            [[during]] = await _taken(service)

    assert during.requests == 2


async def test_routes_wait_for_an_answer_that_nobody_could_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the process stands still, time passes, and the service may have answered."""
    loop = asyncio.get_running_loop()
    time_before = loop.time
    async with limited(tmp_path) as (limits, _):
        at_once(limits.publish({"other": TWO_A_YEAR["shop"]}, {}))
        assert not limits.enforced()
        with capture_logs() as log:
            # To the event loop, a standstill is a time of which it has seen nothing.
            monkeypatch.setattr(loop, "time", lambda: time_before() + rate_limits.ENFORCED_WITHIN_S)
            await limits.served()

        assert limits.enforced()
    assert "rate_limits.late" not in {entry["event"] for entry in log}


async def test_routes_do_not_wait_longer_because_limits_go_on_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait is for itself, whether or not anybody has looked at the end of the one before."""
    async with limited(tmp_path) as (limits, _):
        service = psutil.Process((await limits.report())["service"]["pid"])
        service.suspend()
        try:
            monkeypatch.setattr(rate_limits, "ENFORCED_WITHIN_S", 0.5)
            async with asyncio.timeout(DEADLINE_S):
                for n in count():
                    other = encode(config(level("user", limit=(n, "YEAR")), domain="o"))
                    at_once(limits.publish({"other": other}, {}))
                    await asyncio.sleep(0.02)  # one change after another
                    # A standstill may be as long as the wait.
                    if n > 1 and limits.enforced():
                        break
            assert limits.enforced()
        finally:
            service.resume()


async def test_another_redis_counts_from_then_on(tmp_path: Path) -> None:
    """Counts in Redis outlive the process."""
    async with redis_server(tmp_path / "redis") as server:
        redis = Redis(address=redis_address(server.url))
        async with limited(tmp_path) as (limits, _):
            await over(limits)
            limits.count_in(redis)
            async with asyncio.timeout(DEADLINE_S):
                while not (  # noqa: ASYNC110 - the process has no event for a test
                    (await limits.report())["service"]["counts_in"] != "memory" and await _answers(limits)
                ):
                    await asyncio.sleep(0.05)
        async with limited(tmp_path, redis) as (limits, _):
            counts = [await over(limits) for _ in range(3)]

    # ``_answers`` has asked at least once.
    assert counts[-1]


async def _answers(limits: RateLimits) -> bool:
    try:
        await over(limits)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_what_cannot_be_counted_is_in_the_report(tmp_path: Path) -> None:
    """The password of the address is not."""
    async with limited(tmp_path, Redis(address=redis_address("redis://:secret@127.0.0.1:1"))) as (limits, _):
        before = await limits.report()
        answered = await _answers(limits)
        report = await limits.report()

    assert not answered
    assert before["service"]["trouble"] == ""
    assert report["service"]["trouble"].startswith("Redis at 127.0.0.1:1 does not count: ")
    assert "secret" not in str(report)


async def test_a_service_that_is_stopped_is_started_again_and_the_report_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request would wait for it."""
    monkeypatch.setattr("moongate.infra.rate_limit_process.ASKED_EVERY_S", 0.05)
    async with limited(tmp_path) as (limits, _), asyncio.timeout(DEADLINE_S):
        before = (await limits.report())["service"]
        monkeypatch.setattr("moongate.infra.rate_limit_process.SILENT_S", 1.0)
        psutil.Process(before["pid"]).suspend()
        while not (after := (await limits.report())["service"])["restarts"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
        monkeypatch.undo()
        while not await _answers(limits):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)

    assert before["last_end"] == ""
    assert after["last_end"] == "It is stopped, has not answered for 1 s, and was killed."


async def test_a_folder_that_is_removed_is_no_end_of_limits(tmp_path: Path) -> None:
    async with limited(tmp_path) as (limits, run):
        shutil.rmtree(run.path)
        await run.restore()
        await limits.served()

        assert not await over(limits)


async def test_a_service_of_the_users_gets_its_configuration_at_a_port(tmp_path: Path) -> None:
    """How much it has counted, it alone knows."""
    port = free_port()
    taken: asyncio.Queue[Limits] = asyncio.Queue()
    service = ExternalService(address="localhost:8081", configuration_port=port)
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run, external=service) as limits, asyncio.TaskGroup() as tasks:
            at_once(limits.publish(TWO_A_YEAR, {}))
            assert limits.enforced(), "nobody asks for it, and it may be started later"
            absent = await limits.report()
            following = tasks.create_task(follow(f"127.0.0.1:{port}", taken.put_nowait))
            [limit] = await taken.get()
            report = await limits.report()
            following.cancel()

    assert limits.service == "localhost:8081"
    assert limit.requests == 2
    assert [each["used"] for each in report["limits"]] == [None]
    assert (
        f"has not come for its limits, which it is to get from 127.0.0.1:{port}"
        in absent["service"]["trouble"]
    )
    assert report["service"]["trouble"] == ""


async def test_a_port_for_the_configuration_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "r") as run, socket.create_server(("127.0.0.1", 0)) as taken:
        service = ExternalService(address="localhost:8081", configuration_port=taken.getsockname()[1])
        with pytest.raises(PortError, match="--rate-limit-xds-port"):
            async with RateLimits(run, external=service):
                pass


async def test_what_is_left_of_many_former_limits_is_published_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one of two former configurations is forgotten, and nothing else happens."""
    monkeypatch.setattr("moongate.run.pump.SLICE_S", -1.0)  # each step is a slice
    changed = asyncio.Event()

    def many(requests: int) -> dict[str, bytes]:
        levels = (level("user", f"u{n}", limit=(requests, "YEAR")) for n in range(50))
        return {"shop": encode(config(*levels))}

    service = ExternalService(address="localhost:8081", configuration_port=free_port())
    with RunDirectory(tmp_path / "r") as run:
        async with RateLimits(run, external=service, on_change=changed.set) as limits:
            at_once(limits.publish(many(5), {"one": 1}))
            at_once(limits.publish(many(9), {"one": 1}))
            limits.review(OldRoutes())
            at_once(limits.publish(many(7), {"one": 2}))
            monkeypatch.setattr(transition, "UNDER_WAY_S", 0.0)
            changed.clear()
            limits.review(LastRoutes())
            turns = 0
            while not changed.is_set():
                turns += 1
                await asyncio.sleep(0)
            [taken] = await _taken(service)

    assert turns >= 50
    assert {limit.requests for limit in taken} == {7}


async def test_many_limits_are_published_in_steps(tmp_path: Path) -> None:
    """Ten thousand may change at once, and must not hold up endpoints. A review amid them spoils nothing."""

    def many(requests: int) -> dict[str, bytes]:
        levels = (level("user", f"u{n}", limit=(requests, "YEAR")) for n in range(50))
        return {"shop": encode(config(*levels))}

    async with limited(tmp_path) as (limits, _):
        at_once(limits.publish(many(5), {"one": 1}))
        steps = 0
        for _ in limits.publish(many(9), {"one": 1}):
            steps += 1
            limits.review(NoRoutes())
        await limits.served()
        report = await limits.report()

    assert steps >= 50
    assert {each["requests"] for each in report["limits"]} == {9}
