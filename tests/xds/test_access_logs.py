"""Who logs what, where to."""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

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
