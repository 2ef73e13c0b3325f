"""One running fleet: where it can be reached, and what it remembers while a query fails."""

from __future__ import annotations

import pytest

from moongate.attach.fleets import BIND, members
from moongate.running_fleet import RefusedResource, RunningFleet
from moongate.world import World
from moongate.xds.wire import LISTENER
from tests.core import EG, gateway, http, read
from tests.faults import faulty, put_fault
from tests.fleets import unstarted

OPEN, NAMED = "default/eg/open", "default/eg/named"
FIRST = {OPEN: "1", NAMED: "1"}.get


def running() -> tuple[World, RunningFleet]:
    """A fleet of a Gateway with two listeners; its process is not started."""
    manifest = gateway(http("open", port=8080), http("named", port=8081, hostname="a.example"))
    return unstarted(manifest)


@pytest.mark.parametrize(
    ("bind", "host"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")]
)
async def test_urls_name_an_address_that_a_client_can_use(bind: str, host: str) -> None:
    world, fleet = running()
    world.write(BIND, bind)
    world.pull()
    fleet.listening = {OPEN: "1", NAMED: "1"}

    assert set(fleet.urls(FIRST)) == {f"http://{host}:8080", "http://a.example:8081"}


async def test_a_listener_that_envoy_refuses_has_no_url() -> None:
    """Its old version may be in force, but nobody knows on which port that listens."""
    _, fleet = running()
    fleet.listening = {OPEN: "1", NAMED: "1"}
    fleet.refused[LISTENER, OPEN] = RefusedResource("port 8080 is taken", port=True)

    assert list(fleet.urls(FIRST)) == ["http://a.example:8081"]


async def test_a_listener_that_moves_has_no_url_until_envoy_has_it_there() -> None:
    """Envoy may find that the new port is taken. One that changes otherwise is served all the time."""
    world, fleet = running()
    fleet.listening = {OPEN: "1", NAMED: "1"}
    before = set(fleet.urls(FIRST))

    moved = gateway(http("open", port=8090), http("named", port=8081, hostname="a.example"))
    world.apply({resource.ref: resource for resource in read(moved)})
    world.pull()
    second = {OPEN: "2", NAMED: "2"}
    meanwhile = set(fleet.urls(second.get))
    fleet.listening = dict(second)
    after = set(fleet.urls(second.get))

    assert before == {"http://127.0.0.1:8080", "http://a.example:8081"}
    assert meanwhile == {"http://a.example:8081"}
    assert after == {"http://127.0.0.1:8090", "http://a.example:8081"}


async def test_the_last_answer_holds_while_a_query_fails() -> None:
    """Envoy has it in force: a failed query does not mean that the fleet has no Gateway."""
    with faulty():
        world, fleet = running()
        before = fleet.gateways()
        put_fault(world, (members, (fleet.id,)), "before")
        world.pull()

        assert before == (EG,)
        assert fleet.gateways() == before
