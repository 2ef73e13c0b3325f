"""Statuses in the form for users: those of the core, with the state of Envoys and with times.

Theory of operation
===================
The core builds statuses without times and without the state of Envoys. This module adds both: the state of
a fleet changes the statuses of its Gateways and ListenerSets, and a refusal changes those of the routes and
policies that it concerns.
Each condition gets the time at which its ``status`` last changed. A condition is identified by its type, and
its entry in the status by its subject (a listener, a parent, an ancestor), never by its place in a list.
Documents are stored, so that a request for them costs nothing. ``transitions`` has the conditions that turned
bad or good again, for the log.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import structs

from moongate import names
from moongate.api.base import ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.route import ConnectionRoute
from moongate.attach.listener_conflicts import PORT_UNAVAILABLE
from moongate.attach.listener_sets import parent_of_set
from moongate.report.transitions import Transitions
from moongate.status.conditions import condition, sentence
from moongate.status.degraded import degradations, faulty_fields
from moongate.status.gateways import (
    STAYS_AS_IT_WAS,
    EnvoyState,
    GatewayStatus,
    live,
)
from moongate.status.listener_sets import ListenerSetStatus, live_set
from moongate.status.policies import PolicyStatus, policies_of_listener
from moongate.status.routes import RouteStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from msgspec import Struct

    from moongate.api.base import Condition, Resource
    from moongate.quarantine import Refusal
    from moongate.report.transitions import Transition
    from moongate.status.degraded import Degradation

NO_ENVOY = EnvoyState(serving=0)

REFUSED: Final = "Refused"
"""The reason of a route or policy that Envoy refuses."""


def now() -> str:
    """The present time in the form of statuses: RFC 3339, UTC, whole seconds."""
    return time_before(0)


def time_before(seconds: float) -> str:
    """The time some seconds ago, in the same form."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)  # noqa: TID251 - conditions have times
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


class Statuses:
    """The statuses in force, as documents of the API.

    Args:
        resources: all resources in force.
        clock: returns the time as text.
        logged: whether the log has a field of a resource already; see ``Transitions``.
    """

    def __init__(
        self,
        resources: Mapping[Ref, Resource],
        clock: Callable[[], str] = now,
        logged: Callable[[Ref, str], bool] = lambda _ref, _path: False,
    ) -> None:
        self._resources = resources
        self._clock = clock
        self._core: dict[Ref, Struct] = {}
        self._envoys: dict[Ref, EnvoyState] = {}
        self._refusals: dict[Ref, list[str]] = {}
        self._of_requests: set[Ref] = set()
        """The policies with settings of routes and clusters that Envoys refuse, and of no listener."""
        self._documents: dict[Ref, dict[str, Any]] = {}
        self._transitions = Transitions(logged)

    def update(self, statuses: Mapping[Ref, Struct | None]) -> None:
        """Take changed statuses of the core; ``None`` for a resource that has no status any more."""
        for ref, status in statuses.items():
            if status is None:
                self._core.pop(ref, None)
                self._documents.pop(ref, None)
                self._transitions.forget(ref)
            else:
                self._core[ref] = status
                self._render(ref)

    def observe(self, states: Mapping[Ref, EnvoyState], refusals: Iterable[Refusal]) -> None:
        """Take the states of the Envoys of all Gateways and ListenerSets, and all refusals."""
        messages: dict[Ref, list[str]] = {}
        of_requests: dict[Ref, dict[tuple[str, str], list[str]]] = {}
        of_others: set[Ref] = set()
        for refusal in refusals:
            fleet, why = names.fleet(refusal.fleet), refusal.message.removesuffix(".")
            message = f"Envoy of {fleet} refuses it: {why}."
            for ref in refusal.resources:
                known = messages.setdefault(ref, [])
                if message not in known:
                    known.append(message)
            of_others.update(refusal.resources)
            for policy in refusal.policies:
                of_same = of_requests.setdefault(policy, {})
                of_same.setdefault((fleet, why.removeprefix(f"{refusal.what}: ")), []).append(refusal.what)
        for policy, of_policy in of_requests.items():
            messages.setdefault(policy, []).extend(
                f"Envoy of {fleet} refuses {_named(refused)}, with settings of this policy: {why}."
                for (fleet, why), refused in of_policy.items()
            )
        for policy, message in self._refused_settings(states):
            messages.setdefault(policy, []).append(message)
            of_others.add(policy)
        self._of_requests = of_requests.keys() - of_others
        changed = {*_differing(states, self._envoys), *_differing(messages, self._refusals)}
        self._envoys, self._refusals = dict(states), messages
        for ref in changed & self._core.keys():
            self._render(ref)

    def _refused_settings(self, states: Mapping[Ref, EnvoyState]) -> Iterator[tuple[Ref, str]]:
        """The policies that have settings of a listener that Envoy refuses, each with a message.

        Envoy does not say which setting it is, and one policy at most has those of a listener.
        """
        for owner, state in sorted(states.items()):
            resource = self._resources.get(owner)
            gateway = parent_of_set(resource) if isinstance(resource, ListenerSet) else owner
            for listener in state.refused_listeners:
                if listener.reason == PORT_UNAVAILABLE or gateway is None:
                    continue
                for policy in policies_of_listener(self._core, ListenerId(gateway, owner, listener.name)):
                    message = (
                        f"Envoy refuses listener {listener.name!r} of {owner}, which has the settings of "
                        f"this policy: {sentence(listener.message)}"
                    )
                    yield policy, message

    def documents(self) -> list[dict[str, Any]]:
        """All statuses as documents: ``apiVersion``, ``kind``, ``metadata``, ``status``; sorted."""
        return [self._documents[ref] for ref in sorted(self._documents)]

    def document(self, ref: Ref) -> dict[str, Any] | None:
        """The status of one resource as a document; ``None`` if it has none."""
        if not isinstance(ref, Ref):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may have no types
            raise TypeError(f"The resource must be named by a Ref; this is of type {type(ref).__name__}.")
        return self._documents.get(ref)

    def has(self, ref: Ref) -> bool:
        """Whether a resource has a status."""
        return ref in self._documents

    def degradations(self, ref: Ref) -> Iterator[Degradation]:
        """The conditions of a resource that mean degradation, without the state of its Envoys."""
        resource, status = self._resources.get(ref), self._core.get(ref)
        return iter(()) if resource is None or status is None else degradations(resource, status)

    def faulty_fields(self, ref: Ref) -> frozenset[str]:
        """The fields because of which a resource is not in force as it is written, as its status says."""
        resource, status = self._resources.get(ref), self._core.get(ref)
        return frozenset() if resource is None or status is None else faulty_fields(resource, status)

    def transitions(self) -> list[Transition]:
        """Conditions that turned bad, or good again, since the last call."""
        return self._transitions.transitions()

    def _render(self, ref: Ref) -> None:
        resource = self._resources.get(ref)
        if resource is None:
            return
        kind = type(resource)
        overlaid = self._overlaid(ref, resource, self._core[ref])
        self._transitions.look(ref, resource, overlaid)
        # Through JSON, because ``to_builtins`` would leave tuples in the document.
        status = msgspec.json.decode(msgspec.json.encode(overlaid))
        before = self._documents.get(ref)
        _stamp(status, before["status"] if before is not None else {}, self._clock())
        metadata: dict[str, Any] = {"name": ref.name}
        if ref.namespace:
            metadata["namespace"] = ref.namespace
        version = f"{kind.GROUP}/{kind.VERSIONS[0]}" if kind.GROUP else kind.VERSIONS[0]
        self._documents[ref] = {
            "apiVersion": version,
            "kind": ref.kind,
            "metadata": metadata,
            "status": status,
        }

    def _overlaid(self, ref: Ref, resource: Resource, status: Struct) -> Struct:
        if isinstance(status, GatewayStatus) and isinstance(resource, Gateway):
            return live(status, resource, self._envoys.get(ref, NO_ENVOY))
        if isinstance(status, ListenerSetStatus):
            return live_set(status, self._envoys.get(ref, NO_ENVOY), resource.metadata.generation)
        messages = self._refusals.get(ref)
        if not messages:
            return status
        generation = resource.metadata.generation
        if isinstance(status, PolicyStatus) and ref not in self._of_requests:
            kept = STAYS_AS_IT_WAS
        else:
            kept = _KEPT_OPEN if isinstance(resource, ConnectionRoute) else _KEPT
        refused = condition("Programmed", "False", REFUSED, " ".join((*messages, kept)), generation)
        if isinstance(status, PolicyStatus):
            ancestors = (
                structs.replace(each, conditions=_with(each.conditions, refused)) for each in status.ancestors
            )
            return structs.replace(status, ancestors=tuple(ancestors))
        if isinstance(status, RouteStatus):
            parents = (structs.replace(p, conditions=_with(p.conditions, refused)) for p in status.parents)
            return structs.replace(status, parents=tuple(parents))
        return status


_KEPT: Final = "What was in force of it stays so; requests to what never was are answered with 500."
"""What happens to the requests of a route that Envoy refuses in part."""
_KEPT_OPEN: Final = "What was in force of it stays so; connections to what never was are closed."
"""What happens to the connections of a route that Envoy refuses."""


def _named(refused: list[str]) -> str:
    """What is refused, in words: of several, the first."""
    one = next(iter(refused))
    return one if len(refused) == 1 else f"{one} and {len(refused) - 1} more"


def _with(conditions: tuple[Condition, ...], condition: Condition) -> tuple[Condition, ...]:
    """Conditions with another one, which replaces the one of its type."""
    return (*(c for c in conditions if c.type != condition.type), condition)


def _differing(one: Mapping[Ref, Any], other: Mapping[Ref, Any]) -> Iterator[Ref]:
    """The keys whose values differ between two mappings."""
    return (ref for ref in one.keys() | other.keys() if one.get(ref) != other.get(ref))


def _stamp(status: dict[str, Any], before: dict[str, Any], time: str) -> None:
    """Give each condition its ``lastTransitionTime``: the one it had, unless its ``status`` changed.

    Args:
        status: a status as plain data, or a part of one; changed in place.
        before: the former state of the same part, with times; empty if there was none.
        time: the time of new and changed conditions.
    """
    for key, value in status.items():
        if isinstance(value, dict):
            _stamp(cast("dict[str, Any]", value), before.get(key, {}), time)
        elif isinstance(value, list):
            entries, former = cast("list[Any]", value), before.get(key, [])
            for entry in entries:
                if isinstance(entry, dict):
                    _stamp_entry(cast("dict[str, Any]", entry), former, time)


def _stamp_entry(entry: dict[str, Any], former: list[dict[str, Any]], time: str) -> None:
    about = _identity(entry)
    nothing: dict[str, Any] = {}
    before = next((other for other in former if _identity(other) == about), nothing)
    if entry.keys() >= _CONDITION:
        kept = before.get("status") == entry["status"]
        entry["lastTransitionTime"] = before["lastTransitionTime"] if kept else time
    else:
        _stamp(entry, before, time)


def _identity(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields that identify an entry of a list in a status."""
    return {key: entry[key] for key in _IDENTITY if key in entry}


_IDENTITY: Final = ("type", "name", "parentRef", "ancestorRef", "controllerName")
"""The fields that identify entries of lists: conditions, listeners, parents, ancestors."""

_CONDITION: Final = {"type", "status", "reason"}
"""Fields that conditions have, and no other entries."""
