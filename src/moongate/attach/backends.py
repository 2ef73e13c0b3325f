"""Resolution of backendRefs: the protocol and the endpoints of a backend, or why it cannot be used.

Theory of operation
===================
A ``Target`` is a backendRef without its route. ``backend`` returns the kind of cluster that it needs, and
whether it has any endpoint; ``endpoints`` lists them. A route reads the first, a load assignment the second.
So a changed EndpointSlice re-runs one load assignment and no route, unless the first endpoint came or the
last one went.

Source: Gateway API, HTTPBackendRef; Envoy Gateway's status codes for each fault.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import Struct, structs

from moongate.api.backend import Backend as BackendResource
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, Ref
from moongate.api.cluster_settings import ForceLocal, PreferLocal
from moongate.api.core import EndpointSlice, Service
from moongate.api.serviceimport import MULTICLUSTER_GROUP, ServiceImport
from moongate.attach.backend_tls import (
    UpstreamTLS,
    Validation,
    has_policy,
    own_problem,
    upstream_tls,
    validation,
)
from moongate.attach.gateways import config, on_host
from moongate.attach.grants import granted
from moongate.attach.refused import absence
from moongate.attach.route_kinds import Protocol
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import Index, find, get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.core import ServicePort
    from moongate.api.serviceimport import ServiceImportPort
    from moongate.api.shared import BackendObjectReference
    from moongate.engine import Db

TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
SERVICE_NAME = "kubernetes.io/service-name"
IMPORT_NAME = "multicluster.kubernetes.io/service-name"

_GROUPS: Final = ("", MULTICLUSTER_GROUP, ENVOY_GROUP)
_KINDS: Final = (Service.KIND, ServiceImport.KIND, BackendResource.KIND)
_GROUP_OF: Final = {kind.KIND: kind.GROUP for kind in (Service, ServiceImport, BackendResource)}
"""The group of each kind of backend, whatever group a reference to it names."""

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


def _by_service(endpoints: EndpointSlice) -> Iterator[tuple[Ref, Ref]]:
    labels, namespace = endpoints.metadata.labels, endpoints.metadata.namespace
    if name := labels.get(SERVICE_NAME):
        yield Ref.of(Service, namespace, name), endpoints.ref
    elif name := labels.get(IMPORT_NAME):
        yield Ref.of(ServiceImport, namespace, name), endpoints.ref


SLICES = Index("endpoint-slices", (EndpointSlice,), _by_service)
"""Service or ServiceImport → its EndpointSlices."""


def is_of_endpoints(old: object, new: object) -> bool:
    """Whether a change concerns only the endpoints of a cluster, and none of its settings.

    Args:
        old: the former state of a resource; ``None`` if there is none.
        new: the new one.
    """
    match old, new:
        case BackendResource(), BackendResource():
            return structs.replace(old.spec, endpoints=new.spec.endpoints) == new.spec
        case Service(), Service():
            return structs.replace(old.spec, cluster_ip=new.spec.cluster_ip) == new.spec
        case _:
            return isinstance(new if old is None else old, EndpointSlice)


def backends_of(ref: Ref, *states: object) -> frozenset[Ref]:
    """The backends whose endpoints the states of a resource say: itself, or those of an EndpointSlice."""
    slices = (state for state in states if isinstance(state, EndpointSlice))
    return frozenset((ref, *(service for each in slices for service, _ in _by_service(each))))


Transport = Literal["TCP", "UDP"]
"""How a backend is reached."""


class Target(NamedTuple):
    """The resource and port that a backendRef names; ``port`` is 0 if it names none.

    A Service may have one number for a TCP port and for another one of UDP.
    """

    group: str
    kind: str
    namespace: str
    name: str
    port: int
    transport: Transport = "TCP"

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.namespace, self.name, _GROUP_OF.get(self.kind, self.group))

    @property
    def section(self) -> str:
        """The section name in metadata: the port, or nothing for a Backend."""
        return "" if self.kind == BackendResource.KIND else str(self.port)


class Endpoint(Struct, frozen=True):
    """One address.

    Args:
        address: an IP address, a DNS name, or the path of a Unix socket.
        port: 0 for a Unix socket.
        zone: where it runs, "" when unknown.
        hostname: its own name, for host rewriting; "" for none.
        draining: it is not ready, or terminates. It stays, but gets no new requests.
    """

    address: str
    port: int
    zone: str = ""
    hostname: str = ""
    draining: bool = False


class Backend(Struct, frozen=True):
    """The properties of a target that its cluster depends on, without the endpoints.

    Args:
        protocol: spoken upstream.
        http1: HTTP/1.1 even if HTTP/2 is available, for WebSocket backends.
        dns: endpoints are hostnames to resolve, not addresses.
        dynamic: it is the host that each request names, and has no endpoints.
        empty: no endpoint at all.
        fallback: used only when the others are unhealthy.
        families: IP families of a Service: ``IPv4``, ``IPv6``; unknown for other kinds.
        validation: what its certificate must be; ``None`` if it has no TLS.
        local: what its Service says about the zone of the proxy.
        tls: TLS to it from a certain Gateway (``reached_from``).
        problem: why it cannot be used; the rest has no meaning then.
    """

    protocol: Protocol = "HTTP"
    http1: bool = False
    dns: bool = False
    dynamic: bool = False
    empty: bool = False
    fallback: bool = False
    families: tuple[str, ...] = ()
    validation: Validation | None = None
    local: PreferLocal | None = None
    tls: UpstreamTLS | None = None
    problem: Problem | None = None

    def speaking(self, protocol: Protocol | None) -> Backend:
        """The backend with another protocol than its own; ``None`` keeps its own."""
        return self if protocol is None else structs.replace(self, protocol=protocol, http1=False)


def target(ref: BackendObjectReference, namespace: str, transport: Transport = "TCP") -> Target:
    """The target of a backendRef in a resource of ``namespace``."""
    return Target(ref.group, ref.kind, ref.namespace or namespace, ref.name, ref.port or 0, transport)


def permitted(db: Db, route: Ref, of: Target, to_service: bool) -> Backend:
    """A backend as resolved for a route, which may lack the permission to refer to it.

    Args:
        db: where to read.
        route: who refers to it.
        of: the target.
        to_service: as for ``backend``.
    """
    if (problem := kind_problem(of)) is not None:
        return Backend(problem=problem)
    if not granted(db, GATEWAY_GROUP, route.kind, route.namespace, of.ref):
        message = f"no ReferenceGrant in namespace {of.namespace} lets the route use {of.ref}"
        return Backend(problem=Problem("", message, "RefNotPermitted"))
    judged = backend(db, of, to_service)
    if judged.problem is not None:
        return Backend(problem=fault_of_backend(of.ref, judged.problem))
    return judged


def kind_problem(of: Target) -> Problem | None:
    """Why a target cannot be a backend because of its kind; ``None`` if it can."""
    if of.group not in _GROUPS:
        message = f"the group is {of.group!r}; it must be one of {', '.join(repr(g) for g in _GROUPS)}"
        return Problem("", message, "InvalidKind")
    if of.kind not in _KINDS:
        return Problem("", f"the kind is {of.kind!r}; it must be one of {', '.join(_KINDS)}", "InvalidKind")
    return None


@query
def backend(db: Db, of: Target, to_service: bool) -> Backend:
    """The backend of a target: resolved, or with the problem why it cannot be used.

    Args:
        db: where to read.
        of: the target.
        to_service: send to the Service's cluster IP instead of its endpoints (``routingType: Service``).
    """
    if (problem := kind_problem(of)) is not None:
        return Backend(problem=problem)
    return _backend(db, of) if of.kind == BackendResource.KIND else _service(db, of, to_service)


def named(of: Target, judged: Backend) -> Backend:
    """A backend for what has no request of a client that names a host: that cannot be a dynamic resolver."""
    if not judged.dynamic:
        return judged
    message = f"{of.ref} is of type DynamicResolver; only a rule of a route can send requests there"
    return Backend(problem=Problem("", message, "UnsupportedValue"))


def reached_from(db: Db, gateway: Ref, of: Target, to_service: bool) -> Backend:
    """``backend``, as the Envoys of a Gateway reach it."""
    return reached(db, gateway, backend(db, of, to_service))


def reached(db: Db, gateway: Ref, judged: Backend) -> Backend:
    """A backend as the Envoys of a Gateway reach it: these may have a certificate of their own."""
    if judged.validation is None:
        return judged
    tls = upstream_tls(db, judged.validation, gateway)
    return Backend(problem=tls) if isinstance(tls, Problem) else structs.replace(judged, tls=tls)


def section_of(db: Db, of: Target) -> str:
    """What a BackendTLSPolicy calls the port of a target: its name, for a Backend its number; "" for none."""
    if of.kind == BackendResource.KIND:
        return str(of.port) if of.port else ""
    virtual = _virtual(db, of)
    port = virtual.port(of) if virtual is not None else None
    return port.name or "" if port is not None else ""


@query
def endpoints(db: Db, of: Target, to_service: bool) -> tuple[Endpoint, ...]:
    """The endpoints of a target, in the order of its slices and their entries; empty if it has none."""
    if of.kind == BackendResource.KIND:
        resource = get(db, BackendResource, of.ref)
        return tuple(_static(resource)) if resource is not None else ()
    virtual = _virtual(db, of)
    return tuple(_service_endpoints(db, of, virtual, to_service)) if virtual is not None else ()


@query
def has_endpoints(db: Db, of: Target, to_service: bool) -> bool:
    return bool(endpoints(db, of, to_service))


@query
def why_empty(db: Db, of: Target) -> str:
    """Why a Service with EndpointSlices has no endpoints: the rest of a sentence, or ""."""
    virtual = _virtual(db, of)
    port = virtual.port(of) if virtual is not None else None
    slices = _slices(db, of)
    if port is None or not slices:
        return ""
    if not any(each.endpoints for each in slices):
        return ": its EndpointSlices list none"
    if any((at.name, at.protocol) == (port.name, port.protocol) for each in slices for at in each.ports):
        return ""
    names = dict.fromkeys(_port_name(at.name) for each in slices for at in each.ports)
    has = f"theirs: {', '.join(islice(names, _MOST_PORTS))}" if names else "they have no port"
    return (
        f": its EndpointSlices need a {port.protocol} port with the name of the Service's port {of.port}, "
        f"which is {_port_name(port.name)}; {has}"
    )


def _port_name(name: str | None) -> str:
    return repr(name) if name else "unnamed"


_MOST_PORTS: Final = 8
"""How many ports of a Service a message looks at."""
LONGEST_SOCKET: Final = 107
"""Bytes of the path of a Unix socket on Linux, without the NUL that ends it; the API allows one more."""


def backend_problem(db: Db, resource: BackendResource) -> Problem | None:
    """The problem of a Backend itself. Its status and the statuses of the routes that use it report it."""
    if not config(db).extension_apis.enable_backend:
        message = (
            f"{resource.ref} cannot be used: Backends are disabled;"
            " set extensionApis.enableBackend in the configuration"
        )
        return Problem("", message, "UnsupportedValue")
    for n, endpoint in enumerate(resource.spec.endpoints):
        path = f"spec.endpoints[{n}]"
        if endpoint.unix is not None and (size := len(endpoint.unix.path.encode())) > LONGEST_SOCKET:
            message = f"The path has {size} bytes; the path of a Unix socket has {LONGEST_SOCKET} at most."
            return Problem(f"{path}.unix.path", message, "InvalidAddress")
        if endpoint.fqdn is not None:
            name = endpoint.fqdn.hostname
            if is_ip(name):
                return Problem(
                    f"{path}.fqdn", f"{name!r} is an IP address; put it under ip.", "InvalidAddress"
                )
            if _DNS_NAME.fullmatch(name) is None:
                message = f"{name!r} is not a DNS name; a name has no wildcard and no capital letters."
                return Problem(f"{path}.fqdn", message, "InvalidAddress")
            if "." not in name.rstrip(".") and not on_host(db):
                message = f"{name!r} has only one label; a name outside this host has at least two."
                return Problem(f"{path}.fqdn", message, "InvalidAddress")
        if endpoint.ip is not None:
            address = _ip_address(endpoint.ip.address)
            if address is None:
                message = f"{endpoint.ip.address!r} is not an IP address."
                return Problem(f"{path}.ip", message, "InvalidAddress")
            if address.is_loopback and not on_host(db):
                message = f"{endpoint.ip.address} is a loopback address: the proxy would call itself."
                return Problem(f"{path}.ip", message, "InvalidAddress")
    return own_problem(db, resource)


def fault_of_backend(ref: Ref, problem: Problem) -> Problem:
    """The problem of a backend for those who refer to it: a field of a Backend is no field of theirs."""
    if not problem.path:
        return problem
    return Problem("", f"{ref} cannot be used: {problem.path}: {problem.message}", problem.reason)


class _Virtual(NamedTuple):
    """The common interface of Service and ServiceImport."""

    ports: tuple[ServicePort | ServiceImportPort, ...]
    addresses: tuple[str, ...]
    families: tuple[str, ...]
    external: bool
    local: PreferLocal | None = None

    def port(self, of: Target) -> ServicePort | ServiceImportPort | None:
        return next((p for p in self.ports if p.port == of.port and p.protocol == of.transport), None)


def _virtual(db: Db, of: Target) -> _Virtual | None:
    if of.kind == ServiceImport.KIND:
        imported = get(db, ServiceImport, of.ref)
        return (
            None if imported is None else _Virtual(imported.spec.ports, imported.spec.ips, (), external=False)
        )
    service = get(db, Service, of.ref)
    if service is None:
        return None
    address = service.spec.cluster_ip
    addresses = (address,) if address and address != "None" else ()
    external = service.spec.type == "ExternalName"
    local = _local(service)
    return _Virtual(service.spec.ports, addresses, service.spec.ip_families, external, local)


def _local(service: Service) -> PreferLocal | None:
    """What a Service says about zones: its ``trafficDistribution``, or the annotation of former times."""
    if service.spec.traffic_distribution is not None:
        least = 1
    elif service.metadata.annotations.get(TOPOLOGY_MODE) in ("Auto", "auto"):
        least = 3  # as Kubernetes, which wants three endpoints in each zone
    else:
        return None
    return PreferLocal(min_endpoints_threshold=least, force=ForceLocal(min_endpoints_in_zone_threshold=least))


def _service(db: Db, of: Target, to_service: bool) -> Backend:
    what = f"{of.kind} {of.namespace}/{of.name}"
    if of.port == 0:
        return Backend(problem=Problem("", f"{what} is named without a port", "PortNotSpecified"))
    virtual = _virtual(db, of)
    if virtual is None:
        return Backend(problem=Problem("", f"{what} {absence(db, of.ref)}", "BackendNotFound"))
    if virtual.external:
        message = (
            f"{what} is of type ExternalName, which has no endpoints; name a Backend with an FQDN instead"
        )
        return Backend(problem=Problem("", message, "UnsupportedValue"))
    port = virtual.port(of)
    if port is None:
        ports = [str(each.port) for each in virtual.ports[:_MOST_PORTS] if each.protocol == of.transport]
        has = f"; it has {', '.join(ports)}" if ports else ""
        message = f"{what} has no {of.transport} port {of.port}{has}"
        return Backend(problem=Problem("", message, "PortNotFound"))
    routed = to_service and bool(virtual.addresses)
    kinds = {s.address_type == "FQDN" for s in _slices(db, of)} if not routed else set[bool]()
    if len(kinds) > 1:
        message = f"the EndpointSlices of {what} mix FQDN and IP addresses"
        return Backend(problem=Problem("", message, "UnsupportedAddressType"))
    tls = validation(db, of.ref, port.name or "") if has_policy(db, of.ref) else None
    if isinstance(tls, Problem):
        return Backend(problem=tls)
    return Backend(
        protocol=_protocol(port.app_protocol),
        http1=_is_websocket(port.app_protocol),
        dns=kinds == {True},
        empty=not has_endpoints(db, of, to_service),
        families=virtual.families,
        validation=tls,
        local=virtual.local,
    )


def _service_endpoints(db: Db, of: Target, virtual: _Virtual, to_service: bool) -> Iterator[Endpoint]:
    port = virtual.port(of)
    if port is None:
        return
    if to_service and virtual.addresses:
        for address in virtual.addresses:
            yield Endpoint(address, of.port)
        return
    for part in _slices(db, of):
        for endpoint in part.endpoints:
            for at in part.ports:
                if at.name != port.name or at.protocol != port.protocol or at.port is None:
                    continue
                conditions = endpoint.conditions
                if conditions.serving is not None and conditions.terminating is not None:
                    draining = conditions.terminating or not conditions.serving
                else:
                    draining = conditions.ready is False
                for address in endpoint.addresses:
                    yield Endpoint(address, at.port, zone=endpoint.zone or "", draining=draining)


def has_slices(db: Db, service: Ref) -> bool:
    """Whether a Service or ServiceImport has an EndpointSlice."""
    return bool(find(db, SLICES, service))


def _slices(db: Db, of: Target) -> list[EndpointSlice]:
    return [s for ref in find(db, SLICES, of.ref) if (s := get(db, EndpointSlice, ref)) is not None]


def _backend(db: Db, of: Target) -> Backend:
    resource = get(db, BackendResource, of.ref)
    if resource is None:
        return Backend(problem=Problem("", f"{of.ref} {absence(db, of.ref)}", "BackendNotFound"))
    if (problem := backend_problem(db, resource)) is not None:
        return Backend(problem=problem)
    if any(e.unix is not None for e in resource.spec.endpoints) and not on_host(db):
        message = f"{of.ref} has a Unix socket, which only a gateway on the same host can reach"
        return Backend(problem=Problem("", message, "UnsupportedAddressType"))
    kinds = {e.fqdn is not None for e in resource.spec.endpoints}
    if len(kinds) > 1:
        message = f"{of.ref} mixes FQDN with IP or Unix endpoints; use one kind in a Backend"
        return Backend(problem=Problem("", message, "UnsupportedAddressType"))
    tls = None
    if resource.spec.tls is not None or has_policy(db, of.ref):
        tls = validation(db, of.ref, section_of(db, of))
        if isinstance(tls, Problem):
            return Backend(problem=tls)
    protocols, dynamic = resource.spec.app_protocols, resource.spec.type == "DynamicResolver"
    return Backend(
        protocol="HTTP2" if "gateway.envoyproxy.io/h2c" in protocols else "HTTP",
        http1=any(_is_websocket(p) for p in protocols),
        dns=kinds == {True},
        dynamic=dynamic,
        empty=not (resource.spec.endpoints or dynamic),
        fallback=bool(resource.spec.fallback),
        validation=tls,
    )


def _static(resource: BackendResource) -> Iterator[Endpoint]:
    for entry in resource.spec.endpoints:
        zone, hostname = entry.zone or "", entry.hostname or ""
        if entry.fqdn is not None:
            yield Endpoint(entry.fqdn.hostname, entry.fqdn.port, zone, hostname)
        elif entry.ip is not None:
            yield Endpoint(entry.ip.address, entry.ip.port, zone, hostname)
        elif entry.unix is not None:
            yield Endpoint(entry.unix.path, 0, zone, hostname)


def _protocol(app_protocol: str | None) -> Protocol:
    if app_protocol in ("kubernetes.io/h2c", "gateway.envoyproxy.io/h2c"):
        return "HTTP2"
    return "GRPC" if app_protocol == "grpc" else "HTTP"


def _is_websocket(app_protocol: str | None) -> bool:
    return app_protocol is not None and app_protocol.rpartition("/")[2] in ("ws", "wss")


def is_ip(text: str) -> bool:
    """Whether a text is an IP address."""
    return _ip_address(text) is not None


def is_loopback(text: str) -> bool:
    """Whether a text is an IP address at which a machine reaches itself."""
    address = _ip_address(text)
    return address is not None and (address.is_loopback or address.is_unspecified)


@lru_cache(maxsize=16_384)  # one endpoint among hundreds has changed
def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text contains; ``None`` if it contains another text."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
