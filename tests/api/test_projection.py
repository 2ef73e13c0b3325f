"""What a rule reads of an object: enough to answer it, and little enough for answers to be shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.api.base import Model
from moongate.api.projection import EVERYTHING, projection
from moongate.api.rules import Ruleset
from moongate.kinds import KINDS


def rulesets(model: type[Model] = Model) -> Iterator[Ruleset]:
    """All sets of rules of all models, which are there because ``KINDS`` names them."""
    assert KINDS
    for cls in model.__subclasses__():
        own = vars(cls)
        for rules in (own.get("RULES"), *own.get("FIELD_RULES", {}).values()):
            if rules:
                yield Ruleset(tuple(rules))
        yield from rulesets(cls)


RULESETS = list({each.joined: each for each in rulesets()}.values())


PARTS: list[tuple[str, Any, Any]] = [
    ("has(self.a)", {"a": [1, 2], "b": 3}, {"a": True}),
    ("self.a == 1", {"a": {"b": 2}, "b": 3}, {"a": {"b": 2}}),
    ("self.a.b == 1", {"a": {"b": 1, "c": 2}, "b": 1}, {"a": {"b": 1}, "b": 1}),
    ("size(self.a) == 1", {"a": [{"b": 1}, {"b": 2}]}, {"a": [{}, {}]}),
    ("self.a.size() == 1", {"a": {"b": 1}}, {"a": {"b": 1}}),
    ("self.a.all(x, x.b == 'c.d')", {"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}),
    ("self[0].a.size() == 1", [{"a": [{"b": 1}], "b": 1}], [{"a": [{}]}]),
    ("self.filter(x, x.a == 1).size() <= 1", [{"a": 1, "b": 2}], [{"a": 1}]),
    ("has(self.a) && self.a.b == 1", {"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}),
]


@pytest.mark.parametrize(("expression", "value", "part"), PARTS)
def test_what_a_rule_does_not_read_is_left_out(expression: str, value: Any, part: Any) -> None:
    assert projection(expression).part(value) == part


@pytest.mark.parametrize(
    "expression",
    [
        "self.all(x, x in ['a'])",  # an entry itself
        "self.a.all(x, self.a.exists_one(y, x == y))",
        "self.a[0] == self.b",
        "self.map(x, x.a)[0] == 1",
        "self.filter(x, x.a == 1) == self",
        "[self.a].exists(x, x)",
        "(self.a)['b'] == 1",
        "other.a == 1",
    ],
)
def test_a_rule_that_uses_whole_objects_gets_the_whole(expression: str) -> None:
    assert projection(expression) == EVERYTHING


@given(st.data())
def test_each_rule_answers_the_same_about_what_it_reads(data: st.DataObject) -> None:
    """For all rules that there are, and objects of their fields with others among them."""
    rules = data.draw(st.sampled_from(RULESETS))
    scalars = st.sampled_from(
        [
            None, 0, 1, True, "", "/", "//", "HTTP", "Exact", "PathPrefix", "ReplacePrefixMatch", "Gateway",
            "RequestRedirect", "URLRewrite", "CORS", "Replace", "1s", "gateway.networking.k8s.io", "1.2.3.4",
        ]
    )  # fmt: skip
    names = st.sampled_from([*(name for name, _ in rules.reads.uses), "other", "name"])
    objects = st.recursive(
        scalars,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=5),
        max_leaves=20,
    )
    value = data.draw(st.dictionaries(names, objects, max_size=6) | st.lists(objects, max_size=3))

    part = rules.reads.part(value)

    answers = [(program(part), program(value)) for program in rules.programs]
    assert [one for one, _ in answers] == [other for _, other in answers]
