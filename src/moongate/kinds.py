"""Which kinds are read, which are known and not built yet, and which are no concern of a gateway."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, Ref, Resource
from moongate.api.core import ClusterTrustBundle, ConfigMap, EndpointSlice, Namespace, Secret, Service
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.serviceimport import ServiceImport
from moongate.attach.route_kinds import ROUTE_KINDS, ROUTE_TYPES
from moongate.policies import POLICY_KINDS

READ: tuple[type[Resource], ...] = (
    GatewayClass,
    Gateway,
    ListenerSet,
    *ROUTE_TYPES,
    HTTPRouteFilter,
    ReferenceGrant,
    Namespace,
    Service,
    EndpointSlice,
    ServiceImport,
    Secret,
    ConfigMap,
    ClusterTrustBundle,
    Backend,
    BackendTLSPolicy,
    EnvoyProxy,
    *POLICY_KINDS,
    EnvoyPatchPolicy,
)

KINDS: Mapping[tuple[str, str], type[Resource]] = {(kind.GROUP, kind.KIND): kind for kind in READ}
"""(group, kind) → its type, for every kind that is read."""

_GROUPS: Mapping[str, str] = {kind.KIND: kind.GROUP for kind in READ}

UNBUILT_KINDS: frozenset[tuple[str, str]] = frozenset(
    {
        *((GATEWAY_GROUP, kind.name) for kind in ROUTE_KINDS),
        ("gateway.networking.x-k8s.io", "XListenerSet"),
        ("gateway.networking.x-k8s.io", "XBackend"),
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy"),
        ("gateway.networking.x-k8s.io", "XMesh"),
        (ENVOY_GROUP, "EnvoyExtensionPolicy"),
    }
    - KINDS.keys()
)
"""Kinds that Envoy Gateway serves and moongate does not yet: a warning names each."""


def unbuilt(kind: str) -> str:
    """What to say about a resource of a kind that is not built yet."""
    if kind == "XListenerSet":
        return (
            "XListenerSet is not served any more: write apiVersion: gateway.networking.k8s.io/v1 and kind: "
            "ListenerSet. This resource has no effect."
        )
    return f"{kind} is not built yet: this resource has no effect."


OWN_GROUPS: frozenset[str] = frozenset({GATEWAY_GROUP, ENVOY_GROUP})
"""Groups all of whose kinds are known; another kind of them is a slip."""


def is_slip(group: str, kind: str) -> bool:
    """Whether a kind that is not read is probably a slip: its group has no other kinds, or one is alike.

    Or kind and group are both like those of one that is read: ``v1`` and ``envoyproxy.io/v1alpha1`` as well.
    """
    return group in OWN_GROUPS or any(
        _is_like(kind, right_kind) and (group == right or (right and _is_group_like(group, right)))
        for right, right_kind in KINDS
    )


def _is_group_like(group: str, right: str) -> bool:
    return not group or _is_like(group, right) or ("envoy" in group and "envoy" in right)


def _is_like(word: str, right: str) -> bool:
    return bool(difflib.get_close_matches(word, [right], n=1, cutoff=0.85))


def ref_of(kind: str, namespace: str, name: str) -> Ref:
    """The reference to a resource whose group is not written (in the metadata of Envoy's configuration, say).

    Args:
        kind: the name of a kind that is read.
        namespace: "" for cluster-scoped kinds.
        name: unique in its namespace.
    """
    return Ref(kind, namespace, name, _GROUPS[kind])
