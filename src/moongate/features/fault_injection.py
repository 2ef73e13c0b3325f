"""Delay requests, or fail them on purpose, to see what callers make of it.

Set by:      BackendTrafficPolicy ``spec.faultInjection``
Precedence:  the most specific policy wins
Envoy:       ``envoy.filters.http.fault``, extensions/filters/http/fault/v3/fault.proto
Cases:       fault_injection.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.type.v3.percent_pb2 import FractionalPercent
from msgspec import Meta

from moongate.api.base import DurationStr, Model, Rule, milliseconds
from moongate.features.base import Effective, Feature, HttpFilter
from moongate.features.shared import duration
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db


class FaultInjectionDelay(Model, frozen=True, kw_only=True):
    """A pause before the request goes on."""

    fixed_delay: DurationStr
    # None stands for the CRD's default, so that a merge can tell what a policy said.
    percentage: float | None = None
    """Share of the requests, with a precision of 0.0001; all of them when absent."""


class FaultInjectionAbort(Model, frozen=True, kw_only=True):
    """An answer instead of the backend's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.httpStatus) && has(self.grpcStatus))",
            "Set httpStatus or grpcStatus, not both.",
        ),
        Rule(
            "has(self.httpStatus) || has(self.grpcStatus)",
            "An abort needs httpStatus or grpcStatus.",
        ),
    )

    http_status: Annotated[int, Meta(ge=200, le=600)] | None = None
    grpc_status: Annotated[int, Meta(ge=0, le=16)] | None = None
    # None stands for the CRD's default, so that a merge can tell what a policy said.
    percentage: float | None = None
    """Share of the requests, with a precision of 0.0001; all of them when absent."""


class FaultInjection(Model, frozen=True, kw_only=True):
    """Faults; each hits its share of the requests independently of the other."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.delay) || has(self.abort)",
            "A fault needs a delay or an abort.",
        ),
    )

    delay: FaultInjectionDelay | None = None
    abort: FaultInjectionAbort | None = None


def check(_db: Db, fault: Effective[FaultInjection]) -> Iterator[Problem]:
    delay, abort = fault.value.delay, fault.value.abort
    if delay is not None and milliseconds(delay.fixed_delay) == 0:
        yield Problem(
            "delay.fixedDelay", f"fixedDelay is {delay.fixed_delay!r}; it must be greater than zero."
        )
    # The CRD allows 600, Envoy does not.
    if abort is not None and abort.http_status == 600:
        yield Problem("abort.httpStatus", "httpStatus is 600; it must be 200 to 599.")
    for name, part in (("delay", delay), ("abort", abort)):
        # Written so that it holds for NaN, too.
        if part is not None and part.percentage is not None and not part.percentage >= 0:
            yield Problem(
                f"{name}.percentage", f"percentage is {part.percentage}; it must be a number from 0 to 100."
            )


def chain(_db: Db, _fault: Effective[FaultInjection]) -> HTTPFault:
    """Without faults of its own: those of the routes count."""
    return HTTPFault()


def stable(_fault: FaultInjection | None) -> HTTPFault:
    return HTTPFault()


def route(_db: Db, fault: Effective[FaultInjection]) -> HTTPFault:
    config = HTTPFault()
    delay, abort = fault.value.delay, fault.value.abort
    if delay is not None:
        config.delay.fixed_delay.CopyFrom(duration(delay.fixed_delay))
        config.delay.percentage.CopyFrom(_share(delay.percentage))
    if abort is not None:
        config.abort.percentage.CopyFrom(_share(abort.percentage))
        if abort.http_status is not None:
            config.abort.http_status = abort.http_status
        if abort.grpc_status is not None:
            config.abort.grpc_status = abort.grpc_status
    return config


def _share(percentage: float | None) -> FractionalPercent:
    share = 100 if percentage is None else min(percentage, 100)
    return FractionalPercent(numerator=round(share * 10_000), denominator=FractionalPercent.MILLION)


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="fault_injection",
    model=FaultInjection,
    check=check,
    http_filter=HttpFilter(name="envoy.filters.http.fault", chain=chain, route=route, stable=stable),
)
