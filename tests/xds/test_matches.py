"""How a rule's matches become Envoy's."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.httproute import HTTPRouteMatch
from moongate.api.httproutefilter import HTTPCookieMatch
from moongate.attach.matches import EVERYTHING, Match
from moongate.xds.matches import matcher
from moongate.xds.wire import encode, message_field
from tests.routes import as_dict, header, made, path


@pytest.mark.parametrize(
    ("match", "expected"),
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
def test_each_part_of_a_match_has_its_matcher(match: HTTPRouteMatch, expected: dict[str, Any]) -> None:
    assert as_dict(matcher(Match(0, match))) == expected


def test_cookies_are_matched_in_a_field_that_the_messages_do_not_have() -> None:
    """Field 17 of ``RouteMatch``: name, then a ``StringMatcher`` whose first field is ``exact``."""
    message = matcher(Match(0, EVERYTHING, (HTTPCookieMatch(name="tier", value="gold"),)))

    assert encode(message).endswith(
        message_field(17, message_field(1, b"tier") + message_field(2, message_field(1, b"gold")))
    )


def test_a_preflight_is_matched_by_its_own_method_and_headers() -> None:
    """The reference puts a match's own method last, but that of a preflight before what is added for it."""
    message = matcher(Match(0, made(method="GET", headers=[header("x")]), preflight=True))

    assert [(h.name, h.string_match.exact) for h in message.headers] == [
        ("x", "v"),
        (":method", "OPTIONS"),
        ("origin", ""),
        ("access-control-request-method", ""),
    ]
