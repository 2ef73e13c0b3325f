"""What connections meet that outlive their listener, over a World and no process."""

from __future__ import annotations

from envoy.config.route.v3.route_pb2 import RouteConfiguration

from moongate.api.gateway import Gateway, GatewayInfrastructure, GatewaySpec, Listener
from moongate.api.shared import LocalObjectReference
from moongate.draining_tables import DrainingTables
from moongate.world import Changes, World
from moongate.xds.draining import draining_tables
from moongate.xds.wire import ROUTE
from tests import worlds
from tests.core import ON_HOST

FORMER = "default/eg/http"
"""The name of the listener's table before anything is renamed."""


class Fleet:
    """A Gateway with one route, and what its Envoys are to have."""

    def __init__(self, *listeners: Listener) -> None:
        self.world = World(ON_HOST)
        self.draining = DrainingTables(self.world)
        self.world.apply({each.ref: each for each in worlds.routes_with_services(1)})
        self.listen(*(listeners or (worlds.http_listener("http"),)))

    def listen(self, *listeners: Listener) -> Changes:
        """Let the Gateway have these listeners, and hand out what differs."""
        gateway = worlds.gateway(*listeners)
        self.world.apply({gateway.ref: gateway})
        return self.settle()

    def settle(self) -> Changes:
        changes = self.world.pull()
        if worlds.EG_FLEET in changes.fleets.values():
            self.draining.start(worlds.EG_FLEET)
            self.world.pull()
        return changes

    def paths(self, name: str = FORMER) -> list[str] | None:
        """What a route configuration matches; ``None`` when the Envoys are to have none of that name."""
        resource = self.world.resource(worlds.EG_FLEET, ROUTE, name)
        if resource is None:
            return None
        message = RouteConfiguration.FromString(resource.body)
        assert message.name == name
        return [
            r.match.path_separated_prefix or r.match.prefix for h in message.virtual_hosts for r in h.routes
        ]

    def forget(self, *, asked_for: bool) -> None:
        if self.draining.review(worlds.EG_FLEET, lambda _: asked_for):
            self.world.pull()


def test_a_connection_that_outlives_its_listener_meets_the_routes_of_the_next_one() -> None:
    """Otherwise it would go around a policy that came later."""
    fleet = Fleet()
    changes = fleet.listen(worlds.http_listener("web"))

    assert fleet.paths() == fleet.paths("default/eg/web") == ["/"]
    assert (ROUTE, FORMER) not in changes.gone.get("default/eg", ())

    route = worlds.route(0, "/later")
    fleet.world.apply({route.ref: route})
    fleet.settle()
    assert fleet.paths() == ["/later"]


def test_where_no_new_connection_would_be_accepted_an_old_one_meets_no_route() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("web", 81))

    assert fleet.paths() == []
    assert fleet.paths("default/eg/web") == ["/"]


def test_nothing_is_kept_when_no_envoy_asks_for_it_any_more() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("web"))
    fleet.forget(asked_for=True)
    assert fleet.paths() == ["/"]

    fleet.forget(asked_for=False)

    assert fleet.paths() is None
    assert draining_tables(fleet.world.db, worlds.EG_FLEET) == ()


def test_a_table_that_is_back_is_its_listeners_own() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("web", 81))
    fleet.listen(worlds.http_listener("http"))

    assert fleet.paths() == ["/"]
    assert FORMER not in {table.name for table in draining_tables(fleet.world.db, worlds.EG_FLEET)}


def test_while_a_gateway_is_rejected_its_envoys_keep_their_routes() -> None:
    fleet = Fleet()
    proxy = LocalObjectReference(group="gateway.envoyproxy.io", kind="EnvoyProxy", name="none")
    spec = GatewaySpec(
        gateway_class_name="eg",
        listeners=(worlds.http_listener("web"),),
        infrastructure=GatewayInfrastructure(parameters_ref=proxy),
    )
    rejected = Gateway(metadata=worlds.meta("eg"), spec=spec)
    fleet.world.apply({rejected.ref: rejected})
    fleet.settle()
    assert fleet.paths() == ["/"]

    fleet.listen(worlds.http_listener("http"))
    assert fleet.paths() == ["/"]
    assert draining_tables(fleet.world.db, worlds.EG_FLEET) == ()


def test_nothing_is_left_of_a_fleet_that_has_ended() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("web"))

    fleet.draining.end(worlds.EG_FLEET)
    fleet.settle()

    assert fleet.paths() is None
