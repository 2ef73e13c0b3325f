"""The status of a policy: where it is in force, what overrides it or merges with it, and what is wrong.

Theory of operation
===================
Each target of a policy has *ancestors*: a Gateway is its own ancestor, and a route has the parents that it
names. The conditions of a target are written to its ancestors. If several targets share an ancestor, it gets
the conditions of all of them.

A selector may match thousands of targets. They are judged in shards (``judged_shard``), and the status joins
the drafts of the shards (``policy_drafts``).

The status of a policy on a Gateway or listener lists the routes that have their own policies. ``overrides``
finds these routes in shards, by the names of their policies. So a route that comes, goes or moves re-runs one
small part, and an edit of its rules re-runs nothing.

Rules
=====
1. A target that does not exist, or is not ours, is passed over: another controller may answer for it.
2. A conflict or a missing section is noted at that target only; the others are in force.
3. ``Accepted`` is False as long as anything of the policy has no effect, also where the rest is in force.
4. What is wrong under one listener is also said of the parent that leads there: nobody has to look further
   than the parents of a route to know whether its policy holds.

Source: Gateway API, ``PolicyStatus`` and GEP-713; the reference's reasons, scopes and limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import Struct

from moongate import names
from moongate.api.base import GATEWAY_GROUP, Condition, ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.marks import NOT_SUPPORTED, deprecated
from moongate.api.shared import ParentReference
from moongate.attach.fleets import age
from moongate.attach.gateways import controller_name, rejection
from moongate.attach.listener_sets import owners_of, serving_gateway
from moongate.attach.listeners import listeners
from moongate.attach.policies import (
    ROUTE_KINDS,
    Applied,
    Policy,
    Target,
    applied,
    applied_to_listener,
    attached_of,
    level_of,
    levels_of,
    merges,
    named,
    policy_attachments,
    section_names,
    selected,
    selected_shards,
    winner,
)
from moongate.attach.route_kinds import route_kind
from moongate.attach.routes import attachments, route_shards, routes_under
from moongate.engine import Failed, query
from moongate.policies import POLICY_KINDS
from moongate.policies.effective import effective_policy, rule_settings, unenforceable
from moongate.policies.http_listeners import (
    authorities_conflict,
    clients_of,
    http3_conflict,
    http3_dropped,
    http3_without_tls,
    listener_faults,
    port_conflict,
    setting_conflict,
)
from moongate.problem import Problem
from moongate.status.conditions import condition, summary
from moongate.status.missing_filters import not_programmed, refusals
from moongate.status.policy_drafts import Draft, Drafts, Judged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from moongate.engine import Db

MAX_ANCESTORS: Final = 16
"""Ancestors that a policy's status may list."""

_KINDS: Final = {kind.KIND: kind for kind in POLICY_KINDS}
_OF_LISTENERS: Final = frozenset(kind.KIND for kind in POLICY_KINDS if kind.OF_LISTENERS)


class AncestorRef(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The Gateway or ListenerSet, or a listener of it, under which a policy is judged."""

    group: str
    kind: str
    namespace: str
    name: str
    section_name: str | None = None


class AncestorStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``PolicyAncestorStatus``."""

    ancestor_ref: AncestorRef | ParentReference
    """The parent of a route as that names it, for a policy about backends."""
    controller_name: str
    conditions: tuple[Condition, ...]


class PolicyStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``PolicyStatus``: at most 16 ancestors; if there are more, those with bad news come first."""

    ancestors: tuple[AncestorStatus, ...]


class Override(NamedTuple):
    """A route with policies of its own.

    Args:
        route: the route.
        listeners: the listeners of the Gateway or ListenerSet that take it, by name, sorted.
        merged: the targets of the policies that the route's merge into.
    """

    route: Ref
    listeners: tuple[str, ...]
    merged: tuple[Target, ...]


@query
def policy_status(db: Db, policy: Ref) -> PolicyStatus | None:
    """The status of a policy of any kind; ``None`` when there is nothing of ours that it targets."""
    resource: Policy | None = db.read(policy)
    if resource is None:
        return None
    drafts = Drafts()
    for number, target in enumerate(named(db, policy)):
        drafts.place = (_level(target), number, ())
        _judge(db, policy, target, drafts)
    for shard in judged_shard.each(db, [(policy, *at) for at in selected_shards(db, policy)]):
        drafts.join(shard)
    name, generation, warning = controller_name(db), resource.metadata.generation, _deprecated(resource)
    ancestors = [
        AncestorStatus(
            ancestor_ref=_ancestor(gateway, section),
            controller_name=name,
            conditions=tuple(_conditions(draft, warning, generation)),
        )
        for (gateway, section), draft in drafts.in_order()
    ]
    return PolicyStatus(ancestors=tuple(cut(ancestors, generation))) if ancestors else None


def policies_of_listener(statuses: Mapping[Ref, Struct], listener: ListenerId) -> tuple[Ref, ...]:
    """The policies whose settings a listener has: its own, or else those of its ListenerSet or Gateway.

    Where these merge into others, those too.
    """
    levels = {level: list[Ref]() for level in levels_of(listener)}
    merging: set[Ref] = set()
    for ref, status in sorted(statuses.items()):
        if not isinstance(status, PolicyStatus) or ref.kind not in _OF_LISTENERS:
            continue
        for at, conditions in ((each.ancestor_ref, each.conditions) for each in status.ancestors):
            owner = Ref(at.kind, at.namespace or "", at.name, at.group)
            if any(c.type == "Accepted" and c.status == "True" for c in conditions):
                levels.get(Target(owner, at.section_name or ""), []).append(ref)
            if any(c.type == "Merged" for c in conditions):
                merging.add(ref)
    policies: list[Ref] = []
    for some in filter(None, levels.values()):
        policies += some
        if merging.isdisjoint(some):
            break
    return tuple(dict.fromkeys(policies))


@query
def judged_shard(db: Db, policy: Ref, namespace: str, part: int) -> Judged:
    """The drafts of those targets in one shard of a namespace that the selectors of a policy match."""
    drafts = Drafts()
    for ref in selected(db, policy, namespace, part):
        target = Target(ref, "")
        drafts.place = (_level(target), -1, age(db, ref))
        _judge(db, policy, target, drafts)
    return drafts.judged()


@query
def overrides(db: Db, kind: str, owner: Ref, part: int) -> tuple[Override, ...]:
    """The routes of one shard that an owner of listeners takes and that policies of a kind target, sorted."""
    routes = routes_under(db, owner, part)
    attached = policy_attachments.each(db, [(route,) for route in routes])
    overriding = (
        _override(db, kind, owner, route)
        for route, policies in zip(routes, attached, strict=True)
        if any(policy.kind == kind for _, policy in policies)
    )
    return tuple(override for override in overriding if override is not None)


def _judge(db: Db, policy: Ref, target: Target, drafts: Drafts) -> None:
    if _is_owner(target.ref):
        _judge_owner(db, policy, target, drafts)
    elif target.ref.kind in ROUTE_KINDS and not _KINDS[policy.kind].OF_LISTENERS:
        _judge_route(db, policy, target, drafts)


def _level(target: Target) -> int:
    """The most specific first, so that ancestors stand in the order of precedence."""
    place = (ListenerSet.KIND, Gateway.KIND).index(target.ref.kind) + 1 if _is_owner(target.ref) else 0
    return 2 * place + (not target.section)


def _is_owner(ref: Ref) -> bool:
    """Whether a resource has listeners."""
    return ref.is_a(Gateway) or ref.is_a(ListenerSet)


def _judge_owner(db: Db, policy: Ref, target: Target, drafts: Drafts) -> None:
    """Judge a policy for a Gateway or a ListenerSet, whole or one listener of it."""
    owner, section = target
    if serving_gateway(db, owner) is None:
        return
    draft = drafts.at(owner, section)
    if (refusal := _refusal(db, policy, target)) is not None:
        draft.refuse(refusal)
        return
    beneath = [
        listener.id
        for listener in (each for some in listeners.each(db, _owners_in(db, target)) for each in some)
        if section in ("", listener.id.name)
    ]
    if not _KINDS[policy.kind].OF_LISTENERS:
        draft.apply(_problems(db, Applied(policy, None)))
        _note_overrides(db, policy, target, draft)
        for listener in beneath:
            _note_refusals(db, Applied(policy, None), listener, draft)
        return
    _judge_clients(db, policy, beneath, draft)
    if not section and (scopes := _scopes_below(db, policy.kind, target)):
        draft.override(f"{_others(policy.kind)} override this one for {_in_words(scopes)}.")


def _judge_clients(db: Db, policy: Ref, beneath: Sequence[ListenerId], draft: Draft) -> None:
    """Judge a policy about clients for the listeners of its target."""
    merged: list[str] = []
    applications: dict[Applied, list[ListenerId]] = {}
    for listener in beneath:
        holding = applied_to_listener(db, policy.kind, listener)
        if holding is None:
            continue
        if holding.owner == policy:
            applications.setdefault(holding, []).append(listener)
            conflicts = (
                port_conflict(db, listener),
                setting_conflict(db, listener),
                authorities_conflict(db, listener),
                http3_conflict(db, listener),
            )
            draft.apply(conflict for conflict in conflicts if conflict is not None)
            effect = f"Requests to listener {names.listener(listener)} are answered with 500."
            draft.apply(fault.saying(effect) for fault in listener_faults(db, listener))
            if http3_dropped(db, listener):
                draft.drop(listener.name)
        elif policy in holding:
            merged.append(names.listener(listener))
    for application, governed in (applications or {Applied(policy, None): []}).items():
        problems = _problems(db, application, _effect_on_clients(db, governed))
        draft.apply(problems)
        for warning in _warnings(db, application):
            draft.warn(warning)
        if (warning := http3_without_tls(db, governed)) is not None:
            draft.warn(warning)
        for parent in (application.parent, application.grandparent) if not problems else ():
            if parent is not None:
                draft.merge(f"Merged with policy {parent.namespace}/{parent.name}.")
    if merged:
        draft.merge(f"{_others(policy.kind)} merge with this one for these listeners: {_listed(merged)}.")


def _owners_in(db: Db, target: Target) -> list[tuple[Ref]]:
    """The owners of the listeners that a target stands for: a Gateway stands for its ListenerSets, too."""
    owner, section = target
    of_gateway = owner.is_a(Gateway) and not section
    return [(each,) for each in (owners_of(db, [owner]) if of_gateway else (owner,))]


def _judge_route(db: Db, policy: Ref, target: Target, drafts: Drafts) -> None:
    route, section = target
    others = _others(policy.kind)
    effect = _effect_on(route, _KINDS[policy.kind])
    refusal = _refusal(db, policy, target)
    # Of thousands of policies for one target, one is not refused.
    rules = _claimed_sections(db, policy.kind, route) if not section and refusal is None else []
    for attachment in attachments(db, route):
        if rejection(db, attachment.gateway) is not None:
            continue
        draft = drafts.at(attachment.owner, attachment.parent.section_name or "")
        if refusal is not None:
            draft.refuse(refusal)
            continue
        parents = {listener: _parent(db, policy.kind, listener, target) for listener, _ in attachment.hosts}
        if not parents:
            draft.apply(_problems(db, Applied(policy, None), effect))
        for listener, parent in parents.items():
            problems = _problems(db, Applied(policy, parent), effect)
            if (problem := unenforceable(db, policy, route)) is not None:
                problems.append(problem)
            draft.apply(problems)
            _note_refusals(db, Applied(policy, parent), listener, draft)
            if parent is None:
                continue
            below = drafts.at(listener.owner, listener.name)
            for problem in problems:
                below.refuse(problem)
            if all(problem.reason == NOT_SUPPORTED for problem in problems):
                below.merge(f"Merged with policy {parent.namespace}/{parent.name}.")
        if rules:
            draft.override(f"{others} override this one for these route rules: {_listed(rules)}.")


def _note_refusals(db: Db, policy: Applied, listener: ListenerId, draft: Draft) -> None:
    """Note why the chain of a listener lacks filters that a policy asks for."""
    settings = (rule_settings(db, each) for each in ((policy,),))
    for owner, message in refusals(db, listener, settings):
        if owner == policy.owner:
            draft.lack(message)


def _parent(db: Db, kind: str, listener: ListenerId, target: Target) -> Ref | None:
    """The policy that the one of a route or rule merges into where a listener serves it."""
    holding = applied(db, kind, listener, target.ref, target.section)
    return holding.parent if holding is not None else None


def _refusal(db: Db, policy: Ref, target: Target) -> Problem | None:
    """Why a policy does not apply to what it targets: there is no such section, or another has precedence."""
    what = "rule" if target.ref.kind in ROUTE_KINDS else "listener"
    sections = (section_names(db, target.ref) or ()) if target.section else ()
    if target.section and target.section not in sections:
        has = f"; it has {', '.join(dict.fromkeys(sections))}" if sections else ""
        if not sections and what == "rule":
            has = "; none of its rules has a name: give the rule one in its field name"
        message = f"{target.ref} has no {what} named {target.section!r}{has}."
        return Problem("", f"{message} The policy has no effect there.", "TargetNotFound")
    first = winner(db, policy.kind, target.ref, target.section)
    if first is None or first == policy:
        return None
    section = f"{what} {target.section} of {target.ref}" if target.section else str(target.ref)
    message = (
        f"{first} applies to {section} already, and has precedence over this policy: it is older, or first "
        "by name. So this policy has no effect there."
    )
    return Problem("", message, "Conflicted")


_EFFECT: Final = "All requests that this policy is for are answered with 500 until this is fixed."


def _problems(db: Db, policy: Applied, effect: str = _EFFECT) -> list[Problem]:
    """What is wrong with a policy's settings, each field once, and what follows from it for its target.

    The problem of a field that is not built yet says itself what follows from it.

    Args:
        db: where the policy is.
        policy: the policy, with those into which it merges.
        effect: what follows where the policy cannot be built.
    """
    judged = effective_policy(db, *policy)
    if judged is None:
        return []
    effect = effect if judged.failed else ""
    faults = {problem.path for problem in judged.problems if problem.reason != NOT_SUPPORTED}
    return [
        problem if problem.reason == NOT_SUPPORTED else problem.saying(effect)
        for problem in judged.problems
        if problem.reason != NOT_SUPPORTED or problem.path not in faults
    ]


def _effect_on(route: Ref, kind: type[Policy]) -> str:
    """What a route's clients get where a policy of a kind cannot be built."""
    if route_kind(route.kind).matches is not None:
        return _EFFECT
    if kind.GUARDS:
        return f"All connections of {route} are closed until this is fixed."
    return f"Connections of {route} go on without this setting until it is fixed."


def _effect_on_clients(db: Db, governed: Sequence[ListenerId]) -> str:
    """What clients get where a policy cannot be built.

    Args:
        db: where the listeners are.
        governed: the listeners that have their settings from the policy.
    """
    validations = [clients_of(db, each) for each in governed]
    shut = [each for each in validations if each is not None and each.closed]
    match [(each.required, each.verified) for each in shut[:1]]:
        case [(True, True)]:
            refused = "all clients"
        case [(False, True)]:
            refused = "clients that show a certificate"
        case [(True, False)]:
            refused = "clients that show no certificate"
        case _:
            return "All requests of its listeners are answered with 500 until this is fixed."
    others = (
        "" if shut[0].only_valid and len(shut) == len(governed) else ", and answer other requests with 500"
    )
    return f"Until this is fixed, its listeners end the TLS handshake of {refused}{others}."


def _warnings(db: Db, policy: Applied) -> Iterator[Problem]:
    """Who is shut out by settings of a policy that are in force as they are written."""
    judged = effective_policy(db, *policy)
    if judged is None:
        return
    for feature, effective in judged.features():
        if feature.warnings is not None:
            yield from (each.under(judged.path(feature)) for each in feature.warnings(db, effective))


def _claimed_sections(db: Db, kind: str, target: Ref) -> list[str]:
    """The sections of a target to which policies apply, sorted."""
    claimed = {at for at, _ in attached_of(db, kind, target) if at}
    return sorted(claimed.intersection(section_names(db, target) or ())) if claimed else []


def _scopes_below(db: Db, kind: str, target: Target) -> dict[str, list[str]]:
    """The parts of a Gateway or ListenerSet to which policies of a kind apply, by what they are."""
    owner, section = target
    own: list[str] = []
    sets: list[str] = []
    of_sets: list[str] = []
    for [each] in _owners_in(db, target) if not section else ():
        sections = sections_of.attempt(db, kind, each)
        for name in () if isinstance(sections, Failed) else sections:
            if each == owner and not name:
                continue
            holder = winner(db, kind, each, name)
            if holder is not None and merges(db, holder, of_listeners=True):
                continue
            into = sets if not name else own if each.is_a(Gateway) else of_sets
            into.append(f"{_name(each)}/{name}" if name else _name(each))
    scopes = {"gateway listeners": own, "listenersets": sets, "listenerset listeners": of_sets}
    return {scope: names for scope, names in scopes.items() if names}


@query
def sections_of(db: Db, kind: str, owner: Ref) -> tuple[str, ...]:
    """The listeners of an owner to which policies of a kind apply, sorted; "" for the whole owner."""
    whole = [""] if winner(db, kind, owner, "") is not None else []
    return (*whole, *_claimed_sections(db, kind, owner))


def _note_overrides(db: Db, policy: Ref, target: Target, draft: Draft) -> None:
    section = target.section
    others = _others(policy.kind)
    shards = overrides.each(
        db,
        [
            (policy.kind, owner, part)
            for [owner] in _owners_in(db, target)
            for part in route_shards(db, owner)
        ],
    )
    below = [override for shard in shards for override in shard]
    merged = [_name(o.route) for o in below if target in o.merged]
    routes = [
        _name(o.route) for o in below if target not in o.merged and (not section or section in o.listeners)
    ]
    scopes = _scopes_below(db, policy.kind, target)
    if routes:
        scopes["routes"] = routes
    if merged:
        draft.merge(f"{others} merge with this one for these routes: {_listed(merged)}.")
    if scopes:
        draft.override(f"{others} override this one for {_in_words(scopes)}.")


def _in_words(scopes: Mapping[str, Iterable[str]]) -> str:
    return " and ".join(f"these {scope}: {_listed(names)}" for scope, names in scopes.items())


def _override(db: Db, kind: str, owner: Ref, route: Ref) -> Override | None:
    listeners = {at for a in attachments(db, route) if a.owner == owner for at, _ in a.hosts}
    if not listeners:
        return None
    rules = section_names(db, route) or ()
    sections = {at for at, _ in attached_of(db, kind, route) if not at or at in rules}
    if not sections:
        return None
    merged = {
        level_of(db, kind, at)
        for at in listeners
        for section in sections
        if _parent(db, kind, at, Target(route, section)) is not None
    }
    return Override(
        route,
        tuple(sorted(at.name for at in listeners)),
        tuple(sorted(level for level in merged if level is not None)),
    )


def _others(kind: str) -> str:
    return f"Other {_KINDS[kind].PLURAL}"


def _name(ref: Ref) -> str:
    return f"{ref.namespace}/{ref.name}"


def _listed(names: Iterable[str]) -> str:
    return f"[{' '.join(sorted(set(names)))}]"


def _ancestor(gateway: Ref, section: str) -> AncestorRef:
    return AncestorRef(
        group=GATEWAY_GROUP,
        kind=gateway.kind,
        namespace=gateway.namespace,
        name=gateway.name,
        section_name=section or None,
    )


def _conditions(draft: Draft, warning: str, generation: int) -> Iterator[Condition]:
    if problems := draft.faults:
        # What keeps the policy from a target weighs more than what is wrong with its settings.
        faults = sorted(problems, key=lambda fault: fault.reason not in ("Conflicted", "TargetNotFound"))
        reason = faults[0].reason if faults[0].reason != NOT_SUPPORTED else "Invalid"
        yield condition("Accepted", "False", reason, summary(faults), generation)
    elif draft.judged:
        yield condition("Accepted", "True", "Accepted", "The policy is in force.", generation)
    yield from not_programmed(draft.messages("lacking"), generation)
    if merged := draft.messages("merged"):
        yield condition("Merged", "True", "Merged", " ".join(merged), generation)
    if overridden := draft.messages("overridden"):
        yield condition("Overridden", "True", "Overridden", " ".join(overridden), generation)
    yield from _warning(draft, warning, generation)


def _warning(draft: Draft, deprecated: str, generation: int) -> Iterator[Condition]:
    """What has no effect or is deprecated, in one condition."""
    warnings: dict[str, str] = {}
    if dropped := draft.messages("dropped"):
        one = len(dropped) == 1
        where = f'Listener "{dropped[0]}" has' if one else f"Listeners {_listed(dropped)} have"
        warnings["UnsupportedHTTP3ClientValidation"] = (
            f"{where} no HTTP/3, because Envoy does not check certificates of clients over QUIC."
        )
    for warning in draft.warnings:
        line = f"{warning.path}: {warning.message}"
        warnings[warning.reason] = "\n".join(filter(None, (warnings.get(warning.reason), line)))
    if deprecated and draft.applies:
        warnings["DeprecatedField"] = deprecated
    if warnings:
        reason = next(iter(warnings)) if len(warnings) == 1 else "Warnings"
        yield condition("Warning", "True", reason, "\n".join(warnings.values()), generation)


def _deprecated(policy: Policy) -> str:
    """A line for each deprecated field that a policy sets, with what to write instead; "" for none."""
    fields = sorted(deprecated(policy))
    return "\n".join(f"{path}: The field is deprecated: write {instead}." for path, instead in fields)


def cut(ancestors: Sequence[AncestorStatus], generation: int) -> Sequence[AncestorStatus]:
    """At most 16 ancestors: bad news first, the last of them saying that there are more."""
    if len(ancestors) <= MAX_ANCESTORS:
        return ancestors
    kept = sorted(ancestors, key=_weight)[:MAX_ANCESTORS]
    message = f"The policy has {len(ancestors)} ancestors; a status lists {MAX_ANCESTORS} of them."
    more = condition("Aggregated", "True", "Aggregated", message, generation)
    kept[-1] = msgspec.structs.replace(kept[-1], conditions=(*kept[-1].conditions, more))
    return kept


def _weight(ancestor: AncestorStatus) -> tuple[int, str, str, str]:
    conditions = {(c.type, c.status) for c in ancestor.conditions}
    rank = 0 if ("Accepted", "False") in conditions else 1 if ("Overridden", "True") in conditions else 2
    at = ancestor.ancestor_ref
    return rank, at.namespace or "", at.name, at.section_name or ""
