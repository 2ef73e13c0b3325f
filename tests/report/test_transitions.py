"""What is told of conditions that turn: the difference, once."""

from __future__ import annotations

from moongate.api.base import Condition, Ref
from moongate.report.transitions import Transitions
from moongate.status.gateways import GatewayStatus, ListenerStatus
from tests import worlds

GATEWAY = worlds.gateway(worlds.http_listener("a"), worlds.http_listener("b", 81))


def said(type_: str, status: str, reason: str = "Invalid", message: str = "No.") -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message, observed_generation=1)


class Told(Transitions):
    """Transitions of one Gateway."""

    def see(self, *conditions: Condition, **listeners: tuple[Condition, ...]) -> list[str]:
        """Look at a status, and tell what turned."""
        parts = (
            ListenerStatus(name=name, supported_kinds=(), attached_routes=0, conditions=of)
            for name, of in listeners.items()
        )
        self.look(worlds.EG, GATEWAY, GatewayStatus(conditions=conditions, listeners=tuple(parts)))
        return self.told()

    def told(self) -> list[str]:
        return [
            f"{'-' if bad else '+'} {it.condition} {it.problem.path}: {it.problem.message}"
            for _, it, bad in self.transitions()
        ]


def test_what_is_well_is_not_told() -> None:
    assert Told().see(said("Accepted", "True"), a=(said("ResolvedRefs", "True"),)) == []


def test_a_trouble_is_told_once_and_so_is_its_end() -> None:
    told, bad = Told(), said("ResolvedRefs", "False")

    assert told.see(a=(bad,)) == ["- ResolvedRefs spec.listeners[0]: No."]
    assert told.see(a=(bad,)) == []
    assert told.see(a=(said("ResolvedRefs", "True"),)) == ["+ ResolvedRefs spec.listeners[0]: No."]
    assert told.see(a=(said("ResolvedRefs", "True"),)) == []


def test_a_trouble_in_other_words_is_told_and_has_not_ended() -> None:
    told = Told()
    told.see(a=(said("ResolvedRefs", "False", message="One is missing."),))

    turned = told.see(a=(said("ResolvedRefs", "False", message="Two are missing."),))

    assert turned == ["- ResolvedRefs spec.listeners[0]: Two are missing."]


def test_what_several_parts_have_in_common_is_told_once() -> None:
    """A missing Secret of two listeners is one slip."""
    told, bad = Told(), (said("ResolvedRefs", "False"),)

    assert told.see(a=bad, b=bad) == ["- ResolvedRefs spec.listeners[0]: No."]
    assert told.see(a=(), b=bad) == []
    assert told.see(a=(), b=()) == ["+ ResolvedRefs spec.listeners[1]: No."]


def test_the_end_of_one_is_told_while_another_part_has_its_own() -> None:
    told = Told()
    told.see(a=(said("Accepted", "False", message="A."),), b=(said("Accepted", "False", message="B."),))

    turned = told.see(a=(), b=(said("Accepted", "False", message="B."),))

    assert turned == ["+ Accepted spec.listeners[0]: A."]


def test_what_came_and_went_unasked_is_not_told() -> None:
    told = Told()
    told.look(worlds.EG, GATEWAY, GatewayStatus(conditions=(said("Accepted", "False"),)))
    told.look(worlds.EG, GATEWAY, GatewayStatus())

    assert told.told() == []


def test_a_resource_that_goes_takes_its_troubles_along() -> None:
    told, bad = Told(), said("Accepted", "False")
    told.see(bad)

    told.forget(worlds.EG)

    assert told.told() == []
    assert told.see(bad) == ["- Accepted : No."]


def test_an_envoy_that_starts_is_no_trouble() -> None:
    """A start tells of it in events of its own; an address that cannot be had is another matter."""
    told = Told()

    assert told.see(said("Programmed", "False", "AddressNotAssigned")) == []
    assert told.see(said("Programmed", "False", "NoResources")) == []
    assert told.see(said("Programmed", "False", "AddressNotUsable")) == ["- Programmed : No."]


def test_an_overlap_that_works_as_written_is_not_told() -> None:
    assert Told().see(a=(said("OverlappingTLSConfig", "True"),)) == []


def test_turns_are_told_by_resource() -> None:
    told = Transitions()
    for name in ("b", "a"):
        other = worlds.gateway(name=name)
        told.look(other.ref, other, GatewayStatus(conditions=(said("Accepted", "False"),)))

    assert [turn.resource for turn in told.transitions()] == [
        Ref("Gateway", "default", "a"),
        Ref("Gateway", "default", "b"),
    ]
