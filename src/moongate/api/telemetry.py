"""What a proxy reports about its work: access logs, traces and metrics, and to whom.

In what merges, ``None`` stands for the CRD's default, so that a merge can tell what somebody said.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from msgspec import Meta, field, structs

from moongate.api.base import Model, Rule, deprecated, private
from moongate.api.cluster_settings import ClusterSettings
from moongate.api.health_checks import HealthCheckLog
from moongate.api.shared import (
    BackendObjectReference,
    BackendRef,
    Fraction,
    HeaderName,
    Quantity,
    StringMatch,
)

DEFAULT_PORT = 4317
"""The port of OpenTelemetry over gRPC."""

V = TypeVar("V")

_Port = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class TelemetryBackends(Model, frozen=True, kw_only=True):
    """Backends that something is reported to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.backendRef)",
            "backendRef is not supported; write the backend as an entry of backendRefs.",
        ),
        Rule(
            "has(self.backendRefs) ? "
            "self.backendRefs.all(f, f.kind == 'Service' || f.kind == 'Backend') : true",
            "The kind of each of backendRefs must be Service or Backend.",
        ),
        Rule(
            "has(self.backendRefs) ? (self.backendRefs.all(f, "
            """f.group == "" || f.group == 'gateway.envoyproxy.io')) : true""",
            "The group of each of backendRefs must be '' or gateway.envoyproxy.io.",
        ),
    )

    backend_ref: BackendObjectReference | None = None
    backend_refs: Annotated[tuple[BackendRef, ...], Meta(max_length=16)] = ()
    backend_settings: ClusterSettings | None = None


class HostOrBackends(TelemetryBackends, frozen=True, kw_only=True):
    """A host, or backends, that something is reported to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.host) || self.backendRefs.size() > 0",
            "Set host or backendRefs: without one of them nothing can be sent.",
        ),
    )

    host: Annotated[str, deprecated("backendRefs")] | None = None
    """A DNS name or an IP address; backendRefs, if there are any, have precedence."""


class TelemetryHeader(Model, frozen=True, kw_only=True):
    """A header of the requests that reports are sent with. Its value may be a credential."""

    NAMES_SECRET: ClassVar[bool] = True

    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096), private("a string of 1 to 4096 characters")]

    def __repr__(self) -> str:
        return f"TelemetryHeader(name={self.name!r}, value=…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("name", self.name), ("value", "…")]


_Headers = Annotated[tuple[TelemetryHeader, ...], Meta(min_length=1, max_length=32)]


# -- access logs ----------------------------------------------------------------


class AccessLogFormat(Model, frozen=True, kw_only=True):
    """What a line of the access log holds, in Envoy's command operators."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.type) && self.type == 'Text' ? has(self.text) : true",
            "type Text needs text.",
        ),
        Rule(
            "has(self.type) && self.type == 'Text' ? !has(self.json) : true",
            "type Text takes text only; remove json.",
        ),
        Rule(
            "has(self.type) && self.type == 'JSON' ? has(self.json) : true",
            "type JSON needs json.",
        ),
        Rule(
            "has(self.type) && self.type == 'JSON' ? !has(self.text) : true",
            "type JSON takes json only; remove text.",
        ),
        Rule(
            "!has(self.type) ? (has(self.text) || has(self.json)) : true",
            "A format needs text or json.",
        ),
    )

    type: Literal["Text", "JSON"] | None = None
    text: str | None = None
    json: dict[str, str] | None = None


class FileAccessLog(Model, frozen=True, kw_only=True):
    """The file that lines are appended to, such as ``/dev/stdout``."""

    # The CRD lets it be absent, but Envoy has no log without a path.
    path: Annotated[str, Meta(min_length=1)]


class ALSHTTP(Model, frozen=True, kw_only=True):
    """Headers that an entry holds besides those that each entry has."""

    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    response_trailers: tuple[str, ...] = ()


class ALSAccessLog(TelemetryBackends, frozen=True, kw_only=True):
    """A server of Envoy's own access log service (ALS), which gets entries over gRPC."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'HTTP' || !has(self.http)",
            "http is for type HTTP; remove it, or change the type.",
        ),
        Rule(
            "has(self.backendRefs) && self.backendRefs.size() > 0",
            "backendRefs needs at least one backend.",
        ),
    )

    type: Literal["HTTP", "TCP"]
    """What an entry tells about: a request, or a connection."""
    log_name: Annotated[str, Meta(min_length=1)] | None = None
    """``<namespace>/<name>`` of the EnvoyProxy when absent."""
    http: ALSHTTP | None = None


class OpenTelemetryAccessLog(HostOrBackends, frozen=True, kw_only=True):
    """An OpenTelemetry collector, which gets entries over gRPC."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.resources) || !has(self.resourceAttributes)",
            "resources is the deprecated form of resourceAttributes; set one of them.",
        ),
    )

    port: _Port | None = None
    """4317 when absent; of the host."""
    resources: Annotated[dict[str, str], deprecated("resourceAttributes")] | None = None
    resource_attributes: dict[str, str] | None = None
    """What each entry says about its sender."""
    headers: _Headers | None = None


class AccessLogSink(Model, frozen=True, kw_only=True):
    """Where lines go; the field that ``type`` names holds the settings."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'ALS' ? has(self.als) : !has(self.als)",
            "als must be set for type ALS, and only for it.",
        ),
        Rule(
            "self.type == 'File' ? has(self.file) : !has(self.file)",
            "file must be set for type File, and only for it.",
        ),
        Rule(
            "self.type == 'OpenTelemetry' ? has(self.openTelemetry) : !has(self.openTelemetry)",
            "openTelemetry must be set for type OpenTelemetry, and only for it.",
        ),
    )

    # The CRD does not require it, but without it none of the rules can hold.
    type: Literal["ALS", "File", "OpenTelemetry"]
    file: FileAccessLog | None = None
    als: ALSAccessLog | None = None
    open_telemetry: OpenTelemetryAccessLog | None = None


class AccessLogSettings(Model, frozen=True, kw_only=True):
    """One format for some sinks."""

    format: AccessLogFormat | None = None
    matches: Annotated[tuple[str, ...], Meta(max_length=10)] = ()
    """CEL expressions of Envoy; a request is logged when all hold."""
    sinks: Annotated[tuple[AccessLogSink, ...], Meta(min_length=1, max_length=50)]
    type: Literal["Listener", "Route", "Upstream"] | None = None


class ProxyAccessLog(Model, frozen=True, kw_only=True):
    """Access logs; without settings, JSON lines on standard output."""

    disable: bool | None = None
    settings: Annotated[tuple[AccessLogSettings, ...], Meta(min_length=1, max_length=50)] = ()


# -- traces ---------------------------------------------------------------------


class LiteralCustomTag(Model, frozen=True, kw_only=True):
    """A value that is the same for all spans."""

    value: str


class NamedCustomTag(Model, frozen=True, kw_only=True):
    """A value that is looked up by a name."""

    name: str
    default_value: str | None = None


class CustomTag(Model, frozen=True, kw_only=True):
    """A tag of spans; the field that ``type`` names says where its value is from."""

    type: Literal["Literal", "Environment", "RequestHeader"] = "Literal"
    literal: LiteralCustomTag | None = None
    environment: NamedCustomTag | None = None
    request_header: NamedCustomTag | None = None


class Sampler(Model, frozen=True, kw_only=True):
    """Which traces OpenTelemetry records."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.samplingPercentage) ? "
            "(self.type == 'TraceIdRatio' || self.type == 'ParentBasedTraceIdRatio') : true",
            "samplingPercentage is for the types TraceIdRatio and ParentBasedTraceIdRatio.",
        ),
    )

    type: (
        Literal[
            "AlwaysOn",
            "AlwaysOff",
            "TraceIdRatio",
            "ParentBasedAlwaysOn",
            "ParentBasedAlwaysOff",
            "ParentBasedTraceIdRatio",
        ]
        | None
    ) = None
    """``AlwaysOn`` when absent."""
    sampling_percentage: Fraction | None = None
    """100 % when absent."""


class OpenTelemetryTracing(Model, frozen=True, kw_only=True):
    """Settings of OpenTelemetry's traces."""

    headers: _Headers | None = None
    resource_attributes: dict[str, str] | None = None
    """What each span says about its sender."""
    sampler: Sampler | None = None


class ZipkinTracing(Model, frozen=True, kw_only=True):
    """Settings of Zipkin's traces."""

    enable_128bit_trace_id: bool | None = field(default=None, name="enable128BitTraceId")
    disable_shared_span_context: bool | None = None


class TracingProvider(HostOrBackends, frozen=True, kw_only=True):
    """Who gets spans, and in which form."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.openTelemetry) ? self.type == 'OpenTelemetry' : true",
            "openTelemetry is for type OpenTelemetry; remove it, or change the type.",
        ),
    )
    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "service_name": (
            Rule('self != ""', "serviceName is empty; leave it out for the name of the Gateway."),
        ),
    }

    type: Literal["OpenTelemetry", "Zipkin", "Datadog"] = "OpenTelemetry"
    port: _Port | None = None
    """4317 when absent; of the host."""
    service_name: str | None = None
    """``<gateway>.<namespace>`` when absent; the name of the class where its Gateways share their Envoys."""
    open_telemetry: OpenTelemetryTracing | None = None
    zipkin: ZipkinTracing | None = None


class SpanName(Model, frozen=True, kw_only=True):
    """Names of spans, in Envoy's command operators."""

    client: str
    """Of the request from the client."""
    server: str
    """Of the request to the backend."""


class SpanSettings(Model, frozen=True, kw_only=True):
    """Which requests have spans, and what these say."""

    sampling_fraction: Fraction | None = None
    """Of all requests; 100 % when absent."""
    client_sampling_fraction: Fraction | None = None
    """Of the requests whose client asks for a trace; none when absent."""
    overall_sampling_fraction: Fraction | None = None
    """The limit of all others; 100 % when absent."""
    tags: dict[str, str] | None = None
    """Tags of spans, in Envoy's command operators."""
    custom_tags: Annotated[dict[str, CustomTag], deprecated("tags")] | None = None
    span_name: SpanName | None = None


class Tracing(SpanSettings, frozen=True, kw_only=True):
    """Spans of requests."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.samplingRate) && has(self.samplingFraction))",
            "samplingRate and samplingFraction say the same; set one of them.",
        ),
    )

    provider: TracingProvider
    sampling_rate: Annotated[int, Meta(ge=0, le=100)] | None = None
    """Percent of the requests; 100 when absent."""


# -- metrics --------------------------------------------------------------------


class NoSettings(Model, frozen=True, kw_only=True):
    """An object that has no settings (yet)."""


class PrometheusCompression(Model, frozen=True, kw_only=True):
    """How the answers to Prometheus are compressed."""

    type: Literal["Gzip", "Brotli", "Zstd"]
    gzip: NoSettings | None = None
    brotli: NoSettings | None = None
    zstd: NoSettings | None = None
    min_content_length: Quantity | None = None


class Prometheus(Model, frozen=True, kw_only=True):
    """The statistics for Prometheus to fetch."""

    disable: bool | None = None
    compression: PrometheusCompression | None = None


class OpenTelemetryMetricSink(HostOrBackends, frozen=True, kw_only=True):
    """An OpenTelemetry collector, which gets statistics over gRPC."""

    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """4317 when absent; of the host."""
    report_counters_as_deltas: bool | None = None
    report_histograms_as_deltas: bool | None = None
    resource_attributes: dict[str, str] | None = None
    """What the statistics say about their sender."""
    headers: _Headers | None = None


class MetricSink(Model, frozen=True, kw_only=True):
    """Where statistics are sent to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'OpenTelemetry' ? has(self.openTelemetry) : !has(self.openTelemetry)",
            "openTelemetry must be set for type OpenTelemetry.",
        ),
    )

    type: Literal["OpenTelemetry"] = "OpenTelemetry"
    open_telemetry: OpenTelemetryMetricSink | None = None


class ProxyMetrics(Model, frozen=True, kw_only=True):
    """Statistics."""

    prometheus: Prometheus | None = None
    sinks: Annotated[tuple[MetricSink, ...], Meta(max_length=16)] = ()
    matches: tuple[StringMatch, ...] = ()
    """The statistics that Envoy has; all when there is no entry."""
    enable_virtual_host_stats: bool | None = None
    enable_per_endpoint_stats: bool | None = None
    enable_request_response_sizes_stats: bool | None = None
    enable_grpc_stats: bool | None = field(default=None, name="enableGRPCStats")
    """Whether calls of gRPC are counted; on listeners that serve GRPCRoutes when absent."""
    cluster_stat_name: str | None = None
    """The name of a cluster in statistics, with operators such as ``%ROUTE_NAME%``."""


# -- the rest -------------------------------------------------------------------


class RequestID(Model, frozen=True, kw_only=True):
    """What the id of a request says."""

    tracing: Literal["PackAndSample", "Sample", "Pack", "Disable"] | None = None
    """Whether the decision to trace a request is written into its id, and whether it is made from it."""


class ProxyTelemetry(Model, frozen=True, kw_only=True):
    """What a proxy reports about its work."""

    access_log: ProxyAccessLog | None = None
    tracing: Tracing | None = None
    metrics: ProxyMetrics | None = None
    health_check_log: HealthCheckLog | None = None
    request_id: RequestID | None = field(default=None, name="requestID")


def in_namespace(value: V, namespace: str) -> V:
    """The same with a namespace in each reference to a backend: what stands in another namespace after a
    merge still means what it meant where it was written."""
    match value:
        case BackendRef(namespace=None):
            return cast("V", structs.replace(value, namespace=namespace))
        case tuple():
            entries = cast("tuple[Any, ...]", value)
            return cast("V", tuple(in_namespace(entry, namespace) for entry in entries))
        case Model():
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            named = {name: in_namespace(each, namespace) for name, each in fields.items()}
            return structs.replace(value, **named) if named != fields else value
        case _:
            return value
