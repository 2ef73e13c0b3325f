"""HTTPRouteFilter: what Envoy can do to a request of an HTTPRoute that the Gateway API has no filter for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from moongate.api.base import ENVOY_GROUP, Model, Resource, Rule, form
from moongate.api.route import HTTPHeaderFilter
from moongate.api.shared import LocalObjectReference, SecretObjectReference


class ReplaceRegexMatch(Model, frozen=True, kw_only=True):
    """A regular expression, and what stands in place of what it matches."""

    pattern: Annotated[str, Meta(min_length=1)]
    substitution: str


class HTTPPathModifier(Model, frozen=True, kw_only=True):
    """A new path, made from the old one."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'ReplaceRegexMatch' ? has(self.replaceRegexMatch) : !has(self.replaceRegexMatch)",
            "type ReplaceRegexMatch needs replaceRegexMatch.",
        ),
    )

    type: Literal["ReplaceRegexMatch"]
    replace_regex_match: ReplaceRegexMatch | None = None


class PathRegex(Model, frozen=True, kw_only=True):
    """A regular expression on the path, and the host that is made from what it matches."""

    pattern: Annotated[str, Meta(min_length=1)]
    substitution: Annotated[str, form(r"^[^\r\n\x00]*$", "one line of text", low=1)]


class HTTPHostnameModifier(Model, frozen=True, kw_only=True):
    """Where the host that the backend sees is taken from."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.header) && self.type != 'Header')",
            "header is set, so type must be Header.",
        ),
        Rule(
            "!(!has(self.header) && self.type == 'Header')",
            "type Header needs header.",
        ),
        Rule(
            "!(has(self.pathRegex) && self.type != 'PathRegex')",
            "pathRegex is set, so type must be PathRegex.",
        ),
        Rule(
            "!(!has(self.pathRegex) && self.type == 'PathRegex')",
            "type PathRegex needs pathRegex.",
        ),
    )

    type: Literal["Header", "Backend", "PathRegex"]
    header: str | None = None
    path_regex: PathRegex | None = None


class HTTPURLRewriteFilter(Model, frozen=True, kw_only=True):
    """Host and path that the backend sees, made from the request's."""

    hostname: HTTPHostnameModifier | None = None
    path: HTTPPathModifier | None = None
    append_x_forwarded_host: bool | None = None
    """Whether a rewritten host is passed on in ``x-forwarded-host``; it is when absent."""


class CustomResponseBody(Model, frozen=True, kw_only=True):
    """A body, as text or in a ConfigMap."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(!has(self.type) || self.type == 'Inline')? has(self.inline) : true",
            "type Inline needs inline.",
        ),
        Rule(
            "(has(self.type) && self.type == 'ValueRef')? has(self.valueRef) : true",
            "type ValueRef needs valueRef.",
        ),
        Rule(
            "has(self.valueRef) ? self.valueRef.kind == 'ConfigMap' : true",
            "valueRef must name a ConfigMap.",
        ),
    )

    type: Literal["Inline", "ValueRef"] = "Inline"
    inline: str | None = None
    value_ref: LocalObjectReference | None = None


class HTTPDirectResponseFilter(Model, frozen=True, kw_only=True):
    """An answer that Envoy gives by itself."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "header": (
            Rule(
                "!has(self.remove) || size(self.remove) == 0",
                "A direct response has no header yet that remove could take away.",
            ),
        ),
    }

    content_type: str | None = None
    body: CustomResponseBody | None = None
    header: HTTPHeaderFilter | None = None
    status_code: int | None = None
    """200 when absent."""


class HTTPCookieMatch(Model, frozen=True, kw_only=True):
    """How one cookie is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class HTTPRouteMatchFilter(Model, frozen=True, kw_only=True):
    """What a request must have besides what the rule's own match asks for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        # The CRD says so by ``minProperties``.
        Rule("has(self.cookies)", "The match asks for nothing; name cookies, or leave it out."),
    )

    cookies: Annotated[tuple[HTTPCookieMatch, ...], Meta(min_length=1, max_length=16)] = ()


class InjectedCredential(Model, frozen=True, kw_only=True):
    """Where a credential is."""

    value_ref: SecretObjectReference
    """A Secret whose key ``credential`` has the whole value of the header, such as ``Bearer abc``."""


class HTTPCredentialInjectionFilter(Model, frozen=True, kw_only=True):
    """A credential that backends get with each request, and clients never see."""

    header: str | None = None
    """``Authorization`` when absent."""
    overwrite: bool | None = None
    """Whether it replaces what a client sends in that header; it does not when absent."""
    credential: InjectedCredential


class HTTPRouteFilterSpec(Model, frozen=True, kw_only=True):
    """What the filter does."""

    url_rewrite: HTTPURLRewriteFilter | None = None
    direct_response: HTTPDirectResponseFilter | None = None
    credential_injection: HTTPCredentialInjectionFilter | None = None
    matches: Annotated[tuple[HTTPRouteMatchFilter, ...], Meta(max_length=8)] = ()
    """A request must match one of them, and one of the rule's own."""


class HTTPRouteFilter(Resource, frozen=True, kw_only=True):
    """A filter that rules of an HTTPRoute name in ``extensionRef``."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "HTTPRouteFilter"

    spec: HTTPRouteFilterSpec
