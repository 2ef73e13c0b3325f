"""Which changes wait, because the edit that they are a part of may not be whole yet.

The files of one edit come one after another. What is in force in between would be neither the former state
nor the new one.

Rules
=====
1. A change may wait that may be the first half of an edit over several files: a resource is removed, or
   refers to one that does not exist. All other changes take effect at once, except together with the removal
   of a Gateway or ListenerSet, of a policy, or of what a policy refers to, or with a change that takes a
   policy from a target or from requests (``coverage``): then all of the edit wait, so that no port is wanted
   twice, and nothing is served without its policy.
2. Changed endpoints do not wait with an edit that cannot change how they are used. They decide neither which
   port is wanted nor which policy holds, but a policy that comes or goes may be meant for the new ones. So
   they wait with one that names their backend, or a route to it; with one on a Gateway or with a selector, as
   that may be about any route; and with any change that is no policy, as that may bring requests to them.
   As with other changes, nothing is known of files that come later.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Protocol

from moongate.api.base import Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.route import Route
from moongate.attach.backends import backends_of, is_of_endpoints
from moongate.attach.policies import Policy
from moongate.dangling import references_of
from moongate.sources.coverage import uncovering
from moongate.sources.file_states import Held
from moongate.sources.in_force import REFERRING, Edit, HeldResources


class Waits(Protocol):
    """Says whether a change has to wait, as it may be the first half of an edit.

    The arguments are what changes: a resource, or a file that closes requests; the file that it is in force
    from; and whether other resources may be in force that are still to change with it.
    """

    def unfinished(self, what: Ref | str, file: str, /, *, used: bool) -> bool:
        """Whether the edit may go on, so that what changes with this waits too."""
        ...

    def stays(self, what: Ref | str, file: str, /, *, used: bool) -> bool:
        """Whether what is gone stays in force: as long as the edit may go on, or its file may come back."""
        ...


def unready(in_force: HeldResources, edit: Edit, waits: Waits) -> Generator[bool, None, dict[Ref, None]]:
    """The resources that stay as they are until a later commit; in steps."""
    removed: dict[Ref, Held] = {}
    going_on: set[Ref] = set()
    for ref, after in edit.items():
        before = in_force.get(ref)
        if before is not None and after is None:
            removed[ref] = before
        either = before or after
        if either is not None and waits.unfinished(ref, either.file, used=True):
            going_on.add(ref)
        yield False
    exclusive = yield from _is_exclusive(in_force, removed, edit)
    waiting: set[Ref] = set()
    for ref, held in removed.items():
        if waits.stays(ref, held.file, used=exclusive or not isinstance(held.resource, Route)):
            waiting.add(ref)
        yield False
    if exclusive and waiting & going_on:
        waiting |= going_on.difference((yield from _apart(in_force, edit)))
        return {ref: None for ref in edit if ref in waiting}
    for ref, after in edit.items():
        yield False
        before = in_force.get(ref)
        if before is None or after is None or before.resource == after.resource:
            continue
        missing = {to for to in references_of(after.resource) if to not in in_force and edit.get(to) is None}
        if ref in going_on and missing.difference(references_of(before.resource)):
            waiting.add(ref)
    # What waits may be just the policy of what does not.
    ready = {ref: after for ref, after in edit.items() if ref not in waiting}
    if not going_on.isdisjoint((yield from uncovering(in_force, ready))):
        waiting |= going_on.difference((yield from _apart(in_force, edit)))
    return {ref: None for ref in edit if ref in waiting}


def _apart(in_force: HeldResources, edit: Edit) -> Generator[bool, None, Collection[Ref]]:
    """The changed endpoints that no other change may be about (rule 2); in steps."""
    endpoints: dict[Ref, frozenset[Ref]] = {}
    concerned: set[Ref] = set()
    for ref, after in edit.items():
        yield False
        before = in_force.get(ref)
        old, new = before and before.resource, after and after.resource
        if old == new:
            continue
        if is_of_endpoints(old, new):
            endpoints[ref] = backends_of(ref, old, new)
            continue
        for state in (old, new):
            named = _named_by(in_force, state) if state is not None else ()
            if named is None:
                return ()
            concerned.update(named)
    return [ref for ref, backends in endpoints.items() if concerned.isdisjoint(backends)]


def _named_by(in_force: HeldResources, resource: Resource | EnvoyGateway) -> Collection[Ref] | None:
    """What a policy refers to, and what its targets do; None if it may be about any backend."""
    if not isinstance(resource, Policy) or resource.spec.target_selectors:
        return None
    named = references_of(resource)
    targets = [held.resource for ref in named if (held := in_force.get(ref)) is not None]
    if any(isinstance(target, Gateway | ListenerSet) for target in targets):
        return None
    return named.union(*map(references_of, targets))


def _is_exclusive(
    in_force: HeldResources, removed: Collection[Ref], edit: Edit
) -> Generator[bool, None, bool]:
    """Whether one of these resources must not be in force beside what takes its place; in steps.

    That is what has ports, a Gateway or ListenerSet; a policy, which has targets; and what one refers to.
    """
    for ref in removed:
        owns = isinstance(in_force[ref].resource, Policy | Gateway | ListenerSet)
        if owns or in_force.look_up(REFERRING, ref):
            return True
        yield False
    for after in edit.values():
        come = after and after.resource
        if isinstance(come, Policy) and not references_of(come).isdisjoint(removed):
            return True
        yield False
    return False
