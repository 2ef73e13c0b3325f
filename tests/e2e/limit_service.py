"""A rate limit service that says what Envoy asks it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoy.type.v3.ratelimit_unit_pb2 import RateLimitUnit

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

Asked = tuple[str, int | None, tuple[tuple[str, str], ...]]
"""The domain, the cost if it is said, and the entries of one descriptor."""


class LimitService(grpc.GenericRpcHandler):
    """Lets all pass, until ``over`` says otherwise.

    Attributes:
        over: whether each request is above its limit.
        asked: each descriptor of each call, oldest first.
        limits: the limits that calls themselves say, as requests and unit, oldest first.
    """

    def __init__(self) -> None:
        self.over = False
        self.asked: list[Asked] = []
        self.limits: list[tuple[int, str]] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != SHOULD_RATE_LIMIT:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._judge, request_deserializer=RateLimitRequest.FromString, response_serializer=encode
        )

    async def _judge(self, request: RateLimitRequest, _context: Any) -> RateLimitResponse:
        code = RateLimitResponse.OVER_LIMIT if self.over else RateLimitResponse.OK
        answer = RateLimitResponse(overall_code=code)
        for descriptor in request.descriptors:
            cost = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None
            entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
            self.asked.append((request.domain, cost, entries))
            if descriptor.HasField("limit"):
                unit = RateLimitUnit.Name(descriptor.limit.unit)
                self.limits.append((descriptor.limit.requests_per_unit, unit))
            status = answer.statuses.add(code=code, limit_remaining=4)
            status.current_limit.requests_per_unit = 5
            status.current_limit.unit = RateLimitResponse.RateLimit.HOUR
            status.duration_until_reset.seconds = 60
        return answer

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncGenerator[LimitService]:
        """Serve at a Unix socket until the block is left."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
