"""A client of the ADS server that says what a test wants it to say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from moongate.ads.server import SERVICE
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path


class Client:
    """A hand-driven delta stream."""

    def __init__(
        self,
        socket: Path,
        *,
        fleet: str = "eg",
        node: str = "one",
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._channel: Any = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._node = {"id": node, "cluster": fleet}
        self._metadata = metadata

    async def __aenter__(self) -> Self:
        method: Any = self._channel.stream_stream(
            f"/{SERVICE}/DeltaAggregatedResources",
            DeltaDiscoveryRequest.SerializeToString,
            DeltaDiscoveryResponse.FromString,
        )
        self.call: Any = method(metadata=self._metadata)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def ask(self, type_url: str, **fields: Any) -> None:
        await self.call.write(DeltaDiscoveryRequest(type_url=type_url, node=self._node, **fields))

    async def answer(self) -> DeltaDiscoveryResponse:
        async with asyncio.timeout(DEADLINE_S):
            response = await self.call.read()
        assert isinstance(response, DeltaDiscoveryResponse), "the server ended the stream"
        return response

    async def acknowledge(self, response: DeltaDiscoveryResponse) -> None:
        await self.ask(response.type_url, response_nonce=response.nonce)

    async def refuse(self, response: DeltaDiscoveryResponse, words: str) -> None:
        await self.ask(response.type_url, response_nonce=response.nonce, error_detail={"message": words})
