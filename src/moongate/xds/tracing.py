"""Spans, as an EnvoyProxy asks for them: of which requests, with which tags, and in whose form.

Source: EnvoyProxy, ``spec.telemetry.tracing`` and ``requestID``; envoy.config.trace.v3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.trace.v3.datadog_pb2 import DatadogConfig
from envoy.config.trace.v3.http_tracer_pb2 import Tracing as TracingConfig
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.config.trace.v3.zipkin_pb2 import ZipkinConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    RequestIDExtension,
)
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import static_config_resource_detector_pb2
from envoy.extensions.tracers.opentelemetry.samplers.v3.always_on_sampler_pb2 import AlwaysOnSamplerConfig
from envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2 import (
    ParentBasedSamplerConfig,
)
from envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2 import (
    TraceIdRatioBasedSamplerConfig,
)
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import BoolValue

from moongate import names
from moongate.api.gateway import GatewayClass
from moongate.api.shared import Fraction
from moongate.attach.gateways import fleet_proxy
from moongate.engine import query
from moongate.features.shared import fractional
from moongate.features.spans import span_faults, span_names, span_tags
from moongate.problem import Problem
from moongate.xds.sinks import authority, grpc_service, has_cluster
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from moongate.api.base import FleetId
    from moongate.api.telemetry import OpenTelemetryTracing, Sampler, Tracing, TracingProvider
    from moongate.engine import Db

_SAMPLERS: Final = "envoy.tracers.opentelemetry.samplers"
_NONE, _ALL = Fraction(numerator=0), Fraction(numerator=100)


@query
def tracing(db: Db, fleet: FleetId) -> bytes | None:
    """The encoded ``HttpConnectionManager.Tracing`` of a fleet; ``None`` when nothing is traced."""
    settings = _settings(db, fleet)
    if settings is None or not has_cluster(db, fleet, names.TRACING):
        return None
    sampler = (
        settings.provider.open_telemetry.sampler if settings.provider.open_telemetry is not None else None
    )
    rate = settings.sampling_fraction or _ALL
    if settings.sampling_rate is not None:
        rate = Fraction(numerator=settings.sampling_rate)
    config = HttpConnectionManager.Tracing(
        client_sampling=_percent(settings.client_sampling_fraction or _NONE),
        # A sampler decides alone, so it must see all requests.
        random_sampling=_percent(rate if sampler is None else _ALL),
        overall_sampling=_percent(settings.overall_sampling_fraction or _ALL),
        provider=_provider(db, fleet, settings.provider),
        spawn_upstream_span=BoolValue(value=True),
        custom_tags=span_tags(settings),
    )
    config.operation, config.upstream_operation = span_names(settings)
    return encode(config)


@query
def tracing_problems(db: Db, fleet: FleetId) -> tuple[Problem, ...]:
    """Why spans have not all the tags and names that an EnvoyProxy asks for."""
    settings = _settings(db, fleet)
    if settings is None:
        return ()
    return tuple(
        Problem(f"spec.telemetry.tracing.{part}", f"{fault}. Spans go without it.", "InvalidParameters")
        for part, fault in span_faults(settings)
    )


@query
def request_id(db: Db, fleet: FleetId) -> bytes | None:
    """The encoded ``RequestIDExtension`` of a fleet; ``None`` for that of Envoy itself."""
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    settings = telemetry.request_id if telemetry is not None else None
    if settings is None or settings.tracing in (None, "PackAndSample"):
        return None
    config = UuidRequestIdConfig(
        pack_trace_reason=BoolValue(value=settings.tracing == "Pack"),
        use_request_id_for_trace_sampling=BoolValue(value=settings.tracing == "Sample"),
    )
    return encode(RequestIDExtension(typed_config=packed(config)))


def _settings(db: Db, fleet: FleetId) -> Tracing | None:
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    return telemetry.tracing if telemetry is not None else None


def _percent(share: Fraction) -> Percent:
    return Percent(value=share.numerator * 100 / share.denominator)


def _provider(db: Db, fleet: FleetId, provider: TracingProvider) -> TracingConfig.Http:
    service = provider.service_name or _service(fleet)
    match provider.type:
        case "Zipkin":
            zipkin = provider.zipkin
            apart = zipkin is not None and zipkin.disable_shared_span_context
            name = "envoy.traces.zipkin"
            config: Message = ZipkinConfig(
                collector_cluster=names.TRACING,
                collector_endpoint="/api/v2/spans",
                trace_id_128bit=bool(zipkin is not None and zipkin.enable_128bit_trace_id),
                shared_span_context=BoolValue(value=not apart),
                collector_endpoint_version=ZipkinConfig.HTTP_JSON,
            )
        case "Datadog":
            name = "envoy.tracers.datadog"
            config = DatadogConfig(collector_cluster=names.TRACING, service_name=service)
        case "OpenTelemetry":
            name = "envoy.tracers.opentelemetry"
            config = _open_telemetry(authority(db, fleet, names.TRACING), service, provider.open_telemetry)
    return TracingConfig.Http(name=name, typed_config=packed(config))


def _service(fleet: FleetId) -> str:
    """The name under which the spans of a fleet are found, unless its EnvoyProxy has another."""
    owner = fleet.owner
    return owner.name if owner.is_a(GatewayClass) else f"{owner.name}.{owner.namespace}"


def _open_telemetry(to: str, service: str, settings: OpenTelemetryTracing | None) -> OpenTelemetryConfig:
    headers = settings.headers if settings is not None else None
    config = OpenTelemetryConfig(grpc_service=grpc_service(names.TRACING, to, headers), service_name=service)
    if settings is not None:
        if settings.resource_attributes:
            config.resource_detectors.append(static_attributes(settings.resource_attributes))
        if settings.sampler is not None:
            config.sampler.CopyFrom(_sampler(settings.sampler))
    return config


def static_attributes(attributes: Mapping[str, str]) -> TypedExtensionConfig:
    """What OpenTelemetry's data says about its sender."""
    config = static_config_resource_detector_pb2.StaticConfigResourceDetectorConfig(attributes=attributes)
    name = "envoy.tracers.opentelemetry.resource_detectors.static_config"
    return TypedExtensionConfig(name=name, typed_config=packed(config))


def _sampler(sampler: Sampler) -> TypedExtensionConfig:
    kind = sampler.type or "AlwaysOn"
    share = _NONE if kind.endswith("AlwaysOff") else sampler.sampling_percentage or _ALL
    if kind.endswith("AlwaysOn"):
        base = _extension("always_on", AlwaysOnSamplerConfig())
    else:
        ratio = TraceIdRatioBasedSamplerConfig(sampling_percentage=fractional(share))
        base = _extension("trace_id_ratio_based", ratio)
    if kind.startswith("ParentBased"):
        return _extension("parent_based", ParentBasedSamplerConfig(wrapped_sampler=base))
    return base


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=f"{_SAMPLERS}.{name}", typed_config=packed(config))
