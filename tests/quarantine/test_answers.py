"""What Envoys have said of a resource, kept for each as far as they differ."""

from __future__ import annotations

from moongate.quarantine.answers import Answers


def test_all_agree_once_each_that_says_anything_has_the_same() -> None:
    """One that never asks for a resource does not answer either."""
    answers = Answers({"a": 1, "b": 2, "silent": 3})
    answers.acknowledge("a", "v1")
    assert answers.unanimous() == "v1"
    answers.acknowledge("b", "v2")

    assert answers.unanimous() is None
    answers.acknowledge("a", "v2")
    assert answers.unanimous() == "v2"


def test_nothing_is_kept_of_each_while_all_agree() -> None:
    answers = Answers({"a": 1, "b": 2})
    answers.acknowledge("a", "v1")
    answers.acknowledge("b", "v1")

    answers.agree("v1", 2)

    assert len(answers) == 0
    assert not answers.acknowledge("a", "v1"), "it is no news"
    assert answers.is_in_force_elsewhere("a", "v1")


def test_what_all_have_is_not_said_of_one_that_came_later() -> None:
    nodes = {"a": 1}
    answers = Answers(nodes)
    answers.acknowledge("a", "v1")
    answers.agree("v1", 1)

    nodes["b"] = 2

    assert answers.unanimous() == "v1"
    assert not answers.is_in_force_elsewhere("a", "v1")
    assert answers.acknowledge("b", "v1")


def test_one_that_is_at_odds_has_no_say_until_it_takes_something() -> None:
    answers = Answers({"a": 1, "b": 2})
    answers.acknowledge("a", "v1")
    answers.refuse("b", "v1", "no")
    assert answers.unanimous() is None

    answers.put_at_odds("b")
    assert answers.unanimous() == "v1"
    assert list(answers.refusals()) == []

    answers.acknowledge("b", "v2")
    assert answers.unanimous() is None


def test_one_that_is_gone_is_not_waited_for() -> None:
    nodes = {"a": 1, "b": 2}
    answers = Answers(nodes)
    answers.acknowledge("a", "v1")
    answers.refuse("b", "v1", "no")

    del nodes["b"]
    answers.forget("b")

    assert answers.unanimous() == "v1"
