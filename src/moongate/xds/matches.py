"""Envoy's form of what a rule matches on.

Source: envoy/config/route/v3/route_components.proto, RouteMatch; the reference's shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from moongate.later_messages import set_later

if TYPE_CHECKING:
    from moongate.api.httproute import HTTPPathMatch
    from moongate.attach.matches import Comparison, Match


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
    if match.cookies:
        set_later(message, cookies=[_cookie(cookie) for cookie in match.cookies])
    return message


def _cookie(cookie: Comparison) -> dict[str, Any]:
    """The fields of a ``CookieMatcher``."""
    compared = StringMatcher()
    _compare(compared, cookie)
    return {"name": cookie.name, "string_match": compared}


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
