"""Limit the bytes of requests and of responses that pass in a second.

Set by:      BackendTrafficPolicy ``spec.bandwidthLimit``
Precedence:  the most specific policy wins
Envoy:       HTTP filters ``envoy.filters.http.bandwidth_limit/request`` and ``…/response``
Cases:       bandwidth_limit.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Final, Literal

from envoy.config.core.v3.base_pb2 import RuntimeFeatureFlag
from envoy.extensions.filters.http.bandwidth_limit.v3.bandwidth_limit_pb2 import (
    BandwidthLimit as BandwidthFilter,
)
from google.protobuf.wrappers_pb2 import BoolValue, UInt64Value

from moongate.api.base import Model, Rule, form
from moongate.api.connections import Size
from moongate.api.shared import quantity
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter
from moongate.problem import Problem

_SECONDS: Final = {"Second": 1, "Minute": 60, "Hour": 3600}


class BandwidthLimitValue(Model, frozen=True, kw_only=True):
    """So many bytes in a time."""

    value: Size
    unit: Literal["Second", "Minute", "Hour"]

    @property
    def kib_per_second(self) -> int:
        """What Envoy is given."""
        return quantity(self.value) // (_SECONDS[self.unit] * 1024)


class BandwidthLimitResponseTrailers(Model, frozen=True, kw_only=True):
    """Trailers that say how long a limit has held a request and its response back."""

    prefix: Annotated[str, form(r"^[^\r\n\x00]*$", "a text without line breaks")] | None = None
    """What stands before their names: ``<prefix>-bandwidth-response-delay-ms``, for instance."""


class RequestBandwidthLimit(Model, frozen=True, kw_only=True):
    """Bytes of requests."""

    limit: BandwidthLimitValue


class ResponseBandwidthLimit(Model, frozen=True, kw_only=True):
    """Bytes of responses."""

    limit: BandwidthLimitValue
    response_trailers: BandwidthLimitResponseTrailers | None = None


class BandwidthLimit(Model, frozen=True, kw_only=True):
    """Limits of each Envoy, for each rule."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.request) || has(self.response)", "Set request, response, or both."),
    )

    request: RequestBandwidthLimit | None = None
    response: ResponseBandwidthLimit | None = None


def check(db: Db, limits: Effective[BandwidthLimit]) -> Iterator[Problem]:
    """A limit below what Envoy can count."""
    for name, limit in (("request", limits.value.request), ("response", limits.value.response)):
        if limit is not None and limit.limit.kib_per_second < 1:
            value, unit = limit.limit.value, limit.limit.unit
            least = _SECONDS[unit] * 1024
            yield Problem(
                f"{name}.limit.value",
                f"value is {value} for each {unit}; it must be {least} bytes or more, 1 KiB per second.",
            )


def _for_requests(db: Db, limits: Effective[BandwidthLimit]) -> BandwidthFilter:
    limit = limits.value.request
    return (
        _limited(BandwidthFilter.REQUEST, "request", limit.limit)
        if limit is not None
        else _idle(limits.value)
    )


def _for_responses(db: Db, limits: Effective[BandwidthLimit]) -> BandwidthFilter:
    limit = limits.value.response
    if limit is None:
        return _idle(limits.value)
    config = _limited(BandwidthFilter.RESPONSE, "response", limit.limit)
    if limit.response_trailers is not None:
        config.enable_response_trailers = True
        config.response_trailer_prefix = limit.response_trailers.prefix or ""
    return config


def _limited(mode: BandwidthFilter.EnableMode, name: str, limit: BandwidthLimitValue) -> BandwidthFilter:
    return BandwidthFilter(
        stat_prefix=f"http_bandwidth_limiter_{name}",
        enable_mode=mode,
        limit_kbps=UInt64Value(value=limit.kib_per_second),
        runtime_enabled=RuntimeFeatureFlag(default_value=BoolValue(value=True)),
    )


def _idle(_value: BandwidthLimit | None) -> BandwidthFilter:
    """What stands in a chain: it limits nothing."""
    return BandwidthFilter(stat_prefix="http_bandwidth_limiter")


def _chain(db: Db, limits: Effective[BandwidthLimit]) -> BandwidthFilter:
    return _idle(limits.value)


def _feature(
    part: Literal["request", "response"], route: Callable[[Db, Effective[BandwidthLimit]], BandwidthFilter]
) -> Feature[BandwidthLimit]:
    """The limit of one direction, which has a filter of its own."""
    return Feature(
        kind="BackendTrafficPolicy",
        field="bandwidth_limit",
        model=BandwidthLimit,
        applies=lambda limits: getattr(limits.value, part) is not None,
        check=check,
        http_filter=HttpFilter(
            name="envoy.filters.http.bandwidth_limit",
            part=part,
            disabled=True,
            chain=_chain,
            route=route,
            stable=_idle,
        ),
    )


REQUESTS = _feature("request", _for_requests)
RESPONSES = _feature("response", _for_responses)
