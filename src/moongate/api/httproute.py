"""HTTPRoute: which requests go where, and what happens to them on the way."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from moongate.api.base import SET, DurationStr, Model, Rule, form, unique_by
from moongate.api.route import (
    RequestBackendRef,
    RequestRoute,
    RequestRouteSpec,
    RequestRule,
    RouteFilter,
    once,
)
from moongate.api.shared import (
    BackendObjectReference,
    HeaderName,
    HeaderValue,
    PortNumber,
    PreciseHostname,
    origin,
)

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
CORSMethod = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"]
CORSOrigin = Annotated[
    str,
    origin(r"(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)"),
]


class HTTPPathMatch(Model, frozen=True, kw_only=True):
    """How the request's path is compared."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? self.value.startsWith('/') : true",
            "A path of type Exact or PathPrefix must start with '/'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('//') : true",
            "A path of type Exact or PathPrefix must not contain '//'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('/./') : true",
            "A path of type Exact or PathPrefix must not contain '/./'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('/../') : true",
            "A path of type Exact or PathPrefix must not contain '/../'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('%2f') : true",
            "A path of type Exact or PathPrefix must not contain '%2f', an encoded slash.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('%2F') : true",
            "A path of type Exact or PathPrefix must not contain '%2F', an encoded slash.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('#') : true",
            "A path of type Exact or PathPrefix must not contain '#'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.endsWith('/..') : true",
            "A path of type Exact or PathPrefix must not end with '/..'.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? !self.value.endsWith('/.') : true",
            "A path of type Exact or PathPrefix must not end with '/.'.",
        ),
        Rule(
            "self.type in ['Exact','PathPrefix'] || self.type == 'RegularExpression'",
            "The type must be Exact, PathPrefix or RegularExpression.",
        ),
        Rule(
            "(self.type in ['Exact','PathPrefix']) ? "
            'self.value.matches(r"""^(?:[-A-Za-z0-9/._~!$&\'()*+,;=:@]|[%][0-9a-fA-F'
            ']{2})+$""") : true',
            "A path of type Exact or PathPrefix may hold only characters that RFC 3986 "
            "allows in paths; encode others as %XX. For a pattern, use RegularExpression.",
        ),
    )

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: Annotated[str, Meta(max_length=1024)] = "/"

    @property
    def key(self) -> tuple[str, str]:
        """Type and value, equal for what matches alike: a prefix with a slash at its end, and without."""
        if self.type == "PathPrefix" and self.value != "/":
            return self.type, self.value.removesuffix("/")
        return self.type, self.value


class HTTPHeaderMatch(Model, frozen=True, kw_only=True):
    """How one header, found by its name in any case, is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: HeaderValue


class HTTPQueryParamMatch(Model, frozen=True, kw_only=True):
    """How one query parameter is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=1024)]


class HTTPRouteMatch(Model, frozen=True, kw_only=True):
    """A request matches when all that is said here is so."""

    path: HTTPPathMatch = HTTPPathMatch()
    headers: Annotated[tuple[HTTPHeaderMatch, ...], Meta(max_length=16), unique_by("name")] = ()
    query_params: Annotated[tuple[HTTPQueryParamMatch, ...], Meta(max_length=16), unique_by("name")] = ()
    method: Method | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """The regular expressions in it."""
        compared = (self.path, *self.headers, *self.query_params)
        return tuple(each.value for each in compared if each.type == "RegularExpression")


class HTTPPathModifier(Model, frozen=True, kw_only=True):
    """A new path, or a new beginning of it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'ReplaceFullPath' ? has(self.replaceFullPath) : true",
            "type ReplaceFullPath needs replaceFullPath.",
        ),
        Rule(
            "has(self.replaceFullPath) ? self.type == 'ReplaceFullPath' : true",
            "replaceFullPath is set, so type must be ReplaceFullPath.",
        ),
        Rule(
            "self.type == 'ReplacePrefixMatch' ? has(self.replacePrefixMatch) : true",
            "type ReplacePrefixMatch needs replacePrefixMatch.",
        ),
        Rule(
            "has(self.replacePrefixMatch) ? self.type == 'ReplacePrefixMatch' : true",
            "replacePrefixMatch is set, so type must be ReplacePrefixMatch.",
        ),
    )

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: Annotated[str, Meta(max_length=1024)] | None = None
    replace_prefix_match: Annotated[str, Meta(max_length=1024)] | None = None


class HTTPRequestRedirectFilter(Model, frozen=True, kw_only=True):
    """The client is sent elsewhere; what is not said stays as in the request."""

    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None
    port: PortNumber | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class HTTPURLRewriteFilter(Model, frozen=True, kw_only=True):
    """Host and path that the backend sees."""

    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None


class HTTPCORSFilter(Model, frozen=True, kw_only=True):
    """Who may call from a browser, with what, and for how many seconds browsers may remember it."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "allow_origins": (
            Rule(
                "!('*' in self && self.size() > 1)",
                "'*' must stand alone in allowOrigins.",
            ),
        ),
        "allow_methods": (
            Rule(
                "!('*' in self && self.size() > 1)",
                "'*' must stand alone in allowMethods.",
            ),
        ),
        "allow_headers": (
            Rule(
                "!('*' in self && self.size() > 1)",
                "'*' must stand alone in allowHeaders.",
            ),
        ),
    }

    allow_origins: Annotated[tuple[CORSOrigin, ...], Meta(max_length=64), SET] = ()
    allow_credentials: bool | None = None
    allow_methods: Annotated[tuple[CORSMethod, ...], Meta(max_length=9), SET] = ()
    allow_headers: Annotated[tuple[HeaderName, ...], Meta(max_length=64), SET] = ()
    expose_headers: Annotated[tuple[HeaderName, ...], Meta(max_length=64), SET] = ()
    max_age: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 5
    """Seconds."""


class GRPCAuthConfig(Model, frozen=True, kw_only=True):
    """What is sent to an authorization server that speaks gRPC."""

    allowed_headers: Annotated[tuple[str, ...], Meta(max_length=64), SET] = ()


class HTTPAuthConfig(Model, frozen=True, kw_only=True):
    """What is sent to an authorization server that speaks HTTP, and what of its answer is passed on."""

    path: (
        Annotated[
            str,
            form(
                r"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$",
                "a path of a URL, such as '/auth', without query",
                high=1024,
            ),
        ]
        | None
    ) = None
    allowed_headers: Annotated[tuple[str, ...], Meta(max_length=64), SET] = ()
    allowed_response_headers: Annotated[tuple[str, ...], Meta(max_length=64), SET] = ()


class ForwardBodyConfig(Model, frozen=True, kw_only=True):
    """How much of the request's body the authorization server sees, in bytes."""

    max_size: int | None = None


class HTTPExternalAuthFilter(Model, frozen=True, kw_only=True):
    """A server that is asked whether a request may pass."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.protocol == 'GRPC' ? has(self.grpc) : true",
            "protocol GRPC needs grpc.",
        ),
        Rule(
            "has(self.grpc) ? self.protocol == 'GRPC' : true",
            "grpc is set, so protocol must be GRPC.",
        ),
        Rule(
            "self.protocol == 'HTTP' ? has(self.http) : true",
            "protocol HTTP needs http.",
        ),
        Rule(
            "has(self.http) ? self.protocol == 'HTTP' : true",
            "http is set, so protocol must be HTTP.",
        ),
    )

    protocol: Literal["HTTP", "GRPC"]
    backend_ref: BackendObjectReference
    grpc: GRPCAuthConfig | None = None
    http: HTTPAuthConfig | None = None
    forward_body: ForwardBodyConfig | None = None


class HTTPRouteFilter(RouteFilter, frozen=True, kw_only=True):
    """A filter of an HTTPRoute."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.cors) && self.type != 'CORS')",
            "cors is set, so type must be CORS.",
        ),
        Rule(
            "!(!has(self.cors) && self.type == 'CORS')",
            "type CORS needs cors.",
        ),
        Rule(
            "!(has(self.requestRedirect) && self.type != 'RequestRedirect')",
            "requestRedirect is set, so type must be RequestRedirect.",
        ),
        Rule(
            "!(!has(self.requestRedirect) && self.type == 'RequestRedirect')",
            "type RequestRedirect needs requestRedirect.",
        ),
        Rule(
            "!(has(self.urlRewrite) && self.type != 'URLRewrite')",
            "urlRewrite is set, so type must be URLRewrite.",
        ),
        Rule(
            "!(!has(self.urlRewrite) && self.type == 'URLRewrite')",
            "type URLRewrite needs urlRewrite.",
        ),
        Rule(
            "!(has(self.externalAuth) && self.type != 'ExternalAuth')",
            "externalAuth is set, so type must be ExternalAuth.",
        ),
        Rule(
            "!(!has(self.externalAuth) && self.type == 'ExternalAuth')",
            "type ExternalAuth needs externalAuth.",
        ),
    )

    type: Literal[
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "ExtensionRef",
        "CORS",
        "ExternalAuth",
    ]
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None
    cors: HTTPCORSFilter | None = None
    external_auth: HTTPExternalAuthFilter | None = None


Filters = Annotated[tuple[HTTPRouteFilter, ...], Meta(max_length=16)]

_FILTER_RULES = (
    Rule(
        "!(self.exists(f, f.type == 'RequestRedirect') && self.exists(f, f.type == 'URLRewrite'))",
        "A request is either redirected or rewritten: RequestRedirect and URLRewrite exclude each other.",
    ),
    *once("CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"),
)
"""What holds for the filters of a rule and for those of a backendRef."""


class HTTPBackendRef(RequestBackendRef, frozen=True, kw_only=True):
    """A backend of an HTTPRoute."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {"filters": _FILTER_RULES}

    filters: Filters = ()


class HTTPRouteTimeouts(Model, frozen=True, kw_only=True):
    """How long a request, and each try of it, may take."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.request) && has(self.backendRequest) && duration(self.request) "
            "!= duration('0s') && duration(self.backendRequest) > duration(self.request))",
            "backendRequest must not be longer than request, for it is a part of it.",
        ),
    )

    request: DurationStr | None = None
    backend_request: DurationStr | None = None


class HTTPRouteRetry(Model, frozen=True, kw_only=True):
    """When and how often a failed request is tried again."""

    codes: Annotated[tuple[Annotated[int, Meta(ge=400, le=599)], ...], SET] = ()
    attempts: Annotated[int, Meta(ge=1)] | None = None
    backoff: DurationStr | None = None


class HTTPRouteRule(RequestRule, frozen=True, kw_only=True):
    """Requests that match any of ``matches`` go through the filters to the backends."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) "
            "|| self.filters.all(f, !has(f.requestRedirect))): true",
            "A rule with a RequestRedirect filter answers by itself; it must not have backendRefs.",
        ),
        Rule(
            "(has(self.filters) && self.filters.exists_one(f, has(f.requestRedirect) && "
            "has(f.requestRedirect.path) && f.requestRedirect.path.type == "
            "'ReplacePrefixMatch' && has(f.requestRedirect.path.replacePrefixMatch))) ? "
            "((size(self.matches) != 1 || !has(self.matches[0].path) || "
            "self.matches[0].path.type != 'PathPrefix') ? false : true) : true",
            "A RequestRedirect filter with replacePrefixMatch needs exactly one match, of type PathPrefix.",
        ),
        Rule(
            "(has(self.filters) && self.filters.exists_one(f, has(f.urlRewrite) && "
            "has(f.urlRewrite.path) && f.urlRewrite.path.type == 'ReplacePrefixMatch' && "
            "has(f.urlRewrite.path.replacePrefixMatch))) ? ((size(self.matches) != 1 || "
            "!has(self.matches[0].path) || self.matches[0].path.type != 'PathPrefix') ? "
            "false : true) : true",
            "A URLRewrite filter with replacePrefixMatch needs exactly one match, of type PathPrefix.",
        ),
        Rule(
            "(has(self.backendRefs) && self.backendRefs.exists_one(b, (has(b.filters) && "
            "b.filters.exists_one(f, has(f.requestRedirect) && "
            "has(f.requestRedirect.path) && f.requestRedirect.path.type == "
            "'ReplacePrefixMatch' && has(f.requestRedirect.path.replacePrefixMatch))) )) "
            "? ((size(self.matches) != 1 || !has(self.matches[0].path) || "
            "self.matches[0].path.type != 'PathPrefix') ? false : true) : true",
            "A RequestRedirect filter of a backendRef with replacePrefixMatch needs "
            "exactly one match, of type PathPrefix.",
        ),
        Rule(
            "(has(self.backendRefs) && self.backendRefs.exists_one(b, (has(b.filters) && "
            "b.filters.exists_one(f, has(f.urlRewrite) && has(f.urlRewrite.path) && "
            "f.urlRewrite.path.type == 'ReplacePrefixMatch' && "
            "has(f.urlRewrite.path.replacePrefixMatch))) )) ? ((size(self.matches) != 1 "
            "|| !has(self.matches[0].path) || self.matches[0].path.type != 'PathPrefix') "
            "? false : true) : true",
            "A URLRewrite filter of a backendRef with replacePrefixMatch needs exactly "
            "one match, of type PathPrefix.",
        ),
    )
    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {"filters": _FILTER_RULES}

    matches: Annotated[tuple[HTTPRouteMatch, ...], Meta(max_length=64)] = (HTTPRouteMatch(),)
    filters: Filters = ()
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], Meta(max_length=16)] = ()
    timeouts: HTTPRouteTimeouts | None = None
    retry: HTTPRouteRetry | None = None


class HTTPRouteSpec(RequestRouteSpec, frozen=True, kw_only=True):
    """Parents, hostnames and rules of an HTTPRoute."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "rules": (
            Rule(
                "(self.size() > 0 ? self[0].matches.size() : 0) + (self.size() > 1 ? "
                "self[1].matches.size() : 0) + (self.size() > 2 ? self[2].matches.size() "
                ": 0) + (self.size() > 3 ? self[3].matches.size() : 0) + (self.size() > "
                "4 ? self[4].matches.size() : 0) + (self.size() > 5 ? "
                "self[5].matches.size() : 0) + (self.size() > 6 ? self[6].matches.size() "
                ": 0) + (self.size() > 7 ? self[7].matches.size() : 0) + (self.size() > "
                "8 ? self[8].matches.size() : 0) + (self.size() > 9 ? "
                "self[9].matches.size() : 0) + (self.size() > 10 ? "
                "self[10].matches.size() : 0) + (self.size() > 11 ? "
                "self[11].matches.size() : 0) + (self.size() > 12 ? "
                "self[12].matches.size() : 0) + (self.size() > 13 ? "
                "self[13].matches.size() : 0) + (self.size() > 14 ? "
                "self[14].matches.size() : 0) + (self.size() > 15 ? "
                "self[15].matches.size() : 0) <= 128",
                "The rules have more than 128 matches together; divide them among several routes.",
            ),
        ),
    }

    rules: Annotated[tuple[HTTPRouteRule, ...], Meta(min_length=1, max_length=16)] = (HTTPRouteRule(),)


class HTTPRoute(RequestRoute, frozen=True, kw_only=True):
    """Routing of HTTP requests."""

    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1beta1")
    KIND: ClassVar[str] = "HTTPRoute"

    spec: HTTPRouteSpec
