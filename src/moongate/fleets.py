"""The Envoys of this machine: a process for each fleet, started, fed, listened to and ended.

Theory of operation
===================
``publish`` takes what differs in the world: fleets start and end with their Gateways, and what they should
have goes to the ADS server. What Envoys make of it comes back as events: a route that is refused goes into
quarantine, and a port that is taken is asked for again, as nobody tells when it is free. ``envoy_states`` and
``refusals`` are what of this stands in statuses.

Facts
-----
* two Envoys of one Gateway would share files, ports and a name in xDS: the one that drains goes first
* an Envoy takes log levels while it runs; its other options hold from its start
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx
import structlog
from msgspec import Struct, structs

from moongate.ads.events import Acknowledged, Connected, Disconnected, Event, Nacked
from moongate.ads.server import AdsServer
from moongate.ads.transports import unix_socket
from moongate.api.base import FleetId, Ref, milliseconds
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import bind_addresses, members
from moongate.attach.gateways import fleet_proxy
from moongate.attach.listeners import listeners
from moongate.chain_transitions import ChainTransitions
from moongate.draining_tables import DrainingTables
from moongate.engine import Failed
from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.infra.ports import explain_bind_failure
from moongate.infra.process import EnvoyFailedError, EnvoyProcess, State
from moongate.quarantine import Quarantine
from moongate.status.gateways import EnvoyState, RefusedListener
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from moongate.ads.events import Counters, Rejection
    from moongate.api.base import ListenerId
    from moongate.engine import Query
    from moongate.infra.rundir import RunDirectory
    from moongate.quarantine import Refusal
    from moongate.world import Changes, World

_log = structlog.get_logger("moongate")

K = TypeVar("K", FleetId, Ref)
T = TypeVar("T")

PORT_RETRY_S: Final = 2.0
"""Seconds until a port that was taken is asked for again."""


class Fleets:
    """An async context manager: Envoys run inside, and are drained and ended when it is left.

    Args:
        world: says which Gateways there are, and what their Envoys should have.
        run: the folder for sockets and files; entered before this is.
        binary: the Envoy to run.
        access_log: takes Envoy's access log, whole lines; must not block.
        on_change: called when something is known about Envoys that was not known before.
        on_write: called when something was written into cells of the world, which is to be settled then.
    """

    def __init__(
        self,
        world: World,
        run: RunDirectory,
        *,
        binary: Path,
        access_log: Callable[[bytes], None],
        on_change: Callable[[], None],
        on_write: Callable[[], None],
    ) -> None:
        self._world = world
        self._run = run
        self._binary = binary
        self._access_log = access_log
        self._on_change = on_change
        self._on_write = on_write
        self._quarantine = Quarantine(world)
        self._transitions = ChainTransitions(world, self._quarantine.is_searching)
        self._draining = DrainingTables(world)
        self._ads = AdsServer(self._take_event)
        self._fleets: dict[str, _Fleet] = {}
        self._ending: dict[str, _Fleet] = {}
        self._has_run = False
        self._held: set[str] = set()
        """Fleets whose routes are held until the world is settled."""
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Envoys come by ``publish``."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fleet in self._fleets.values():
            fleet.stop.set()
        # The error is kept from the group, which would cut the Envoys off; they are to drain.
        await self._tasks.__aexit__(None, None, None)

    # -- in -----------------------------------------------------------------

    def publish(self, changes: Changes) -> None:
        """Start the fleets that came, end the fleets that went, and hand out what differs to the others.

        An Envoy that is to end is not emptied first: it serves what is under way with what it has.
        """
        for name, fleet_id in changes.fleets.items():
            if fleet_id is not None:
                self._start(name, fleet_id)
            else:
                self._stop(name)
        for name in changes.put.keys() | changes.gone.keys():
            fleet = self._fleets.get(name)
            if fleet is None:
                continue
            put, gone = changes.put.get(name, ()), changes.gone.get(name, ())
            self._transitions.handed_out(fleet.id, put, gone)
            self._ads.publish(name, put, gone)
            # Envoy is not sent the removal of what it never took, so it does not answer.
            for key in gone:
                fleet.refused.pop(key, None)

    def look(self) -> Iterator[None]:
        """Do what follows from the events, now that the world is settled; in steps."""
        wrote = yield from self._quarantine.review()
        wrote |= self._transitions.review()
        for name, fleet in self._fleets.items():
            wrote |= self._draining.review(fleet.id, partial(self._ads.is_asked_for, name, ROUTE))
            options = self._options(fleet.id)
            if options is not None and options != fleet.options:
                fleet.process.take(options)
                change = self._reconfigure(name, fleet, fleet.options, options)
                self._tasks.create_task(change, name=f"options of {name}")
                fleet.options = options
            taken = [r for r in self._refused_by(name, fleet) if fleet.is_port(r)]
            if taken and not fleet.retrying:
                fleet.retrying = True
                self._tasks.create_task(self._retry(name, fleet, taken), name=f"ports of {name}")
        if wrote:
            self._on_write()
        # What was refused while this looked is judged in the next turn: its routes are held until then.
        if self._world.settled and not self._quarantine.has_news:
            while self._held:
                self._ads.release(self._held.pop())

    def hurry(self) -> None:
        """Let a drain that is under way, or is to come, end at once."""
        for fleet in (*self._fleets.values(), *self._ending.values()):
            fleet.process.hurry()

    # -- out ----------------------------------------------------------------

    async def served(self) -> None:
        """Return when each fleet has acknowledged all that it was sent, or is to end.

        Raises:
            EnvoyFailedError: one could not be started.
        """
        for name, fleet in list(self._fleets.items()):
            await fleet.ready()
            while not fleet.stop.is_set():
                # A fleet that ends meanwhile never settles, so the wait is in parts.
                with suppress(TimeoutError):
                    await self._ads.settled(name, 1)
                    break

    def failure(self) -> EnvoyFailedError | None:
        """Why no Envoy will ever run here: the binary does not. ``None`` once one has run."""
        if self._has_run:
            return None
        processes = (fleet.process for fleet in self._fleets.values())
        return next((p.failure() for p in processes if p.state is State.FAILED and p.unusable), None)

    def refusals(self) -> tuple[Refusal, ...]:
        """What is out of force because an Envoy refuses it, sorted."""
        return self._quarantine.refusals()

    def rejections(self) -> list[Rejection]:
        """All that Envoys refuse just now, by fleet, type and name."""
        return [r for name, fleet in sorted(self._fleets.items()) for r in self._refused_by(name, fleet)]

    def unbound(self) -> list[str]:
        """Why ports cannot be bound, for each that cannot."""
        return [
            fleet.words(r)
            for name, fleet in sorted(self._fleets.items())
            for r in self._refused_by(name, fleet)
            if fleet.is_port(r)
        ]

    def envoy_states(self) -> dict[Ref, EnvoyState]:
        """What is known of each Gateway's Envoy."""
        refusals = self.refusals()
        return {
            gateway: self._state_of(name, fleet, gateway, refusals)
            for name, fleet in self._fleets.items()
            for gateway in self._judged(fleet, members, fleet.id)
        }

    def urls(self) -> tuple[str, ...]:
        """Where HTTP listeners can be asked that Envoys have in force."""
        urls: dict[str, None] = {}
        for fleet in self._fleets.values():
            if fleet.process.state is State.READY:
                urls |= dict.fromkeys(self._urls_of(fleet))
        return tuple(urls)

    def report(self) -> list[dict[str, Any]]:
        """What ``moongate status`` shows of each, as plain data."""
        return [
            fleet.report(name, self._judged(fleet, members, fleet.id))
            for name, fleet in sorted(self._fleets.items())
        ]

    @property
    def counters(self) -> dict[str, Counters]:
        """What was sent and answered since the start, by type URL."""
        return self._ads.counters

    # -- one fleet ----------------------------------------------------------

    def _start(self, name: str, fleet_id: FleetId) -> None:
        if name in self._fleets:
            return  # it went and came between two looks: nobody has to start anew for that
        files = self._run.envoy(name)
        options = self._options(fleet_id) or EnvoyOptions()
        process = EnvoyProcess(
            name,
            binary=self._binary,
            files=files,
            bootstrap=bootstrap(name, name.replace("/", "-"), xds_socket=files.xds, admin_socket=files.admin),
            options=options,
            beside=lambda: self._ads.listen(unix_socket(files.xds, name)),
            access_log=self._access_log,
            on_change=self._note_state,
        )
        self._ads.publish(name)
        self._transitions.start(fleet_id)
        self._draining.start(fleet_id)
        fleet = self._fleets[name] = _Fleet(fleet_id, process, options)
        before = self._ending.get(name)
        fleet.task = self._tasks.create_task(self._run_envoy(name, fleet, before), name=f"fleet {name}")

    async def _run_envoy(self, name: str, fleet: _Fleet, before: _Fleet | None) -> None:
        if before is not None and before.task is not None:
            await asyncio.wait({before.task})
        async with fleet.process:
            await fleet.stop.wait()
        if self._ending.get(name) is fleet:
            del self._ending[name]

    def _stop(self, name: str) -> None:
        fleet = self._fleets.pop(name, None)
        if fleet is not None:
            self._ads.end(name)
            self._quarantine.forget(fleet.id)
            self._transitions.end(fleet.id)
            self._draining.end(fleet.id)
            self._ending[name] = fleet
            fleet.stop.set()

    def _options(self, fleet: FleetId) -> EnvoyOptions | None:
        """What the EnvoyProxy asks for; ``None`` when it cannot be used, and Envoys keep what they have."""
        settings = fleet_proxy.attempt(self._world.db, fleet)
        if isinstance(settings, Failed) or settings.problems:
            return None
        spec = settings.spec
        options = EnvoyOptions(
            log_levels=spec.logging.level, concurrency=spec.concurrency, extra_args=spec.extra_args
        )
        timeout = spec.shutdown.drain_timeout if spec.shutdown is not None else None
        if timeout is None:
            return options
        drain_s = -(-milliseconds(timeout) // 1000)
        return structs.replace(options, drain_s=drain_s, listener_drain_s=drain_s)

    async def _reconfigure(
        self, name: str, fleet: _Fleet, before: EnvoyOptions, options: EnvoyOptions
    ) -> None:
        late = [
            field
            for field, differs in (
                ("spec.concurrency", options.concurrency != before.concurrency),
                ("spec.extraArgs", options.extra_args != before.extra_args),
                ("spec.shutdown.drainTimeout", options.listener_drain_s != before.listener_drain_s),
            )
            if differs
        ]
        if late and fleet.process.state is State.READY:
            _log.warning(
                "envoy.restart_needed",
                gateway=name,
                fields=", ".join(late),
                message="These hold from Envoy's start on: end moongate and start it again.",
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

    # -- what Envoys say ----------------------------------------------------

    def _note_state(self) -> None:
        self._has_run = self._has_run or any(f.process.state is State.READY for f in self._fleets.values())
        self._on_change()

    def _take_event(self, event: Event) -> None:
        fleet = self._fleets.get(event.fleet)
        if fleet is None:
            return
        wrote = mended = False
        match event:
            case Acknowledged():
                for name, version in event.versions:
                    # An Envoy that comes back may have what was in force before it refused the newest.
                    if version == self._ads.version(event.fleet, event.type_url, name):
                        mended |= fleet.refused.pop((event.type_url, name), None) is not None
                    self._quarantine.acknowledged(fleet.id, event.envoy, event.type_url, name, version)
                    wrote |= self._transitions.acknowledged(
                        fleet.id, event.envoy, event.type_url, name, version
                    )
                if event.type_url == LISTENER:
                    fleet.listening |= {name for name, _ in event.versions}
                    fleet.listening -= set(event.gone)
            case Nacked():
                self._note_refusal(fleet, event)
                if not fleet.refused[event.type_url, event.name].port:
                    # No entry is at fault for a port that is taken.
                    self._quarantine.refused(
                        fleet.id, event.envoy, event.type_url, event.name, event.version, event.message
                    )
                if event.type_url == LISTENER:
                    # Its routes may rely on what only the refused version has: others are built first.
                    self._ads.hold(event.fleet)
                    self._held.add(event.fleet)
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

    def _refused_by(self, name: str, fleet: _Fleet) -> Iterator[Rejection]:
        """What a fleet refuses of what it should have; a stream notices later what is gone."""
        return (r for r in self._ads.quarantine(name) if (r.type_url, r.name) in fleet.refused)

    def _note_refusal(self, fleet: _Fleet, event: Nacked) -> None:
        key = (event.type_url, event.name)
        before = fleet.refused.get(key)
        port = explain_bind_failure(event.message)
        refused = fleet.refused[key] = _Refused(port or event.message, port is not None)
        # The condition of a listener says that its port is taken, and has a place in the manifests.
        if refused != before and not refused.port:
            _log.warning(
                "envoy.refused",
                gateway=event.fleet,
                type=event.type_url.rpartition(".")[2],
                name=event.name,
                message=refused.words,
            )

    async def _retry(self, name: str, fleet: _Fleet, taken: list[Rejection]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(fleet.stop.wait(), PORT_RETRY_S)
        fleet.retrying = False
        for one in taken if not fleet.stop.is_set() else ():
            self._ads.retry(name, one.type_url, one.name)

    def _state_of(self, name: str, fleet: _Fleet, gateway: Ref, refusals: tuple[Refusal, ...]) -> EnvoyState:
        # Nothing of these can be kept out.
        stuck = [r for r in self._refused_by(name, fleet) if not self._is_searched(fleet, r)]
        messages = [f"{r.type_url.rpartition('.')[2]} {r.name}: {fleet.words(r)}" for r in stuck]
        own = [r for r in refusals if r.fleet == fleet.id and _concerns(r, gateway)]
        messages += [f"{r.what}: {r.message}" for r in own]
        names = {r.name for r in stuck}
        refused = {at: why for at, why in fleet.refused_listeners().items() if why.port or at in names}
        served = self._served(fleet) if refused else {}
        out = {member.name: r.message for r in own for member in r.listeners if member.gateway == gateway}
        serving = fleet.process.state is State.READY and bool(self._ads.nodes(name))
        return EnvoyState(
            serving=int(serving),
            trouble=fleet.process.trouble,
            addresses=self._hosts(fleet) if serving else (),
            refusals=tuple(messages),
            refused_listeners=(
                *(
                    RefusedListener(member.name, "PortUnavailable" if why.port else "Invalid", why.words)
                    for name, why in sorted(refused.items())
                    for member in served.get(name, ())
                    if member.gateway == gateway
                ),
                *(RefusedListener(at, "Invalid", words) for at, words in sorted(out.items())),
            ),
        )

    def _is_searched(self, fleet: _Fleet, rejection: Rejection) -> bool:
        """Whether it may still turn out what of a resource is at fault; that is what statuses have then."""
        about = (fleet.id, rejection.type_url, rejection.name)
        current = self._world.resource(*about)
        changed = current is None or current.version != rejection.version
        return self._quarantine.searches(*about) and (changed or self._quarantine.is_searching(*about))

    def _urls_of(self, fleet: _Fleet) -> Iterator[str]:
        served = self._served(fleet)
        taken = fleet.listening - fleet.refused_listeners().keys()
        serving = {member for name in taken for member in served.get(name, ())}
        (host, *_) = self._hosts(fleet)
        gateways = self._judged(fleet, members, fleet.id)
        for listener in (each for gateway in gateways for each in self._judged(fleet, listeners, gateway)):
            if listener.id in serving:
                named = listener.hostname and "*" not in listener.hostname
                at = listener.hostname if named else f"[{host}]" if ":" in host else host
                yield f"{listener.protocol.lower()}://{at}:{listener.container_port}"

    def _served(self, fleet: _Fleet) -> dict[str, tuple[ListenerId, ...]]:
        """The listeners that share each of Envoy's, by its name."""
        return {envoy.name: envoy.members for envoy in self._judged(fleet, envoy_listeners, fleet.id)}

    def _hosts(self, fleet: _Fleet) -> tuple[str, ...]:
        """Where a fleet can be reached on this machine, at least one address."""
        reached = (_REACHED_AT.get(a, a) for a in self._judged(fleet, bind_addresses, fleet.id))
        return tuple(dict.fromkeys(reached)) or ("127.0.0.1",)

    def _judged(self, fleet: _Fleet, judge: Query[[K], tuple[T, ...]], of: K) -> tuple[T, ...]:
        """The answer of a query of the world; while it fails, the last one, as Envoys have that in force."""
        answer = judge.attempt(self._world.db, of)
        if isinstance(answer, Failed):
            return fleet.answers.get((judge.name, of), ())
        fleet.answers[judge.name, of] = answer
        return answer


def _concerns(refusal: Refusal, gateway: Ref) -> bool:
    """Whether a refusal is told of a Gateway: with ``mergeGateways`` others share its Envoys."""
    return not refusal.listeners or any(listener.gateway == gateway for listener in refusal.listeners)


_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be asked, not to listen


class _Refused(Struct, frozen=True):
    """Why a resource is refused, as it was last logged: what stays so is not logged again."""

    words: str
    port: bool


class _Fleet:
    """The Envoy of one fleet."""

    def __init__(self, id_: FleetId, process: EnvoyProcess, options: EnvoyOptions) -> None:
        self.id = id_
        self.process = process
        self.options = options
        """As they were last asked for."""
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.retrying = False
        self.listening: set[str] = set()
        """Names of the listeners that it has in force."""
        self.refused: dict[tuple[str, str], _Refused] = {}
        """By type and name; kept while Envoy is away, so a refusal that lasts is not reported as mended."""
        self.answers: dict[tuple[str, FleetId | Ref], tuple[Any, ...]] = {}
        """What queries last answered, by name and argument."""

    async def ready(self) -> None:
        """Return when its Envoy serves, or is to end. Raises ``EnvoyFailedError`` if it cannot be started."""
        decided = {State.READY, State.FAILED}
        await self.process.until(lambda: self.stop.is_set() or self.process.state in decided)
        if not self.stop.is_set():
            await self.process.ready()

    def refused_listeners(self) -> dict[str, _Refused]:
        """Envoy's listeners that it did not take as they are, by name."""
        return {name: why for (type_url, name), why in self.refused.items() if type_url == LISTENER}

    def words(self, rejection: Rejection) -> str:
        """Why a resource is refused, in words for a user where there are such."""
        known = self.refused.get((rejection.type_url, rejection.name))
        return known.words if known is not None else rejection.message

    def is_port(self, rejection: Rejection) -> bool:
        """Whether a resource is refused because its port cannot be bound."""
        known = self.refused.get((rejection.type_url, rejection.name))
        return known is not None and known.port

    def report(self, name: str, gateways: Iterable[Ref]) -> dict[str, Any]:
        return {
            "fleet": name,
            "gateways": [{"namespace": each.namespace, "name": each.name} for each in gateways],
            "envoy": {
                "state": str(self.process.state),
                "pid": self.process.pid,
                "restarts": self.process.restarts,
            },
        }
