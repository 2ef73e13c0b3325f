"""The stream, with a real Envoy at its other end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import RouteMatch
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuthPerRoute

from moongate.ads.events import Acknowledged, Event
from moongate.ads.server import AdsServer
from moongate.names import scope
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, XdsResource, encode, packed
from tests.ads.laptop import (
    Envoy,
    answering,
    broken_part,
    broken_routes,
    cluster,
    endpoints,
    forwarding,
    listener,
    part,
    scoped_listener,
    until,
)
from tests.ads.serving import at, serving
from tests.deadline import DEADLINE_S
from tests.ports import free_port
from tests.tcp_servers import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@asynccontextmanager
async def backend(body: str, gate: asyncio.Barrier | None = None) -> AsyncGenerator[int]:
    """The port of an HTTP server on loopback that answers every request with ``body``.

    With a gate of two parties, each request says there that it has arrived, and again before it is
    answered.
    """
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                if gate is not None:
                    await gate.wait()
                    await gate.wait()
                writer.write(answer)
                await writer.drain()

    async with tcp_server(serve) as port:
        yield port


class Web:
    """Requests to the listener under test."""

    def __init__(self) -> None:
        self.port = free_port()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE_S)

    async def body(self, host: str | None = None) -> str:
        answer = await self.client.get("/", headers={} if host is None else {"host": host})
        return answer.text if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

    async def answers(self, body: str, host: str | None = None) -> None:
        async def it_does() -> bool:
            return await self.body(host) == body

        await until(it_does)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    async with web.client:
        yield web


def direct(web: Web, body: str = "hello") -> tuple[XdsResource, ...]:
    return listener("l", web.port, "r"), answering("r", body)


async def test_a_cold_start_serves_without_any_cluster(tmp_path: Path, web: Web) -> None:
    """Envoy asks for listeners when it has heard of its clusters, so it must hear of emptiness too."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish("eg", direct(web))
        await ads.settled("eg", DEADLINE_S)

        await web.answers("hello")


async def test_a_cold_start_serves_through_a_cluster(tmp_path: Path, web: Web) -> None:
    async with backend("one") as port, serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish(
            "eg", [listener("l", web.port, "r"), forwarding("r", "a"), cluster("a"), endpoints("a", port)]
        )
        await ads.settled("eg", DEADLINE_S)

        await web.answers("one")


async def test_a_cluster_whose_endpoints_are_unknown_does_not_stop_the_start(
    tmp_path: Path, web: Web
) -> None:
    """It hears at once that they do not exist, instead of waiting for initial_fetch_timeout, 15 s."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish("eg", [*direct(web), cluster("a")])
        await ads.settled("eg", 10)

        await web.answers("hello")


async def test_a_restarted_server_sends_nothing_that_envoy_has(tmp_path: Path, web: Web) -> None:
    async with backend("one") as port:
        world = [
            *(listener("l", web.port, "r"), forwarding("r", "a")),
            *(cluster("a"), endpoints("a", port), cluster("b"), endpoints("b", port)),
        ]
        async with Envoy(tmp_path, tmp_path / "ads"):
            async with serving(tmp_path / "ads") as ads:
                ads.publish("eg", world)
                await ads.settled("eg", DEADLINE_S)

            events: list[Event] = []
            async with serving(tmp_path / "ads", events.append) as again:
                again.publish("eg", [*world, endpoints("b", port, port + 1)])
                await again.settled("eg", DEADLINE_S)
                await web.answers("one")

                sent = {type_url: counters.resources for type_url, counters in again.counters.items()}
                assert sent == {ENDPOINT: 1}

        acknowledged = [event for event in events if isinstance(event, Acknowledged)]
        versions = {(event.type_url, *version) for event in acknowledged for version in event.versions}
        assert versions >= {(each.type_url, each.name, each.version) for each in world}


async def test_routes_that_changed_while_the_server_was_away_are_served_when_settled(
    tmp_path: Path, web: Web
) -> None:
    async with Envoy(tmp_path, tmp_path / "ads"):
        async with serving(tmp_path / "ads") as ads:
            ads.publish("eg", direct(web, "old"))
            await ads.settled("eg", DEADLINE_S)
            await web.answers("old")

        async with serving(tmp_path / "ads") as again:
            again.publish("eg", direct(web, "new"))
            await again.settled("eg", DEADLINE_S)

            assert await web.body() == "new"


async def test_a_cluster_that_changed_while_the_server_was_away_keeps_its_endpoints(
    tmp_path: Path, web: Web
) -> None:
    """Without its endpoints sent again it would take 15 s, and then answer 503."""
    async with backend("one") as port:
        world = [listener("l", web.port, "r"), forwarding("r", "a"), cluster("a"), endpoints("a", port)]
        async with Envoy(tmp_path, tmp_path / "ads"):
            async with serving(tmp_path / "ads") as ads:
                ads.publish("eg", world)
                await ads.settled("eg", DEADLINE_S)

            async with serving(tmp_path / "ads") as again:
                again.publish("eg", [*world, cluster("a", connect_seconds=7)])
                await again.settled("eg", 10)

                assert await web.body() == "one"


async def test_a_changed_cluster_warms_at_once_and_keeps_its_endpoints(tmp_path: Path, web: Web) -> None:
    async with backend("one") as port, serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish(
            "eg", [listener("l", web.port, "r"), forwarding("r", "a"), cluster("a"), endpoints("a", port)]
        )
        await ads.settled("eg", DEADLINE_S)
        await web.answers("one")

        ads.publish("eg", [cluster("a", connect_seconds=7)])
        await ads.settled("eg", 5)

        assert await web.body() == "one"


async def test_a_restarted_envoy_gets_all(tmp_path: Path, web: Web) -> None:
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads") as envoy:
        ads.publish("eg", direct(web))
        await ads.settled("eg", DEADLINE_S)
        await envoy.kill()
        await until(lambda: not ads.nodes("eg"))

        await envoy.start()
        await ads.settled("eg", DEADLINE_S)

        await web.answers("hello")


async def test_a_stopped_envoy_delays_no_other_and_catches_up(tmp_path: Path, web: Web) -> None:
    """What changes meanwhile gathers: it gets what was in flight and the last state, not all between."""
    other = Web()
    async with (
        other.client,
        serving(tmp_path / "ads") as ads,
        Envoy(tmp_path, tmp_path / "ads", node="stopped", fleet="eg") as stopped,
        Envoy(tmp_path, tmp_path / "ads", node="going", fleet="other") as _,
    ):
        ads.publish("eg", direct(web, "0"))
        ads.publish("other", direct(other, "0"))
        await ads.settled("eg", DEADLINE_S)
        await ads.settled("other", DEADLINE_S)
        before = ads.counters[ROUTE].responses

        stopped.stop()
        for i in range(1, 201):
            ads.publish("eg", [answering("r", f"{i} " + "x" * 1000)])
            await asyncio.sleep(0)
        ads.publish("other", [answering("r", "200")])
        await ads.settled("other", DEADLINE_S)
        stopped.go_on()
        await ads.settled("eg", DEADLINE_S)

        await web.answers("200 " + "x" * 1000)
        assert ads.counters[ROUTE].responses - before <= 3


async def test_two_envoys_of_a_fleet_get_the_same(tmp_path: Path, web: Web) -> None:
    """Both listen on the port, so both have to answer it; each has its own stream."""
    async with (
        serving(tmp_path / "ads") as ads,
        Envoy(tmp_path, tmp_path / "ads", node="one"),
        Envoy(tmp_path, tmp_path / "ads", node="two"),
    ):
        await until(lambda: ads.nodes("eg") == ("one", "two"))
        ads.publish("eg", direct(web))
        await ads.settled("eg", DEADLINE_S)

        assert ads.counters[LISTENER].acks == 2


async def test_refused_resources_are_alone_in_quarantine(tmp_path: Path, web: Web) -> None:
    """A cluster that lacks a host, a port that is taken, a regex that is none: each with Envoy's words."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads") as envoy:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            ads.publish(
                "eg",
                [
                    *(cluster("good"), cluster("bad", broken=True), cluster("fine")),
                    *(listener("l", web.port, "r"), listener("taken", port, "r")),
                    *(answering("r", "hello"), listener("m", free_port(), "wrong"), broken_routes("wrong")),
                ],
            )
            await ads.settled("eg", DEADLINE_S)
            await web.answers("hello")

            refusals = [(no.type_url, no.name, no.message) for no in ads.quarantine("eg")]
            assert refusals == [
                (CLUSTER, "bad", "LOGICAL_DNS clusters must have a single host"),
                (LISTENER, "taken", f"cannot bind '127.0.0.1:{port}': Address already in use"),
                (ROUTE, "wrong", "missing ]: ["),
            ]
            assert await envoy.clusters() == {"good", "fine"}

        ads.publish("eg", [cluster("bad"), answering("wrong", "right")], [(LISTENER, "taken")])
        await ads.settled("eg", DEADLINE_S)

        assert ads.quarantine("eg") == ()


async def test_nothing_of_a_refused_configuration_is_shown(tmp_path: Path, web: Web) -> None:
    """Envoy quotes the whole table that it refuses, with the passwords that stand in it."""
    users = BasicAuthPerRoute(users=DataSource(inline_bytes=b"alice:{SHA}canary"))
    table = RouteConfiguration(name="r")
    route = table.virtual_hosts.add(name="v", domains=["*"]).routes.add(match=RouteMatch(prefix="/"))
    route.direct_response.status = 7
    route.typed_per_filter_config["envoy.filters.http.basic_auth"].CopyFrom(packed(users))
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish("eg", [listener("l", web.port, "r"), XdsResource.of(ROUTE, "r", encode(table))])
        await ads.settled("eg", DEADLINE_S)

        [rejection] = ads.quarantine("eg")

    assert rejection.message == (
        "DirectResponseActionValidationError.Status: value must be inside range [200, 600)"
    )


async def test_what_envoy_cannot_even_read_is_found_among_many(tmp_path: Path, web: Web) -> None:
    """It refuses such a response as a whole and names nobody."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads") as envoy:
        good = [cluster(f"c{i}") for i in range(20)]
        ads.publish("eg", [*direct(web), *good, cluster("c13x", connect_seconds=-1)])
        await ads.settled("eg", DEADLINE_S)

        [rejection] = ads.quarantine("eg")
        assert rejection.name == "c13x"
        assert rejection.message.startswith("Invalid duration: Expected positive duration")
        assert await envoy.clusters() == {f"c{i}" for i in range(20)}


async def test_a_switch_to_a_new_cluster_under_load_fails_no_request(tmp_path: Path, web: Web) -> None:
    """The old cluster goes, the new one comes, in one edit, ten times, while requests never pause."""
    async with (
        backend("hello") as port,
        serving(tmp_path / "ads", linger_seconds=0.2) as ads,
        Envoy(tmp_path, tmp_path / "ads") as envoy,
    ):
        ads.publish(
            "eg", [listener("l", web.port, "r"), forwarding("r", "c0"), cluster("c0"), endpoints("c0", port)]
        )
        await ads.settled("eg", DEADLINE_S)
        await web.answers("hello")

        answers: list[str] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                answers.append(await web.body())

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for i in range(1, 11):
                ads.publish(
                    "eg",
                    [cluster(f"c{i}"), endpoints(f"c{i}", port), forwarding("r", f"c{i}")],
                    [(CLUSTER, f"c{i - 1}"), (ENDPOINT, f"c{i - 1}")],
                )
                await ads.settled("eg", DEADLINE_S)
                seen = len(answers)
                await until(lambda seen=seen: len(answers) > seen + 20)
            done.set()

        assert set(answers) == {"hello"}

        async def only_the_last_is_left() -> bool:
            return await envoy.clusters() == {"c10"}

        await until(only_the_last_is_left)


async def test_a_removed_cluster_lingers(tmp_path: Path, web: Web) -> None:
    async with (
        backend("one") as port,
        serving(tmp_path / "ads", linger_seconds=0.5) as ads,
        Envoy(tmp_path, tmp_path / "ads") as envoy,
    ):
        ads.publish("eg", [*direct(web), cluster("a"), endpoints("a", port)])
        await ads.settled("eg", DEADLINE_S)

        ads.publish("eg", gone=[(CLUSTER, "a"), (ENDPOINT, "a")])
        await ads.settled("eg", DEADLINE_S)
        assert await envoy.clusters() == {"a"}

        async def it_left() -> bool:
            return not await envoy.clusters()

        await until(it_left)


async def test_a_request_in_flight_outlives_its_cluster(tmp_path: Path, web: Web) -> None:
    """A slow answer still arrives when route and cluster are long gone: Envoy drains, it does not cut."""
    gate = asyncio.Barrier(2)
    async with (
        backend("slow", gate) as port,
        serving(tmp_path / "ads", linger_seconds=0.1) as ads,
        Envoy(tmp_path, tmp_path / "ads") as envoy,
        asyncio.TaskGroup() as group,
    ):
        ads.publish("eg", [listener("l", web.port, "r"), answering("r", "up")])
        await ads.settled("eg", DEADLINE_S)
        await web.answers("up")
        ads.publish("eg", [forwarding("r", "a"), cluster("a"), endpoints("a", port)])
        await ads.settled("eg", DEADLINE_S)
        request = group.create_task(web.body())
        await gate.wait()

        ads.publish("eg", [answering("r", "new")], [(CLUSTER, "a"), (ENDPOINT, "a")])

        async def the_cluster_left() -> bool:
            return not await envoy.clusters()

        await until(the_cluster_left)
        assert not request.done()
        await gate.wait()
        assert await request == "slow"


async def test_an_unrelated_change_leaves_connections_alone(tmp_path: Path, web: Web) -> None:
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads") as envoy:
        ads.publish("eg", direct(web))
        await ads.settled("eg", DEADLINE_S)
        await web.answers("hello")
        before = await envoy.stat("http.l.downstream_cx_total")

        ads.publish("eg", [*direct(web, "changed"), cluster("new"), listener("m", free_port(), "r")])
        await ads.settled("eg", DEADLINE_S)
        await web.answers("changed")

        assert await envoy.stat("http.l.downstream_cx_total") == before


async def test_parts_are_those_of_the_fleet_after_a_stream_that_ended_amid_a_refusal(
    tmp_path: Path, web: Web
) -> None:
    """Envoy keeps parts of what it refused without using them, and does not say later which it has."""
    ads = AdsServer()
    async with Envoy(tmp_path, tmp_path / "ads") as envoy:
        async with ads.listen(at(tmp_path / "ads")):
            ads.publish("eg", [scoped_listener("l", web.port, "t"), *(part("t", h, "old") for h in "abz")])
            await ads.settled("eg", DEADLINE_S)
            await web.answers("old", "a")
            envoy.stop()
            sent = ads.counters[SCOPE].responses
            ads.publish("eg", [part("t", "a", "new"), broken_part("t", "b")])
            await until(lambda: ads.counters[SCOPE].responses > sent)
            ads.hold("eg", SCOPE)
            envoy.go_on()
            await until(lambda: ads.counters[SCOPE].nacks == 1)
            assert await web.body("a") == "old"

        ads.publish("eg", [part("t", "b", "mended")], [(SCOPE, scope("t", "z"))])
        ads.release("eg", SCOPE)
        async with ads.listen(at(tmp_path / "ads")):
            await until(lambda: ads.nodes("eg"))
            await ads.settled("eg", DEADLINE_S)

            await web.answers("mended", "b")
            await web.answers("new", "a")
            await web.answers("404 ", "z")


async def test_the_part_that_others_share_is_not_in_force_before_a_refused_one_is_mended(
    tmp_path: Path, web: Web
) -> None:
    """It would answer for the hostname of the refused part, which may be there to protect it."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish(
            "eg",
            [
                scoped_listener("l", web.port, "t"),
                part("t", "_", "shared"),
                part("t", "a", "fine"),
                broken_part("t", "b"),
            ],
        )
        await until(lambda: ads.quarantine("eg"))
        await web.answers("fine", "a")
        assert await web.body("_") == "404 "

        ads.publish("eg", [part("t", "b", "mended")])
        await ads.settled("eg", DEADLINE_S)

        await web.answers("shared", "_")
        await web.answers("mended", "b")


async def test_of_a_response_with_two_parts_of_one_key_envoy_takes_none(tmp_path: Path, web: Web) -> None:
    """The others are put in force when they are sent again as they are."""
    async with serving(tmp_path / "ads") as ads, Envoy(tmp_path, tmp_path / "ads"):
        ads.publish("eg", [scoped_listener("l", web.port, "t"), part("t", "a", "old")])
        await ads.settled("eg", DEADLINE_S)

        ads.publish("eg", [part("t", "a", "new"), part("t", "b", "new"), part("t", "c", "new", key="a")])
        await ads.settled("eg", DEADLINE_S)

        [refusal] = ads.quarantine("eg")
        assert refusal.name == scope("t", "c")
        await web.answers("new", "a")
        await web.answers("new", "b")
