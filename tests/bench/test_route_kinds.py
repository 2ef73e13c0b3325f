"""The benchmark of kinds of routes."""

from __future__ import annotations

import pytest

from bench.route_kinds import KINDS, Kind, measure, shown


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_changes_of_a_kind_are_measured_and_shown(kind: Kind) -> None:
    figures = await measure(kind, 3, 2)

    assert (len(figures.changed.served_ms), len(figures.added.served_ms)) == (2, 2)
    assert min(figures.cold, figures.changed.bytes, figures.added.bytes) > 0
    assert f"| 3 {kind.name}s |" in shown([figures])
