"""A state-of-the-world ADS server of one type: what a rate limit service is configured by.

Envoys get deltas (``server``). The rate limit services of Envoy's project know only the older form, in which
each response has all resources of its type, and an answer says which version is in force.

Facts
-----
* one thread: all methods belong to one event loop
* a version is a hash of what it contains, so a restarted moongate sends what services have already under the
  same version
* a response that is refused is not sent again; the next one has another content
* a service that comes while another publication is on its way gets the one before it first: Envoys still ask
  by that, and a service that has just been started would not know it

Source: xDS protocol, "Basic Protocol Overview" and "ACK and NACK semantics summary".
"""

# The stubs of grpcio leave the types of its handler factories open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import structlog
import xxhash
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from msgspec import Struct

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    Context: TypeAlias = grpc.aio.ServicerContext[DiscoveryRequest, Any]

_log = structlog.get_logger("moongate")

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHOD = "StreamAggregatedResources"
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class SotwServer:
    """Serves the resources of one type to clients with one node id.

    Args:
        type_url: of the resources.
        node: the node id that a client must have.
        on_change: called when a client has come, gone or answered. It must neither block nor raise.
    """

    def __init__(self, type_url: str, node: str, on_change: Callable[[], None] = lambda: None) -> None:
        self._type_url = type_url
        self._node = node
        self._on_change = on_change
        self._response: DiscoveryResponse | None = None
        self._settled: DiscoveryResponse | None = None
        """The last one that all had answered."""
        self._clients: list[_Client] = []
        self._changed = asyncio.Event()

    def publish(self, resources: Mapping[str, bytes]) -> bool:
        """Hand out these resources instead of all former ones, and say whether they differ.

        Args:
            resources: encoded messages, by name.
        """
        digest = xxhash.xxh3_64()
        for name, body in sorted(resources.items()):
            digest.update(f"{len(name)} {name} {len(body)} ".encode())
            digest.update(body)
        version = digest.hexdigest()
        if self._response is not None and self._response.version_info == version:
            return False
        each = (AnyMessage(type_url=self._type_url, value=body) for _, body in sorted(resources.items()))
        self._response = DiscoveryResponse(
            version_info=version, type_url=self._type_url, resources=list(each), nonce=version
        )
        for client in self._clients:
            client.wake.set()
        return True

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    @property
    def is_settled(self) -> bool:
        """Whether a client is there, and all have accepted or refused what was published last."""
        if self._response is None:
            return True
        version = self._response.version_info
        return self.has_clients and all(client.answered == version for client in self._clients)

    async def settled(self) -> None:
        """Return when ``is_settled`` is true."""
        while not self.is_settled:
            await self._changed.wait()

    @asynccontextmanager
    async def listen(self, address: str) -> AsyncGenerator[None]:
        """Let clients connect to a gRPC address.

        Raises:
            OSError: it cannot be listened on.
        """
        server = grpc.aio.server(options=_OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(self._stream, DiscoveryRequest.FromString, encode)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method}),))
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be listened on.") from error
        await server.start()
        try:
            if address.startswith("unix:"):
                Path(address.removeprefix("unix:")).chmod(0o600)  # noqa: ASYNC240 - once
            yield
        finally:
            await server.stop(grace=None)

    async def _stream(self, requests: AsyncIterator[DiscoveryRequest], context: Context) -> None:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        if first.node.id != self._node or first.type_url != self._type_url:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Here is {self._type_url} for the node {self._node!r}; you ask for {first.type_url} as "
                f"{first.node.id[:200]!r}.",
            )
        client = _Client(asyncio.Event())
        self._clients.append(client)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(client, context))
                async for request in requests:
                    self._take(client, request)
                writer.cancel()
        finally:
            self._clients.remove(client)
            self._note_change()

    async def _write(self, client: _Client, context: Context) -> None:
        sent = ""
        before = self._settled
        with suppress(grpc.aio.InternalError):  # the client is gone
            if before is not None and before is not self._response:
                await context.write(before)
            while True:
                client.wake.clear()
                if self._response is not None and self._response.version_info != sent:
                    sent = self._response.version_info
                    await context.write(self._response)
                    continue
                await client.wake.wait()

    def _take(self, client: _Client, request: DiscoveryRequest) -> None:
        if not request.response_nonce:
            return
        if request.HasField("error_detail"):
            _log.error("rate_limits.refused", node=self._node, message=request.error_detail.message)
        else:
            _log.debug("rate_limits.accepted", version=request.version_info)
        client.answered = request.response_nonce
        if self.is_settled:
            self._settled = self._response
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


class _Client(Struct, eq=False):
    """A stream: what wakes its writer, and the version that it has answered last."""

    wake: asyncio.Event
    answered: str = ""
