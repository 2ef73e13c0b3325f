"""Reject a part of the requests to a backend whose answers fail, so that it can recover.

Set by:      BackendTrafficPolicy ``spec.admissionControl``
Precedence:  the most specific policy wins
Envoy:       ``envoy.filters.http.admission_control``, an HTTP filter in the cluster
Cases:       admission_control.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, get_args

from envoy.extensions.filters.http.admission_control.v3.admission_control_pb2 import (
    AdmissionControl as AdmissionControlFilter,
)
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from msgspec import Meta

from moongate.api.base import DurationStr, Model, Rule
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.features.shared import duration
from moongate.xds.wire import packed

GRPCCode = Literal[
    "Ok",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
]
"""The status codes of gRPC, in the order of their numbers."""

_NUMBERS: Final = {name: number for number, name in enumerate(get_args(GRPCCode))}


class HTTPSuccess(Model, frozen=True, kw_only=True):
    """Statuses that are successes."""

    status_codes: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()


class GRPCSuccess(Model, frozen=True, kw_only=True):
    """Codes of gRPC that are successes."""

    status_codes: tuple[GRPCCode, ...] = ()


class SuccessCriteria(Model, frozen=True, kw_only=True):
    """Which answers are successes; by default those of HTTP below 500, and all codes of gRPC that do not tell
    of a failing server."""

    http: HTTPSuccess | None = None
    grpc: GRPCSuccess | None = None


class AdmissionControl(Model, frozen=True, kw_only=True):
    """The rest of the requests is rejected at once, with 503."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minSuccessRate) || (self.minSuccessRate >= 1 && self.minSuccessRate <= 100)",
            "minSuccessRate must be between 1 and 100.",
        ),
        Rule(
            "!has(self.maxRejectionPercent) || "
            "(self.maxRejectionPercent >= 0 && self.maxRejectionPercent <= 100)",
            "maxRejectionPercent must be between 0 and 100.",
        ),
        Rule(
            "!has(self.samplingWindow) || duration(self.samplingWindow) >= duration('1s')",
            "samplingWindow must be at least 1s.",
        ),
    )

    sampling_window: DurationStr | None = None
    """The time over which answers are counted; 30s when absent."""
    min_success_rate: Annotated[int, Meta(ge=1, le=100)] | None = None
    """The percentage of successes below which requests are rejected; 95 when absent."""
    rejection_aggression: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """How fast the share of rejected requests grows; 1, which is linear, when absent."""
    min_request_rate: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """With fewer requests a second nothing is rejected; 0 when absent."""
    max_rejection_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    """The most that is ever rejected; 80 when absent."""
    success_criteria: SuccessCriteria | None = None


def cluster(edit: ClusterEdit, control: Effective[AdmissionControl]) -> None:
    spec, built = control.value, AdmissionControlFilter()
    built.enabled.default_value.value = True
    if spec.sampling_window is not None:
        built.sampling_window.CopyFrom(duration(spec.sampling_window))
    if spec.min_success_rate is not None:
        built.sr_threshold.default_value.value = spec.min_success_rate
    if spec.rejection_aggression is not None:
        built.aggression.default_value = spec.rejection_aggression
    if spec.min_request_rate is not None:
        built.rps_threshold.default_value = spec.min_request_rate
    if spec.max_rejection_percent is not None:
        built.max_rejection_probability.default_value.value = spec.max_rejection_percent
    criteria = spec.success_criteria or SuccessCriteria()
    built.success_criteria.SetInParent()
    for code in criteria.http.status_codes if criteria.http is not None else ():
        built.success_criteria.http_criteria.http_success_status.add(start=code, end=code + 1)
    for name in criteria.grpc.status_codes if criteria.grpc is not None else ():
        built.success_criteria.grpc_criteria.grpc_success_status.append(_NUMBERS[name])
    edit.http.http_filters.append(
        HttpFilter(name="envoy.filters.http.admission_control", typed_config=packed(built))
    )


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="admission_control",
    model=AdmissionControl,
    cluster=cluster,
)
