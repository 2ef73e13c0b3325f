"""Health checks of endpoints, and what is logged of them.

In what merges, ``None`` stands for the CRD's default, so that a merge can tell what somebody said.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from moongate.api.base import SET, DurationStr, Model, Rule
from moongate.api.shared import Int32, PortNumber, PreciseHostname

Threshold = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Percentage = Annotated[int, Meta(ge=0, le=100)]
StatusCode = Annotated[int, Meta(ge=100, le=599)]


class HealthCheckFile(Model, frozen=True, kw_only=True):
    """The file that events are appended to."""

    path: Annotated[str, Meta(min_length=1)]


class HealthCheckLogSink(Model, frozen=True, kw_only=True):
    """Where events go."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.type == 'File' ? has(self.file) : !has(self.file)", "type File needs file."),
    )

    type: Literal["File"]
    file: HealthCheckFile | None = None


class HealthCheckLog(Model, frozen=True, kw_only=True):
    """The events of health checks, a line of JSON each; on standard output without a sink."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "matches": (
            Rule(
                "self.exists(e, e == 'Failure' || e == 'FailureSeriesStart') == "
                "self.exists(e, e == 'Success' || e == 'HealthyTransition')",
                "Name one of Failure and FailureSeriesStart together with one of Success and "
                "HealthyTransition; or none of them, for every check.",
            ),
        ),
    }

    sinks: Annotated[tuple[HealthCheckLogSink, ...], Meta(max_length=1)] = ()
    matches: Annotated[
        tuple[Literal["Failure", "FailureSeriesStart", "Success", "HealthyTransition"], ...],
        Meta(max_length=4),
        SET,
    ] = ()
    """``Failure`` and ``Success`` are every check; ``FailureSeriesStart`` and ``HealthyTransition`` are the
    first that fails, and the return. All checks when there is no entry."""


class HealthCheckPayload(Model, frozen=True, kw_only=True):
    """Bytes that are sent or expected."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'Text' ? has(self.text) : !has(self.text)",
            "text must be set if type is Text, and only then.",
        ),
        Rule(
            "self.type == 'Binary' ? has(self.binary) : !has(self.binary)",
            "binary must be set if type is Binary, and only then.",
        ),
    )

    type: Literal["Text", "Binary"]
    text: str | None = None
    binary: Annotated[bytes, Meta(min_length=1)] | None = None
    """Base64 on the wire."""


class HTTPHealthCheck(Model, frozen=True, kw_only=True):
    """A request whose answer says whether an endpoint is healthy."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.requestBody) || (has(self.method) && self.method.upperAscii() in ['POST','PUT'])",
            "requestBody is for the methods POST and PUT.",
        ),
    )

    hostname: PreciseHostname | None = None
    """When absent: the ``hostname`` of the Backend's endpoint, else the first exact hostname of the route,
    else the name of the backend."""
    path: Annotated[str, Meta(min_length=1, max_length=1024)]
    method: Annotated[str, Meta(max_length=16)] | None = None
    """GET when absent."""
    expected_statuses: tuple[StatusCode, ...] = ()
    """200 when there is none."""
    retriable_statuses: tuple[StatusCode, ...] = ()
    """They count as failures only when there are ``unhealthyThreshold`` of them in a row. Any other status
    makes an endpoint unhealthy at once."""
    expected_response: HealthCheckPayload | None = None
    """What the body must contain."""
    request_body: HealthCheckPayload | None = None


class TCPHealthCheck(Model, frozen=True, kw_only=True):
    """A connection, and perhaps bytes over it."""

    send: HealthCheckPayload | None = None
    receive: HealthCheckPayload | None = None


class GRPCHealthCheck(Model, frozen=True, kw_only=True):
    """A call of ``grpc.health.v1.Health/Check``."""

    service: str | None = None
    """The whole server when absent."""


class HealthCheckOverrides(Model, frozen=True, kw_only=True):
    """What differs between a check and a request."""

    port: PortNumber | None = None
    """The port that is checked, of every endpoint."""


class ActiveHealthCheck(Model, frozen=True, kw_only=True):
    """Checks that Envoy makes on its own."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'HTTP' ? has(self.http) : !has(self.http)",
            "http must be set if type is HTTP, and only then.",
        ),
        Rule(
            "self.type == 'TCP' ? has(self.tcp) : !has(self.tcp)",
            "tcp must be set if type is TCP, and only then.",
        ),
        Rule("has(self.grpc) ? self.type == 'GRPC' : true", "grpc is for type GRPC."),
    )

    type: Literal["HTTP", "TCP", "GRPC"]
    timeout: DurationStr | None = None
    """How long a check may take; 1s when absent."""
    interval: DurationStr | None = None
    """The time between two checks of an endpoint; 3s when absent."""
    initial_jitter: DurationStr | None = None
    """The first check of an endpoint is delayed by up to this, at random."""
    unhealthy_threshold: Threshold | None = None
    """Failures in a row until an endpoint is unhealthy; 3 when absent. The first check alone decides."""
    healthy_threshold: Threshold | None = None
    """Successes in a row until an endpoint is healthy again; 1 when absent. The first check alone decides."""
    http: HTTPHealthCheck | None = None
    tcp: TCPHealthCheck | None = None
    grpc: GRPCHealthCheck | None = None
    overrides: HealthCheckOverrides | None = None
    health_check_log: HealthCheckLog | None = None
    """Takes the place of the EnvoyProxy's ``telemetry.healthCheckLog``."""


class PassiveHealthCheck(Model, frozen=True, kw_only=True):
    """Endpoints whose answers fail get no requests for a time: they are ejected."""

    split_external_local_origin_errors: bool | None = None
    """Whether failures of connections are counted by themselves (``consecutiveLocalOriginFailures``); by
    default not: they are among the others."""
    interval: DurationStr | None = None
    """How often ejected endpoints are looked at, and shares are computed; 3s when absent."""
    consecutive_local_origin_failures: Int32 | None = None
    """5 when absent."""
    consecutive_gateway_errors: Int32 | None = None
    """Answers 502, 503 and 504 in a row; not looked at when absent."""
    consecutive_5xx_errors: Int32 | None = field(default=None, name="consecutive5XxErrors")
    """Answers 5xx in a row; 5 when absent. Failed connections are among them."""
    base_ejection_time: DurationStr | None = None
    """How long an endpoint is ejected, times how often it was; 30s when absent."""
    max_ejection_percent: Percentage | None = None
    """How many of the endpoints may be ejected at a time; 10 when absent."""
    failure_percentage_threshold: Percentage | None = None
    """The share of failed requests from which an endpoint is ejected; not looked at when absent."""
    always_eject_one_endpoint: bool | None = None
    """Whether one may be ejected even if that is more than ``maxEjectionPercent``; by default not."""


class HealthCheck(Model, frozen=True, kw_only=True):
    """Which endpoints get requests."""

    active: ActiveHealthCheck | None = None
    passive: PassiveHealthCheck | None = None
    panic_threshold: Percentage | None = None
    """The percentage of healthy endpoints below which health is not looked at, so that the rest is not
    overrun; 50 when absent, never if 0."""
