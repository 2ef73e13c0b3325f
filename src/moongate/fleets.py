"""All fleets on this machine: starts and ends their Envoys, and passes resources and events.

Theory of operation
===================
``publish`` takes the changes of the world. It starts and ends fleets together with their Gateways, and hands
xDS resources to the ADS server. The answers of Envoys come back as events: a refused route goes into
quarantine, and a listener whose port is taken is sent again from time to time (``port_handover``). Statuses
show ``envoy_states`` and ``refusals``.

Facts
-----
* two Envoys of one Gateway would share files, ports and a node name, so a new one starts after the old ended
* a running Envoy can change its log levels; all other options need a restart
* an Envoy opens a listener in two steps, and acknowledges it after the first one. If the second one fails, it
  drops the listener, and only its log says so
* an Envoy that finds a port taken while it starts is ready all the same
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import httpx
import structlog
from msgspec import structs

from moongate import names
from moongate.ads.events import Acknowledged, Connected, Disconnected, Event, Nacked
from moongate.ads.lateness import LATE_SECONDS
from moongate.ads.needs import addresses
from moongate.ads.server import AdsServer
from moongate.ads.transports import unix_socket
from moongate.ads.udp_ports import Draining
from moongate.api.base import FleetId, Ref
from moongate.api.gateway import GatewayClass
from moongate.attach.fleets import fleets as all_fleets
from moongate.attach.gateways import merged
from moongate.chain_transitions import ChainTransitions
from moongate.draining_tables import DrainingTables
from moongate.engine import Failed
from moongate.envoy_settings import asked_options, asked_parts, at_restart, envoy_bootstrap, node_of
from moongate.envoy_states import EnvoyStates
from moongate.infra.bootstrap import EnvoyOptions
from moongate.infra.ending import end_kept
from moongate.infra.port_handover import SOON_S
from moongate.infra.ports import explain_bind_failure
from moongate.infra.process import EnvoyFailedError, EnvoyProcess, State, lateness
from moongate.json_patch import PatchError
from moongate.large_tables import LargeTables
from moongate.patience import within
from moongate.quarantine import Quarantine, Refusal
from moongate.refused_certificates import RefusedCertificates
from moongate.report.statuses import time_before
from moongate.running_fleet import Late, RefusedResource, RunningFleet
from moongate.shared_udp_ports import draining_ports, note_ports, shared_ports
from moongate.status.gateways import EnvoyState
from moongate.xds.bootstraps import BootstrapParts
from moongate.xds.cluster_keys import ClusterKey
from moongate.xds.clusters import concern as cluster_concern
from moongate.xds.refusals import bind_failure, of_clusters
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE, SCOPE, SECRET, XdsResource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
    from pathlib import Path
    from types import TracebackType

    from moongate.ads.events import Counters, Rejection
    from moongate.infra.envoy_log import Unopened
    from moongate.infra.rundir import RunDirectory
    from moongate.world import Changes, World
    from moongate.xds.patches import Form

_log = structlog.get_logger("moongate")

STEP: Final = 100
"""How many resources are looked at in one step before they are handed out; less than a millisecond."""

_TABLES: Final = (ROUTE, SCOPE)

_TIMER_S: Final = 0.05
"""More than the inaccuracy of a timer."""

SUCCESSOR_S: Final = 5.0
"""How many seconds an Envoy that is to end waits at most for the start of Envoys that may take its ports."""


class _Former(NamedTuple):
    """A version of a resource that Envoys had in force before this process, and what it was made from."""

    resource: XdsResource
    parts: tuple[Any, ...]
    patches: tuple[Form, ...]


class Fleets:
    """An async context manager: Envoys run inside; leaving it drains and ends them.

    Args:
        world: has the Gateways, and the resources of their Envoys.
        run: the folder for sockets and files; the caller has entered it.
        binary: the Envoy to run.
        access_log: where Envoys write their access log, as ``EnvoyProcess`` has it.
        on_change: called when the state of an Envoy, or a refusal, changed.
        on_write: called after a write into cells of the world; the caller then settles the world.
        enforced: whether routes may be sent, because their rate limits are known to those who count.
            ``on_change`` is called when it becomes true.
        keep: whether Envoys outlive this, and those that a former moongate left running are adopted.
    """

    def __init__(
        self,
        world: World,
        run: RunDirectory,
        *,
        binary: Path,
        access_log: Callable[[bytes], None] | int,
        on_change: Callable[[], None],
        on_write: Callable[[], None],
        enforced: Callable[[], bool] = lambda: True,
        keep: bool = False,
    ) -> None:
        self._world = world
        self._run = run
        self._binary = binary
        self._access_log = access_log
        self._on_change = on_change
        self._on_write = on_write
        self._enforced = enforced
        self._keep = keep
        self._quarantine = Quarantine(world)
        self._transitions = ChainTransitions(world, self._quarantine.searched)
        self._draining = DrainingTables(world)
        self._large = LargeTables(world)
        self._certificates = RefusedCertificates(world)
        self._ads = AdsServer(self._take_event, on_lateness=self._note_lateness, late_seconds=LATE_SECONDS)
        self._states = EnvoyStates(world, self._ads, self._quarantine)
        self._fleets: dict[str, RunningFleet] = {}
        self._ending: dict[str, RunningFleet] = {}
        self._has_run = False
        self._held: set[str] = set()
        """Fleets whose routes are held until the world is settled, and their limits are enforced."""
        self._recalled: dict[tuple[FleetId, str, str], _Former] = {}
        self._tasks = asyncio.TaskGroup()
        self._left = False
        """Whether all Envoys are to end, so that none is started any more: nobody would end it."""

    async def __aenter__(self) -> Self:
        """Start no Envoy yet; ``publish`` does that."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        for fleet in self._fleets.values():
            fleet.process.leave()
            fleet.end()
        # The group does not see the error: it would cancel the Envoys, but they have to drain.
        await self._tasks.__aexit__(None, None, None)

    # -- in -----------------------------------------------------------------

    def publish(self, changes: Changes) -> Iterator[None]:
        """Start new fleets, end removed fleets, and hand changed resources to the others; in steps.

        An Envoy that ends keeps its resources, so that it can complete the requests in flight.
        """
        if self._left:
            return
        for name, fleet_id in changes.fleets.items():
            if fleet_id is not None:
                self._start(name, fleet_id)
            else:
                self._stop(name)
        if self._ending:
            self._hand_over()
        left: dict[str, frozenset[tuple[int, bool]]] = {}
        for name, put in changes.put.items():
            if name in self._fleets:
                self._ads.prepare(name, put)
        for name in changes.put.keys() | changes.gone.keys():
            fleet = self._fleets.get(name)
            if fleet is None:
                continue
            put, gone = changes.put.get(name, ()), changes.gone.get(name, ())
            # Envoy's answers are compared with what is noted here, so it is noted before they can come.
            for at in range(0, len(put), STEP):
                part = put[at : at + STEP]
                self._transitions.handed_out(fleet.id, part)
                self._certificates.handed_out(fleet.id, part, ())
                yield
            for at in range(0, len(gone), STEP):
                some = gone[at : at + STEP]
                self._transitions.handed_out(fleet.id, (), some)
                self._certificates.handed_out(fleet.id, (), some)
                self._quarantine.left(fleet.id, some)
                yield
            if any(type_url == LISTENER for type_url, _ in gone):
                self._hand_over(name)
                left[name] = self._ports(name)
                # Which Envoys are to take over its ports is known when all changes are handed out.
                fleet.awaiting += 1
                self._ads.hold(name, LISTENER)
            if not self._enforced():
                self._hold_routes(name)
            # What an Envoy has of it, or not yet, is told by the number of the last edit.
            yield from self._ads.publish_prepared(name, gone)
            self._recall(name, fleet, put)
            # A resource that Envoy never accepted is not removed by a response, so no answer will come.
            for key in gone:
                fleet.refused.pop(key, None)
            yield
        if changes.put:
            self._recalled.clear()
        for name, before in left.items():
            self._await_starting(name, before - self._ports(name))

    def recall(self) -> None:
        """Take what the world has now for what Envoys had in force before this process, and hand out none."""
        world = self._world
        for fleet in all_fleets(world.db):
            for type_url in (CLUSTER, *_TABLES):
                for resource in world.xds().get(names.fleet(fleet), {}).get(type_url, {}).values():
                    key = (fleet, type_url, resource.name)
                    self._recalled[key] = _Former(resource, world.parts(*key), world.patches(*key))

    def _recall(self, name: str, fleet: RunningFleet, put: tuple[XdsResource, ...]) -> None:
        """Let what was recalled stand in for what a fleet has first, where that is another version."""
        for resource in put if self._recalled else ():
            former = self._recalled.pop((fleet.id, resource.type_url, resource.name), None)
            if former is None or former.resource.version == resource.version:
                continue
            if resource.type_url == CLUSTER:
                self._ads.recall(name, former.resource)
            else:
                self._quarantine.recall(
                    fleet.id, resource.type_url, resource.name, former.parts, former.patches
                )

    def publish_endpoints(self, changes: Changes) -> None:
        """Hand changed endpoints to the Envoys at once, also between two steps of ``publish``."""
        for name, put in changes.put.items():
            if name in self._fleets:
                self._ads.publish(name, put)

    def review(self) -> Iterator[None]:
        """React to the events, now that the world is settled; in steps."""
        wrote = yield from self._quarantine.review()
        wrote |= self._transitions.review()
        for name, fleet in self._fleets.items():
            wrote |= self._certificates.review(fleet.id)
            wrote |= self._draining.review(fleet.id, partial(self._ads.is_asked_for, name))
            options = asked_options(self._world.db, fleet.id)
            if options is not None and options != fleet.options:
                fleet.process.take(options)
                change = self._reconfigure(name, fleet, fleet.options, options)
                self._create_task(change, name=f"options of {name}")
                fleet.options = options
            parts = asked_parts(self._world.db, fleet.id)
            if parts is not None and parts != fleet.made_of:
                self._renew(name, fleet, parts)
            taken = self._taken(name, fleet)
            if taken and not fleet.retrying:
                fleet.retrying = True
                self._create_task(self._retry(name, fleet, taken), name=f"ports of {name}")
        if wrote:
            self._on_write()
        # A refusal that came during this review is handled in the next one; routes are held until then.
        if self._held and self._world.settled and not self._quarantine.has_news and self._enforced():
            for name in sorted(self._held):
                fleet = self._fleets.get(name)
                # Without a patch that is still to be tried, a listener may let pass whom it should not.
                if fleet is None or not self._quarantine.has_patches_in_doubt(fleet.id):
                    self._held.remove(name)
                    for type_url in (ROUTE, SCOPE):
                        self._ads.release(name, type_url)

    async def end_left_over(self) -> None:
        """End Envoys that a former moongate left running, and whose fleets do not exist any more."""
        await self._successors_started()
        current = {self._run.envoy(name) for name in (*self._fleets, *self._ending)}
        for envoy in self._run.left_over:
            if envoy not in current:
                # Another Envoy may get its ports.
                self._hand_over()
                try:
                    if (pid := envoy.running()) is not None:
                        _log.info("envoy.left_over", pid=pid)
                    await end_kept(envoy, EnvoyOptions().drain_s)
                except OSError as error:
                    why = f"It cannot be ended: {error.strerror}. It is tried again at the next start."
                    _log.warning("envoy.left_over", message=why)
                self._hand_over()

    def skip_drain(self) -> None:
        """End a running or future drain at once."""
        for fleet in (*self._fleets.values(), *self._ending.values()):
            fleet.process.skip_drain()

    # -- out ----------------------------------------------------------------

    async def served(self) -> None:
        """Return when each fleet has acknowledged all its resources, or is to end.

        Raises:
            EnvoyFailedError: one could not be started.
        """
        for name, fleet in list(self._fleets.items()):
            await fleet.ready()
            while not fleet.stop.is_set():
                # A fleet that ends in the meantime never settles, so wait one second at a time.
                with suppress(TimeoutError):
                    await self._ads.settled(name, 1)
                    if not any(map(fleet.is_handed_over, self._taken(name, fleet))):
                        break
                    await asyncio.sleep(SOON_S)
        for fleet in list(self._ending.values()):
            await fleet.closed()

    def failure(self) -> EnvoyFailedError | None:
        """Why no Envoy can run on this machine: the binary does not run. ``None`` once one has run."""
        if self._has_run:
            return None
        processes = (fleet.process for fleet in self._fleets.values())
        return next((p.failure() for p in processes if p.state is State.FAILED and p.unusable), None)

    def refusals(self) -> tuple[Refusal, ...]:
        """The entries and clusters that are out of force because an Envoy refuses them, sorted."""
        clusters = (each for fleet in self._fleets.values() for each in self._clusters_of(fleet))
        return tuple(sorted((*self._quarantine.refusals(), *clusters)))

    def rejections(self) -> list[Rejection]:
        """All resources that Envoys refuse now, by fleet, type and name."""
        return [
            r for name, fleet in sorted(self._fleets.items()) for r in self._states.refused_by(name, fleet)
        ]

    def unbound(self) -> list[str]:
        """A message for each port that cannot be bound."""
        return [
            fleet.message(r) for name, fleet in sorted(self._fleets.items()) for r in self._taken(name, fleet)
        ]

    def envoy_states(self) -> dict[Ref, EnvoyState]:
        """The state of the Envoy of each Gateway and ListenerSet."""
        refusals = self._quarantine.refusals()  # The Gateway says of clusters what it says of all resources.
        now = asyncio.get_running_loop().time()
        draining = draining_ports((*self._fleets.items(), *self._ending.items()), now)
        return {
            owner: structs.replace(
                self._states.state_of(name, fleet, owner, refusals),
                shared_ports=tuple(shared_ports(fleet, owner, draining)) if draining else (),
            )
            for name, fleet in self._fleets.items()
            for owner in fleet.owners()
        }

    def urls(self) -> tuple[str, ...]:
        """The URLs of all HTTP listeners that Envoys have in force."""
        urls: dict[str, None] = {}
        for name, fleet in self._fleets.items():
            if fleet.process.state is State.READY:
                urls |= dict.fromkeys(fleet.urls(partial(self._ads.version, name, LISTENER)))
        return tuple(urls)

    def report(self) -> list[dict[str, Any]]:
        """All fleets as ``moongate status`` shows them, as plain data."""
        now = asyncio.get_running_loop().time()
        return [fleet.report(name, now) for name, fleet in sorted(self._fleets.items())]

    @property
    def counters(self) -> dict[str, Counters]:
        """Counts of responses and answers since the start, by type URL."""
        return self._ads.counters

    @property
    def held(self) -> bool:
        """Whether routes of a fleet are not handed out yet."""
        return bool(self._held)

    def edits(self) -> dict[str, int]:
        """How many edits of its resources each fleet has had."""
        return {name: self._ads.edits(name) for name in self._fleets}

    def in_force(self, name: str, edit: int) -> bool:
        """Whether no Envoy of a fleet has routes from before an edit.

        An Envoy keeps what it has while it refuses routes, or is not connected.
        """
        fleet = self._fleets.get(name)
        if fleet is None:
            return True
        if not self._ads.nodes(name):
            return fleet.process.state not in {State.STARTING, State.READY, State.DRAINING}
        refused = any(type_url in _TABLES for type_url, _ in fleet.refused)
        return not refused and self._ads.have_switched(name, edit)

    # -- one fleet ----------------------------------------------------------

    def _start(self, name: str, fleet_id: FleetId) -> None:
        if name in self._fleets:
            return  # it was removed and came back between two calls: its Envoy goes on
        files = self._run.envoy(name)
        options = asked_options(self._world.db, fleet_id) or EnvoyOptions()
        parts = asked_parts(self._world.db, fleet_id) or BootstrapParts()
        try:
            first = envoy_bootstrap(name, files, parts)
        except PatchError:
            # It fits no fleet that has these sinks; ``review`` says so.
            parts = BootstrapParts(parts.telemetry)
            first = envoy_bootstrap(name, files, parts)

        @asynccontextmanager
        async def listening() -> AsyncGenerator[None]:
            async with self._ads.listen(unix_socket(files.xds, name)):
                # If this is not its first socket, somebody has removed files.
                process.files_lost()
                yield

        process = EnvoyProcess(
            name,
            binary=self._binary,
            files=files,
            bootstrap=first,
            options=options,
            beside=lambda: self._run.standing(files.xds, listening),
            access_log=self._access_log,
            keep=self._keep,
            lifeline=self._run.lifeline,
            on_change=self._note_state,
            on_unopened=partial(self._take_unopened, name),
            on_adopted=partial(self._ads.departed, name, node_of(name)),
        )
        self._ads.publish(name)
        self._transitions.start(fleet_id)
        self._large.start(fleet_id)
        self._draining.start(fleet_id)
        self._write_merged(fleet_id, runs=True)
        fleet = self._fleets[name] = RunningFleet(self._world, fleet_id, process, options, parts)
        before = self._ending.get(name)
        fleet.task = self._create_task(self._run_envoy(name, fleet, before), name=f"fleet {name}")

    def _create_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Create a task of this, unless all Envoys are to end: the group may have no task any more."""
        if self._left:
            work.close()
            return None
        return self._tasks.create_task(work, name=name)

    async def _run_envoy(self, name: str, fleet: RunningFleet, before: RunningFleet | None) -> None:
        if before is not None and before.task is not None:
            await asyncio.wait({before.task})
        async with fleet.process:
            await fleet.stop.wait()
            await self._successors_started()
        if self._ending.get(name) is fleet:
            del self._ending[name]

    async def _successors_started(self) -> None:
        """Wait until new Envoys have started, because they may take over ports of an Envoy that is to end.

        An Envoy that itself waits for the end of the former Envoy of its Gateway is left out.
        """
        with suppress(TimeoutError):
            async with within(SUCCESSOR_S):
                for name, fleet in list(self._fleets.items()):
                    if name not in self._ending and not fleet.stop.is_set():
                        await fleet.started()

    def _await_starting(self, name: str, ports: frozenset[tuple[int, bool]]) -> None:
        """Let an Envoy keep its listeners until Envoys that are to take over ports of it have started.

        Args:
            name: the fleet of the Envoy, whose listeners are held.
            ports: those that it is to leave.
        """
        starting = [
            other_fleet
            for other, other_fleet in self._fleets.items()
            if other not in {name, *self._ending}
            and other_fleet.process.state is State.STARTING
            and not ports.isdisjoint(self._ports(other))
        ]
        fleet = self._fleets[name]
        if starting:
            for successor in starting:
                successor.handover.begin(SUCCESSOR_S)
            releasing = self._release_after(name, fleet, starting)
            self._create_task(releasing, name=f"listeners of {name}")
        else:
            self._release_listeners(name, fleet)

    async def _release_after(self, name: str, fleet: RunningFleet, starting: list[RunningFleet]) -> None:
        with suppress(TimeoutError):
            async with within(SUCCESSOR_S):
                for successor in starting:
                    await successor.started()
        self._release_listeners(name, fleet)

    def _release_listeners(self, name: str, fleet: RunningFleet) -> None:
        fleet.awaiting -= 1
        if not fleet.awaiting and self._fleets.get(name) is fleet:
            self._ads.release(name, LISTENER)

    def _ports(self, name: str) -> frozenset[tuple[int, bool]]:
        """The ports of the listeners that a fleet should have, each with whether it is one of UDP."""
        listeners = self._ads.resources(name, LISTENER).values()
        return frozenset((at.port, at.is_udp) for listener in listeners for at in addresses(listener))

    def _hold_routes(self, name: str) -> None:
        for type_url in (ROUTE, SCOPE):
            self._ads.hold(name, type_url)
        self._held.add(name)

    def _stop(self, name: str) -> None:
        fleet = self._fleets.pop(name, None)
        if fleet is not None:
            self._ads.end(name)
            self._quarantine.forget(fleet.id)
            self._transitions.end(fleet.id)
            self._draining.end(fleet.id)
            self._large.end(fleet.id)
            self._certificates.end(fleet.id)
            self._write_merged(fleet.id, runs=False)
            self._ending[name] = fleet
            fleet.end()

    def _write_merged(self, fleet: FleetId, *, runs: bool) -> None:
        """Write whether the Gateways of a class share running Envoys, if the fleet is one of a class."""
        if fleet.owner.is_a(GatewayClass):
            self._world.write(merged(fleet.owner.name), runs or None)

    def _renew(self, name: str, fleet: RunningFleet, parts: BootstrapParts) -> None:
        """Let an Envoy run with another bootstrap."""
        fleet.made_of = parts
        try:
            renewal = fleet.process.renew(envoy_bootstrap(name, self._run.envoy(name), parts))
        except PatchError as error:
            fleet.process.keep_bootstrap(str(error))
        else:
            self._create_task(renewal, name=f"bootstrap of {name}")

    async def _reconfigure(
        self, name: str, fleet: RunningFleet, before: EnvoyOptions, options: EnvoyOptions
    ) -> None:
        late = at_restart(before, options)
        if late and fleet.process.state is State.READY:
            _log.warning(
                "envoy.restart_needed",
                gateway=name,
                fields=", ".join(late),
                message="These take effect when Envoy starts: end moongate and start it again.",
            )
        try:
            await fleet.process.configure(options)
        except httpx.HTTPStatusError as error:
            _log.warning(
                "envoy.refused",
                gateway=name,
                type="EnvoyProxy",
                name="spec.logging.level",
                message=error.response.text.partition("\n")[0],
            )

    # -- events of Envoys ---------------------------------------------------

    def _note_state(self) -> None:
        self._has_run = self._has_run or any(f.process.state is State.READY for f in self._fleets.values())
        if self._ending:
            self._hand_over()
        self._on_change()

    def _hand_over(self, by: str = "") -> None:
        """Begin a handover of ports, because an Envoy closes listeners.

        Args:
            by: the fleet of this Envoy; "" if the Envoy ends.
        """
        for name, fleet in self._fleets.items():
            if name != by:
                fleet.handover.begin()

    def _take_event(self, event: Event) -> None:
        fleet = self._fleets.get(event.fleet)
        if fleet is None:
            return
        wrote = mended = False
        match event:
            case Acknowledged():
                for name, version in event.versions:
                    # An Envoy that reconnects may have the version before the one that it refused.
                    if version == self._ads.version(event.fleet, event.type_url, name):
                        mended |= fleet.refused.pop((event.type_url, name), None) is not None
                    self._quarantine.acknowledged(fleet.id, event.envoy, event.type_url, name, version)
                    if event.type_url == CLUSTER:
                        self._quarantine.retry_with(fleet.id, name)
                    if event.type_url == SECRET and self._certificates.acknowledged(fleet.id, name, version):
                        # Meanwhile listeners may have been refused for no other reason.
                        self._quarantine.retry(fleet.id, LISTENER)
                        mended = True
                    wrote |= self._transitions.acknowledged(
                        fleet.id, event.envoy, event.type_url, name, version
                    )
                for name in event.gone:
                    wrote |= self._transitions.removed(fleet.id, event.envoy, event.type_url, name)
                if event.type_url == LISTENER:
                    self._note_udp_ports(fleet, event)
                    fleet.listening |= dict(event.versions)
                    if event.gone:
                        self._hand_over(event.fleet)
                    for name in event.gone:
                        fleet.listening.pop(name, None)
                        fleet.ports.pop(name, None)
            case Nacked():
                self._note_refusal(fleet, event)
                if not fleet.refused[event.type_url, event.name].port:
                    # If the port is taken, no entry of the listener is at fault.
                    self._quarantine.refused(
                        fleet.id,
                        event.envoy,
                        event.type_url,
                        event.name,
                        event.version,
                        event.message,
                        event.lacks,
                    )
                if event.type_url == SECRET:
                    self._certificates.refused(fleet.id, event.name, event.version, event.message)
                if event.type_url == LISTENER:
                    # Routes may need a filter that only the refused version has: build other routes first.
                    self._hold_routes(event.fleet)
                    wrote = self._transitions.refused(
                        fleet.id, event.envoy, event.name, event.version, event.message
                    )
            case Connected():
                self._transitions.connected(fleet.id, event.envoy)
                self._quarantine.connected(fleet.id, event.envoy)
            case Disconnected():
                wrote = self._transitions.disconnected(fleet.id, event.envoy)
                self._quarantine.disconnected(fleet.id, event.envoy)
        if wrote:
            self._on_write()
        elif mended or not isinstance(event, Acknowledged) or event.type_url != CLUSTER:
            self._on_change()

    def _note_lateness(self, name: str) -> None:
        fleet = self._fleets.get(name)
        if fleet is None:
            return
        pid, since = fleet.process.pid, self._ads.late_since(name)
        if since is None and fleet.late is not None:
            seconds = round(asyncio.get_running_loop().time() - fleet.late.since, 1)
            _log.info("envoy.caught_up", gateway=name, pid=pid, after_s=seconds)
            fleet.late = None
        elif since is not None and fleet.process.state in {State.STARTING, State.READY}:
            # In other states it does not run, which is reported already.
            connected = bool(self._ads.nodes(name))
            seconds = asyncio.get_running_loop().time() - since
            message = lateness(time_before(seconds), pid=pid, connected=connected)
            fleet.late = Late(since, message)
            _log.warning("envoy.late", gateway=name, pid=pid, message=message)
        self._on_change()

    def _take_unopened(self, name: str, listener: Unopened) -> None:
        """Treat a listener that Envoy could not open after its acknowledgement as one that it refuses.

        That happens if another socket comes between the two steps in which Envoy opens a port.
        """
        resource = self._ads.resources(name, LISTENER).get(listener.name)
        for at in sorted(addresses(resource))[:1] if resource is not None else ():
            message = f"cannot bind '{at.host}:{at.port}': {listener.why}"
            self._ads.dropped(name, LISTENER, listener.name, message)

    def _note_udp_ports(self, fleet: RunningFleet, event: Acknowledged) -> None:
        drain_s = fleet.process.listener_drain_s
        loop = asyncio.get_running_loop()
        draining = Draining(loop.time() + drain_s, time_before(-drain_s))
        if note_ports(fleet, event, self._ads.resources(event.fleet, LISTENER), draining):
            loop.call_at(draining.ends + _TIMER_S, self._on_change)

    def _is_udp(self, event: Nacked) -> bool:
        """Whether what Envoy refuses is a listener of UDP."""
        resource = self._ads.resources(event.fleet, event.type_url).get(event.name)
        if resource is None or event.type_url != LISTENER:
            return False
        return any(at.is_udp for at in addresses(resource))

    def _clusters_of(self, fleet: RunningFleet) -> Iterator[Refusal]:
        """The clusters that a fleet refuses, with whom that concerns."""
        for (type_url, name), refused in fleet.refused.items():
            key = next(iter(self._world.built_from(fleet.id, type_url, name)), None)
            if type_url != CLUSTER or not isinstance(key, ClusterKey):
                continue
            if self._quarantine.searches(fleet.id, CLUSTER, name):
                continue  # it is patched, and the patch may be at fault
            concern = cluster_concern.attempt(self._world.db, key)
            if not isinstance(concern, Failed):
                why = of_clusters([(name, refused.message)])
                yield Refusal(fleet.id, concern.what, concern.resources, (), why, concern.policies)

    def _taken(self, name: str, fleet: RunningFleet) -> list[Rejection]:
        """The listeners of a fleet whose ports cannot be bound."""
        return [r for r in self._states.refused_by(name, fleet) if fleet.is_port(r)]

    def _note_refusal(self, fleet: RunningFleet, event: Nacked) -> None:
        key = (event.type_url, event.name)
        before = fleet.refused.get(key)
        failure = bind_failure(event.message)
        if failure is not None and failure.in_use and fleet.handover.under_way:
            # The port will be free soon, and it takes long to find the process that has it.
            fleet.refused[key] = RefusedResource(event.message, port=True, handed_over=True)
            return
        fleets = (*self._fleets.items(), *self._ending.items())
        envoys = {of.process.pid: other for other, of in fleets if of.process.pid is not None}
        port = explain_bind_failure(event.message, envoys, is_udp=self._is_udp(event))
        refused = fleet.refused[key] = RefusedResource(port or event.message, port is not None)
        # The condition of the listener reports a port that is taken, with the place in the manifests.
        if refused != before and not refused.port:
            _log.warning(
                "envoy.refused",
                gateway=event.fleet,
                type=event.type_url.rpartition(".")[2],
                name=event.name,
                message=refused.message,
            )

    async def _retry(self, name: str, fleet: RunningFleet, taken: list[Rejection]) -> None:
        await fleet.handover.time_to_ask()
        fleet.retrying = False
        for one in taken if not fleet.stop.is_set() else ():
            self._ads.retry(name, one.type_url, one.name)
