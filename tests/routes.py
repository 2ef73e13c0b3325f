"""HTTPRoutes, Services and their endpoints as manifests, and what Envoy gets of them."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import MessageToDict
from msgspec import convert

from moongate.api.base import ListenerId, Ref
from moongate.api.grpcroute import GRPCRoute
from moongate.api.httproute import HTTPRoute, HTTPRouteMatch
from moongate.xds.routes import route_configuration
from tests.core import EG, EG_FLEET, Core, dump, load

WEB = ListenerId(EG, EG, "web")
"""The listener that most tests have, of the Gateway that ``tests.core.gateway`` makes."""


def rule(text: str = "", *backends: str) -> dict[str, Any]:
    """A rule: YAML of its fields, and its backendRefs, each YAML too; one to Service ``shop`` for none."""
    fields: dict[str, Any] = load(text) or {}
    return {"backendRefs": [load(each) for each in backends or (SHOP,)], **fields}


SHOP = "{name: shop, port: 80}"

REDIRECT = "filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]"
REDIRECTING = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop, namespace: default}}
spec: {{parentRefs: [{{name: eg}}], rules: [{{{REDIRECT}}}]}}
"""
"""A route that needs no backend."""


def http_route(
    *rules: dict[str, Any],
    name: str = "shop",
    namespace: str = "default",
    hostnames: tuple[str, ...] = (),
    parent: str = "{name: eg, namespace: default}",
    created: str = "",
) -> str:
    """An HTTPRoute to the Gateway that ``tests.core.gateway`` makes."""
    metadata = {"name": name, "namespace": namespace, "generation": 3}
    if created:
        metadata["creationTimestamp"] = created
    spec = {
        "parentRefs": [load(parent)],
        "hostnames": list(hostnames),
        "rules": list(rules) or [rule()],
    }
    return dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": metadata,
            "spec": spec,
        }
    )


def by_default(route: str, *parents: str) -> str:
    """A route of ``http_route`` that asks for the default Gateways, and names only these parents (YAML)."""
    document = load(route)
    document["spec"] |= {"parentRefs": list(map(load, parents)), "useDefaultGateways": "All"}
    return dump(document)


def grpc_route(*rules: dict[str, Any], **more: Any) -> str:
    """A GRPCRoute; else as ``http_route``."""
    document = load(http_route(*rules, **more))
    return dump({**document, "kind": "GRPCRoute"})


def route_ref(name: str = "shop", namespace: str = "default") -> Ref:
    return Ref.of(HTTPRoute, namespace, name)


def grpc_route_ref(name: str = "shop", namespace: str = "default") -> Ref:
    return Ref.of(GRPCRoute, namespace, name)


def service(
    name: str = "shop", *addresses: str, namespace: str = "default", port: str = "", **spec: Any
) -> str:
    """A Service with port 80 and one EndpointSlice, of one address if none is given.

    Args:
        name: also that of the slice.
        addresses: "" for a Service without endpoints.
        namespace: of both.
        port: YAML of what its port has besides.
        spec: what the Service has besides.
    """
    more: dict[str, Any] = load(port) or {}
    ports = [{"name": "http", "port": 80, "targetPort": 8080, **more}]
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports, **spec},
    }
    entries = addresses or ("10.0.0.1",)
    return dump(document) + (
        "" if entries == ("",) else "---\n" + endpoints(name, *entries, namespace=namespace)
    )


def endpoints(
    of: str, *addresses: str, namespace: str = "default", type_: str = "IPv4", label: str = "", **fields: Any
) -> str:
    """An EndpointSlice of a Service, on port 8080.

    Args:
        of: the Service.
        addresses: one endpoint each.
        namespace: of both.
        type_: ``addressType``; also makes the slice's name differ.
        label: the label that names the Service; that of Kubernetes for none.
        fields: what each endpoint has besides.
    """
    return dump(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{of}-{type_.lower()}",
                "namespace": namespace,
                "labels": {label or "kubernetes.io/service-name": of},
            },
            "addressType": type_,
            "endpoints": [{"addresses": [address], **fields} for address in addresses],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
    )


def table(core: Core, name: str = "default/eg/web") -> RouteConfiguration:
    """A route configuration as it is sent."""
    resource = route_configuration(core.db, EG_FLEET, name)
    assert resource is not None, f"there is no route configuration {name}"
    return RouteConfiguration.FromString(resource.body)


def sent(core: Core, name: str = "default/eg/web") -> list[Route]:
    """All Envoy routes of a route configuration, in order."""
    return [route for host in table(core, name).virtual_hosts for route in host.routes]


def as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def made(**fields: Any) -> HTTPRouteMatch:
    """A match from its wire form."""

    return convert(fields, HTTPRouteMatch)


def path(value: str, kind: str = "PathPrefix") -> HTTPRouteMatch:
    return made(path={"type": kind, "value": value})


def header(name: str, kind: str = "Exact") -> dict[str, str]:
    return {"name": name, "type": kind, "value": "v"}
