"""The message of Envoy's rate limit service, as we generate it."""

from __future__ import annotations

from moongate.rate_limits.rls_conf_pb2 import (
    RateLimitConfig,
    RateLimitDescriptor,
    RateLimitPolicy,
    RateLimitUnit,
)
from moongate.xds.wire import encode, packed
from tools.gen_protos import generated


def test_the_generated_modules_are_those_of_our_files() -> None:
    """``python tools/gen_protos.py`` writes them."""
    stale = [path.name for path, text in generated().items() if path.read_text(encoding="utf-8") != text]

    assert stale == []


def test_the_service_knows_the_message_by_its_name() -> None:
    assert packed(RateLimitConfig()).type_url == (
        "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
    )


def test_its_fields_have_the_numbers_of_the_service() -> None:
    """The service is Envoy's: a number that differs would be a limit that nobody sees."""
    config = RateLimitConfig(
        name="n",
        domain="d",
        descriptors=[
            RateLimitDescriptor(
                key="k",
                value="v",
                rate_limit=RateLimitPolicy(unit=RateLimitUnit.WEEK, requests_per_unit=3),
                descriptors=[RateLimitDescriptor(key="l")],
                shadow_mode=True,
            )
        ],
    )

    assert encode(config) == (
        b"\x0a\x01n\x12\x01d"  # name, domain
        b"\x1a\x13\x0a\x01k\x12\x01v"  # one descriptor with key and value
        b"\x1a\x04\x08\x07\x10\x03"  # its limit: unit and requests
        b"\x22\x03\x0a\x01l"  # what follows it
        b"\x28\x01"  # shadow mode
    )
