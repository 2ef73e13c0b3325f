"""Which HTTP filters a listener's chain has."""

from __future__ import annotations

from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from msgspec import structs

from moongate.api.base import ListenerId
from moongate.api.httproute import HTTPRoute
from moongate.engine import Failed
from moongate.store import get
from moongate.xds.filters import filters_of, http_filters
from tests.core import EG, Core, gateway, http
from tests.routes import WEB, http_route, route_ref, rule, service

CORS = "filters: [{type: CORS, cors: {allowOrigins: ['https://a.example.com']}}]"
POLICY = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: BackendTrafficPolicy
    metadata: {name: faults, namespace: default}
    spec:
      targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
      faultInjection: {abort: {httpStatus: 418}}
"""


def chain(core: Core, *listeners: ListenerId) -> list[str]:
    return [HttpFilter.FromString(body).name for body in http_filters(core.db, listeners or (WEB,))]


def test_a_filter_that_no_route_uses_is_not_in_the_chain() -> None:
    assert chain(Core(gateway(http("web")), service(), http_route())) == []


def test_filters_stand_in_the_order_of_the_table_whoever_asks_for_them() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), POLICY)

    assert chain(core) == ["envoy.filters.http.fault", "envoy.filters.http.cors"]


def test_a_filter_that_many_routes_use_is_there_once() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), http_route(rule(CORS), name="more"))

    assert chain(core) == ["envoy.filters.http.cors"]


def test_listeners_that_share_a_connection_manager_have_what_any_of_them_uses() -> None:
    both = gateway(http("web", "a.example.com"), http("alt", "b.example.com"))
    core = Core(both, service(), http_route(rule(CORS), parent="{name: eg, sectionName: alt}"))

    assert chain(core) == []
    assert chain(core, WEB, ListenerId(EG, EG, "alt")) == ["envoy.filters.http.cors"]


def test_a_route_whose_filters_cannot_be_read_leaves_the_others_theirs() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), http_route(name="broken"))
    broken = get(core.db, HTTPRoute, route_ref("broken"))
    assert broken is not None
    core.db.put(broken.ref, structs.replace(broken, spec=structs.replace(broken.spec, rules=(None,))))

    assert isinstance(filters_of.attempt(core.db, WEB, route_ref("broken")), Failed)
    assert chain(core) == ["envoy.filters.http.cors"]
