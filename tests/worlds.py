"""Worlds of many routes, made of typed resources: without YAML, building one costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from moongate.api.backend import Backend, BackendEndpoint, BackendSpec, IPEndpoint
from moongate.api.base import ENVOY_GROUP, FleetId, ObjectMeta, Ref, Resource
from moongate.api.core import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Namespace,
    Service,
    ServicePort,
    ServiceSpec,
)
from moongate.api.gateway import (
    AllowedListeners,
    AllowedRoutes,
    Gateway,
    GatewayClass,
    GatewayClassSpec,
    GatewaySpec,
    Listener,
    ListenerNamespaces,
    ListenerTLSConfig,
    RouteNamespaces,
)
from moongate.api.grpcroute import (
    GRPCBackendRef,
    GRPCMethodMatch,
    GRPCRoute,
    GRPCRouteMatch,
    GRPCRouteRule,
    GRPCRouteSpec,
)
from moongate.api.httproute import (
    HTTPBackendRef,
    HTTPPathMatch,
    HTTPRoute,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
)
from moongate.api.listenerset import ListenerSet, ListenerSetSpec, ParentGatewayReference
from moongate.api.policy import PolicyTargetReference
from moongate.api.route import ConnectionRule, ManyRules, RouteBackendRef
from moongate.api.shared import LabelSelector, ParentReference
from moongate.api.tcproute import TCPRoute
from moongate.api.tlsroute import TLSRoute, TLSRouteSpec
from moongate.features.retry import Retry
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy, BackendTrafficPolicySpec

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
EG = Ref.of(Gateway, "default", "eg")
"""The Gateway that all routes name."""
EG_FLEET = FleetId(EG)
"""Its fleet."""


def meta(name: str, namespace: str = "default", **labels: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=namespace, labels=labels, generation=1)


def gateway_class(name: str = "eg") -> GatewayClass:
    return GatewayClass(metadata=ObjectMeta(name=name), spec=GatewayClassSpec(controller_name=CONTROLLER))


def gateway(*listeners: Listener, name: str = "eg") -> Gateway:
    own = listeners or (http_listener("http"),)
    return Gateway(metadata=meta(name), spec=GatewaySpec(gateway_class_name="eg", listeners=own))


def http_listener(name: str, port: int = 80, hostname: str | None = None, **team: str) -> Listener:
    """A listener for routes of its own namespace, or of namespaces with some labels."""
    selector = LabelSelector(match_labels=team) if team else None
    where = RouteNamespaces(from_="Selector" if team else "Same", selector=selector)
    return Listener(
        name=name,
        port=port,
        protocol="HTTP",
        hostname=hostname,
        allowed_routes=AllowedRoutes(namespaces=where),
    )


def shared_gateway(*listeners: Listener) -> Gateway:
    """A Gateway that takes ListenerSets of all namespaces."""
    own = gateway(*listeners)
    allowed = AllowedListeners(namespaces=ListenerNamespaces(from_="All"))
    return structs.replace(own, spec=structs.replace(own.spec, allowed_listeners=allowed))


def listener_set(n: int, *listeners: Listener, namespace: str = "default", **labels: str) -> ListenerSet:
    """ListenerSet ``m{n}`` of the Gateway, with a listener for the hostname of route ``n``, or others."""
    own = listeners or (http_listener("web", hostname=f"h{n}.example.com"),)
    parent = ParentGatewayReference(name=EG.name, namespace=EG.namespace)
    return ListenerSet(
        metadata=meta(f"m{n}", namespace, **labels),
        spec=ListenerSetSpec(parent_ref=parent, listeners=own),
    )


def of_set(route: HTTPRoute, n: int) -> HTTPRoute:
    """The route on the listeners of ListenerSet ``n`` of its namespace alone."""
    parent = ParentReference(kind=ListenerSet.KIND, name=f"m{n}")
    return structs.replace(route, spec=structs.replace(route.spec, parent_refs=(parent,)))


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, labels=labels))


def route(n: int, path: str = "/", namespace: str = "default", kind: str = Service.KIND) -> HTTPRoute:
    """Route ``n``: its own hostname, all requests to backend ``n``."""
    group = "" if kind == Service.KIND else ENVOY_GROUP
    backend = HTTPBackendRef(group=group, kind=kind, name=f"s{n}", port=8080)
    rule = HTTPRouteRule(matches=(HTTPRouteMatch(path=HTTPPathMatch(value=path)),), backend_refs=(backend,))
    return HTTPRoute(
        metadata=meta(f"r{n}", namespace),
        spec=HTTPRouteSpec(
            parent_refs=(ParentReference(name=EG.name, namespace=EG.namespace),),
            hostnames=(f"h{n}.example.com",),
            rules=(rule,),
        ),
    )


def tls_route(n: int, hostname: str = "", to: int | None = None) -> TLSRoute:
    """TLSRoute ``n``: its own hostname, all connections to backend ``n`` or another."""
    return TLSRoute(
        metadata=meta(f"t{n}"),
        spec=TLSRouteSpec(
            parent_refs=(ParentReference(name=EG.name, namespace=EG.namespace),),
            hostnames=(hostname or f"h{n}.example.com",),
            rules=(_connections(n if to is None else to),),
        ),
    )


def tcp_route(n: int, to: int | None = None) -> TCPRoute:
    """TCPRoute ``n``: the connections of listener ``tcp-n`` to backend ``n`` or another."""
    parent = ParentReference(name=EG.name, namespace=EG.namespace, section_name=f"tcp-{n}")
    return TCPRoute(
        metadata=meta(f"c{n}"),
        spec=ManyRules(parent_refs=(parent,), rules=(_connections(n if to is None else to),)),
    )


def _connections(to: int) -> ConnectionRule:
    return ConnectionRule(backend_refs=(RouteBackendRef(name=f"s{to}", port=8080),))


def passthrough_listener(name: str = "tls", port: int = 443) -> Listener:
    """A listener that passes TLS on."""
    return Listener(name=name, port=port, protocol="TLS", tls=ListenerTLSConfig(mode="Passthrough"))


def tcp_listener(n: int) -> Listener:
    """Listener ``tcp-n``."""
    return Listener(name=f"tcp-{n}", port=10_000 + n, protocol="TCP")


def service(n: int, namespace: str = "default") -> Service:
    return Service(
        metadata=meta(f"s{n}", namespace), spec=ServiceSpec(ports=(ServicePort(name="http", port=8080),))
    )


def endpoint_slice(n: int, last_octet: int = 1, namespace: str = "default") -> EndpointSlice:
    """The one endpoint of Service ``n``."""
    return EndpointSlice(
        metadata=meta(f"s{n}-1", namespace, **{"kubernetes.io/service-name": f"s{n}"}),
        address_type="IPv4",
        endpoints=(Endpoint(addresses=(f"10.{n >> 8 & 255}.{n & 255}.{last_octet}",)),),
        ports=(EndpointPort(name="http", port=8080),),
    )


def backend(n: int, last_octet: int = 1, namespace: str = "default") -> Backend:
    at = IPEndpoint(address=f"10.{n >> 8 & 255}.{n & 255}.{last_octet}", port=8080)
    return Backend(metadata=meta(f"s{n}", namespace), spec=BackendSpec(endpoints=(BackendEndpoint(ip=at),)))


def retries(times: int) -> BackendTrafficPolicy:
    """A policy on the Gateway: it holds for each of its routes."""
    target = PolicyTargetReference(group=EG.group, kind=EG.kind, name=EG.name)
    return BackendTrafficPolicy(
        metadata=meta("retries"),
        spec=BackendTrafficPolicySpec(target_refs=(target,), retry=Retry(num_retries=times)),
    )


def routes_with_services(count: int, namespace: str = "default") -> Iterator[Resource]:
    """A Gateway with ``count`` routes, each to a Service of its own with one endpoint."""
    yield gateway_class()
    yield gateway()
    for n in range(count):
        yield route(n, namespace=namespace)
        yield service(n, namespace)
        yield endpoint_slice(n, namespace=namespace)


def routes_with_backends(count: int) -> Iterator[Resource]:
    """A Gateway with ``count`` routes, each to a Backend of its own with one endpoint."""
    yield gateway_class()
    yield gateway()
    for n in range(count):
        yield route(n, kind=Backend.KIND)
        yield backend(n)


def tls_routes_with_services(count: int) -> Iterator[Resource]:
    """A Gateway that passes TLS on, with ``count`` routes, each to a Service of its own with one endpoint."""
    yield gateway_class()
    yield gateway(passthrough_listener())
    for n in range(count):
        yield tls_route(n)
        yield service(n)
        yield endpoint_slice(n)


def tcp_routes_with_services(count: int) -> Iterator[Resource]:
    """A Gateway with ``count`` listeners of TCP, each with a route to a Service of its own."""
    yield gateway_class()
    yield gateway(*(tcp_listener(n) for n in range(count)))
    for n in range(count):
        yield tcp_route(n)
        yield service(n)
        yield endpoint_slice(n)


def grpc_route(n: int, service: str = "shop.Cart") -> GRPCRoute:
    """As ``route``, for calls of a service of gRPC."""
    backend = GRPCBackendRef(name=f"s{n}", port=8080)
    match = GRPCRouteMatch(method=GRPCMethodMatch(service=service))
    return GRPCRoute(
        metadata=meta(f"r{n}"),
        spec=GRPCRouteSpec(
            parent_refs=(ParentReference(name=EG.name, namespace=EG.namespace),),
            hostnames=(f"h{n}.example.com",),
            rules=(GRPCRouteRule(matches=(match,), backend_refs=(backend,)),),
        ),
    )


def grpc_routes_with_services(count: int) -> Iterator[Resource]:
    """As ``routes_with_services``, of GRPCRoutes."""
    yield gateway_class()
    yield gateway()
    for n in range(count):
        yield grpc_route(n)
        yield service(n)
        yield endpoint_slice(n)
