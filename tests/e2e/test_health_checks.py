"""Health checks, as clients and backends see them: who is asked, and who gets requests."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e import manifests as m
from tests.e2e.backends import Echo, EchoOverHttp2
from tests.e2e.calls import CallServer, calling, one_each
from tests.e2e.conftest import DEADLINE_S, Site, until
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

FAST = "interval: 50ms, unhealthyThreshold: 1"
READY = f"{{type: HTTP, {FAST}, http: {{path: /ready}}}}"


def checked(name: str, health: str) -> m.Document:
    """A policy of the route of that name, by which unhealthy endpoints get nothing."""
    body = f"healthCheck: {{panicThreshold: 0, {health}}}"
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


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
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        port = server.sockets[0].getsockname()[1]
        await site.apply(
            m.local("hanging", port, site.one.port),
            m.route("hanging", f"[{{{m.to('hanging')}}}]"),
            checked("hanging", "active: {type: HTTP, timeout: 200ms, http: {path: /}}"),
        )

        assert await answering(site, "hanging.test") == {"one"}


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
    assert await answering(site, "stays.test") == {"one", "two"}
    hosts = {request.header("host") for request in site.one.requests if request.path == "/ready"}
    assert "moves-5.test" in hosts


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


async def test_a_body_is_sent_and_another_expected(site: Site) -> None:
    """Backends answer with what they got; it must be contained in the answer."""
    http = (
        "http: {path: /body, method: put, requestBody: {type: Text, text: ping}, "
        "expectedResponse: {type: Text, text: 'EXPECTED'}}"
    )

    def policy(expected: str) -> m.Document:
        return checked("body", f"active: {{type: HTTP, {FAST}, {http.replace('EXPECTED', expected)}}}")

    await site.apply(m.route("body", f"[{{{m.to('one')}}}]"), policy("ping"))

    assert await site.status("body.test") == 200
    check = next(request for request in site.one.requests if request.path == "/body")
    assert (check.method, check.body) == ("PUT", "ping")

    await site.apply(policy("pong"))

    assert await site.status("body.test") == 503


async def test_bytes_over_a_connection(site: Site) -> None:
    async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Envoy keeps the connection for the next check.
        while sent := await reader.read(4):
            writer.write(b"PONG" if sent == b"PING" else b"WHAT")
        writer.close()

    server = await asyncio.start_server(pong, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        def policy(text: str) -> m.Document:
            tcp = f"tcp: {{send: {{type: Text, text: {text}}}, receive: {{type: Binary, binary: UE9ORw==}}}}"
            return checked("bytes", f"active: {{type: TCP, {FAST}, {tcp}, overrides: {{port: {port}}}}}")

        await site.apply(m.route("bytes", f"[{{{m.to('one')}}}]"), policy("PING"))
        assert await site.status("bytes.test") == 200

        await site.apply(policy("DING"))
        assert await site.status("bytes.test") == 503


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


async def test_events_of_checks_are_logged(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    log = (
        "healthCheckLog: {matches: [FailureSeriesStart, HealthyTransition], "
        f"sinks: [{{type: File, file: {{path: '{file}'}}}}]}}"
    )
    site.one.by_path["/ready"] = 500
    await site.apply(
        m.route("logged", f"[{{{m.to('one')}}}]"),
        checked("logged", f"active: {{type: HTTP, {FAST}, http: {{path: /ready}}, {log}}}"),
    )
    assert await site.status("logged.test") == 503

    site.one.by_path["/ready"] = 200
    await until(lambda: "add_healthy_event" in file.read_text())

    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert events[0]["health_checker_type"] == "HTTP"
    assert any("health_check_failure_event" in event for event in events)


async def refusing(site: Site, name: str, passive: str) -> Counter[int]:
    """What forty requests are answered with, if one of three endpoints answers 500 to each."""
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
    return Counter([await site.status(f"{name}.test") for _ in range(40)])


async def test_an_endpoint_that_answers_500_is_ejected(site: Site) -> None:
    statuses = await refusing(site, "ejected", "{consecutive5XxErrors: 2, maxEjectionPercent: 40}")

    assert statuses == {200: 38, 500: 2}


async def test_it_comes_back_after_its_time(site: Site) -> None:
    passive = (
        "{consecutive5XxErrors: 1, alwaysEjectOneEndpoint: true, baseEjectionTime: 100ms, interval: 50ms}"
    )
    statuses = await refusing(site, "returns", passive)
    assert statuses[500] >= 1
    site.two.by_path.clear()

    await become(site, "returns.test", {"one", "two", "three"})


async def test_of_three_endpoints_none_is_ejected_by_default(site: Site) -> None:
    """It would be more than the ten percent that may be."""
    statuses = await refusing(site, "default-share", "{consecutive5XxErrors: 1}")

    assert statuses[500] >= 10


async def test_failed_connections_are_counted_by_themselves(site: Site) -> None:
    passive = (
        "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, "
        "alwaysEjectOneEndpoint: true}"
    )
    refused = Echo("refused")
    async with refused.serving():
        pass
    await site.apply(
        m.local("duo", site.one.port, refused.port),
        m.route("local-origin", f"[{{{m.to('duo')}}}]"),
        m.policy(
            "BackendTrafficPolicy",
            "local-origin",
            f"{{loadBalancer: {{type: RoundRobin}}, healthCheck: {{passive: {passive}}}}}",
            "HTTPRoute/local-origin",
        ),
    )

    statuses = Counter([await site.status("local-origin.test") for _ in range(20)])

    assert statuses == {200: 18, 503: 2}
