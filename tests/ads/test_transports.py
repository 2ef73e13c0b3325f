"""Who a client is says its transport, whatever it says of itself."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import psutil
import pytest

from moongate.ads.events import Connected, Event
from moongate.ads.server import AdsServer
from moongate.ads.transports import Identity, IdentityError, Transport, unix_socket
from moongate.xds.wire import SECRET, XdsResource
from tests.ads.client import Client
from tests.ads.laptop import until
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envoy.config.core.v3.base_pb2 import Node

    from moongate.ads.transports import Context


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets, which pytest's own may not be."""
    with TemporaryDirectory(prefix="mg-") as folder:
        yield Path(folder)


def secret(name: str) -> XdsResource:
    return XdsResource.of(SECRET, name, name.encode())


async def refusal(client: Client) -> grpc.aio.AioRpcError:
    """Why the server does not serve a client that asks for all secrets."""
    await client.ask(SECRET, resource_names_subscribe=["*"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async with asyncio.timeout(DEADLINE_S):
            await client.call.read()
    return refused.value


async def test_whoever_says_to_be_of_another_fleet_gets_nothing(folder: Path) -> None:
    """Secrets are private keys. The message is what a user sees who mixed up two bootstraps."""
    events: list[Event] = []
    ads = AdsServer(events.append)
    ads.publish("a", [secret("of-a")])
    ads.publish("b", [secret("of-b")])
    async with (
        ads.listen(unix_socket(folder / "a", "a")),
        ads.listen(unix_socket(folder / "b", "b")),
        Client(folder / "a", fleet="b") as client,
    ):
        refused = await refusal(client)

    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.details() == (
        "This socket is for Envoys of the fleet 'a', and node.cluster is 'b'; "
        "use the socket of that fleet, or correct node.cluster."
    )
    assert events == []
    assert SECRET not in ads.counters


@pytest.mark.parametrize("fleet", ["a", ""])
async def test_a_fleet_is_served_over_its_own_socket(folder: Path, fleet: str) -> None:
    """Also an Envoy that does not say to which it belongs."""
    events: list[Event] = []
    ads = AdsServer(events.append)
    ads.publish("a", [secret("of-a")])
    async with (
        ads.listen(unix_socket(folder / "a", "a")),
        Client(folder / "a", fleet=fleet, node="one") as client,
    ):
        await client.ask(SECRET, resource_names_subscribe=["*"])
        answer = await client.answer()

    assert [resource.name for resource in answer.resources] == ["of-a"]
    assert events[0] == Connected(fleet="a", node="one", stream=1)


async def test_a_long_lie_is_not_said_back_whole(folder: Path) -> None:
    """gRPC sends a message in a header, and a client gives up on one that is too long."""
    ads = AdsServer()
    async with (
        ads.listen(unix_socket(folder / "a", "a")),
        Client(folder / "a", fleet="b" * 100_000) as client,
    ):
        refused = await refusal(client)

    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_transport_that_is_left_ends_its_streams_and_no_others(folder: Path) -> None:
    """A Gateway goes, and the Envoys of the others hear nothing of it."""
    ads = AdsServer()
    async with (
        ads.listen(unix_socket(folder / "b", "b")),
        Client(folder / "a", fleet="a") as a,
        Client(folder / "b", fleet="b") as b,
    ):
        async with ads.listen(unix_socket(folder / "a", "a")):
            for fleet, client in (("a", a), ("b", b)):
                ads.publish(fleet, [secret("first")])
                await client.ask(SECRET, resource_names_subscribe=["*"])
                await client.acknowledge(await client.answer())
                await ads.settled(fleet, DEADLINE_S)

        assert not (folder / "a").exists()
        await until(lambda: not ads.nodes("a"))
        ads.publish("b", [secret("second")])
        assert [each.name for each in (await b.answer()).resources] == ["second"]


async def test_a_server_may_say_by_anything_in_the_call_who_it_is(folder: Path) -> None:
    """A certificate, a token, or here a header: what the client says of itself is not asked."""

    def identify(context: Context, _: Node) -> Identity:
        for key, value in context.invocation_metadata() or ():
            if key == "token" and value == "secret of a":
                return Identity("a", "envoy-1")
        raise IdentityError("No token.")

    events: list[Event] = []
    ads = AdsServer(events.append)
    ads.publish("a", [secret("of-a")])
    address = f"unix:{folder / 'ads'}"
    async with ads.listen(Transport(address=address, identify=identify)):
        async with Client(folder / "ads", fleet="b", metadata=(("token", "secret of a"),)) as client:
            await client.ask(SECRET, resource_names_subscribe=["*"])
            answer = await client.answer()
        async with Client(folder / "ads", fleet="a") as client:
            refused = await refusal(client)

    assert [resource.name for resource in answer.resources] == ["of-a"]
    assert events[0] == Connected(fleet="a", node="envoy-1", stream=1)
    assert (refused.code(), refused.details()) == (grpc.StatusCode.PERMISSION_DENIED, "No token.")


async def test_hundreds_of_transports_cost_a_descriptor_each(folder: Path) -> None:
    """No thread: each Gateway of a laptop has one."""
    ads = AdsServer()
    process = psutil.Process()
    async with ads.listen(unix_socket(folder / "first", "first")):
        threads, descriptors = process.num_threads(), process.num_fds()
        async with AsyncExitStack() as stack:
            for n in range(300):
                await stack.enter_async_context(ads.listen(unix_socket(folder / f"{n}", f"fleet-{n}")))

            assert process.num_threads() <= threads + 1
            assert process.num_fds() <= descriptors + 300 + 2

        assert process.num_fds() <= descriptors + 2
