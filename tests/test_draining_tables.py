"""What connections meet that outlive their listener, over a World and no process."""

from __future__ import annotations

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from msgspec import structs

from moongate.api.core import Secret
from moongate.api.gateway import Gateway, GatewayInfrastructure, GatewaySpec, Listener, ListenerTLSConfig
from moongate.api.shared import LocalObjectReference, SecretObjectReference
from moongate.attach.envoy_listeners import envoy_listeners, route_configurations
from moongate.attach.gateways import BIND
from moongate.draining_tables import DrainingTables
from moongate.world import Changes, World
from moongate.xds.draining import draining_tables
from moongate.xds.misdirected import MISDIRECTED
from moongate.xds.wire import ROUTE
from tests import worlds
from tests.core import ON_HOST, certificate, key_bytes, new_key

FORMER = "default/eg/http"
"""The name of the listener's table before anything is renamed."""
MOVED = f"{FORMER}/moved/1"
"""The name that it has at the first other place."""


_KEY = new_key()
CERTIFICATE = Secret(
    metadata=worlds.meta("cert"),
    type="kubernetes.io/tls",
    data={"tls.crt": certificate(_KEY, "*.test"), "tls.key": key_bytes(_KEY)},
)


class Fleet:
    """A Gateway with one route, and what its Envoys are to have."""

    def __init__(self, *listeners: Listener) -> None:
        self.world = World(ON_HOST)
        self.draining = DrainingTables(self.world)
        self.world.apply({each.ref: each for each in (*worlds.routes_with_services(1), CERTIFICATE)})
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
        """What the routes of a table match; ``None`` when the Envoys are to have none of that name."""
        resource = self.world.resource(worlds.EG_FLEET, ROUTE, name)
        if resource is None:
            return None
        message = RouteConfiguration.FromString(resource.body)
        assert message.name == name
        return [
            r.match.path_separated_prefix or r.match.prefix
            for h in message.virtual_hosts
            for r in h.routes
            if r.direct_response.status != MISDIRECTED
        ]

    def opened(self) -> dict[str, int]:
        """The Envoy listeners, each with its port."""
        return {each.name: each.container_port for each in envoy_listeners(self.world.db, worlds.EG_FLEET)}

    def forget(self, *, asked_for: bool) -> None:
        if self.draining.review(worlds.EG_FLEET, lambda _type, _name: asked_for):
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


def test_a_listener_that_moves_to_another_port_has_another_table_there() -> None:
    """The new port would be open with the routes of before for a moment, and old connections have the new."""
    fleet = Fleet()
    fleet.listen(worlds.http_listener("http", 81))

    assert (fleet.paths(), fleet.paths(MOVED)) == ([], ["/"])

    fleet.listen(worlds.http_listener("http", 82))
    assert (fleet.paths(), fleet.paths(MOVED), fleet.paths(f"{FORMER}/moved/2")) == ([], [], ["/"])


def test_a_listener_whose_former_port_is_taken_by_another_has_another_table_there() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("http", 81), worlds.http_listener("web", 80))

    assert (fleet.paths(), fleet.paths(MOVED)) == (["/"], ["/"])


def test_a_listener_that_comes_back_to_another_port_has_another_table_there() -> None:
    fleet = Fleet()
    fleet.listen(worlds.http_listener("web"))
    fleet.listen(worlds.http_listener("http", 81))

    assert (fleet.paths(), fleet.paths(MOVED)) == ([], ["/"])


def test_a_table_keeps_its_other_name_when_nothing_drains_any_more() -> None:
    """A change of the name would change the listener, and cut connections for nothing."""
    fleet = Fleet()
    fleet.listen(worlds.http_listener("http", 81))
    fleet.forget(asked_for=False)

    assert (fleet.paths(), fleet.paths(MOVED)) == (None, ["/"])

    fleet.listen(worlds.http_listener("web", 81))
    fleet.forget(asked_for=False)
    fleet.listen(worlds.http_listener("http", 82))
    assert (fleet.paths(), fleet.paths(MOVED)) == (["/"], None)


def test_a_table_has_another_name_where_its_port_is_open_on_another_address() -> None:
    """Who could not connect before must not meet the routes of before, not even for a moment."""
    fleet = Fleet()
    fleet.world.write(BIND, "10.0.0.1")
    fleet.settle()

    assert (fleet.paths(), fleet.paths(MOVED)) == (["/"], ["/"])


def test_https_listeners_that_exchange_their_hostnames_exchange_their_connections() -> None:
    fleet = Fleet(https("a", "a.test"), https("b", "b.test"))
    fleet.listen(https("a", "b.test"), https("b", "a.test"))

    kept = sorted(draining_tables(fleet.world.db, worlds.EG_FLEET))
    assert [member.name for table in kept for member in table.members] == ["b", "a"]

    fleet.listen(https("a", "*.test"))
    assert "default/eg/a/moved/2" not in {
        table.name for table in route_configurations(fleet.world.db, worlds.EG_FLEET)
    }


def test_an_https_listener_whose_former_hostname_is_another_ones_has_another_table() -> None:
    """Whoever has connected for that hostname must meet the routes of the other."""
    fleet = Fleet(https("one", "a.test"), https("two", "h0.example.com"))
    fleet.listen(https("one", "*.example.com"), https("two", "a.test"))

    assert fleet.paths("default/eg/two") == fleet.paths("default/eg/one/moved/1") == ["/"]
    assert fleet.paths("default/eg/two/moved/1") == []


def test_an_https_listener_whose_former_hostname_is_nobodys_keeps_its_table() -> None:
    fleet = Fleet(https("one", "h0.example.com"))
    for hostname in ("*.example.com", "", "h0.example.com", "a.test"):
        fleet.listen(https("one", hostname))

        assert fleet.paths("default/eg/one/moved/1") is None


def test_an_https_listener_that_loses_a_hostname_to_a_narrower_one_has_another_table() -> None:
    """Envoy switches to both chains at once, and a connection from before asks for what either serves."""
    wide, narrow = https("wide", "*.example.com"), https("narrow", "h0.example.com")
    fleet = Fleet(wide)
    fleet.listen(wide, narrow)

    assert fleet.paths("default/eg/wide") == fleet.paths("default/eg/narrow") == ["/"]
    assert fleet.paths("default/eg/wide/moved/1") == []
    assert fleet.opened() == {"default/eg/wide": 443}, "other connections of the port live on"

    fleet.listen(wide)

    assert fleet.paths("default/eg/wide/moved/1") == fleet.paths("default/eg/narrow") == ["/"]
    assert fleet.paths("default/eg/wide/moved/2") == ["/"]


def test_a_narrower_listener_of_another_port_takes_no_hostname_away() -> None:
    fleet = Fleet(https("wide", "*.test"))
    fleet.listen(https("wide", "*.test"), structs.replace(https("narrow", "a.test"), port=444))

    assert fleet.paths("default/eg/wide") is not None
    assert fleet.paths("default/eg/wide/moved/1") is None


def test_a_listener_that_moves_is_another_one_of_envoys() -> None:
    """It is closed here and opened there, so that a port that changes hands stays open."""
    fleet = Fleet(worlds.http_listener("one"), worlds.http_listener("two", 81))
    fleet.listen(worlds.http_listener("one", 81), worlds.http_listener("two"))

    assert fleet.opened() == {"default/eg/one/moved/1": 81, "default/eg/two/moved/1": 80}

    fleet.listen(worlds.http_listener("one", 82), worlds.http_listener("two"))
    assert fleet.opened() == {"default/eg/one/moved/2": 82, "default/eg/two/moved/1": 80}


def https(name: str, hostname: str) -> Listener:
    certificates = (SecretObjectReference(name="cert"),)
    tls = ListenerTLSConfig(mode="Terminate", certificate_refs=certificates)
    return structs.replace(worlds.http_listener(name, 443, hostname), protocol="HTTPS", tls=tls)


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


def test_a_listener_of_connections_that_moves_has_another_name() -> None:
    """Envoy would refuse one that comes to an address which another one leaves."""
    fleet = Fleet(worlds.tcp_listener(1))
    moved = structs.replace(worlds.tcp_listener(1), port=9999)

    fleet.listen(moved)

    assert [each.name for each in envoy_listeners(fleet.world.db, worlds.EG_FLEET)] == [
        "default/eg/tcp-1/moved/1"
    ]


def test_a_listener_that_changes_from_tcp_to_udp_has_another_name() -> None:
    fleet = Fleet(worlds.tcp_listener(1))

    fleet.listen(structs.replace(worlds.tcp_listener(1), protocol="UDP"))

    [listener] = envoy_listeners(fleet.world.db, worlds.EG_FLEET)
    assert (listener.name, listener.is_udp) == ("default/eg/tcp-1/moved/1", True)
