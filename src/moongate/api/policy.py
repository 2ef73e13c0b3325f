"""What all policies of Envoy Gateway share: how they name their targets, and how two of them merge."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import field

from moongate.api.base import GATEWAY_GROUP, Model, Rule, deprecated
from moongate.api.shared import (
    Group,
    Kind,
    LabelSelector,
    LabelSelectorRequirement,
    LocalObjectReference,
    SectionName,
)

MergeType = Literal["Replace", "StrategicMerge", "JSONMerge"]
"""How a more specific object is laid over a more general one; absent is ``Replace``."""

REPLACES_WHEN_ABSENT: Final = Rule(
    "self != 'Replace'",
    "mergeType must be StrategicMerge or JSONMerge; leave it out to replace the more general policy.",
)
"""A rule about ``mergeType`` of policies."""


class PolicyTargetReference(LocalObjectReference, frozen=True, kw_only=True):
    """One target in the policy's namespace, narrowed to a listener or route rule by ``sectionName``."""

    section_name: SectionName | None = None


class TargetSelectorNamespaces(Model, frozen=True, kw_only=True):
    """Namespaces in which targets are looked for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.from != 'Selector' || has(self.selector)",
            "from is Selector, so selector must be set.",
        ),
    )

    # The CRD requires this field and gives it a default: a user may leave it out.
    from_: Literal["Same", "All", "Selector"] = field(default="Same", name="from")
    selector: LabelSelector | None = None


class TargetSelector(Model, frozen=True, kw_only=True):
    """Targets of one kind by their labels."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.group) ? self.group == 'gateway.networking.k8s.io' : true",
            "group must be gateway.networking.k8s.io.",
        ),
    )

    group: Group = GATEWAY_GROUP
    kind: Kind
    match_labels: dict[str, str] = field(default_factory=dict[str, str])
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
    namespaces: TargetSelectorNamespaces | None = None

    @property
    def selector(self) -> LabelSelector:
        """The labels that a target must have."""
        return LabelSelector(match_labels=self.match_labels, match_expressions=self.match_expressions)


class PolicyTargetReferences(Model, frozen=True, kw_only=True):
    """Base of policy specs: by reference (one or several) or by labels.

    Which kinds may be targets differs by policy; each says so in RULES of its own.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.targetRef) && !has(self.targetRefs)) || (!has(self.targetRef) && "
            "has(self.targetRefs)) || (has(self.targetSelectors) && "
            "self.targetSelectors.size() > 0)",
            "Set exactly one of targetRef and targetRefs, or select targets by targetSelectors.",
        ),
    )

    target_ref: Annotated[PolicyTargetReference | None, deprecated("targetRefs")] = None
    """Deprecated: ``targetRefs`` with one entry says the same."""
    target_refs: tuple[PolicyTargetReference, ...] = ()
    target_selectors: tuple[TargetSelector, ...] = ()
