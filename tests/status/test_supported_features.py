"""The features that a GatewayClass lists, held against the tests that show them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from msgspec import structs

from moongate.api.base import Ref
from moongate.api.gateway import GatewayClass
from moongate.status.gateways import class_status
from moongate.status.supported_features import MISDIRECTED, SUPPORTED, supported_features
from tests.core import IN_CLUSTER, ON_HOST, Core

E2E = Path(__file__).parents[1] / "e2e"
MOST = 64
"""Entries that the CRD allows."""

SHOWN_BY = {
    "BackendTLSPolicy": "test_backend_tls::test_requests_go_by_tls_to_whom_the_policy_names",
    "BackendTLSPolicySANValidation": "test_backend_tls::test_only_the_right_certificate_gets_requests",
    "GRPCRoute": "test_calls::test_calls_go_where_their_method_says",
    "GRPCRouteNamedRouteRule": "test_calls::test_a_rule_of_calls_may_have_a_name_that_a_policy_names",
    "Gateway": "test_listeners::test_a_route_serves_where_its_hostnames_and_the_listeners_meet",
    "GatewayBackendClientCertificate":
        "test_backend_tls::test_certificates_are_shown_to_a_backend_that_demands_them",
    "GatewayFrontendClientCertificateValidation":
        "test_client_certificates::test_each_port_asks_for_certificates_of_its_own_authorities",
    "GatewayFrontendClientCertificateValidationInsecureFallback":
        "test_client_certificates::test_connections_that_were_checked_less_strictly_drain",
    "GatewayHTTPListenerIsolation":
        "test_listeners::test_a_hostname_belongs_to_the_narrowest_listener_also_without_routes",
    MISDIRECTED: "test_listeners::test_a_connection_is_reused_for_no_other_listener",
    "GatewayPort8080": "test_listeners::test_listeners_of_several_ports_serve_their_own_routes",
    "HTTPRoute": "test_matches::test_a_prefix_matches_whole_segments",
    "HTTPRoute303RedirectStatusCode": "test_filters::test_a_redirect_names_where_to_go",
    "HTTPRoute307RedirectStatusCode": "test_filters::test_a_redirect_names_where_to_go",
    "HTTPRoute308RedirectStatusCode": "test_filters::test_a_redirect_names_where_to_go",
    "HTTPRouteBackendProtocolH2C":
        "test_destinations::test_a_backend_that_speaks_http2_in_clear_text_is_spoken_to_so",
    "HTTPRouteBackendProtocolWebSocket": "test_destinations::test_a_websocket_is_passed_through",
    "HTTPRouteBackendRequestHeaderModification":
        "test_filters::test_headers_can_be_changed_for_one_backend_of_several",
    "HTTPRouteBackendTimeout": "test_backend_traffic::test_a_backend_that_takes_too_long_is_answered_504",
    "HTTPRouteCORS": "test_security::test_a_preflight_is_answered_by_the_filter_of_a_rule",
    "HTTPRouteHostRewrite": "test_filters::test_a_rewrite_gives_the_backend_another_host",
    "HTTPRouteMethodMatching": "test_matches::test_a_method_matches",
    "HTTPRouteNamedRouteRule": "test_backend_traffic::test_the_most_specific_policy_wins",
    "HTTPRouteParentRefPort": "test_listeners::test_a_route_may_ask_for_the_listeners_of_a_port",
    "HTTPRoutePathRedirect": "test_filters::test_a_redirect_names_where_to_go",
    "HTTPRoutePathRewrite": "test_filters::test_a_rewrite_replaces_the_prefix",
    "HTTPRoutePortRedirect": "test_filters::test_a_redirect_names_where_to_go",
    "HTTPRouteQueryParamMatching": "test_matches::test_a_query_parameter_matches_exactly",
    "HTTPRouteRequestMirror": "test_filters::test_a_mirror_gets_a_copy_and_its_answer_is_ignored",
    "HTTPRouteRequestMultipleMirrors": "test_filters::test_several_mirrors_get_a_copy_each",
    "HTTPRouteRequestPercentageMirror": "test_filters::test_a_mirror_of_a_share_gets_that_share",
    "HTTPRouteRequestTimeout": "test_backend_traffic::test_a_request_that_takes_too_long_is_answered_504",
    "HTTPRouteResponseHeaderModification": "test_filters::test_response_headers_are_set_added_and_removed",
    "HTTPRouteRetry": "test_backend_traffic::test_a_rule_has_its_own_retries",
    "HTTPRouteRetryBackendTimeout":
        "test_backend_traffic::test_a_rules_own_retries_cover_tries_that_take_too_long",
    "HTTPRouteRetryConnectionError":
        "test_backend_traffic::test_a_rules_own_retries_cover_connections_that_break",
    "HTTPRouteSchemeRedirect": "test_filters::test_a_redirect_names_where_to_go",
    "ListenerSet":
        "test_listener_sets::test_two_teams_serve_by_tls_each_with_its_own_certificate_routes_and_policy",
    "ReferenceGrant": "test_destinations::test_a_backend_of_another_namespace_wants_a_grant",
    "TCPRoute": "test_connections::test_an_open_connection_outlives_a_change_of_backends",
    "TLSRoute": "test_connections::test_tls_is_passed_on_by_the_narrowest_hostname",
    "TLSRouteModeMixed":
        "test_connections::test_tls_that_ends_here_and_tls_that_is_passed_on_share_a_port",
    "TLSRouteModeTerminate": "test_connections::test_tls_ends_here_with_the_certificate_of_the_name",
    "UDPRoute": "test_connections::test_datagrams_and_connections_share_the_number_of_a_port",
}  # fmt: skip
"""Feature → the test with a real Envoy that shows it."""

NOT_HERE = {
    "GatewayAddressEmpty": "a Gateway on a laptop has the addresses of the machine; no test shows more",
    "GatewayInfrastructurePropagation": "nothing is made for a Gateway that could have labels",
    "GatewayStaticAddresses": "no test shows what becomes of an address that cannot be used",
    "HTTPRouteDestinationPortMatching": "the Gateway API does not say what it is",
    "Mesh": "moongate is no mesh, so it has no feature whose name begins with this",
}
"""The others of this version, and why they are not listed."""


@cache
def shown_in(module: str) -> frozenset[str]:
    """The tests of a module that has an Envoy."""
    tree = ast.parse((E2E / f"{module}.py").read_text("utf-8"))
    assert any("mark.envoy" in ast.unparse(each) for each in tree.body if isinstance(each, ast.Assign))
    return frozenset(each.name for each in tree.body if isinstance(each, ast.AsyncFunctionDef))


@pytest.mark.parametrize("feature", sorted({*SUPPORTED, MISDIRECTED}))
def test_a_feature_that_is_listed_is_shown_by_a_test_with_envoy(feature: str) -> None:
    module, _, name = SHOWN_BY[feature].partition("::")

    assert name in shown_in(module)


def test_what_a_test_shows_is_listed_and_what_is_not_has_a_reason() -> None:
    assert set(SHOWN_BY) == {*SUPPORTED, MISDIRECTED}
    assert set(SHOWN_BY).isdisjoint(NOT_HERE)


def test_the_list_is_sorted_and_no_longer_than_the_crd_allows() -> None:
    listed = supported_features(Core(config=ON_HOST).db)

    assert list(listed) == sorted(set(listed))
    assert len(listed) <= MOST


def test_what_a_flag_switches_is_listed_only_where_it_is_on() -> None:
    flags = ON_HOST.runtime_flags.without("MisdirectedRequests")

    assert MISDIRECTED in supported_features(Core(config=ON_HOST).db)
    assert MISDIRECTED not in supported_features(Core(config=IN_CLUSTER).db)
    assert MISDIRECTED not in supported_features(
        Core(config=structs.replace(ON_HOST, runtime_flags=flags)).db
    )


def test_a_class_lists_them_and_says_which_version_is_read() -> None:
    status = class_status(Core(config=ON_HOST).db, Ref.of(GatewayClass, "", "eg"))

    assert status is not None
    assert [each.name for each in status.supported_features] == list(
        supported_features(Core(config=ON_HOST).db)
    )
    [version] = [each for each in status.conditions if each.type == "SupportedVersion"]
    assert (version.status, version.reason) == ("True", "SupportedVersion")
    assert "v1.6" in version.message
