"""A server and a client of gRPC: their messages are bytes, so no code is generated for them."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
import grpc.aio
from msgspec import Struct

from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

Metadata = dict[str, str]
Context = grpc.aio.ServicerContext[bytes, bytes]
HandlerCallDetails = grpc.HandlerCallDetails


class Call(Struct, frozen=True):
    """A call that reached a server.

    Args:
        method: its path, ``/shop.Cart/Add``.
        metadata: what came with it, in lower case.
    """

    method: str
    metadata: Metadata


class Answered(Struct, frozen=True):
    """What a client got: the messages, what came before them, what came after, and how it ended."""

    messages: list[bytes]
    initial: Metadata
    trailing: Metadata
    code: grpc.StatusCode
    details: str

    @property
    def by(self) -> str | None:
        """Which server answered; ``None`` when Envoy did."""
        return self.initial.get("x-backend")


class GrpcServer(grpc.GenericRpcHandler):
    """A server on loopback that has all methods itself.

    Attributes:
        port: where it listens.
    """

    port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Self]:
        """Serve until the block is left."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)


class CallServer(GrpcServer):
    """Answers each message of any method with itself, once it has come, and a call without any with one.

    Attributes:
        calls: all that reached it, oldest first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Call] = []

    def service(self, handler_call_details: HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method: str = handler_call_details.method
        metadata = {str(key): str(value) for key, value in handler_call_details.invocation_metadata or ()}

        async def answer(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            self.calls.append(Call(method, metadata))
            await context.send_initial_metadata((("x-backend", self.name),))
            context.set_trailing_metadata((("x-said", "goodbye"),))
            if "fail" in metadata:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, metadata["fail"])
            async for message in messages:
                yield message

        return grpc.stream_stream_rpc_method_handler(answer)


@asynccontextmanager
async def calling(port: int, host: str) -> AsyncGenerator[grpc.aio.Channel]:
    """A connection for calls to a host, by way of a gateway."""
    options = (("grpc.default_authority", host), ("grpc.enable_retries", 0))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


def one_message(
    channel: grpc.aio.Channel, method: str, message: bytes, metadata: Sequence[tuple[str, str]] = ()
) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    """A call with one message, which may be answered with many."""
    callee = cast("grpc.aio.UnaryStreamMultiCallable[bytes, bytes]", channel.unary_stream(method))
    return callee(message, metadata=tuple(metadata), timeout=DEADLINE_S)


async def one_each(channel: grpc.aio.Channel, method: str, message: bytes) -> bytes:
    """The message that answers another."""
    callee = cast("grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", channel.unary_unary(method))
    return await callee(message, timeout=DEADLINE_S)


def many_messages(
    channel: grpc.aio.Channel, method: str, *messages: bytes, metadata: Sequence[tuple[str, str]] = ()
) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    """A call with some messages, or with those that are written to it where none are given."""

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    callee = cast("grpc.aio.StreamStreamMultiCallable[bytes, bytes]", channel.stream_stream(method))
    return callee(sent() if messages else None, metadata=tuple(metadata), timeout=DEADLINE_S)


async def call(
    channel: grpc.aio.Channel, method: str, *messages: bytes, metadata: Sequence[tuple[str, str]] = ()
) -> Answered:
    """One call with some messages, to its end."""

    # The client fails if an answer comes while it still streams messages, so a single one is not streamed.
    stream = (
        one_message(channel, method, messages[0], metadata)
        if len(messages) == 1
        else many_messages(channel, method, *messages, metadata=metadata)
    )
    received: list[bytes] = []
    with suppress(grpc.aio.AioRpcError):  # its code says what is wrong
        while isinstance(message := await stream.read(), bytes):
            received.append(message)
    return Answered(
        received,
        as_dict(await stream.initial_metadata()),
        as_dict(await stream.trailing_metadata()),
        await stream.code(),
        await stream.details() or "",
    )


def as_dict(metadata: Any) -> Metadata:
    """Metadata by key."""
    return {str(key): str(value) for key, value in metadata or ()}
