"""The status of a ListenerSet: whether its Gateway takes it, and each of its listeners.

Theory of operation
===================
``listener_set_status`` has what follows from resources. ``live_set`` adds the state of Envoys just before a
status is shown or written, as for a Gateway.

Source: Gateway API, ``ListenerSetStatus`` (GEP-1713); the reference for reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from moongate.api.listenerset import ListenerSet
from moongate.attach.listener_sets import gateway_of, set_refusal
from moongate.attach.listeners import LISTENERS_NOT_VALID
from moongate.engine import query
from moongate.status.conditions import condition, summary, unsupported
from moongate.status.gateways import (
    ListenerStatus,
    as_in_envoy,
    is_pending,
    is_true,
    listener_statuses,
)
from moongate.store import get

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moongate.api.base import Condition, Ref
    from moongate.engine import Db
    from moongate.status.gateways import EnvoyState

_ALL_PROGRAMMED: Final = "All listeners are sent to Envoy."


class ListenerSetStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``status`` of a ListenerSet."""

    conditions: tuple[Condition, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()


@query
def listener_set_status(db: Db, listener_set: Ref) -> ListenerSetStatus | None:
    """The status of a ListenerSet without the state of Envoys; ``None`` if its Gateway is not ours."""
    resource = get(db, ListenerSet, listener_set)
    if resource is None or gateway_of(db, listener_set) is None:
        return None
    generation = resource.metadata.generation
    refused = set_refusal(db, listener_set)
    if refused is not None:
        message = summary([refused])
        return ListenerSetStatus(
            conditions=(
                condition("Accepted", "False", refused.reason, message, generation),
                condition("Programmed", "False", refused.reason, message, generation),
            )
        )
    listeners = listener_statuses(db, listener_set)
    return ListenerSetStatus(
        conditions=(
            _accepted(listeners, generation),
            _programmed(listeners, generation),
            *unsupported(resource),
        ),
        listeners=listeners,
    )


def live_set(status: ListenerSetStatus, envoys: EnvoyState, generation: int) -> ListenerSetStatus:
    """A ListenerSet's status with the state of the Envoys of its Gateway.

    Args:
        status: the status that follows from resources.
        envoys: the state of the Envoys, with what they refuse of this set.
        generation: that of the ListenerSet.
    """
    listeners = tuple(as_in_envoy(each, envoys, generation) for each in status.listeners)
    now = _programmed(listeners, generation)
    conditions = tuple(
        # What keeps it from being served anyway says more.
        now if each.type == "Programmed" and each.status == "True" else each
        for each in status.conditions
    )
    return structs.replace(status, conditions=conditions, listeners=listeners)


def _accepted(listeners: Sequence[ListenerStatus], generation: int) -> Condition:
    refused = sorted(each.name for each in listeners if not is_true(each, "Accepted"))
    if not refused:
        message = "The Gateway takes all listeners of this set."
        return condition("Accepted", "True", "Accepted", message, generation)
    some = len(refused) < len(listeners)
    message = f"{'Not valid, so not served' if some else 'No listener is valid'}: {', '.join(refused)}."
    return condition("Accepted", str(some), LISTENERS_NOT_VALID, message, generation)


def _programmed(listeners: Sequence[ListenerStatus], generation: int) -> Condition:
    missing = [each for each in listeners if not is_true(each, "Programmed")]
    named = ", ".join(sorted(each.name for each in missing))
    if len(missing) < len(listeners):
        message = f"Not programmed: {named}." if missing else _ALL_PROGRAMMED
        return condition("Programmed", "True", "Programmed", message, generation)
    reason = "Pending" if any(map(is_pending, missing)) else LISTENERS_NOT_VALID
    message = f"None of its listeners is programmed: {named}."
    return condition("Programmed", "False", reason, message, generation)
