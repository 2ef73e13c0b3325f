"""Who logs what, where to."""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig
from envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2 import OpenTelemetryAccessLogConfig

from moongate.xds.access_logs import DEFAULT_FIELDS, NO_DEFAULT_ACCESS_LOG, AccessLogType, access_logs
from tests.core import EG_FLEET, Core, gateway, http

NAMED = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "logs"}}


def logs(access_log: str, type_: AccessLogType = "Route", *, default: bool = True) -> list[AccessLog]:
    core = Core(
        gateway(http("web"), infrastructure=NAMED),
        f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: EnvoyProxy
        metadata: {{name: logs, namespace: default}}
        spec: {{telemetry: {{accessLog: {access_log}}}}}
        """,
    )
    core.db.put(NO_DEFAULT_ACCESS_LOG, not default)
    return [AccessLog.FromString(body) for body in access_logs(core.db, EG_FLEET, type_)]


def file_of(log: AccessLog) -> FileAccessLog:
    message = FileAccessLog()
    assert log.typed_config.Unpack(message)
    return message


def test_without_settings_requests_are_logged_as_json_on_standard_output() -> None:
    [log] = logs("{}")

    assert file_of(log).path == "/dev/stdout"
    assert dict(file_of(log).log_format.json_format.items()) == DEFAULT_FIELDS
    assert not log.HasField("filter")


def test_a_listener_logs_only_what_no_route_took() -> None:
    [log] = logs("{}", "Listener")

    assert list(log.filter.response_flag_filter.flags) == ["NR"]


def test_logs_can_be_turned_off() -> None:
    assert logs("{disable: true}") == []


def test_text_comes_before_json() -> None:
    sink = "sinks: [{type: File, file: {path: PATH}}]"
    text = f"{{format: {{type: Text, text: '%START_TIME%'}}, {sink.replace('PATH', '/text')}}}"
    json = f"{{format: {{type: JSON, json: {{a: '%PROTOCOL%'}}}}, {sink.replace('PATH', '/json')}}}"

    encoded = logs(f"{{settings: [{json}, {text}]}}")

    assert [file_of(log).path for log in encoded] == ["/text", "/json"]


def test_a_type_says_who_logs() -> None:
    setting = "{settings: [{type: Upstream, sinks: [{type: File, file: {path: /up}}]}]}"

    assert [len(logs(setting, type_)) for type_ in ("Listener", "Route", "Upstream")] == [0, 0, 1]


def test_all_conditions_must_hold() -> None:
    setting = "{settings: [{matches: ['a.b', 'c.d'], sinks: [{type: File, file: {path: /x}}]}]}"

    assert [len(log.filter.and_filter.filters) for log in logs(setting, "Listener")] == [3]


def test_a_condition_that_cannot_be_read_leaves_no_logs() -> None:
    assert logs("{settings: [{matches: [')++'], sinks: [{type: File, file: {path: /x}}]}]}") == []


def test_an_operator_that_is_an_extension_is_loaded() -> None:
    setting = "{settings: [{format: {type: Text, text: '%REQ_WITHOUT_QUERY(:PATH)%'}, "
    [log] = logs(setting + "sinks: [{type: File, file: {path: /x}}]}]}")

    assert [f.name for f in file_of(log).log_format.formatters] == ["envoy.formatter.req_without_query"]


def test_the_default_can_be_turned_off_but_not_what_an_envoyproxy_asks_for() -> None:
    """``moongate run --access-log none``: the resource is nearer to the fleet than an option of all."""
    asked_for = "{settings: [{sinks: [{type: File, file: {path: /dev/stdout}}]}]}"

    assert logs("{}", default=False) == []
    assert logs("{}", "Listener", default=False) == []
    assert logs(asked_for, default=False) == logs(asked_for)


ALS = "{type: ALS, als: {type: HTTP, backendRefs: [{name: als, port: 9}]}}"
OTEL = "{type: OpenTelemetry, openTelemetry: {host: otel.test, headers: [{name: token, value: t}]}}"
FILE = "{type: File, file: {path: /x}}"


def test_kinds_of_sinks_have_the_order_of_the_reference() -> None:
    text = "format: {type: Text, text: a}"
    encoded = logs(f"{{settings: [{{sinks: [{OTEL}, {ALS}, {FILE}]}}, {{{text}, sinks: [{FILE}]}}]}}")

    assert [log.name for log in encoded] == [
        "envoy.access_loggers.file",
        "envoy.access_loggers.file",
        "envoy.access_loggers.http_grpc",
        "envoy.access_loggers.open_telemetry",
    ]


def test_an_access_log_service_is_told_whose_log_it_is() -> None:
    [log], config = logs(f"{{settings: [{{sinks: [{ALS}]}}]}}"), HttpGrpcAccessLogConfig()
    assert log.typed_config.Unpack(config)

    assert config.common_config.log_name == "default/logs"
    assert config.common_config.grpc_service.envoy_grpc.cluster_name == "accesslog_als_0_0"


def otel_of(log_format: str) -> OpenTelemetryAccessLogConfig:
    [log], config = logs(f"{{settings: [{{{log_format}sinks: [{OTEL}]}}]}}"), OpenTelemetryAccessLogConfig()
    assert log.typed_config.Unpack(config)
    return config


def keys(config: OpenTelemetryAccessLogConfig) -> list[str]:
    """The attributes besides those that say which Envoy it is."""
    sender, *own = [[value.key] for value in config.attributes.values][1:]
    assert sender == ["k8s.pod.name"]
    return [key for [key] in own]


def test_opentelemetry_gets_the_fields_of_the_default_where_no_format_is() -> None:
    config = otel_of("")

    assert keys(config) == sorted(DEFAULT_FIELDS)
    assert not config.HasField("body")
    assert config.common_config.grpc_service.envoy_grpc.authority == "otel.test"
    assert config.common_config.grpc_service.initial_metadata[0].value == "t"


def test_opentelemetry_gets_a_text_or_attributes_or_both() -> None:
    text = otel_of("format: {type: Text, text: a}, ")
    json = otel_of("format: {type: JSON, json: {b: c}}, ")
    both = otel_of("format: {text: '%REQ_WITHOUT_QUERY(:PATH)%', json: {b: c}}, ")

    assert (text.body.string_value, keys(text)) == ("a", [])
    assert (json.HasField("body"), keys(json)) == (False, ["b"])
    assert (both.body.string_value, keys(both)) == ("%REQ_WITHOUT_QUERY(:PATH)%", ["b"])
    assert [each.name for each in both.formatters] == ["envoy.formatter.req_without_query"]


def test_a_condition_that_cannot_be_read_concerns_its_setting_alone() -> None:
    wrong = f"{{matches: [')++'], sinks: [{FILE}]}}"

    assert len(logs(f"{{settings: [{wrong}, {{sinks: [{FILE}]}}]}}")) == 1
