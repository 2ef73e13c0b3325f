"""What policies may target."""

from __future__ import annotations

from moongate.api.policy import TargetSelector
from moongate.api.shared import LabelSelectorRequirement


def test_a_target_selector_asks_for_labels_and_expressions_together() -> None:
    selector = TargetSelector(
        kind="HTTPRoute",
        match_labels={"team": "shop"},
        match_expressions=(LabelSelectorRequirement(key="tier", operator="In", values=("gold",)),),
    ).selector

    assert selector.selects({"team": "shop", "tier": "gold"})
    assert not selector.selects({"team": "shop", "tier": "tin"})
    assert not selector.selects({"tier": "gold"})
