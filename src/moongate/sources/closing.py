"""Which requests are refused while a document cannot be read that may be a policy about who may pass.

Rules
=====
1. Such a document (``suspicion``) has an effect if it has no last good state: it may concern its scope, which
   is a namespace or everything.
2. At the start, nothing is known of what was served before. So all requests to the routes and Gateways of the
   scope are answered with 500 (``closed``), until the first state without such documents.
3. At the start, a document that may be a route closes the namespace of a policy about who may pass whose
   target is missing: other routes would take the requests of its target, without the policy.
4. If such a document comes later, what was served before the edit stays as it was. What could let more
   requests through is not served, as after a restart:

   * A new route, Gateway or ListenerSet is in force, and answers each request with 500 (``shut``). So does
     one that was removed, because other routes would take its requests.
   * All else waits (``held_back``): changes of routes, Gateways, ListenerSets, policies and of what they
     depend on, the removal of policies, and new resources that something in force misses.
   * A new policy about who may pass is in force at once. So are other contents of a Secret, ConfigMap or
     Backend, the endpoints of a Service that has some, and the removal of what only takes away.
5. A policy about who may pass that is in force in its last good state, because its text has a fault now, may
   be meant for others by now (``outdated``). So what takes requests from such policies waits: the removal of
   one, or of a route with one of its own, which then answers 500; and what ``coverage`` says of changes. If
   the text of a route has a fault, the removal of such a route waits, because the other may be in its place;
   and the route that is in its last good state keeps its policies.
   A policy in a folder that cannot be read any more counts too. If all that happened while moongate was away,
   the namespace is closed.
6. What is closed is opened as a resource is removed: when the edit is whole, unless its file has become
   sound. What waits comes into force in the same batch as the policy.

Theory of operation
===================
``Closing`` is asked twice for each batch. ``holds_back`` says which changes wait because of the documents
that cannot be read now, so that these do not delay other changes. ``update`` then decides, and adds to them,
as what is closed may stay closed because other changes wait. A batch may have thousands of changes, so both
do it in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy, FaultyBackendTLSPolicy
from moongate.api.base import Ref, Resource
from moongate.api.core import ConfigMap, EndpointSlice, Namespace, Secret, Service
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.route import Route
from moongate.attach.policies import Policy
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.dangling import references_of
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.sources.coverage import guarded_routes, losing, uncovering
from moongate.sources.file_states import File, Held
from moongate.sources.in_force import Edit, HeldResources
from moongate.sources.suspicion import EVERYTHING, guards_in, is_like_route, may_guard, may_route

HIDDEN = ""
"""Stands for the folders that cannot be read, where there are paths of files."""

_T = TypeVar("_T")


class Suspect(NamedTuple):
    """A part of a file that may be a policy about who may pass, or a route that one protects.

    Args:
        part: the file, a document or an entry.
        scope: what it may concern.
        is_route: whether it may be a route.
    """

    part: object
    scope: str
    is_route: bool = False


class Closing:
    """What is closed, and what waits.

    Args:
        strict: whether documents have such effects at all.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.at_start = True
        """Whether there was no state yet without such documents."""
        self.hidden = False
        """Whether there is a folder that never could be read, which may have a policy about who may pass."""
        self.reopening: Collection[str] = ()
        """The files that have no effect any more, but close requests for some time."""
        self.late: dict[Ref, None] = {}
        """The resources that came since what is served stays as it was."""
        self.held_back: dict[Ref, bool] = {}
        """The resources with a change that waits → whether it is their removal."""
        self.leaving: frozenset[Ref] = frozenset()
        """The routes and Gateways that were shut, and are removed when the edit is whole."""
        self.suspects: dict[str, Sequence[Suspect]] = {}
        self.outdated: dict[str, frozenset[Ref]] = {}
        """File with faults → its policies about who may pass in their last good state, and its routes that
        cannot be read."""
        self._replaced: frozenset[Ref] = frozenset()
        """The routes whose removal is held back because they had a policy of their own."""
        self.out_of_reach: Collection[str] = ()
        """The files that were read before, in folders that cannot be read any more."""
        self.former: Callable[[], HeldResources] = HeldResources
        """What a former process had in force."""
        self.is_unlike_former = False
        """Whether requests are refused because of what the former process had in force."""
        self._scopes: dict[str, frozenset[str]] = {}
        """File → the scopes of its suspects, also while it waits to be opened."""

    @property
    def closed(self) -> tuple[str, ...]:
        """The namespaces whose requests are refused, sorted; with ``EVERYTHING`` first, if all are."""
        return tuple(sorted(_union(self._scopes))) if self.at_start else ()

    @property
    def shut(self) -> frozenset[Ref]:
        """The routes and Gateways whose requests are refused, though others of their namespace are served."""
        removed = (ref for ref, is_removal in self.held_back.items() if is_removal)
        return self.leaving.union(ref for ref in (*self.late, *removed) if is_entrance(ref))

    def cause(self, ref: Ref) -> str:
        """A file because of which a resource is held back or shut; one of ``reopening`` comes last."""
        own_scopes = {EVERYTHING, ref.namespace}
        outdated = {path: frozenset(of.namespace for of in refs) for path, refs in self.outdated.items()}
        causes = self._scopes or outdated
        concerning = [path for path, scopes in causes.items() if not scopes.isdisjoint(own_scopes)]
        return min(concerning or causes, key=lambda path: (path in self.reopening, path), default=HIDDEN)

    def suspect(
        self,
        files: Iterable[File],
        decisions: Edit,
        held: HeldResources,
        is_defined: Callable[[Ref], bool],
    ) -> Iterator[bool]:
        """Find the suspects among files with faults, before the decisions take effect; in steps.

        Args:
            files: those with faults.
            decisions: what is to be in force.
            held: what is in force.
            is_defined: whether a document defines a resource, so that no other one is meant as it.
        """
        if not self.strict:
            return
        faulty = [*files]

        def in_force(ref: Ref) -> bool:
            return ref in held or decisions.get(ref) is not None

        exposed = _exposed(decisions, held) if faulty and self.at_start else ()
        self.suspects = {
            file.path: tuple(_suspects(file, in_force, is_defined, exposed, at_start=self.at_start))
            for file in faulty
        }
        outdated = {file.path: frozenset(_outdated(file, held, is_defined)) for file in faulty}
        if self.out_of_reach:
            beyond = (ref for ref, each in held.items() if each.file in self.out_of_reach)
            outdated[HIDDEN] = frozenset(filter(is_guard, beyond))
        self.outdated = {path: refs for path, refs in outdated.items() if refs}
        if self.at_start:
            yield from self._compare_with_former(faulty, decisions, held)

    def repeated(self, ref: Ref, files: Iterable[str]) -> None:
        """Files define a policy in another way than it is in force; that may be meant as a new one."""
        if not self.strict:
            return
        for path in files:
            self.suspects[path] = (*self.suspects.get(path, ()), Suspect(ref, ref.namespace))

    def _compare_with_former(
        self, files: Iterable[File], decisions: Edit, held: Mapping[Ref, Held]
    ) -> Iterator[bool]:
        """Add suspects if the files without faults take requests from policies of the former process; in
        steps."""
        outdated = _union(self.outdated)
        former = self.former() if outdated else HeldResources()
        now = {**held, **decisions} if former else {}
        changes = {ref: now.get(ref) for ref in {**former, **now}}
        taken = yield from _taken_from_guards(outdated, changes, former, ())
        scopes = sorted({ref.namespace for ref in taken})
        self.is_unlike_former = bool(scopes)
        for file in files:
            parts = {_unsound_part(file, ref): not is_guard(ref) for ref in self.outdated.get(file.path, ())}
            more = (Suspect(part, scope, is_route) for part, is_route in parts.items() for scope in scopes)
            self.suspects[file.path] = (*self.suspects[file.path], *more)

    def is_begun(self) -> bool:
        """Whether there are suspects now, and were none before, though something was served."""
        return not self.at_start and not self._scopes and bool(_union(self._now()))

    def holds_back(self, decisions: Edit, held: HeldResources) -> Generator[bool, None, dict[Ref, bool]]:
        """What waits because of the documents that cannot be read now → whether it is removed; in steps."""
        back = yield from self._held_back(_union(self._now()), decisions, held)
        if self.outdated and not self.at_start:
            outdated = _union(self.outdated)
            back |= yield from _taken_from_guards(outdated, decisions, held, self._replaced)
            lost = yield from losing(held, decisions, (ref for ref in outdated if not is_guard(ref)))
            back |= {ref: decisions[ref] is None for ref in lost}
        return back

    def update(
        self,
        decisions: Edit,
        held: HeldResources,
        back: Mapping[Ref, bool],
        waiting: Collection[Ref],
        may_open: Callable[[str], bool],
    ) -> Iterator[bool]:
        """Decide what is closed and what is held back; in steps.

        Args:
            decisions: what is to be in force.
            held: what is in force.
            back: what ``holds_back`` says of these.
            waiting: the changes that wait for another reason.
            may_open: whether a file without suspects is to have no effect any more.
        """
        now = self._now()
        self.reopening = {
            path
            for path, before in self._scopes.items()
            if before - now.get(path, frozenset()) and not may_open(path)
        }
        now |= {path: self._scopes[path] | now.get(path, frozenset()) for path in self.reopening}
        self._scopes = {path: scopes for path, scopes in now.items() if scopes}
        back = {**back, **(yield from self._held_back(_union(self._scopes), decisions, held))}
        self.leaving = frozenset(ref for ref in self.shut if ref in waiting and decisions[ref] is None)
        self.held_back = {ref: is_removal for ref, is_removal in back.items() if ref not in waiting}
        removed = [ref for ref, is_removal in self.held_back.items() if is_removal]
        guarded = yield from guarded_routes(held, removed)
        self._replaced = frozenset((*self._replaced.intersection(removed), *guarded))
        if self.at_start or not self._scopes:
            self.late = {}
            return
        judge = _Judge(_union(self._scopes), held, self.late)
        come = (ref for ref in decisions if ref not in held and ref not in back)
        after = {ref: held.get(ref) for ref in self.late}
        after |= {ref: decisions[ref] for ref in (*after, *come) if ref in decisions and ref not in waiting}
        self.late = {}
        for ref, each in after.items():
            if each and judge.reaches(ref, each):
                self.late[ref] = None
            yield False

    def end(self, held: Collection[Ref]) -> None:
        """A batch is in force: from the first without suspects on, what is served stays as it was."""
        self.at_start = self.at_start and (bool(self._scopes) or not held)
        if not self.at_start:
            self.former, self.is_unlike_former = HeldResources, False

    def _now(self) -> dict[str, frozenset[str]]:
        now = {path: frozenset(each.scope for each in suspects) for path, suspects in self.suspects.items()}
        if self.strict and self.hidden:
            now[HIDDEN] = frozenset({EVERYTHING})
        return now

    def _held_back(
        self, scopes: frozenset[str], decisions: Edit, held: HeldResources
    ) -> Generator[bool, None, dict[Ref, bool]]:
        """What suspects of some scopes hold back → whether it is removed; in steps."""
        back: dict[Ref, bool] = {}
        if self.at_start or not scopes:
            return back
        judge = _Judge(scopes, held, self.late)
        for ref, after in decisions.items():
            if judge.holds_back(ref, held.get(ref), after):
                back[ref] = after is None
            yield False
        return back


class _Judge:
    """Says which changes could let more requests through.

    Args:
        scopes: what may be concerned.
        held: what is in force.
        late: the resources that came after what is served was to stay as it was.
    """

    def __init__(self, scopes: frozenset[str], held: Mapping[Ref, Held], late: Collection[Ref]) -> None:
        self._scopes, self._held, self._late = scopes, held, late

    def holds_back(self, ref: Ref, before: Held | None, after: Held | None) -> bool:
        """Whether a change waits."""
        if ref in self._late or (before and before.resource) == (after and after.resource):
            return False
        either = before or after
        assert either is not None, "one of them differs from the other"
        if not self.reaches(ref, either):
            return False
        if after is None:
            kinds = Route | Gateway | ListenerSet | Policy | BackendTLSPolicy | Namespace | EnvoyGateway
            return isinstance(either.resource, kinds)
        if before is None:
            return self._is_missed(ref, after.resource)
        match before.resource:
            case Secret() | ConfigMap() | Backend():
                return False
            case EndpointSlice():
                return not before.resource.endpoints
            case _:
                return True

    def reaches(self, ref: Ref, held: Held) -> bool:
        """Whether a change of a resource may let requests through within the scopes."""
        if self._scopes & {EVERYTHING, ref.namespace} or not ref.namespace or ref.is_a(ReferenceGrant):
            return True
        match held.resource:
            case Policy():
                return not self._needed.isdisjoint(references_of(held.resource))
            case EndpointSlice():
                return _service(held.resource) in self._needed
            case _:
                return ref in self._needed

    def _is_missed(self, ref: Ref, resource: Resource | EnvoyGateway) -> bool:
        """Whether something that is served until now may be served in another way with a new resource."""
        match resource:
            case Route() | Gateway() | ListenerSet():
                return False
            case EndpointSlice():
                return _service(resource) in self._needed
            case BackendTLSPolicy():
                return False
            case EnvoyGateway() | ReferenceGrant() | Namespace() | HTTPRouteFilter() | Policy():
                return not is_guard(ref)
            case _:
                return ref in self._needed

    @cached_property
    def _needed(self) -> frozenset[Ref]:
        """What the routes and Gateways refer to that were served before, and their classes."""
        return frozenset(
            to
            for ref, held in self._held.items()
            if ref not in self._late
            and isinstance(held.resource, Route | Gateway | ListenerSet | GatewayClass)
            and (self._scopes & {EVERYTHING, ref.namespace} or not ref.namespace)
            for to in references_of(held.resource)
        )


def _service(endpoints: EndpointSlice) -> Ref:
    return Ref.of(Service, endpoints.metadata.namespace, endpoints.service or "")


def _union(by_file: Mapping[str, frozenset[_T]]) -> frozenset[_T]:
    return frozenset[_T]().union(*by_file.values())


def _exposed(decisions: Edit, held: Mapping[Ref, Held]) -> tuple[str, ...]:
    """The namespaces with a policy about who may pass, a target of which is missing or unknown."""
    after = {ref: each for ref, each in decisions.items() if each is not None}
    return tuple(
        sorted(
            {
                ref.namespace
                for ref, each in {**held, **after}.items()
                if isinstance(each.resource, SecurityPolicy)
                and (
                    each.resource.spec.target_selectors
                    or any(
                        to.is_a(kind) and to not in held and to not in after
                        for to in references_of(each.resource)
                        for kind in ROUTE_TYPES
                    )
                )
            }
        )
    )


def _outdated(file: File, held: Mapping[Ref, Held], is_defined: Callable[[Ref], bool]) -> Iterator[Ref]:
    """The policies about who may pass that a file with faults leaves in an older state, and its routes.

    A route whose name or kind cannot be made out has no name.
    """
    faulty = [file.documents[number] for number in file.faulty]
    entries = (entry for document in faulty for entry in document.entries)
    unread = (entry.ref for entry in entries if entry.ref is not None and entry.resource is None)
    retained = (ref for ref in (*file.retained, *file.adopted) if not is_defined(ref))
    for ref in (*retained, *unread):
        if is_guard(ref):
            former = held.get(ref)
            faulty_ones = FaultySecurityPolicy | FaultyBackendTLSPolicy
            if former is not None and not isinstance(former.resource, faulty_ones):
                yield ref
        elif any(ref.is_a(kind) for kind in ROUTE_TYPES):
            yield ref
    if not any(map(is_entrance, (*file.retained, *file.adopted))):
        unnamed = _like_routes(file, lambda _ref: True)
        yield from (Ref.of(ROUTE_TYPES[0], scope, "") for _, scope in unnamed)


def _like_routes(file: File, is_known: Callable[[Ref], bool]) -> Iterator[tuple[object, str]]:
    """The parts of a file that cannot be read and may be a route, each with its namespace or ``EVERYTHING``.

    Args:
        file: with faults.
        is_known: whether a route needs no such part to be known.
    """
    if file.unreadable is not None and may_route(file.unreadable.text or ""):
        yield file.unreadable, EVERYTHING
    for number in file.faulty:
        document = file.documents[number]
        for entry in document.entries:
            if entry.severity != "error" or (entry.ref is not None and is_known(entry.ref)):
                continue
            if is_like_route(entry.named.kind) if entry.named is not None else may_route(document.text):
                yield entry, entry.named.namespace if entry.named is not None else EVERYTHING
        if document.malformed is not None and may_route(document.text):
            yield document, EVERYTHING


def _unsound_part(file: File, ref: Ref) -> object:
    """The part of a file that cannot be read, and may define a resource."""
    if file.unreadable is not None:
        return file.unreadable
    documents = [file.documents[number] for number in file.faulty]
    entries = [e for document in documents for e in document.entries if e.problems and e.severity == "error"]
    own = (entry for entry in entries if entry.ref == ref)
    malformed = (document for document in documents if document.malformed is not None)
    return next(part for part in (*own, *malformed, *entries))


def _taken_from_guards(
    outdated: Collection[Ref], decisions: Edit, held: HeldResources, replaced: Collection[Ref]
) -> Generator[bool, None, dict[Ref, bool]]:
    """The changes that take requests from policies about who may pass → whether they are removals; in steps.

    Args:
        outdated: the policies and routes that are or may be in an older state than their text.
        decisions: what is to be in force.
        held: what is in force.
        replaced: the routes whose removal this held back before.
    """
    everywhere = {ref.namespace for ref in outdated}
    by_guards = {ref.namespace for ref in outdated if is_guard(ref)}
    removed = [ref for ref, after in decisions.items() if after is None and ref in held]
    guards = (ref for ref in removed if is_guard(ref) and ref.namespace in by_guards)
    guarded = {*(yield from guarded_routes(held, removed)), *(ref for ref in removed if ref in replaced)}
    routes = (ref for ref in removed if ref in guarded and everywhere & {EVERYTHING, ref.namespace})
    taking = (yield from uncovering(held, decisions)) if by_guards else ()
    changed = (ref for ref in taking if ref.namespace in by_guards)
    return {ref: decisions[ref] is None for ref in (*changed, *guards, *routes)}


def _suspects(
    file: File,
    in_force: Callable[[Ref], bool],
    is_defined: Callable[[Ref], bool],
    exposed: Sequence[str],
    *,
    at_start: bool,
) -> Iterator[Suspect]:
    """The suspects of a file. Each policy that stays in its last good state accounts for one of them."""
    guards = [ref for ref in file.retained if is_guard(ref) and in_force(ref)]
    accounted = sum(not is_defined(ref) for ref in guards)
    suspects: list[tuple[Suspect, int]] = []
    unreadable = file.unreadable
    if unreadable is not None and unreadable.text is None:
        # Unlike at the start, it is known what was in it a moment ago.
        if not guards and (at_start or not file.retained):
            yield Suspect(unreadable, EVERYTHING)
    elif unreadable is not None and may_guard(unreadable.text or ""):
        suspects.append((Suspect(unreadable, EVERYTHING), guards_in(unreadable.text or "")))
    for number in file.faulty:
        document = file.documents[number]
        if document.guards:
            suspects.append((Suspect(document, EVERYTHING), guards_in(document.text)))
        suspects += (
            (Suspect(entry, entry.scope), 1)
            for entry in document.entries
            if entry.scope is not None and not (entry.ref is not None and in_force(entry.ref))
        )
    for suspect, count in suspects:
        if count > accounted:
            yield suspect
        else:
            accounted -= count
    if not exposed:
        return
    parts = _like_routes(file, in_force)
    yield from (Suspect(part, scope, is_route=True) for part, _ in parts for scope in exposed)


def is_guard(ref: Ref) -> bool:
    """Whether a resource may say who may pass, or that nothing is sent to a backend in the clear."""
    return any(ref.is_a(kind) for kind in (SecurityPolicy, ClientTrafficPolicy, BackendTLSPolicy))


def is_entrance(ref: Ref) -> bool:
    """Whether requests are answered with 500 by closing a resource alone."""
    return any(ref.is_a(kind) for kind in (Gateway, ListenerSet, *ROUTE_TYPES))


def closing_effect(effect: str, suspects: Iterable[Suspect], *, at_start: bool) -> str:
    """The effect of a fault, with what happens to requests because of it."""
    suspects = tuple(suspects)
    if not suspects:
        return effect
    scopes = sorted({each.scope for each in suspects})
    which = f"routes and Gateways of namespace {', '.join(scopes)}" if EVERYTHING not in scopes else "routes"
    why = "It may say who may pass"
    if all(each.is_route for each in suspects):
        why = "It may be a route that a policy protects, and other routes would take its requests"
    if at_start:
        all_of = f"all {which}" if EVERYTHING in scopes else f"the {which}"
        closes = f"{why}, so all requests to {all_of} are answered with 500 until this is fixed;"
    else:
        closes = (
            f"{why}, so until this is fixed what is served stays as it was, requests to new {which} are "
            "answered with 500, and other changes that may let requests through wait;"
        )
    return f"{effect} {closes} `moongate run --permissive` serves them.".strip()
