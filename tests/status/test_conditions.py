"""Conditions in the form that an API server takes."""

from __future__ import annotations

import pytest

from moongate.api.base import ObjectMeta
from moongate.api.envoyproxy import EnvoyProxy, EnvoyProxySpec
from moongate.problem import Problem
from moongate.status.conditions import MAX_MESSAGE, accepted, sentence, unsupported


@pytest.mark.parametrize(
    ("message", "expected"),
    [("a is b", "A is b."), ("A.", "A."), ("why?", "Why?"), ("", ""), (" x \n", "X.")],
)
def test_a_message_is_a_sentence(message: str, expected: str) -> None:
    assert sentence(message) == expected


def test_a_message_fits_into_a_status() -> None:
    assert len(sentence("x" * (MAX_MESSAGE + 10))) == MAX_MESSAGE


def test_every_problem_is_reported_and_the_first_gives_the_reason() -> None:
    judged = accepted([Problem("spec.a", "No.", "First"), Problem("", "Neither.", "Second")], 3)

    assert (judged.status, judged.reason, judged.observed_generation) == ("False", "First", 3)
    assert judged.message == "spec.a: No.\nNeither."


def test_without_problems_it_is_accepted() -> None:
    assert accepted([], 1).status == "True"


def test_fields_without_effect_are_warned_of() -> None:
    """Never silently ignored: a user who sets one must be able to see that it does nothing."""
    proxy = EnvoyProxy(metadata=ObjectMeta(name="custom"), spec=EnvoyProxySpec(geo_ip={}))

    (warning,) = unsupported(proxy)

    assert (warning.type, warning.status, warning.reason) == ("Warning", "True", "NotSupported")
    assert warning.message.startswith("spec.geoIP")
