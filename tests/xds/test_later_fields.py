"""Fields that our messages lack."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_components_pb2 import RateLimit
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor
from google.protobuf.message import Message
from xds.core.v3.cidr_pb2 import CidrRange

from moongate.xds.later_fields import set_address_match, set_headers_option, set_shadow_mode
from moongate.xds.wire import encode

KNOWN = {
    RateLimit: "x_ratelimit_option",
    RateLimit.Action: "remote_address_match",
    LocalRateLimitDescriptor: "shadow_mode",
}


@pytest.mark.parametrize(("message", "field"), KNOWN.items(), ids=KNOWN.values())
def test_a_field_that_our_messages_have_is_not_written_by_hand(message: type[Message], field: str) -> None:
    """When xds-protos learns it, its own name says it better."""
    assert field not in message.DESCRIPTOR.fields_by_name


def test_a_field_survives_being_copied_into_another_message() -> None:
    option, shadow, action = RateLimit(), LocalRateLimitDescriptor(), RateLimit.Action()
    set_headers_option(option, "DraftVersion03")
    set_shadow_mode(shadow)
    set_address_match(action, "k", "v", CidrRange(address_prefix="::"), invert=True)
    option.actions.append(action)
    copied = RateLimit()
    copied.CopyFrom(option)

    assert encode(copied) == (
        b"\x1a\x12\x6a\x10\x0a\x01v\x12\x01k\x22\x08\x0a\x04\x0a\x02::\x10\x01"  # the action
        b"\x38\x02"  # the option
    )
    assert encode(shadow) == b"\x18\x01"
