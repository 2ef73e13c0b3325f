"""Send requests only to endpoints that are healthy: by checks of the gateway's own, and by their answers.

Set by:      BackendTrafficPolicy ``spec.healthCheck``
Precedence:  the most specific policy wins
Envoy:       ``Cluster.health_checks``, ``outlier_detection``, ``common_lb_config.healthy_panic_threshold``;
             ``Endpoint.health_check_config``; extensions/health_check/event_sinks/file/v3
Cases:       health_check.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.health_check_pb2 import HealthCheck as EnvoyHealthCheck
from envoy.extensions.health_check.event_sinks.file.v3.file_pb2 import HealthCheckEventFileSink
from envoy.type.v3.http_pb2 import HTTP2
from envoy.type.v3.range_pb2 import Int64Range

from moongate.api.base import DurationStr, milliseconds
from moongate.api.health_checks import (
    ActiveHealthCheck,
    HealthCheck,
    HealthCheckLog,
    HealthCheckPayload,
    HTTPHealthCheck,
    PassiveHealthCheck,
)
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.features.shared import duration
from moongate.problem import Problem
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint

    from moongate.engine import Db

_TIMEOUT: DurationStr = "1s"
_INTERVAL: DurationStr = "3s"
_EJECTION: DurationStr = "30s"
_FAILURES: Final = 3
_SUCCESSES: Final = 1
_OK: Final = 200
_ENVOY_PANIC: Final = 50
_STDOUT: Final = "/dev/stdout"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
_NO_PATH: Final = re.compile(r"[\x00-\x20\x7f]")


def check(_db: Db, health: Effective[HealthCheck]) -> Iterator[Problem]:
    active, passive = health.value.active, health.value.passive
    if active is not None:
        for problem in _check_active(active):
            yield problem.under("active")
    if passive is not None:
        for problem in _check_passive(passive):
            yield problem.under("passive")


def hints(health: HealthCheck) -> Iterator[Problem]:
    passive, active = health.passive, health.active
    if passive is not None and passive.max_ejection_percent == 0 and not passive.always_eject_one_endpoint:
        message = "It is 0, so no endpoint is ever ejected. Requests are served."
        yield Problem("passive.maxEjectionPercent", message, "Unused")
    if active is not None and active.http is not None and not active.http.path.startswith("/"):
        message = f"The path is {active.http.path!r}; most servers refuse one that does not begin with '/'."
        yield Problem("active.http.path", message)


def cluster(edit: ClusterEdit, health: Effective[HealthCheck]) -> None:
    spec = health.value
    if spec.panic_threshold is not None and spec.panic_threshold != _ENVOY_PANIC:
        edit.message.common_lb_config.healthy_panic_threshold.value = spec.panic_threshold
    if spec.active is not None:
        edit.message.health_checks.append(_active(edit, spec.active))
    if spec.passive is not None:
        edit.message.outlier_detection.CopyFrom(_passive(spec.passive))


def endpoint(endpoint: Endpoint, health: Effective[HealthCheck]) -> None:
    active = health.value.active
    if active is None:
        return
    if endpoint.hostname and (active.http is None or active.http.hostname is None):
        endpoint.health_check_config.hostname = endpoint.hostname
    port = active.overrides.port if active.overrides is not None else None
    # Envoy refuses another port of a Unix socket.
    if port is not None and endpoint.address.HasField("socket_address"):
        endpoint.health_check_config.port_value = port


def _check_active(active: ActiveHealthCheck) -> Iterator[Problem]:
    yield from _not_zero(timeout=active.timeout, interval=active.interval)
    http, tcp = active.http, active.tcp
    if http is not None:
        if http.method is not None and http.method.upper() not in _METHODS:
            message = f"The method is {http.method!r}; it must be one of {', '.join(_METHODS)}."
            yield Problem("http.method", message)
        if _NO_PATH.search(http.path):
            message = f"The path is {http.path!r}; it must have no blanks and no control characters."
            yield Problem("http.path", message)
        yield from _not_empty("http.expectedResponse", http.expected_response)
        yield from _not_empty("http.requestBody", http.request_body)
    if tcp is not None:
        yield from _not_empty("tcp.send", tcp.send)
        yield from _not_empty("tcp.receive", tcp.receive)


def _check_passive(passive: PassiveHealthCheck) -> Iterator[Problem]:
    yield from _not_zero(interval=passive.interval, baseEjectionTime=passive.base_ejection_time)
    for name, count in (
        ("consecutiveLocalOriginFailures", passive.consecutive_local_origin_failures),
        ("consecutiveGatewayErrors", passive.consecutive_gateway_errors),
        ("consecutive5XxErrors", passive.consecutive_5xx_errors),
    ):
        if count is not None and count < 0:
            yield Problem(name, f"{name} is {count}; it must not be negative.")


def _not_zero(**times: DurationStr | None) -> Iterator[Problem]:
    for name, text in times.items():
        if text is not None and milliseconds(text) == 0:
            yield Problem(name, f"{name} is {text!r}; it must be greater than zero.")


def _not_empty(path: str, payload: HealthCheckPayload | None) -> Iterator[Problem]:
    if payload is not None and not _bytes(payload):
        yield Problem(path, "The payload is empty; leave it out, or say what is sent or expected.")


def _active(edit: ClusterEdit, active: ActiveHealthCheck) -> EnvoyHealthCheck:
    built = EnvoyHealthCheck()
    built.timeout.CopyFrom(duration(active.timeout or _TIMEOUT))
    built.interval.CopyFrom(duration(active.interval or _INTERVAL))
    # Else Envoy would wait a minute between the checks of a cluster that has had no request yet: an endpoint
    # that is not ready at its first check would be missing that long.
    built.no_traffic_interval.CopyFrom(built.interval)
    if active.initial_jitter is not None:
        built.initial_jitter.CopyFrom(duration(active.initial_jitter))
    built.unhealthy_threshold.value = active.unhealthy_threshold or _FAILURES
    built.healthy_threshold.value = active.healthy_threshold or _SUCCESSES
    match active.type:
        case "HTTP":
            if active.http is not None:
                built.http_health_check.CopyFrom(_http(edit, active.http))
        case "TCP":
            built.tcp_health_check.SetInParent()
            if active.tcp is not None and active.tcp.send is not None:
                # Of the bytes that it sends over a connection, Envoy knows only those of a text.
                built.tcp_health_check.send.text = _bytes(active.tcp.send).hex()
            if active.tcp is not None and active.tcp.receive is not None:
                built.tcp_health_check.receive.append(_payload(active.tcp.receive))
        case "GRPC":
            built.grpc_health_check.service_name = (active.grpc and active.grpc.service) or ""
    log = active.health_check_log or edit.health_check_log()
    if log is not None:
        _log(built, log)
    return built


def _http(edit: ClusterEdit, http: HTTPHealthCheck) -> EnvoyHealthCheck.HttpHealthCheck:
    built = EnvoyHealthCheck.HttpHealthCheck(
        host=http.hostname or edit.host(),
        path=http.path,
        expected_statuses=_ranges(http.expected_statuses or (_OK,)),
        retriable_statuses=_ranges(http.retriable_statuses),
    )
    if http.method is not None:
        built.method = cast("RequestMethod", RequestMethod.Value(http.method.upper()))
    if http.expected_response is not None:
        built.receive.append(_payload(http.expected_response))
    if http.request_body is not None:
        built.send.CopyFrom(_payload(http.request_body))
    if edit.http2:
        # A check speaks HTTP/1.1 unless it is told otherwise, which such backends do not understand.
        built.codec_client_type = HTTP2
    return built


def _ranges(statuses: Iterable[int]) -> list[Int64Range]:
    """Some statuses as the fewest ranges; their ends are exclusive."""
    ordered = sorted(set(statuses))
    breaks = [n for n, (one, next_one) in enumerate(pairwise(ordered), start=1) if next_one > one + 1]
    starts, ends = [0, *breaks], [*breaks, len(ordered)]
    return [
        Int64Range(start=ordered[start], end=ordered[end - 1] + 1)
        for start, end in zip(starts, ends, strict=True)
        if start < end
    ]


def _bytes(payload: HealthCheckPayload) -> bytes:
    return (payload.text or "").encode() if payload.type == "Text" else payload.binary or b""


def _payload(payload: HealthCheckPayload) -> EnvoyHealthCheck.Payload:
    # What Envoy calls a text is hexadecimal.
    if payload.type == "Text":
        return EnvoyHealthCheck.Payload(text=_bytes(payload).hex())
    return EnvoyHealthCheck.Payload(binary=_bytes(payload))


def _log(built: EnvoyHealthCheck, log: HealthCheckLog) -> None:
    built.always_log_health_check_failures = not log.matches or "Failure" in log.matches
    built.always_log_health_check_success = not log.matches or "Success" in log.matches
    paths = [sink.file.path for sink in log.sinks if sink.file is not None]
    for path in paths or (_STDOUT,):
        sink = packed(HealthCheckEventFileSink(event_log_path=path))
        built.event_logger.append(
            TypedExtensionConfig(name="envoy.health_check.event_sinks.file", typed_config=sink)
        )


def _passive(passive: PassiveHealthCheck) -> OutlierDetection:
    built = OutlierDetection(
        split_external_local_origin_errors=passive.split_external_local_origin_errors or False
    )
    built.interval.CopyFrom(duration(passive.interval or _INTERVAL))
    built.base_ejection_time.CopyFrom(duration(passive.base_ejection_time or _EJECTION))
    for target, count in (
        (built.consecutive_local_origin_failure, passive.consecutive_local_origin_failures),
        (built.consecutive_5xx, passive.consecutive_5xx_errors),
        (built.consecutive_gateway_failure, passive.consecutive_gateway_errors),
        (built.max_ejection_percent, passive.max_ejection_percent),
        (built.failure_percentage_threshold, passive.failure_percentage_threshold),
    ):
        if count is not None:
            target.value = count
    # Both are off in Envoy until something enforces them.
    if passive.consecutive_gateway_errors is not None:
        built.enforcing_consecutive_gateway_failure.value = 100
    if passive.failure_percentage_threshold is not None:
        built.enforcing_failure_percentage.value = 100
    if passive.always_eject_one_endpoint is not None:
        built.always_eject_one_host.value = passive.always_eject_one_endpoint
    return built


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="health_check",
    model=HealthCheck,
    check=check,
    hints=hints,
    transports=("TCP",),
    cluster=cluster,
    endpoint=endpoint,
)
