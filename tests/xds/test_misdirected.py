"""Requests on a connection that was opened for another HTTPS listener."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from msgspec import structs

from moongate.api.base import FleetId, Resource
from moongate.api.envoygateway import EnvoyGateway, RuntimeFlag
from moongate.world import World
from moongate.xds.wire import ROUTE, SCOPE
from tests import core
from tests.connections import tls
from tests.core import GATEWAY_CLASS, ON_HOST, certificate, https, key_bytes, new_key, read, tls_secret
from tests.strategies import resource
from tests.worlds import EG, gateway_class

FLEET = FleetId(EG)
_KEY = new_key()


def with_flags(*flags: RuntimeFlag) -> EnvoyGateway:
    """As shipped, with more flags."""
    enabled = (*ON_HOST.runtime_flags.enabled, *flags)
    return structs.replace(ON_HOST, runtime_flags=structs.replace(ON_HOST.runtime_flags, enabled=enabled))


def gateway(*listeners: tuple[str, str], port: int = 443) -> Resource:
    """A Gateway with HTTPS listeners of these names and hostnames."""
    return resource("Gateway", "default", "eg", {"spec": {"gatewayClassName": "eg", "listeners": [
        {
            "name": name,
            "port": port,
            "protocol": "HTTPS",
            **({"hostname": hostname} if hostname else {}),
            "tls": {"certificateRefs": [{"name": "cert"}]},
        }
        for name, hostname in listeners
    ]}})  # fmt: skip


def world(*listeners: tuple[str, str], config: EnvoyGateway = ON_HOST, hosts: tuple[str, ...] = ()) -> World:
    """The listeners, and a route with some hostnames."""
    secret = resource("Secret", "default", "cert", {
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": certificate(_KEY, "a.test"), "tls.key": key_bytes(_KEY)},
    })  # fmt: skip
    route = resource("HTTPRoute", "default", "r", {
        "spec": {"parentRefs": [{"name": "eg"}], "hostnames": list(hosts), "rules": [{}]},
    })  # fmt: skip
    made = World(config)
    resources = [gateway_class(), gateway(*listeners), secret, *([route] if hosts else [])]
    made.apply({each.ref: each for each in resources})
    made.pull()
    return made


def answers(of: World, listener: str, part: str = "") -> dict[str, int]:
    """Domain → the status that it is answered with at once: 0 for a route, 404 for no route at all."""
    if part:
        name = f"xdstp:///envoy.config.route.v3.ScopedRouteConfiguration/default/eg/{listener}/scoped/{part}"
        held = of.resource(FLEET, SCOPE, name)
        assert held is not None
        table = ScopedRouteConfiguration.FromString(held.body).route_configuration
    else:
        held = of.resource(FLEET, ROUTE, f"default/eg/{listener}")
        assert held is not None
        table = RouteConfiguration.FromString(held.body)
    domains = [domain for host in table.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains)), "Envoy refuses a domain that stands twice"
    return {
        domain: host.routes[0].direct_response.status if host.routes else 404
        for host in table.virtual_hosts
        for domain in host.domains
    }


def test_hostnames_of_the_other_listeners_are_misdirected() -> None:
    made = world(("a", "a.test"), ("b", "b.test"), ("wide", "*.test"))

    assert answers(made, "a") == {"a.test": 404, "b.test": 421, "*.test": 421}
    assert answers(made, "wide") == {"a.test": 421, "b.test": 421}


def test_with_a_listener_for_all_hostnames_every_other_hostname_is_misdirected() -> None:
    made = world(("a", "a.test"), ("all", ""))

    assert answers(made, "a") == {"a.test": 404, "*": 421}
    assert answers(made, "all") == {"a.test": 421}


def test_hostnames_that_no_listener_has_are_not() -> None:
    assert answers(world(("a", "a.test"), ("b", "b.test")), "a") == {"b.test": 421}


def test_routes_answer_for_the_hostnames_of_their_listener() -> None:
    made = world(("a", "a.test"), ("wide", "*.test"), hosts=("a.test", "c.test"))

    assert answers(made, "a") == {"a.test": 500, "*.test": 421}
    assert answers(made, "wide") == {"a.test": 421, "c.test": 500}


@pytest.mark.parametrize("listener", ["a", "wide"])
def test_in_scoped_tables_the_shared_part_answers_for_them(listener: str) -> None:
    made = world(
        ("a", "a.test"), ("wide", "*.test"), hosts=("a.test", "c.test"), config=with_flags("ScopedTables")
    )

    assert answers(made, listener, "a.test" if listener == "a" else "c.test") == {
        "a.test" if listener == "a" else "c.test": 500
    }
    assert answers(made, listener, "_")["*.test" if listener == "a" else "a.test"] == 421


def test_without_the_flag_a_table_is_as_the_reference_has_it() -> None:
    flags = ON_HOST.runtime_flags.without("MisdirectedRequests")
    made = world(("a", "a.test"), ("b", "b.test"), config=structs.replace(ON_HOST, runtime_flags=flags))

    assert answers(made, "a") == {}


def test_a_route_that_changes_looks_at_no_listener_again() -> None:
    made = world(("a", "a.test"), ("b", "b.test"), hosts=("a.test",))
    changed = resource("HTTPRoute", "default", "r", {
        "spec": {"parentRefs": [{"name": "eg"}], "hostnames": ["a.test"],
                 "rules": [{"matches": [{"path": {"value": "/x"}}]}]},
    })  # fmt: skip
    made.apply({changed.ref: changed})
    with made.ran() as ran:
        made.pull()

    assert "neighbours" not in ran.counts()


def test_a_host_of_a_tls_listener_of_the_port_is_misdirected_as_well() -> None:
    """Its connections are passed on as they are, so a client has to open one for it."""
    texts = (
        GATEWAY_CLASS,
        core.gateway(https("wide", "cert", hostname="*.a.test"), tls("raw", "raw.a.test")),
        tls_secret("cert", "*.a.test"),
    )
    made = World.of([each for text in texts for each in read(text)], ON_HOST)

    assert answers(made, "wide") == {"raw.a.test": 421}
