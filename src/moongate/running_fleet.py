"""One fleet whose Envoy runs on this machine: its process, what it refuses, and where it serves.

``fleets`` starts and ends these, and passes events and xDS resources between them and the world.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from moongate import names
from moongate.ads.udp_ports import UdpPorts
from moongate.api.base import FleetId, Ref
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import bind_addresses, members
from moongate.attach.listeners import fleet_owners, listeners
from moongate.engine import Failed
from moongate.infra.port_handover import PortHandover
from moongate.infra.process import EnvoyProcess, State
from moongate.xds.wire import LISTENER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moongate.ads.events import Rejection
    from moongate.ads.needs import Socket
    from moongate.api.base import ListenerId
    from moongate.engine import Query
    from moongate.infra.bootstrap import EnvoyOptions
    from moongate.world import World
    from moongate.xds.bootstraps import BootstrapParts

K = TypeVar("K", FleetId, Ref)
T = TypeVar("T")

_CONNECT_TO: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address of clients' requests
"""The address that a client on this machine uses when Envoy listens on all addresses."""


class RefusedResource(Struct, frozen=True):
    """Why Envoy refuses a resource, as last logged. The same refusal is not logged twice."""

    message: str
    port: bool
    """Whether it is refused because its port cannot be bound."""
    handed_over: bool = False
    """Whether an Envoy of moongate was giving up ports then. The next answer says who else has the port."""


class Late(Struct, frozen=True):
    """Since when an Envoy owes an answer.

    Args:
        since: on the clock of the event loop.
        message: the same for users, with what it means for requests.
    """

    since: float
    message: str


class RunningFleet:
    """The Envoy of one fleet.

    Args:
        world: has the Gateways and listeners of the fleet.
        id_: the fleet.
        process: the Envoy.
        options: the options with which the process was created.
        made_of: what its bootstrap was made of.
    """

    def __init__(
        self,
        world: World,
        id_: FleetId,
        process: EnvoyProcess,
        options: EnvoyOptions,
        made_of: BootstrapParts,
    ) -> None:
        self._world = world
        self.id = id_
        self.process = process
        self.options = options
        """The options that the EnvoyProxy last asked for."""
        self.made_of = made_of
        """What the bootstrap that the EnvoyProxy last asked for is made of."""
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.retrying = False
        """Whether a task waits to send the listeners again whose ports were taken."""
        self.awaiting = 0
        """How many tasks wait for starting Envoys, which are to take over ports of this one."""
        self.late: Late | None = None
        """Whether it owes an answer for too long."""
        self.handover = PortHandover()
        self.listening: dict[str, str] = {}
        """The listeners that Envoy has in force, name → version."""
        self.ports: dict[str, int] = {}
        """The port of each of them, as it was when Envoy last had the version that was handed out."""
        self.udp_ports = UdpPorts()
        self.refused: dict[tuple[str, str], RefusedResource] = {}
        """By type and name. Entries stay while Envoy is away, because a refusal usually lasts longer."""
        self._answers: dict[tuple[str, FleetId | Ref], tuple[Any, ...]] = {}
        """The last good answers of queries, by name and argument."""

    async def ready(self) -> None:
        """Return when its Envoy serves, or is to end. Raises ``EnvoyFailedError`` if it cannot be started."""
        decided = {State.READY, State.FAILED}
        await self.process.until(lambda: self.stop.is_set() or self.process.state in decided)
        if not self.stop.is_set():
            await self.process.ready()

    async def closed(self) -> None:
        """Return when its Envoy, which is to end, takes no connections any more."""
        await self.process.until(lambda: self.process.state is not State.READY)

    async def started(self) -> None:
        """Return when its Envoy has tried to open its listeners, or could not be started."""
        await self.process.until(lambda: self.process.state is not State.STARTING)

    def end(self) -> None:
        """Let its Envoy end."""
        self.stop.set()
        self.handover.cancel()

    def gateways(self) -> tuple[Ref, ...]:
        """The Gateways that share the fleet."""
        return self._query(members, self.id)

    def owners(self) -> tuple[Ref, ...]:
        """The Gateways and ListenerSets whose listeners the fleet has."""
        return self._query(fleet_owners, self.id)

    def hosts(self) -> tuple[str, ...]:
        """The addresses at which clients on this machine reach the fleet; at least one."""
        reached = (_CONNECT_TO.get(a, a) for a in self._query(bind_addresses, self.id))
        return tuple(dict.fromkeys(reached)) or ("127.0.0.1",)

    def listener_members(self) -> dict[str, tuple[ListenerId, ...]]:
        """The Gateway listeners that share each Envoy listener, by its name."""
        return {envoy.name: envoy.members for envoy in self._query(envoy_listeners, self.id)}

    def urls(self, version_of: Callable[[str], str | None]) -> Iterator[str]:
        """The URLs of the listeners that Envoy has in force.

        Args:
            version_of: the version of an Envoy listener that was last handed out; ``None`` if there is none.
        """
        refused = self.refused_listeners()
        serving: set[ListenerId] = set()
        for envoy in self._query(envoy_listeners, self.id):
            version = version_of(envoy.name)
            if version is not None and self.listening.get(envoy.name) == version:
                self.ports[envoy.name] = envoy.container_port
            # Until Envoy has the new version of a listener that moves, it listens on the former port.
            if envoy.name not in refused and self.ports.get(envoy.name) == envoy.container_port:
                serving |= set(envoy.members)
        (host, *_) = self.hosts()
        for listener in (each for owner in self.owners() for each in self._query(listeners, owner)):
            if listener.id in serving:
                named = listener.hostname and "*" not in listener.hostname
                at = listener.hostname if named else f"[{host}]" if ":" in host else host
                yield f"{listener.protocol.lower()}://{at}:{listener.container_port}"

    def served_at(self, socket: Socket) -> tuple[ListenerId, ...]:
        """The listeners of Gateways that Envoy serves at a port of UDP, itself or by HTTP/3."""
        serving = self.udp_ports.serving(socket)
        return tuple(
            member
            for name, members in (self.listener_members() if serving else {}).items()
            if name in serving or names.quic(name) in serving
            for member in members
        )

    def refused_listeners(self) -> dict[str, RefusedResource]:
        """The Envoy listeners whose newest version Envoy refuses, by name."""
        return {name: why for (type_url, name), why in self.refused.items() if type_url == LISTENER}

    def message(self, rejection: Rejection) -> str:
        """Why Envoy refuses a resource: a sentence for the user if there is one, else Envoy's message."""
        refused = self._refused(rejection)
        return refused.message if refused is not None else rejection.message

    def is_port(self, rejection: Rejection) -> bool:
        """Whether Envoy refuses a resource because its port cannot be bound."""
        refused = self._refused(rejection)
        return refused is not None and refused.port

    def is_handed_over(self, rejection: Rejection) -> bool:
        """Whether the port that Envoy cannot bind may be free in a moment, as ``may_get_port`` has it."""
        refused = self._refused(rejection)
        return refused is not None and self.may_get_port(refused)

    def may_get_port(self, refused: RefusedResource) -> bool:
        """Whether a port may be free in a moment, because another Envoy of moongate is giving up ports."""
        return refused.port and (self.handover.under_way or refused.handed_over)

    def _refused(self, rejection: Rejection) -> RefusedResource | None:
        return self.refused.get((rejection.type_url, rejection.name))

    def report(self, name: str, now: float) -> dict[str, Any]:
        """The fleet as ``moongate status`` shows it.

        Args:
            name: the name of the fleet.
            now: the time on the clock of the event loop.
        """
        return {
            "fleet": name,
            "gateways": [{"namespace": each.namespace, "name": each.name} for each in self.gateways()],
            "envoy": {
                "state": str(self.process.state),
                "pid": self.process.pid,
                "restarts": self.process.restarts,
                "unacknowledged_s": None if self.late is None else round(now - self.late.since),
                "adopted": self.process.adopted,
                "admin": str(self.process.admin),
            },
        }

    def _query(self, query: Query[[K], tuple[T, ...]], key: K) -> tuple[T, ...]:
        """The answer of a query; while it fails, the last good answer, as Envoy has that in force."""
        answer = query.attempt(self._world.db, key)
        if isinstance(answer, Failed):
            return self._answers.get((query.name, key), ())
        self._answers[query.name, key] = answer
        return answer
