"""GRPCRoute: which calls of gRPC go where, and what happens to them on the way."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from moongate.api.base import Model, Rule, unique_by
from moongate.api.route import (
    RequestBackendRef,
    RequestRoute,
    RequestRouteSpec,
    RequestRule,
    RouteFilter,
    once,
)
from moongate.api.shared import HeaderName


class GRPCMethodMatch(Model, frozen=True, kw_only=True):
    """How the service and the method of a call are compared; what is not said matches any."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.type) ? has(self.service) || has(self.method) : true",
            "A method match needs service, method, or both.",
        ),
        Rule(
            "(!has(self.type) || self.type == 'Exact') && has(self.service) ? "
            'self.service.matches(r"""^(?i)\\.?[a-z_][a-z_0-9]*(\\.[a-z_][a-z_0-9]*)*$"""): true',
            "A service of type Exact is names joined by dots, such as shop.v1.Cart; for a pattern, use "
            "RegularExpression.",
        ),
        Rule(
            "(!has(self.type) || self.type == 'Exact') && has(self.method) ? "
            'self.method.matches(r"""^[A-Za-z_][A-Za-z_0-9]*$"""): true',
            "A method of type Exact is a name such as AddItem; for a pattern, use RegularExpression.",
        ),
    )

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: Annotated[str, Meta(max_length=1024)] | None = None
    method: Annotated[str, Meta(max_length=1024)] | None = None


class GRPCHeaderMatch(Model, frozen=True, kw_only=True):
    """How one header, found by its name in any case, is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class GRPCRouteMatch(Model, frozen=True, kw_only=True):
    """A call matches when all that is said here is so."""

    method: GRPCMethodMatch | None = None
    headers: Annotated[tuple[GRPCHeaderMatch, ...], Meta(max_length=16), unique_by("name")] = ()


class GRPCRouteFilter(RouteFilter, frozen=True, kw_only=True):
    """A filter of a GRPCRoute."""

    type: Literal["ResponseHeaderModifier", "RequestHeaderModifier", "RequestMirror", "ExtensionRef"]


Filters = Annotated[tuple[GRPCRouteFilter, ...], Meta(max_length=16)]

_FILTER_RULES = once("RequestHeaderModifier", "ResponseHeaderModifier")
"""What holds for the filters of a rule and for those of a backendRef."""


class GRPCBackendRef(RequestBackendRef, frozen=True, kw_only=True):
    """A backend of a GRPCRoute."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {"filters": _FILTER_RULES}

    filters: Filters = ()


class GRPCRouteRule(RequestRule, frozen=True, kw_only=True):
    """Calls that match any of ``matches``, or all calls where there is none, go through the filters."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {"filters": _FILTER_RULES}

    matches: Annotated[tuple[GRPCRouteMatch, ...], Meta(max_length=64)] = ()
    filters: Filters = ()
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], Meta(max_length=16)] = ()


class GRPCRouteSpec(RequestRouteSpec, frozen=True, kw_only=True):
    """Parents, hostnames and rules of a GRPCRoute."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "rules": (
            Rule(
                " + ".join(
                    f"(self.size() > {n} ? (has(self[{n}].matches) ? self[{n}].matches.size() : 0) : 0)"
                    for n in range(16)
                )
                + " <= 128",
                "The rules have more than 128 matches together; divide them among several routes.",
            ),
        ),
    }

    rules: Annotated[tuple[GRPCRouteRule, ...], Meta(max_length=16)] = ()


class GRPCRoute(RequestRoute, frozen=True, kw_only=True):
    """Routing of gRPC calls."""

    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1alpha2")
    KIND: ClassVar[str] = "GRPCRoute"

    spec: GRPCRouteSpec
