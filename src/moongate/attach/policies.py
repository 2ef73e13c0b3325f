"""Policy attachment: one mechanism for all policy kinds.

Theory of operation
===================
A policy *attaches* to targets: a Gateway, a ListenerSet or a route, whole or one section of it (a listener,
a rule by name).
A BackendTLSPolicy does so to a backend, whole or one port of it; ``backend_tls`` says what follows from that.
The first policy of its kind to attach to a section wins it, later ones conflict. ``policy_attachments`` lists
the winners of a target, and those of all kinds, as most targets have none at all. For
traffic, ``applied`` walks the levels from the most specific to the least (rule, route, listener, its
ListenerSet, Gateway) and answers with the first winner, and with the parent that it merges into, if it asks
to merge.

Answers are names of policies, not their contents: editing a policy's settings does not disturb who is
attached, and one answer serves all routes of a Gateway.

A selector is indexed by the labels that it requires, its *anchor*, and targets by each of their labels. So a
selector looks only at targets with these labels, and a target only at selectors whose labels it has: a policy
costs what it selects, however many policies and routes there are. Only a selector that requires no label, as
one that names what a target must not have, looks at all targets of its namespaces.

Rules
=====
1. Targets by reference are in the policy's namespace. Targets by selector may be elsewhere; each then needs
   a ReferenceGrant in its namespace, and is passed over in silence without one.
2. A target that does not exist, or is somebody else's, is none of ours: no status.
3. A policy that cannot be built keeps its targets: it fails, and no other policy takes its place.

Source: GEP-713 and GEP-2648; the reference's order of attachment.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.api.backendtlspolicy import BackendTLSPolicy, BackendTLSPolicySpec
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, ListenerId, Ref, Resource
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.policy import PolicyTargetReferences, TargetSelector
from moongate.api.route import Route
from moongate.attach.fleets import age
from moongate.attach.grants import granted
from moongate.attach.namespaces import selects
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.engine import query
from moongate.store import Index, PartedIndex, find, find_in, parts, shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from moongate.engine import Db

TARGET_KINDS: Final = (Gateway, ListenerSet, *ROUTE_TYPES)
"""Kinds that a policy of ours may target."""
EVERYWHERE: Final = ""
"""Stands for all namespaces, where a policy selects in others than its own."""
Anchor: TypeAlias = tuple[str, ...]
"""What a selector requires at least: labels (key, value, key, value, …), a label of any value (its key), or
nothing."""
ANYTHING: Final[Anchor] = ()
ROUTE_KINDS: Final = tuple(route.KIND for route in ROUTE_TYPES)


class Policy(Resource, frozen=True, kw_only=True):
    """Base of the policy kinds; they differ in their spec and in what they may target."""

    PLURAL: ClassVar[str] = ""
    OF_LISTENERS: ClassVar[bool] = False
    """Whether the kind configures client connections. Then it applies to listeners and never to routes."""
    GUARDS: ClassVar[bool] = False
    """Whether the kind controls access. Then no request passes where a policy cannot be built."""

    spec: PolicyTargetReferences


class Target(NamedTuple):
    """The target of a policy: a resource, and a listener or rule in it, or "" for the whole resource."""

    ref: Ref
    section: str


class _Targeting(Struct, frozen=True):
    """The part of a policy that decides its targets. A change of other settings does not re-run its readers.

    Args:
        age: sorts the oldest first.
        named: targets by reference, in the spec's order.
        selectors: targets by labels.
    """

    age: tuple[str, str, str]
    named: tuple[Target, ...]
    selectors: tuple[TargetSelector, ...]


class Applied(NamedTuple):
    """The policy that applies to a listener or rule.

    Args:
        owner: the most specific policy.
        parent: the less specific one that it merges into, if it asks to merge and there is one.
        grandparent: the one that the parent merges into, in the same way.
    """

    owner: Ref
    parent: Ref | None
    grandparent: Ref | None = None


def _by_target(policy: Policy | BackendTLSPolicy) -> Iterator[tuple[Ref, Ref]]:
    for target in named_targets(policy.spec, policy.metadata.namespace):
        yield target.ref, policy.ref


def _by_anchor(policy: Policy) -> Iterator[tuple[tuple[str, str], Anchor, Ref]]:
    for selector in policy.spec.target_selectors:
        only = policy.metadata.namespace if stays(selector) else EVERYWHERE
        for anchor in anchors(selector):
            yield (selector.kind, only), anchor, policy.ref


def _by_label(resource: Resource) -> Iterator[tuple[tuple[str, str, Anchor], int, Ref]]:
    ref = resource.ref
    part = shard(str(ref))
    yield (resource.KIND, ref.namespace, ANYTHING), part, ref
    for label in resource.metadata.labels.items():
        yield (resource.KIND, ref.namespace, label), part, ref
        yield (resource.KIND, ref.namespace, label[:1]), part, ref


def _by_namespace(resource: Resource) -> Iterator[tuple[str, str]]:
    yield resource.KIND, resource.metadata.namespace


TARGETS: Index[Policy | BackendTLSPolicy, Ref] = Index("policy-targets", (BackendTLSPolicy,), _by_target)
"""Target → policies that name it."""
SELECTORS: PartedIndex[Policy, Anchor, Ref] = PartedIndex("policy-selectors", (), _by_anchor)
"""(Target kind, namespace of the targets or EVERYWHERE); anchor → policies with such a selector."""
LABELLED: PartedIndex[Resource, int, Ref] = PartedIndex("policy-labelled", TARGET_KINDS, _by_label)
"""(Target kind, namespace, anchor); shard of the target → targets with it."""
TARGET_NAMESPACES: Index[Resource, str] = Index("policy-target-namespaces", TARGET_KINDS, _by_namespace)
"""Target kind → namespaces that have any of it."""


@query
def policy_attachments(db: Db, target: Ref) -> tuple[tuple[str, Ref], ...]:
    """The policies that win a target or a section of it, the oldest first: ``(section, policy)``.

    Section "" is the whole. No policy is in it for what an older one of its kind has won, so thousands of
    policies for one target cost no more than their order.
    """
    refs = {*find(db, TARGETS, target), *_selecting(db, target)}
    candidates = [
        (targeting.age, ref, targeting) for ref in refs if (targeting := _targeting(db, ref)) is not None
    ]
    winners: dict[tuple[str, str], Ref] = {}
    for _, ref, targeting in sorted(candidates, key=lambda candidate: candidate[:2]):
        whole = ref.kind, ""
        if whole not in winners and any(_picks(db, ref, s, target) for s in targeting.selectors):
            winners[whole] = ref
        for named_target in targeting.named:
            if named_target.ref == target:
                winners.setdefault((ref.kind, named_target.section), ref)
    return tuple((section, ref) for (_, section), ref in winners.items())


def attached_of(db: Db, kind: str, target: Ref) -> list[tuple[str, Ref]]:
    """Those of ``policy_attachments`` that are of one kind."""
    return [each for each in policy_attachments(db, target) if each[1].kind == kind]


def winner(db: Db, kind: str, target: Ref, section: str) -> Ref | None:
    """The policy of a kind that wins a target or one section of it: the first to attach to it."""
    return next((policy for at, policy in attached_of(db, kind, target) if at == section), None)


def _selecting(db: Db, target: Ref) -> Iterator[Ref]:
    """The policies with a selector that may match a target."""
    key_sets = _selector_keys(db, target.kind, target.namespace)
    if not key_sets:
        return
    for anchor in anchors_of(dict(labels(db, target) or ()), key_sets):
        for namespace in (target.namespace, EVERYWHERE):
            yield from find_in(db, SELECTORS, (target.kind, namespace), anchor)


@query
def _selector_keys(db: Db, kind: str, namespace: str) -> tuple[tuple[str, ...], ...]:
    """The keys of each anchor of selectors that may match targets of a namespace, sorted."""
    required = (anchor for at in (namespace, EVERYWHERE) for anchor in parts(db, SELECTORS, (kind, at)))
    return tuple(sorted(set(map(anchor_keys, required))))


@query
def named(db: Db, policy: Ref) -> tuple[Target, ...]:
    """The targets to which a policy refers, in the order of its spec."""
    targeting = _targeting(db, policy)
    return () if targeting is None else targeting.named


@query
def selected_shards(db: Db, policy: Ref) -> tuple[tuple[str, int], ...]:
    """The shards in which selectors of a policy may have targets: their namespaces and numbers, sorted."""
    targeting = _targeting(db, policy)
    if targeting is None:
        return ()
    return tuple(
        sorted(
            {
                (namespace, part)
                for selector in targeting.selectors
                for namespace in _namespaces(db, policy, selector)
                for anchor in anchors(selector)
                for part in set[int].intersection(
                    *(
                        set(parts(db, LABELLED, (selector.kind, namespace, label)))
                        for label in labels_in(anchor)
                    )
                )
            }
        )
    )


@query
def selected(db: Db, policy: Ref, namespace: str, part: int) -> tuple[Ref, ...]:
    """The targets in one shard of a namespace that the selectors of a policy match, the oldest first."""
    targeting = _targeting(db, policy)
    if targeting is None:
        return ()
    matched = sorted(
        {
            ref
            for selector in targeting.selectors
            for anchor in anchors(selector)
            for ref in set[Ref].intersection(
                *(
                    set(find_in(db, LABELLED, (selector.kind, namespace, label), part))
                    for label in labels_in(anchor)
                )
            )
            if _picks(db, policy, selector, ref)
        }
    )
    ages = zip(age.each(db, [(ref,) for ref in matched]), matched, strict=True)
    return tuple(ref for _, ref in sorted(ages))


@query
def applied_to_listener(db: Db, kind: str, listener: ListenerId) -> Applied | None:
    """The policy that applies to a listener: its own, else that of its owner, else that of its Gateway.

    A policy about clients merges into the next of these, if it asks to, and that one in turn.
    """
    winners = (winner(db, kind, *level) for level in levels_of(listener))
    policies = list(dict.fromkeys(policy for policy in winners if policy is not None))
    if not policies:
        return None
    merging = [*takewhile(lambda policy: merges(db, policy, of_listeners=True), policies[:-1])]
    parent, grandparent, *_ = (*policies[1 : 1 + len(merging)], None, None)
    return Applied(policies[0], parent, grandparent)


def levels_of(listener: ListenerId) -> tuple[Target, ...]:
    """What a policy that applies to a listener may target: the listener, its ListenerSet and its Gateway."""
    levels = (
        Target(listener.owner, listener.name),
        Target(listener.owner, ""),
        Target(listener.gateway, ""),
    )
    return tuple(dict.fromkeys(levels))


def level_of(db: Db, kind: str, listener: ListenerId) -> Target | None:
    """What the policy that applies to a listener targets."""
    return next((level for level in levels_of(listener) if winner(db, kind, *level) is not None), None)


@query
def applied_to_gateway(db: Db, kind: str, gateway: Ref) -> Applied | None:
    """The policy that applies to a Gateway as a whole."""
    policy = winner(db, kind, gateway, "")
    return Applied(policy, None) if policy is not None else None


def applied(db: Db, kind: str, listener: ListenerId, route: Ref, rule: str) -> Applied | None:
    """The policy that applies to a rule of a route, as a listener serves it.

    Args:
        db: where to read.
        kind: the policy kind.
        listener: where the route is served; the level above depends on it.
        route: the route.
        rule: the rule's name, "" for one without.
    """
    claimed = attached_of(db, kind, route)
    if claimed:
        for section in (rule, "") if rule else ("",):
            policy = next((p for at, p in claimed if at == section), None)
            if policy is None:
                continue
            if not merges(db, policy, of_listeners=False):
                return Applied(policy, None)
            above = applied_to_listener(db, kind, listener)
            return Applied(policy, above.owner if above is not None else None)
    return applied_to_listener(db, kind, listener)


def applied_in_order(db: Db, kind: str, listener: ListenerId, route: Ref, rule: str) -> tuple[Applied, ...]:
    """All policies that may apply to a rule of a route, the most specific first."""
    owners = [
        policy
        for section in ((rule, "") if rule else ("",))
        for at, policy in attached_of(db, kind, route)
        if at == section
    ]
    winners = (winner(db, kind, *level) for level in levels_of(listener))
    above = tuple(policy for policy in winners if policy is not None)
    parent = next(iter(above), None)
    of_route = (
        Applied(policy, parent if merges(db, policy, of_listeners=False) else None) for policy in owners
    )
    return (*of_route, *(Applied(policy, None) for policy in dict.fromkeys(above)))


@query
def section_names(db: Db, target: Ref) -> tuple[str, ...] | None:
    """The sections that a policy may name in a target: listeners of a Gateway or set, rules of a route.

    ``None`` when the target does not exist.
    """
    resource: Resource | None = db.read(target)
    if isinstance(resource, Gateway | ListenerSet):
        return tuple(listener.name for listener in resource.spec.listeners)
    if isinstance(resource, Route):
        return tuple(rule.name for rule in resource.spec.rules if rule.name)
    return None


@query
def labels(db: Db, ref: Ref) -> tuple[tuple[str, str], ...] | None:
    """The labels of a resource, sorted; ``None`` when it does not exist."""
    resource: Resource | None = db.read(ref)
    return None if resource is None else tuple(sorted(resource.metadata.labels.items()))


@query
def _targeting(db: Db, policy: Ref) -> _Targeting | None:
    resource: Policy | BackendTLSPolicy | None = db.read(policy)
    if resource is None:
        return None
    selectors = resource.spec.target_selectors if isinstance(resource, Policy) else ()
    return _Targeting(resource.age, tuple(named_targets(resource.spec, policy.namespace)), selectors)


def merges(db: Db, policy: Ref, *, of_listeners: bool) -> bool:
    """Whether a policy for routes, or one about clients, asks to merge with what is above it."""
    return _merging(db, policy) is of_listeners


@query
def _merging(db: Db, policy: Ref) -> bool | None:
    """Whether a policy that asks to merge is about clients; ``None`` for one that does not."""
    resource: Policy | None = db.read(policy)
    asks = getattr(resource.spec, "merge_type", None) if resource is not None else None
    return resource.OF_LISTENERS if resource is not None and asks in ("StrategicMerge", "JSONMerge") else None


def named_targets(spec: PolicyTargetReferences | BackendTLSPolicySpec, namespace: str) -> Iterator[Target]:
    """The targets that a policy refers to; those of a policy about backends may be of any group."""
    if isinstance(spec, BackendTLSPolicySpec):
        for at in spec.target_refs:
            yield Target(Ref(at.kind, namespace, at.name, at.group), at.section_name or "")
        return
    for at in (spec.target_ref,) if spec.target_ref is not None else spec.target_refs:
        if at.group == GATEWAY_GROUP:
            yield Target(Ref(at.kind, namespace, at.name, at.group), at.section_name or "")


def stays(selector: TargetSelector) -> bool:
    """Whether a selector looks in the namespace of its policy alone."""
    return selector.namespaces is None or selector.namespaces.from_ == "Same"


def _namespaces(db: Db, policy: Ref, selector: TargetSelector) -> tuple[str, ...]:
    """The namespaces in which a selector may have targets."""
    return (policy.namespace,) if stays(selector) else find(db, TARGET_NAMESPACES, selector.kind)


def anchors(selector: TargetSelector) -> tuple[Anchor, ...]:
    """Labels of which a target must have one or the other to match a selector, or ``ANYTHING``."""
    if selector.match_labels:
        return (tuple(part for label in sorted(selector.match_labels.items()) for part in label),)
    for requirement in selector.match_expressions:
        if requirement.operator == "In":
            return tuple((requirement.key, value) for value in dict.fromkeys(requirement.values))
        if requirement.operator == "Exists":
            return ((requirement.key,),)
    return (ANYTHING,)


def anchor_keys(anchor: Anchor) -> tuple[str, ...]:
    """The keys of the labels of an anchor."""
    return anchor[::2]


def anchors_of(having: Mapping[str, str], key_sets: Iterable[tuple[str, ...]]) -> Iterator[Anchor]:
    """All anchors with certain keys that a target with these labels meets."""
    for keys in key_sets:
        if all(key in having for key in keys):
            if len(keys) == 1:
                yield keys
            yield tuple(part for key in keys for part in (key, having[key]))


def labels_in(anchor: Anchor) -> Sequence[Anchor]:
    """The labels of an anchor, by each of which targets are indexed."""
    return [anchor[n : n + 2] for n in range(0, len(anchor), 2)] or (ANYTHING,)


def _picks(db: Db, policy: Ref, selector: TargetSelector, target: Ref) -> bool:
    if selector.group != target.group or selector.kind != target.kind:
        return False
    where = selector.namespaces
    if where is None or stays(selector):
        if target.namespace != policy.namespace:
            return False
    elif where.from_ == "Selector" and (
        where.selector is None or not selects(db, where.selector, target.namespace)
    ):
        return False
    has = labels(db, target)
    if has is None or not selector.selector.selects(dict(has)):
        return False
    return granted(db, ENVOY_GROUP, policy.kind, policy.namespace, target)
