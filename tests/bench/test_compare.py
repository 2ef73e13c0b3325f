"""Two versions beside each other."""

from __future__ import annotations

from msgspec import structs

from bench.compare import comparisons, shown
from bench.figures import Report
from tests.bench.test_bench import SIZE, series


def report(**differing: object) -> Report:
    return Report(machine="", sizes=[structs.replace(SIZE, **differing)])


def worse(before: list[Report], after: list[Report]) -> list[str]:
    return [each.name for each in comparisons(before, after) if not each.is_as_fast]


def test_a_version_is_not_worse_than_itself() -> None:
    assert worse([report()], [report()]) == []


def test_a_tenth_more_is_within_noise() -> None:
    assert worse([report(rss=100)], [report(rss=110)]) == []


def test_what_takes_more_than_a_tenth_more_is_named() -> None:
    slower = report(changed=series(265, 200), rss=331_000_000)

    assert worse([report()], [slower]) == [
        "5,000 routes: memory of moongate (MB)",
        "5,000 routes: changed route: written → served, p50 (ms)",
    ]


def test_the_median_over_the_runs_of_a_version_counts() -> None:
    """One run on a machine that was busy says nothing."""
    after = [report(), report(cold=50.0), report()]

    assert worse([report()], after) == []


def test_sizes_that_only_one_version_has_are_left_out() -> None:
    only = report(routes=100)

    assert shown(comparisons([only], [report()])).count("\n") == 1
