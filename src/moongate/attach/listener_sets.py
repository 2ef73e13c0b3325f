"""Which ListenerSets a Gateway takes: they add listeners of other teams to its own.

Theory of operation
===================
An *owner* of listeners is a Gateway, or a ListenerSet that a Gateway of ours takes. ``owners`` has those of a
Gateway in the order in which they get ports and hostnames: first the Gateway itself, then its sets, the
oldest first. What is said of listeners is asked for by their owner, so a change of one set re-runs little for
the others.

Source: Gateway API, ListenerSet (GEP-1713) and ``Gateway.spec.allowedListeners``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.gateway import Gateway, Listener, ListenerNamespaces
from moongate.api.listenerset import ListenerSet
from moongate.attach.fleets import seniority
from moongate.attach.gateways import managed, rejection
from moongate.attach.namespaces import selects
from moongate.engine import Failed, query
from moongate.problem import Problem
from moongate.store import Index, find, get

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moongate.engine import Db

PARENT_NOT_ACCEPTED = "ParentNotAccepted"
"""The reason of a ListenerSet whose Gateway is rejected."""
NOT_ALLOWED = "NotAllowed"
"""The reason of a ListenerSet that its Gateway does not take."""


def parent_of_set(listener_set: ListenerSet) -> Ref | None:
    """The Gateway that a ListenerSet names, ours or not; ``None`` when it names something else."""
    parent = listener_set.spec.parent_ref
    if (parent.group, parent.kind) != (GATEWAY_GROUP, Gateway.KIND):
        return None
    return Ref.of(Gateway, parent.namespace or listener_set.metadata.namespace, parent.name)


def _by_parent(listener_set: ListenerSet) -> Iterator[tuple[Ref, Ref]]:
    if (gateway := parent_of_set(listener_set)) is not None:
        yield gateway, listener_set.ref


LISTENER_SETS: Index[ListenerSet, Ref] = Index("listener-sets", (ListenerSet,), _by_parent)
"""Gateway → ListenerSets that name it as their parent."""


def gateway_of(db: Db, owner: Ref) -> Ref | None:
    """The Gateway of ours that an owner of listeners is, or names; ``None`` when there is none.

    A ListenerSet has one also if that does not take it.
    """
    if owner.is_a(Gateway):
        return owner if managed(db, owner) else None
    return gateway_of_set(db, owner)


def known_gateway_of(db: Db, owner: Ref) -> Ref | None:
    """As ``gateway_of``; while that fails, the one that is written, if it was ours when that was known."""
    if owner.is_a(Gateway):
        return owner if managed.last_good(db, owner) is True else None
    gateway = gateway_of_set.attempt(db, owner)
    if not isinstance(gateway, Failed):
        return gateway
    resource = get(db, ListenerSet, owner)
    written = parent_of_set(resource) if resource is not None else None
    return written if written is not None and managed.last_good(db, written) is True else None


@query
def gateway_of_set(db: Db, listener_set: Ref) -> Ref | None:
    """The Gateway of ours that a ListenerSet names; ``None`` when there is none."""
    resource = get(db, ListenerSet, listener_set)
    gateway = parent_of_set(resource) if resource is not None else None
    return gateway if gateway is not None and managed(db, gateway) else None


@query
def set_refusal(db: Db, gateway: Ref, listener_set: Ref) -> Problem | None:
    """Why a Gateway of ours does not take a ListenerSet that names it; ``None`` when it does.

    Asked for by both: where this fails, no Gateway takes a set because another one took it before.
    """
    if rejection(db, gateway) is not None:
        message = f"{gateway} is not accepted; its own status tells why."
        return Problem("spec.parentRef", message, PARENT_NOT_ACCEPTED)
    allowed = _allowed_listeners(db, gateway)
    if _allows(db, allowed, gateway, listener_set):
        return None
    message = (
        f"{gateway} does not take listeners from namespace {listener_set.namespace}: its "
        f"spec.allowedListeners.namespaces.from is {allowed.from_}."
    )
    return Problem("spec.parentRef", message, NOT_ALLOWED)


@query
def _allowed_listeners(db: Db, gateway: Ref) -> ListenerNamespaces:
    resource = get(db, Gateway, gateway)
    allowed = resource.spec.allowed_listeners if resource is not None else None
    return allowed.namespaces if allowed is not None else ListenerNamespaces()


def _allows(db: Db, allowed: ListenerNamespaces, gateway: Ref, listener_set: Ref) -> bool:
    match allowed.from_:
        case "All":
            return True
        case "Same":
            return listener_set.namespace == gateway.namespace
        case "Selector":
            return allowed.selector is not None and selects(db, allowed.selector, listener_set.namespace)
        case _:
            return False


@query
def owners(db: Db, gateway: Ref) -> tuple[Ref, ...]:
    """The owners of the listeners of a Gateway: itself, and then the ListenerSets that it takes, by age.

    A set is taken as it was before by this Gateway while that cannot be judged, and not if it never was.
    """
    sets = find(db, LISTENER_SETS, gateway)
    judged = zip(sets, set_refusal.attempt_each(db, [(gateway, each) for each in sets]), strict=True)
    taken = [
        each
        for each, refused in judged
        if (set_refusal.last_good(db, gateway, each) if isinstance(refused, Failed) else refused) is None
    ]
    return (gateway, *sorted(taken, key=lambda each: (seniority(db, each), each)))


def serving_gateway(db: Db, owner: Ref) -> Ref | None:
    """The Gateway whose Envoys serve the listeners of an owner; ``None`` when none does.

    None does for a Gateway that is rejected, and for a set that its Gateway does not take.
    """
    gateway = gateway_of(db, owner)
    if gateway is None or rejection(db, gateway) is not None:
        return None
    return gateway if owner == gateway or set_refusal(db, gateway, owner) is None else None


def owners_of_each(db: Db, gateways: Sequence[Ref]) -> list[tuple[Ref, ...]]:
    """The owners of the listeners of each of some Gateways. While that fails, those that there were."""
    last: list[tuple[Ref, ...]] = []
    answers = owners.attempt_each(db, [(gateway,) for gateway in gateways])
    for gateway, answer in zip(gateways, answers, strict=True):
        kept = owners.last_good(db, gateway) if isinstance(answer, Failed) else answer
        last.append((gateway,) if isinstance(kept, Failed) else kept)
    return last


def owners_of(db: Db, gateways: Sequence[Ref]) -> list[Ref]:
    """Those of ``owners_of_each`` of all these Gateways, in order."""
    return [owner for of_one in owners_of_each(db, gateways) for owner in of_one]


@query
def listener_specs(db: Db, owner: Ref) -> tuple[Listener, ...]:
    """The listeners that a Gateway or a ListenerSet has in its spec; none when it does not exist."""
    resource: Gateway | ListenerSet | None = db.read(owner)
    return resource.spec.listeners if resource is not None else ()


def written_listeners(db: Db, gateway: Ref, owner: Ref) -> tuple[Listener, ...]:
    """The listeners that a Gateway of ours, or a ListenerSet that names it, has in its spec.

    It reads nothing but the owner itself, so they are known also while ``listener_specs`` or the Gateway of a
    set is not.
    """
    resource: Gateway | ListenerSet | None = db.read(owner)
    if resource is None or (isinstance(resource, ListenerSet) and parent_of_set(resource) != gateway):
        return ()
    return resource.spec.listeners
