"""Wiring: the one module that knows every part. ``Laptop`` is a gateway of this process; ``laptop`` runs one.

Theory of operation
===================
Batches come in from the files (or from ``Laptop.apply``), differences go out to the ADS server, and one
Envoy runs per Gateway. Between the two is the *pump*: it settles the world in slices of a few milliseconds,
giving way to the event loop in between and sending endpoints that changed meanwhile at once; when all is
settled it hands out what differs. Facts come back from the Envoys: they are laid over the statuses, and a
route that was refused goes into quarantine.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from time import perf_counter, time  # noqa: TID251 - certificates have dates
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog
from msgspec import Struct

from moongate.api.admission import admit
from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.certificates import NOW
from moongate.attach.gateways import BIND, LOCALHOST, laptop_class
from moongate.fleets import Fleets
from moongate.infra.access_log import AccessLog
from moongate.infra.binary import envoy_binary
from moongate.infra.ports import PortError
from moongate.infra.rundir import RunDirectory
from moongate.kinds import KINDS, ref_of
from moongate.report.statuses import Statuses
from moongate.run_log import RunLog
from moongate.sources.files import Files
from moongate.sources.folder import Folder
from moongate.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from moongate.sources.folder import Finding
    from moongate.world import Changes

_log = structlog.get_logger("moongate")

SLICE_S = 0.003
"""Seconds that the world is settled before the event loop has its turn.

News that pass through several callbacks wait as often, so it is short beside what an endpoint may wait.
"""

REPORTED_AT_ONCE = 100
"""Resources of a report that are encoded before the event loop has its turn: some milliseconds."""


class LaptopOptions(Struct, frozen=True, kw_only=True):
    """What ``moongate run`` can be told.

    Args:
        paths: files and folders with manifests; "-" is standard input.
        documents: manifests as text, besides those in ``paths``. Without any path nothing can change, so a
            port that is taken ends the run.
        namespace: of resources that name none.
        config: the EnvoyGateway configuration, instead of the one among the manifests.
        bind: where listeners are opened, as ``Laptop`` has it.
        envoy: the Envoy to run, instead of that of the wheel.
        run_dir: where sockets and other files of the run go.
    """

    paths: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    namespace: str = "default"
    config: EnvoyGateway | None = None
    bind: str = LOCALHOST
    envoy: Path | None = None
    run_dir: Path | None = None


class ManifestError(ValueError):
    """Manifests that cannot be put in force; the message says for each where and why."""


async def laptop(options: LaptopOptions, *, served: Callable[[Laptop], None] = lambda _laptop: None) -> None:
    """Run a gateway on this machine until it is told to stop (SIGINT, SIGTERM).

    Args:
        options: what to serve, and how.
        served: called once, when the Envoys have what the manifests say.

    Raises:
        PortError: a port cannot be had, and there is no path whose change could mend it.
        EnvoyMissingError, EnvoyFailedError, NoRunDirectoryError: the machine lacks what is needed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with AccessLog() as access_log:
        async with Laptop(
            config=options.config,
            namespace=options.namespace,
            bind=options.bind,
            envoy=options.envoy,
            run_dir=options.run_dir,
            access_log=access_log.write,
        ) as running:

            def told_to_stop() -> None:
                if stop.is_set():
                    running.hurry()
                else:
                    _log.info("gateway.stopping")
                    stop.set()

            # The handlers stay until the Envoys are gone: a second signal hurries.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, told_to_stop)
            await _serve(running, options, stop, served)
    _log.info("gateway.stopped")


async def _serve(
    running: Laptop, options: LaptopOptions, stop: asyncio.Event, served: Callable[[Laptop], None]
) -> None:
    for n, text in enumerate(options.documents):
        running.take_text(f"<document {n + 1}>", text)
    async with asyncio.TaskGroup() as tasks:
        jobs = [tasks.create_task(_announce(running, served))]
        if options.paths:
            jobs.append(tasks.create_task(running.follow(Files(options.paths, namespace=options.namespace))))
        failed = tasks.create_task(running.failed(ports=not options.paths))
        stopped = tasks.create_task(stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*jobs, failed, stopped):
            task.cancel()
    if not failed.cancelled():
        raise failed.result()


async def _announce(running: Laptop, served: Callable[[Laptop], None]) -> None:
    with loading():
        await running.loaded.wait()
        with suppress(TimeoutError):
            await running.served(timeout_s=60)
    served(running)


@contextmanager
def loading() -> Generator[None]:
    """Keep the garbage collector from what the first load makes: it lives as long as the process.

    To look through it again and again while it grows is a third of the time of a load of thousands of routes.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
        gc.freeze()
    finally:
        gc.set_threshold(*before)


class Laptop:
    """A gateway of this process: an async context manager, for tests and for ``laptop``.

    Args:
        config: the EnvoyGateway configuration; when ``None``, the one among the manifests that are followed,
            or else the one that moongate ships. Its ``provider`` has no meaning here.
        namespace: of resources that name none.
        bind: where listeners are opened: an IP address, ``0.0.0.0`` for all interfaces; or ``localhost`` for
            this machine alone, unless a Gateway's ``spec.addresses`` say otherwise.
        envoy: the Envoy to run, instead of that of the wheel.
        run_dir: where sockets and other files go.
        access_log: takes Envoy's access log, whole lines; must not block.

    ``loaded`` is set once the first manifests are in force in the core.
    """

    def __init__(
        self,
        *,
        config: EnvoyGateway | None = None,
        namespace: str = "default",
        bind: str = LOCALHOST,
        envoy: Path | None = None,
        run_dir: Path | None = None,
        access_log: Callable[[bytes], None] = lambda _lines: None,
    ) -> None:
        self.loaded = asyncio.Event()
        self._given = config
        shipped = (config or EnvoyGateway.shipped()).on_host()
        self._namespace = namespace
        self.world = World(shipped, perf_counter)
        self.world.write(BIND, bind)
        self.statuses = Statuses(self.world.store.held())
        self._log = RunLog(self.world.store.held())
        self._run = RunDirectory(run_dir)
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._applied = self._published = self._corrected = self._turns = 0
        self._turning = False
        self.fleets = Fleets(
            self.world,
            self._run,
            binary=envoy_binary(envoy),
            access_log=access_log,
            moved=self._wake.set,
            wrote=self._corrects,
        )
        built_in = laptop_class(shipped)
        self._base: dict[Ref, Resource] = {built_in.ref: built_in}
        self._texts = Folder(namespace=namespace)
        self._log.places_from(self._texts)
        self._stack = AsyncExitStack()
        self.slices = 0

    async def __aenter__(self) -> Self:
        """Begin to serve; what is served comes by ``apply``, ``take_text`` or ``follow``."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._run)
            server = await asyncio.start_unix_server(self._tell_status, self._run.socket("status"))
            self._run.socket("status").chmod(0o600)
            stack.push_async_callback(_close, server)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            pump = tasks.create_task(self._pump(), name="pump")
            stack.callback(pump.cancel)
            await stack.enter_async_context(self.fleets)
            self._stack = stack.pop_all()
        self.put(dict(self._base))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and end the Envoys, and leave nothing behind."""
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # The group of our tasks wraps also what was raised in the block; that is raised as it was.
            if group.exceptions != (error,):
                raise

    # -- in -----------------------------------------------------------------

    async def apply(self, manifests: str | Iterable[Mapping[str, Any]], *, timeout_s: float = 15) -> None:
        """Put manifests in force, and return when every Envoy has acknowledged them.

        Args:
            manifests: YAML or JSON text, or parsed documents. They are added to those in force; a resource
                that was there before is replaced.
            timeout_s: seconds to wait at the most.

        Raises:
            ManifestError: some cannot be put in force; none is then.
            TimeoutError: the Envoys have not acknowledged in time.
        """
        self.put(self._admitted(manifests))
        await self.served(timeout_s=timeout_s)

    async def delete(self, *refs: Ref, timeout_s: float = 15) -> None:
        """Take resources out of force, and return when every Envoy has acknowledged it."""
        self.put(dict.fromkeys(refs))
        await self.served(timeout_s=timeout_s)

    def put(self, batch: Mapping[Ref, Resource | None]) -> None:
        """Put a batch in force; returns at once."""
        given = {ref: self._base.get(ref) if new is None else new for ref, new in batch.items()}
        if any(ref.is_a(Secret) for ref in given):
            # Certificates are judged when they come. One that expires later stays in force: a warning in a
            # browser is better than a closed port.
            self.world.write(NOW, int(time()))
        if self.world.apply(given):
            self._wrote()

    def take_text(self, name: str, text: str) -> None:
        """Put the manifests of a text in force; what is wrong with it is told, as it is of a file."""
        batch = self._texts.update(name, text)
        self._log.faults("text", self._texts.findings())
        self.put(batch)
        self.loaded.set()

    async def follow(self, files: Files) -> None:
        """Put the manifests of files in force, and whatever they become, until cancelled."""
        self._log.places_from(files.folder)
        async for loaded in files.watch():
            self._log.faults("files", loaded.findings)
            config = self._given or loaded.configuration or EnvoyGateway.shipped()
            if self.world.configure(config.on_host()):
                self._wrote()
            self.put(loaded.batch)
            self._log.loaded(loaded.batch, files=len(loaded.files), resources=len(files.folder))
            self.loaded.set()

    # -- out ----------------------------------------------------------------

    async def served(self, *, timeout_s: float = 15) -> None:
        """Return when every Envoy has acknowledged all that was put in force before the call.

        What Envoy refused counts as acknowledged; see ``refusals`` and the statuses.

        Raises:
            TimeoutError: not in time.
            EnvoyFailedError: an Envoy cannot run.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                # What others put in force meanwhile is not waited for, but what comes of Envoy's answers is.
                applied, corrected = self._applied, self._corrected
                await self._until(partial(self._has_published, applied))
                await self.fleets.served()
                # The pump has still to see those answers; a turn that began before them does not.
                await self._until(
                    partial(self._has_turned, self._turns + self._turning + self._wake.is_set())
                )
                if self._corrected == corrected:
                    return

    def _has_published(self, applied: int) -> bool:
        return self._published >= applied

    def _has_turned(self, turns: int) -> bool:
        return self._turns >= turns

    async def failed(self, *, ports: bool = False) -> Exception:
        """Why this cannot go on, once it cannot: ``EnvoyFailedError``.

        Args:
            ports: whether a port that cannot be bound is a reason, too: ``PortError``.
        """
        found: list[Exception] = []

        def has_failed() -> bool:
            if (failure := self.fleets.failure()) is not None:
                found.append(failure)
            elif ports and (unbound := self.fleets.unbound()):
                found.append(PortError(" ".join(unbound)))
            return bool(found)

        await self._until(has_failed)
        return found[0]

    def urls(self) -> tuple[str, ...]:
        """Where the listeners that Envoys have in force can be asked on this machine."""
        return self.fleets.urls()

    def findings(self) -> tuple[Finding, ...]:
        """What there is to tell about manifests."""
        return self._log.findings()

    def hurry(self) -> None:
        """Let a drain that is under way, or is to come, end at once."""
        self.fleets.hurry()

    def report(self) -> dict[str, Any]:
        """All that ``moongate status`` shows, as plain data."""
        return {**self._report(), "resources": [self._described(d) for d in self.statuses.documents()]}

    def _report(self) -> dict[str, Any]:
        """The report without its resources, which may be thousands."""
        return {
            "version": 1,
            "gateways": self.fleets.report(),
            "findings": [str(f) for f in self.findings() if f.severity != "info"],
            "rejections": [msgspec.to_builtins(r) for r in self.fleets.rejections()],
            "failures": [
                {"query": f.query, "args": f.args, "id": f.id, "error": f.error}
                for f in self.world.failures().values()
            ],
            "figures": self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        """Counts for metrics and benchmarks: runs and seconds by query, what was sent by type."""
        return {
            "runs": dict(self.world.db.counts),
            "seconds": dict(self.world.db.seconds),
            "nodes": len(self.world.db),
            "sent": {t: msgspec.to_builtins(counters) for t, counters in self.fleets.counters.items()},
        }

    # -- the pump -----------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._turning = True
            others = self.world.settle()
            while True:
                # Each has a slice of its own: endpoints wait for no one, and a flood of them stops no one.
                _go_on(self.world.settle(urgent=True))
                self.fleets.publish(self.world.take(urgent=True))
                if _go_on(others):
                    break
                self.slices += 1
                # What thousands of queries make lives long. To look through all of it would take 0.1 s and
                # more at a time, so each slice's share is looked through once, and then never again.
                gc.collect(1)
                gc.freeze()
                await asyncio.sleep(0)
            applied = self._applied  # all of it is settled, but for endpoints if they come as a flood
            self._publish(self.world.take())
            self._observe_facts()
            if self.world.settled:
                self._published = applied
            else:
                self._wake.set()
            self._turns += 1
            self._turning = False
            self._moved.set()
            await asyncio.sleep(0)

    def _corrects(self) -> None:
        """What an Envoy answered was written into cells."""
        self._corrected += 1
        self._wrote()

    def _wrote(self) -> None:
        """Something was written into cells: the world is to be settled."""
        self._applied += 1
        self._wake.set()

    def _publish(self, changes: Changes) -> None:
        self.fleets.publish(changes)
        if changes.statuses:
            self.statuses.update(changes.statuses)
        self._log.failures(self.world.failures().values())

    def _observe_facts(self) -> None:
        self.fleets.look()
        self.statuses.observe(self.fleets.facts(), self.fleets.refusals())
        self._log.transitions(self.statuses.transitions())
        self._log.serving(self.urls())

    async def _until(self, claim: Callable[[], bool]) -> None:
        while not claim():
            self._moved.clear()
            await self._moved.wait()

    # -- what is told -------------------------------------------------------

    def _admitted(self, manifests: str | Iterable[Mapping[str, Any]]) -> dict[Ref, Resource | None]:
        if isinstance(manifests, str):
            folder = Folder(namespace=self._namespace)
            batch = folder.update("<manifests>", manifests)
            faults = [str(f) for f in folder.findings() if f.severity == "error"]
            if faults:
                raise ManifestError("\n".join(faults))
            return batch
        found: dict[Ref, Resource | None] = {}
        problems: list[str] = []
        for document in manifests:
            admission = admit(document, KINDS, namespace=self._namespace)
            problems += [f"{document.get('kind')}: {p.path}: {p.message}" for p in admission.problems]
            if admission.resource is not None:
                found[admission.resource.ref] = admission.resource
        if problems:
            raise ManifestError("\n".join(problems))
        return found

    def _described(self, document: dict[str, Any]) -> dict[str, Any]:
        """A status with the part of the spec that a table shows beside it."""
        metadata = document["metadata"]
        ref = ref_of(document["kind"], metadata.get("namespace", ""), metadata["name"])
        resource = self.world.store.held().get(ref)
        spec = getattr(resource, "spec", None)
        return document if spec is None else {**document, "spec": msgspec.to_builtins(spec)}

    async def _tell_status(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for part in self.encoded_report():
                writer.write(part)
                await writer.drain()
                # An empty buffer drains without giving way.
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

    def encoded_report(self) -> Iterator[bytes]:
        """``report`` as JSON, in parts that take some milliseconds each: endpoints do not wait for it."""
        yield msgspec.json.encode(self._report()).removesuffix(b"}") + b',"resources":['
        comma = b""
        documents = self.statuses.documents()
        for n in range(0, len(documents), REPORTED_AT_ONCE):
            some = documents[n : n + REPORTED_AT_ONCE]
            encoded = msgspec.json.encode([self._described(d) for d in some])
            yield comma + encoded[1:-1]
            comma = b","
        yield b"]}"


def _go_on(steps: Iterator[None]) -> bool:
    """Take steps for a slice. True if there are no more."""
    end = perf_counter() + SLICE_S
    return not any(perf_counter() > end for _ in steps)


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()
