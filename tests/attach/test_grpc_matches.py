"""What a call of gRPC is matched on, in terms of HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import convert

from moongate.api.grpcroute import GRPCRouteMatch, GRPCRouteRule
from moongate.attach.grpc_matches import call_matches
from moongate.attach.matches import (
    Match,
    RequestMatch,
    includes,
    may_meet,
    overlap_key,
    precedence,
    unbuildable,
)
from moongate.regex import matches_at_start


def made(**fields: Any) -> RequestMatch:
    """A match of a GRPCRoute from its wire form, in terms of HTTP."""
    [match] = call_matches(GRPCRouteRule(matches=(convert(fields, GRPCRouteMatch),)))
    return match


def exact(service: str = "", method: str = "") -> RequestMatch:
    return made(method={k: v for k, v in (("service", service), ("method", method)) if v})


def pattern(service: str = "", method: str = "") -> RequestMatch:
    names = {k: v for k, v in (("service", service), ("method", method)) if v}
    return made(method={"type": "RegularExpression", **names})


def whole_path(match: RequestMatch, path: str) -> bool:
    """Whether a pattern matches all of a path, as Envoy wants it."""
    assert match.path.type == "RegularExpression"
    return matches_at_start(f"^(?:{match.path.value})$", path)


def test_a_service_and_a_method_are_a_path() -> None:
    match = exact("shop.v1.Cart", "Add")

    assert (match.path.type, match.path.value, tuple(match.headers)) == ("Exact", "/shop.v1.Cart/Add", ())


def test_a_service_alone_is_the_first_part_of_the_path() -> None:
    match = exact("shop.v1.Cart")

    assert (match.path.type, match.path.value) == ("PathPrefix", "/shop.v1.Cart")


def test_a_method_alone_is_the_end_of_the_path() -> None:
    match = exact(method="Add")

    assert (match.path.type, match.path.value) == ("PathPrefix", "/")
    assert [(each.name, each.type, each.value) for each in match.headers] == [(":path", "Suffix", "/Add")]


def test_headers_come_before_the_end_of_the_path() -> None:
    match = made(method={"method": "Add"}, headers=[{"name": "tier", "value": "gold"}])

    assert [each.name for each in match.headers] == ["tier", ":path"]


@pytest.mark.parametrize("fields", [{}, {"method": {}}, {"headers": []}])
def test_a_match_that_says_nothing_matches_every_call(fields: dict[str, Any]) -> None:
    match = made(**fields)

    assert (match.path.type, match.path.value, tuple(match.headers)) == ("PathPrefix", "/", ())


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        (pattern("shop\\..*", "Add|Remove"), "/shop.Cart/Remove", "/else/Remove"),
        (pattern("a|b", "Add"), "/a/Add", "/a"),
        (pattern(service="shop\\.[A-Z][a-z]+"), "/shop.Cart/Any_1", "/shop.Cart/Any/more"),
        (pattern(method="Add[0-9]"), "/.Shop.v1.cart/Add1", "/shop/add1"),
        (pattern("(?i)SHOP", "Add"), "/shop/Add", "/shop/add"),
    ],
)
def test_a_pattern_is_one_of_the_whole_path(match: RequestMatch, yes: str, no: str) -> None:
    assert whole_path(match, yes)
    assert not whole_path(match, no)


def test_a_rule_without_matches_has_none() -> None:
    assert call_matches(GRPCRouteRule()) == ()


def test_a_pattern_that_re2_does_not_know_cannot_be_built() -> None:
    """It is shown as it is written. Two halves of a pattern are none, though they would be one together."""
    header = made(headers=[{"name": "a", "type": "RegularExpression", "value": "["}])

    assert (unbuildable([pattern(method="(")]) or "").startswith("'(' is not a regular expression")
    assert (unbuildable([pattern("a(", "b)")]) or "").startswith("'a(' is not a regular expression")
    assert unbuildable([header]) is not None
    assert unbuildable([pattern(method="Add"), exact("a", "B")]) is None


def test_what_says_more_of_a_call_is_tried_first() -> None:
    """Service and method, the service alone, the method, headers: as the Gateway API has it."""
    headers = made(headers=[{"name": name, "value": "1"} for name in "abc"])
    ways = [
        exact("a.B", "C"),
        exact("a.Long"),
        exact("a.B"),
        exact(method="Long"),
        exact(method="C"),
        headers,
    ]

    ranks = [precedence(Match(0, way)) for way in ways]

    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


def test_matches_of_calls_are_compared_as_those_of_requests() -> None:
    service, call, method = (Match(0, each) for each in (exact("a.B"), exact("a.B", "C"), exact(method="C")))

    assert includes(service, call)
    assert not includes(call, service)
    assert may_meet(service, method)
    assert not may_meet(call, Match(0, exact("a.B", "D")))
    assert len({overlap_key(each) for each in (service, call, method)}) == 3
