"""What the status of a Gateway or ListenerSet says of its Envoy: whether it serves, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.infra.process import State
from moongate.status.gateways import EnvoyState, RefusedListener
from moongate.xds.wire import LISTENER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.ads.events import Rejection
    from moongate.ads.server import AdsServer
    from moongate.api.base import ListenerId, Ref
    from moongate.quarantine import Quarantine, Refusal
    from moongate.running_fleet import RunningFleet
    from moongate.world import World

UNOPENED: Final = "Until then moongate serves nothing there, and asks again from time to time."
"""What a port that cannot be had means for requests."""


class EnvoyStates:
    """Looks up the states of running Envoys.

    Args:
        world: has the resources of the Envoys.
        ads: knows what they have, and refuse.
        quarantine: looks for what is at fault in that.
    """

    def __init__(self, world: World, ads: AdsServer, quarantine: Quarantine) -> None:
        self._world = world
        self._ads = ads
        self._quarantine = quarantine

    def refused_by(self, name: str, fleet: RunningFleet) -> Iterator[Rejection]:
        """The resources that a fleet refuses. The stream learns later of removals, so they are left out."""
        return (r for r in self._ads.quarantine(name) if (r.type_url, r.name) in fleet.refused)

    def state_of(
        self, name: str, fleet: RunningFleet, owner: Ref, refusals: tuple[Refusal, ...]
    ) -> EnvoyState:
        """The state of the Envoy of a Gateway or ListenerSet.

        Args:
            name: the name of the fleet.
            fleet: the fleet with its Envoy.
            owner: the Gateway or ListenerSet.
            refusals: what the quarantine has taken out of force.
        """
        # The quarantine cannot take out an entry of these.
        stuck = [r for r in self.refused_by(name, fleet) if not self._is_searched(fleet, r)]
        members = fleet.listener_members() if stuck else {}
        messages = [
            f"{r.type_url.rpartition('.')[2]} {r.name}: {fleet.message(r)}"
            for r in stuck
            if r.type_url != LISTENER or _is_of(owner, members.get(r.name))
        ]
        own = [r for r in refusals if r.fleet == fleet.id and _concerns(r, owner)]
        messages += [f"{r.what}: {r.message}" for r in own]
        if fleet.process.bootstrap_error:
            messages.append(f"its bootstrap, and the former one stays: {fleet.process.bootstrap_error}")
        if fleet.process.arguments_error:
            messages.append(
                "its arguments (extraArgs of the EnvoyProxy), and the former ones stay: "
                f"{fleet.process.arguments_error}"
            )
        names = {r.name for r in stuck}
        refused = {at: why for at, why in fleet.refused_listeners().items() if why.port or at in names}
        refused = {at: why for at, why in refused.items() if not fleet.may_get_port(why)}
        served = fleet.listener_members() if refused else {}
        out = {member.name: r.message for r in own for member in r.listeners if member.owner == owner}
        serving = fleet.process.state is State.READY and bool(self._ads.nodes(name))
        return EnvoyState(
            serving=int(serving),
            start_error=fleet.process.start_error,
            late=fleet.late.message if fleet.late is not None else "",
            addresses=fleet.hosts() if serving else (),
            refusals=tuple(messages),
            refused_listeners=(
                *(
                    RefusedListener(
                        member.name,
                        "PortUnavailable" if why.port else "Invalid",
                        f"{why.message} {UNOPENED}" if why.port else why.message,
                    )
                    for name, why in sorted(refused.items())
                    for member in served.get(name, ())
                    if member.owner == owner
                ),
                *(RefusedListener(at, "Invalid", message) for at, message in sorted(out.items())),
            ),
            unopened=tuple(self._unopened(name, fleet, owner)) if fleet.late is not None else (),
        )

    def _unopened(self, name: str, fleet: RunningFleet, owner: Ref) -> Iterator[str]:
        """The listeners of a Gateway or ListenerSet whose newest version its Envoy has not acknowledged."""
        for envoy_listener, members in fleet.listener_members().items():
            if fleet.listening.get(envoy_listener) != self._ads.version(name, LISTENER, envoy_listener):
                yield from (member.name for member in members if member.owner == owner)

    def _is_searched(self, fleet: RunningFleet, rejection: Rejection) -> bool:
        """Whether the quarantine may still find the entry at fault; statuses then report that entry only."""
        about = (fleet.id, rejection.type_url, rejection.name)
        current = self._world.resource(*about)
        changed = current is None or current.version != rejection.version
        return self._quarantine.searches(*about) and (changed or self._quarantine.is_searching(*about))


def _is_of(owner: Ref, members: tuple[ListenerId, ...] | None) -> bool:
    """Whether a Gateway or ListenerSet has one of some listeners; so if these are not known."""
    return members is None or any(member.owner == owner for member in members)


def _concerns(refusal: Refusal, owner: Ref) -> bool:
    """Whether the status of a Gateway or ListenerSet reports a refusal: others may share the fleet."""
    return not refusal.listeners or any(listener.owner == owner for listener in refusal.listeners)
