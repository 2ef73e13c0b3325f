"""Which versions of a resource stay known while Envoys may still answer them."""

from __future__ import annotations

from moongate.recent_versions import MOST_VERSIONS, RecentVersions


def noted(*versions: str) -> RecentVersions[str]:
    """Versions that were handed out, each known by its own name in capitals."""
    recent: RecentVersions[str] = RecentVersions()
    for version in versions:
        recent.note(version, version.upper())
    return recent


def test_each_version_is_known_until_a_later_one_is_acknowledged() -> None:
    recent = noted("a", "b", "c")

    recent.acknowledge("b")

    assert list(recent) == ["B", "C"]
    assert recent.acknowledged() == "B"


def test_a_version_that_was_handed_out_before_the_acknowledged_one_came_is_still_known() -> None:
    """Envoy answers in order: the acknowledgement of the first comes when the second is already sent."""
    recent = noted("a", "b")

    recent.acknowledge("a")
    recent.acknowledge("b")

    assert recent.acknowledged() == "B"


def test_of_many_versions_without_an_answer_the_oldest_are_forgotten() -> None:
    recent = noted(*(f"v{n}" for n in range(3 * MOST_VERSIONS)))

    assert len(recent) == MOST_VERSIONS
    assert recent.get(f"v{2 * MOST_VERSIONS - 1}") is None
    assert recent.get(f"v{2 * MOST_VERSIONS}") is not None


def test_the_acknowledged_version_outlives_any_number_of_later_ones() -> None:
    recent = noted("a")
    recent.acknowledge("a")

    for n in range(3 * MOST_VERSIONS):
        recent.note(f"v{n}", "")

    assert recent.acknowledged() == recent.get("a") == "A"
    assert len(recent) == MOST_VERSIONS


def test_a_version_that_is_handed_out_again_is_the_newest() -> None:
    """What is known of it may be something else now."""
    recent = noted("a", "b")

    recent.note("a", "A again")
    recent.acknowledge("b")

    assert list(recent) == ["B", "A again"]


def test_an_unknown_version_that_is_acknowledged_changes_nothing() -> None:
    recent = noted("a", "b")

    recent.acknowledge("forgotten")

    assert list(recent) == ["A", "B"]
    assert recent.acknowledged() is None
