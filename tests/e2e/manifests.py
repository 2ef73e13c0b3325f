"""Manifests of the end-to-end tests: what all have in common is said here, a test says what it is about."""

from __future__ import annotations

from typing import Any

import msgspec

GATEWAY_API = "gateway.networking.k8s.io/v1"
ENVOY = "gateway.envoyproxy.io/v1alpha1"

Document = dict[str, Any]


def spec(text: str) -> Any:
    """What a piece of YAML says."""
    return msgspec.yaml.decode(text)


def gateway(name: str, listeners: str, *, namespace: str = "default", **more: Any) -> Document:
    """A Gateway; ``listeners`` is a YAML list."""
    return _document(
        GATEWAY_API,
        "Gateway",
        name,
        {"gatewayClassName": "moongate", "listeners": spec(listeners), **more},
        namespace,
    )


def gateway_in_zone(zone: str, name: str, port: int) -> tuple[Document, Document]:
    """A Gateway whose proxy is in a zone, as is all of its fleet; and the EnvoyProxy that says so."""
    bootstrap = f"""
node: {{locality: {{zone: {zone}}}}}
cluster_manager: {{local_cluster_name: own-fleet}}
static_resources:
  clusters:
  - name: own-fleet
    type: STATIC
    load_assignment:
      cluster_name: own-fleet
      endpoints:
      - locality: {{zone: {zone}}}
        lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}
"""
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": name}
    settings = {"bootstrap": {"type": "Merge", "value": bootstrap}}
    return (
        _document(ENVOY, "EnvoyProxy", name, settings, "default"),
        gateway(
            name, f"[{{name: http, port: {port}, protocol: HTTP}}]", infrastructure={"parametersRef": ref}
        ),
    )


def listener_set(name: str, listeners: str, *, of: str, namespace: str = "default") -> Document:
    """A ListenerSet of a Gateway of namespace ``default``; ``listeners`` is a YAML list."""
    body = {"parentRef": {"name": of, "namespace": "default"}, "listeners": spec(listeners)}
    return _document(GATEWAY_API, "ListenerSet", name, body, namespace)


def route(
    name: str,
    rules: str,
    *,
    hostnames: tuple[str, ...] = (),
    parents: str = "[{name: gateway}]",
    namespace: str = "default",
) -> Document:
    """An HTTPRoute; ``rules`` is a YAML list. It has the hostname ``NAME.test`` when it is given none."""
    names = hostnames or (f"{name}.test",)
    body = {"parentRefs": spec(parents), "hostnames": list(names), "rules": spec(rules)}
    return _document(GATEWAY_API, "HTTPRoute", name, body, namespace)


def connections(
    kind: str,
    name: str,
    *backends: str,
    hostnames: tuple[str, ...] = (),
    parents: str = "",
    created: str = "2026-01-01T00:00:00Z",
) -> Document:
    """A TLSRoute, TCPRoute or UDPRoute to Backends, by name, on the Gateway of its own name."""
    body = {"parentRefs": spec(parents or f"[{{name: {name}}}]"), "rules": [spec(f"{{{to(*backends)}}}")]}
    if hostnames:
        body["hostnames"] = list(hostnames)
    document = _document(GATEWAY_API, kind, name, body, "default")
    document["metadata"]["creationTimestamp"] = created
    return document


def grpc_route(name: str, rules: str, **more: Any) -> Document:
    """A GRPCRoute; else as ``route``."""
    return {**route(name, rules, **more), "kind": "GRPCRoute"}


def to(*names: str) -> str:
    """A rule's ``backendRefs``, in YAML: Backends by name, each ``NAME`` or ``NAME=WEIGHT``."""
    return f"backendRefs: [{', '.join(map(backend_ref, names))}]"


def tell_client(name: str, value: str) -> str:
    """A filter, in YAML: a header of the answer."""
    change = f"{{set: [{{name: {name}, value: '{value}'}}]}}"
    return f"{{type: ResponseHeaderModifier, responseHeaderModifier: {change}}}"


def tell_backend(name: str, value: str) -> str:
    """A filter, in YAML: a header of the request."""
    change = f"{{set: [{{name: {name}, value: '{value}'}}]}}"
    return f"{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}"


def backend(name: str, *endpoints: str, namespace: str = "default", **more: Any) -> Document:
    """A Backend; an endpoint is YAML such as ``ip: {address: 127.0.0.1, port: 80}``."""
    body = {"endpoints": [spec("{" + each + "}") for each in endpoints], **more}
    return _document(ENVOY, "Backend", name, body, namespace)


def local(name: str, *ports: int, namespace: str = "default", **more: Any) -> Document:
    """A Backend of ports on loopback."""
    return backend(
        name, *(f"ip: {{address: 127.0.0.1, port: {port}}}" for port in ports), namespace=namespace, **more
    )


def service(name: str, *, namespace: str = "default", app_protocol: str | None = None) -> Document:
    """A Service with one port, 80."""
    port: Document = {"name": "http", "port": 80, "targetPort": 8080}
    if app_protocol is not None:
        port["appProtocol"] = app_protocol
    return _document("v1", "Service", name, {"clusterIP": "10.96.0.1", "ports": [port]}, namespace)


def endpoint_slice(of: str, port: int, *addresses: str, namespace: str = "default") -> Document:
    """The EndpointSlice of a Service: these addresses, all on one port. Loopback when there is none."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses or ("127.0.0.1",)] if port else [],
        "ports": [{"name": "http", "port": port or 1}],
    }


def http_route_filter(name: str, body: str) -> Document:
    """An HTTPRouteFilter; ``body`` is the YAML of its spec."""
    return _document(ENVOY, "HTTPRouteFilter", name, spec(body), "default")


def policy(kind: str, name: str, body: str, *targets: str, namespace: str = "default") -> Document:
    """A policy; a target is ``KIND/NAME`` or ``KIND/NAME/SECTION``."""
    refs: list[Document] = []
    for target in targets:
        of, _, rest = target.partition("/")
        at, _, section = rest.partition("/")
        ref = {"group": "gateway.networking.k8s.io", "kind": of, "name": at}
        refs.append({**ref, "sectionName": section} if section else ref)
    return _document(ENVOY, kind, name, {"targetRefs": refs, **spec(body)}, namespace)


def backend_tls_policy(name: str, validation: str, *targets: str) -> Document:
    """A BackendTLSPolicy; a target is ``KIND/NAME`` or ``KIND/NAME/SECTION``."""
    refs: list[Document] = []
    for target in targets:
        of, _, rest = target.partition("/")
        at, _, section = rest.partition("/")
        ref = {"group": "gateway.envoyproxy.io" if of == "Backend" else "", "kind": of, "name": at}
        refs.append({**ref, "sectionName": section} if section else ref)
    return _document(
        GATEWAY_API, "BackendTLSPolicy", name, {"targetRefs": refs, "validation": spec(validation)}, "default"
    )


def authorities(name: str, *pem: bytes) -> Document:
    """A ConfigMap with certificates of authorities."""
    held = {"ca.crt": b"".join(pem).decode()}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": held}


def secret(name: str, *, namespace: str = "default", **data: str) -> Document:
    """A Secret of text; ``_`` in a key is a dot."""
    held = {key.replace("_", "."): value for key, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": held,
    }


def namespace(name: str, **labels: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def grant(namespace: str, *, kind: str, of: str, to_kind: str) -> Document:
    """A ReferenceGrant in ``namespace``: ``kind`` in namespace ``of`` may name its ``to_kind``."""
    policies = ("SecurityPolicy", "BackendTrafficPolicy", "ClientTrafficPolicy")
    groups: dict[str, str] = dict.fromkeys(("Backend", *policies), ENVOY.partition("/")[0])
    groups |= dict.fromkeys(("Service", "Secret"), "")
    groups |= dict.fromkeys(("HTTPRoute", "Gateway"), GATEWAY_API.partition("/")[0])
    body = {
        "from": [{"group": groups.get(kind, "gateway.networking.k8s.io"), "kind": kind, "namespace": of}],
        "to": [{"group": groups[to_kind], "kind": to_kind}],
    }
    return _document("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "grant", body, namespace)


def backend_ref(text: str) -> str:
    """A reference to a Backend, in YAML: ``NAME`` or ``NAME=WEIGHT``."""
    name, _, weight = text.partition("=")
    ref = f"{{group: gateway.envoyproxy.io, kind: Backend, name: {name}"
    return f"{ref}, weight: {weight}}}" if weight else f"{ref}}}"


def _document(api_version: str, kind: str, name: str, body: Document, namespace: str) -> Document:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": body}
