"""The benchmark of many streams."""

from __future__ import annotations

import pytest

from bench.streams import measure, shown


@pytest.mark.slow
def test_a_few_streams_are_measured_and_shown() -> None:
    figures = measure(20, 3, changes=2)

    assert figures.entries == 0
    assert figures.change_responses == 1
    assert figures.change_bytes > 20 * 100
    assert "| memory of all streams | " in shown(figures)
