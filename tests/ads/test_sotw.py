# The stubs of grpcio leave the types of its calls open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from structlog.testing import capture_logs

from moongate.ads.sotw import SotwServer
from moongate.xds.wire import encode

if TYPE_CHECKING:
    pass

TYPE = "type.googleapis.com/example.Thing"
STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


class Client:
    """A client that answers when a test says so."""

    def __init__(self, channel: grpc.aio.Channel, *, node: str = "services", type_url: str = TYPE) -> None:
        self._call = channel.stream_stream(STREAM, encode, DiscoveryResponse.FromString)()
        self._first = DiscoveryRequest(type_url=type_url)
        self._first.node.id = node

    async def subscribe(self) -> None:
        await self._call.write(self._first)

    async def next(self) -> DiscoveryResponse:
        response = await self._call.read()
        assert isinstance(response, DiscoveryResponse)
        return response

    async def accept(self, response: DiscoveryResponse) -> None:
        await self._call.write(
            DiscoveryRequest(type_url=TYPE, response_nonce=response.nonce, version_info=response.version_info)
        )

    async def refuse(self, response: DiscoveryResponse, why: str) -> None:
        request = DiscoveryRequest(type_url=TYPE, response_nonce=response.nonce)
        request.error_detail.message = why
        await self._call.write(request)


async def test_each_response_has_all_resources(tmp_path: Path) -> None:
    """What is not in it is gone; an equal publication is not sent again."""
    server, address = SotwServer(TYPE, "services"), f"unix:{tmp_path}/s"
    async with server.listen(address), grpc.aio.insecure_channel(address) as channel:
        client = Client(channel)
        await client.subscribe()
        server.publish({"b": b"2", "a": b"1"})
        first = await client.next()
        await client.accept(first)
        server.publish({"a": b"1", "b": b"2"})
        server.publish({"b": b"2"})
        second = await client.next()

    assert [each.value for each in first.resources] == [b"1", b"2"]
    assert [each.type_url for each in second.resources] == [TYPE]
    assert [each.value for each in second.resources] == [b"2"]
    assert first.version_info != second.version_info


async def test_it_is_settled_when_a_client_has_answered_the_last_publication(tmp_path: Path) -> None:
    """Requests that are counted after that are counted by it."""
    server, address = SotwServer(TYPE, "services"), f"unix:{tmp_path}/s"
    async with (
        server.listen(address),
        grpc.aio.insecure_channel(address) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        server.publish({"a": b"1"})
        settled = tasks.create_task(server.settled())
        client = Client(channel)
        await client.subscribe()
        response = await client.next()
        before = settled.done()
        await client.accept(response)
        await settled

    assert not before


async def test_who_comes_during_a_change_gets_what_was_before_it_first(tmp_path: Path) -> None:
    """Envoys have the routes of that, and the service may have been started anew."""
    server, address = SotwServer(TYPE, "services"), f"unix:{tmp_path}/s"
    async with server.listen(address):
        async with grpc.aio.insecure_channel(address) as channel:
            client = Client(channel)
            await client.subscribe()
            server.publish({"a": b"1"})
            await client.accept(await client.next())
            await server.settled()
        server.publish({"a": b"2"})
        async with grpc.aio.insecure_channel(address) as channel:
            client = Client(channel)
            await client.subscribe()
            before = await client.next()
            await client.accept(before)
            now = await client.next()
            unsettled = not server.is_settled
            await client.accept(now)
            await server.settled()
        async with grpc.aio.insecure_channel(address) as channel:
            client = Client(channel)
            await client.subscribe()
            again = await client.next()
            server.publish({"a": b"3"})
            later = await client.next()

    contents = [[each.value for each in response.resources] for response in (before, now, again, later)]
    assert contents == [[b"1"], [b"2"], [b"2"], [b"3"]]
    assert unsettled


async def test_a_publication_is_settled_when_the_last_client_has_answered(tmp_path: Path) -> None:
    """While a service takes the place of another one, Envoys ask either of them."""
    changed, address = asyncio.Event(), f"unix:{tmp_path}/s"
    server = SotwServer(TYPE, "services", changed.set)
    async with server.listen(address), grpc.aio.insecure_channel(address) as channel:
        clients = [Client(channel), Client(channel)]
        server.publish({"a": b"1"})
        for client in clients:
            await client.subscribe()
            await client.accept(await client.next())
        await server.settled()
        server.publish({"a": b"2"})
        now = [await client.next() for client in clients]
        changed.clear()
        await clients[0].accept(now[0])
        await changed.wait()
        after_one = server.is_settled
        third = Client(channel)
        await third.subscribe()
        before = await third.next()

    assert not after_one
    assert [each.value for each in before.resources] == [b"1"]


async def test_a_refusal_is_logged_and_what_was_refused_is_not_sent_again(tmp_path: Path) -> None:
    server, address = SotwServer(TYPE, "services"), f"unix:{tmp_path}/s"
    with capture_logs() as log:
        async with server.listen(address), grpc.aio.insecure_channel(address) as channel:
            server.publish({"a": b"1"})
            client = Client(channel)
            await client.subscribe()
            await client.refuse(await client.next(), "It has no domain.")
            await server.settled()
            server.publish({"a": b"2"})
            second = await client.next()

    assert [each.value for each in second.resources] == [b"2"]
    refusals = [entry for entry in log if entry["event"] == "rate_limits.refused"]
    assert [entry["message"] for entry in refusals] == ["It has no domain."]


async def test_a_client_that_asks_for_something_else_is_told_so(tmp_path: Path) -> None:
    server, address = SotwServer(TYPE, "services"), f"unix:{tmp_path}/s"
    async with server.listen(address), grpc.aio.insecure_channel(address) as channel:
        for client in (Client(channel, node="other"), Client(channel, type_url="x")):
            await client.subscribe()
            with pytest.raises(grpc.aio.AioRpcError, match="Here is"):
                await client.next()


async def test_only_the_same_user_can_connect(tmp_path: Path) -> None:
    async with SotwServer(TYPE, "services").listen(f"unix:{tmp_path}/s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


async def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="cannot be listened on"):
            async with SotwServer(TYPE, "services").listen(f"127.0.0.1:{port}"):
                pass
