"""What is said of a policy stands in the order of its targets, however these were judged."""

from __future__ import annotations

import itertools

import pytest

from moongate.api.base import Ref
from moongate.problem import Problem
from moongate.status.policy_drafts import Drafts, Judged, Place

EG = Ref("Gateway", "default", "eg", "")
WEB = Ref("Gateway", "default", "web", "")


def shard(age: str, *problems: str, at: Ref = EG) -> Judged:
    """The drafts of one target that selectors match."""
    drafts = Drafts()
    drafts.place = (1, -1, (age,))
    draft = drafts.at(at, "")
    draft.apply([])
    for message in problems:
        draft.refuse(Problem("", message, "Conflicted"))
    return drafts.judged()


SHARDS = [
    shard("2024", "d", "c"),
    shard("2023", "b", "c", at=WEB),
    shard("2022", "c", "a"),
    shard("2025", "c"),
]


@pytest.mark.parametrize("order", [*itertools.permutations(SHARDS)])
def test_shards_are_joined_in_any_order(order: tuple[Judged, ...]) -> None:
    """A shard that was judged anew must not change the order of what is said of others."""
    drafts = Drafts()
    for each in order:
        drafts.join(each)

    said = [
        (ancestor[0], [problem.message for problem in draft.faults]) for ancestor, draft in drafts.in_order()
    ]

    assert said == [(EG, ["c", "a", "d"]), (WEB, ["b", "c"])]


@pytest.mark.parametrize("first", [(0, 0, ()), (1, -1, ("2000",))])
def test_ancestors_stand_in_the_order_of_the_targets_that_lead_to_them(first: Place) -> None:
    drafts = Drafts()
    drafts.join(shard("2022"))
    drafts.place = first
    drafts.at(WEB, "http").apply([])

    assert [ancestor for ancestor, _ in drafts.in_order()] == [(WEB, "http"), (EG, "")]


def test_a_draft_that_only_says_what_merged_is_not_judged() -> None:
    drafts = Drafts()
    drafts.at(EG, "http").merge("Merged.")
    ((_, draft),) = drafts.in_order()

    assert (draft.judged, draft.applies, draft.faults, draft.messages("merged")) == (
        False,
        False,
        [],
        ["Merged."],
    )


def test_what_is_said_for_many_targets_is_said_once() -> None:
    drafts = Drafts()
    for place in range(3):
        drafts.place = (1, place, ())
        drafts.at(EG, "").override("Others override it.")
        drafts.at(EG, "").lack("Envoy refuses it.")
    ((_, draft),) = drafts.in_order()

    assert (draft.messages("overridden"), draft.messages("lacking")) == (
        ["Others override it."],
        ["Envoy refuses it."],
    )
