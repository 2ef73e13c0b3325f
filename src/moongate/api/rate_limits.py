"""Rate limits of a BackendTrafficPolicy: how many requests of which clients may pass in which time."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from moongate.api.base import Model, Rule

Unit = Literal["Second", "Minute", "Hour", "Day", "Week", "Month", "Year"]

_SelectorName = Annotated[str, Meta(min_length=1, max_length=256)]
_SelectorValue = Annotated[str, Meta(max_length=1024)]


class RateLimitHeaderMatch(Model, frozen=True, kw_only=True):
    """Requests with a header. With ``Distinct`` each value of it has a limit of its own."""

    type: Literal["Exact", "RegularExpression", "Distinct"] = "Exact"
    name: _SelectorName
    value: _SelectorValue | None = None
    invert: bool = False
    """Those whose header does not match; a request without the header is among them."""


class RateLimitMethodMatch(Model, frozen=True, kw_only=True):
    """Requests with a method."""

    value: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
    invert: bool = False


class RateLimitPathMatch(Model, frozen=True, kw_only=True):
    """Requests to a path, compared with all that stands in ``:path``: the query, too."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: _SelectorValue = "/"
    invert: bool = False


class RateLimitSourceMatch(Model, frozen=True, kw_only=True):
    """Requests from a block of addresses. With ``Distinct`` each address has a limit of its own."""

    type: Literal["Exact", "Distinct"] = "Exact"
    value: Annotated[str, Meta(min_length=1, max_length=256)]
    invert: bool = False


class RateLimitQueryParamMatch(Model, frozen=True, kw_only=True):
    """Requests with a query parameter. With ``Distinct`` each value of it has a limit of its own."""

    type: Literal["Exact", "RegularExpression", "Distinct"] = "Exact"
    name: _SelectorName
    value: _SelectorValue | None = None
    invert: bool = False


class RateLimitSelector(Model, frozen=True, kw_only=True):
    """Which requests a limit is for: those that all of this is true of, but one of several ``methods``."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.headers) || has(self.methods) || has(self.path) || has(self.sourceCIDR) || "
            "has(self.queryParams)",
            "A selector needs headers, methods, path, sourceCIDR or queryParams; leave it out to select all.",
        ),
    )

    headers: Annotated[tuple[RateLimitHeaderMatch, ...], Meta(max_length=128)] = ()
    methods: tuple[RateLimitMethodMatch, ...] = ()
    path: RateLimitPathMatch | None = None
    source_cidr: RateLimitSourceMatch | None = field(default=None, name="sourceCIDR")
    query_params: Annotated[tuple[RateLimitQueryParamMatch, ...], Meta(max_length=16)] = ()


class LimitFromMetadata(Model, frozen=True, kw_only=True):
    """Where a filter before this one wrote the limit of a request: ``requests_per_unit`` and ``unit``."""

    namespace: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=1)]


class RateLimitValue(Model, frozen=True, kw_only=True):
    """So many requests in such a time."""

    requests: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    unit: Unit
    from_metadata: LimitFromMetadata | None = None
    """Goes before the other two, for a request that has it."""


class RateLimitCostMetadata(Model, frozen=True, kw_only=True):
    """Where a filter wrote what a request costs."""

    namespace: str
    key: str


class RateLimitCostSpecifier(Model, frozen=True, kw_only=True):
    """What is subtracted from a limit."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("!(has(self.number) && has(self.metadata))", "Set number or metadata, not both."),
    )

    from_: Literal["Number", "Metadata"] = field(name="from")
    number: int | None = None
    """0 asks whether there is anything left, and subtracts nothing."""
    metadata: RateLimitCostMetadata | None = None


class RateLimitCost(Model, frozen=True, kw_only=True):
    """What a request costs, where it is not 1."""

    request: RateLimitCostSpecifier | None = None
    response: RateLimitCostSpecifier | None = None
    """Subtracted when the response has ended, so that it limits requests after this one."""


class RateLimitRule(Model, frozen=True, kw_only=True):
    """One limit, of the requests that all selectors select."""

    client_selectors: Annotated[tuple[RateLimitSelector, ...], Meta(max_length=8)] = ()
    limit: RateLimitValue
    cost: RateLimitCost | None = None
    shared: bool | None = None
    """Whether all routes of the policy have one limit, instead of one each."""
    shadow_mode: bool | None = None
    """Whether requests above the limit are counted and let through."""
    x_rate_limit_headers: Literal["Off", "DraftVersion03"] | None = None


class GlobalRateLimit(Model, frozen=True, kw_only=True):
    """Limits of all Envoys together, counted by a rate limit service."""

    rules: Annotated[tuple[RateLimitRule, ...], Meta(max_length=256)]


class LocalRateLimit(Model, frozen=True, kw_only=True):
    """Limits of each Envoy by itself. The rule without selectors is for what no other rule is for."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "rules": (
            Rule(
                "self.all(r, !has(r.cost) || !has(r.cost.response))",
                "A local limit has no cost.response.",
            ),
            Rule(
                "self.all(r, !has(r.limit.fromMetadata))",
                "A local limit has no limit.fromMetadata.",
            ),
        ),
    }

    rules: Annotated[tuple[RateLimitRule, ...], Meta(max_length=16)] = ()


class RateLimits(Model, frozen=True, kw_only=True):
    """Both kinds of limits; with both of them, a request must be within all."""

    type: Literal["Global", "Local"] | None = None
    """Deprecated: ``local`` or ``global`` alone says the same. With a type, the other kind is left out."""
    global_: GlobalRateLimit | None = field(default=None, name="global")
    local: LocalRateLimit | None = None

    def to_merge(self) -> RateLimits:
        """The same without the half that ``type`` leaves out, so that two can be laid together."""
        if self.type == "Global" and self.global_ is not None:
            return RateLimits(global_=self.global_)
        if self.type == "Local" and self.local is not None:
            return RateLimits(local=self.local)
        return self
