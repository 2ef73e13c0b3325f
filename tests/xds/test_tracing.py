"""Spans as an EnvoyProxy asks for them."""

from __future__ import annotations

import pytest
from envoy.config.trace.v3.datadog_pb2 import DatadogConfig
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.config.trace.v3.zipkin_pb2 import ZipkinConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    RequestIDExtension,
)
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2 import (
    ParentBasedSamplerConfig,
)
from envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2 import (
    TraceIdRatioBasedSamplerConfig,
)
from google.protobuf.message import Message

from moongate.xds.tracing import request_id, tracing, tracing_problems
from tests.core import EG_FLEET
from tests.xds.test_sinks import of_gateway

HOST = "host: collector.test"


def traced(more: str = "", provider: str = f"type: OpenTelemetry, {HOST}") -> HttpConnectionManager.Tracing:
    core = of_gateway(f"{{tracing: {{provider: {{{provider}}}{more}}}}}")
    body = tracing(core.db, EG_FLEET)
    assert body is not None
    return HttpConnectionManager.Tracing.FromString(body)


def provider_of(message: HttpConnectionManager.Tracing, config: Message) -> None:
    assert message.provider.typed_config.Unpack(config)


def test_without_a_provider_nothing_is_traced() -> None:
    assert tracing(of_gateway("{}").db, EG_FLEET) is None


def test_all_requests_are_traced_but_not_because_a_client_asks() -> None:
    message = traced()

    assert message.random_sampling.value == message.overall_sampling.value == 100
    assert message.client_sampling.value == 0
    assert message.spawn_upstream_span.value


@pytest.mark.parametrize(
    ("said", "percent"),
    [
        ("samplingRate: 5", 5),
        ("samplingFraction: {numerator: 1, denominator: 1000}", 0.1),
        ("samplingFraction: {numerator: 50}", 50),
    ],
)
def test_a_share_of_requests_is_traced(said: str, percent: float) -> None:
    assert traced(f", {said}").random_sampling.value == pytest.approx(percent)


def test_clients_and_all_together_have_shares_of_their_own() -> None:
    fractions = "clientSamplingFraction: {numerator: 2}, overallSamplingFraction: {numerator: 30}"
    message = traced(f", {fractions}")

    assert (message.client_sampling.value, message.overall_sampling.value) == (2, 30)


def test_a_sampler_sees_all_requests() -> None:
    sampler = "openTelemetry: {sampler: {type: ParentBasedTraceIdRatio, samplingPercentage: {numerator: 3}}}"
    message = traced(", samplingRate: 5", f"type: OpenTelemetry, {HOST}, {sampler}")
    config, parent, ratio = (
        OpenTelemetryConfig(),
        ParentBasedSamplerConfig(),
        TraceIdRatioBasedSamplerConfig(),
    )
    provider_of(message, config)

    assert message.random_sampling.value == 100
    assert config.sampler.typed_config.Unpack(parent)
    assert parent.wrapped_sampler.typed_config.Unpack(ratio)
    assert ratio.sampling_percentage.numerator == 3


@pytest.mark.parametrize(
    ("type_", "names"),
    [
        ("AlwaysOn", ["always_on"]),
        ("AlwaysOff", ["trace_id_ratio_based"]),
        ("TraceIdRatio", ["trace_id_ratio_based"]),
        ("ParentBasedAlwaysOn", ["parent_based", "always_on"]),
        ("ParentBasedAlwaysOff", ["parent_based", "trace_id_ratio_based"]),
    ],
)
def test_samplers_of_opentelemetry(type_: str, names: list[str]) -> None:
    config, parent = OpenTelemetryConfig(), ParentBasedSamplerConfig()
    provider_of(
        traced("", f"type: OpenTelemetry, {HOST}, openTelemetry: {{sampler: {{type: {type_}}}}}"), config
    )
    samplers = [config.sampler.name]
    if config.sampler.typed_config.Unpack(parent):
        samplers.append(parent.wrapped_sampler.name)

    assert samplers == [f"envoy.tracers.opentelemetry.samplers.{name}" for name in names]


def test_opentelemetry_gets_the_name_of_the_gateway_its_attributes_and_headers() -> None:
    settings = "{headers: [{name: token, value: t}], resourceAttributes: {team: a}}"
    config = OpenTelemetryConfig()
    provider_of(traced("", f"type: OpenTelemetry, {HOST}, openTelemetry: {settings}"), config)

    assert config.service_name == "eg.default"
    assert config.grpc_service.envoy_grpc.authority == "collector.test"
    assert [(each.key, each.value) for each in config.grpc_service.initial_metadata] == [("token", "t")]
    assert [each.name for each in config.resource_detectors] == [
        "envoy.tracers.opentelemetry.resource_detectors.static_config"
    ]


def test_zipkin_without_settings() -> None:
    """The reference ends here: it reads the settings without looking whether there are any."""
    config = ZipkinConfig()
    provider_of(traced("", f"type: Zipkin, {HOST}"), config)

    assert (config.collector_cluster, config.collector_endpoint) == ("tracing", "/api/v2/spans")
    assert config.shared_span_context.value
    assert not config.trace_id_128bit


def test_zipkin_with_settings() -> None:
    config = ZipkinConfig()
    zipkin = "zipkin: {enable128BitTraceId: true, disableSharedSpanContext: true}"
    provider_of(traced("", f"type: Zipkin, {HOST}, {zipkin}"), config)

    assert config.trace_id_128bit
    assert not config.shared_span_context.value


def test_datadog() -> None:
    config = DatadogConfig()
    provider_of(traced("", f"type: Datadog, serviceName: shop, {HOST}"), config)

    assert (config.collector_cluster, config.service_name) == ("tracing", "shop")


def test_tags_are_sorted_and_win_over_those_of_the_former_form() -> None:
    custom = "b: {type: Literal, literal: {value: x}}, a: {type: RequestHeader, requestHeader: {name: x-a}}"
    custom += ", c: {type: Environment, environment: {name: HOME, defaultValue: none}}"
    message = traced(f", tags: {{b: '%PROTOCOL%'}}, customTags: {{{custom}}}")

    assert [(tag.tag, tag.WhichOneof("type")) for tag in message.custom_tags] == [
        ("a", "request_header"),
        ("b", "value"),
        ("c", "environment"),
    ]


def test_a_tag_that_envoy_would_refuse_is_left_out_and_reported() -> None:
    tags = "customTags: {a: {type: Literal}}, tags: {'': b}"
    telemetry = f"{{tracing: {{provider: {{type: Zipkin, {HOST}}}, {tags}}}}}"
    core = of_gateway(telemetry)
    body = tracing(core.db, EG_FLEET)
    assert body is not None

    assert not HttpConnectionManager.Tracing.FromString(body).custom_tags
    problem, other = tracing_problems(core.db, EG_FLEET)
    assert (other.path, "a tag needs a name" in other.message) == ("spec.telemetry.tracing.tags['']", True)
    assert problem.path == "spec.telemetry.tracing.customTags['a']"
    assert "literal.value is missing or empty" in problem.message


def test_a_name_that_envoy_would_refuse_is_left_out_and_reported() -> None:
    """It would refuse all of the listener."""
    spans = "spanName: {client: '1%', server: '%REQ(a'}"
    core = of_gateway(f"{{tracing: {{provider: {{type: Zipkin, {HOST}}}, {spans}}}}}")
    body = tracing(core.db, EG_FLEET)
    assert body is not None

    message = HttpConnectionManager.Tracing.FromString(body)
    assert (message.operation, message.upstream_operation) == ("1%%", "")
    assert [each.path for each in tracing_problems(core.db, EG_FLEET)] == [
        "spec.telemetry.tracing.spanName.server"
    ]


def test_spans_have_names() -> None:
    message = traced(", spanName: {client: in, server: out}")

    assert (message.operation, message.upstream_operation) == ("in", "out")


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("PackAndSample", None),
        ("Sample", (False, True)),
        ("Pack", (True, False)),
        ("Disable", (False, False)),
    ],
)
def test_what_the_id_of_a_request_says(said: str, written: tuple[bool, bool] | None) -> None:
    body = request_id(of_gateway(f"{{requestID: {{tracing: {said}}}}}").db, EG_FLEET)
    if written is None:
        assert body is None
        return
    assert body is not None
    config = UuidRequestIdConfig()
    assert RequestIDExtension.FromString(body).typed_config.Unpack(config)

    assert (config.pack_trace_reason.value, config.use_request_id_for_trace_sampling.value) == written
