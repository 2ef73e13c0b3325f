"""Fields and messages that our protobuf modules do not have."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import RateLimit, RouteMatch
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as weighted,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from xds.core.v3.cidr_pb2 import CidrRange

from moongate.later_messages import FIELDS, HttpResponseLocalReplyMatchInput, set_later
from moongate.xds.wire import encode

BLOCK = CidrRange(address_prefix="::")


def address(*, invert: bool) -> dict[str, Any]:
    matcher = {"ranges": [BLOCK], "invert_match": invert}
    fields = {"descriptor_key": "k", "descriptor_value": "v", "address_matcher": matcher}
    return {"remote_address_match": fields}


def oob(port: int | None, authority: str | None) -> dict[str, Any]:
    return {"oob_reporting_config": {"port_value": port, "authority": authority}}


COOKIES = {
    "cookies": [
        {"name": "a", "string_match": StringMatcher(exact="x")},
        {"name": "b", "string_match": StringMatcher(exact="")},
    ]
}
BYTES: list[tuple[type[Message], dict[str, Any], bytes]] = [
    (RouteMatch, COOKIES, b"\x8a\x01\x08\x0a\x01a\x12\x03\x0a\x01x\x8a\x01\x07\x0a\x01b\x12\x02\x0a\x00"),
    (RateLimit, {"x_ratelimit_option": "OFF"}, b"\x38\x01"),
    (RateLimit, {"x_ratelimit_option": "DRAFT_VERSION_03"}, b"\x38\x02"),
    (
        RateLimit.Action,
        address(invert=True),
        b"\x6a\x10\x0a\x01v\x12\x01k\x22\x08\x0a\x04\x0a\x02::\x10\x01",
    ),
    (RateLimit.Action, address(invert=False), b"\x6a\x0e\x0a\x01v\x12\x01k\x22\x06\x0a\x04\x0a\x02::"),
    (LocalRateLimitDescriptor, {"shadow_mode": True}, b"\x18\x01"),
    (weighted.ClientSideWeightedRoundRobin, oob(8080, "x"), b"\x4a\x06\x08\x90\x3f\x12\x01x"),
    (weighted.ClientSideWeightedRoundRobin, oob(8080, None), b"\x4a\x03\x08\x90\x3f"),
    (weighted.ClientSideWeightedRoundRobin, oob(None, "x"), b"\x4a\x03\x12\x01x"),
]


@pytest.mark.parametrize(("message", "fields", "body"), BYTES, ids=[str(case[1]) for case in BYTES])
def test_a_field_has_the_bytes_that_envoy_reads(
    message: type[Message], fields: dict[str, Any], body: bytes
) -> None:
    built = message()
    set_later(built, **fields)

    assert encode(built) == body


def test_a_field_survives_being_copied_into_another_message() -> None:
    option, action = RateLimit(), RateLimit.Action()
    set_later(option, x_ratelimit_option="DRAFT_VERSION_03")
    set_later(action, **address(invert=True))
    option.actions.append(action)
    copied = RateLimit()
    copied.CopyFrom(option)

    assert encode(copied) == (
        b"\x1a\x12\x6a\x10\x0a\x01v\x12\x01k\x22\x08\x0a\x04\x0a\x02::\x10\x01"  # the action
        b"\x38\x02"  # the option
    )


def test_a_field_that_envoy_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no_such"):
        set_later(RouteMatch(), no_such=True)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_in_fact_newer_than_the_messages_that_there_are(name: str) -> None:
    """When xds-protos has it, the declaration goes: its own name says it better; both would write it."""
    known, beside = Default().FindMessageTypeByName(name), FIELDS[name].DESCRIPTOR

    assert beside.fields
    assert set(known.fields_by_number).isdisjoint(beside.fields_by_number)
    assert set(known.fields_by_name).isdisjoint(beside.fields_by_name)


def test_a_later_message_can_be_packed_and_printed() -> None:
    packed = AnyMessage()
    packed.Pack(HttpResponseLocalReplyMatchInput())

    assert MessageToDict(packed) == {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput"
    }
