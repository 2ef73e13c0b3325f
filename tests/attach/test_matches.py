"""What a rule matches on, and which match is tried first."""

from __future__ import annotations

import pytest

from moongate.api.httproute import HTTPRouteMatch
from moongate.api.httproutefilter import HTTPCookieMatch, HTTPRouteMatchFilter
from moongate.attach.matches import (
    EVERYTHING,
    Match,
    includes,
    matches,
    may_meet,
    overlap_key,
    precedence,
    unbuildable,
)
from tests.routes import header, made, path

COOKIE = HTTPRouteMatchFilter(cookies=(HTTPCookieMatch(name="tier", value="gold"),))


def test_a_rule_without_matches_matches_everything_as_number_minus_one() -> None:
    [only] = matches(())

    assert only == Match(-1, EVERYTHING)


def test_cookies_of_a_filter_multiply_the_matches() -> None:
    other = HTTPRouteMatchFilter(cookies=(HTTPCookieMatch(name="tier", value="silver"),))
    written = (path("/a"), path("/b"))

    ways = matches(written, (COOKIE, other))

    assert [(m.index, m.path.value, m.cookies[0].value) for m in ways] == [
        (0, "/a", "gold"),
        (1, "/a", "silver"),
        (2, "/b", "gold"),
        (3, "/b", "silver"),
    ]


def test_cookies_also_narrow_a_rule_without_matches() -> None:
    [only] = matches((), (COOKIE,))

    assert (only.index, only.cookies) == (0, COOKIE.cookies)


def test_a_match_with_a_method_has_a_preflight_beside_it_where_cors_is_asked_for() -> None:
    written = (made(method="GET", headers=[header("x")]), made(method="OPTIONS"), path("/"))

    ways = matches(written, cors=True)

    assert [(m.index, m.preflight) for m in ways] == [(0, False), (0, True), (1, False), (2, False)]
    assert (ways[1].method, [h.name for h in ways[1].headers]) == (
        "OPTIONS",
        ["x", "origin", "access-control-request-method"],
    )


def test_no_preflight_goes_with_cookies_for_browsers_send_none() -> None:
    written = (made(method="GET"),)

    assert [m.preflight for m in matches(written, (COOKIE,), cors=True)] == [False]


def test_precedence_is_the_gateway_apis() -> None:
    """Exact, then regular expressions, then prefixes; longer first; method; headers; cookies; parameters."""
    in_order = [
        Match(0, path("/a", "Exact")),
        Match(0, path("/a.*", "RegularExpression")),
        Match(0, path("/abc")),
        Match(0, path("/a")),
        Match(0, made(method="GET")),
        Match(0, made(headers=[header("a"), header("b")])),
        Match(0, made(headers=[header("a")])),
        Match(0, made(headers=[header("a", "RegularExpression")])),
        Match(0, HTTPRouteMatch(), COOKIE.cookies),
        Match(0, made(queryParams=[header("a"), header("b")])),
        Match(0, made(queryParams=[header("a")])),
        Match(0, HTTPRouteMatch()),
    ]

    mixed = [*in_order[5:], *in_order[:5]]
    assert sorted(mixed, key=precedence) == in_order


def test_a_preflight_comes_before_what_it_stands_beside() -> None:
    one, preflight = matches((made(method="GET"),), cors=True)

    assert precedence(preflight) < precedence(one)


@pytest.mark.parametrize(
    "match",
    [
        path("(", "RegularExpression"),
        made(headers=[{"name": "x", "type": "RegularExpression", "value": "("}]),
        made(queryParams=[{"name": "x", "type": "RegularExpression", "value": "("}]),
    ],
)
def test_a_rule_with_a_pattern_that_envoy_would_refuse_cannot_be_built(match: HTTPRouteMatch) -> None:
    assert unbuildable((match,)) is not None


def test_a_pattern_is_only_one_where_the_type_says_so() -> None:
    assert unbuildable((path("/("),)) is None


def test_matches_that_take_the_same_requests_have_the_same_key() -> None:
    one = made(path={"value": "/a/"}, headers=[header("X"), header("y")])
    same = made(path={"value": "/a"}, headers=[header("y"), header("x")])

    assert overlap_key(Match(0, one)) == overlap_key(Match(3, same))
    assert overlap_key(Match(0, one)) != overlap_key(Match(0, one, COOKIE.cookies))
    assert overlap_key(Match(0, path("/a", "Exact"))) != overlap_key(Match(0, path("/a")))


def test_of_several_entries_for_one_header_the_first_counts() -> None:
    """Header names are the same in any letter case; both entries together would match no request."""
    twice = Match(0, made(headers=[header("X"), header("x", "RegularExpression")]))
    once = Match(0, made(headers=[header("X")]))

    assert [(h.name, h.type) for h in twice.headers] == [("X", "Exact")]
    assert precedence(twice) == precedence(once)
    assert overlap_key(twice) == overlap_key(once)


def test_of_several_entries_for_one_query_parameter_the_first_counts() -> None:
    """Query parameters that differ in letter case are two parameters."""
    match = Match(0, made(queryParams=[header("q"), header("Q"), header("q", "RegularExpression")]))

    assert [(p.name, p.type) for p in match.query_params] == [("q", "Exact"), ("Q", "Exact")]
    assert precedence(match) == precedence(Match(0, made(queryParams=[header("q"), header("Q")])))


PAIRS = [
    # Two matches; whether a request may meet both; whether the first includes the second.
    (path("/a"), path("/a"), True, True),
    (path("/a"), path("/a/"), True, True),
    (path("/a"), path("/a/b"), True, True),
    (path("/a/b"), path("/a"), True, False),
    (path("/a"), path("/ab"), False, False),
    (path("/"), path("/b", "Exact"), True, True),
    (path("/a"), path("/a/", "Exact"), True, True),
    (path("/a", "Exact"), path("/a"), True, False),
    (path("/a", "Exact"), path("/a/", "Exact"), False, False),
    (path("/.*", "RegularExpression"), path("/a"), True, False),
    (path("/"), path("/.*", "RegularExpression"), True, False),
    (path("/a.*", "RegularExpression"), path("/a.*", "RegularExpression"), True, True),
    (made(method="GET"), made(method="PUT"), False, False),
    (made(), made(method="PUT"), True, True),
    (made(method="PUT"), made(), True, False),
    (made(headers=[{"name": "x", "value": "1"}]), made(headers=[{"name": "X", "value": "2"}]), False, False),
    (made(headers=[{"name": "x", "value": "1"}]), made(headers=[{"name": "X", "value": "1"}]), True, True),
    (made(headers=[{"name": "x", "value": "1"}]), made(headers=[{"name": "y", "value": "1"}]), True, False),
    (made(), made(headers=[{"name": "x", "value": "1"}]), True, True),
]


@pytest.mark.parametrize(("one", "other", "meet", "include"), PAIRS)
def test_what_two_matches_have_in_common(
    one: HTTPRouteMatch, other: HTTPRouteMatch, meet: bool, include: bool
) -> None:
    """Where a pattern decides it, a request may meet both, and neither includes the other."""
    first, second = Match(0, one), Match(1, other)

    assert may_meet(first, second) == may_meet(second, first) == meet
    assert includes(first, second) == include
