"""What is in force, with lookups by which an edit finds what it concerns.

Theory of operation
===================
``HeldResources`` is the only place of what is in force, and each assignment updates its lookups. So these are
never old, and an edit costs what it concerns, however many resources there are. ``View`` answers the same
lookups for what will be in force after an edit, without a change of anything.

The lookups are about policies and what they apply to. As long as no policy is in force, there are none, so
that a folder without policies does not pay for them. They are made when the first one comes, or in steps
before that (``expect_policies``).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, MutableMapping
from typing import Final, Self, TypeAlias

from moongate.api.base import Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway, ReferenceGrant
from moongate.api.httproute import HTTPPathMatch
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestRoute, Route
from moongate.api.shared import LabelSelector
from moongate.attach.listener_sets import parent_of_set
from moongate.attach.matches import ancestors
from moongate.attach.policies import Anchor, Policy, anchor_keys, anchors, labels_in, stays
from moongate.attach.routes import named_parents, paths, takes_by_default, wider
from moongate.dangling import references_of
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources.file_states import Held

Key: TypeAlias = tuple[object, ...]
"""What is asked for: the name of a lookup, and its arguments."""
Edit: TypeAlias = Mapping[Ref, Held | None]
"""What is to be in force of some resources; None for nothing."""

REFERRING: Final = "referring"
"""Resource → policies that refer to it, as a target or otherwise."""
SELECTING: Final = "selecting"
"""Anchor → policies with such a selector."""
SHAPE: Final = "shape"
"""Keys of anchors → policies with a selector of such an anchor."""
FAR: Final = "far"
"""→ policies that select in other namespaces."""
GUARDING: Final = "guarding"
"""→ SecurityPolicies."""
LABELLED: Final = "labelled"
"""Kind, and a label or its key → Gateways, ListenerSets or routes with it; with the kind alone, all of it."""
UNDER: Final = "under"
"""Gateway or ListenerSet, or ``DEFAULTS`` → routes that name it as parent."""
DEFAULT: Final = "default"
"""→ Gateways that are parents of all routes which ask for the default Gateways."""
ADDING: Final = "adding"
"""Gateway → ListenerSets that name it as their parent."""
NARROWER: Final = "narrower"
"""Gateway or ListenerSet, and a hostname with a wildcard, or "" → routes with a hostname that it covers and
is not."""
AT: Final = "at"
"""Gateway or ListenerSet, hostname as written, type and value of a path → routes that match on it."""
PATTERNS: Final = "patterns"
"""Gateway or ListenerSet, hostname as written → routes that match paths by a pattern."""
BENEATH: Final = "beneath"
"""Gateway or ListenerSet, hostname as written, prefix → routes that match on it or on a path beneath it."""
LISTENING: Final = "listening"
"""Port → Gateways and ListenerSets with a listener at it."""
CHOOSING: Final = "choosing"
"""→ Gateways and ListenerSets that take routes, or ListenerSets, by the labels of their namespace."""
GRANTING: Final = "granting"
"""Namespace → its ReferenceGrants."""


class HeldResources(MutableMapping[Ref, Held]):
    """What is in force."""

    def __init__(self) -> None:
        self.visited = 0
        """The number of resources that lookups have named so far, which is their cost."""
        self._held: dict[Ref, Held] = {}
        self._policies = 0
        self._lookups = _Lookups()
        self._looks_up = False
        """Whether the lookups know what is in force."""

    def __getitem__(self, ref: Ref) -> Held:
        return self._held[ref]

    def __contains__(self, ref: object) -> bool:
        return ref in self._held

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __setitem__(self, ref: Ref, held: Held) -> None:
        before = self._held.get(ref)
        self._held[ref] = held
        if before is None or before.resource is not held.resource:
            self._update(ref, before, held)

    def __delitem__(self, ref: Ref) -> None:
        self._update(ref, self._held.pop(ref), None)

    @property
    def has_policies(self) -> bool:
        """Whether a policy of any kind is in force. Without one, lookups find nothing."""
        return self._policies > 0

    def expect_policies(self) -> Iterator[bool]:
        """Make the lookups of all that is in force, as policies are to come; in steps."""
        if self._looks_up:
            return
        lookups = _Lookups()
        for ref, held in self._held.items():
            lookups.change(ref, None, held)
            yield False
        self._lookups, self._looks_up = lookups, True

    def look_up(self, *key: object) -> Collection[Ref]:
        """The resources of a lookup."""
        return self._lookups.get(key)

    def count(self, key: Key) -> int:
        """The number of resources of a lookup."""
        return len(self._lookups.get(key))

    @property
    def shapes(self) -> Iterable[tuple[str, ...]]:
        """The keys of each anchor of a selector."""
        return self._lookups.shapes

    def _update(self, ref: Ref, before: Held | None, after: Held | None) -> None:
        self._policies += _is_policy(after) - _is_policy(before)
        if not self.has_policies and _is_policy(before):
            self._lookups, self._looks_up = _Lookups(), False
        elif self._looks_up:
            self._lookups.change(ref, before, after)
        elif self.has_policies:
            for _ in self.expect_policies():
                pass


class View:
    """What is in force, or what will be after an edit.

    Args:
        in_force: what is in force.
    """

    def __init__(self, in_force: HeldResources) -> None:
        self._in_force = in_force
        self._edit: Edit = {}
        self._own = _Lookups()

    @classmethod
    def after(cls, in_force: HeldResources, edit: Edit) -> Generator[bool, None, Self]:
        """What will be in force after an edit; in steps."""
        view = cls(in_force)
        view._edit = edit
        for ref, after in edit.items():
            view._own.change(ref, None, after)
            yield False
        return view

    def get(self, ref: Ref) -> Resource | EnvoyGateway | None:
        """A resource; None if it is not there."""
        held = self._edit[ref] if ref in self._edit else self._in_force.get(ref)
        return None if held is None else held.resource

    def look_up(self, *key: object) -> Iterator[Ref]:
        """The resources of a lookup."""
        for ref in self._in_force.look_up(*key):
            self._in_force.visited += 1
            if ref not in self._edit:
                yield ref
        yield from self._own.get(key)

    def labelled(self, kind: str, anchor: Anchor) -> Iterator[Ref]:
        """The targets of a kind that have one label of an anchor: the one that the fewest have."""
        keys = [(LABELLED, kind, *label) for label in labels_in(anchor)]
        yield from self.look_up(*min(keys, key=self._in_force.count))

    @property
    def shapes(self) -> Iterable[tuple[str, ...]]:
        """The keys of each anchor of a selector, and maybe of some that is gone."""
        return dict.fromkeys((*self._in_force.shapes, *self._own.shapes))


class _Lookups:
    def __init__(self) -> None:
        self._refs: dict[Key, dict[Ref, None]] = {}
        self.shapes: dict[tuple[str, ...], None] = {}

    def get(self, key: Key) -> Collection[Ref]:
        return self._refs.get(key, ())

    def change(self, ref: Ref, before: Held | None, after: Held | None) -> None:
        new: Iterable[Key] = _keys(ref, after.resource) if after is not None else ()
        if before is not None:
            old = dict.fromkeys(_keys(ref, before.resource))
            new = dict.fromkeys(new)
            for key in old.keys() - new.keys():
                self._remove(key, ref)
            new = new.keys() - old.keys()
        for key in new:
            refs = self._refs.get(key)
            if refs is None:
                refs = self._refs[key] = {}
                if key[0] == SHAPE:
                    self.shapes[_shape(key)] = None
            refs[ref] = None

    def _remove(self, key: Key, ref: Ref) -> None:
        refs = self._refs[key]
        del refs[ref]
        if not refs:
            del self._refs[key]
            if key[0] == SHAPE:
                del self.shapes[_shape(key)]


def _shape(key: Key) -> tuple[str, ...]:
    return tuple(map(str, key[1:]))


def _is_policy(held: Held | None) -> bool:
    return held is not None and isinstance(held.resource, Policy)


def _keys(ref: Ref, resource: Resource | EnvoyGateway) -> Iterator[Key]:
    """The lookups that find a resource."""
    match resource:
        case Policy():
            yield from ((REFERRING, to) for to in references_of(resource))
            for selector in resource.spec.target_selectors:
                for anchor in anchors(selector):
                    yield SELECTING, *anchor
                    yield SHAPE, *anchor_keys(anchor)
                if not stays(selector):
                    yield (FAR,)
            if isinstance(resource, SecurityPolicy):
                yield (GUARDING,)
        case Route():
            yield from _labelled(resource)
            for gateway in named_parents(resource):
                yield UNDER, gateway
                if gateway is not None and isinstance(resource, RequestRoute):
                    yield from _served(gateway, resource)
        case Gateway():
            yield from _labelled(resource)
            if takes_by_default(resource):
                yield (DEFAULT,)
            if chosen_sets(resource) is not None:
                yield (CHOOSING,)
            yield from _listening(resource)
        case ListenerSet():
            yield from _labelled(resource)
            if (gateway := parent_of_set(resource)) is not None:
                yield ADDING, gateway
            yield from _listening(resource)
        case ReferenceGrant():
            yield GRANTING, ref.namespace
        case _:
            pass


def chosen_sets(gateway: Gateway) -> LabelSelector | None:
    """The labels by which a Gateway chooses the namespaces of its ListenerSets; ``None`` if it does not."""
    allowed = gateway.spec.allowed_listeners
    return allowed.namespaces.selector if allowed and allowed.namespaces.from_ == "Selector" else None


def _listening(owner: Gateway | ListenerSet) -> Iterator[Key]:
    for listener in owner.spec.listeners:
        yield LISTENING, listener.port
        if listener.allowed_routes.namespaces.from_ == "Selector":
            yield (CHOOSING,)


def _labelled(target: Gateway | ListenerSet | Route) -> Iterator[Key]:
    yield LABELLED, target.KIND
    for key, value in target.metadata.labels.items():
        yield LABELLED, target.KIND, key
        yield LABELLED, target.KIND, key, value


def _served(gateway: Ref, route: RequestRoute) -> Iterator[Key]:
    for host in route.hostnames or ("",):
        yield from ((NARROWER, gateway, wide) for wide in (*wider(host), "") if wide != host)
        for type_, value in paths(route):
            if type_ == "RegularExpression":
                yield PATTERNS, gateway, host
                yield BENEATH, gateway, host, "/"
                continue
            yield AT, gateway, host, type_, value
            yield from ((BENEATH, gateway, host, prefix) for prefix in ancestors(value))


def at_path(gateway: Ref, host: str, path: HTTPPathMatch, *, beneath: bool) -> Iterator[Key]:
    """The lookups of the routes that may get requests of a path under a hostname.

    Args:
        gateway: the Gateway.
        host: the hostname, as these routes have it.
        path: how the path is compared.
        beneath: whether routes count that match on less than that.
    """
    type_, value = path.key
    if type_ == "RegularExpression":
        yield BENEATH, gateway, host, "/"
        return
    yield PATTERNS, gateway, host
    yield AT, gateway, host, type_, value
    yield from ((AT, gateway, host, "PathPrefix", prefix) for prefix in ancestors(value))
    if beneath and type_ == "PathPrefix":
        yield BENEATH, gateway, host, value
