"""The matches of a rule: their content, their precedence, and when two of them are equal.

Theory of operation
===================
Each match of a rule (``RequestMatch``) is combined with each match of its filters (cookies). Each combination
is one ``Match``, and becomes one Envoy route. It becomes a second route if the rule has a CORS filter and the
match names a method, because the filter must see preflights, which have another method.

Source: Gateway API, HTTPRouteMatch (precedence); HTTPHeaderMatch, HTTPQueryParamMatch (repeated names).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from moongate.api.httproute import HTTPHeaderMatch, HTTPPathMatch, HTTPRouteMatch
from moongate.api.httproutefilter import HTTPCookieMatch
from moongate.regex import regex_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from moongate.api.httproutefilter import HTTPRouteMatchFilter

_PATHS: Final = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
"""Types of paths in the order in which they are tried."""

_PREFLIGHT: Final = (
    HTTPHeaderMatch(name="origin", type="RegularExpression", value=".*"),
    HTTPHeaderMatch(name="access-control-request-method", type="RegularExpression", value=".*"),
)


class Comparison(Protocol):
    """How a header, a query parameter or a cookie of some name is compared."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str:
        """``Exact``, ``RegularExpression`` or ``Suffix``."""
        ...

    @property
    def value(self) -> str: ...


class RequestMatch(Protocol):
    """The conditions of a rule on a request. All of them must be true."""

    @property
    def path(self) -> HTTPPathMatch: ...

    @property
    def method(self) -> str | None: ...

    @property
    def headers(self) -> Sequence[Comparison]: ...

    @property
    def query_params(self) -> Sequence[Comparison]: ...

    @property
    def patterns(self) -> Sequence[str]:
        """The regular expressions in it, as they are written."""
        ...


EVERYTHING: Final[RequestMatch] = HTTPRouteMatch()
"""The match of a rule without matches."""


class Match(Struct, frozen=True):
    """One way to match a rule.

    Args:
        index: its number in the rule; -1 for a rule that matches everything because it says nothing.
        written: what the rule says.
        cookies: what its filter says besides.
        preflight: it stands for the CORS preflights of ``written``: same path and query, but method OPTIONS.
    """

    index: int
    written: RequestMatch
    cookies: tuple[HTTPCookieMatch, ...] = ()
    preflight: bool = False

    @property
    def path(self) -> HTTPPathMatch:
        return self.written.path

    @property
    def method(self) -> str | None:
        return "OPTIONS" if self.preflight else self.written.method

    @property
    def own_headers(self) -> Sequence[Comparison]:
        """Headers that the rule names, each once: of several entries for one header, the first counts."""
        return _first_of_each(self.written.headers, str.lower)

    @property
    def added_headers(self) -> Sequence[Comparison]:
        """Headers that are compared besides those that the rule names."""
        return _PREFLIGHT if self.preflight else ()

    @property
    def headers(self) -> Sequence[Comparison]:
        """All headers that are compared."""
        return (*self.own_headers, *self.added_headers)

    @property
    def query_params(self) -> Sequence[Comparison]:
        """Query parameters that are compared, each once: of several entries for one, the first counts."""
        return _first_of_each(self.written.query_params, str)


def matches(
    written: Sequence[RequestMatch], filtered: Sequence[HTTPRouteMatchFilter] = (), *, cors: bool = False
) -> list[Match]:
    """The ways to match a rule, in order.

    Args:
        written: what the rule says.
        filtered: what its filters ask for besides; one of them must match, too.
        cors: the rule has a CORS filter.
    """
    own = written or ((EVERYTHING,) if filtered else ())
    cookies = [each.cookies for each in filtered] or [()]
    ways: list[Match] = []
    for index, (match, also) in enumerate((match, also) for match in own for also in cookies):
        ways.append(Match(index, match, also))
        # Browsers send no cookies with a preflight.
        if cors and match.method not in (None, "OPTIONS") and not also:
            ways.append(Match(index, match, preflight=True))
    return ways or [Match(-1, EVERYTHING)]


def precedence(match: Match) -> tuple[int, ...]:
    """The sort key of matches under one hostname: Envoy tries the smallest first."""
    path, headers, params = match.path, match.headers, match.query_params
    length = 0 if path.type == "PathPrefix" and path.value == "/" else len(path.value)
    return (
        _PATHS.get(path.type, len(_PATHS)),
        -length,
        -_end_of_path(headers),
        int(match.method is None),
        -len(headers),
        -_exact(headers),
        -len(match.cookies),
        -_exact(match.cookies),
        -len(params),
        -_exact(params),
    )


def unbuildable(written: Iterable[RequestMatch]) -> str | None:
    """Why a rule cannot have an Envoy route, or ``None``. Such a rule is dropped, as if it did not exist."""
    faults = (regex_fault(pattern) for match in written for pattern in match.patterns)
    return next((fault for fault in faults if fault is not None), None)


def overlap_key(match: Match) -> str:
    """The identity of a match, as text. Routes with equal identities under one hostname overlap."""
    headers = sorted((m.name.lower(), m.type, m.value) for m in match.headers)
    others = [sorted((m.name, m.type, m.value) for m in each) for each in (match.query_params, match.cookies)]
    return repr((match.path.key, match.method, headers, others))


def may_meet(one: Match, other: Match) -> bool:
    """Whether a request may match both; True also where that depends on a pattern."""
    if None not in (one.method, other.method) and one.method != other.method:
        return False
    if not _paths_meet(one.path, other.path):
        return False
    theirs = _by_name(other)
    return not any(
        a.type == b.type == "Exact" and a.value != b.value
        for name, a in _by_name(one).items()
        if (b := theirs.get(name)) is not None
    )


def includes(one: Match, other: Match) -> bool:
    """Whether each request that matches ``other`` matches ``one``; False also where a pattern decides."""
    if one.method not in (None, other.method) or one.cookies not in ((), other.cookies):
        return False
    theirs = _by_name(other)
    if any(
        (b := theirs.get(name)) is None or (a.type, a.value) != (b.type, b.value)
        for name, a in _by_name(one).items()
    ):
        return False
    return one.path.key == other.path.key or (
        one.path.type == "PathPrefix"
        and other.path.type != "RegularExpression"
        and one.path.key[1] in ancestors(other.path.value)
    )


def ancestors(path: str) -> list[str]:
    """The prefixes that a path is beneath, as ``HTTPPathMatch.key`` has them: itself first, "/" last.

    >>> ancestors("/a/b/")
    ['/a/b', '/a', '/']
    """
    parts = path.strip("/").split("/")
    return [f"/{'/'.join(parts[:n])}" for n in range(len(parts), 0, -1) if parts[0]] + ["/"]


def _paths_meet(one: HTTPPathMatch, other: HTTPPathMatch) -> bool:
    if "RegularExpression" in (one.type, other.type) or one.key == other.key:
        return True
    return any(
        a.type == "PathPrefix" and a.key[1] in ancestors(b.value) for a, b in ((one, other), (other, one))
    )


def _by_name(match: Match) -> dict[tuple[str, str], Comparison]:
    """What is compared besides path and method: by what it is, and its name."""
    return {
        **{("header", each.name.lower()): each for each in match.own_headers},
        **{("parameter", each.name): each for each in match.query_params},
    }


def _end_of_path(headers: Sequence[Comparison]) -> int:
    """How many characters of the path are compared besides its beginning: the method of a gRPC call."""
    return sum(len(each.value) for each in headers if each.type == "Suffix")


def _exact(comparisons: Iterable[Comparison]) -> int:
    return sum(1 for each in comparisons if each.type == "Exact")


def _first_of_each(comparisons: Sequence[Comparison], identity: Callable[[str], str]) -> Sequence[Comparison]:
    """The first comparison of each name.

    Args:
        comparisons: all that are written.
        identity: makes names equal that mean the same.
    """
    if len(comparisons) < 2:
        return comparisons
    first: dict[str, Comparison] = {}
    for comparison in comparisons:
        first.setdefault(identity(comparison.name), comparison)
    return tuple(first.values())
