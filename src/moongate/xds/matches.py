"""What a rule matches on: Envoy's matchers, the precedence among them, and what makes two of them equal.

Theory of operation
===================
A rule's own matches are multiplied with those of its filters (cookies). Each product is one ``Match``, from
which one Envoy route is made; and a second one, where a CORS filter must see the preflights of a match whose
method would keep them out.

Source: Gateway API, HTTPRouteMatch (precedence); the reference's shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from msgspec import Struct

from moongate.api.httproute import HTTPHeaderMatch, HTTPPathMatch, HTTPRouteMatch
from moongate.api.httproutefilter import HTTPCookieMatch
from moongate.regex import regex_fault
from moongate.xds.wire import encode, message_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moongate.api.httproute import HTTPQueryParamMatch, HTTPRouteRule
    from moongate.api.httproutefilter import HTTPRouteMatchFilter

_COOKIES: Final = 17
_COOKIE_NAME: Final = 1
_COOKIE_STRING_MATCH: Final = 2
"""Numbers of ``RouteMatch.cookies`` and of fields of ``CookieMatcher``: those of Envoy 1.40."""

_KINDS: Final = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}

_PREFLIGHT: Final = (
    HTTPHeaderMatch(name="origin", type="RegularExpression", value=".*"),
    HTTPHeaderMatch(name="access-control-request-method", type="RegularExpression", value=".*"),
)


class Match(Struct, frozen=True):
    """One way to match a rule.

    Args:
        index: its number in the rule; -1 for a rule that matches everything because it says nothing.
        given: what the rule says.
        cookies: what its filter says besides.
        preflight: it stands for the CORS preflights of ``given``: same path and query, but method OPTIONS.
    """

    index: int
    given: HTTPRouteMatch
    cookies: tuple[HTTPCookieMatch, ...] = ()
    preflight: bool = False

    @property
    def method(self) -> str | None:
        return "OPTIONS" if self.preflight else self.given.method

    @property
    def headers(self) -> tuple[HTTPHeaderMatch, ...]:
        return (*self.given.headers, *_PREFLIGHT) if self.preflight else self.given.headers


def matches(
    rule: HTTPRouteRule, filtered: tuple[HTTPRouteMatchFilter, ...] = (), *, cors: bool = False
) -> list[Match]:
    """The ways to match a rule, in order.

    Args:
        rule: the rule.
        filtered: what its filters ask for besides; one of them must match, too.
        cors: the rule has a CORS filter.
    """
    own = rule.matches or ((HTTPRouteMatch(),) if filtered else ())
    cookies = [f.cookies for f in filtered] or [()]
    told: list[Match] = []
    for index, (given, extra) in enumerate((g, c) for g in own for c in cookies):
        told.append(Match(index, given, extra))
        # Browsers send no cookies with a preflight.
        if cors and given.method not in (None, "OPTIONS") and not extra:
            told.append(Match(index, given, preflight=True))
    return told or [Match(-1, HTTPRouteMatch())]


def matcher(match: Match) -> RouteMatch:
    """Envoy's form of a match."""
    message = RouteMatch()
    _path(message, match.given.path)
    # The reference puts a match's own method last, that of a preflight before what is added for it.
    given, added = match.given.headers, match.headers[len(match.given.headers) :]
    for header in given:
        _compare(_header(message, header.name), header.type, header.value)
    if match.method is not None:
        _compare(_header(message, ":method"), "Exact", match.method)
    for header in added:
        _compare(_header(message, header.name), header.type, header.value)
    for param in match.given.query_params:
        entry = QueryParameterMatcher(name=param.name)
        _compare(entry.string_match, param.type, param.value)
        message.query_parameters.append(entry)
    for cookie in match.cookies:
        message.MergeFromString(_cookie(cookie))
    return message


def precedence(match: Match) -> tuple[int, ...]:
    """Sorts matches of a hostname, the one to be tried first being the least."""
    path, headers, params = match.given.path, match.headers, match.given.query_params
    length = 0 if path.type == "PathPrefix" and path.value == "/" else len(path.value)
    return (
        _KINDS.get(path.type, len(_KINDS)),
        -length,
        int(match.method is None),
        -len(headers),
        -_exact(headers),
        -len(match.cookies),
        -_exact(match.cookies),
        -len(params),
        -_exact(params),
    )


def unbuildable(rule: HTTPRouteRule) -> str | None:
    """Why a rule can have no Envoy route, if so: it is dropped, and answers as if it were not there."""
    for match in rule.matches:
        patterns = [match.path.value] if match.path.type == "RegularExpression" else []
        patterns += [m.value for m in (*match.headers, *match.query_params) if m.type == "RegularExpression"]
        for pattern in patterns:
            if (fault := regex_fault(pattern)) is not None:
                return fault
    return None


def overlap_key(match: Match) -> str:
    """What tells two matches apart, as text: routes with an equal one on a hostname overlap."""
    headers = sorted((m.name.lower(), m.type, m.value) for m in match.headers)
    others = [
        sorted((m.name, m.type, m.value) for m in ms) for ms in (match.given.query_params, match.cookies)
    ]
    return repr((match.given.path.key, match.method, headers, others))


def _cookie(given: HTTPCookieMatch) -> bytes:
    """An encoded entry of ``RouteMatch.cookies``, which Envoy knows, but not the messages that we have."""
    compared = StringMatcher()
    _compare(compared, given.type, given.value)
    name = message_field(_COOKIE_NAME, given.name.encode())
    return message_field(_COOKIES, name + message_field(_COOKIE_STRING_MATCH, encode(compared)))


def _path(message: RouteMatch, path: HTTPPathMatch) -> None:
    match path.type:
        case "Exact":
            message.path = path.value
        case "RegularExpression":
            message.safe_regex.regex = path.value
        case _ if path.value == "/":
            message.prefix = "/"
        case _:
            message.path_separated_prefix = path.value.removesuffix("/")


def _header(message: RouteMatch, name: str) -> StringMatcher:
    entry = HeaderMatcher(name=name)
    message.headers.append(entry)
    return message.headers[-1].string_match


def _compare(message: StringMatcher, kind: str, value: str) -> None:
    if kind == "RegularExpression":
        message.safe_regex.regex = value
    else:
        message.exact = value


def _exact(given: Iterable[HTTPHeaderMatch | HTTPQueryParamMatch | HTTPCookieMatch]) -> int:
    return sum(1 for one in given if one.type == "Exact")
