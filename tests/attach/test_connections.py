"""Which route gets the connections of a listener."""

from __future__ import annotations

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener

from moongate.attach.connections import connection_shards, connections_in, hosts_in_doubt, own_hosts, route_of
from moongate.attach.routes import attachments_at
from moongate.world import World
from moongate.xds.wire import LISTENER
from tests.connections import NEW, OLD, chains, connection_ref, connection_route, listener_id, raw, tls
from tests.core import EG, EG_FLEET, GATEWAY_CLASS, IN_CLUSTER, Core, gateway, read
from tests.faults import faulty, put_fault

TLS, RAW = listener_id("tls"), listener_id("raw")


def test_the_oldest_route_of_a_hostname_has_it() -> None:
    core = Core(
        gateway(tls("tls")),
        connection_route("TLSRoute", name="a", hostnames=("x.test", "a.test"), created=NEW),
        connection_route("TLSRoute", name="b", hostnames=("x.test",), created=OLD),
    )
    a, b = connection_ref("TLSRoute", "a"), connection_ref("TLSRoute", "b")

    assert route_of(core.db, TLS, "x.test") == b
    assert (own_hosts(core.db, TLS, a), own_hosts(core.db, TLS, b)) == (("a.test",), ("x.test",))


def test_of_two_as_old_the_first_by_name_has_a_hostname() -> None:
    core = Core(gateway(raw("raw", "TCP")), *(connection_route("TCPRoute", name=name) for name in ("b", "a")))

    assert route_of(core.db, RAW, "*") == connection_ref("TCPRoute", "a")


def test_a_route_has_the_hostname_of_its_listener_where_its_own_is_wider() -> None:
    core = Core(
        gateway(tls("tls", "a.x.test")), connection_route("TLSRoute", hostnames=("*.x.test", "b.x.test"))
    )

    assert own_hosts(core.db, TLS, connection_ref("TLSRoute")) == ("a.x.test",)


def test_a_hostname_belongs_to_the_narrowest_listener_of_the_port() -> None:
    """Also where that one takes no such route."""
    core = Core(
        gateway(tls("tls", "*.x.test"), tls("narrow", "a.x.test", "cert")),
        connection_route(
            "TLSRoute", hostnames=("a.x.test", "b.x.test"), parent="{name: eg, sectionName: tls}"
        ),
    )

    assert own_hosts(core.db, TLS, connection_ref("TLSRoute")) == ("b.x.test",)


def test_a_route_is_named_by_section_by_port_or_not_at_all() -> None:
    core = Core(gateway(raw("raw", "TCP"), raw("more", "TCP", 9001)))
    for parent, wanted in [
        ("{name: eg, sectionName: raw}", {"raw"}),
        ("{name: eg, port: 9001}", {"more"}),
        ("{name: eg}", {"raw", "more"}),
    ]:
        core.apply(connection_route("TCPRoute", parent=parent))

        taken = {name for name in ("raw", "more") if route_of(core.db, listener_id(name), "*") is not None}
        assert taken == wanted


@pytest.mark.parametrize(("kind", "protocol"), [("TCPRoute", "TCP"), ("UDPRoute", "UDP")])
def test_a_route_with_two_rules_is_taken_by_no_listener(kind: str, protocol: str) -> None:
    rule = {"backendRefs": [{"name": "shop", "port": 80}]}
    core = Core(gateway(raw("raw", protocol)), connection_route(kind, rules=[rule, rule]))
    [attachment] = attachments_at(core.db, connection_ref(kind), EG)

    assert attachment.problem is not None
    assert attachment.problem.reason == "InvalidRule"
    assert route_of(core.db, RAW, "*") is None


def test_a_listener_knows_the_shards_of_its_routes_alone() -> None:
    core = Core(
        gateway(raw("raw", "TCP"), tls("tls")),
        connection_route("TCPRoute"),
        connection_route("TLSRoute", hostnames=("x.test",)),
    )
    [part] = connection_shards(core.db, RAW)

    assert connections_in(core.db, EG, part)[RAW] == (connection_ref("TCPRoute"),)
    assert connection_shards(core.db, TLS) != ()


def test_the_connections_of_a_route_that_cannot_be_judged_go_to_no_other() -> None:
    """It may be the older one of two."""
    with faulty():
        world = World(IN_CLUSTER)
        a, b = connection_ref("TLSRoute", "a"), connection_ref("TLSRoute", "b")
        put_fault(world, (attachments_at, (a, EG)), "before")
        texts = (
            GATEWAY_CLASS,
            gateway(tls("tls")),
            connection_route("TLSRoute", name="a", hostnames=("x.test",), created=OLD),
            connection_route("TLSRoute", name="b", hostnames=("*.test", "x.test"), created=NEW),
        )
        world.apply({resource.ref: resource for text in texts for resource in read(text)})
        world.pull()

        assert route_of(world.db, TLS, "x.test") == a
        assert hosts_in_doubt(world.db, TLS, a) == ("x.test",)
        assert own_hosts(world.db, TLS, b) == ("*.test",)
        listener = world.resource(EG_FLEET, LISTENER, "default/eg/tls")
        assert listener is not None
        assert chains(Listener.FromString(listener.body)) == {
            ("x.test",): "",
            ("*.test",): "tlsroute/default/b/rule/-1",
        }
