"""EnvoyPatchPolicy: changes of xDS resources after they were built, in JSON Patch (RFC 6902)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

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
    """What is added or compared. An API server drops a null."""

    @property
    def creates(self) -> bool:
        """Whether its value is a resource of its own."""
        return self.op == "add" and self.path == "" and not self.json_path


class EnvoyJSONPatchConfig(Model, frozen=True, kw_only=True):
    """One operation, and which resource it changes."""

    type: EnvoyResourceType
    name: str
    operation: JSONPatchOperation

    @property
    def target(self) -> tuple[str, str]:
        """``(type URL, name)`` of what it changes or makes; the name is "" if the value has none."""
        return self.type, self._own_name if self.operation.creates else self.name

    @property
    def _own_name(self) -> str:
        is_assignment = self.type.endswith("ClusterLoadAssignment")
        fields = ("cluster_name", "clusterName") if is_assignment else ("name",)
        names = (text_at(self.operation.value, each) for each in fields)
        return next(filter(None, names), "")


def text_at(document: Any, name: str) -> str:
    """The text that a field of a JSON object has; "" for none."""
    value = cast("dict[str, Any]", document).get(name) if isinstance(document, dict) else None
    return value if isinstance(value, str) else ""


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
