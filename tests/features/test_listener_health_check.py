"""Probes are answered before anything else looks at a request."""

from __future__ import annotations

from moongate.features import FEATURES
from moongate.features.listener_health_check import FEATURE, HealthCheckSettings


def test_the_whole_path_is_compared() -> None:
    assert FEATURE.listener_filter is not None
    config = FEATURE.listener_filter.chain(HealthCheckSettings(path="/ready?full=1"))

    assert config is not None
    assert 'exact: "/ready?full=1"' in str(config)


def test_it_stands_before_all_that_may_refuse_a_probe() -> None:
    """What replaces responses stands before it, as in the reference."""
    filters = [f for f in FEATURES if f.http_filter is not None or f.listener_filter is not None]

    assert [f.field for f in filters[:2]] == ["response_override", FEATURE.field]
