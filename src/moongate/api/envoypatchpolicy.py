"""EnvoyPatchPolicy: changes of xDS resources after they were built, in JSON Patch (RFC 6902)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from moongate.api.base import ENVOY_GROUP, Model, Resource
from moongate.api.shared import LocalObjectReference

Operation = Literal["add", "remove", "replace", "move", "copy", "test"]

EnvoyResourceType = Literal[
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
]
"""The type URL of what may be patched."""


class JSONPatchOperation(Model, frozen=True, kw_only=True):
    """One operation on the JSON of a resource, whose fields have the names of the protobuf, in snake case."""

    op: Operation
    path: str | None = None
    """A JSON pointer; with ``jsonPath``, below each place that this finds."""
    json_path: str | None = None
    from_: str | None = field(default=None, name="from")
    value: Any = None
    """``None`` for none: an API server drops a null."""


class EnvoyJSONPatchConfig(Model, frozen=True, kw_only=True):
    """One operation, and which resource it changes."""

    type: EnvoyResourceType
    name: str
    operation: JSONPatchOperation


class EnvoyPatchPolicySpec(Model, frozen=True, kw_only=True):
    """Whose resources are changed, and how."""

    type: Literal["JSONPatch"]
    json_patches: tuple[EnvoyJSONPatchConfig, ...] = ()
    target_ref: LocalObjectReference
    priority: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)] | None = None
    """A lower one is applied first; 0 when absent."""


class EnvoyPatchPolicy(Resource, frozen=True, kw_only=True):
    """Patches of the resources of a Gateway's Envoys, or of a class whose Gateways share them."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "EnvoyPatchPolicy"

    spec: EnvoyPatchPolicySpec
