"""Hints about single resources: what is valid, and closes something without a word."""

from __future__ import annotations

import pytest

from moongate.hints import REASONS, hints
from tests.core import extension, read
from tests.routes import grpc_route

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec: %s
"""
TO_APP = "backendRefs: [{name: app, port: 80}]"
REDIRECT = "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]"
EXTENSION = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: x}"
RESPOND = f"filters: [{{type: ExtensionRef, extensionRef: {EXTENSION}}}]"
ADD = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]"
TARGET = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]"
NOT_A_GATEWAY = (
    "only a Gateway or a ListenerSet is served here, so no request comes by this parent, and no status "
    "reports it."
)


def of(manifest: str) -> list[str]:
    [resource] = read(manifest)
    problems = list(hints(resource))
    assert {problem.reason for problem in problems} <= REASONS
    return [f"{problem.path}: {problem.message}" for problem in problems]


def route(rule: str, parents: str = "[{name: eg}]") -> str:
    return ROUTE % f"{{parentRefs: {parents}, rules: [{{{rule}}}]}}"


def breaker(fields: str) -> str:
    return extension("BackendTrafficPolicy", "limits", f"{{{TARGET}, circuitBreaker: {{{fields}}}}}")


@pytest.mark.parametrize(
    "rule", [TO_APP, REDIRECT, RESPOND, "backendRefs: [{name: a, port: 1, weight: 0}, {name: b, port: 1}]"]
)
def test_a_route_that_serves_has_no_hint(rule: str) -> None:
    assert of(route(rule)) == []


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("{value: /shop/*}", "*"),
        ("{value: '/items/:id'}", "/:id"),
        ("{value: /things:batch}", None),
        ("{type: RegularExpression, value: '/items/.*'}", None),
    ],
)
def test_a_pattern_in_a_path_that_takes_none_is_noticed(path: str, pattern: str | None) -> None:
    """Other routers take it for a pattern; here the rule looks right, and answers nothing."""
    lines = of(route(f"matches: [{{path: {path}}}], {TO_APP}"))

    assert [line.split(" stands for itself")[0] for line in lines] == (
        [f"spec.rules[0].matches[0].path.value: {pattern!r}"] if pattern else []
    )


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_an_ip_address_as_hostname_of_a_route_is_served_and_may_not_be_elsewhere(kind: str) -> None:
    """The Gateway API rules it out in words alone, so another gateway may refuse the same manifest."""
    manifest = f"{{parentRefs: [{{name: eg}}], hostnames: [a.com, 10.0.0.1], rules: [{{{TO_APP}}}]}}"
    [hint] = of((ROUTE % manifest).replace("HTTPRoute", kind))

    assert hint.startswith("spec.hostnames[1]: 10.0.0.1 is an IP address, and the Gateway API allows only")
    assert "are served" in hint


@pytest.mark.parametrize(
    ("listener", "effect"),
    [
        ("protocol: HTTP", "Requests whose Host is this address are served"),
        ("protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}", "no connection comes here"),
        ("protocol: TLS, tls: {mode: Passthrough}", "no connection comes here"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Gateway", "gatewayClassName: eg"),
        ("ListenerSet", "parentRef: {name: eg}"),
    ],
)
def test_an_ip_address_as_hostname_of_a_listener_says_what_comes_there(
    kind: str, fields: str, listener: str, effect: str
) -> None:
    [hint] = of(
        f"apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n"
        "metadata: {name: eg, namespace: default}\n"
        f"spec: {{{fields}, listeners: [{{name: a, port: 80, hostname: 10.0.0.1, {listener}}}]}}\n"
    )

    assert hint.startswith("spec.listeners[0].hostname: 10.0.0.1 is an IP address")
    assert effect in hint


@pytest.mark.parametrize("parents", ["", "parentRefs: [], "])
def test_a_route_without_parents_says_that_no_request_comes(parents: str) -> None:
    assert of(ROUTE % f"{{{parents}rules: [{{{TO_APP}}}]}}") == [
        "spec.parentRefs: The route names no parent, so no request comes here. Name a Gateway."
    ]


@pytest.mark.parametrize(
    "parent",
    ["{group: '', kind: Service, name: app, port: 80}", "{group: example.com, kind: Gateway, name: eg}"],
)
def test_a_parent_that_is_no_gateway_is_named(parent: str) -> None:
    [hint] = of(route(TO_APP, f"[{{name: eg}}, {parent}]"))

    assert hint.startswith("spec.parentRefs[1]: The parent is a ")
    assert hint.endswith(NOT_A_GATEWAY)


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("", "spec.rules[0]: The rule has no backend, and no filter that answers; add one of them."),
        (ADD, "spec.rules[0]: The rule has no backend, and no filter that answers; add one of them."),
        (
            "backendRefs: [{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 0}]",
            "spec.rules[0].backendRefs: All backends of the rule have the weight 0.",
        ),
    ],
)
def test_a_rule_that_sends_requests_nowhere_says_what_they_get(rule: str, hint: str) -> None:
    assert of(route(rule)) == [f"{hint} Requests are answered with 500."]


def test_a_port_0_of_a_slice_says_that_nothing_listens_there() -> None:
    [hint] = of(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, namespace: default}\n"
        "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]\nports: [{port: 80, name: a}, {port: 0}]\n"
    )

    assert hint == "ports[1].port: The port is 0, where nothing can listen. Requests are answered with 503."


@pytest.mark.parametrize(
    "endpoint", ["ip: {address: 127.0.0.1, port: 0}", "fqdn: {hostname: a.test, port: 0}"]
)
def test_an_endpoint_on_port_0_says_that_nothing_listens_there(endpoint: str) -> None:
    [hint] = of(extension("Backend", "app", f"{{endpoints: [{{{endpoint}}}]}}"))

    assert hint.endswith("The port is 0, where nothing can listen. Requests are answered with 503.")


@pytest.mark.parametrize(
    ("field", "effect"),
    [
        ("maxPendingRequests", "Requests are answered with 503."),
        ("maxParallelRequests", "Requests are answered with 503."),
        ("maxParallelRetries", "no request is ever tried again."),
        ("maxConnections", "Requests are served; connections of TCPRoutes and TLSRoutes are closed."),
    ],
)
def test_a_limit_of_zero_says_what_requests_get(field: str, effect: str) -> None:
    [hint] = of(breaker(f"{field}: 0"))

    assert hint.startswith(f"spec.circuitBreaker.{field}: ")
    assert hint.endswith(effect)
    assert of(breaker(f"{field}: 1")) == []


def test_a_limit_of_zero_of_each_endpoint_is_named_with_its_path() -> None:
    [hint] = of(breaker("perEndpoint: {maxConnections: 0}"))

    assert hint.startswith("spec.circuitBreaker.perEndpoint.maxConnections: ")


def test_connections_that_may_last_no_time_are_closed_and_that_is_said() -> None:
    def policy(longest: str) -> str:
        limit = f"connection: {{connectionLimit: {{value: 9, maxConnectionDuration: {longest}}}}}"
        return extension("ClientTrafficPolicy", "limits", f"{{{TARGET}, {limit}}}")

    [hint] = of(policy("0s"))

    assert "no request is answered" in hint
    assert of(policy("1s")) == []


def test_a_route_without_parents_that_asks_for_the_default_gateways_is_meant_so() -> None:
    assert of(ROUTE % f"{{useDefaultGateways: All, rules: [{{{TO_APP}}}]}}") == []
    assert len(of(ROUTE % f"{{useDefaultGateways: None, rules: [{{{TO_APP}}}]}}")) == 1


def test_a_route_of_connections_whose_weights_are_all_0_says_so() -> None:
    route = (
        ROUTE.replace("HTTPRoute", "TCPRoute") % "{parentRefs: [{name: eg}], rules: [{backendRefs: [%s]}]}"
    )

    [hint] = of(route % "{name: a, port: 80, weight: 0}")

    assert hint.startswith("spec.rules[0].backendRefs: All backends of the rule have the weight 0.")
    assert of(route % "{name: a, port: 80, weight: 0}, {name: b, port: 80}") == []


def test_a_grpcroute_without_a_backend_says_what_calls_get() -> None:
    hints = of(grpc_route({"backendRefs": []}, {"backendRefs": [{"name": "shop", "port": 80, "weight": 0}]}))

    assert [hint.rpartition(". ")[2] for hint in hints] == ["Requests are answered with 503."] * 2


def test_what_is_reported_is_not_sent_again() -> None:
    """The reference takes the setting, too, and Envoy has none for it."""
    sink = "{type: OpenTelemetry, openTelemetry: {host: logs, backendSettings: {retry: {numRetries: 3}}}}"
    logs = f"{{settings: [{{format: {{type: Text, text: a}}, sinks: [{sink}]}}]}}"

    [hint] = of(extension("EnvoyProxy", "proxy", f"{{telemetry: {{accessLog: {logs}}}}}"))

    path = "spec.telemetry.accessLog.settings[0].sinks[0].openTelemetry.backendSettings.retry"
    assert hint.startswith(f"{path}: What is reported is sent once")


@pytest.mark.parametrize(
    ("session", "hint"),
    [
        ("absoluteTimeout: 8h", "The cookie ends with the browser"),
        ("absoluteTimeout: 8h, cookieConfig: {lifetimeType: Session}", "The cookie ends with the browser"),
        ("absoluteTimeout: 8h, type: Header", "ends when the client leaves the header out"),
        ("absoluteTimeout: 8h, cookieConfig: {lifetimeType: Permanent}", None),
        ("type: Header", None),
    ],
)
def test_a_time_that_ends_no_session_is_noticed(session: str, hint: str | None) -> None:
    """Only a permanent cookie has an end of its own, so a user would wait for it in vain."""
    lines = of(route(f"{TO_APP}, sessionPersistence: {{{session}}}"))

    assert len(lines) == (hint is not None)
    assert all(line.startswith("spec.rules[0].sessionPersistence.absoluteTimeout: ") for line in lines)
    assert all(hint is not None and hint in line for line in lines)


@pytest.mark.parametrize(
    ("on", "hint"),
    [
        ("triggers: [5xx], httpStatusCodes: [429]", "httpStatusCodes: The statuses have no effect"),
        ("triggers: [retriable-status-codes]", "triggers: The trigger retriable-status-codes retries"),
        ("triggers: [retriable-status-codes], httpStatusCodes: [429]", None),
        ("httpStatusCodes: [429]", None),
        ("triggers: [5xx]", None),
    ],
)
def test_statuses_that_are_not_retried_are_noticed(on: str, hint: str | None) -> None:
    """Envoy needs the trigger as well as the statuses, and says nothing where one is missing."""
    spec = f"{{{TARGET}, retry: {{retryOn: {{{on}}}}}}}"
    lines = of(extension("BackendTrafficPolicy", "again", spec))

    assert len(lines) == (hint is not None)
    assert all(hint is not None and line.startswith(f"spec.retry.retryOn.{hint}") for line in lines)


@pytest.mark.parametrize(
    ("move", "fields"),
    [
        ("name: envoy.filters.http.cors, after: envoy.filters.http.basic_auth", []),
        ("name: envoy.filters.http.compressor, before: envoy.filters.http.header_mutation", []),
        ("name: envoy.filters.http.grpc_web, before: envoy.filters.http.health_check", []),
        ("name: envoy.filters.http.lua, after: envoy.filters.http.cors", ["name"]),
        ("name: envoy.filters.http.cors, before: envoy.filters.http.jwt_authn", ["before"]),
        ("name: envoy.filters.http.wasm, after: envoy.filters.http.oauth2", ["name", "after"]),
    ],
)
def test_a_move_of_a_filter_that_is_never_there_is_noticed(move: str, fields: list[str]) -> None:
    """All names of Envoy Gateway are taken, also of filters that come in no chain here."""
    lines = of(extension("EnvoyProxy", "proxy", f"{{filterOrder: [{{{move}}}]}}"))

    assert [line.split(":")[0] for line in lines] == [f"spec.filterOrder[0].{field}" for field in fields]
    assert all("So this move has no effect." in line for line in lines)
