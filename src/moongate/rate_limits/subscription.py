"""The configuration of the service, as it comes from moongate: a state-of-the-world stream of one type.

Envoy's own service asks in the same way, by the same node id. A configuration that cannot be used is refused
as a whole, and the former one stays in force.

Source: xDS protocol, "ACK and NACK semantics summary", in its variant for all resources of a type.
"""

# The stubs of grpcio leave the types of its calls open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc.aio
import structlog
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import DecodeError

from moongate.rate_limits.config import ConfigError, Limits
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig
from moongate.xds.wire import RATE_LIMIT_CONFIG, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_log = structlog.get_logger("moongate.rate_limits")

NODE: Final = "envoy-ratelimit"
"""The node id of a rate limit service."""

_STREAM: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_OPTIONS: Final = (("grpc.max_receive_message_length", -1),)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.5
_INVALID: Final = 3


async def follow(address: str, take: Callable[[Limits], None]) -> None:
    """Hand on each configuration that moongate sends, until cancelled; connect again whenever that is lost.

    Args:
        address: of moongate, as gRPC has it.
        take: is called with each configuration that can be used.
    """
    pause_s, limits = _FIRST_PAUSE_S, None
    while True:
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            call = channel.stream_stream(_STREAM, encode, DiscoveryResponse.FromString)
            answers: asyncio.Queue[DiscoveryRequest] = asyncio.Queue()
            first = DiscoveryRequest(type_url=RATE_LIMIT_CONFIG)
            first.node.id = NODE
            answers.put_nowait(first)
            in_force = ""
            try:
                async for response in call(_each(answers)):
                    pause_s = _FIRST_PAUSE_S
                    answer = DiscoveryRequest(type_url=RATE_LIMIT_CONFIG, response_nonce=response.nonce)
                    try:
                        limits = Limits(_configs(response), limits)
                        take(limits)
                    except (ConfigError, DecodeError) as error:
                        _log.error("refused", message=str(error))
                        answer.error_detail.code = _INVALID
                        answer.error_detail.message = str(error)
                    else:
                        in_force = response.version_info
                    answer.version_info = in_force
                    answers.put_nowait(answer)
            except grpc.aio.AioRpcError as error:
                _log.debug("disconnected", message=error.details())
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _configs(response: DiscoveryResponse) -> list[RateLimitConfig]:
    return [RateLimitConfig.FromString(resource.value) for resource in response.resources]


async def _each(answers: asyncio.Queue[DiscoveryRequest]) -> AsyncIterator[DiscoveryRequest]:
    while True:
        yield await answers.get()
