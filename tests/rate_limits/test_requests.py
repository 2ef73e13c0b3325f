from __future__ import annotations

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.message import DecodeError

from moongate.rate_limits.requests import request_of
from moongate.xds.wire import encode
from tests.rate_limits.configs import descriptor, request


def sent(value: bytes) -> bytes:
    """A request with a limit, a cost and two descriptors, one of which has a value."""
    written = b"@" * len(value)
    message = request(descriptor(("plan", "gold")), descriptor(("user", written.decode()), hits=3), hits=2)
    message.descriptors[1].limit.requests_per_unit = 7
    return encode(message).replace(written, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Zo\xeb", "Zo\\xeb"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("Zoë|a_b ".encode(), "Zoë|a_b "),
        (b"\xc3", "\\xc3"),
        (b"a\x00b", "a\x00b"),
    ],
)
def test_a_value_may_be_any_bytes(value: bytes, text: str) -> None:
    """And all else of the request stays."""
    first, second = request_of(sent(value)).descriptors

    assert [(e.key, e.value) for e in (*first.entries, *second.entries)] == [("plan", "gold"), ("user", text)]
    assert (second.limit.requests_per_unit, second.hits_addend.value) == (7, 3)
    assert request_of(sent(value)).hits_addend == 2
    assert request_of(sent(value)).domain == "shop"


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(DecodeError):
        request_of(b"\xff")

    assert request_of(b"") == RateLimitRequest()
