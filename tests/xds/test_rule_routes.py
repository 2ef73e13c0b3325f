"""The Envoy routes that become of a route's rules."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost

from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxySpec
from moongate.attach.route_kinds import order
from moongate.xds.route_entries import fail_closed
from moongate.xds.rule_routes import closed_entries, excessive_rules, route_entries_of
from moongate.xds.scoped_chains import HOST_HEADER
from tests.core import IN_CLUSTER, Core, gateway, http
from tests.listeners import client_traffic_policy
from tests.routes import (
    SHOP,
    WEB,
    as_dict,
    grpc_route,
    http_route,
    route_ref,
    rule,
    sent,
    service,
    table,
)

CORS = "filters: [{type: CORS, cors: {allowOrigins: ['https://a.example.com']}}]"
KEEP_ORDER = EnvoyGateway(envoy_proxy=EnvoyProxySpec(preserve_route_order=True))


def core_of(*rules: dict[str, Any], extra: str = "") -> Core:
    manifest = f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: HTTPRouteFilter
        metadata: {{name: extra, namespace: default}}
        spec: {extra}
    """
    return Core(gateway(http("web")), service(), http_route(*rules), *([manifest] if extra else []))


def path(value: str) -> str:
    return f"matches: [{{path: {{value: {value}}}}}]"


def test_a_route_is_named_by_its_rule_match_and_host() -> None:
    core = Core(gateway(http("web")), service(), http_route(hostnames=("a.example.com",)))

    [host] = table(core).virtual_hosts
    [route] = host.routes

    assert (host.name, list(host.domains)) == ("default/eg/web/a_example_com", ["a.example.com"])
    assert route.name == "httproute/default/shop/rule/0/match/0/a_example_com"
    assert route.route.cluster == "httproute/default/shop/rule/0"
    assert route.route.upgrade_configs[0].upgrade_type == "websocket"


def test_a_route_says_which_rule_it_stands_for() -> None:
    [route] = sent(core_of(rule("name: checkout")))

    assert as_dict(route.metadata)["filter_metadata"]["envoy-gateway"] == {
        "resources": [
            {"kind": "HTTPRoute", "name": "shop", "namespace": "default", "sectionName": "checkout"}
        ]
    }


def test_a_routes_kind_is_weighed_after_its_match_and_before_its_age() -> None:
    """So routes of two kinds that match alike, and have the same age and name, have an order, too."""
    core = Core(gateway(http("web")), service(), http_route(created="2025-01-01T00:00:00Z"))

    [entry] = route_entries_of(core.db, WEB, route_ref(), False)

    assert entry.rank[1:3] == (order("HTTPRoute"), "2025-01-01T00:00:00Z")
    assert order("HTTPRoute") < order("GRPCRoute")


def test_a_route_of_calls_is_named_by_its_kind_and_upgrades_nothing() -> None:
    method = {"service": "a.B", "method": "C"}
    calls = grpc_route({"matches": [{"method": method}], "backendRefs": [{"name": "shop", "port": 80}]})
    core = Core(gateway(http("web")), service(), http_route(), calls)

    first, last = sent(core)

    assert (first.name, first.match.path) == ("grpcroute/default/shop/rule/0/match/0/*", "/a.B/C")
    assert first.route.cluster == "grpcroute/default/shop/rule/0"
    assert not first.route.upgrade_configs
    assert last.name == "httproute/default/shop/rule/0/match/0/*"


def test_a_route_of_calls_without_matches_takes_all_of_them() -> None:
    core = Core(gateway(http("web")), service(), grpc_route({"backendRefs": [{"name": "shop", "port": 80}]}))

    [route] = sent(core)

    assert (route.name, route.match.prefix) == ("grpcroute/default/shop/rule/0/match/-1/*", "/")


def test_a_route_that_matches_alike_comes_after_one_of_an_earlier_kind_that_is_younger() -> None:
    calls = grpc_route(
        {"matches": [{"method": {"service": "a.B", "method": "C"}}]}, created="2020-01-01T00:00:00Z"
    )
    requests = http_route(
        rule("matches: [{path: {type: Exact, value: /a.B/C}}]"), created="2021-01-01T00:00:00Z"
    )

    names = [route.name.partition("/")[0] for route in sent(Core(gateway(http("web")), calls, requests))]

    assert names == ["httproute", "grpcroute"]


@pytest.mark.parametrize("config", [IN_CLUSTER, KEEP_ORDER])
def test_what_stands_in_for_a_route_that_cannot_be_built_stands_in_its_place(config: EnvoyGateway) -> None:
    core = Core(
        gateway(http("web")), service(), http_route(rule(path("/")), rule(path("/ab"))), config=config
    )

    built = route_entries_of(core.db, WEB, route_ref(), False)
    closed = closed_entries(core.db, WEB, route_ref(), "*", False)

    assert [entry.rank for entry in closed] == [entry.rank for entry in built]


@pytest.mark.parametrize(("host", "looked_at"), [("a.test", ":authority"), ("*.test", HOST_HEADER)])
def test_a_closed_match_on_the_host_looks_where_the_host_is(host: str, looked_at: str) -> None:
    """Otherwise its requests would pass it by, for a route that may let everybody pass."""
    of_host = rule("matches: [{headers: [{name: Host, value: b.test}]}]")
    core = Core(gateway(http("web")), service(), http_route(of_host, hostnames=(host,)))

    for scoped, header in ((True, looked_at), (False, "Host")):
        (entry,) = closed_entries(core.db, WEB, route_ref(), host, scoped)
        [route] = VirtualHost.FromString(entry.body).routes
        assert [each.name for each in route.match.headers] == [header]


def test_shares_are_weights_and_what_cannot_be_used_keeps_its_own() -> None:
    [route] = sent(core_of(rule("", SHOP, "{name: gone, port: 80, weight: 3}")))

    assert as_dict(route.route.weighted_clusters)["clusters"] == [
        {"name": "invalid-backend-cluster", "weight": 3},
        {"name": "httproute/default/shop/rule/0/backend/0", "weight": 1},
    ]
    assert as_dict(route.route)["cluster_not_found_response_code"] == "INTERNAL_SERVER_ERROR"


def test_filters_of_a_backend_are_on_its_share() -> None:
    filters = (
        "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X, value: '1'}]}},"
        " {type: URLRewrite, urlRewrite: {hostname: a.example.com}}]"
    )
    [route] = sent(core_of(rule("", f"{{name: shop, port: 80, filters: {filters}}}")))

    [share] = route.route.weighted_clusters.clusters
    assert share.request_headers_to_add[0].header.key == "X"
    assert share.host_rewrite_literal == "a.example.com"


def test_headers_of_a_rule_are_changed_whatever_the_rule_does() -> None:
    fields = rule(
        "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [X]}},"
        " {type: RequestRedirect, requestRedirect: {hostname: a.example.com}}], backendRefs: []}"
    )

    [route] = sent(core_of(fields))

    assert list(route.response_headers_to_remove) == ["X"]
    assert route.redirect.host_redirect == "a.example.com"


def test_a_rule_with_a_filter_that_cannot_be_honoured_answers_500() -> None:
    gone = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: gone}"

    [route] = sent(core_of(rule(f"filters: [{{type: ExtensionRef, extensionRef: {gone}}}]")))

    assert route.direct_response.status == 500


def test_a_direct_response_has_its_body_and_headers() -> None:
    extra = "{directResponse: {statusCode: 404, contentType: text/plain, body: {type: Inline, inline: gone}}}"
    ref = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: extra}"

    [route] = sent(core_of(rule(f"filters: [{{type: ExtensionRef, extensionRef: {ref}}}]"), extra=extra))

    assert route.direct_response.status == 404
    assert route.direct_response.body_format.text_format_source.inline_bytes == b"gone"
    assert route.response_headers_to_add[0].header.value == "text/plain"


def test_a_rule_that_cannot_be_built_is_left_out_and_the_others_stay() -> None:
    broken = rule("matches: [{path: {type: RegularExpression, value: '('}}]")

    assert [r.match.path_separated_prefix for r in sent(core_of(broken, rule(path("/a"))))] == ["/a"]


def test_a_preflight_of_a_match_with_a_method_has_a_route_of_its_own() -> None:
    """Else the method would keep it from the CORS filter; all else that holds for the rule holds for it."""
    preflight, route = sent(core_of(rule("matches: [{method: GET}]\n" + CORS)))

    assert preflight.name == "httproute/default/shop/rule/0/match/0/cors-preflight/*"
    assert [h.name for h in preflight.match.headers] == [":method", "origin", "access-control-request-method"]
    assert preflight.route == route.route
    assert preflight.typed_per_filter_config == route.typed_per_filter_config
    assert "envoy.filters.http.cors" in route.typed_per_filter_config


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [
        ("{request: 5s}", {"timeout": "5s", "idle_timeout": "3600s"}),
        ("{request: 2h}", {"timeout": "7200s", "idle_timeout": "7200s"}),
        ("{request: 0s}", {"timeout": "0s", "idle_timeout": "0s"}),
        ("{request: 5s, backendRequest: 2s}", {"timeout": "2s", "idle_timeout": "3600s"}),
    ],
)
def test_timeouts_of_a_rule_hold_and_an_idle_stream_outlives_them(
    timeouts: str, expected: dict[str, str]
) -> None:
    [route] = sent(core_of(rule(f"timeouts: {timeouts}")))

    route_action = as_dict(route.route)
    assert {key: route_action[key] for key in expected} == expected


@pytest.mark.parametrize(("neighbour", "idle"), [((), ""), ((http("other", hostname="b.test"),), "3600s")])
def test_only_a_listeners_policy_in_force_keeps_an_idle_stream_its_own(
    neighbour: tuple[str, ...], idle: str
) -> None:
    """A policy for one of several listeners of a port is refused, and so is its stream idle timeout."""
    clients = client_traffic_policy("timeout: {http: {streamIdleTimeout: 9m}}", "web")
    parent = "{name: eg, namespace: default, sectionName: web}"
    core = Core(
        gateway(http("web", hostname="a.test"), *neighbour),
        service(),
        clients,
        http_route(rule("timeouts: {request: 10m}"), parent=parent),
    )

    [route] = [r for host in table(core).virtual_hosts for r in host.routes]

    assert as_dict(route.route).get("idle_timeout", "") == idle


def test_retries_of_a_rule_are_its_own() -> None:
    [route] = sent(core_of(rule("{retry: {attempts: 4}, timeouts: {request: 5s, backendRequest: 2s}}")))

    assert route.route.retry_policy.num_retries.value == 4
    assert route.route.retry_policy.per_try_timeout.seconds == 2
    assert route.route.timeout.seconds == 5


@pytest.mark.parametrize(
    ("share", "fraction"),
    [("", {"numerator": 100}), ("percent: 20,", {"numerator": 200_000, "denominator": "MILLION"})],
)
def test_a_mirror_copies_its_share(share: str, fraction: dict[str, Any]) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{{share} backendRef: {{name: shop, port: 80}}}}}}"

    [route] = sent(core_of(rule(f"filters: [{mirror}]")))

    [policy] = route.route.request_mirror_policies
    assert as_dict(policy.runtime_fraction.default_value) == fraction


REDIRECT = "{type: RequestRedirect, requestRedirect: {statusCode: 301}}"


def redirects(core: Core, name: str = "default/eg/web") -> list[dict[str, Any]]:
    return [as_dict(route.redirect) for route in sent(core, name)]


def test_redirects_without_a_port_follow_the_listener() -> None:
    """Where that is the well-known one, Envoy must not keep the port of the request instead."""
    fields = rule(f"{{filters: [{REDIRECT}], backendRefs: []}}")
    core = Core(gateway(http("web"), http("alt", port=8080)), http_route(fields, hostnames=("a.test",)))

    assert redirects(core) == [{"host_redirect": "a.test"}]
    assert redirects(core, "default/eg/alt") == [{"port_redirect": 8080}]


@pytest.mark.parametrize("hostnames", [(), ("*.a.test",)])
def test_a_redirect_of_a_wildcard_replaces_the_port_of_requests_that_have_one(
    hostnames: tuple[str, ...],
) -> None:
    """Envoy cannot take it off. So it names the well-known one, but only to those requests."""
    core = Core(
        gateway(http("web")),
        http_route(rule(f"{{filters: [{REDIRECT}], backendRefs: []}}"), hostnames=hostnames),
    )

    ported, plain = sent(core)

    assert ported.name == f"{plain.name}/port"
    assert [as_dict(header) for header in ported.match.headers] == [
        {"name": ":authority", "string_match": {"safe_regex": {"regex": ".*:[0-9]*"}}}
    ]
    assert (ported.redirect.port_redirect, plain.redirect.port_redirect) == (80, 0)
    assert not plain.match.headers


def test_a_redirect_of_a_wildcard_is_one_entry_that_is_known_by_its_own_match() -> None:
    """So it is suspected, kept and closed as a whole when Envoy refuses its table."""
    core = Core(gateway(http("web")), http_route(rule(f"{{filters: [{REDIRECT}], backendRefs: []}}")))

    [entry] = route_entries_of(core.db, WEB, route_ref(), False)
    [shut] = VirtualHost.FromString(fail_closed(entry).body).routes

    assert not shut.match.headers
    assert shut.direct_response.status == 500


def test_a_rule_that_would_take_too_much_of_envoy_is_closed_and_no_other() -> None:
    """Each match and hostname has a copy of all that the rule says: a small file asks for gigabytes."""
    headers = ", ".join(f"{{name: x-{n}, value: {'v' * 4000}}}" for n in range(16))
    filters = f"[{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{headers}]}}}}]"
    paths = ", ".join(f"{{path: {{value: /{n}}}}}" for n in range(16))
    hosts = tuple(f"h{n}.example.com" for n in range(8))
    large = rule(f"matches: [{paths}]\nfilters: {filters}")
    core = Core(gateway(http("web")), service(), http_route(rule(path("/")), large, hostnames=hosts))

    statuses = {route.name.split("/")[4]: route.direct_response.status for route in sent(core)}

    assert statuses == {"0": 0, "1": 500}
    assert len(sent(core)) == len(hosts) * (1 + 16)
    assert len(table(core).SerializeToString()) < 100_000
    assert excessive_rules(core.db, WEB, route_ref()) == (1,)
