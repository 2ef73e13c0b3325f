"""Which clusters and secrets the routes of a fleet need."""

from __future__ import annotations

from msgspec import structs

from moongate.api.httproute import HTTPRoute
from moongate.engine import Failed
from moongate.store import SHARDS, get
from moongate.xds.needed_resources import resource_keys, route_resources
from tests.core import EG_FLEET, Core, gateway, http, https
from tests.routes import http_route, route_ref, rule, service


def test_a_listener_that_is_not_served_causes_no_clusters() -> None:
    core = Core(gateway(https("web", "gone")), service(), http_route())

    assert route_resources(core.db, EG_FLEET, route_ref()) == ()


def test_clusters_of_several_listeners_are_listed_once() -> None:
    core = Core(gateway(http("web"), http("alt", port=81)), service(), http_route(rule(), rule()))

    assert [key.name for key in route_resources(core.db, EG_FLEET, route_ref())] == [
        "httproute/default/shop/rule/0",
        "httproute/default/shop/rule/1",
    ]


def test_a_route_whose_clusters_are_unknown_does_not_take_those_of_others_along() -> None:
    core = Core(gateway(http("web")), service(), *(http_route(name=f"r{n}") for n in range(3)))
    broken = get(core.db, HTTPRoute, route_ref("r1"))
    assert broken is not None
    core.db.put(broken.ref, structs.replace(broken, spec=structs.replace(broken.spec, rules=(None,))))

    assert isinstance(route_resources.attempt(core.db, EG_FLEET, broken.ref), Failed)
    needed = [each for part in range(SHARDS) for each in resource_keys(core.db, EG_FLEET, part)]
    assert {each.route.name: ([key.name for key in each.keys], each.all_known) for each in needed} == {
        "r0": (["httproute/default/r0/rule/0"], True),
        "r1": ([], False),
        "r2": (["httproute/default/r2/rule/0"], True),
    }
