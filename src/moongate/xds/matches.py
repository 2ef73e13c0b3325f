"""Envoy's form of what a rule matches on.

Source: envoy/config/route/v3/route_components.proto, RouteMatch; the reference's shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from moongate.xds.wire import encode, message_field

if TYPE_CHECKING:
    from moongate.api.httproute import HTTPPathMatch
    from moongate.attach.matches import Comparison, Match

_COOKIES: Final = 17
_COOKIE_NAME: Final = 1
_COOKIE_STRING_MATCH: Final = 2
"""Numbers of ``RouteMatch.cookies`` and of fields of ``CookieMatcher``: those of Envoy 1.40."""


def matcher(match: Match) -> RouteMatch:
    """Envoy's form of a match."""
    message = RouteMatch()
    _path(message, match.path)
    # The reference puts a match's own method last, that of a preflight before what is added for it.
    for header in match.own_headers:
        _compare(_header(message, header.name), header)
    if match.method is not None:
        _header(message, ":method").exact = match.method
    for header in match.added_headers:
        _compare(_header(message, header.name), header)
    for param in match.query_params:
        entry = QueryParameterMatcher(name=param.name)
        _compare(entry.string_match, param)
        message.query_parameters.append(entry)
    for cookie in match.cookies:
        message.MergeFromString(_cookie(cookie))
    return message


def _cookie(cookie: Comparison) -> bytes:
    """An encoded entry of ``RouteMatch.cookies``, which Envoy knows, but not the messages that we have."""
    compared = StringMatcher()
    _compare(compared, cookie)
    name = message_field(_COOKIE_NAME, cookie.name.encode())
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


def _compare(message: StringMatcher, comparison: Comparison) -> None:
    match comparison.type:
        case "RegularExpression":
            message.safe_regex.regex = comparison.value
        case "Suffix":
            message.suffix = comparison.value
        case _:
            message.exact = comparison.value
