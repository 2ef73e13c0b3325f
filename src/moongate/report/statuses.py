"""Statuses as users see them: what the core says, what the Envoys say, and since when.

Theory of operation
===================
The core tells statuses without times and without knowing whether an Envoy runs. Here both are added:
facts about fleets are laid over the statuses of their Gateways and of the routes behind a refusal, and each
condition gets the time at which its ``status`` last moved. Documents are kept, so that asking costs nothing;
``transitions`` tells which conditions turned bad or well again, for the log.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import structs

from moongate.api.base import Condition, Ref
from moongate.api.gateway import Gateway
from moongate.report.transitions import Transitions
from moongate.status.conditions import condition
from moongate.status.gateways import EnvoyState, GatewayStatus, live
from moongate.status.routes import RouteStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from msgspec import Struct

    from moongate.api.base import Resource
    from moongate.quarantine import Refusal
    from moongate.report.transitions import Transition

NO_FACTS = EnvoyState(serving=0)


def now() -> str:
    """The time as statuses have it: RFC 3339, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251 - conditions have times


class Statuses:
    """The statuses in force, as documents of the API.

    Args:
        resources: what is in force, by reference.
        clock: the time as text.
    """

    def __init__(self, resources: Mapping[Ref, Resource], clock: Callable[[], str] = now) -> None:
        self._resources = resources
        self._clock = clock
        self._core: dict[Ref, Struct] = {}
        self._facts: dict[Ref, EnvoyState] = {}
        self._refusals: dict[Ref, list[str]] = {}
        self._documents: dict[Ref, dict[str, Any]] = {}
        self._troubles = Transitions()

    def update(self, statuses: Mapping[Ref, Struct | None]) -> None:
        """Take what the core says anew; ``None`` where it has nothing to say any more."""
        for ref, status in statuses.items():
            if status is None:
                self._core.pop(ref, None)
                self._documents.pop(ref, None)
                self._troubles.forget(ref)
            else:
                self._core[ref] = status
                self._render(ref)

    def observe(self, facts: Mapping[Ref, EnvoyState], refusals: Iterable[Refusal]) -> None:
        """Take what is known of fleets, by Gateway, and of refused routes: all of it, each time."""
        refused: dict[Ref, list[str]] = {}
        for one in refusals:
            refused.setdefault(one.route, []).append(f"Envoy of {one.gateway} refuses it: {one.message}")
        touched = {g for g in facts.keys() | self._facts.keys() if facts.get(g) != self._facts.get(g)}
        touched |= {
            r for r in refused.keys() | self._refusals.keys() if refused.get(r) != self._refusals.get(r)
        }
        self._facts, self._refusals = dict(facts), refused
        for ref in touched & self._core.keys():
            self._render(ref)

    def documents(self) -> list[dict[str, Any]]:
        """All of them: ``apiVersion``, ``kind``, ``metadata``, ``status``; sorted."""
        return [self._documents[ref] for ref in sorted(self._documents)]

    def document(self, ref: Ref) -> dict[str, Any] | None:
        """One of them."""
        return self._documents.get(ref)

    def transitions(self) -> list[Transition]:
        """Conditions that turned bad, or well again, since this was last asked."""
        return self._troubles.transitions()

    def _render(self, ref: Ref) -> None:
        resource = self._resources.get(ref)
        if resource is None:
            return
        kind = type(resource)
        overlaid = self._overlaid(ref, resource, self._core[ref])
        self._troubles.look(ref, resource, overlaid)
        # By way of JSON: to_builtins would leave tuples, which are not what a document has.
        status = msgspec.json.decode(msgspec.json.encode(overlaid))
        before = self._documents.get(ref)
        _stamp(status, before["status"] if before is not None else None, self._clock())
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
            return live(status, resource, self._facts.get(ref, NO_FACTS))
        refused = self._refusals.get(ref)
        if isinstance(status, RouteStatus) and refused:
            told = condition(
                "Programmed", "False", "Refused", " ".join(refused), resource.metadata.generation
            )
            return structs.replace(status, parents=tuple(_with(p, told) for p in status.parents))
        return status


def _with(parent: Any, told: Condition) -> Any:
    return structs.replace(parent, conditions=(*parent.conditions, told))


def _stamp(status: Any, before: Any, time: str) -> None:
    """Give each condition its ``lastTransitionTime``: that from before, while its status has not moved.

    Args:
        status: a status as plain data, or a part of one; changed in place.
        before: the same part as it was told before, with times.
        time: what a condition gets that has moved.
    """
    if isinstance(status, list):
        items, old = cast("list[Any]", status), cast("list[Any]", before or [])
        for n, item in enumerate(items):
            if item.keys() >= _CONDITION:
                same = next((o for o in old if _same(o, item)), None)
                item["lastTransitionTime"] = time if same is None else same["lastTransitionTime"]
            else:
                _stamp(item, old[n] if n < len(old) else None, time)
    elif isinstance(status, dict):
        known = cast("dict[str, Any]", before or {})
        for key, value in cast("dict[str, Any]", status).items():
            if isinstance(value, dict) or (isinstance(value, list) and _objects(cast("list[Any]", value))):
                _stamp(value, known.get(key), time)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["type"] == other["type"] and one["status"] == other["status"]


def _objects(items: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in items)


_CONDITION = {"type", "status", "reason"}
