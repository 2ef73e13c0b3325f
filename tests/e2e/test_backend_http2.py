"""HTTP/2 to backends, as these see it: windows, streams at a time, pings, and answers that are malformed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import EchoOverHttp2
from tests.e2e.conftest import Site, until
from tests.e2e.standstills import measures_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@asynccontextmanager
async def speaking(site: Site, name: str, http2: str) -> AsyncGenerator[EchoOverHttp2]:
    """A backend that speaks HTTP/2, and a route to it with a policy."""
    echo = EchoOverHttp2(name)
    async with echo.serving():
        await site.apply(
            m.local(name, echo.port, appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route(name, f"[{{{m.to(name)}}}]"),
            m.policy("BackendTrafficPolicy", name, f"http2: {http2}", f"HTTPRoute/{name}"),
        )
        yield echo


@pytest.mark.proves(
    "BackendTrafficPolicy", "http2.initialStreamWindowSize", "http2.initialConnectionWindowSize"
)
async def test_a_backend_may_send_as_much_as_a_policy_says(site: Site) -> None:
    windows = "{initialStreamWindowSize: 256Ki, initialConnectionWindowSize: 512Ki}"
    async with speaking(site, "windows", windows) as echo:
        assert await site.status("windows.test") == 200

        assert (echo.window, echo.connection_window) == (256 * 1024, 512 * 1024)


@pytest.mark.proves("BackendTrafficPolicy", "http2.maxConcurrentStreams")
async def test_a_connection_has_no_more_requests_at_a_time_than_a_policy_says(site: Site) -> None:
    """The next request has a connection of its own. Each of two workers of Envoy would have one anyway."""
    async with speaking(site, "streams", "{maxConcurrentStreams: 1}") as echo, asyncio.TaskGroup() as tasks:
        echo.go.clear()
        asked = [tasks.create_task(site.status("streams.test")) for _ in range(6)]

        await until(lambda: echo.connections == 6 and len(echo.requests) == 6)

        echo.go.set()
        assert [await each for each in asked] == [200] * 6


@pytest.mark.proves("BackendTrafficPolicy", "http2.onInvalidMessage")
@pytest.mark.parametrize(("action", "connections"), [("TerminateStream", 1), ("TerminateConnection", 3)])
async def test_a_malformed_answer_ends_its_request_or_the_whole_connection(
    site: Site, action: str, connections: int
) -> None:
    async with speaking(site, "malformed", f"{{onInvalidMessage: {action}}}") as echo:
        echo.malformed = True

        assert [await site.status("malformed.test") for _ in range(3)] == [502] * 3
        assert echo.connections == connections


@pytest.mark.proves("BackendTrafficPolicy", "http2.connectionKeepalive.interval")
@measures_time()
async def test_an_open_connection_is_tried_by_pings(site: Site) -> None:
    """It stays open, as they are answered."""
    async with speaking(site, "pinged", "{connectionKeepalive: {interval: 200ms, timeout: 150ms}}") as echo:
        assert await site.status("pinged.test") == 200

        await until(lambda: len(echo.pings) >= 3 or not echo.open)
        assert echo.connections == echo.open == 1


@pytest.mark.proves("BackendTrafficPolicy", "http2.connectionKeepalive.timeout")
async def test_a_connection_whose_pings_are_not_answered_in_time_is_closed(site: Site) -> None:
    async with speaking(site, "deaf", "{connectionKeepalive: {interval: 300ms, timeout: 200ms}}") as echo:
        echo.deaf = True
        assert await site.status("deaf.test") == 200

        await until(lambda: bool(echo.connections) and not echo.open)


@pytest.mark.slow
@pytest.mark.proves("BackendTrafficPolicy", "http2.connectionKeepalive.intervalJitter")
async def test_pings_are_delayed_at_random_up_to_a_share_of_their_interval(site: Site) -> None:
    """By half of it on the average of many first ones; by default it would be 15 percent at most.

    Less than a fifth of it would be a chance of 1 in 10^11.
    """
    echoes, loop = [EchoOverHttp2(f"random-{n}") for n in range(40)], asyncio.get_running_loop()
    keepalive = "{interval: 500ms, timeout: 400ms, intervalJitter: 100}"
    spec = f"{{http2: {{connectionKeepalive: {keepalive}}}, loadBalancer: {{type: RoundRobin}}}}"
    async with AsyncExitStack() as stack:
        for echo in echoes:
            await stack.enter_async_context(echo.serving())
        await site.apply(
            m.local("random", *(e.port for e in echoes), appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route("random", f"[{{{m.to('random')}}}]"),
            m.policy("BackendTrafficPolicy", "random", spec, "HTTPRoute/random"),
        )
        asked: dict[str, float] = {}
        while len(asked) < len(echoes):
            began = loop.time()
            asked.setdefault((await site.reached("random.test")).by, began)
        await until(lambda: all(echo.pings for echo in echoes))

    waits = [echo.pings[0] - asked[echo.name] for echo in echoes]
    assert sum(waits) / len(waits) > 0.5 * 1.2


@pytest.mark.proves("BackendTrafficPolicy", "http2.connectionKeepalive.idleInterval")
async def test_a_connection_is_tried_before_it_is_used_again(site: Site) -> None:
    keepalive = "{interval: 1h, timeout: 10s, idleInterval: 1ms}"
    async with speaking(site, "rested", f"{{connectionKeepalive: {keepalive}}}") as echo:
        async with asyncio.timeout(DEADLINE_S):
            while len(echo.pings) < 2:
                assert await site.status("rested.test") == 200
                await asyncio.sleep(0.01)  # the time that it rests

        assert echo.connections == 1
