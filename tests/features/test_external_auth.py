"""External authorization: what the page does not show."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz, ExtAuthzPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from moongate.api.admission import admit
from moongate.api.envoygateway import EnvoyGateway
from moongate.kinds import KINDS
from moongate.xds.filters import http_filters
from moongate.xds.needed_resources import route_resources
from tests.core import EG_FLEET, IN_CLUSTER, ON_HOST, Core, extension, gateway, http, load, policy, secret
from tests.routes import WEB, http_route, route_ref, rule, sent, service

NAME = "envoy.filters.http.ext_authz/externalauth"
GRANT = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: ReferenceGrant
    metadata: {name: grant, namespace: security}
    spec:
      from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
      to: [{group: '', kind: Service}]
"""


def asking(settings: str, ref: str = "{name: auth, port: 80}", before: str = "") -> str:
    auth = f"{{backendRef: {ref}, {settings}}}"
    return f"filters: [{before}{{type: ExternalAuth, externalAuth: {auth}}}]"


def core_of(*rules: str, more: str = "", config: EnvoyGateway = ON_HOST) -> Core:
    manifests = [more] if more else []
    route = http_route(*map(rule, rules))
    return Core(gateway(http("web")), service(), service("auth"), route, *manifests, config=config)


def chain(core: Core) -> list[str]:
    return [one.name for one in http_filters(core.db, "chain", (WEB,))]


def clusters(core: Core) -> list[str]:
    return [key.name for key in route_resources(core.db, EG_FLEET, route_ref()) if "externalauth" in key.name]


def test_two_rules_with_other_headers_have_an_instance_each_in_any_configuration() -> None:
    """They must not share one: the server of one rule would see the headers of the other."""
    rules = [asking(f"protocol: HTTP, http: {{allowedHeaders: [{name}]}}") for name in ("x-a", "x-b")]

    for config in (IN_CLUSTER, ON_HOST):
        standing = set(chain(core_of("", config=config)))
        assert len(set(chain(core_of(*rules, config=config))) - standing) == 2


@pytest.mark.parametrize("settings", ["protocol: HTTP, http: {}", "protocol: GRPC, grpc: {}"])
def test_a_filter_without_a_list_of_headers_changes_no_stable_chain(settings: str) -> None:
    assert chain(core_of(asking(settings))) == chain(core_of(""))


def test_two_rules_that_ask_one_server_share_its_cluster() -> None:
    rules = [asking("protocol: GRPC, grpc: {}"), asking("protocol: GRPC, grpc: {allowedHeaders: [x-a]}")]

    assert clusters(core_of(*rules)) == ["httproute/default/shop/externalauth/service/default/auth/80/grpc"]


def test_a_server_elsewhere_needs_a_grant_and_has_no_cluster_without() -> None:
    ref = "{name: auth, namespace: security, port: 80}"
    core = core_of(asking("protocol: HTTP, http: {}", ref), more=service("auth", namespace="security"))

    [closed] = sent(core)
    assert closed.direct_response.status == 500
    assert NAME not in closed.typed_per_filter_config, "the server of a stranger is not asked"
    assert clusters(core) == []

    core.apply(GRANT)

    [route] = sent(core)
    assert route.HasField("route")
    assert NAME in route.typed_per_filter_config
    assert clusters(core) == ["httproute/default/shop/externalauth/service/security/auth/80/http"]


def test_a_server_is_asked_before_a_direct_response_so_it_needs_a_grant_there_too() -> None:
    ref = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: a}"
    answered = f"{{type: ExtensionRef, extensionRef: {ref}}}"
    rule_text = asking(
        "protocol: GRPC, grpc: {}", "{name: auth, namespace: security, port: 80}", f"{answered}, "
    )
    answer = extension("HTTPRouteFilter", "a", "{directResponse: {statusCode: 200}}")
    core = core_of(rule_text, more=f"{service('auth', namespace='security')}---\n{answer}")

    assert clusters(core) == []
    [closed] = sent(core)
    assert closed.direct_response.status == 500
    assert not closed.typed_per_filter_config

    core.apply(GRANT)
    assert clusters(core) == ["httproute/default/shop/externalauth/service/security/auth/80/grpc"]
    assert [each.direct_response.status for each in sent(core)] == [200]


def test_a_filter_that_names_no_server_lets_nobody_pass() -> None:
    """Manifests of a time without the CRD's rule may have none."""
    document = load(http_route(rule("filters: [{type: ExternalAuth}]")))
    resource = admit(document, KINDS, namespace="default", tolerant=True).resource
    assert resource is not None
    core = core_of("")
    core.put(resource)

    assert [each.direct_response.status for each in sent(core)] == [500]


def test_a_failure_of_the_server_lets_nobody_pass() -> None:
    core = core_of(asking("protocol: HTTP, http: {}"))
    config, on_route = ExtAuthz(), ExtAuthzPerRoute()
    [body] = [one.body for one in http_filters(core.db, "chain", (WEB,)) if one.name == NAME]
    assert HttpFilter.FromString(body).typed_config.Unpack(config)
    [route] = sent(core)
    assert route.typed_per_filter_config[NAME].Unpack(on_route)

    assert not config.failure_mode_allow
    assert not config.with_request_body.ByteSize()
    assert not on_route.check_settings.with_request_body.ByteSize()


def test_a_path_begins_with_a_slash_and_has_none_at_its_end() -> None:
    def prefix(path: str) -> str:
        [route] = sent(core_of(asking(f"protocol: HTTP, http: {{path: {path}}}")))
        on_route = ExtAuthzPerRoute()
        assert route.typed_per_filter_config[NAME].Unpack(on_route)
        return on_route.check_settings.http_service.path_prefix

    assert [prefix(path) for path in ("/check", "check/", "/")] == ["/check", "/check", ""]


def test_what_a_policy_asks_for_stays_beside_it() -> None:
    users = secret("users", {".htpasswd": b"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="}, type_="Opaque")
    guard = policy("SecurityPolicy", "basicAuth: {users: {name: users}}")
    [route] = sent(core_of(asking("protocol: HTTP, http: {}"), more=f"{users}---\n{guard}"))

    assert set(route.typed_per_filter_config) == {NAME, "envoy.filters.http.basic_auth"}
