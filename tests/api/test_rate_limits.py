"""The two halves of rate limits, as policies merge."""

from __future__ import annotations

import msgspec
import pytest

from moongate.api.rate_limits import GlobalRateLimit, LocalRateLimit, RateLimits

BOTH = RateLimits(global_=GlobalRateLimit(rules=()), local=LocalRateLimit())


def test_the_half_that_a_deprecated_type_leaves_out_does_not_merge() -> None:
    of_global = msgspec.structs.replace(BOTH, type="Global").to_merge()
    of_local = msgspec.structs.replace(BOTH, type="Local").to_merge()

    assert of_global == RateLimits(global_=BOTH.global_)
    assert of_local == RateLimits(local=BOTH.local)


@pytest.mark.parametrize("limits", [BOTH, RateLimits(type="Global"), RateLimits(type="Local")])
def test_what_leaves_nothing_out_stays_as_it_is(limits: RateLimits) -> None:
    """A type without its half is a fault, which must not vanish."""
    assert limits.to_merge() == limits
