"""Global rate limits of a run: who counts, what is counted, and how much of it is used.

Requests are counted by a service that Envoys ask: a process of ours, which is started when the first limit is
configured, or a service of the user's. Both get the limits over xDS: ours on a Unix socket, another on a port
of this machine.

A route that is limited must not be there before its limit, or requests would pass uncounted. So routes wait
until the service has taken what was published (``enforced``), but no longer than ``ENFORCED_WITHIN_S``. And
until Envoys have the routes, the limits of the former ones count as well (``rate_limits.transition``).

Facts
-----
* where Envoys may outlive moongate, our process does, and goes on with its last configuration; the next
  moongate adopts it, with its counts. What was published is in the folder of the run, so that it counts until
  Envoys have the routes of the next moongate
* our process goes on when the last limit is removed, so that counts are kept while manifests are edited
* a process that counts in memory begins at zero; so a change from Redis to memory, which needs another
  process, does too
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import grpc.aio
import msgspec
import structlog
from google.protobuf.message import DecodeError
from msgspec import Struct

from moongate.ads.sotw import SotwServer
from moongate.infra.journal import Journal
from moongate.infra.ports import PortError
from moongate.infra.rate_limit_process import RateLimitProcess
from moongate.patience import STEPS, Clock, Patience, within
from moongate.rate_limits.config import ConfigError, Limits
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig
from moongate.rate_limits.service import FORMER_S, Report, answered, is_same, reported, unused
from moongate.rate_limits.settings import Redis, Settings, identity
from moongate.rate_limits.subscription import NODE
from moongate.rate_limits.transition import Transition
from moongate.run.pump import run_in_slices, run_slice
from moongate.xds.wire import RATE_LIMIT_CONFIG

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping
    from types import TracebackType

    from moongate.infra.rundir import RunDirectory
    from moongate.rate_limits.transition import Routes

_log = structlog.get_logger("moongate")

CONFIGURATION_PORT: Final = 18001
"""The port at which a service of the user's gets its configuration, unless another one is named."""

ENFORCED_WITHIN_S: Final = 10.0
"""Seconds that routes wait at most for the service."""

_KEPT: Final = "limits"
_READY_WITHIN_S: Final = 10.0
_REPORT_WITHIN_S: Final = 1.0


class ExternalService(Struct, frozen=True, kw_only=True):
    """A rate limit service that is not ours.

    Args:
        address: ``host:port`` at which Envoys ask it.
        configuration_port: the port on loopback at which it gets its configuration.
    """

    address: str
    configuration_port: int = CONFIGURATION_PORT


class RateLimits:
    """An async context manager: inside, limits that are published are enforced.

    Args:
        run: the folder for sockets; the caller has entered it.
        redis: where our service counts; None is in its memory.
        external: a service that Envoys ask instead of ours.
        on_change: called when the state of the service, or ``enforced``, has changed.

    Attributes:
        service: where Envoys ask: the path of a Unix socket, or ``host:port``.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        redis: Redis | None = None,
        external: ExternalService | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._redis = redis
        self._external = external
        self._on_change = on_change
        self._clock = Clock(FORMER_S / STEPS)
        """While we stand still, Envoys do not get their routes."""
        self._transition = Transition(self._clock)
        self._kept: Journal[str, bytes] | None = None
        """What is published, for the next moongate of Envoys that may outlive this one."""
        self._forgetting: asyncio.TimerHandle | None = None
        """Looks again whether former limits are to count."""
        self._merging = False
        """Whether ``publish`` is in the middle of its steps."""
        self._renewal: asyncio.Task[None] | None = None
        """Publishes what is left after some limits are forgotten, if that takes long."""
        self._tasks = asyncio.TaskGroup()
        self._server = SotwServer(RATE_LIMIT_CONFIG, NODE, self._on_answer)
        self._waiting: Patience | None = None
        """Ends the wait for the service to take what was published; None if nobody waits."""
        self._wanted = asyncio.Event()
        self._process: RateLimitProcess | None = None
        self._stack = AsyncExitStack()

    @property
    def service(self) -> str:
        return self._external.address if self._external is not None else str(self._run.service.socket)

    async def __aenter__(self) -> Self:
        """Start no process yet, but go on with one that a former moongate left running.

        Raises:
            PortError: the port for the configuration of an external service is taken.
        """
        async with AsyncExitStack() as stack:
            if self._run.lifeline is not None:
                keeping = self._run.standing(self._run.path / _KEPT, self._keeping)
                await stack.enter_async_context(keeping)
            if self._kept is not None:
                kept = {name: body for name, body in self._kept.entries.items() if _is_usable(body)}
                self._transition = Transition(self._clock, kept)
            if self._external is not None:
                address = f"127.0.0.1:{self._external.configuration_port}"
                try:
                    await stack.enter_async_context(self._server.listen(address))
                except OSError:
                    raise PortError(
                        f"{address}, where the rate limit service is to get its configuration, cannot be "
                        "opened: another program has the port. Name another one with --rate-limit-xds-port."
                    ) from None
            await stack.enter_async_context(self._tasks)
            stack.callback(self._cancel_renewal)
            if self._external is None:
                if self._run.service.running() is not None:
                    self._wanted.set()
                serving = self._tasks.create_task(self._serve(), name="rate limits")
                stack.callback(serving.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, if there is one."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._forgetting is not None:
            self._forgetting.cancel()
        await self._stack.__aexit__(None, None, None)

    def publish(
        self, changes: Mapping[str, bytes | None], edits: Mapping[str, int]
    ) -> Generator[None, None, None]:
        """Enforce other limits, and former ones until ``review`` finds that no Envoy asks by them; in steps.

        Args:
            changes: encoded ``RateLimitConfig`` messages by name; None for one that is gone.
            edits: how many edits each fleet has had before the routes for these limits.
        """
        self._cancel_renewal()
        self._merging = True
        try:
            yield from self._transition.take(changes, edits)
            if self._transition.newest:
                self._wanted.set()
            configs = yield from self._transition.published()
        finally:
            self._merging = False
        differs = self._hand_out(configs)
        # What comes during a wait does not begin it anew: under many changes it would have no end.
        if differs and self._wanted.is_set() and self._waiting is None:
            self._waiting = Patience(ENFORCED_WITHIN_S, self._give_up)
        self._end_wait_if_taken()
        self._forget()

    def review(self, routes: Routes) -> None:
        """Let the newest limits alone be in force once no Envoy asks by former routes. No route waits for it.

        This is to be called after each answer of an Envoy.
        """
        self._transition.review(routes)
        self._forget()

    def _forget(self) -> None:
        if self._merging:
            return  # It is called again when that is done.
        if self._transition.forget():
            self._cancel_renewal()
            steps = self._renew()
            if not run_slice(steps):
                self._renewal = self._tasks.create_task(run_in_slices(steps), name="former rate limits")
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if (until := self._transition.until) is not None:
            self._forgetting = asyncio.get_running_loop().call_later(
                min(until - self._clock(), self._clock.step_s), self._forget
            )

    def _renew(self) -> Generator[None, None, None]:
        configs = yield from self._transition.published()
        self._hand_out(configs)
        self._end_wait_if_taken()
        self._on_change()

    def _hand_out(self, configs: Mapping[str, bytes]) -> bool:
        """Publish this instead of what was published before, and say whether it differs."""
        if self._kept is not None:
            before = self._kept.entries
            names = configs.keys() | before.keys()
            self._kept.put({n: configs.get(n) for n in names if configs.get(n) != before.get(n)})
        return self._server.publish(configs)

    def _cancel_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def enforced(self) -> bool:
        """Whether routes may rely on what was published: the service has it, or does not take it in time."""
        return self._waiting is None

    def _on_answer(self) -> None:
        """A service has come, gone or answered."""
        self._end_wait_if_taken()
        self._on_change()

    def _end_wait_if_taken(self) -> None:
        # A service of the user's may be started later.
        absent = self._external is not None and not self._server.has_clients
        if self._waiting is not None and (absent or self._server.is_settled):
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        _log.error("rate_limits.late", after_s=ENFORCED_WITHIN_S)
        self._on_change()

    def count_in(self, redis: Redis | None) -> None:
        """Count in another Redis, or in memory. Does nothing if it is the same."""
        if redis != self._redis:
            self._redis = redis
            if self._process is not None:
                self._process.take(self._settings())

    async def served(self) -> None:
        """Return when our service enforces what was published; at once, if the service is another's.

        Limits that are raised are waited for, if Envoys have the routes for them.
        """
        if self._wanted.is_set() and self._external is None:
            if (at := self._transition.raised_at) is not None:
                # A timer of the event loop may be a little early.
                while (rest := at - self._clock()) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(min(rest, self._clock.step_s))
                self._forget()
            while self._renewal is not None and not self._renewal.done():
                await asyncio.wait({self._renewal})
            await self._server.settled()

    async def report(self) -> dict[str, Any]:
        """The service, and each limit with its use, as plain data.

        ``used`` is the count of the fullest bucket; it is None where nobody tells it.
        """
        report, trouble = None, ""
        newest = self._transition.newest
        if newest and self._external is None:
            try:
                report = await reported(f"unix:{self.service}", _REPORT_WITHIN_S)
            except (grpc.aio.AioRpcError, TimeoutError):
                trouble = "The rate limit service does not answer."
        limits = Limits(RateLimitConfig.FromString(body) for _, body in sorted(newest.items()))
        if report is None:
            report = Report(limits=tuple(unused(limit) for limit in limits), trouble=trouble)
        # Former limits are nobody's wish any more.
        wanted = {(limit.domain, limit.path) for limit in limits}
        uses = tuple(use for use in report.limits if (use.domain, use.path) in wanted)
        return {"service": self._description(report.trouble), "limits": msgspec.to_builtins(uses)}

    def _description(self, trouble: str) -> dict[str, Any]:
        if self._external is not None:
            if self._transition.newest and not self._server.has_clients:
                trouble = (
                    f"The service at {self._external.address} has not come for its limits, which it is to "
                    f"get from 127.0.0.1:{self._external.configuration_port}."
                )
            return {"address": self._external.address, "trouble": trouble}
        process = self._process
        return {
            "address": self.service,
            "pid": process.pid if process is not None else None,
            "restarts": process.restarts if process is not None else 0,
            "last_end": process.last_end if process is not None else "",
            "counts_in": str(self._redis.address) if self._redis is not None else "memory",
            "trouble": trouble,
        }

    @asynccontextmanager
    async def _keeping(self) -> AsyncGenerator[None]:
        """Keep what is published on the disk, and what was kept before somebody removed the folder."""
        before = self._kept.entries if self._kept is not None else {}
        with Journal[str, bytes](self._run.path / _KEPT, tuple[str, bytes | None]) as kept:
            kept.put(before)
            self._kept = kept
            yield

    async def _serve(self) -> None:
        await self._wanted.wait()
        xds = self._run.socket("limits-xds")
        async with (
            self._run.standing(xds, lambda: self._server.listen(f"unix:{xds}")),
            self._run.standing(self._run.service.socket, self._running),
        ):
            await asyncio.Event().wait()

    def _settings(self) -> bytes:
        at = f"unix:{self._run.socket('limits-xds')}"
        return msgspec.json.encode(Settings(configuration=at, redis=self._redis))

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        settings = self._settings()
        process = RateLimitProcess(
            settings,
            self._run.service,
            lifeline=self._run.lifeline,
            is_same=partial(is_same, f"unix:{self.service}", identity(settings), _REPORT_WITHIN_S),
            answered=partial(answered, f"unix:{self.service}"),
            on_change=self._on_change,
        )
        async with process:
            self._process = process
            try:
                # One that does not start is started again and again; meanwhile its socket is not missed.
                with suppress(TimeoutError):
                    async with within(_READY_WITHIN_S):
                        await process.ready()
                yield
            finally:
                self._process = None
                if self._run.outlived:
                    process.leave()


def _is_usable(kept: bytes) -> bool:
    """Whether limits that a former moongate has kept can count; another version may have other ones."""
    try:
        Limits([RateLimitConfig.FromString(kept)])
    except (ConfigError, DecodeError):
        return False
    return True
