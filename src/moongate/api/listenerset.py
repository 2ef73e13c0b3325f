"""ListenerSet: listeners that a team adds to the Gateway of another."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from moongate.api.base import GATEWAY_GROUP, Model, Resource, Rule, unique_by
from moongate.api.gateway import LISTENER_RULES, Gateway, Listener
from moongate.api.shared import Group, Kind, Name, NamespaceName


class ParentGatewayReference(Model, frozen=True, kw_only=True):
    """The Gateway that listeners are added to."""

    group: Group = GATEWAY_GROUP
    kind: Kind = Gateway.KIND
    name: Name
    namespace: NamespaceName | None = None


class ListenerSetSpec(Model, frozen=True, kw_only=True):
    """Listeners, and the Gateway that is to have them."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "listeners": (
            *LISTENER_RULES,
            Rule(
                "self.all(l1, !has(l1.port) || self.exists_one(l2, has(l2.port) && l1.port == l2.port && "
                "l1.protocol == l2.protocol && (has(l1.hostname) && has(l2.hostname) ? l1.hostname == "
                "l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
                "Two listeners have the same port, protocol and hostname.",
            ),
        ),
    }

    parent_ref: ParentGatewayReference
    listeners: Annotated[tuple[Listener, ...], Meta(min_length=1, max_length=64), unique_by("name")]


class ListenerSet(Resource, frozen=True, kw_only=True):
    """Listeners of a Gateway that another resource than the Gateway has."""

    GROUP: ClassVar[str] = GATEWAY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1alpha1")
    KIND: ClassVar[str] = "ListenerSet"

    spec: ListenerSetSpec
