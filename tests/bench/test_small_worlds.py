"""The benchmark of many small Gateways."""

from __future__ import annotations

from bench.small_worlds import measure, shown


def test_a_small_world_is_measured_and_shown() -> None:
    figures = measure(3)

    assert 0 < figures.imported <= figures.rss
    assert figures.nodes > 3 * 50
    assert "| memory of the process | " in shown(figures)
