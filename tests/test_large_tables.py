"""Tables that become large are scoped, and stay so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from moongate.api.envoygateway import RuntimeFlags
from moongate.attach import scopes
from moongate.attach.envoy_listeners import route_configurations
from moongate.large_tables import LargeTables
from moongate.world import World
from moongate.xds.wire import ROUTE, SCOPE
from tests import worlds
from tests.core import ON_HOST

if TYPE_CHECKING:
    import pytest

TABLE = "default/eg/http"


class Fleet:
    """A World of one Gateway, and what is said of its tables."""

    def __init__(self) -> None:
        flags = RuntimeFlags(enabled=("StableFilterChains", "MetadataWhereRead", "ScopedLargeTables"))
        self.world = World(structs.replace(ON_HOST, runtime_flags=flags))
        self.large = LargeTables(self.world)
        self.world.apply({each.ref: each for each in worlds.routes_with_backends(0)})
        self.world.pull()
        self.large.start(worlds.EG_FLEET)

    def serve(self, *hosts: str) -> None:
        """Let there be a route for each of these hostnames, and for no others."""
        for n in range(5):
            named = structs.replace(
                worlds.route(n), spec=structs.replace(worlds.route(n).spec, hostnames=hosts[n : n + 1])
            )
            self.world.apply({named.ref: named if n < len(hosts) else None})
        self.world.pull()

    def is_scoped(self) -> bool:
        [table] = route_configurations(self.world.db, worlds.EG_FLEET)
        types = self.world.xds()["default/eg"]
        assert bool(types.get(SCOPE)) == table.scoped
        assert bool(types.get(ROUTE)) != table.scoped
        return table.scoped


def test_a_table_is_scoped_from_so_many_hostnames_on_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be whole again, its listener would change once more."""
    monkeypatch.setattr(scopes, "LARGE", 3)
    fleet = Fleet()

    fleet.serve("a.test", "b.test")
    assert not fleet.is_scoped()
    fleet.serve("a.test", "b.test", "c.test")
    assert fleet.is_scoped()
    fleet.serve("a.test")
    assert fleet.is_scoped()


def test_wildcards_make_no_table_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "LARGE", 2)
    fleet = Fleet()

    fleet.serve("a.test", "*.b.test", "*.c.test")

    assert not fleet.is_scoped()


def test_nothing_is_said_of_a_fleet_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "LARGE", 1)
    fleet = Fleet()
    fleet.serve("a.test")
    assert fleet.is_scoped()

    fleet.large.end(worlds.EG_FLEET)
    fleet.world.pull()

    assert not fleet.is_scoped()
