"""On which listeners a route is served, and in which order."""

from __future__ import annotations

from moongate.xds.served_listeners import first_gateway, served_on
from tests.core import EG, EG_FLEET, Core, gateway, http, https, listener_set
from tests.routes import dump, http_route, load, route_ref, service


def with_parents(*parents: str) -> str:
    document = load(http_route())
    document["spec"]["parentRefs"] = list(map(load, parents))
    return dump(document)


def test_listeners_stand_in_the_order_of_the_parents_and_a_gateway_before_its_sets() -> None:
    web, alt = "{name: eg, sectionName: web}", "{name: eg, sectionName: alt}"
    more = "{group: gateway.networking.k8s.io, kind: ListenerSet, name: more}"
    own = (
        gateway(http("web"), http("alt", port=81), allowedListeners={"namespaces": {"from": "Same"}}),
        listener_set(http("set", port=82)),
    )
    core = Core(*own, service(), with_parents(more, alt, web))

    assert [at.name for at in served_on(core.db, EG_FLEET, route_ref())] == ["alt", "web", "set"]


def test_a_listener_that_is_not_served_is_none_of_them() -> None:
    core = Core(gateway(http("web"), https("gone", "no-such-secret")), service(), http_route())

    assert [at.name for at in served_on(core.db, EG_FLEET, route_ref())] == ["web"]


def test_a_route_that_does_not_exist_has_no_listeners() -> None:
    core = Core(gateway(http("web")))

    assert served_on(core.db, EG_FLEET, route_ref("gone")) == ()


def test_the_first_gateway_of_a_fleet_of_one_is_that_one() -> None:
    assert first_gateway(Core(gateway(http("web"))).db, EG_FLEET) == EG
