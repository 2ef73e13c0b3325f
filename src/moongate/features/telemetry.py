"""What the gateway reports of the requests of a route: spans, and the name under which they are counted.

Set by:      BackendTrafficPolicy ``spec.telemetry``
Precedence:  the most specific policy wins; its ``tracing`` replaces that of the EnvoyProxy
Envoy:       ``tracing`` and ``stat_prefix`` of a route, ``stat_prefix`` of a TCP proxy
Cases:       telemetry.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from envoy.config.route.v3.route_components_pb2 import Tracing

from moongate.api.base import Model
from moongate.api.shared import Fraction
from moongate.api.telemetry import SpanSettings
from moongate.attach.gateways import ROUTE_STAT_OPERATORS
from moongate.engine import Db
from moongate.features.base import Effective, Feature, RouteEdit
from moongate.features.shared import fractional
from moongate.features.spans import span_faults, span_names, span_tags
from moongate.problem import Problem

_OPERATOR: Final = re.compile(r"%[^%]*%")
_NONE: Final = Fraction(numerator=0)


class RouteMetrics(Model, frozen=True, kw_only=True):
    """Statistics of a route."""

    route_stat_name: str | None = None
    """The name under which a rule is counted, with the operators ``%ROUTE_NAME%``, ``%ROUTE_NAMESPACE%``,
    ``%ROUTE_KIND%`` and ``%ROUTE_RULE_NAME%``."""


class BackendTelemetry(Model, frozen=True, kw_only=True):
    """What is reported of requests."""

    tracing: SpanSettings | None = None
    """Nothing is traced unless the EnvoyProxy says where spans go."""
    metrics: RouteMetrics | None = None


def check(db: Db, telemetry: Effective[BackendTelemetry]) -> Iterator[Problem]:
    """Operators that there are not."""
    metrics = telemetry.value.metrics
    pattern = metrics.route_stat_name if metrics is not None else None
    unknown = [each for each in _OPERATOR.findall(pattern or "") if each not in ROUTE_STAT_OPERATORS]
    if unknown:
        operators = ", ".join(sorted(ROUTE_STAT_OPERATORS))
        message = f"There is no operator {', '.join(unknown)}; there are {operators}."
        yield Problem("metrics.routeStatName", message)


def _hints(telemetry: BackendTelemetry) -> Iterator[Problem]:
    """Tags and names that spans go without."""
    tracing = telemetry.tracing
    if tracing is None:
        return
    for path, fault in span_faults(tracing):
        yield Problem(f"tracing.{path}", f"{path}: {fault}. Spans go without it.", "Unused")


def _route(edit: RouteEdit, telemetry: Effective[BackendTelemetry]) -> None:
    settings = telemetry.value.tracing
    if settings is None:
        return
    tracing = Tracing(client_sampling=fractional(settings.client_sampling_fraction or _NONE))
    if settings.sampling_fraction is not None:
        tracing.random_sampling.CopyFrom(fractional(settings.sampling_fraction))
    if settings.overall_sampling_fraction is not None:
        tracing.overall_sampling.CopyFrom(fractional(settings.overall_sampling_fraction))
    tracing.custom_tags.extend(span_tags(settings))
    tracing.operation, tracing.upstream_operation = span_names(settings)
    edit.message.tracing.CopyFrom(tracing)


def _statistics(telemetry: BackendTelemetry) -> str | None:
    return telemetry.metrics.route_stat_name if telemetry.metrics is not None else None


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="telemetry",
    model=BackendTelemetry,
    check=check,
    hints=_hints,
    route=_route,
    statistics=_statistics,
    transports=("TCP",),
)
