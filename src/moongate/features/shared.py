"""What several features have in common: values of the API in Envoy's form, and their faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from envoy.config.core.v3.config_source_pb2 import V3, AggregatedConfigSource, ConfigSource
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions
from envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2 import ProxyProtocol
from envoy.extensions.load_balancing_policies.common.v3.common_pb2 import LocalityLbConfig
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.duration_pb2 import Duration

from moongate.api.base import DurationStr, milliseconds
from moongate.api.connections import HTTP2Settings, TCPKeepalive
from moongate.api.shared import FRAMING_HEADERS, quantity
from moongate.attach.replacements import unfinished_command
from moongate.problem import Problem
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_pb2 import Listener

    from moongate.api.cluster_settings import PreferLocal
    from moongate.api.shared import Fraction, StringMatch
    from moongate.api.tls import TLSSettings

_TLS_VERSIONS: Final = {
    "Auto": TlsParameters.TLS_AUTO,
    "1.0": TlsParameters.TLSv1_0,
    "1.1": TlsParameters.TLSv1_1,
    "1.2": TlsParameters.TLSv1_2,
    "1.3": TlsParameters.TLSv1_3,
}


def duration(text: DurationStr) -> Duration:
    """A Gateway API duration as a protobuf ``Duration``."""
    seconds, rest = divmod(milliseconds(text), 1000)
    return Duration(seconds=seconds, nanos=rest * 1_000_000)


def string_matcher(match: StringMatch) -> StringMatcher:
    """Envoy's form of a match on a string."""
    match match.type:
        case "Prefix":
            return StringMatcher(prefix=match.value)
        case "Suffix":
            return StringMatcher(suffix=match.value)
        case "RegularExpression":
            return StringMatcher(safe_regex=RegexMatcher(regex=match.value))
        case _:
            return StringMatcher(exact=match.value)


HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[!-~]+([\t ][!-~]+)*")


def header_fault(name: str, value: str) -> str | None:
    """Why a header cannot be set to a value, in which Envoy's commands work; ``None`` if it can."""
    if HEADER_NAME.fullmatch(name) is None:
        return f"{name!r} is not the name of a header."
    if name.lower() in FRAMING_HEADERS:
        return f"The header {name!r} says where a message ends, and cannot be changed."
    if name.lower() == "host":
        return f"The header {name!r} cannot be changed here; urlRewrite in a route changes the Host."
    if _HEADER_VALUE.fullmatch(value) is None:
        return (
            f"The header {name!r} has the value {value!r}; it must be printable ASCII characters, with "
            "single blanks between them and none at the ends."
        )
    if (command := unfinished_command(value)) is not None:
        return (
            f"The header {name!r} has the value {value!r}, where the command {command!r} does not end with "
            "')%'; a percent sign that begins no command is '%%'."
        )
    return None


def take_proxy_protocol(listener: Listener, *, optional: bool) -> None:
    """Let a listener read headers of the PROXY protocol first.

    Args:
        listener: changed in place.
        optional: whether connections without one are taken, too.
    """
    config = ProxyProtocol(allow_requests_without_proxy_protocol=optional)
    listener.listener_filters.add(name="envoy.filters.listener.proxy_protocol", typed_config=packed(config))


def by_zone(prefers: PreferLocal | None) -> LocalityLbConfig:
    """How a load balancer chooses among the localities of a cluster: by their weights, or by the zone of the
    proxy."""
    if prefers is None:
        return LocalityLbConfig(locality_weighted_lb_config=LocalityLbConfig.LocalityWeightedLbConfig())
    built, least = LocalityLbConfig(), prefers.min_endpoints_threshold
    built.zone_aware_lb_config.min_cluster_size.value = 6 if least is None else least
    if prefers.percentage_enabled is not None:
        built.zone_aware_lb_config.routing_enabled.value = prefers.percentage_enabled
    if prefers.force is not None:
        least = prefers.force.min_endpoints_in_zone_threshold
        built.zone_aware_lb_config.force_local_zone.min_size.value = 1 if least is None else least
    return built


def unused_socket_buffer() -> Problem:
    """The hint about a field of connections, of clients and to backends, that nothing reads."""
    message = "Envoy Gateway accepts the field and does nothing with it, and so does moongate."
    return Problem("socketBufferLimit", message, "Unused")


_MOST_PROBES: Final = 127
_MOST_SECONDS: Final = 32767
"""The most that Linux takes (tcp(7))."""


def keepalive_problems(settings: TCPKeepalive) -> Iterator[Problem]:
    """Numbers that Linux refuses: with them Envoy could neither listen nor connect."""
    if settings.probes is not None and not 1 <= settings.probes <= _MOST_PROBES:
        yield Problem("probes", f"probes is {settings.probes}; it must be from 1 to {_MOST_PROBES}.")
    for name, time in (("idleTime", settings.idle_time), ("interval", settings.interval)):
        if time is not None and not 1 <= milliseconds(time) // 1000 <= _MOST_SECONDS:
            message = (
                f"{name} is {time!r}; it must be from 1s to {_MOST_SECONDS}s, and counts in whole seconds."
            )
            yield Problem(name, message)


def http2_problems(settings: HTTP2Settings) -> Iterator[Problem]:
    """What is wrong with settings of HTTP/2 besides what the CRD says."""
    least, most = 65535, 2**31 - 1
    for name, size in (
        ("initialStreamWindowSize", settings.initial_stream_window_size),
        ("initialConnectionWindowSize", settings.initial_connection_window_size),
    ):
        if size is not None and not least <= quantity(size) <= most:
            yield Problem(name, f"{name} is {size}; it must be between {least} and {most} bytes.")
    keepalive = settings.connection_keepalive
    if keepalive is None:
        return
    if keepalive.timeout is None:
        message = "It has no timeout; set how long the answer to a ping may take."
        yield Problem("connectionKeepalive", message)
    for name, time in (
        ("interval", keepalive.interval),
        ("timeout", keepalive.timeout),
        ("idleInterval", keepalive.idle_interval),
    ):
        if time is not None and milliseconds(time) < 1:
            message = f"{name} is {time!r}; it must be greater than zero."
            yield Problem(f"connectionKeepalive.{name}", message)


def http2_hints(settings: HTTP2Settings) -> Iterator[Problem]:
    """An action that there is not, which the CRD lets pass."""
    action = settings.on_invalid_message
    if action not in (None, "TerminateStream", "TerminateConnection"):
        message = (
            f"It is {action!r}, which is neither TerminateStream nor TerminateConnection. It has no effect."
        )
        yield Problem("onInvalidMessage", message, "Unused")


def http2_options(options: Http2ProtocolOptions, settings: HTTP2Settings) -> None:
    """Write settings of HTTP/2 over others."""
    if settings.initial_stream_window_size is not None:
        options.initial_stream_window_size.value = quantity(settings.initial_stream_window_size)
    if settings.initial_connection_window_size is not None:
        options.initial_connection_window_size.value = quantity(settings.initial_connection_window_size)
    if settings.max_concurrent_streams is not None:
        options.max_concurrent_streams.value = settings.max_concurrent_streams
    if settings.on_invalid_message in ("TerminateStream", "TerminateConnection"):
        options.override_stream_error_on_invalid_http_message.value = (
            settings.on_invalid_message == "TerminateStream"
        )
    keepalive = settings.connection_keepalive
    if keepalive is None:
        return
    built = options.connection_keepalive
    built.SetInParent()
    if keepalive.interval is not None:
        built.interval.CopyFrom(duration(keepalive.interval))
    if keepalive.timeout is not None:
        built.timeout.CopyFrom(duration(keepalive.timeout))
    if keepalive.interval_jitter is not None:
        built.interval_jitter.value = keepalive.interval_jitter
    if keepalive.idle_interval is not None:
        built.connection_idle_interval.CopyFrom(duration(keepalive.idle_interval))


def over_ads() -> ConfigSource:
    """Where routes, certificates and other secrets come from: the stream that the listener came by."""
    # No time limit: a listener waits for them instead of opening without them.
    return ConfigSource(
        ads=AggregatedConfigSource(), initial_fetch_timeout=Duration(), resource_api_version=V3
    )


def tls_parameters(spec: TLSSettings) -> TlsParameters:
    """The versions, ciphers, curves and algorithms of some settings; 1.2 to 1.3 where they do not say."""
    return TlsParameters(
        tls_minimum_protocol_version=_TLS_VERSIONS[spec.min_version or "1.2"],
        tls_maximum_protocol_version=_TLS_VERSIONS[spec.max_version or "1.3"],
        cipher_suites=spec.ciphers,
        ecdh_curves=spec.ecdh_curves,
        signature_algorithms=spec.signature_algorithms,
    )


def fractional(share: Fraction) -> FractionalPercent:
    """A share in Envoy's form, in millionths unless it is in percent."""
    if share.denominator == 100:
        return FractionalPercent(numerator=share.numerator, denominator=FractionalPercent.HUNDRED)
    millionths = round(share.numerator * 1_000_000 / share.denominator)
    return FractionalPercent(numerator=millionths, denominator=FractionalPercent.MILLION)
