"""Access logs as an EnvoyProxy asks for them: who logs what, where to.

Facts
=====
* A setting without a type logs requests in the connection manager, and connections that no route took
  (flag ``NR``) in the listener.
* Envoy writes its logs in the order of the list: text first, then JSON, as the reference orders them.

Source: EnvoyProxy, ``spec.telemetry.accessLog``; Envoy, "Access logging".
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ExtensionFilter,
    ResponseFlagFilter,
)
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.formatter.req_without_query.v3.req_without_query_pb2 import ReqWithoutQuery
from google.protobuf.struct_pb2 import Struct

from moongate.api.envoyproxy import AccessLogSettings, AccessLogSink
from moongate.api.envoyproxy import FileAccessLog as FileSink
from moongate.attach.fleets import access_log_problem
from moongate.attach.gateways import fleet_proxy, on_host
from moongate.engine import query
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.api.base import FleetId
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

_DEFAULT = (AccessLogSettings(sinks=(AccessLogSink(type="File", file=FileSink(path="/dev/stdout")),)),)


@query
def access_logs(db: Db, fleet: FleetId, type_: AccessLogType) -> tuple[bytes, ...]:
    """Encoded ``AccessLog`` entries of a fleet of one type, in order.

    There are none when logs are off, or when a condition of one cannot be read; statuses say so.
    """
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    spec = telemetry.access_log if telemetry is not None else None
    if (spec is not None and spec.disable) or access_log_problem(db, fleet) is not None:
        return ()
    settings = spec.settings if spec is not None else ()
    if settings:
        return _encoded(settings, type_)
    return () if db.read(NO_DEFAULT_ACCESS_LOG) else _default(type_, on_host(db))


@cache
def _default(type_: AccessLogType, laptop: bool) -> tuple[bytes, ...]:
    """What fleets have that ask for nothing else: one value for all of them."""
    return _encoded(_DEFAULT, type_, _LISTENER_FIELD if laptop else {})


def _encoded(
    settings: tuple[AccessLogSettings, ...],
    type_: AccessLogType,
    more: Mapping[str, str] = MappingProxyType({}),
) -> tuple[bytes, ...]:
    """The entries of one type.

    Args:
        settings: what logs there are.
        type_: the type.
        more: the fields of a JSON line besides ``DEFAULT_FIELDS``.
    """
    logs = [
        (not _is_text(setting), encode(_access_log(setting, sink.file, type_, more)))
        for setting in settings
        if setting.type == type_ or (setting.type is None and type_ != "Upstream")
        for sink in setting.sinks
        if sink.file is not None
    ]
    return tuple(log for json in (False, True) for is_json, log in logs if is_json is json)


def _access_log(
    setting: AccessLogSettings, sink: FileSink, type_: AccessLogType, more: Mapping[str, str]
) -> AccessLog:
    log = AccessLog(
        name="envoy.access_loggers.file",
        typed_config=packed(FileAccessLog(path=sink.path, log_format=_format(setting, more))),
    )
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


def _is_text(setting: AccessLogSettings) -> bool:
    return setting.format is not None and setting.format.type == "Text"


def _format(setting: AccessLogSettings, more: Mapping[str, str]) -> SubstitutionFormatString:
    asked = setting.format
    text = (asked.text or "") if asked is not None and _is_text(setting) else None
    if text is not None:
        log_format = SubstitutionFormatString(text_format_source=DataSource(inline_string=text))
        operators = text
    else:
        fields = (asked.json if asked is not None else None) or {**DEFAULT_FIELDS, **more}
        log_format = SubstitutionFormatString(json_format=Struct())
        log_format.json_format.update(fields)
        operators = "".join(fields.values())
    if "%REQ_WITHOUT_QUERY" in operators:
        log_format.formatters.append(
            TypedExtensionConfig(
                name="envoy.formatter.req_without_query", typed_config=packed(ReqWithoutQuery())
            )
        )
    return log_format
