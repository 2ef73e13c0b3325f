"""Health checks, as clients and backends see them: who is asked, and who gets requests."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo, EchoOverHttp2
from tests.e2e.calls import CallServer, calling, one_each
from tests.e2e.conftest import Site, until
from tests.ports import free_port
from tests.tcp_servers import tcp_server

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

FAST = "interval: 50ms, unhealthyThreshold: 1, timeout: 20s"
"""Whoever stands still for a moment, as the backends of this process may, is not unhealthy by that."""
HASTY = FAST.replace("20s", "100ms")
"""Where an answer is not the expected one, Envoy waits for more of it."""
READY = f"{{type: HTTP, {FAST}, http: {{path: /ready}}}}"


def checked(name: str, health: str) -> m.Document:
    """A policy of the route of that name, by which unhealthy endpoints get nothing."""
    body = f"healthCheck: {{panicThreshold: 0, {health}}}"
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


async def served_only_with(site: Site, name: str, healthy: m.Document, unhealthy: m.Document) -> None:
    """A route to ``one`` is served while the first policy holds, and not with the second."""
    await site.apply(m.route(name, f"[{{{m.to('one')}}}]"), healthy)
    assert await site.status(f"{name}.test") == 200

    await site.apply(unhealthy)
    assert await site.status(f"{name}.test") == 503


@asynccontextmanager
async def answering_bytes(answer: Callable[[bytes], bytes]) -> AsyncGenerator[int]:
    """A server of connections that answers every four bytes; its port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Envoy keeps the connection for the next check.
        while sent := await reader.read(4):
            writer.write(answer(sent))

    async with tcp_server(talk) as port:
        yield port


@asynccontextmanager
async def answering_status(status: int) -> AsyncGenerator[int]:
    """A server that answers every request with a status, with less work than ``Echo``; its port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())

    async with tcp_server(talk) as port:
        yield port


async def pipelined(site: Site, host: str, times: int) -> Counter[int]:
    """The statuses of many requests, which are all sent at once over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode() * times)
    heads = [await reader.readuntil(b"\r\n\r\n") for _ in range(times)]
    writer.close()
    return Counter(int(head.split()[1]) for head in heads)


async def answering(site: Site, host: str, *, times: int = 30) -> set[str]:
    """Who answers some requests, which must all succeed."""
    return {(await site.reached(host)).by for _ in range(times)}


async def become(site: Site, host: str, expected: set[str]) -> None:
    """Return when just these answer."""
    async with asyncio.timeout(DEADLINE_S):
        while await answering(site, host) != expected:
            pass


async def test_an_endpoint_that_is_not_ready_gets_no_request_until_it_is(site: Site) -> None:
    site.two.by_path["/ready"] = 500
    await site.apply(
        m.local("ready", site.one.port, site.two.port),
        m.route("ready", f"[{{{m.to('ready')}}}]"),
        checked("ready", f"active: {READY}"),
    )

    assert await answering(site, "ready.test") == {"one"}

    site.two.by_path["/ready"] = 200

    await become(site, "ready.test", {"one", "two"})


async def test_no_request_goes_to_endpoints_that_were_never_checked(site: Site) -> None:
    """The route is there when its cluster is warm, that is, when each endpoint was checked once."""
    await site.apply(
        m.local("first", free_port(), site.one.port, free_port()),
        m.route("first", f"[{{{m.to('first')}}}]"),
        checked("first", f"active: {{type: TCP, {FAST}, tcp: {{}}}}"),
    )

    assert [await site.status("first.test") for _ in range(20)] == [200] * 20


async def test_an_endpoint_that_hangs_holds_a_change_no_longer_than_its_check_takes(site: Site) -> None:
    """Checks of a minute would hold it as long: nothing else is wrong with the other endpoint."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(hang) as port:
        async with asyncio.timeout(20):
            await site.apply(
                m.local("hanging", port, site.one.port),
                m.route("hanging", f"[{{{m.to('hanging')}}}]"),
                checked("hanging", "active: {type: HTTP, timeout: 200ms, http: {path: /}}"),
            )

        # Its first check fails too if this process stands still for so long.
        await until_answered(site, "hanging.test", 200)
        assert await answering(site, "hanging.test") == {"one"}


@pytest.mark.slow
@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.timeout")
async def test_a_check_may_take_as_long_as_a_policy_says(site: Site) -> None:
    """Here longer than a second, after which an endpoint would be unhealthy."""

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            await asyncio.sleep(1.1)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with tcp_server(think) as port:
        active = f"{{type: HTTP, timeout: 20s, http: {{path: /}}, overrides: {{port: {port}}}}}"
        await site.apply(m.route("slowly", f"[{{{m.to('one')}}}]"), checked("slowly", f"active: {active}"))

        assert await site.status("slowly.test") == 200


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.panicThreshold", "healthCheck.active.http.path")
async def test_nobody_healthy_is_503_or_everybody(site: Site) -> None:
    """As ``panicThreshold`` says."""
    site.one.by_path["/ready"] = 500
    policy = checked("nobody", f"active: {READY}")
    await site.apply(m.route("nobody", f"[{{{m.to('one')}}}]"), policy)

    assert await site.status("nobody.test") == 503

    policy["spec"]["healthCheck"]["panicThreshold"] = 40
    await site.apply(policy)

    assert await site.status("nobody.test") == 200


@pytest.mark.parametrize(
    ("hostname", "endpoint", "routed", "expected"),
    [
        ("said.test", "endpoint.test", "host-a.test", "said.test"),
        (None, "endpoint.test", "host-a.test", "endpoint.test"),
        (None, None, "host-a.test", "host-a.test"),
        (None, None, "*.host-a.test", "hosted.default"),
    ],
)
@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.http.hostname")
async def test_a_check_has_the_most_specific_host(
    site: Site, hostname: str | None, endpoint: str | None, routed: str, expected: str
) -> None:
    said = f", hostname: {hostname}" if hostname else ""
    named = f", hostname: {endpoint}" if endpoint else ""
    path = f"/ready-{expected}"
    await site.apply(
        m.backend("hosted", f"ip: {{address: 127.0.0.1, port: {site.one.port}}}{named}"),
        m.route("hosted", f"[{{{m.to('hosted')}}}]", hostnames=(routed,)),
        checked("hosted", f"active: {{type: HTTP, {FAST}, http: {{path: {path}{said}}}}}"),
    )

    await until(lambda: any(request.path == path for request in site.one.requests))

    request = next(request for request in site.one.requests if request.path == path)
    assert request.header("host") == expected


async def test_no_request_fails_while_the_host_of_the_checks_changes(site: Site) -> None:
    """The changed cluster takes over when its endpoints are checked, and has all of them."""

    def route(*hosts: str) -> m.Document:
        return m.route("moves", f"[{{{m.to('moves')}}}]", hostnames=(*hosts, "stays.test"))

    await site.apply(
        m.local("moves", site.one.port, site.two.port),
        route("moves-0.test"),
        checked("moves", f"active: {READY}"),
    )
    statuses: Counter[int] = Counter()
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            statuses[await site.status("stays.test")] += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask())
        for n in range(1, 6):
            await site.apply(route(f"moves-{n}.test"))
        stop.set()

    assert set(statuses) == {200}
    await become(site, "stays.test", {"one", "two"})
    # Envoy acknowledges a cluster before it is checked.
    await until(
        lambda: any(
            (request.path, request.header("host")) == ("/ready", "moves-5.test")
            for request in site.one.requests
        )
    )


async def test_no_request_fails_when_all_endpoints_are_exchanged(site: Site) -> None:
    """Those that come are not healthy before their first check; until then the others would be panic's."""
    policy = checked("exchanged", f"active: {READY}")
    del policy["spec"]["healthCheck"]["panicThreshold"]
    await site.apply(
        m.local("exchanged", site.one.port), m.route("exchanged", f"[{{{m.to('exchanged')}}}]"), policy
    )
    statuses: Counter[int] = Counter()
    for port in (site.two.port, site.three.port, site.one.port) * 5:
        await site.apply(m.local("exchanged", port))
        statuses.update([await site.status("exchanged.test") for _ in range(3)])

    assert set(statuses) == {200}


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.active.type",
    "healthCheck.active.http.method",
    "healthCheck.active.http.requestBody.type",
    "healthCheck.active.http.requestBody.text",
    "healthCheck.active.http.expectedResponse.type",
    "healthCheck.active.http.expectedResponse.text",
)
async def test_a_body_is_sent_and_another_expected(site: Site) -> None:
    """Backends answer with what they got; it must be contained in the answer."""
    http = (
        "http: {path: /body, method: put, requestBody: {type: Text, text: ping}, "
        "expectedResponse: {type: Text, text: 'EXPECTED'}}"
    )

    def policy(expected: str) -> m.Document:
        return checked("body", f"active: {{type: HTTP, {FAST}, {http.replace('EXPECTED', expected)}}}")

    await served_only_with(site, "body", policy("ping"), policy("pong"))

    check = next(request for request in site.one.requests if request.path == "/body")
    assert (check.method, check.body) == ("PUT", "ping")


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.active.tcp.send.type",
    "healthCheck.active.tcp.send.text",
    "healthCheck.active.tcp.receive.type",
    "healthCheck.active.tcp.receive.binary",
    "healthCheck.active.overrides.port",
)
async def test_bytes_over_a_connection(site: Site) -> None:
    async with answering_bytes(lambda sent: b"PONG" if sent == b"PING" else b"WHAT") as port:

        def policy(text: str, times: str) -> m.Document:
            tcp = f"tcp: {{send: {{type: Text, text: {text}}}, receive: {{type: Binary, binary: UE9ORw==}}}}"
            return checked("bytes", f"active: {{type: TCP, {times}, {tcp}, overrides: {{port: {port}}}}}")

        await served_only_with(site, "bytes", policy("PING", FAST), policy("DING", HASTY))


@pytest.mark.proves(
    "BackendTrafficPolicy", "healthCheck.active.tcp.send.binary", "healthCheck.active.tcp.receive.text"
)
async def test_bytes_may_be_written_in_either_way(site: Site) -> None:
    async with answering_bytes(bytes.upper) as port:

        def policy(sent: bytes, times: str) -> m.Document:
            send = f"{{type: Binary, binary: {b64encode(sent).decode()}}}"
            tcp = f"tcp: {{send: {send}, receive: {{type: Text, text: PING}}}}"
            return checked("shouts", f"active: {{type: TCP, {times}, {tcp}, overrides: {{port: {port}}}}}")

        await served_only_with(site, "shouts", policy(b"ping", FAST), policy(b"pong", HASTY))


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.active.http.requestBody.binary",
    "healthCheck.active.http.expectedResponse.binary",
)
async def test_bodies_may_be_written_as_bytes(site: Site) -> None:
    def policy(expected: bytes) -> m.Document:
        body, answer = b64encode(b"ping").decode(), b64encode(expected).decode()
        http = (
            f"http: {{path: /bytes, method: POST, requestBody: {{type: Binary, binary: {body}}}, "
            f"expectedResponse: {{type: Binary, binary: {answer}}}}}"
        )
        return checked("octets", f"active: {{type: HTTP, {FAST}, {http}}}")

    await served_only_with(site, "octets", policy(b"ping"), policy(b"pong"))

    assert next(each.body for each in site.one.requests if each.path == "/bytes") == "ping"


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.http.expectedStatuses")
async def test_statuses_that_are_expected_are_healthy(site: Site) -> None:
    site.one.by_path["/ready"] = 418

    def policy(statuses: str) -> m.Document:
        http = f"http: {{path: /ready, expectedStatuses: {statuses}}}"
        return checked("expected", f"active: {{type: HTTP, {FAST}, {http}}}")

    await served_only_with(site, "expected", policy("[200, 418]"), policy("[200, 417]"))


async def checks(site: Site, path: str, count: int) -> None:
    """Return when so many more checks of the first backend were made, at a path that one route has."""
    before = len(site.one.requests)
    await until(lambda: sum(each.path == path for each in site.one.requests[before:]) > count)


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.interval")
async def test_checks_are_as_frequent_as_a_policy_says(site: Site) -> None:
    """By default these would take longer than the deadline."""
    await site.apply(
        m.route("frequent", f"[{{{m.to('one')}}}]"),
        checked("frequent", "active: {type: HTTP, interval: 20ms, http: {path: /frequent}}"),
    )

    await checks(site, "/frequent", 25)


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.initialJitter")
async def test_first_checks_are_delayed_at_random(site: Site) -> None:
    """Of twelve, the first and the last are a tenth of the time apart; in one of 10^9 runs they are not."""
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(Echo(f"{n}").serving()) for n in range(12)]
        await site.apply(
            m.local("jitter", *(each.port for each in backends)),
            m.route("jitter", f"[{{{m.to('jitter')}}}]"),
            checked("jitter", "active: {type: HTTP, initialJitter: 1s, interval: 1h, http: {path: /ready}}"),
        )

        await until(lambda: all(each.times for each in backends))
        first = [each.times[0] for each in backends]

        assert max(first) - min(first) > 0.1


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.active.unhealthyThreshold",
    "healthCheck.active.http.retriableStatuses",
)
async def test_an_endpoint_is_unhealthy_after_so_many_failures(site: Site) -> None:
    """If they may pass; a status that is not among these makes it unhealthy at once."""

    def policy(threshold: int) -> m.Document:
        http = "http: {path: /patient, retriableStatuses: [503]}"
        return checked(
            "patient", f"active: {{type: HTTP, interval: 50ms, unhealthyThreshold: {threshold}, {http}}}"
        )

    await site.apply(m.route("patient", f"[{{{m.to('one')}}}]"), policy(1000))
    site.one.by_path["/patient"] = 503
    await checks(site, "/patient", 10)
    assert await site.status("patient.test") == 200

    site.one.by_path["/patient"] = 500
    await until_answered(site, "patient.test", 503)

    site.one.by_path["/patient"] = 200
    await site.apply(policy(4))
    site.one.by_path["/patient"] = 503
    await until_answered(site, "patient.test", 503)


async def until_answered(site: Site, host: str, status: int) -> None:
    """Return when requests get this status."""
    async with asyncio.timeout(DEADLINE_S):
        while await site.status(host) != status:
            pass


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.healthyThreshold")
async def test_an_endpoint_is_healthy_again_after_so_many_successes(site: Site) -> None:
    def policy(threshold: int) -> m.Document:
        active = f"{{type: HTTP, {FAST}, healthyThreshold: {threshold}, http: {{path: /cautious}}}}"
        return checked("cautious", f"active: {active}")

    await site.apply(m.route("cautious", f"[{{{m.to('one')}}}]"), policy(1000))
    site.one.by_path["/cautious"] = 500
    await until_answered(site, "cautious.test", 503)
    site.one.by_path["/cautious"] = 200
    # It takes a second at most until workers of Envoy know of an endpoint that has changed again.
    await checks(site, "/cautious", 30)
    assert await site.status("cautious.test") == 503

    site.one.by_path["/cautious"] = 500
    await site.apply(policy(4))
    site.one.by_path["/cautious"] = 200
    await until_answered(site, "cautious.test", 200)


async def test_http2_backends_are_checked_over_http2(site: Site) -> None:
    echo = EchoOverHttp2("h2")
    async with echo.serving():
        await site.apply(
            m.local("h2", echo.port, appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route("h2", f"[{{{m.to('h2')}}}]"),
            checked("h2", f"active: {READY}"),
        )

        assert await site.status("h2.test") == 200
        assert any(request.path == "/ready" for request in echo.requests)


class HealthServer(CallServer):
    """Also answers calls of ``grpc.health.v1.Health/Check``."""

    healthy = True

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        if not handler_call_details.method.startswith("/grpc.health."):
            return super().service(handler_call_details)

        async def answer(message: bytes, _context: object) -> bytes:
            self.services.append(message)
            return b"\x08\x01" if self.healthy else b"\x08\x02"

        return grpc.unary_unary_rpc_method_handler(answer)  # pyright: ignore[reportArgumentType] - it is async

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.services: list[bytes] = []


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.grpc.service")
async def test_grpc_servers_are_asked_for_their_health(site: Site) -> None:
    server = HealthServer("calls")
    async with server.serving(), calling(site.port, "calls.test") as channel:
        policy = checked("calls", f"active: {{type: GRPC, {FAST}, grpc: {{service: shop}}}}")
        policy["spec"]["targetRefs"][0]["kind"] = "GRPCRoute"
        await site.apply(
            m.local("calls", server.port),
            m.grpc_route("calls", f"[{{{m.to('calls')}}}]"),
            policy,
        )

        assert await one_each(channel, "/shop.Cart/Add", b"one") == b"one"
        assert b"\n\x04shop" in server.services

        server.healthy = False

        async def until_refused() -> None:
            while True:
                await one_each(channel, "/shop.Cart/Add", b"two")

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(until_refused(), DEADLINE_S)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.active.healthCheckLog.*")
@pytest.mark.parametrize(
    ("name", "matches", "logged"),
    [("series", "[FailureSeriesStart, HealthyTransition]", 1), ("every", "[Failure, Success]", 5)],
)
async def test_events_of_checks_are_logged(
    site: Site, tmp_path: Path, name: str, matches: str, logged: int
) -> None:
    """The first failure of a series, or each of them."""
    file = tmp_path / "health.json"
    log = f"healthCheckLog: {{matches: {matches}, sinks: [{{type: File, file: {{path: '{file}'}}}}]}}"
    site.one.by_path[f"/{name}"] = 500
    await site.apply(
        m.route(name, f"[{{{m.to('one')}}}]"),
        checked(name, f"active: {{type: HTTP, {FAST}, http: {{path: /{name}}}, {log}}}"),
    )
    assert await site.status(f"{name}.test") == 503
    await checks(site, f"/{name}", 5)

    site.one.by_path[f"/{name}"] = 200
    await until(lambda: "add_healthy_event" in file.read_text())

    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert events[0]["health_checker_type"] == "HTTP"
    failures = sum("health_check_failure_event" in event for event in events)
    assert failures == 1 if logged == 1 else failures >= logged


async def refusing(site: Site, name: str, passive: str) -> Counter[int]:
    """What forty requests are answered with, if one of three endpoints answers 500 to each."""
    await one_of_three_refuses(site, name, passive)
    return Counter([await site.status(f"{name}.test") for _ in range(40)])


async def one_of_three_refuses(site: Site, name: str, passive: str) -> None:
    """One of the three endpoints of a route answers 500 to each request."""
    site.two.by_path["/"] = 500
    await site.apply(
        m.local("trio", site.one.port, site.two.port, site.three.port),
        m.route(name, f"[{{{m.to('trio')}}}]"),
        m.policy(
            "BackendTrafficPolicy",
            name,
            f"{{loadBalancer: {{type: RoundRobin}}, healthCheck: {{passive: {passive}}}}}",
            f"HTTPRoute/{name}",
        ),
    )


async def is_ejected_after(site: Site, name: str, status: int, times: int) -> None:
    """An endpoint of a route is ejected when it has answered so often with a status, and not before.

    Envoy's main thread ejects it, so requests may reach it until its statistics say that it is done.
    """
    async with asyncio.timeout(DEADLINE_S):
        answered = 0
        while answered < times:
            assert not await ejections(site, name)
            answered += await site.status(f"{name}.test") == status
    await until_ejected(site, name)

    assert Counter([await site.status(f"{name}.test") for _ in range(40)]) == {200: 40}


async def until_ejected(site: Site, name: str) -> None:
    """Return when Envoy's main thread has ejected an endpoint of a route, and told its workers."""
    async with asyncio.timeout(DEADLINE_S):
        while not await ejections(site, name):
            pass


async def ejections(site: Site, name: str) -> int:
    """How many endpoints of a route are ejected now."""
    line = await site.statistics(rf"^cluster\.httproute/default/{name}/.*outlier_detection.ejections_active$")
    return int(line.split()[-1])


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.passive.consecutive5XxErrors",
    "healthCheck.passive.maxEjectionPercent",
    "healthCheck.passive.alwaysEjectOneEndpoint",
)
@pytest.mark.parametrize("share", ["maxEjectionPercent: 40", "alwaysEjectOneEndpoint: true"])
async def test_an_endpoint_that_answers_500_is_ejected(site: Site, share: str) -> None:
    """If so many may be."""
    name = f"ejected-{share.partition(':')[0]}".lower()
    await one_of_three_refuses(site, name, f"{{consecutive5XxErrors: 2, {share}}}")

    await is_ejected_after(site, name, 500, 2)


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.passive.baseEjectionTime",
)
async def test_it_comes_back_after_its_time(site: Site) -> None:
    passive = (
        "{consecutive5XxErrors: 1, alwaysEjectOneEndpoint: true, baseEjectionTime: 100ms, interval: 50ms}"
    )
    statuses = await refusing(site, "returns", passive)
    assert statuses[500] >= 1
    site.two.by_path.clear()

    await become(site, "returns.test", {"one", "two", "three"})


@pytest.mark.slow
@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.passive.interval")
async def test_it_does_not_come_back_before_somebody_looks(site: Site) -> None:
    """Its time is over at once, and the next look is in an hour; by default it would be in three seconds."""
    passive = "{consecutive5XxErrors: 1, alwaysEjectOneEndpoint: true, baseEjectionTime: 1ms, interval: 1h}"
    await refusing(site, "unseen", passive)
    await until_ejected(site, "unseen")
    site.two.by_path.clear()
    loop = asyncio.get_running_loop()
    end = loop.time() + 3.5
    while loop.time() < end:
        assert "two" not in await answering(site, "unseen.test")


@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.passive.consecutiveGatewayErrors")
async def test_an_endpoint_whose_gateway_fails_is_ejected(site: Site) -> None:
    """502, 503 and 504 count, and 500 does not."""
    passive = "{consecutiveGatewayErrors: 2, consecutive5XxErrors: 10000, maxEjectionPercent: 40}"
    assert (await refusing(site, "other-errors", passive))[500] >= 10

    site.two.by_path["/"] = 502
    await is_ejected_after(site, "other-errors", 502, 2)


@pytest.mark.slow
@pytest.mark.proves("BackendTrafficPolicy", "healthCheck.passive.failurePercentageThreshold")
async def test_an_endpoint_of_which_too_large_a_share_fails_is_ejected(site: Site) -> None:
    """Of five at least, with fifty requests each at least between two looks.

    A slow machine needs some time for so many, so they cost little.
    """
    passive = (
        "{failurePercentageThreshold: 60, consecutive5XxErrors: 100000, interval: 2s, maxEjectionPercent: 40}"
    )
    async with AsyncExitStack() as stack:
        statuses = (500, 200, 200, 200, 200)
        ports = [await stack.enter_async_context(answering_status(status)) for status in statuses]
        await site.apply(
            m.local("quint", *ports),
            m.route("quint", f"[{{{m.to('quint')}}}]"),
            m.policy(
                "BackendTrafficPolicy",
                "quint",
                f"{{loadBalancer: {{type: RoundRobin}}, healthCheck: {{passive: {passive}}}}}",
                "HTTPRoute/quint",
            ),
        )

        async with asyncio.timeout(DEADLINE_S):
            while any(
                s[500] for s in await asyncio.gather(*(pipelined(site, "quint.test", 40) for _ in range(6)))
            ):
                pass


async def test_of_three_endpoints_none_is_ejected_by_default(site: Site) -> None:
    """It would be more than the ten percent that may be."""
    statuses = await refusing(site, "default-share", "{consecutive5XxErrors: 1}")

    assert statuses[500] >= 10


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "healthCheck.passive.splitExternalLocalOriginErrors",
    "healthCheck.passive.consecutiveLocalOriginFailures",
)
async def test_failed_connections_are_counted_by_themselves(site: Site) -> None:
    passive = (
        "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, "
        "alwaysEjectOneEndpoint: true}"
    )
    await site.apply(
        m.local("duo", site.one.port, free_port()),
        m.route("local-origin", f"[{{{m.to('duo')}}}]"),
        m.policy(
            "BackendTrafficPolicy",
            "local-origin",
            f"{{loadBalancer: {{type: RoundRobin}}, healthCheck: {{passive: {passive}}}}}",
            "HTTPRoute/local-origin",
        ),
    )

    await is_ejected_after(site, "local-origin", 503, 2)
