"""What the table of route kinds says."""

from __future__ import annotations

import pytest

from moongate.api.grpcroute import GRPCMethodMatch, GRPCRouteMatch, GRPCRouteRule
from moongate.api.httproute import HTTPRouteRule
from moongate.attach.matches import unbuildable
from moongate.attach.route_kinds import kinds_for, written_matches
from tests.routes import path


@pytest.mark.parametrize(
    ("protocol", "passthrough", "kinds"),
    [
        ("HTTP", False, ("HTTPRoute", "GRPCRoute")),
        ("HTTPS", False, ("HTTPRoute", "GRPCRoute")),
        ("TLS", False, ("TCPRoute", "TLSRoute")),
        ("TLS", True, ("TLSRoute",)),
        ("TCP", False, ("TCPRoute",)),
        ("UDP", False, ("UDPRoute",)),
    ],
)
def test_a_protocol_decides_which_kinds_a_listener_can_take(
    protocol: str, passthrough: bool, kinds: tuple[str, ...]
) -> None:
    """In this order they stand in ``supportedKinds``."""
    assert kinds_for(protocol, passthrough=passthrough) == kinds


def test_a_rule_matches_on_what_its_kind_says() -> None:
    rule = HTTPRouteRule(matches=(path("/a"), path("/b")))

    assert written_matches("HTTPRoute", rule) == rule.matches


def test_a_rule_of_a_grpcroute_matches_in_terms_of_http() -> None:
    rule = GRPCRouteRule(matches=(GRPCRouteMatch(method=GRPCMethodMatch(service="a.B", method="C")),))

    assert [match.path.value for match in written_matches("GRPCRoute", rule)] == ["/a.B/C"]


def test_a_rule_of_a_kind_that_looks_at_no_requests_matches_on_nothing() -> None:
    written = written_matches("TCPRoute", HTTPRouteRule(matches=(path("(", "RegularExpression"),)))

    assert written == ()
    assert unbuildable(written) is None
