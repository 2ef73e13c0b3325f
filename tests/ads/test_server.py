"""The server, through a real gRPC stream over its Unix socket."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack, suppress
from socket import AF_UNIX, SOCK_STREAM
from socket import socket as unix_socket
from typing import TYPE_CHECKING

import pytest

from moongate.ads.events import Acknowledged, Connected, Disconnected, Event, Nacked
from moongate.ads.responses import Response
from moongate.ads.session import Session
from moongate.ads.snapshot import PART, Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, XdsResource
from tests.ads.client import Client
from tests.ads.conversation import SCOPES, full_name, resource
from tests.ads.laptop import cluster, until
from tests.ads.serving import serving
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse


class Events:
    """What the server reported, to be waited for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self.put = self._queue.put_nowait

    async def next(self) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            return await self._queue.get()


def endpoints(name: str, body: bytes = b"1") -> XdsResource:
    return XdsResource.of(ENDPOINT, name, body)


def names(response: DeltaDiscoveryResponse) -> list[str]:
    return [r.name for r in response.resources]


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "ads"


async def test_a_resource_arrives_as_it_was_published(socket: Path) -> None:
    """The bytes on the wire are joined by hand; a real decoder must read from them what was put in."""
    made = endpoints("a", b"\x0a\x01a")
    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg", [made])
        await client.ask(ENDPOINT, resource_names_subscribe=["a"])
        [received] = (await client.answer()).resources

    assert (received.name, received.version) == ("a", made.version)
    assert (received.resource.type_url, received.resource.value) == (ENDPOINT, made.body)


async def test_what_is_published_before_what_is_prepared_is_newer(socket: Path) -> None:
    """Endpoints change while thousands of routes are about to be published, in one edit."""
    async with serving(socket) as ads:
        old, new, other = endpoints("a", b"1"), endpoints("a", b"2"), endpoints("b")
        ads.prepare("eg", [old, other])
        assert ads.version("eg", ENDPOINT, "b") is None

        ads.publish("eg", [new])
        assert [*ads.publish_prepared("eg")] == []

        assert ads.version("eg", ENDPOINT, "a") == new.version
        assert ads.version("eg", ENDPOINT, "b") == other.version


async def test_much_that_is_prepared_is_published_in_parts(socket: Path) -> None:
    """In between an endpoint may change, which is newer, and nothing is gone before the last part."""
    async with serving(socket) as ads:
        ads.publish("eg", [endpoints(f"{n}", b"1") for n in range(2 * PART + 1)])
        put = [endpoints(f"{n}", b"2") for n in range(2 * PART)]
        ads.prepare("eg", put)
        new, gone = endpoints(put[-1].name, b"3"), f"{2 * PART}"

        changed: list[int] = []
        for _ in ads.publish_prepared("eg", [(ENDPOINT, gone)]):
            versions = [ads.version("eg", ENDPOINT, each.name) for each in put]
            changed.append(sum(version == put[0].version for version in versions))
            assert ads.version("eg", ENDPOINT, gone) is not None
            ads.publish("eg", [new])

        assert changed == [PART]
        assert ads.version("eg", ENDPOINT, put[-2].name) == put[-2].version
        assert ads.version("eg", ENDPOINT, new.name) == new.version
        assert ads.version("eg", ENDPOINT, gone) is None


async def test_much_that_leaves_is_withdrawn_in_parts(socket: Path) -> None:
    """After all that comes, as what comes may use it no more."""
    async with serving(socket) as ads:
        ads.publish("eg", [endpoints(f"{n}", b"1") for n in range(2 * PART)])
        changed = endpoints("0", b"2")
        ads.prepare("eg", [changed])

        left: list[int] = []
        for _ in ads.publish_prepared("eg", [(ENDPOINT, f"{n}") for n in range(2 * PART)]):
            assert ads.version("eg", ENDPOINT, "0") == changed.version
            left.append(len(ads.resources("eg", ENDPOINT)))

        assert left == [2 * PART, PART]
        assert [*ads.resources("eg", ENDPOINT)] == ["0"]


async def test_what_a_fleet_has_first_is_published_at_once(socket: Path) -> None:
    """An Envoy that connects amid it would drop what is still to come."""
    async with serving(socket) as ads:
        ads.prepare("eg", [endpoints(f"{n}") for n in range(2 * PART)])

        assert [*ads.publish_prepared("eg")] == []
        assert len(ads.resources("eg", ENDPOINT)) == 2 * PART


async def test_a_change_reaches_every_envoy_of_its_fleet_and_no_other(socket: Path) -> None:
    async with (
        serving(socket) as ads,
        Client(socket, node="one") as one,
        Client(socket, node="two") as two,
        Client(socket, fleet="other", node="three") as other,
    ):
        for fleet, name in (("eg", "a"), ("other", "b")):
            ads.publish(fleet, [endpoints(name)])
        for client in (one, two, other):
            await client.ask(ENDPOINT, resource_names_subscribe=["a", "b"])
            await client.acknowledge(await client.answer())
        await ads.settled("eg", DEADLINE_S)
        await ads.settled("other", DEADLINE_S)

        ads.publish("eg", [endpoints("a", b"2")])
        ads.publish("other", [endpoints("b", b"2")])

        assert [names(await c.answer()) for c in (one, two, other)] == [["a"], ["a"], ["b"]]


async def test_a_stream_of_an_unknown_fleet_waits_until_it_appears(socket: Path) -> None:
    events = Events()
    async with serving(socket, events.put) as ads, Client(socket) as client:
        await client.ask(CLUSTER)
        assert await events.next() == Connected(fleet="eg", node="one", stream=1)

        ads.publish("eg")

        assert (await client.answer()).type_url == CLUSTER


def alive(kind: type[object]) -> int:
    """How many there are in the process; for a moment also in grpcio's frames of calls that have ended."""
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


async def test_of_fleets_that_have_ended_nothing_is_kept(socket: Path) -> None:
    """Some end before an Envoy came, some while one is connected, and some were never more than asked for."""
    events = Events()
    before = alive(Snapshot)
    async with serving(socket, events.put) as ads:
        for n in range(100):
            fleet = f"eg-{n}"
            ads.publish(fleet, [endpoints("a"), endpoints("b")])
            if n % 10:
                ads.end(fleet)
                continue
            async with Client(socket, fleet=fleet) as client:
                await client.ask(ENDPOINT, resource_names_subscribe=["a"])
                await client.acknowledge(await client.answer())
                assert isinstance(await events.next(), Connected)
                assert isinstance(await events.next(), Acknowledged)
                ads.end(fleet)
            assert isinstance(await events.next(), Disconnected)
        ads.end("never published")
        with suppress(TimeoutError):
            await ads.settled("stranger", 0.01)

        await until(lambda: alive(Snapshot) <= before)


async def test_of_streams_that_have_ended_nothing_is_kept(socket: Path) -> None:
    """Some end at rest, some before they have answered, and some before they have read what they are sent."""
    events = Events()
    before = {kind: alive(kind) for kind in (Session, Response)}
    async with serving(socket, events.put) as ads:
        ads.publish("eg", [endpoints("a", bytes(8 << 20))])
        for n in range(9):
            async with Client(socket) as client:
                await client.ask(ENDPOINT, resource_names_subscribe=["a"])
                assert isinstance(await events.next(), Connected)
                if n % 3:
                    response = await client.answer()
                    if n % 3 == 2:
                        await client.acknowledge(response)
                        assert isinstance(await events.next(), Acknowledged)
            assert isinstance(await events.next(), Disconnected)

        await until(lambda: all(alive(kind) <= count for kind, count in before.items()))


@pytest.mark.parametrize("gone", [[], [(ENDPOINT, "a")]], ids=["from the start", "by and by"])
async def test_a_fleet_without_resources_is_kept_for_its_envoys(
    socket: Path, gone: list[tuple[str, str]]
) -> None:
    """A Gateway may have no listener that is ready. Without an answer its Envoy would wait for ever."""
    events = Events()
    async with serving(socket, events.put) as ads:
        ads.publish("eg", [endpoints("a")] if gone else [])
        ads.publish("eg", gone=gone)
        for _ in range(2):
            async with Client(socket) as client:
                await client.ask(CLUSTER)

                assert (await client.answer()).type_url == CLUSTER
            assert [type(await events.next()) for _ in range(2)] == [Connected, Disconnected]


async def test_an_envoy_of_a_fleet_that_has_ended_keeps_what_it_has(socket: Path) -> None:
    """It serves what is under way until it is ended; a fleet of the same name starts anew, with another."""
    async with serving(socket) as ads, Client(socket) as old, Client(socket) as new:
        ads.publish("eg", [endpoints("a")])
        await old.ask(ENDPOINT, resource_names_subscribe=["a", "b"])
        await old.acknowledge(await old.answer())

        ads.end("eg")
        assert ads.nodes("eg") == ()

        ads.publish("eg", [endpoints("b")])
        await new.ask(ENDPOINT, resource_names_subscribe=["a", "b"])
        answer = await new.answer()
        assert (names(answer), [*answer.removed_resources]) == (["b"], ["a"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await old.call.read()


async def test_events_name_fleet_node_and_stream(socket: Path) -> None:
    events = Events()
    one, two = endpoints("a"), endpoints("b")
    async with serving(socket, events.put) as ads:
        ads.publish("eg", [one])
        async with Client(socket) as client:
            await client.ask(ENDPOINT, resource_names_subscribe=["a"])
            await client.acknowledge(await client.answer())
            ads.publish("eg", [two])
            await client.ask(ENDPOINT, resource_names_subscribe=["b"])
            await client.refuse(await client.answer(), "no")
            reported = [await events.next() for _ in range(3)]
        reported.append(await events.next())

    assert reported == [
        Connected(fleet="eg", node="one", stream=1),
        Acknowledged(fleet="eg", node="one", stream=1, type_url=ENDPOINT, versions=(("a", one.version),)),
        Nacked(
            fleet="eg",
            node="one",
            stream=1,
            type_url=ENDPOINT,
            name="b",
            version=two.version,
            message="no",
        ),
        Disconnected(fleet="eg", node="one", stream=1),
    ]


@pytest.mark.parametrize("connected", [True, False])
async def test_scopes_that_an_envoy_has_and_its_fleet_has_not_are_removed(
    socket: Path, *, connected: bool
) -> None:
    """Envoy does not say which scopes it has, but whoever adopts it may know."""
    table, old = f"{SCOPES}t/*", full_name("X", "t/old")
    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg", [resource("L", "l", "1/~t"), resource("X", "t/a", "1")])
        if not connected:
            ads.departed("eg", "one", [full_name("X", "t/a"), old])
        await client.ask(LISTENER, initial_resource_versions={"l": resource("L", "l", "1/~t").version})
        await client.ask(SCOPE, resource_names_subscribe=[table])
        first = await client.answer()
        assert [each.name for each in first.resources] == [full_name("X", "t/a")]
        if connected:
            ads.departed("eg", "one", [full_name("X", "t/a"), old])
        await client.acknowledge(first)

        assert list((await client.answer()).removed_resources) == [old]


async def test_what_has_left_a_fleet_is_kept_for_an_envoy_that_is_away(socket: Path) -> None:
    table, events = f"{SCOPES}t/*", Events()
    async with serving(socket, events.put) as ads:
        ads.publish("eg", [resource("L", "l", "1/~t"), resource("X", "t/a", "1"), resource("X", "t/b", "1")])

        async def sent() -> list[str]:
            """What a new stream removes, beside the collection itself."""
            async with Client(socket) as client:
                await client.ask(
                    LISTENER, initial_resource_versions={"l": resource("L", "l", "1/~t").version}
                )
                await client.ask(SCOPE, resource_names_subscribe=[table])
                gone: list[str] = []
                async with asyncio.TaskGroup() as tasks:
                    settled = tasks.create_task(ads.settled("eg", DEADLINE_S))
                    while not settled.done():
                        answer = tasks.create_task(client.answer())
                        await asyncio.wait({answer, settled}, return_when=asyncio.FIRST_COMPLETED)
                        if answer.done():
                            gone += answer.result().removed_resources
                            await client.acknowledge(answer.result())
                        else:
                            answer.cancel()
            while not isinstance(await events.next(), Disconnected):
                pass
            return gone

        assert await sent() == [table]
        ads.publish("eg", [], [(SCOPE, full_name("X", "t/a"))])
        assert await sent() == [table, full_name("X", "t/a")]
        assert await sent() == [table]


async def test_quarantine_names_every_envoy_that_refuses(socket: Path) -> None:
    async with serving(socket) as ads, Client(socket, node="one") as one, Client(socket, node="two") as two:
        ads.publish("eg", [endpoints("a")])
        for client in (two, one):
            await client.ask(ENDPOINT, resource_names_subscribe=["a"])
            await client.refuse(await client.answer(), "no")
        await ads.settled("eg", DEADLINE_S)

        [rejection] = ads.quarantine("eg")

    assert (rejection.name, rejection.message, rejection.nodes) == ("a", "no", ("one", "two"))


async def test_two_envoys_with_one_node_id_are_two(socket: Path) -> None:
    """What one of them has says nothing about the other."""
    events = Events()
    first, second = endpoints("a"), endpoints("a", b"2")
    async with serving(socket, events.put) as ads, Client(socket) as one, Client(socket) as two:
        ads.publish("eg", [first])
        for client in (one, two):
            await client.ask(ENDPOINT, resource_names_subscribe=["a"])
            await client.acknowledge(await client.answer())
        await ads.settled("eg", DEADLINE_S)
        ads.publish("eg", [second])
        await one.acknowledge(await one.answer())
        await two.refuse(await two.answer(), "no")
        await ads.settled("eg", DEADLINE_S)

        holders = ads.holders("eg", ENDPOINT, "a")
        [rejection] = ads.quarantine("eg")

    reported = [await events.next() for _ in range(8)]
    assert {event.envoy for event in reported} == {"one#1", "one#2"}
    assert rejection.nodes == ("one",)
    assert [(holder.node, holder.version) for holder in holders] == [
        ("one", second.version),
        ("one", first.version),
    ]


async def test_routes_can_be_held_before_a_refusal_lets_them_go(socket: Path) -> None:
    """They may rely on what the refused listener was to bring; whoever hears of it can build others first."""
    listener, routes = XdsResource.of(LISTENER, "l", b"1"), XdsResource.of(ROUTE, "r", b"1")

    def on_event(event: Event) -> None:
        if isinstance(event, Nacked):
            ads.hold("eg", ROUTE)

    async with serving(socket, on_event) as ads, Client(socket) as client:
        ads.publish("eg", [listener, routes])
        await client.ask(LISTENER)
        await client.ask(ROUTE, resource_names_subscribe=["r"])
        await client.refuse(await client.answer(), "no")
        await until(lambda: ads.quarantine("eg"))
        ads.publish("eg", [XdsResource.of(ROUTE, "r", b"2")])
        ads.release("eg", ROUTE)

        [answer] = (await client.answer()).resources

    assert (answer.name, answer.resource.value) == ("r", b"2")


async def test_routes_are_held_for_an_envoy_that_connects_meanwhile(socket: Path) -> None:
    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg", [XdsResource.of(ROUTE, "r", b"1")])
        ads.hold("eg", ROUTE)
        await client.ask(ROUTE, resource_names_subscribe=["r"])
        await client.ask(ENDPOINT, resource_names_subscribe=["a"])

        answer = await client.answer()
        assert answer.type_url == ENDPOINT
        await client.acknowledge(answer)

        ads.release("eg", ROUTE)
        assert (await client.answer()).type_url == ROUTE


@pytest.mark.parametrize("standstill_s", [0.0, 1.5])
async def test_an_answer_is_waited_for_that_nobody_could_hear(socket: Path, standstill_s: float) -> None:
    """A cluster that does not become warm is given up, but not while the process stands still."""
    async with serving(socket, patience_seconds=1.0) as ads, Client(socket) as client:
        ads.publish("eg", [cluster("a"), endpoints("a")])
        await client.ask(CLUSTER)
        unanswered = await client.answer()
        await client.ask(ENDPOINT, resource_names_subscribe=["a"])
        await client.acknowledge(await client.answer())
        ads.publish("eg", [cluster("b")])
        if not standstill_s:
            assert names(await client.answer()) == ["b"]
            return
        async with asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(client.answer())
            await asyncio.sleep(0.1)  # its request has come
            time.sleep(standstill_s)  # noqa: ASYNC251 - this is the standstill
            await asyncio.sleep(0.1)
            early = answer.done()
            await client.acknowledge(unanswered)
            assert names(await answer) == ["b"]

    assert not early


async def test_settled_waits_for_an_envoy(socket: Path) -> None:
    async with serving(socket) as ads:
        ads.publish("eg", [endpoints("a")])

        with pytest.raises(TimeoutError):
            await ads.settled("eg", 0.01)


async def test_an_envoy_that_has_not_asked_for_listeners_is_not_settled(socket: Path) -> None:
    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg", [XdsResource.of(LISTENER, "l", b"1")])
        await client.ask(CLUSTER)
        await client.acknowledge(await client.answer())

        with pytest.raises(TimeoutError):
            await ads.settled("eg", 0.05)


async def test_leaving_the_server_ends_its_streams(socket: Path) -> None:
    events = Events()
    async with AsyncExitStack() as clients:
        async with serving(socket, events.put):
            client = await clients.enter_async_context(Client(socket))
            await client.ask(CLUSTER)
            await events.next()

        assert await events.next() == Disconnected(fleet="eg", node="one", stream=1)
        assert not [task for task in asyncio.all_tasks() if "AdsServer" in repr(task)]


@pytest.mark.parametrize("read", [True, False])
async def test_leaving_the_server_leaves_no_call_behind(socket: Path, *, read: bool) -> None:
    """What gRPC has to say of it must not come when the event loop is closed."""
    events = Events()
    async with AsyncExitStack() as clients:
        async with serving(socket, events.put) as ads:
            ads.publish("eg", [endpoints("a", bytes(32 << 20))])
            client = await clients.enter_async_context(Client(socket))
            await client.ask(ENDPOINT, resource_names_subscribe=["a"])
            await events.next()
            if read:
                await client.answer()

        left = [repr(task) for task in asyncio.all_tasks()]
        assert not [task for task in left if "AdsServer" in task or "_handle_exceptions" in task]


async def test_a_socket_left_behind_by_a_crash_is_replaced(socket: Path) -> None:
    with unix_socket(AF_UNIX, SOCK_STREAM) as dead:
        dead.bind(str(socket))

    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg")
        await client.ask(CLUSTER)

        assert (await client.answer()).type_url == CLUSTER


async def test_the_socket_is_for_its_owner_only(socket: Path) -> None:
    """Private keys travel over it."""
    async with serving(socket):
        mode = socket.stat().st_mode  # noqa: ASYNC240  a local file, in a test

        assert mode & 0o777 == 0o600


async def test_a_client_that_half_closes_is_let_go(socket: Path) -> None:
    events = Events()
    async with serving(socket, events.put) as ads, Client(socket) as client:
        await client.ask(CLUSTER)
        await events.next()
        await client.call.done_writing()

        assert await events.next() == Disconnected(fleet="eg", node="one", stream=1)
        assert ads.nodes("eg") == ()


async def test_a_client_that_dies_in_the_middle_of_a_response_is_let_go_quietly(
    socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    async with serving(socket, events.put) as ads:
        ads.publish("eg", [endpoints("a", bytes(32 << 20))])
        for _ in range(5):
            async with Client(socket) as client:
                await client.ask(ENDPOINT, resource_names_subscribe=["a"])
                assert isinstance(await events.next(), Connected)
                await until(lambda: ads.counters[ENDPOINT].responses if ENDPOINT in ads.counters else 0)
            assert isinstance(await events.next(), Disconnected)

    assert caplog.records == []


async def test_what_is_larger_than_grpcs_default_limit_is_sent(socket: Path) -> None:
    async with serving(socket) as ads, Client(socket) as client:
        ads.publish("eg", [endpoints("a", bytes(8 << 20))])
        await client.ask(ENDPOINT, resource_names_subscribe=["a"])

        assert len((await client.answer()).resources[0].resource.value) == 8 << 20


@pytest.mark.slow
async def test_a_client_that_does_not_read_holds_up_nobody(socket: Path) -> None:
    """Its changes gather: when it reads on, it gets the first state and the last, not those between."""
    async with (
        serving(socket) as ads,
        Client(socket, node="slow") as slow,
        Client(socket, node="fast") as fast,
    ):
        ads.publish("eg", [endpoints("a", bytes(4 << 20))])
        for client in (slow, fast):
            await client.ask(ENDPOINT, resource_names_subscribe=["a"])
        await fast.acknowledge(await fast.answer())

        for i in range(1, 20):
            ads.publish("eg", [endpoints("a", bytes([i]) * (4 << 20))])
            answer = await fast.answer()
            assert answer.resources[0].resource.value[0] == i
            await fast.acknowledge(answer)

        first = await slow.answer()
        await slow.acknowledge(first)
        last = await slow.answer()

        assert (first.resources[0].resource.value[0], last.resources[0].resource.value[0]) == (0, 19)
