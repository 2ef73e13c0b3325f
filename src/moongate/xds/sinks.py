"""What the Envoys of a fleet report to: the sinks of access logs, of traces and of statistics.

Theory of operation
===================
``sinks`` reads the EnvoyProxy alone, and so do the listeners that report to them: a collector that is moved
or removed changes a cluster or its endpoints, and replaces no listener. ``sink_problems`` looks at what a
sink refers to, for the statuses. ``clusters`` builds the cluster of a sink, with the settings that the sink
itself has: no policy holds for it.

Whose reference
===============
The EnvoyProxy that a GatewayClass names, and that of the configuration, are those of who runs the gateways,
so their references need no ReferenceGrant, as in the reference. What a Gateway's own EnvoyProxy adds to them
needs one to reach another namespace.

Source: EnvoyProxy, ``spec.telemetry``; the reference's names and authorities.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from msgspec import Struct, structs

from moongate import names
from moongate.api.backend import Backend as BackendResource
from moongate.api.base import ENVOY_GROUP, FleetId, fields_of
from moongate.api.cluster_settings import ClusterSettings
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.api.telemetry import DEFAULT_PORT, HostOrBackends
from moongate.attach.backends import (
    Backend,
    Target,
    backend,
    endpoints,
    fault_of_backend,
    is_ip,
    named,
    reached_from,
    target,
)
from moongate.attach.gateways import class_settings, fleet_proxy, on_host
from moongate.attach.grants import granted
from moongate.engine import query
from moongate.expressions import cel
from moongate.features import FEATURES
from moongate.features.base import Effective
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.cluster_keys import SinkCluster
from moongate.xds.destinations import secrets_for
from moongate.xds.served_listeners import first_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.shared import BackendRef
    from moongate.api.telemetry import AccessLogSettings, ProxyTelemetry, TelemetryBackends, TelemetryHeader
    from moongate.engine import Db
    from moongate.features.base import Feature
    from moongate.policies.effective import Settings
    from moongate.xds.cluster_keys import ResourceKey

METRICS: Final = "metrics"
"""The word for sinks of statistics."""
TRACES: Final = "tracing"
"""The word for the sink of traces."""
_HIGHEST_PORT: Final = 65535
_NO_HOST: Final = re.compile(r"[^!-~]")
_PERCENT: Final = re.compile(r"%%|(?P<alone>%)")
_NO_HEADER_VALUE: Final = re.compile(r"[\x00\r\n]")


class Sink(Struct, frozen=True):
    """One sink.

    Args:
        name: that of its cluster.
        path: where the EnvoyProxy has it.
        what: the words for it.
        refs: its backends, each with its namespace.
        host: a DNS name or an IP address instead of backends.
        port: that of the host.
        grpc: whether it is spoken to in gRPC.
        settings: those of its cluster.
        headers: what each of its requests has.
    """

    name: str
    path: str
    what: str
    refs: tuple[BackendRef, ...]
    host: str
    port: int
    grpc: bool
    settings: ClusterSettings | None
    headers: tuple[TelemetryHeader, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Its backends without weights."""
        return tuple(target(ref, "") for ref in self.refs)


@query
def sinks(db: Db, fleet: FleetId) -> tuple[Sink, ...]:
    """The sinks that a fleet's EnvoyProxy asks for, in its order."""
    return tuple(sinks_of(fleet_proxy(db, fleet).spec.telemetry, metrics=on_host(db)))


def sinks_of(telemetry: ProxyTelemetry | None, *, metrics: bool) -> Iterator[Sink]:
    """The sinks that an EnvoyProxy asks for.

    Args:
        telemetry: of the EnvoyProxy.
        metrics: whether those of statistics are among them.
    """
    if telemetry is None:
        return
    logs = telemetry.access_log
    for i, setting in enumerate(logs.settings if logs is not None and not logs.disable else ()):
        for j, sink in enumerate(setting.sinks if not wrong_conditions(setting) else ()):
            at = f"spec.telemetry.accessLog.settings[{i}].sinks[{j}]"
            if sink.als is not None:
                name = names.access_log_sink("als", i, j)
                yield _sink(name, f"{at}.als", "access log", sink.als)
            if sink.open_telemetry is not None:
                name = names.access_log_sink("otel", i, j)
                to = sink.open_telemetry
                yield _sink(name, f"{at}.openTelemetry", "access log", to, headers=to.headers)
    if telemetry.tracing is not None:
        provider = telemetry.tracing.provider
        grpc = provider.type == "OpenTelemetry"
        headers = provider.open_telemetry.headers if provider.open_telemetry is not None else None
        path = "spec.telemetry.tracing.provider"
        yield _sink(names.TRACING, path, TRACES, provider, grpc=grpc, headers=headers)
    # Elsewhere these clusters are a part of the bootstrap, with their endpoints, as in the reference.
    for n, metric in enumerate(telemetry.metrics.sinks if metrics and telemetry.metrics is not None else ()):
        if metric.open_telemetry is not None:
            at = f"spec.telemetry.metrics.sinks[{n}].openTelemetry"
            to = metric.open_telemetry
            yield _sink(names.metric_sink(n), at, METRICS, to, headers=to.headers)


def wrong_conditions(setting: AccessLogSettings) -> list[int]:
    """The conditions of a setting that are not CEL, by their indices. With any, nothing is logged by it."""
    wrong: list[int] = []
    for n, expression in enumerate(setting.matches):
        try:
            cel.compile(expression)
        except ValueError:
            wrong.append(n)
    return wrong


def _sink(
    name: str,
    path: str,
    what: str,
    of: TelemetryBackends,
    *,
    grpc: bool = True,
    headers: tuple[TelemetryHeader, ...] | None = None,
) -> Sink:
    host, port = "", 0
    if isinstance(of, HostOrBackends) and not of.backend_refs:
        written: int | None = getattr(of, "port", None)
        host, port = of.host or "", DEFAULT_PORT if written is None else written
    return Sink(name, path, what, of.backend_refs, host, port, grpc, of.backend_settings, headers or ())


@query
def sink(db: Db, fleet: FleetId, name: str) -> Sink | None:
    """The sink with a cluster of this name; ``None`` when there is none (any more)."""
    return next((each for each in sinks(db, fleet) if each.name == name), None)


@query
def sink_problems(db: Db, fleet: FleetId, name: str) -> tuple[Problem, ...]:
    """Why a sink does not get all that is to be reported to it."""
    of = sink(db, fleet, name)
    if of is None:
        return ()
    problems = [*(_faults(of) or _backend_problems(db, fleet, of))]
    problems += [
        problem.under(f"backendSettings.{field}")
        for field, feature, effective in _written_settings(db, fleet, of)
        for problem in (feature.check(db, effective) if feature.check is not None else ())
    ]
    return tuple(
        Problem(
            f"{of.path}.{problem.path}",
            f"{problem.message.rstrip('.')}. Requests are served, but not reported there.",
            "InvalidParameters",
        )
        for problem in problems
    )


def _faults(of: Sink) -> tuple[Problem, ...]:
    """Why there can be no cluster for a sink, or no request to it."""
    return (*_address_faults(of), *_header_faults(of))


def _address_faults(of: Sink) -> Iterator[Problem]:
    if of.refs:
        if not any(ref.weight for ref in of.refs):
            yield Problem("backendRefs", "each of the backends has the weight 0")
    elif not of.host:
        yield Problem("host", "the host is empty, and there are no backendRefs")
    elif _NO_HOST.search(of.host):
        message = f"the host is {of.host!r}; it must be a DNS name or an IP address"
        yield Problem("host", message)
    elif not 0 < of.port <= _HIGHEST_PORT:
        yield Problem("port", f"the port is {of.port}; it must be from 1 to {_HIGHEST_PORT}")


def _header_faults(of: Sink) -> Iterator[Problem]:
    """What Envoy refuses of the headers, and may even end for: no rule of the CRD says it."""
    # The provider of traces has its headers in a field of their own.
    path = "openTelemetry.headers" if of.what == TRACES else "headers"
    for n, header in enumerate(of.headers):
        if header.name.lower() == "host":
            yield Problem(f"{path}[{n}].name", f"{header.name!r} is set by Envoy, from the backend")
        if _NO_HEADER_VALUE.search(header.value):
            # It may be a credential, so it is not quoted.
            yield Problem(f"{path}[{n}].value", "the value has a line break or a NUL; it must be one line")
        if any(match["alone"] for match in _PERCENT.finditer(header.value)):
            # It reads such a value as a format, crashes if it is none, and then sends it as it is written.
            message = "the value has a percent sign that is not followed by another, which Envoy cannot send"
            yield Problem(f"{path}[{n}].value", message)


def _backend_problems(db: Db, fleet: FleetId, of: Sink) -> Iterator[Problem]:
    owner, reached = fleet_proxy(db, fleet).owner, permitted(db, fleet, of.name)
    of_names = of_addresses = False
    for n, (ref, at) in enumerate(zip(of.refs, of.targets, strict=True)):
        judged = named(at, backend(db, at, to_service(db, fleet)))
        if ref not in reached:
            message = f"no ReferenceGrant in namespace {at.namespace} lets {owner} refer to {at.ref}"
            yield Problem(f"backendRefs[{n}]", message)
        elif judged.problem is not None:
            yield Problem(f"backendRefs[{n}]", fault_of_backend(at.ref, judged.problem).message)
        elif not judged.empty:
            of_names, of_addresses = of_names or judged.dns, of_addresses or not judged.dns
    if of_names and of_addresses:
        message = (
            "some of the backends have DNS names, and others IP addresses or Unix sockets; "
            "a cluster of Envoy cannot have both"
        )
        yield Problem("backendRefs", message)


@query
def permitted(db: Db, fleet: FleetId, name: str) -> tuple[BackendRef, ...]:
    """The backends of a sink that the EnvoyProxy may refer to."""
    of = sink(db, fleet, name)
    if of is None or fleet.owner.is_a(GatewayClass):
        return of.refs if of is not None else ()
    owner, gateway = fleet_proxy(db, fleet).owner, get(db, Gateway, fleet.owner)
    below = class_settings(db, gateway.spec.gateway_class_name) if gateway is not None else None
    if owner is None or below is None or owner == below.owner:
        return of.refs
    inherited = {at for each in sinks_of(below.spec.telemetry, metrics=True) for at in each.targets}
    return tuple(
        ref
        for ref, at in zip(of.refs, of.targets, strict=True)
        if at in inherited or granted(db, ENVOY_GROUP, EnvoyProxy.KIND, owner.namespace, at.ref)
    )


def _written_settings(db: Db, fleet: FleetId, of: Sink) -> Iterator[tuple[str, Feature[Any], Effective[Any]]]:
    """The settings of a sink's cluster, each with the name of its field."""
    owner = fleet_proxy(db, fleet).owner or fleet.owner
    fields = {field.name: field.encode_name for field in fields_of(ClusterSettings)}
    for feature in FEATURES:
        if feature.kind == BackendTrafficPolicy.KIND and feature.field in fields:
            value = getattr(of.settings, feature.field, None)
            if value is not None:
                yield fields[feature.field], feature, Effective(value, owner)


@query
def sink_settings(db: Db, fleet: FleetId, name: str) -> Settings:
    """The settings of a sink's cluster, as the features that have them for routes; those with a fault not."""
    of = sink(db, fleet, name)
    written = _written_settings(db, fleet, of) if of is not None else ()
    return tuple(
        (feature, effective)
        for _, feature, effective in written
        if feature.check is None or not list(feature.check(db, effective))
    )


@query
def sink_keys(db: Db, fleet: FleetId) -> tuple[SinkCluster, ...]:
    """The clusters of a fleet's sinks of access logs and traces."""
    return tuple(SinkCluster(each.name, fleet) for each in _with_clusters(db, fleet) if each.what != METRICS)


@query
def sink_secrets(db: Db, fleet: FleetId) -> tuple[ResourceKey, ...]:
    """What TLS to the backends of these sinks needs."""
    gateway = first_gateway(db, fleet)
    keys = (
        secret
        for each in _with_clusters(db, fleet)
        for ref in each.refs
        for secret in secrets_for(fleet, reached_from(db, gateway, target(ref, ""), to_service(db, fleet)))
    )
    return tuple(dict.fromkeys(keys))


@query
def metric_keys(db: Db, fleet: FleetId) -> tuple[SinkCluster, ...]:
    """The clusters of a fleet's sinks of statistics; they are a part of the bootstrap."""
    return tuple(SinkCluster(each.name, fleet) for each in _with_clusters(db, fleet) if each.what == METRICS)


def _with_clusters(db: Db, fleet: FleetId) -> Iterator[Sink]:
    """The sinks that have a cluster: of two equal sinks of statistics the first, as in the reference."""
    seen: set[tuple[object, ...]] = set()
    for each in sinks(db, fleet):
        place = (each.host, each.port, each.targets)
        if not _faults(each) and (each.what != METRICS or place not in seen):
            yield each
        if each.what == METRICS:
            seen.add(place)


def has_cluster(db: Db, fleet: FleetId, name: str) -> bool:
    """Whether a sink has a cluster."""
    of = sink(db, fleet, name)
    return of is not None and not _faults(of)


@query
def to_service(db: Db, fleet: FleetId) -> bool:
    """Whether sinks that are Services are reached at their cluster IPs."""
    return fleet_proxy(db, fleet).spec.routing_type == "Service"


def with_hostname(db: Db, at: Target, judged: Backend) -> Backend:
    """A backend of a sink that has TLS, with the name that its certificate must have: no request says one.

    It is the hostname of a Backend with a single endpoint, where nothing else says it.
    """
    if judged.tls is None or judged.tls.validation.sni or not judged.dns or at.kind != BackendResource.KIND:
        return judged
    hosts = endpoints(db, at, False)
    if len(hosts) != 1 or judged.tls.validation.sni_of_endpoint:
        return judged
    checks = structs.replace(judged.tls.validation, sni=hosts[0].address)
    return structs.replace(judged, tls=structs.replace(judged.tls, validation=checks))


@query
def authority(db: Db, fleet: FleetId, name: str) -> str:
    """The authority of gRPC requests to a sink: a name of its first backend; "" if it has none."""
    of = sink(db, fleet, name)
    if of is None or not of.refs:
        return of.host if of is not None else ""
    at = of.targets[0]
    if backend(db, at, to_service(db, fleet)).dns:
        return next((endpoint.address for endpoint in endpoints(db, at, to_service(db, fleet))), "")
    if at.kind != BackendResource.KIND:
        return f"{at.name}.{at.namespace}.svc"
    first = next(iter(endpoints(db, at, False)), None)
    return f"{at.name}.{at.namespace}" if first is not None and is_ip(first.address) else ""


def grpc_service(
    cluster: str, authority: str = "", headers: tuple[TelemetryHeader, ...] | None = None
) -> GrpcService:
    """How a sink is called that speaks gRPC."""
    return GrpcService(
        envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=cluster, authority=authority),
        initial_metadata=[HeaderValue(key=each.name, value=each.value) for each in headers or ()],
    )
