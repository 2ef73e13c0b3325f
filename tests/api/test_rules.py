"""Rules in CEL, asked about plain data."""

from __future__ import annotations

from moongate.api.base import Rule
from moongate.api.rules import MEMORABLE, MEMORY, Ruleset, ruleset


def broken(rules: Ruleset, value: object) -> list[str]:
    return [problem.message for problem in rules.broken(value)]


def test_each_rule_that_does_not_hold_is_reported() -> None:
    rules = Ruleset(
        (
            Rule("self.low <= self.high", "low is above high."),
            Rule("self.low > 0", "low must be positive."),
            Rule("has(self.high)", "high is needed."),
        )
    )

    assert broken(rules, {"low": 0, "high": -1}) == [
        "low is above high. Here high is -1 and low is 0.",
        "low must be positive. Here low is 0.",
    ]
    assert broken(rules, {"low": 1, "high": 1}) == []


def test_a_broken_rule_says_the_values_that_it_compares() -> None:
    """Its message says what must be; a reader also wants to know what is. Long values stand in the file."""
    rules = Ruleset((Rule("self.path.startsWith('/') && !has(self.host)", "path must begin with '/'."),))

    assert broken(rules, {"path": "cart", "other": "x"}) == ["path must begin with '/'. Here path is 'cart'."]
    assert broken(rules, {"path": "c" * 100}) == ["path must begin with '/'."]
    assert broken(rules, {"path": "/", "host": "a"}) == ["path must begin with '/'. Here path is '/'."]
    assert broken(Ruleset((Rule("self == 'a'", "It must be a."),)), "b") == [
        "It must be a. The value is 'b'."
    ]


def test_a_rule_that_cannot_be_evaluated_counts_as_broken() -> None:
    rules = Ruleset((Rule("size(self.names) > 0", "Names are needed."),))

    assert broken(rules, {}) == ["Names are needed."]


def test_a_rule_about_an_update_is_passed_over() -> None:
    """A manifest has no state before it."""
    assert ruleset((Rule("self.a == oldSelf.a", "a cannot be changed."),)) is None


def test_answers_are_remembered_up_to_a_bound() -> None:
    rules = Ruleset((Rule("self.size >= 0", "size is negative."),))

    for size in range(MEMORY + 1):
        assert broken(rules, {"size": size, "of": "no rule's concern"}) == []
    assert len(rules.remembered) == 1
    assert broken(Ruleset((Rule("self.name == 'a'", "no"),)), {"name": "x" * MEMORABLE}) == ["no"]


def test_a_value_of_a_strange_type_is_judged_without_being_remembered() -> None:
    """Fields whose type nobody has declared may hold anything."""
    rules = Ruleset((Rule("size(self.all) > 0", "all is empty."),))

    assert broken(rules, {"all": [2**70]}) == []
    assert broken(rules, {"all": [object()]}) == ["all is empty."]
    assert rules.remembered == {}
