"""Which degradations are reported: each once, when it begins and when it ends."""

from __future__ import annotations

from moongate.api.base import Condition, Ref
from moongate.api.gateway import Gateway
from moongate.report.transitions import Transitions
from moongate.status.gateways import GatewayStatus, ListenerStatus
from tests import worlds

GATEWAY = worlds.gateway(worlds.http_listener("a"), worlds.http_listener("b", 81))


def said(type_: str, status: str, reason: str = "Invalid", message: str = "No.") -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message, observed_generation=1)


class Scene(Transitions):
    """Transitions of one Gateway."""

    def see(self, *conditions: Condition, **listeners: tuple[Condition, ...]) -> list[str]:
        """Look at a status, and say what is reported."""
        parts = (
            ListenerStatus(name=name, supported_kinds=(), attached_routes=0, conditions=of)
            for name, of in listeners.items()
        )
        self.look(worlds.EG, GATEWAY, GatewayStatus(conditions=conditions, listeners=tuple(parts)))
        return self.news()

    def news(self) -> list[str]:
        return [
            f"{'-' if bad else '+'} {it.condition} {it.problems[0].path}: {it.problems[0].message}"
            for _, it, bad in self.transitions()
        ]


def test_what_is_well_is_not_reported() -> None:
    assert Scene().see(said("Accepted", "True"), a=(said("ResolvedRefs", "True"),)) == []


def test_a_degradation_is_reported_once_and_so_is_its_end() -> None:
    scene, bad = Scene(), said("ResolvedRefs", "False")

    assert scene.see(a=(bad,)) == ["- ResolvedRefs spec.listeners[0]: No."]
    assert scene.see(a=(bad,)) == []
    assert scene.see(a=(said("ResolvedRefs", "True"),)) == ["+ ResolvedRefs spec.listeners[0]: No."]
    assert scene.see(a=(said("ResolvedRefs", "True"),)) == []


def test_a_degradation_in_other_words_is_reported_and_has_not_ended() -> None:
    scene = Scene()
    scene.see(a=(said("ResolvedRefs", "False", message="One is missing."),))

    news = scene.see(a=(said("ResolvedRefs", "False", message="Two are missing."),))

    assert news == ["- ResolvedRefs spec.listeners[0]: Two are missing."]


def test_what_several_parts_have_in_common_is_reported_at_each_and_ends_once() -> None:
    """A Secret is missing where two listeners name it; one that is still missing has not ended."""
    scene, bad = Scene(), (said("ResolvedRefs", "False"),)

    assert scene.see(a=bad, b=bad) == [f"- ResolvedRefs spec.listeners[{n}]: No." for n in (0, 1)]
    assert scene.see(a=(), b=bad) == []
    assert scene.see(a=(), b=()) == ["+ ResolvedRefs spec.listeners[1]: No."]


def test_the_end_of_one_is_reported_while_another_part_has_its_own() -> None:
    scene = Scene()
    scene.see(a=(said("Accepted", "False", message="A."),), b=(said("Accepted", "False", message="B."),))

    news = scene.see(a=(), b=(said("Accepted", "False", message="B."),))

    assert news == ["+ Accepted spec.listeners[0]: A."]


def test_what_began_and_ended_unasked_is_not_reported() -> None:
    scene = Scene()
    scene.look(worlds.EG, GATEWAY, GatewayStatus(conditions=(said("Accepted", "False"),)))
    scene.look(worlds.EG, GATEWAY, GatewayStatus())

    assert scene.news() == []


def test_a_resource_that_is_deleted_takes_its_degradations_along() -> None:
    scene, bad = Scene(), said("Accepted", "False")
    scene.see(bad)

    scene.forget(worlds.EG)

    assert scene.news() == []
    assert scene.see(bad) == ["- Accepted : No."]


def test_an_envoy_that_starts_is_no_degradation() -> None:
    """A start tells of it in events of its own; an address that cannot be had is another matter."""
    scene = Scene()

    assert scene.see(said("Programmed", "False", "AddressNotAssigned")) == []
    assert scene.see(said("Programmed", "False", "NoResources")) == []
    assert scene.see(said("Programmed", "False", "AddressNotUsable")) == ["- Programmed : No."]


def test_a_gateway_that_only_counts_its_listeners_is_not_reported() -> None:
    """Each listener says what is wrong, at its own place; the sum of them helps nobody."""
    listeners, scene = said("Accepted", "False", "ListenersNotValid"), Scene()

    assert scene.see(listeners, a=(said("Accepted", "False", "PortUnavailable"),)) == [
        "- Accepted spec.listeners[0]: No."
    ]


def test_an_overlap_is_reported_although_it_works_as_written() -> None:
    """``validate`` warns of it, so a run does, too."""
    assert Scene().see(a=(said("OverlappingTLSConfig", "True"),)) == [
        "- OverlappingTLSConfig spec.listeners[0]: No."
    ]


def test_a_condition_that_repeats_a_warning_about_the_manifest_is_not_reported() -> None:
    assert Scene().see(said("Warning", "True", "DeprecatedField")) == []


def test_degradations_are_reported_by_resource() -> None:
    scene = Transitions()
    for name in ("b", "a"):
        other = worlds.gateway(name=name)
        scene.look(other.ref, other, GatewayStatus(conditions=(said("Accepted", "False"),)))

    assert [turn.resource for turn in scene.transitions()] == [
        Ref.of(Gateway, "default", "a"),
        Ref.of(Gateway, "default", "b"),
    ]
