"""A problem inside a field gets the path of the whole resource."""

from __future__ import annotations

import pytest

from moongate.problem import Problem


@pytest.mark.parametrize(
    ("path", "whole"),
    [("port", "spec.port"), ("[0].name", "spec[0].name"), ("", "spec")],
    ids=["field", "entry of a list", "the whole"],
)
def test_a_path_grows_at_its_front(path: str, whole: str) -> None:
    assert Problem(path, "It is wrong.").under("spec").path == whole


def test_only_the_path_changes() -> None:
    """The reason becomes a condition's, wherever the problem is."""
    problem = Problem("name", "There is no Service shop.", "BackendNotFound")

    assert problem.under("backendRefs[1]") == Problem(
        "backendRefs[1].name", "There is no Service shop.", "BackendNotFound"
    )


@pytest.mark.parametrize(
    ("message", "whole"),
    [
        ("It is wrong", "It is wrong. Requests are answered with 500."),
        ("It is wrong.", "It is wrong. Requests are answered with 500."),
        ("Is it wrong?", "Is it wrong? Requests are answered with 500."),
    ],
)
def test_what_happens_to_requests_is_a_sentence_of_its_own(message: str, whole: str) -> None:
    assert Problem("spec", message).saying("Requests are answered with 500.").message == whole
    assert Problem("spec", message).saying("") == Problem("spec", message)
