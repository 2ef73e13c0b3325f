from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor as Descriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from moongate.rate_limits import config as limits_config
from moongate.rate_limits.config import SECONDS, ConfigError, Limit, Limits
from tests.rate_limits.configs import config, descriptor, level

_Unit = RateLimitResponse.RateLimit.Unit


def requests_of(limits: Limits, *entries: tuple[str, str], domain: str = "shop") -> int | None:
    """How many requests the limit of a descriptor allows; ``None`` if there is none."""
    [limit] = limits.matching(domain, [descriptor(*entries)])
    return None if limit is None else limit.requests


def test_a_value_of_its_own_wins_over_a_wildcard_and_that_over_the_key() -> None:
    """The most specific limit counts, in whichever order they were written."""
    limits = Limits(
        [
            config(
                level("user", limit=(1, "MINUTE")),
                level("user", "gold*", limit=(10, "MINUTE")),
                level("user", "golden", limit=(100, "MINUTE")),
            )
        ]
    )

    assert requests_of(limits, ("user", "golden")) == 100
    assert requests_of(limits, ("user", "goldfish")) == 10
    assert requests_of(limits, ("user", "anne")) == 1
    assert requests_of(limits, ("path", "golden")) is None


def test_of_the_wildcards_of_a_key_the_first_that_fits_counts() -> None:
    limits = Limits(
        [
            config(
                level("plan", "g*", limit=(7, "MINUTE")),
                level("user", "go*", limit=(1, "MINUTE")),
                level("user", "g*", limit=(2, "MINUTE")),
            )
        ]
    )

    assert requests_of(limits, ("user", "gold")) == 1
    assert requests_of(limits, ("user", "gift")) == 2


def test_a_limit_counts_only_what_ends_at_its_level() -> None:
    """A request that says less or more than the configuration is another one."""
    limits = Limits([config(level("route", "a", level("user", limit=(5, "HOUR")), limit=(9, "HOUR")))])

    assert requests_of(limits, ("route", "a")) == 9
    assert requests_of(limits, ("route", "a"), ("user", "anne")) == 5
    assert requests_of(limits, ("route", "a"), ("user", "anne"), ("path", "/")) is None
    assert requests_of(limits, ("user", "anne")) is None


def test_a_domain_that_is_not_configured_has_no_limits() -> None:
    limits = Limits([config(level("user", limit=(1, "DAY")))])

    assert requests_of(limits, ("user", "anne"), domain="other") is None


def test_keys_and_values_are_not_mixed_up() -> None:
    """``a_b`` without a value is another key than ``a`` with the value ``b``."""
    limits = Limits([config(level("a_b", limit=(1, "DAY")), level("a", "b", limit=(2, "DAY")))])

    assert requests_of(limits, ("a", "b")) == 2
    assert requests_of(limits, ("a_b", "c")) == 1


def test_a_limit_replaces_those_that_it_names() -> None:
    limits = Limits(
        [
            config(
                level("user", limit=(1, "DAY"), name="everybody"),
                level("plan", "gold", limit=(9, "DAY"), replaces=[{"name": "everybody"}]),
            )
        ]
    )

    both = limits.matching("shop", [descriptor(("user", "anne")), descriptor(("plan", "gold"))])

    assert [limit and limit.requests for limit in both] == [None, 9]


def test_a_request_may_bring_a_limit_of_its_own() -> None:
    """A limit from metadata: it needs the domain, and no level; one without a unit does not count."""
    limits = Limits([config(level("user", limit=(1, "DAY"), shadow=True))])
    own = descriptor(("user", "anne"))
    own.limit.CopyFrom(Descriptor.RateLimitOverride(requests_per_unit=7, unit="HOUR"))
    without_unit = descriptor(("user", "anne"))
    without_unit.limit.requests_per_unit = 7

    brought, configured = limits.matching("shop", [own, without_unit])

    assert brought is not None
    assert (brought.requests, brought.unit, brought.shadow) == (7, _Unit.HOUR, False)
    assert configured is not None
    assert configured.requests == 1
    assert limits.matching("other", [own]) == [None]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([config(domain="")], "no domain"),
        ([config(), config()], "'shop' is configured twice"),
        ([config(level(""))], "has no key"),
        ([config(level("a", "b"), level("a", "b"))], "shop > a=b: it is configured twice"),
        ([config(level("a", limit=(1, "UNKNOWN")))], "shop > a: the limit needs a unit"),
        ([config(level("a", limit=(1, "DAY"), unlimited=True))], "has no unit"),
        ([config(level("a", limit=(1, "DAY"), name="x", replaces=[{"name": "x"}]))], "other limits"),
    ],
)
def test_a_configuration_with_a_fault_is_refused(configs: list[object], message: str) -> None:
    """Envoy's own service refuses the same."""
    with pytest.raises(ConfigError, match=message):
        Limits(configs)  # pyright: ignore[reportArgumentType] - of configurations


def test_windows_are_aligned_to_the_clock() -> None:
    """Two services with the same clock agree on the window, and so do two runs of one."""
    limit = Limit(domain="shop", path=(("user", ""),), requests=1, unit=_Unit.MINUTE)

    assert limit.bucket([("user", "anne")], 119.9) == "shop_user_anne_60"
    assert limit.bucket([("user", "anne")], 120.0) == "shop_user_anne_120"
    assert limit.ends(119.9) == 120
    assert limit.ends(120.0) == 180


def test_every_unit_has_a_length() -> None:
    assert SECONDS.keys() == set(_Unit.values()) - {_Unit.UNKNOWN}


def test_what_is_equal_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the service, which answers meanwhile, would be slow when one limit of 10,000 changes."""
    levels = [level(f"key-{n}", limit=(n, "DAY")) for n in range(100)]
    before = Limits([config(*levels), config(*levels, domain="other")])
    reads: list[object] = []
    read = limits_config._limit  # pyright: ignore[reportPrivateUsage]

    def reading(*arguments: Any, **more: Any) -> object:
        reads.append(arguments)
        return read(*arguments, **more)

    monkeypatch.setattr(limits_config, "_limit", reading)
    after = Limits([config(*levels[1:], level("key-0", limit=(7, "DAY")))], before)

    assert len(reads) == 1
    assert [limit.requests for limit in after] == [*range(1, 100), 7]
    assert {limit.domain for limit in after} == {"shop"}
