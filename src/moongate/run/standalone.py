"""A gateway that runs on this machine until a signal ends it: what ``moongate run`` starts."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from moongate.attach.gateways import LOCALHOST
from moongate.infra.access_log import AccessLog, can_append
from moongate.infra.envoy_run import CHILDREN
from moongate.infra.orphans import reap_orphans
from moongate.infra.ports import PortError
from moongate.infra.process import EnvoyFailedError
from moongate.infra.signals import has_terminal, is_ignored
from moongate.loading import loading
from moongate.run.laptop import Laptop
from moongate.run.rate_limits import CONFIGURATION_PORT
from moongate.sources.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moongate.api.envoygateway import EnvoyGateway

_log = structlog.get_logger("moongate")

_STDOUT: Final = 1


class LaptopOptions(Struct, frozen=True, kw_only=True):
    """The options of ``moongate run``.

    Args:
        paths: files and folders with manifests; "-" is standard input.
        documents: manifests as text, besides those in ``paths``. Without any path nothing can change, so a
            port that is taken ends the run.
        namespace: of resources that name none.
        config: the EnvoyGateway configuration, instead of the one among the manifests.
        bind: where listeners are opened, as ``Laptop`` has it.
        envoy: the Envoy to run, instead of that of the wheel.
        run_dir: where sockets and other files of the run go.
        keep_envoys: whether Envoys go on serving when this ends.
        state_dir: the folder for what is in force, as ``Laptop`` has it.
        access_log: whether there is an access log on standard output if no EnvoyProxy says anything about it.
        redis: the address of the Redis that counts requests, as ``Laptop`` has it.
        rate_limit_service: ``host:port`` of a rate limit service, instead of our own.
        rate_limit_xds_port: the port at which that gets its configuration.
        permissive: whether routes are served though a document that may be a security policy cannot be read.
    """

    paths: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    namespace: str = "default"
    config: EnvoyGateway | None = None
    bind: str = LOCALHOST
    envoy: Path | None = None
    run_dir: Path | None = None
    access_log: bool = True
    permissive: bool = False
    keep_envoys: bool = False
    state_dir: Path | None = None
    redis: str | None = None
    rate_limit_service: str | None = None
    rate_limit_xds_port: int = CONFIGURATION_PORT


async def run_laptop(
    options: LaptopOptions, *, served: Callable[[Laptop], None] = lambda _laptop: None
) -> None:
    """Run a gateway on this machine until a signal ends it.

    SIGINT and SIGTERM drain the Envoys, a second one ends them at once. SIGHUP does the same if it comes from
    a terminal that is closed; without a terminal, it reads all files again.

    Args:
        options: what to serve, and how.
        served: called once, when the Envoys have what the manifests say.

    Raises:
        PortError: a port cannot be had, and there is no path whose change could mend it.
        EnvoyMissingError, EnvoyFailedError, NoRunDirectoryError: the machine lacks what is needed to start.
    """
    signals = _Signals()
    # The handlers are there before anything that must be cleaned up, and until it is.
    signals.handle()
    with AccessLog() as access_log:
        async with Laptop(
            config=options.config,
            namespace=options.namespace,
            bind=options.bind,
            envoy=options.envoy,
            run_dir=options.run_dir,
            keep_envoys=options.keep_envoys,
            state_dir=options.state_dir,
            # An Envoy that outlives us would write to our file also when the next moongate has another.
            access_log=_STDOUT if not options.keep_envoys and can_append(_STDOUT) else access_log.write,
            default_access_log=options.access_log,
            redis=options.redis,
            rate_limit_service=options.rate_limit_service,
            rate_limit_xds_port=options.rate_limit_xds_port,
        ) as running:
            signals.skip_drain = running.skip_drain
            await _serve(running, options, signals, served)
    _log.info("gateway.stopped")


class _Signals:
    """What signals ask for: to end, to end at once, to read all files again."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reread = asyncio.Event()
        self.skip_drain: Callable[[], None] = lambda: None

    def handle(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        if not is_ignored(signal.SIGHUP):
            loop.add_signal_handler(signal.SIGHUP, self._end if has_terminal() else self.reread.set)

        if os.getpid() == 1:
            loop.add_signal_handler(signal.SIGCHLD, reap_orphans, CHILDREN)

    def _end(self) -> None:
        if self.stop.is_set():
            self.skip_drain()
        else:
            _log.info("gateway.stopping")
            self.stop.set()


async def _serve(
    running: Laptop, options: LaptopOptions, signals: _Signals, served: Callable[[Laptop], None]
) -> None:
    for n, text in enumerate(options.documents):
        running.take_text(f"<document {n + 1}>", text)
    async with asyncio.TaskGroup() as tasks:
        jobs = [tasks.create_task(_announce(running, served))]
        if options.paths:
            jobs.append(tasks.create_task(_follow(running, options, signals.reread)))
        failed = tasks.create_task(running.failed(ports=not options.paths))
        stopped = tasks.create_task(signals.stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*jobs, failed, stopped):
            task.cancel()
    if not failed.cancelled():
        raise failed.result()


async def _follow(running: Laptop, options: LaptopOptions, reread: asyncio.Event) -> None:
    """Put the manifests of files in force, and read all of them again when asked to, until cancelled."""
    files = Files(options.paths, namespace=options.namespace, permissive=options.permissive)
    while True:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(running.follow(files))
            await reread.wait()
            reread.clear()
            _log.info("files.reread")
            following.cancel()


async def _announce(running: Laptop, served: Callable[[Laptop], None]) -> None:
    with loading():
        await running.loaded.wait()
        # An Envoy that cannot be started, and a port that cannot be opened, are in the statuses.
        with suppress(TimeoutError, EnvoyFailedError, PortError):
            await running.served(timeout_s=60)
    served(running)
    await running.end_left_over()
