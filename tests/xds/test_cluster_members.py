"""Which backends a cluster has."""

from __future__ import annotations

from moongate.xds.cluster_keys import RuleCluster
from moongate.xds.cluster_members import Member, backends_of, members_of
from moongate.xds.needed_resources import route_resources
from tests.connections import connection_ref, connection_route, raw
from tests.core import EG_FLEET, ON_HOST, Core, gateway, http
from tests.routes import http_route, route_ref, rule, service

SHARES = "{name: shop, port: 80, weight: 2}", "{name: more, port: 80}", "{name: none, port: 80, weight: 0}"


def own_cluster(core: Core, route: str = "HTTPRoute") -> RuleCluster:
    of = route_ref() if route == "HTTPRoute" else connection_ref(route)
    [key] = route_resources(core.db, EG_FLEET, of)
    assert isinstance(key, RuleCluster)
    return key


def localities(members: list[Member] | None) -> list[tuple[str, int]]:
    return [(each.locality, each.weight) for each in members or ()]


def test_each_backend_that_gets_requests_is_a_locality_named_by_its_index() -> None:
    core = Core(gateway(http("web")), service(), service("more"), http_route(rule("", *SHARES)))
    key = own_cluster(core)

    assert localities(members_of(core.db, key)) == [
        (f"{key.name}/backend/0", 2),
        (f"{key.name}/backend/1", 1),
    ]


def test_a_cluster_whose_rule_is_gone_has_none() -> None:
    core = Core(gateway(http("web")), service(), http_route())
    key = own_cluster(core)

    core.delete("HTTPRoute", "default", "shop")

    assert members_of(core.db, key) is None


def test_a_cluster_of_connections_may_have_none_that_can_be_used() -> None:
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"), config=ON_HOST)

    assert members_of(core.db, own_cluster(core, "TCPRoute")) == []


def test_backends_are_spoken_to_as_the_kind_of_route_wants() -> None:
    core = Core(gateway(http("web")), service(), http_route())
    key = own_cluster(core)
    members = members_of(core.db, key)

    assert members is not None
    assert [backend.protocol for backend in backends_of(core.db, key, members)] == ["HTTP"]
