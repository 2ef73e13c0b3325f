"""The benchmark of many small Gateways."""

from __future__ import annotations

from bench.small_worlds import measure, shown


def test_a_small_world_is_measured_and_shown() -> None:
    figures = measure(3)

    # In a process that has run other tests, memory may be given back between the two readings.
    assert min(figures.imported, figures.rss) > 0
    assert figures.nodes > 3 * 50
    assert "| memory of the process | " in shown(figures)
