"""What the kinds of routes have in common: parents, rules with names, and backends.

Facts
=====
* A route either looks at requests (HTTPRoute, GRPCRoute: ``RequestRoute``) and becomes Envoy routes in a
  table, or it takes connections as they are (TLSRoute, TCPRoute, UDPRoute) and becomes a filter chain.
* Which kinds there are is said in ``attach.route_kinds``.

Source: Gateway API, the types that its route kinds share.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from moongate.api.base import GATEWAY_GROUP, SET, DurationStr, Model, Resource, Rule, unique_by
from moongate.api.shared import (
    BackendObjectReference,
    Fraction,
    HeaderName,
    HeaderValue,
    Hostname,
    LocalObjectReference,
    ParentReference,
    SectionName,
)


class RouteBackendRef(BackendObjectReference, frozen=True, kw_only=True):
    """A backend and its share of the traffic."""

    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1


class RouteRule(Model, frozen=True, kw_only=True):
    """One rule of a route."""

    name: SectionName | None = None
    backend_refs: tuple[RouteBackendRef, ...]


class RouteSpec(Model, frozen=True, kw_only=True):
    """Parents and rules of a route."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "parent_refs": (
            Rule(
                "self.all(p1, self.all(p2, p1.group == p2.group && p1.kind == p2.kind && "
                "p1.name == p2.name && (((!has(p1.__namespace__) || p1.__namespace__ == "
                "'') && (!has(p2.__namespace__) || p2.__namespace__ == '')) || "
                "(has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == "
                "p2.__namespace__)) ? ((!has(p1.sectionName) || p1.sectionName == '') == "
                "(!has(p2.sectionName) || p2.sectionName == '') && (!has(p1.port) || "
                "p1.port == 0) == (!has(p2.port) || p2.port == 0)): true))",
                "Two parentRefs to one parent must both have a sectionName or port, or neither.",
            ),
            Rule(
                "self.all(p1, self.exists_one(p2, p1.group == p2.group && p1.kind == "
                "p2.kind && p1.name == p2.name && (((!has(p1.__namespace__) || "
                "p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ "
                "== '')) || (has(p1.__namespace__) && has(p2.__namespace__) && "
                "p1.__namespace__ == p2.__namespace__ )) && (((!has(p1.sectionName) || "
                "p1.sectionName == '') && (!has(p2.sectionName) || p2.sectionName == "
                "'')) || ( has(p1.sectionName) && has(p2.sectionName) && p1.sectionName "
                "== p2.sectionName)) && (((!has(p1.port) || p1.port == 0) && "
                "(!has(p2.port) || p2.port == 0)) || (has(p1.port) && has(p2.port) && "
                "p1.port == p2.port))))",
                "Two parentRefs to one parent must differ in sectionName or port.",
            ),
        ),
    }

    parent_refs: Annotated[tuple[ParentReference, ...], Meta(max_length=32)] = ()
    rules: tuple[RouteRule, ...]
    use_default_gateways: Literal["All", "None"] | None = None


class Route(Resource, frozen=True, kw_only=True):
    """Base of the route kinds."""

    GROUP: ClassVar[str] = GATEWAY_GROUP

    spec: RouteSpec

    @property
    def hostnames(self) -> tuple[str, ...]:
        """What it is served under; none for all names, or where a kind knows no names."""
        return ()

    @property
    def by_default(self) -> bool:
        """Whether all default Gateways are its parents, besides those that it names."""
        return self.spec.use_default_gateways == "All"


class HTTPHeader(Model, frozen=True, kw_only=True):
    """A header and its value."""

    name: HeaderName
    value: HeaderValue


class HTTPHeaderFilter(Model, frozen=True, kw_only=True):
    """Changes of headers: ``set`` replaces, ``add`` appends, ``remove`` takes away."""

    set: Annotated[tuple[HTTPHeader, ...], Meta(max_length=16), unique_by("name")] = ()
    add: Annotated[tuple[HTTPHeader, ...], Meta(max_length=16), unique_by("name")] = ()
    remove: Annotated[tuple[str, ...], Meta(max_length=16), SET] = ()


class HTTPRequestMirrorFilter(Model, frozen=True, kw_only=True):
    """A copy of (a share of) the requests goes to another backend, whose answer is dropped."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.percent) && has(self.fraction))",
            "Set percent or fraction, not both.",
        ),
    )

    backend_ref: BackendObjectReference
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    fraction: Fraction | None = None


def once(*types: str) -> tuple[Rule, ...]:
    """The rules about a list of filters that each of some types stands there once at most."""
    return tuple(
        Rule(
            f"self.filter(f, f.type == '{type_}').size() <= 1", f"Only one filter of type {type_} is allowed."
        )
        for type_ in types
    )


class RouteFilter(Model, frozen=True, kw_only=True):
    """One step on a request's or response's way; the field that ``type`` names holds its settings."""

    RULES: ClassVar[tuple[Rule, ...]] = tuple(
        rule
        for field, type_ in (
            ("requestHeaderModifier", "RequestHeaderModifier"),
            ("responseHeaderModifier", "ResponseHeaderModifier"),
            ("requestMirror", "RequestMirror"),
            ("extensionRef", "ExtensionRef"),
        )
        for rule in (
            Rule(
                f"!(has(self.{field}) && self.type != '{type_}')",
                f"{field} is set, so type must be {type_}.",
            ),
            Rule(
                f"!(!has(self.{field}) && self.type == '{type_}')",
                f"type {type_} needs {field}.",
            ),
        )
    )

    type: str
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    extension_ref: LocalObjectReference | None = None


class RequestBackendRef(RouteBackendRef, frozen=True, kw_only=True):
    """A backend, its share of the requests, and filters for these alone."""

    filters: Annotated[tuple[RouteFilter, ...], Meta(max_length=16)] = ()


class CookieConfig(Model, frozen=True, kw_only=True):
    """How long a browser keeps the cookie of a session: until it is closed, or for a time."""

    lifetime_type: Literal["Permanent", "Session"] = "Session"


class SessionPersistence(Model, frozen=True, kw_only=True):
    """Requests of one session go to one endpoint."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.cookieConfig) || !has(self.cookieConfig.lifetimeType) || "
            "self.cookieConfig.lifetimeType != 'Permanent' || has(self.absoluteTimeout)",
            "lifetimeType Permanent needs absoluteTimeout.",
        ),
        Rule(
            "!has(self.cookieConfig) || self.type == 'Cookie'",
            "cookieConfig is set, so type must be Cookie.",
        ),
    )

    session_name: Annotated[str, Meta(max_length=128)] | None = None
    absolute_timeout: DurationStr | None = None
    type: Literal["Cookie", "Header"] = "Cookie"
    cookie_config: CookieConfig | None = None


class RequestRule(RouteRule, frozen=True, kw_only=True):
    """Requests go through the filters to the backends."""

    filters: Annotated[tuple[RouteFilter, ...], Meta(max_length=16)] = ()
    backend_refs: Annotated[tuple[RequestBackendRef, ...], Meta(max_length=16)] = ()
    session_persistence: SessionPersistence | None = None


class RequestRouteSpec(RouteSpec, frozen=True, kw_only=True):
    """Parents, hostnames and rules of a route of requests."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "rules": (
            Rule(
                "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))",
                "Two rules have the same name.",
            ),
        ),
    }

    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()
    rules: Annotated[tuple[RequestRule, ...], Meta(min_length=1, max_length=16)] = (RequestRule(),)


class RequestRoute(Route, frozen=True, kw_only=True):
    """Base of the kinds that look at requests."""

    spec: RequestRouteSpec

    @property
    def hostnames(self) -> tuple[str, ...]:
        return self.spec.hostnames
