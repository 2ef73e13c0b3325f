"""``RateLimitService``: says for each request whether it is over a limit, as Envoy asks it over gRPC.

It answers like Envoy's own service: to each descriptor with its limit, what remains of it and when its window
ends. Two methods are ours: one reports the use of each limit, the other tells a later moongate whether this
is the service that it would start.

Facts
-----
* a request is counted in all its buckets, also where one of them is over its limit already
* what cannot be counted is answered with an error, and Envoy lets the request pass or refuses it by its
  ``failure_mode_deny``. That is also so until the first configuration has come
* an Envoy has its new routes a little later than we have their limits. So for ``FORMER_S`` seconds a
  descriptor without a limit has that of a former configuration: nothing passes that both refuse. Former
  configurations are joined, however many come, as limits of others change as well
* the values of buckets may be secrets, such as API keys, so reports do not have them
"""

# The stubs of grpcio leave the types of its handler factories open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from time import time  # noqa: TID251 - windows are aligned to the clock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import grpc
import grpc.aio
import msgspec
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from msgspec import Struct, structs

from moongate.patience import within
from moongate.rate_limits.config import Limit, Limits
from moongate.rate_limits.counters import CountersError, Hit
from moongate.rate_limits.requests import request_of
from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from moongate.rate_limits.counters import Counters

    Context: TypeAlias = grpc.aio.ServicerContext[RateLimitRequest, RateLimitResponse]

SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
REPORT: Final = "moongate.RateLimits"
"""The gRPC service for moongate: ``Report`` is the use of limits, ``Is`` compares the settings."""

_OPTIONS: Final = (("grpc.max_connection_age_ms", 3_000), ("grpc.max_connection_age_grace_ms", 3_000))
"""Envoys connect anew from time to time, without losing a request: so they move to the process that has taken
the place of this one, before this one ends."""

END_WITHIN_S: Final = 1.0
"""Seconds for answers that are under way when the service is to end."""

_ASK_TIMES: Final = 3
_ASK_AGAIN_S: Final = 0.1

FORMER_S: Final = 60.0
"""Seconds in which the limits of a former configuration count that the newest does not have; at most twice
as many, while others come."""

_Code = RateLimitResponse.Code
_Status = RateLimitResponse.DescriptorStatus
_MOST = (1 << 32) - 1


class Use(Struct, frozen=True, kw_only=True):
    """How much of a limit is used in the current window.

    Args:
        domain: of the limit.
        path: the keys and values of its descriptors, from the top.
        requests: how many one bucket may have.
        unit: of the window, such as ``MINUTE``.
        shadow: whether requests over the limit pass.
        buckets: how many buckets have been counted in; more than one only where each value has its own.
        used: the count of the fullest of them, which goes on beyond the limit; None if nobody knows.
        reset_s: seconds until the window ends; None if nobody knows.
    """

    domain: str
    path: tuple[tuple[str, str], ...]
    requests: int
    unit: str
    shadow: bool
    buckets: int | None
    used: int | None
    reset_s: int | None


class Report(Struct, frozen=True, kw_only=True):
    """What the service knows: the use of each limit, and why nothing can be counted now, or ""."""

    limits: tuple[Use, ...]
    trouble: str


class _Former(NamedTuple):
    """Former configurations, of which newer ones come first.

    Args:
        limits: theirs.
        since: the oldest of them is former since this time.
        until: when they do not count any more.
    """

    limits: Limits
    since: float
    until: float


class RateLimitService:
    """The service, without its transport.

    Args:
        counters: where requests are counted.
        clock: the time, in seconds since 1970.

    Attributes:
        limits: the configuration in force; None until there is one.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float] = time) -> None:
        self.limits: Limits | None = None
        self._former: list[_Former] = []
        """The newest first, and not more than two."""
        self._counters = counters
        self._clock = clock

    def take(self, limits: Limits) -> None:
        """Let another configuration be in force."""
        now = self._clock()
        self._forget(now)
        if self.limits is not None:
            if self._former and now < self._former[0].since + FORMER_S:
                joined = self._former.pop(0)
                former = _Former(self.limits.over(joined.limits), joined.since, now + FORMER_S)
            else:
                former = _Former(self.limits, now, now + FORMER_S)
            self._former.insert(0, former)
        self.limits = limits

    async def answer(self, request: RateLimitRequest) -> RateLimitResponse:
        """Count a request, and say whether it is over a limit.

        Raises:
            CountersError: it may not have been counted.
        """
        if self.limits is None:
            raise CountersError("No configuration of rate limits has come yet.")
        if not request.domain or not request.descriptors:
            raise CountersError("A request needs a domain and descriptors.")
        now = self._clock()
        self._forget(now)
        former = [each.limits for each in self._former]
        limits = self.limits.matching(request.domain, request.descriptors, former)
        hits: list[Hit] = []
        for limit, descriptor in zip(limits, request.descriptors, strict=True):
            if limit is None or limit.unlimited:
                continue
            added = (
                descriptor.hits_addend.value
                if descriptor.HasField("hits_addend")
                else max(1, request.hits_addend)
            )
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            hits.append(Hit(limit, limit.bucket(entries, now), limit.ends(now), added))
        counts = iter(await self._counters.add(hits) if hits else ())
        statuses = [self._status(limit, counts, now) for limit in limits]
        over = any(status.code == _Code.OVER_LIMIT for status in statuses)
        return RateLimitResponse(overall_code=_Code.OVER_LIMIT if over else _Code.OK, statuses=statuses)

    def report(self) -> Report:
        """The use of each limit that is configured, in the order of the configuration."""
        now = self._clock()
        used: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        for bucket in self._counters.buckets:
            if bucket.ends > now:
                used.setdefault((bucket.limit.domain, bucket.limit.path), []).append(bucket.used)
        uses = (_use(limit, used.get((limit.domain, limit.path), ()), now) for limit in self.limits or ())
        return Report(limits=tuple(uses), trouble=self._counters.trouble)

    def _forget(self, now: float) -> None:
        while self._former and self._former[-1].until <= now:
            self._former.pop()

    def _status(self, limit: Limit | None, counts: Any, now: float) -> RateLimitResponse.DescriptorStatus:
        if limit is None:
            return _Status(code=_Code.OK)
        if limit.unlimited:
            return _Status(code=_Code.OK, limit_remaining=_MOST)
        used = next(counts)
        over = used > limit.requests
        status = _Status(
            code=_Code.OVER_LIMIT if over and not limit.shadow else _Code.OK,
            limit_remaining=0 if over else limit.requests - used,
        )
        status.current_limit.requests_per_unit = limit.requests
        status.current_limit.unit = limit.unit  # pyright: ignore[reportAttributeAccessIssue] - a number of it
        if limit.name:
            status.current_limit.name = limit.name
        status.duration_until_reset.seconds = limit.ends(now) - int(now)
        return status

    @asynccontextmanager
    async def listening(self, address: str, identity: bytes = b"") -> AsyncGenerator[None]:
        """Answer at a gRPC address, such as ``unix:/run/limits.sock``.

        Args:
            address: where.
            identity: the settings with which it was started; they may be secret, so it only compares them.

        Raises:
            OSError: it cannot be listened on.
        """

        async def ask(request: RateLimitRequest, context: Context) -> RateLimitResponse:
            try:
                return await self.answer(request)
            except CountersError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

        async def report(_request: bytes, _context: object) -> bytes:
            return msgspec.json.encode(self.report())

        async def is_it(other: bytes, _context: object) -> bytes:
            return msgspec.json.encode(other == identity)

        server = grpc.aio.server(options=_OPTIONS)
        asked = grpc.unary_unary_rpc_method_handler(ask, request_of, encode)
        ours = {"Report": report, "Is": is_it}
        of_ours = {name: grpc.unary_unary_rpc_method_handler(m, None, None) for name, m in ours.items()}
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": asked}),
                grpc.method_handlers_generic_handler(REPORT, of_ours),
            )
        )
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be listened on.") from error
        await server.start()
        try:
            yield
        finally:
            await server.stop(END_WITHIN_S)


async def is_same(address: str, identity: bytes, timeout_s: float) -> bool:
    """Whether the service at a gRPC address answers, and was started with these settings.

    Who stands still may not hear an answer that came in time. So it is asked again before it is given up.
    """
    for _ in range(_ASK_TIMES):
        with suppress(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(address) as channel:
                return await channel.unary_unary(f"/{REPORT}/Is")(identity, timeout=timeout_s) == b"true"
    return False


async def answered(address: str) -> None:
    """Return when the service at a gRPC address has answered a question."""
    # A connection of its own: another one may still lead to a service that was there before.
    options = [("grpc.use_local_subchannel_pool", 1)]
    while True:
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            with suppress(grpc.aio.AioRpcError):
                await channel.unary_unary(f"/{REPORT}/Is")(b"", wait_for_ready=True)
                return
        await asyncio.sleep(_ASK_AGAIN_S)


async def reported(address: str, timeout_s: float) -> Report:
    """The report of a service at a gRPC address.

    Raises:
        grpc.aio.AioRpcError: it is not there.
        TimeoutError: it does not answer in time.
    """
    async with within(timeout_s), grpc.aio.insecure_channel(address) as channel:
        return msgspec.json.decode(await channel.unary_unary(f"/{REPORT}/Report")(b""), type=Report)


def unused(limit: Limit) -> Use:
    """A limit of which nobody knows how much is used."""
    return Use(
        domain=limit.domain,
        path=limit.path,
        requests=limit.requests,
        unit=RateLimitResponse.RateLimit.Unit.Name(limit.unit),  # pyright: ignore[reportArgumentType]
        shadow=limit.shadow,
        buckets=None,
        used=None,
        reset_s=None,
    )


def _use(limit: Limit, counts: Sequence[int], now: float) -> Use:
    return structs.replace(
        unused(limit),
        buckets=len(counts),
        used=max(counts, default=0),
        reset_s=limit.ends(now) - int(now),
    )
