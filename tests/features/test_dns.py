"""Lookups, as settings say them."""

from __future__ import annotations

from moongate.features.base import Lookup
from moongate.features.dns import FEATURE
from tests.features.backends import effective, faults


def test_what_is_not_written_is_as_before() -> None:
    """The owner is part of the name of a cache, so that policies with other settings have another one."""
    assert FEATURE.lookup is not None
    assert FEATURE.lookup(Lookup(), effective(FEATURE, {})) == Lookup(owner="default/backends")
    spec = {"dnsRefreshRate": "2s", "respectDnsTtl": False, "lookupFamily": "IPv6"}
    assert FEATURE.lookup(Lookup(), effective(FEATURE, spec)) == Lookup(
        "IPv6", 2000, False, "default/backends"
    )


def test_a_rate_that_envoy_refuses_is_a_fault() -> None:
    assert faults(FEATURE, {"dnsRefreshRate": "1ms"}) == ["dnsRefreshRate"]
    assert faults(FEATURE, {"dnsRefreshRate": "2ms"}) == []
