"""The matches of a GRPCRoute in terms of HTTP: a call is a request for ``/<service>/<method>``.

Theory of operation
===================
======================= ==========================================
what a match says       what Envoy compares
======================= ==========================================
service and method      the whole path
service                 the first part of the path
method                  the end of the path, as a header
a pattern of either     a pattern of the whole path; what is not said stands there as any name
======================= ==========================================

Facts
=====
* a pattern with alternatives or flags stands in a group of its own, so that they end where it ends
* names of gRPC have upper and lower case, so the pattern of any service has no flag that ignores it, as that
  would hold for the method as well

Source: gRPC over HTTP/2, "Path"; Gateway API, GRPCMethodMatch; the reference's shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from moongate.api.httproute import HTTPPathMatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moongate.api.grpcroute import GRPCMethodMatch, GRPCRouteMatch, GRPCRouteRule
    from moongate.attach.matches import Comparison, RequestMatch

_ANY_SERVICE: Final = r"\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*"
_ANY_METHOD: Final = "[A-Za-z_][A-Za-z_0-9]*"
_EVERY_PATH: Final = HTTPPathMatch()


class _EndOfPath(NamedTuple):
    """A comparison of the end of the path."""

    value: str
    name: str = ":path"
    type: str = "Suffix"


class _CallMatch(Struct, frozen=True):
    """One match of a GRPCRoute."""

    path: HTTPPathMatch
    headers: Sequence[Comparison]
    patterns: tuple[str, ...]
    method: None = None
    query_params: Sequence[Comparison] = ()


def call_matches(rule: GRPCRouteRule) -> tuple[RequestMatch, ...]:
    """The matches of a rule, in its order."""
    return tuple(map(_in_terms_of_http, rule.matches))


def _in_terms_of_http(match: GRPCRouteMatch) -> RequestMatch:
    method, headers = match.method, match.headers
    patterns = tuple(header.value for header in headers if header.type == "RegularExpression")
    if method is None or not (method.service or method.method):
        return _CallMatch(_EVERY_PATH, headers, patterns)
    if method.type == "Exact":
        if method.service:
            return _CallMatch(_path(method), headers, patterns)
        return _CallMatch(_EVERY_PATH, (*headers, _EndOfPath(f"/{method.method}")), patterns)
    own = tuple(pattern for pattern in (method.service, method.method) if pattern)
    return _CallMatch(_path(method), headers, (*own, *patterns))


def _path(method: GRPCMethodMatch) -> HTTPPathMatch:
    if method.type != "Exact":
        service = _group(method.service) if method.service else _ANY_SERVICE
        name = _group(method.method) if method.method else _ANY_METHOD
        return HTTPPathMatch(type="RegularExpression", value=f"/{service}/{name}")
    if method.method:
        return HTTPPathMatch(type="Exact", value=f"/{method.service}/{method.method}")
    return HTTPPathMatch(type="PathPrefix", value=f"/{method.service}")


def _group(pattern: str) -> str:
    return f"(?:{pattern})" if "|" in pattern or "(?" in pattern else pattern
