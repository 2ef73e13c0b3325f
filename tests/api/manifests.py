"""Small manifests, and what admission makes of them."""

from __future__ import annotations

from typing import Any

from moongate.api.admission import admit
from moongate.api.backend import Backend
from moongate.api.base import Resource
from moongate.api.core import ConfigMap, EndpointSlice, Namespace, Secret, Service
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.httproute import HTTPRoute

KINDS: dict[tuple[str, str], type[Resource]] = {
    (kind.GROUP, kind.KIND): kind
    for kind in (
        Backend,
        ConfigMap,
        EndpointSlice,
        EnvoyProxy,
        Gateway,
        GatewayClass,
        HTTPRoute,
        Namespace,
        ReferenceGrant,
        Secret,
        Service,
    )
}

GATEWAY_API = "gateway.networking.k8s.io/v1"


def manifest(kind: str, version: str = GATEWAY_API, /, name: str = "it", **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}


def route(**rule: Any) -> dict[str, Any]:
    return manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}], "rules": [rule]})


def gateway(*listeners: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return manifest("Gateway", spec={"gatewayClassName": "eg", "listeners": list(listeners), **spec})


def problems(document: dict[str, Any]) -> dict[str, str]:
    """Path → message, of a document that is refused; each path once."""
    admission = admit(document, KINDS, namespace="default")
    assert (admission.resource is None) == bool(admission.problems)
    messages = {problem.path: problem.message for problem in admission.problems}
    assert len(messages) == len(admission.problems)
    return messages


def admitted(document: dict[str, Any]) -> Any:
    admission = admit(document, KINDS, namespace="default")
    assert admission.problems == ()
    return admission.resource
