"""How a rule's matches become Envoy's, and which is tried first."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import convert

from moongate.api.httproute import HTTPRouteMatch, HTTPRouteRule
from moongate.api.httproutefilter import HTTPCookieMatch, HTTPRouteMatchFilter
from moongate.xds.matches import Match, matcher, matches, overlap_key, precedence, unbuildable
from moongate.xds.wire import encode, message_field
from tests.routes import as_dict


def made(**fields: Any) -> HTTPRouteMatch:
    """A match from its wire form."""

    return convert(fields, HTTPRouteMatch)


def path(value: str, kind: str = "PathPrefix") -> HTTPRouteMatch:
    return made(path={"type": kind, "value": value})


def header(name: str, kind: str = "Exact") -> dict[str, str]:
    return {"name": name, "type": kind, "value": "v"}


COOKIE = HTTPRouteMatchFilter(cookies=(HTTPCookieMatch(name="tier", value="gold"),))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (path("/"), {"prefix": "/"}),
        (path("/a"), {"path_separated_prefix": "/a"}),
        (path("/a/"), {"path_separated_prefix": "/a"}),
        (path("/a", "Exact"), {"path": "/a"}),
        (path("/a.*", "RegularExpression"), {"safe_regex": {"regex": "/a.*"}}),
        (
            made(method="GET", headers=[header("x")]),
            {
                "prefix": "/",
                "headers": [
                    {"name": "x", "string_match": {"exact": "v"}},
                    {"name": ":method", "string_match": {"exact": "GET"}},
                ],
            },
        ),
        (
            made(queryParams=[header("q", "RegularExpression")]),
            {
                "prefix": "/",
                "query_parameters": [{"name": "q", "string_match": {"safe_regex": {"regex": "v"}}}],
            },
        ),
    ],
)
def test_each_part_of_a_match_has_its_matcher(given: HTTPRouteMatch, expected: dict[str, Any]) -> None:
    assert as_dict(matcher(Match(0, given))) == expected


def test_cookies_are_matched_in_a_field_that_the_messages_do_not_have() -> None:
    """Field 17 of ``RouteMatch``: name, then a ``StringMatcher`` whose first field is ``exact``."""
    message = matcher(Match(0, HTTPRouteMatch(), COOKIE.cookies))

    assert encode(message).endswith(
        message_field(17, message_field(1, b"tier") + message_field(2, message_field(1, b"gold")))
    )


def test_a_rule_without_matches_matches_everything_as_number_minus_one() -> None:
    [only] = matches(HTTPRouteRule(matches=()))

    assert only == Match(-1, HTTPRouteMatch())


def test_cookies_of_a_filter_multiply_the_matches() -> None:
    other = HTTPRouteMatchFilter(cookies=(HTTPCookieMatch(name="tier", value="silver"),))
    rule = HTTPRouteRule(matches=(path("/a"), path("/b")))

    found = matches(rule, (COOKIE, other))

    assert [(m.index, m.given.path.value, m.cookies[0].value) for m in found] == [
        (0, "/a", "gold"),
        (1, "/a", "silver"),
        (2, "/b", "gold"),
        (3, "/b", "silver"),
    ]


def test_cookies_also_narrow_a_rule_without_matches() -> None:
    [only] = matches(HTTPRouteRule(matches=()), (COOKIE,))

    assert (only.index, only.cookies) == (0, COOKIE.cookies)


def test_a_match_with_a_method_has_a_preflight_beside_it_where_cors_is_asked_for() -> None:
    rule = HTTPRouteRule(
        matches=(made(method="GET", headers=[header("x")]), made(method="OPTIONS"), path("/"))
    )

    found = matches(rule, cors=True)

    assert [(m.index, m.preflight) for m in found] == [(0, False), (0, True), (1, False), (2, False)]
    assert [(h.name, h.string_match.exact) for h in matcher(found[1]).headers] == [
        ("x", "v"),
        (":method", "OPTIONS"),
        ("origin", ""),
        ("access-control-request-method", ""),
    ]


def test_no_preflight_goes_with_cookies_for_browsers_send_none() -> None:
    rule = HTTPRouteRule(matches=(made(method="GET"),))

    assert [m.preflight for m in matches(rule, (COOKIE,), cors=True)] == [False]


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
    one, preflight = matches(HTTPRouteRule(matches=(made(method="GET"),)), cors=True)

    assert precedence(preflight) < precedence(one)


@pytest.mark.parametrize(
    "given",
    [
        path("(", "RegularExpression"),
        made(headers=[{"name": "x", "type": "RegularExpression", "value": "("}]),
        made(queryParams=[{"name": "x", "type": "RegularExpression", "value": "("}]),
    ],
)
def test_a_rule_with_a_pattern_that_envoy_would_refuse_cannot_be_built(given: HTTPRouteMatch) -> None:
    assert unbuildable(HTTPRouteRule(matches=(given,))) is not None


def test_a_pattern_is_only_one_where_the_type_says_so() -> None:
    assert unbuildable(HTTPRouteRule(matches=(path("/("),))) is None


def test_matches_that_take_the_same_requests_have_the_same_key() -> None:
    one = made(path={"value": "/a/"}, headers=[header("X"), header("y")])
    same = made(path={"value": "/a"}, headers=[header("y"), header("x")])

    assert overlap_key(Match(0, one)) == overlap_key(Match(3, same))
    assert overlap_key(Match(0, one)) != overlap_key(Match(0, one, COOKIE.cookies))
    assert overlap_key(Match(0, path("/a", "Exact"))) != overlap_key(Match(0, path("/a")))
