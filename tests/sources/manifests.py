"""Manifests for tests of sources, and how they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.backend import Backend

if TYPE_CHECKING:
    from moongate.api.base import Ref, Resource


def backend(name: str, port: object = 8080) -> str:
    """A Backend in nine lines; the port stands at 9:15."""
    return (
        "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
        "kind: Backend\n"
        "metadata:\n"
        f"  name: {name}\n"
        "spec:\n"
        "  endpoints:\n"
        "    - ip:\n"
        "        address: 127.0.0.1\n"
        f"        port: {port}\n"
    )


def port(resource: Resource | None) -> int:
    """The port of a Backend as ``backend`` has it."""
    assert isinstance(resource, Backend)
    endpoint = resource.spec.endpoints[0]
    assert endpoint.ip is not None
    return endpoint.ip.port


def stream(*documents: str) -> str:
    """Several documents as one file."""
    return "---\n".join(documents)


def route(name: str, to: str) -> str:
    return (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{"
        f"rules: [{{backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: {to}}}]}}]}}}}\n"
    )


def endpoints(name: str, service: str, last_octet: int = 1) -> str:
    return (
        f"{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: "
        f"{{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, "
        f"endpoints: [{{addresses: [10.0.0.{last_octet}]}}], ports: [{{port: 80}}]}}\n"
    )


def policy(target: str) -> str:
    ref = f"{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {target}}}"
    return (
        "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: p}, "
        f"spec: {{targetRefs: [{ref}], cors: {{allowOrigins: ['*']}}}}}}\n"
    )


class Unfinished:
    """An edit that goes on."""

    def unfinished(self, _what: Ref | str, _file: str, /, *, used: bool) -> bool:
        return True

    def stays(self, _what: Ref | str, _file: str, /, *, used: bool) -> bool:
        return True
