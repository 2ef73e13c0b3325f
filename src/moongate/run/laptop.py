"""``Laptop``: a gateway of this process; it takes manifests, and runs an Envoy for each Gateway."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from functools import partial
from time import perf_counter, time  # noqa: TID251 - certificates have dates
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
from msgspec import structs

from moongate.api.admission import admit
from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import GatewayClass
from moongate.attach.backends import has_slices
from moongate.attach.certificates import NOW
from moongate.attach.gateways import BIND, LOCALHOST, controller_name, laptop_class
from moongate.fleets import Fleets
from moongate.infra.binary import envoy_binary
from moongate.infra.ports import PortError
from moongate.infra.rundir import RunDirectory
from moongate.kinds import KINDS
from moongate.problem import Problem
from moongate.report.statuses import Statuses
from moongate.run.log import RunLog
from moongate.run.pump import Outlet, Pump
from moongate.run.status_socket import StatusReport, status_socket
from moongate.sources.folder import Folder
from moongate.sources.manifests import CONFIGURATION
from moongate.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from moongate.sources.diagnostics import Diagnostic
    from moongate.sources.files import Files, Loaded
    from moongate.world import Changes


_log = structlog.get_logger("moongate")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Seconds until files are read again whose reading failed."""


class ManifestError(ValueError):
    """Manifests that cannot be put in force; the message says for each where and why."""


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
        self._config = config
        shipped = (config or EnvoyGateway.shipped()).on_host()
        self._flags = shipped.runtime_flags
        self._flags_last = False
        """Whether resources are in force by the flags, so that not all of these can change any more."""
        self._namespace = namespace
        self.world = World(shipped, perf_counter)
        self.world.write(BIND, bind)
        self.statuses = Statuses(self.world.store.held())
        self._log = RunLog(
            self.world.store.held(),
            partial(has_slices, self.world.db),
            partial(controller_name, self.world.db),
        )
        self._run = RunDirectory(run_dir)
        self._pump = Pump(self.world)
        self.fleets = Fleets(
            self.world,
            self._run,
            binary=envoy_binary(envoy),
            access_log=access_log,
            on_change=self._pump.wake,
            on_write=self._pump.on_answer,
        )
        built_in = laptop_class(shipped)
        self._base: dict[Ref, Resource] = {built_in.ref: built_in}
        self._texts = Folder(namespace=namespace)
        self._log.places_from(self._texts)
        self._stack = AsyncExitStack()
        self.status = StatusReport(self.world, self.fleets, self.statuses, self._log)

    async def __aenter__(self) -> Self:
        """Begin to serve; what is served comes by ``apply``, ``take_text`` or ``follow``."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._run)
            await stack.enter_async_context(status_socket(self._run.socket("status"), self.status))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            outlet = Outlet(self.fleets.publish, self._publish, self._observe)
            pump = tasks.create_task(self._pump.run(outlet), name="pump")
            stack.callback(pump.cancel)
            await stack.enter_async_context(self.fleets)
            self._stack = stack.pop_all()
        self._put(dict(self._base))
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
        self._flags_last = True
        self._put(batch)

    def _put(self, batch: Mapping[Ref, Resource | None]) -> None:
        changes = {ref: self._base.get(ref) if new is None else new for ref, new in batch.items()}
        if any(ref.is_a(Secret) for ref in changes):
            # Certificates are judged when they come. One that expires later stays in force: a warning in a
            # browser is better than a closed port.
            self.world.write(NOW, int(time()))
        if self.world.apply(changes):
            self._pump.on_write()

    def take_text(self, name: str, text: str) -> None:
        """Put the manifests of a text in force; their faults are logged, as those of a file are."""
        batch = self._texts.update(name, text)
        self._log.faults("text", self._texts.diagnostics())
        # Files that are followed besides may still bring the configuration to begin with.
        self._put(batch)
        self.loaded.set()

    async def follow(self, files: Files) -> None:
        """Put the manifests of files in force, and whatever they become, until cancelled.

        What goes wrong there is no reason to stop: what is in force stays so, and all is read again.
        """
        self._log.places_from(files.folder)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with aclosing(files.watch()) as news:
                    async for loaded in news:
                        self._load(loaded, files)
                        pause_s = FIRST_PAUSE_S
            except Exception:  # noqa: BLE001 - whatever it is, the Envoys serve
                _log.exception("files.failed", retry_in_s=pause_s)
            else:
                return  # Nothing that was read can change.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _load(self, loaded: Loaded, files: Files) -> None:
        config = self._config or loaded.configuration or EnvoyGateway.shipped()
        config, late = self._with_lasting_flags(config)
        if self.world.configure(config.on_host()):
            self._pump.on_write()
            self._rename_controller(config.gateway.controller_name)
        # In force first: whatever becomes of the log, these changes are not reported again.
        self.put(loaded.batch)
        self.loaded.set()
        self._log.faults("files", (*loaded.diagnostics, *late))
        self._log.loaded(loaded.batch, files=len(loaded.files), resources=len(files.folder))

    def _with_lasting_flags(self, config: EnvoyGateway) -> tuple[EnvoyGateway, tuple[Diagnostic, ...]]:
        """The configuration with the flags that moongate began with, and what is to be said of that."""
        flags, late = config.runtime_flags, ()
        if self._flags_last:
            flags, late = flags.lasting(self._flags)
        self._flags = flags
        if not late:
            return config, ()
        problem = Problem(
            "runtimeFlags",
            f"{', '.join(late)} cannot be switched while moongate runs, because open connections go by it:"
            " end moongate and start it again. The rest of the configuration is in force.",
        )
        return (
            structs.replace(config, runtime_flags=flags),
            (self._log.diagnostic(CONFIGURATION, problem, "warning"),),
        )

    def _rename_controller(self, name: str) -> None:
        """Let the class that is there without being defined be of this controller, whatever its name."""
        for ref, before in self._base.items():
            assert isinstance(before, GatewayClass), "it is the only resource of a laptop"
            built_in = structs.replace(before, spec=structs.replace(before.spec, controller_name=name))
            self._base[ref] = built_in
            if self.world.store.held().get(ref) == before:
                self.put({ref: built_in})

    # -- out ----------------------------------------------------------------

    async def served(self, *, timeout_s: float = 15) -> None:
        """Return when every Envoy has acknowledged all that was put in force before the call.

        What Envoy refused counts as acknowledged; see ``refusals`` and the statuses.

        Raises:
            TimeoutError: not in time.
            EnvoyFailedError: an Envoy could not be started; it is tried again all the same.
        """
        async with asyncio.timeout(timeout_s):
            await self._pump.settled(self.fleets.served)

    async def failed(self, *, ports: bool = False) -> Exception:
        """Why this can serve nobody, once that is clear: ``EnvoyFailedError`` if the binary does not run.

        An Envoy that cannot be started for another reason is no such reason, as others serve; the status of
        its Gateway says so.

        Args:
            ports: whether a port that cannot be bound is a reason, too: ``PortError``.
        """
        reasons: list[Exception] = []

        def has_failed() -> bool:
            if (failure := self.fleets.failure()) is not None:
                reasons.append(failure)
            elif ports and (unbound := self.fleets.unbound()):
                reasons.append(PortError(" ".join(unbound)))
            return bool(reasons)

        await self._pump.until(has_failed)
        return reasons[0]

    def urls(self) -> tuple[str, ...]:
        """Where the listeners that Envoys have in force can be asked on this machine."""
        return self.fleets.urls()

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All about manifests as they are now: faults, and references that lead nowhere."""
        return self._log.diagnostics()

    def hurry(self) -> None:
        """Let a drain that is under way, or is to come, end at once."""
        self.fleets.hurry()

    def report(self) -> dict[str, Any]:
        """All that ``moongate status`` shows, as plain data."""
        return self.status.as_data()

    def figures(self) -> dict[str, Any]:
        """Counts for metrics and benchmarks: runs and seconds by query, what was sent by type."""
        return self.status.figures()

    @property
    def slices(self) -> int:
        """How often the settling of a change gave way to the event loop, since the start."""
        return self._pump.slices

    # -- the pump's outlet --------------------------------------------------

    def _publish(self, changes: Changes) -> None:
        self.fleets.publish(changes)
        if changes.statuses:
            self.statuses.update(changes.statuses)
        self._log.failures(self.world.failures().values())

    def _observe(self) -> Iterator[None]:
        yield from self.fleets.look()
        self.statuses.observe(self.fleets.envoy_states(), self.fleets.refusals())
        self._log.transitions(self.statuses.transitions())
        self._log.serving(self.urls())

    # -- admission ----------------------------------------------------------

    def _admitted(self, manifests: str | Iterable[Mapping[str, Any]]) -> dict[Ref, Resource | None]:
        if isinstance(manifests, str):
            folder = Folder(namespace=self._namespace)
            batch = folder.update("<manifests>", manifests)
            faults = [str(f) for f in folder.diagnostics() if f.severity == "error"]
            if faults:
                raise ManifestError("\n".join(faults))
            return batch
        resources: dict[Ref, Resource | None] = {}
        problems: list[str] = []
        for document in manifests:
            admission = admit(document, KINDS, namespace=self._namespace)
            problems += [f"{document.get('kind')}: {p.path}: {p.message}" for p in admission.problems]
            if admission.resource is not None:
                resources[admission.resource.ref] = admission.resource
        if problems:
            raise ManifestError("\n".join(problems))
        return resources
