"""Access logs as an EnvoyProxy asks for them: who logs what, where to.

Facts
=====
* A setting without a type logs requests in the connection manager, and connections that no route took
  (flag ``NR``) in the listener.
* Envoy writes its logs in the order of the list, by kind of sink as the reference orders them.
* A format is of files and of OpenTelemetry, whose entries have a text and attributes; entries for an access
  log service (ALS) have fields of their own.

Source: EnvoyProxy, ``spec.telemetry.accessLog``; Envoy, "Access logging".
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ExtensionFilter,
    ResponseFlagFilter,
)
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import V3
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2 import OpenTelemetryAccessLogConfig
from envoy.extensions.formatter.req_without_query.v3.req_without_query_pb2 import ReqWithoutQuery
from google.protobuf.struct_pb2 import Struct
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue, KeyValueList

from moongate import names
from moongate.api.telemetry import AccessLogSettings, AccessLogSink
from moongate.api.telemetry import FileAccessLog as FileSink
from moongate.attach.gateways import fleet_proxy, on_host
from moongate.engine import query
from moongate.problem import Problem
from moongate.xds.sinks import authority, grpc_service, has_cluster, wrong_conditions
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from envoy.config.core.v3.grpc_service_pb2 import GrpcService
    from google.protobuf.message import Message

    from moongate.api.base import FleetId
    from moongate.api.telemetry import ALSAccessLog, OpenTelemetryAccessLog, ProxyAccessLog
    from moongate.engine import Db

NO_DEFAULT_ACCESS_LOG: Final = "no default access log"
"""The cell that says that fleets have only the access logs that their EnvoyProxy asks for."""

AccessLogType = Literal["Listener", "Route", "Upstream"]
"""Who writes the log: a listener, a connection manager, the router."""

DEFAULT_FIELDS: Final[Mapping[str, str]] = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "x-envoy-origin-path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "x-envoy-upstream-service-time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x-forwarded-for": "%REQ(X-FORWARDED-FOR)%",
    "user-agent": "%REQ(USER-AGENT)%",
    "x-request-id": "%REQ(X-REQUEST-ID)%",
    ":authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}
"""The fields of a JSON line, unless a format says otherwise."""

_LISTENER_FIELD: Final[Mapping[str, str]] = {"listener": "%FILTER_CHAIN_NAME%"}
"""On a laptop, where all Gateways may write to one stream: the listener, with the name of its Gateway."""

_SENDER: Final[Mapping[str, str]] = {
    "k8s.namespace.name": "%ENVIRONMENT(ENVOY_POD_NAMESPACE)%",
    "k8s.pod.name": "%ENVIRONMENT(ENVOY_POD_NAME)%",
}
"""What each entry for OpenTelemetry says of its Envoy."""

_KINDS: Final = ("text", "json", "als", "otel")
"""The kinds of sinks, in the order of the reference."""


@query
def access_logs(db: Db, fleet: FleetId, type_: AccessLogType) -> tuple[bytes, ...]:
    """Encoded ``AccessLog`` entries of a fleet of one type, in order.

    There are none when logs are off, and none of a setting with a condition that cannot be read.
    """
    spec = _asked(db, fleet)
    if spec is not None and spec.disable:
        return ()
    if spec is None or not spec.settings:
        return () if db.read(NO_DEFAULT_ACCESS_LOG) else _default(type_, on_host(db))
    logs = [
        (kind, encode(_access_log(name, config, setting, type_)))
        for n, setting in enumerate(spec.settings)
        if _is_of(setting, type_) and not _faults(setting, n)
        for m, sink in enumerate(setting.sinks)
        for kind, name, config in _sinks(db, fleet, (n, m), setting, sink)
    ]
    return tuple(log for kind in _KINDS for of, log in logs if of == kind)


@query
def condition_problems(db: Db, fleet: FleetId) -> tuple[Problem, ...]:
    """Why nothing is logged as some settings ask for: their conditions that are not CEL."""
    spec = _asked(db, fleet)
    settings = spec.settings if spec is not None and not spec.disable else ()
    return tuple(problem for n, setting in enumerate(settings) for problem in _faults(setting, n))


def _asked(db: Db, fleet: FleetId) -> ProxyAccessLog | None:
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    return telemetry.access_log if telemetry is not None else None


def _faults(setting: AccessLogSettings, index: int) -> list[Problem]:
    """The faults of the conditions of a setting."""
    problems: list[Problem] = []
    for n in wrong_conditions(setting):
        path = f"spec.telemetry.accessLog.settings[{index}].matches[{n}]"
        message = (
            f"{setting.matches[n]!r} is no CEL expression. "
            "Requests are served, but not logged by this setting."
        )
        problems.append(Problem(path, message, "InvalidParameters"))
    return problems


@cache
def _default(type_: AccessLogType, laptop: bool) -> tuple[bytes, ...]:
    """What fleets have that ask for nothing else: one value for all of them."""
    setting = AccessLogSettings(sinks=(AccessLogSink(type="File", file=FileSink(path="/dev/stdout")),))
    if not _is_of(setting, type_):
        return ()
    more = _LISTENER_FIELD if laptop else {}
    config = FileAccessLog(path="/dev/stdout", log_format=_json_format({**DEFAULT_FIELDS, **more}))
    return (encode(_access_log(_FILE, config, setting, type_)),)


def _is_of(setting: AccessLogSettings, type_: AccessLogType) -> bool:
    return setting.type == type_ or (setting.type is None and type_ != "Upstream")


def _sinks(
    db: Db, fleet: FleetId, at: tuple[int, int], setting: AccessLogSettings, sink: AccessLogSink
) -> Iterator[tuple[str, str, Message]]:
    """The kind of a sink, and the extension of Envoy for it with its configuration.

    Args:
        db: where to read.
        fleet: whose it is.
        at: the index of the setting, and that of the sink in it.
        setting: the setting.
        sink: the sink.
    """
    if sink.file is not None:
        kind, log_format = _file_format(setting)
        yield kind, _FILE, FileAccessLog(path=sink.file.path, log_format=log_format)
    name = names.access_log_sink("als", *at)
    if sink.als is not None and has_cluster(db, fleet, name):
        yield "als", *_als(db, fleet, name, sink.als)
    name = names.access_log_sink("otel", *at)
    if sink.open_telemetry is not None and has_cluster(db, fleet, name):
        to = grpc_service(name, authority(db, fleet, name), sink.open_telemetry.headers)
        yield "otel", "envoy.access_loggers.open_telemetry", _open_telemetry(to, setting, sink.open_telemetry)


_FILE: Final = "envoy.access_loggers.file"


def _access_log(name: str, config: Message, setting: AccessLogSettings, type_: AccessLogType) -> AccessLog:
    log = AccessLog(name=name, typed_config=packed(config))
    conditions = list(_conditions(setting, type_))
    if len(conditions) == 1:
        log.filter.CopyFrom(conditions[0])
    elif conditions:
        log.filter.and_filter.CopyFrom(AndFilter(filters=conditions))
    return log


def _conditions(setting: AccessLogSettings, type_: AccessLogType) -> Iterator[AccessLogFilter]:
    for expression in setting.matches:
        yield AccessLogFilter(
            extension_filter=ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel",
                typed_config=packed(ExpressionFilter(expression=expression)),
            )
        )
    if setting.type is None and type_ == "Listener":
        yield AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NR"]))


def _file_format(setting: AccessLogSettings) -> tuple[str, SubstitutionFormatString]:
    log_format = setting.format
    if log_format is None or log_format.type != "Text":
        return "json", _json_format((log_format.json if log_format is not None else None) or DEFAULT_FIELDS)
    text = log_format.text or ""
    source = DataSource(inline_string=text)
    return "text", SubstitutionFormatString(text_format_source=source, formatters=_formatters(text))


def _json_format(fields: Mapping[str, str]) -> SubstitutionFormatString:
    log_format = SubstitutionFormatString(json_format=Struct(), formatters=_formatters(*fields.values()))
    log_format.json_format.update(dict[str, Any](fields))
    return log_format


def _formatters(*formats: str) -> list[TypedExtensionConfig]:
    """The extensions of Envoy that some formats need."""
    if not any("%REQ_WITHOUT_QUERY" in each for each in formats):
        return []
    name = "envoy.formatter.req_without_query"
    return [TypedExtensionConfig(name=name, typed_config=packed(ReqWithoutQuery()))]


def _als(db: Db, fleet: FleetId, name: str, sink: ALSAccessLog) -> tuple[str, Message]:
    owner = fleet_proxy(db, fleet).owner
    of_proxy = f"{owner.namespace}/{owner.name}" if owner is not None else names.fleet(fleet)
    common = CommonGrpcAccessLogConfig(
        log_name=sink.log_name or of_proxy, grpc_service=grpc_service(name), transport_api_version=V3
    )
    if sink.type == "TCP":
        return "envoy.access_loggers.tcp_grpc", TcpGrpcAccessLogConfig(common_config=common)
    config = HttpGrpcAccessLogConfig(common_config=common)
    if sink.http is not None:
        config.additional_request_headers_to_log.extend(sink.http.request_headers)
        config.additional_response_headers_to_log.extend(sink.http.response_headers)
        config.additional_response_trailers_to_log.extend(sink.http.response_trailers)
    return "envoy.access_loggers.http_grpc", config


def _open_telemetry(
    to: GrpcService, setting: AccessLogSettings, sink: OpenTelemetryAccessLog
) -> OpenTelemetryAccessLogConfig:
    log_format = setting.format
    text = log_format.text if log_format is not None and log_format.type != "JSON" else None
    fields = log_format.json if log_format is not None and log_format.type != "Text" else None
    if text is None and not fields:
        fields = dict(DEFAULT_FIELDS)
    config = OpenTelemetryAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="otel_envoy_accesslog", grpc_service=to, transport_api_version=V3
        ),
        resource_attributes=_pairs(sink.resource_attributes or sink.resources or {}),
        attributes=_pairs(_SENDER),
        formatters=_formatters(text or "", *(fields or {}).values()),
    )
    config.attributes.values.extend(_pairs(fields or {}).values)
    if text:
        config.body.string_value = text
    return config


def _pairs(values: Mapping[str, str]) -> KeyValueList:
    return KeyValueList(
        values=[KeyValue(key=key, value=AnyValue(string_value=values[key])) for key in sorted(values)]
    )
