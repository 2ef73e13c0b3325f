"""What asks for HTTP/3 is there or not; all of its effects are in ``xds.quic``."""

from __future__ import annotations

from msgspec import convert

from moongate.features.http3 import FEATURE, HTTP3Settings
from moongate.policies.client_traffic_policy import ClientTrafficPolicySpec


def test_an_empty_object_switches_it_on() -> None:
    spec = convert({"http3": {}}, ClientTrafficPolicySpec)

    assert FEATURE.http3
    assert FEATURE.of(spec) == HTTP3Settings()
    assert FEATURE.of(convert({}, ClientTrafficPolicySpec)) is None
