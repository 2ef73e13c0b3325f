"""What the status of a Gateway says of its Envoy."""

from __future__ import annotations

import pytest

from moongate.ads.server import AdsServer
from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.envoy_states import UNOPENED, EnvoyStates
from moongate.quarantine import Quarantine
from moongate.running_fleet import Late, RefusedResource, RunningFleet
from moongate.status.gateways import RefusedListener
from moongate.xds.wire import LISTENER
from tests.core import EG, gateway, http
from tests.fleets import unstarted

WEB = "default/eg/web"


@pytest.fixture
def fleet() -> tuple[RunningFleet, EnvoyStates]:
    world, fleet = unstarted(gateway(http("web")))
    return fleet, EnvoyStates(world, AdsServer(lambda _: None), Quarantine(world))


async def test_an_envoy_that_is_not_there_serves_nothing(fleet: tuple[RunningFleet, EnvoyStates]) -> None:
    running, states = fleet

    state = states.state_of("default/eg", running, EG, ())

    assert (state.serving, state.addresses, state.refused_listeners) == (0, (), ())


async def test_a_port_that_is_taken_is_said_of_its_listener(fleet: tuple[RunningFleet, EnvoyStates]) -> None:
    """With what that means for requests, and only where the Gateway has this listener."""
    running, states = fleet
    running.refused[LISTENER, WEB] = RefusedResource("Port 80 is taken.", port=True)

    state = states.state_of("default/eg", running, EG, ())
    other = states.state_of("default/eg", running, Ref.of(Gateway, "default", "other"), ())

    assert state.refused_listeners == (
        RefusedListener("web", "PortUnavailable", f"Port 80 is taken. {UNOPENED}"),
    )
    assert other.refused_listeners == ()


async def test_what_a_late_envoy_has_not_acknowledged_is_named(
    fleet: tuple[RunningFleet, EnvoyStates],
) -> None:
    running, states = fleet
    assert states.state_of("default/eg", running, EG, ()).unopened == ()
    running.late = Late(0.0, "It owes an answer.")
    running.listening[WEB] = "older"

    state = states.state_of("default/eg", running, EG, ())

    assert (state.late, state.unopened) == ("It owes an answer.", ("web",))
