"""Whether an edit takes a policy from a target that stays, or from requests.

The policy and its target may be in two files, of which one comes some milliseconds before the other. Between
the two, the policy does not hold for the target, such as a route whose label changed, or its requests go to a
route without it. ``uncovering`` finds such changes, so that they can wait until the edit is whole.

Facts
=====
* A route is *covered* by a policy that names or selects it or one of its rules, or one of its parents.
* Another policy of the same kind covers as well: who moves a route from one to the other wants just that.
  Only if less is *demanded* of who wants to pass, the policy that demands it may be in another file.
* A rule is *guarded* by a SecurityPolicy that covers it or its route, and by what that of the Gateway demands
  there. What else the latter says does not count, as it may be about something else.
* A request *goes over* from a guarded rule to one where less is demanded, or that has no policy of its own
  as the guarded one has, if both match it, and the guarded one got it before, and does not afterwards. If it
  depends on a pattern whether both match it, they do.
* What a guarded route does not match any more may be for one that comes in the next file, before its policy.
  The policy of the Gateway would hold for that one too, so only a route with a policy of its own counts.
* Where listeners change, it is not asked which request goes where: something there is guarded, or nothing.

An edit may change thousands of resources, so what looks through all of them does it in steps.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from moongate.api.base import ENVOY_GROUP, Ref
from moongate.api.core import Namespace
from moongate.api.gateway import Gateway, ReferenceGrant
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestRoute, Route
from moongate.attach.grants import permits
from moongate.attach.listener_sets import parent_of_set
from moongate.attach.matches import EVERYTHING, Match, includes, may_meet, precedence
from moongate.attach.namespaces import labels_of
from moongate.attach.policies import Policy, anchors, anchors_of, named_targets, stays
from moongate.attach.route_kinds import written_matches
from moongate.attach.routes import (
    DEFAULTS,
    default_parent,
    intersection,
    named_parents,
    parent_of,
    takes_by_default,
    wider,
)
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources import in_force as lookups
from moongate.sources.in_force import View, at_path

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Mapping

    from moongate.api.gateway import Listener
    from moongate.api.policy import TargetSelector
    from moongate.api.shared import LabelSelector, ParentReference
    from moongate.sources.file_states import Held
    from moongate.sources.in_force import HeldResources

_Owner: TypeAlias = Gateway | ListenerSet
_Target: TypeAlias = _Owner | Route
_GUARD: Final = SecurityPolicy.KIND
_Section: TypeAlias = tuple[str, str]
"""The kind of a policy, and a rule or listener; "" for all of them."""


class _Site(NamedTuple):
    """Where a route gets requests.

    Args:
        owner: one of its parents, which has the listener.
        listener: the name of a listener; "" if the parent is not known.
        port: of the listener; None if the parent is not known.
        host: what the listener has of the hostname; "" for all.
        written: the hostname as the route has it.
    """

    owner: Ref
    listener: str
    port: int | None
    host: str
    written: str

    def meets(self, other: _Site) -> bool:
        """Whether a request may come to both."""
        is_near = self.owner == other.owner if None in (self.port, other.port) else self.port == other.port
        return is_near and intersection(self.host, other.host) is not None


class _Place(NamedTuple):
    """One match of a rule at one site.

    Args:
        site: where the rule gets requests.
        match: the match; its number does not count.
        guards: what is demanded there of who wants to pass, and whether by a policy of the rule or its route.
        is_whole: whether all requests of the match are the rule's, and no filter says more about them.
    """

    site: _Site
    match: Match
    guards: frozenset[str]
    is_whole: bool


def uncovering(
    in_force: HeldResources, decisions: Mapping[Ref, Held | None]
) -> Generator[bool, None, tuple[Ref, ...]]:
    """The changes that wait, if one of them takes a policy from requests; in steps.

    Args:
        in_force: what is in force.
        decisions: what is to be in force of each resource that changes; None for nothing.
    """
    if not in_force.has_policies:
        return ()
    edit = yield from _edit(in_force, decisions)
    if not edit:
        return ()
    old, new = _Coverage(View(in_force)), _Coverage((yield from View.after(in_force, edit)))
    concerned: dict[Ref, None] = {}
    for ref in _concerned(edit, old, new):
        concerned[ref] = None
        yield False
    for ref in concerned:
        if old.loses(ref, new):
            return tuple(ref for ref, after in edit.items() if after is not None)
        yield False
    taking: list[Ref] = []
    for ref in edit if old.guards else ():
        if _takes(ref, old, new):
            taking.append(ref)
        yield False
    return tuple(taking)


def guarded_routes(in_force: HeldResources, among: Iterable[Ref]) -> Generator[bool, None, list[Ref]]:
    """Those of some resources in force that are routes with a SecurityPolicy, for all or for a rule; in
    steps."""
    now = _Coverage(View(in_force))
    guarded: list[Ref] = []
    for ref in among:
        if isinstance(now.view.get(ref), Route) and any(kind == _GUARD for kind, _ in now.of(ref)):
            guarded.append(ref)
        yield False
    return guarded


def losing(
    in_force: HeldResources, decisions: Mapping[Ref, Held | None], targets: Iterable[Ref]
) -> Generator[bool, None, tuple[Ref, ...]]:
    """The changes that wait, if a change of a SecurityPolicy takes it from one of some targets; in steps.

    No such policy changes then, because one may take over from another. Neither does what would be without
    its policy meanwhile.

    Args:
        in_force: what is in force.
        decisions: what is to be in force of each resource that changes; None for nothing.
        targets: those that are to lose none; what is not in force has none.
    """
    targets = [ref for ref in targets if ref in in_force]
    if not targets or not in_force.has_policies:
        return ()
    edit = yield from _edit(in_force, decisions)
    policies = {ref: after for ref, after in edit.items() if ref.kind == _GUARD and ref in in_force}
    old, changed = _Coverage(View(in_force)), _Coverage((yield from View.after(in_force, policies)))
    if not any(old.loses(target, changed) for target in targets):
        return ()
    others = {ref: after for ref, after in edit.items() if ref not in policies}
    whole = _Coverage((yield from View.after(in_force, edit)))
    without = _Coverage((yield from View.after(in_force, others)))
    bare: list[Ref] = []
    for ref in others:
        if whole.loses(ref, without):
            bare.append(ref)
        yield False
    taking = yield from uncovering(in_force, others)
    return tuple(dict.fromkeys((*policies, *bare, *taking)))


def _edit(
    in_force: HeldResources, decisions: Mapping[Ref, Held | None]
) -> Generator[bool, None, dict[Ref, Held | None]]:
    """The changes that may decide which policies hold for which requests; in steps."""
    edit: dict[Ref, Held | None] = {}
    for ref, after in decisions.items():
        if _bearing(in_force.get(ref)) != _bearing(after):
            edit[ref] = after
        yield False
    return edit


def _bearing(state: Held | None) -> object:
    """The part of a resource that decides which policies hold for which requests."""
    match state and state.resource:
        case Policy() as policy:
            spec = policy.spec
            demands = (policy.demands, policy.spec.merge_type) if isinstance(policy, SecurityPolicy) else None
            return spec.target_ref, spec.target_refs, spec.target_selectors, demands
        case Route() as route:
            rules = [(rule.name, written_matches(route.KIND, rule)) for rule in route.spec.rules]
            parents = route.spec.parent_refs, route.by_default
            return route.metadata.labels, parents, route.hostnames, rules
        case Gateway() as gateway:
            reach = [_reach(each) for each in gateway.spec.listeners]
            takes = takes_by_default(gateway), gateway.spec.allowed_listeners
            return gateway.metadata.labels, takes, reach
        case ListenerSet() as adding:
            reach = [_reach(each) for each in adding.spec.listeners]
            return adding.metadata.labels, adding.spec.parent_ref, reach
        case Namespace() as namespace:
            return namespace.metadata.labels
        case ReferenceGrant() as grant:
            return grant.spec
        case _:
            return None


def _reach(listener: Listener) -> object:
    """The part of a listener that decides which requests it gets, and which routes."""
    return listener.name, listener.port, listener.protocol, listener.hostname, listener.allowed_routes


def _concerned(edit: Iterable[Ref], old: _Coverage, new: _Coverage) -> Iterator[Ref]:
    """The targets for which policies may hold or not because of an edit."""
    for ref in edit:
        before, after = old.view.get(ref), new.view.get(ref)
        if isinstance(before, _Target):
            yield ref
        if isinstance(before, Policy):
            yield from old.targets(ref, before)
        # One that comes may take the place of another that demands more.
        if isinstance(after, SecurityPolicy):
            yield from new.targets(ref, after)
        elif ref.is_a(Namespace) or ref.is_a(ReferenceGrant):
            namespace = ref.name if ref.is_a(Namespace) else ref.namespace
            for policy in old.view.look_up(lookups.FAR):
                resource = old.view.get(policy)
                assert isinstance(resource, Policy), "nothing else selects"
                yield from (each for each in old.targets(policy, resource) if each.namespace == namespace)


def _takes(ref: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether requests go over from a guarded rule to a bare one, because of a change of one resource."""
    match new.view.get(ref) or old.view.get(ref):
        case RequestRoute():
            return _comes_beside(ref, old, new) or _steps_aside(ref, old, new)
        case Gateway():
            return _listens_otherwise(ref, old, new) or any(
                _listens_otherwise(each, old, new) for each in dict.fromkeys((*old.sets(ref), *new.sets(ref)))
            )
        case ListenerSet():
            return _listens_otherwise(ref, old, new)
        case Namespace():
            return _is_allowed_otherwise(ref, old, new)
        case _:
            return False


def _comes_beside(ref: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether a route takes requests of others that are guarded."""
    return any(
        _goes_over(guarded, other, bare, ref, old, new)
        for bare in new.beyond(old, ref)
        for other in dict.fromkeys(old.near(bare))
        for guarded in old.places(other)
    )


def _steps_aside(ref: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether a guarded route leaves requests to others, or to one that may come in the next file."""
    return any(
        _gives_up(guarded, ref, new)
        or any(
            _goes_over(guarded, ref, bare, other, old, new)
            for other in dict.fromkeys(new.near(guarded))
            for bare in new.places(other)
        )
        for guarded in old.beyond(new, ref)
        if guarded.guards
    )


def _gives_up(guarded: _Place, ref: Ref, new: _Coverage) -> bool:
    """Whether a route with a policy of its own that demands something does not match requests any more."""
    return guarded.guards > {_GUARD} and not any(
        includes(place.match, guarded.match)
        and place.is_whole
        and place.site.meets(guarded.site)
        and _covers(place.site.host, guarded.site.host)
        for place in new.places(ref)
    )


def _goes_over(guarded: _Place, from_: Ref, bare: _Place, to: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether requests go over from one rule to another.

    Args:
        guarded: a match of the rule that gets them.
        from_: its route.
        bare: a match of the rule that will.
        to: its route.
        old: what policies cover.
        new: what they will cover.
    """
    common = intersection(guarded.site.host, bare.site.host)
    return (
        not guarded.guards <= bare.guards
        and common is not None
        and guarded.site.meets(bare.site)
        and may_meet(guarded.match, bare.match)
        and not _stay(guarded, from_, bare, common, new)
        and not _went(guarded, bare, to, common, old)
    )


def _stay(guarded: _Place, from_: Ref, bare: _Place, common: str, new: _Coverage) -> bool:
    """Whether the route of the guarded rule keeps the requests, and no less is demanded."""
    return any(
        place.site.meets(bare.site)
        and _covers(place.site.host, common)
        and not _is_within(bare.site.host, place.site.host)
        and guarded.guards <= place.guards
        and place.is_whole
        and includes(place.match, guarded.match)
        and precedence(place.match) < precedence(bare.match)
        for place in new.places(from_)
    )


def _went(guarded: _Place, bare: _Place, to: Ref, common: str, old: _Coverage) -> bool:
    """Whether the route of the bare rule got the requests before, too, and less was demanded."""
    left = guarded.site.host
    return any(
        place.site.meets(guarded.site)
        and _covers(place.site.host, common)
        and not guarded.guards <= place.guards
        and place.is_whole
        and includes(place.match, bare.match)
        and (
            _is_within(place.site.host, left)
            or (place.site.host == left and precedence(place.match) < precedence(guarded.match))
        )
        for place in old.places(to)
    )


def _covers(one: str, other: str) -> bool:
    """Whether each host of ``other`` is one of ``one``."""
    return intersection(one, other) == other


def _is_within(one: str, other: str) -> bool:
    """Whether a hostname is narrower than another that covers it."""
    return one != other and _covers(other, one)


def _listens_otherwise(ref: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether listeners of an owner change at which something is guarded, or others come beside them."""
    before, after = old.listeners(ref), new.listeners(ref)
    reaches = {each.name: _reach(each) for each in before}
    takes_others = (old.is_default(ref), old.gateway_of(ref)) != (new.is_default(ref), new.gateway_of(ref))
    come = [each for each in after if takes_others or reaches.get(each.name) != _reach(each)]
    concerned = {
        owner
        for listener in come
        for owner in old.view.look_up(lookups.LISTENING, listener.port)
        for each in old.listeners(owner)
        if each.port == listener.port
        and intersection(each.hostname or "", listener.hostname or "") is not None
    }
    if reaches.keys() - {each.name for each in after} or any(each.name in reaches for each in come):
        concerned.add(ref)
    return any(map(old.has_guards, concerned))


def _is_allowed_otherwise(ref: Ref, old: _Coverage, new: _Coverage) -> bool:
    """Whether something is guarded where routes or ListenerSets of a namespace come or go."""
    return any(
        old.selects(selector, ref.name) != new.selects(selector, ref.name) and old.has_guards(owner)
        for owner in old.view.look_up(lookups.CHOOSING)
        for selector in old.selectors(owner)
    )


def _sections(target: _Target) -> Counter[str]:
    """The names of the rules or listeners; "" for those without."""
    parts = target.spec.listeners if isinstance(target, _Owner) else target.spec.rules
    return Counter(part.name or "" for part in parts)


class _Coverage:
    """What policies cover, at some moment.

    Args:
        view: what is in force then.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._places: dict[Ref, dict[_Place, None]] = {}
        self._winners: dict[Ref, dict[str, SecurityPolicy]] = {}

    @cached_property
    def guards(self) -> bool:
        """Whether there is a SecurityPolicy."""
        return any(True for _ in self.view.look_up(lookups.GUARDING))

    def loses(self, ref: Ref, after: _Coverage) -> bool:
        """Whether a target that stays is covered less afterwards."""
        if not isinstance(after.view.get(ref), _Target):
            return False
        now, then = self.of(ref), after.of(ref)
        whole = {kind for kind, section in then if not section}
        present = after.parts(ref)
        come = present - self.parts(ref)
        for kind, section in now - then:
            # A rule that is renamed, or has no name any more, is one that goes and one that comes.
            left = come.keys() if section and section not in present else (section,)
            if kind not in whole and any((kind, each) not in then for each in left):
                return True
        if any(
            self.demands(ref, section, *parent) - after.demands(ref, section, *parent)
            for section in {"", *(present & self.parts(ref))}
            for parent in {(ref, ""), *self.parents(ref)} & {(ref, ""), *after.parents(ref)}
        ):
            return True
        old, new = self.parents(ref), after.parents(ref)
        above = {kind for parent in old for kind in self.above(*parent)} - whole
        return any(above - after.above(*parent) for parent in new if parent not in old)

    def demands(self, ref: Ref, section: str, parent: Ref, listener: str) -> frozenset[str]:
        """What is demanded of who wants to pass, by the policy that wins.

        Args:
            ref: a target.
            section: a rule or listener; "" for one without a name.
            parent: a Gateway or ListenerSet above a route.
            listener: of that parent; "" for all.
        """
        own = self._winner(ref, section) or self._winner(ref, "")
        demands = own.demands if own is not None else frozenset[str]()
        if own is not None and own.spec.merge_type is None:
            return demands
        above = self._winner(parent, listener) or self._winner(parent, "")
        if above is None and (gateway := self.gateway_of(parent)) is not None:
            above = self._winner(gateway, "")
        return demands | above.demands if above is not None else demands

    def _winner(self, ref: Ref, section: str) -> SecurityPolicy | None:
        """The SecurityPolicy that holds for a section of a target: the oldest, then the first by name."""
        if ref not in self._winners:
            candidates = ((self._policy(policy), at) for policy, at in self._covering(ref))
            guards = [(each, at) for each, at in candidates if isinstance(each, SecurityPolicy)]
            winners: dict[str, SecurityPolicy] = {}
            for each, at in sorted(guards, key=lambda guard: (guard[0].age, guard[0].ref)):
                winners.setdefault(at, each)
            self._winners[ref] = winners
        return self._winners[ref].get(section)

    def of(self, ref: Ref) -> set[_Section]:
        """What policies cover of a target."""
        return {(policy.kind, section) for policy, section in self._covering(ref)}

    def _covering(self, ref: Ref) -> list[tuple[Ref, str]]:
        """The policies that cover a target or a section of it: the rule or listener, or "" for all."""
        covering: list[tuple[Ref, str]] = []
        for policy in self.view.look_up(lookups.REFERRING, ref):
            named = named_targets(self._policy(policy).spec, policy.namespace)
            covering += ((policy, target.section) for target in named if target.ref == ref)
        target = self.view.get(ref)
        if isinstance(target, _Target):
            present = _sections(target)
            covering = [each for each in covering if not each[1] or each[1] in present]
            labels = target.metadata.labels
            for anchor in anchors_of(labels, self.view.shapes):
                policies = self.view.look_up(lookups.SELECTING, *anchor)
                covering += ((policy, "") for policy in policies if self._selects(policy, ref, labels))
        return covering

    def targets(self, policy: Ref, resource: Policy) -> Iterator[Ref]:
        """The targets that a policy names or selects."""
        yield from (target.ref for target in named_targets(resource.spec, policy.namespace))
        for selector in resource.spec.target_selectors:
            for anchor in anchors(selector):
                for ref in self.view.labelled(selector.kind, anchor):
                    target = self.view.get(ref)
                    assert isinstance(target, _Target), "nothing else is looked up by its labels"
                    if self._picks(policy, selector, ref, target.metadata.labels):
                        yield ref

    def has_guards(self, owner: Ref) -> bool:
        """Whether a SecurityPolicy covers a part of a Gateway or ListenerSet, or of one of its routes."""
        gateway = self.gateway_of(owner)
        named = [owner, *self.sets(owner), *((DEFAULTS,) if self.is_default(owner) else ())]
        refs = (*named, *(route for each in named for route in self.view.look_up(lookups.UNDER, each)))
        return any(kind == _GUARD for ref in refs for kind, _ in self.of(ref)) or (
            gateway is not None and self._winner(gateway, "") is not None
        )

    def sets(self, gateway: Ref) -> Iterator[Ref]:
        """The ListenerSets that name a Gateway as their parent; none for another resource."""
        return self.view.look_up(lookups.ADDING, gateway)

    def gateway_of(self, ref: Ref) -> Ref | None:
        """The Gateway that a ListenerSet names; None for another resource."""
        resource = self.view.get(ref)
        return parent_of_set(resource) if isinstance(resource, ListenerSet) else None

    def selectors(self, ref: Ref) -> Iterator[LabelSelector]:
        """The labels by which an owner of listeners chooses the namespaces of its routes and ListenerSets."""
        resource = self.view.get(ref)
        if isinstance(resource, Gateway) and (chosen := lookups.chosen_sets(resource)) is not None:
            yield chosen
        for listener in resource.spec.listeners if isinstance(resource, _Owner) else ():
            if (selector := listener.allowed_routes.namespaces.selector) is not None:
                yield selector

    def places(self, ref: Ref) -> Collection[_Place]:
        """Where a route gets requests, and which."""
        if ref not in self._places:
            route = self.view.get(ref)
            places = self._places_of(ref, route) if isinstance(route, RequestRoute) else ()
            self._places[ref] = dict.fromkeys(places)
        return self._places[ref]

    def beyond(self, other: _Coverage, ref: Ref) -> Iterator[_Place]:
        """The places of a route that it has not at another moment."""
        return (place for place in self.places(ref) if place not in other.places(ref))

    def near(self, place: _Place) -> Iterator[Ref]:
        """The routes that may get requests of a place."""
        site = place.site
        peers = self.view.look_up(lookups.LISTENING, site.port) if site.port is not None else ()
        for owner in dict.fromkeys((site.owner, DEFAULTS, *peers)):
            for host in dict.fromkeys((site.written, site.host, *wider(site.host), "")):
                # Under its own hostname, what matches on less gets its requests anyway.
                for key in at_path(owner, host, place.match.path, beneath=host != site.written):
                    yield from self.view.look_up(*key)
            yield from self.view.look_up(lookups.NARROWER, owner, site.host)

    def listeners(self, ref: Ref) -> tuple[Listener, ...]:
        """The listeners of a Gateway or ListenerSet; none if it is not there, or the set is not taken."""
        owner = self.view.get(ref)
        if isinstance(owner, ListenerSet) and not self._is_taken(owner):
            return ()
        return owner.spec.listeners if isinstance(owner, _Owner) else ()

    def _is_taken(self, listener_set: ListenerSet) -> bool:
        """Whether its Gateway takes a ListenerSet."""
        parent = parent_of_set(listener_set)
        gateway = self.view.get(parent) if parent is not None else None
        allowed = gateway.spec.allowed_listeners if isinstance(gateway, Gateway) else None
        if parent is None or allowed is None:
            return False
        namespace, where = listener_set.metadata.namespace, allowed.namespaces
        match where.from_:
            case "Selector":
                return where.selector is not None and self.selects(where.selector, namespace)
            case "Same":
                return namespace == parent.namespace
            case _:
                return where.from_ == "All"

    def selects(self, selector: LabelSelector, namespace: str) -> bool:
        """Whether a selector matches a namespace."""
        resource = self.view.get(Ref.of(Namespace, "", namespace))
        return selector.selects(labels_of(resource if isinstance(resource, Namespace) else None, namespace))

    def parts(self, ref: Ref) -> Counter[str]:
        """The names of the rules of a route, or of the listeners of an owner."""
        target = self.view.get(ref)
        return _sections(target) if isinstance(target, _Target) else Counter()

    def parents(self, ref: Ref) -> list[tuple[Ref, str]]:
        """The Gateways and ListenerSets that a route names, and the listener of each; "" for all."""
        route = self.view.get(ref)
        if not isinstance(route, Route):
            return []
        return [
            (
                Ref(parent.kind, parent.namespace or ref.namespace, parent.name, parent.group),
                parent.section_name or "",
            )
            for parent in self._parent_refs(route)
        ]

    def is_default(self, ref: Ref) -> bool:
        """Whether a Gateway is a parent of all routes that ask for the default Gateways."""
        gateway = self.view.get(ref)
        return isinstance(gateway, Gateway) and takes_by_default(gateway)

    def _parent_refs(self, route: Route) -> Iterator[ParentReference]:
        """Those that a route has, and those to the default Gateways."""
        yield from route.spec.parent_refs
        named = named_parents(route)
        for gateway in self.view.look_up(lookups.DEFAULT) if route.by_default else ():
            if gateway not in named:
                yield default_parent(gateway)

    def above(self, parent: Ref, listener: str) -> set[str]:
        """The kinds of the policies that cover a parent of a route."""
        own = {kind for kind, section in self.of(parent) if not section or section == listener}
        gateway = self.gateway_of(parent)
        return own if gateway is None else own | self.above(gateway, "")

    def _places_of(self, ref: Ref, route: RequestRoute) -> Iterator[_Place]:
        for site in self._sites_of(route):
            for rule in route.spec.rules:
                guards = self._guards_of(ref, rule.name or "", site)
                is_whole = all(used.extension_ref is None for used in rule.filters)
                for written in written_matches(ref.kind, rule) or (EVERYTHING,):
                    yield _Place(site, Match(0, written), guards, is_whole)

    def _guards_of(self, ref: Ref, rule: str, site: _Site) -> frozenset[str]:
        demands = self.demands(ref, rule, site.owner, site.listener)
        has_own = self._winner(ref, rule) or self._winner(ref, "")
        return demands | {_GUARD} if has_own else demands

    def _sites_of(self, route: RequestRoute) -> Iterator[_Site]:
        hostnames = route.hostnames or ("",)
        for parent in self._parent_refs(route):
            owner = parent_of(parent, route.metadata.namespace)
            if owner is None:
                continue
            if not isinstance(self.view.get(owner), _Owner):
                yield from (_Site(owner, "", None, host, host) for host in hostnames)
            for listener in self.listeners(owner):
                if parent.section_name not in (None, listener.name) or parent.port not in (
                    None,
                    listener.port,
                ):
                    continue
                for host in hostnames:
                    common = intersection(host, listener.hostname or "")
                    if common is not None:
                        yield _Site(owner, listener.name, listener.port, common, host)

    def _policy(self, ref: Ref) -> Policy:
        resource = self.view.get(ref)
        assert isinstance(resource, Policy), "only policies are looked up by their targets"
        return resource

    def _selects(self, policy: Ref, ref: Ref, labels: Mapping[str, str]) -> bool:
        selectors = self._policy(policy).spec.target_selectors
        return any(self._picks(policy, selector, ref, labels) for selector in selectors)

    def _picks(self, policy: Ref, selector: TargetSelector, ref: Ref, labels: Mapping[str, str]) -> bool:
        if selector.kind != ref.kind or not selector.selector.selects(labels):
            return False
        if stays(selector):
            return policy.namespace == ref.namespace
        where = selector.namespaces
        if (
            where is not None
            and where.from_ == "Selector"
            and (where.selector is None or not self.selects(where.selector, ref.namespace))
        ):
            return False
        return policy.namespace == ref.namespace or any(
            isinstance(grant := self.view.get(each), ReferenceGrant)
            and permits(grant, ENVOY_GROUP, policy.kind, policy.namespace, ref)
            for each in self.view.look_up(lookups.GRANTING, ref.namespace)
        )
