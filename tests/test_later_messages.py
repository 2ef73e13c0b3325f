"""Messages that our protobuf modules do not have."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToDict

from moongate.later_messages import HttpResponseLocalReplyMatchInput


def test_a_later_message_can_be_packed_and_printed() -> None:
    packed = Any()
    packed.Pack(HttpResponseLocalReplyMatchInput())

    assert MessageToDict(packed) == {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput"
    }
