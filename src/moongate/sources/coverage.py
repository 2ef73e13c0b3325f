"""Whether an edit takes a policy from a target that stays, or from requests that a new route takes.

The policy and its target may be in two files, of which one comes some milliseconds before the other. Between
the two, the policy does not hold for the target, such as a route whose label changed. ``uncovering`` finds
such changes, so that they can wait until the edit is whole.

Facts
=====
* A route is *covered* by a policy that names or selects it or one of its rules, or one of its parents.
* Another policy of the same kind covers as well: who moves a route from one to the other wants just that.
* A selector that looks into other namespaces counts as if all of them let it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.api.route import Route
from moongate.attach.policies import Anchor, Policy, anchor_keys, anchors, anchors_of, named_targets, stays
from moongate.attach.routes import intersection
from moongate.policies.security_policy import SecurityPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.policy import TargetSelector
    from moongate.sources.file_states import Held

_Target: TypeAlias = Gateway | Route
_GUARD: Final = SecurityPolicy.KIND
_Section: TypeAlias = tuple[str, str]
"""The kind of a policy, and a rule or listener; "" for all of them."""


def uncovering(held: Mapping[Ref, Held], decisions: Mapping[Ref, Held | None]) -> tuple[Ref, ...]:
    """The changes of targets and policies that wait, if one of them takes a policy from requests.

    Args:
        held: what is in force.
        decisions: what is to be in force of each resource that changes; None for nothing.
    """
    coming = {ref: each for ref, each in decisions.items() if each is not None}
    aimed = tuple(ref for ref, each in coming.items() if ref in held and _aim(held[ref]) != _aim(each))
    routes = tuple(
        ref
        for ref, each in coming.items()
        if isinstance(each.resource, Route) and (ref not in held or _reach(held[ref]) != _reach(each))
    )
    # Without policies there is nothing to take; new routes are beside something only where one is guarded.
    taking = Policy if aimed else SecurityPolicy
    if not (aimed or routes) or not any(isinstance(each.resource, taking) for each in held.values()):
        return ()
    after = {ref: each for ref, each in {**held, **coming}.items() if decisions.get(ref, each) is not None}
    old, new = _Coverage(held), _Coverage(after)
    aims = [ref for ref in aimed if isinstance(held[ref].resource, Policy)]
    concerned = dict.fromkeys(ref for ref in aimed if isinstance(held[ref].resource, _Target))
    if aims:
        by_these = _Coverage(held, aims)
        targets = (ref for ref, each in held.items() if isinstance(each.resource, _Target))
        concerned |= dict.fromkeys(ref for ref in targets if ref in after and by_these.of(ref))
    taken = aimed if any(old.loses(ref, new) for ref in concerned) else ()
    return (*taken, *_beside_guarded(routes, old, new))


def guarded_routes(held: Mapping[Ref, Held]) -> Iterator[Ref]:
    """The routes in force with a SecurityPolicy of their own, for all or for a rule."""
    return _Coverage(held).guarded_routes()


def _beside_guarded(routes: Iterable[Ref], old: _Coverage, new: _Coverage) -> Iterator[Ref]:
    """The routes without a SecurityPolicy of their own that may take requests of one that has its own.

    A route that is renamed comes under its new name, perhaps before its policy names that. A policy of their
    Gateway does not count, as it may be about something else.

    Args:
        routes: that are new, or get other requests.
        old: what policies cover.
        new: what they will cover.
    """
    bare = [ref for ref in routes if (_GUARD, "") not in new.of(ref)]
    if not bare:
        return
    guarded: defaultdict[Ref, list[tuple[Ref, set[str]]]] = defaultdict(list)
    for ref in old.guarded_routes():
        for parent, _ in old.parents(ref):
            guarded[parent].append((ref, old.hostnames(ref)))
    for ref in bare:
        others = (each for parent, _ in new.parents(ref) for each in guarded.get(parent, ()))
        taken = {host for other, hosts in others if other != ref for host in hosts}
        if any(intersection(one, other) is not None for one in new.hostnames(ref) for other in taken):
            yield ref


def _aim(held: Held) -> object:
    """The part of a policy that decides its targets, or of a target that decides its policies."""
    match held.resource:
        case Policy():
            spec = held.resource.spec
            return spec.target_ref, spec.target_refs, spec.target_selectors
        case Route():
            route = held.resource
            return route.metadata.labels, route.spec.parent_refs, _sections(route)
        case Gateway():
            return held.resource.metadata.labels, _sections(held.resource)
        case _:
            return None


def _reach(held: Held) -> object:
    """Where a route gets requests. Its matches do not count: edits under its own hostnames are at once."""
    spec = cast("Route", held.resource).spec
    return spec.parent_refs, getattr(spec, "hostnames", ())


def _sections(target: _Target) -> Counter[str]:
    """The names of the rules or listeners; "" for those without."""
    parts = target.spec.listeners if isinstance(target, Gateway) else target.spec.rules
    return Counter(part.name or "" for part in parts)


class _Coverage:
    """What policies cover.

    Args:
        held: what is in force.
        among: the policies among these are asked; all by default.
    """

    def __init__(self, held: Mapping[Ref, Held], among: Iterable[Ref] | None = None) -> None:
        self._held = held
        self._named: defaultdict[Ref, list[_Section]] = defaultdict(list)
        self._selecting: defaultdict[Anchor, list[tuple[Ref, TargetSelector]]] = defaultdict(list)
        for ref in held if among is None else among:
            policy = held[ref].resource
            if not isinstance(policy, Policy):
                continue
            for target in named_targets(policy.spec, ref.namespace):
                self._named[target.ref].append((ref.kind, target.section))
            for selector in policy.spec.target_selectors:
                for anchor in anchors(selector):
                    self._selecting[anchor].append((ref, selector))
        self._keys = dict.fromkeys(map(anchor_keys, self._selecting))

    def loses(self, ref: Ref, after: _Coverage) -> bool:
        """Whether a target that stays is covered less afterwards."""
        now, then = self.of(ref), after.of(ref)
        whole = {kind for kind, section in then if not section}
        present = after.parts(ref)
        come = present - self.parts(ref)
        for kind, section in now - then:
            # A rule that is renamed, or has no name any more, is one that goes and one that comes.
            left = come.keys() if section and section not in present else (section,)
            if kind not in whole and any((kind, each) not in then for each in left):
                return True
        old, new = self.parents(ref), after.parents(ref)
        above = {kind for parent in old for kind in self.above(*parent)} - whole
        return any(above - after.above(*parent) for parent in new if parent not in old)

    def of(self, ref: Ref) -> set[_Section]:
        """What policies cover of a target."""
        sections = {*self._named.get(ref, ())}
        resource = self._held[ref].resource if ref in self._held else None
        if isinstance(resource, _Target):
            present = _sections(resource)
            sections = {each for each in sections if not each[1] or each[1] in present}
            sections |= {(policy.kind, "") for policy in self._selectors(ref, resource)}
        return sections

    def guarded_routes(self) -> Iterator[Ref]:
        """The routes with a SecurityPolicy of their own, for all or for a rule."""
        for ref in self._held if self._selecting else self._named:
            each = self._held.get(ref)
            if each is None or not isinstance(each.resource, Route):
                continue
            if any(kind == _GUARD for kind, _ in self.of(ref)):
                yield ref

    def hostnames(self, route: Ref) -> set[str]:
        """The hosts of a route; "" for all."""
        resource = self._held[route].resource
        assert isinstance(resource, Route), "nothing else has hosts"
        hostnames: tuple[str, ...] = getattr(resource.spec, "hostnames", ())
        return set(hostnames or ("",))

    def parts(self, ref: Ref) -> Counter[str]:
        """The names of the rules of a route, or of the listeners of a Gateway."""
        resource = self._held[ref].resource
        assert isinstance(resource, _Target), "policies aim at nothing else"
        return _sections(resource)

    def _selectors(self, ref: Ref, target: _Target) -> Iterator[Ref]:
        labels = target.metadata.labels
        for anchor in anchors_of(labels, self._keys):
            for policy, selector in self._selecting.get(anchor, ()):
                is_near = policy.namespace == ref.namespace or not stays(selector)
                if is_near and selector.kind == ref.kind and selector.selector.selects(labels):
                    yield policy

    def parents(self, ref: Ref) -> Iterable[tuple[Ref, str]]:
        """The Gateways that a route names, and the listener of each; "" for all."""
        resource = self._held[ref].resource
        if not isinstance(resource, Route):
            return ()
        return [
            (
                Ref(parent.kind, parent.namespace or ref.namespace, parent.name, parent.group),
                parent.section_name or "",
            )
            for parent in resource.spec.parent_refs
        ]

    def above(self, gateway: Ref, listener: str) -> set[str]:
        """The kinds of the policies that cover a parent of a route."""
        return {kind for kind, section in self.of(gateway) if not section or section == listener}
