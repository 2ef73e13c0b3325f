"""Answer cross-origin (CORS) preflights at the gateway, and tell browsers what other origins may do.

Set by:      SecurityPolicy ``spec.cors``; HTTPRoute filter of type ``CORS``
Precedence:  the HTTPRoute filter wins as a whole: nothing of the policy is mixed in
Envoy:       ``envoy.filters.http.cors``, extensions/filters/http/cors/v3/cors.proto
Cases:       cors.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors, CorsPolicy
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue

from moongate.api.base import DurationStr, Model, milliseconds
from moongate.api.httproute import HTTPRouteRule
from moongate.api.route import RouteRule
from moongate.api.shared import origin
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter, Native
from moongate.problem import Problem

_METHODS: Final = frozenset({"DELETE", "OPTIONS", "PATCH", "PUT"})
"""The usual methods that need to be allowed: GET, HEAD and POST are allowed anyway."""

Origin = Annotated[
    str,
    origin(
        # The strings that the CRD's pattern matches, in a form that takes linear time in Python as well.
        r"^(\*|[A-Za-z][A-Za-z0-9+.-]*:\/\/(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)(:[0-9]{1,5})?)$",
    ),
]
"""``https://shop.example.com:8443``; the host may be ``*`` or start with ``*.``. ``*`` is any origin."""


class CORS(Model, frozen=True, kw_only=True):
    """Who may call from a browser, with what, and how long browsers may remember it."""

    allow_origins: tuple[Origin, ...] = ()
    """Nobody when empty."""
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: DurationStr | None = None
    """Browsers get whole seconds; a fraction is cut off."""
    allow_credentials: bool | None = None


def native(rule: RouteRule) -> CORS | None:
    """What a filter of the rule says: the same fields, but ``maxAge`` in whole seconds."""
    filters = rule.filters if isinstance(rule, HTTPRouteRule) else ()
    own = next((f.cors for f in filters if f.cors is not None), None)
    if own is None:
        return None
    return CORS(
        allow_origins=own.allow_origins,
        allow_methods=own.allow_methods,
        allow_headers=own.allow_headers,
        expose_headers=own.expose_headers,
        max_age=f"{own.max_age}s",
        allow_credentials=own.allow_credentials,
    )


def hints(cors: CORS) -> Iterator[Problem]:
    """The methods that allow nothing: a browser sends the usual ones in capitals, and compares with case.

    Source: Fetch Standard, "normalize a method" and "CORS-preflight fetch".
    """
    for n, method in enumerate(cors.allow_methods if "*" not in cors.allow_methods else ()):
        if method != (right := method.upper()) and right in _METHODS:
            message = (
                f"The method is {method!r}; browsers compare methods with their case, so this does not allow "
                f"{right}. Write {right!r}."
            )
            yield Problem(f"allowMethods[{n}]", message, "Unused")


def _chain(_db: Db, _cors: Effective[CORS]) -> Cors:
    return Cors()


def _stable(_cors: CORS | None) -> Cors:
    return Cors()


def _route(db: Db, cors: Effective[CORS]) -> CorsPolicy:
    spec = cors.value
    return CorsPolicy(
        allow_origin_string_match=[_origin(origin) for origin in spec.allow_origins],
        allow_methods=_any_or_joined(spec.allow_methods),
        allow_headers=_any_or_joined(spec.allow_headers),
        expose_headers=", ".join(spec.expose_headers),
        max_age="" if spec.max_age is None else str(milliseconds(spec.max_age) // 1000),
        allow_credentials=BoolValue(value=bool(spec.allow_credentials)),
        # A preflight from an origin that is not allowed is answered here, too: the backend never sees one.
        forward_not_matching_preflights=BoolValue(value=False),
    )


def _origin(origin: str) -> StringMatcher:
    if "*" not in origin:
        return StringMatcher(exact=origin)
    # Not re.escape: it also escapes what RE2 takes literally, and patches compare the text.
    quoted = re.sub(r"[\\.+?()|\[\]{}^$]", r"\\\g<0>", origin)
    return StringMatcher(safe_regex=RegexMatcher(regex=quoted.replace("*", ".*")))


def _any_or_joined(values: tuple[str, ...]) -> str:
    # "*" means "any" to Envoy only when it stands alone; in "*, GET" it is a literal.
    # Source: envoy, source/extensions/filters/http/cors/cors_filter.cc.
    return "*" if "*" in values else ", ".join(values)


FEATURE = Feature(
    kind="SecurityPolicy",
    field="cors",
    model=CORS,
    native=Native(read=native),
    http_filter=HttpFilter(name="envoy.filters.http.cors", chain=_chain, route=_route, stable=_stable),
    hints=hints,
)
