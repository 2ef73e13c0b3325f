"""Sessions: what the page does not show."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.stateful_session.v3.stateful_session_pb2 import StatefulSessionPerRoute
from envoy.extensions.http.stateful_session.cookie.v3.cookie_pb2 import CookieBasedSessionState

from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxySpec, MergeBackends
from moongate.api.httproute import HTTPPathMatch
from moongate.features.session_persistence import cookie_path
from moongate.xds.destinations import rule_destination
from tests.core import Core, gateway, http
from tests.routes import SHOP, WEB, grpc_route, http_route, route_ref, rule, sent, service

NAME = "envoy.filters.http.stateful_session"


def cookie(route: Route) -> Any:
    """The cookie of an Envoy route."""
    config, state = StatefulSessionPerRoute(), CookieBasedSessionState()
    assert route.typed_per_filter_config[NAME].Unpack(config)
    assert config.stateful_session.session_state.typed_config.Unpack(state)
    return state.cookie


@pytest.mark.parametrize(
    ("type_", "value", "path"),
    [
        ("Exact", "/cart", "/cart"),
        ("PathPrefix", "/", "/"),
        ("PathPrefix", "/cart/", "/cart"),
        ("RegularExpression", "/v1/[a-z]+/items", "/v1"),
        ("RegularExpression", "/v1/items", "/v1"),
        ("RegularExpression", "/carts/?", "/"),
        ("RegularExpression", "/a/b*", "/a"),
        ("RegularExpression", "/a/b|/c", "/"),
        ("RegularExpression", "/(a|b)/c", "/"),
        ("RegularExpression", ".*", "/"),
    ],
)
def test_a_cookie_is_for_all_paths_that_match(type_: Any, value: str, path: str) -> None:
    assert cookie_path(HTTPPathMatch(type=type_, value=value)) == path


def test_each_match_has_the_cookie_of_its_path() -> None:
    matches = "matches: [{path: {value: /a}}, {path: {value: /b}}], sessionPersistence: {sessionName: at}"
    core = Core(gateway(http("web")), service(), http_route(rule(f"{{{matches}}}")))

    assert [(cookie(each).name, cookie(each).path) for each in sent(core)] == [("at", "/a"), ("at", "/b")]


def test_a_rule_without_matches_keeps_sessions_too() -> None:
    """That of a GRPCRoute, for the CRD gives one to that of an HTTPRoute."""
    calls = grpc_route({"backendRefs": [{"name": "shop", "port": 80}], "sessionPersistence": {}})
    core = Core(gateway(http("web")), service(), calls)

    [route] = sent(core)

    assert (cookie(route).name, cookie(route).path) == ("grpcroute-default-shop-rule-0", "/")


def test_backends_of_a_session_share_a_cluster_with_merged_backends() -> None:
    """Else Envoy would draw one of them by weight before it looks for the endpoint of the session."""
    config = EnvoyGateway(envoy_proxy=EnvoyProxySpec(merge_backends=MergeBackends()))

    def clusters(more: str) -> int:
        two = rule(more, SHOP, "{name: next, port: 80}")
        core = Core(gateway(http("web")), service(), service("next"), http_route(two), config=config)
        return len(rule_destination(core.db, WEB, route_ref(), 0).weighted_clusters)

    assert (clusters(""), clusters("sessionPersistence: {}")) == (2, 1)
