"""Messages without fields that Envoy knows, but not the protobuf modules that we have."""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from moongate.xds.wire import encode


def _registered(name: str) -> type[Message]:
    """The class of a message. It is registered if it is in no module, so that it can be printed, too."""
    pool = Default()
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        package, _, message = name.rpartition(".")
        file = FileDescriptorProto(name=f"moongate/{message}.proto", package=package, syntax="proto3")
        file.message_type.add(name=message)
        pool.AddSerializedFile(encode(file))
        descriptor = pool.FindMessageTypeByName(name)
    return GetMessageClass(descriptor)


HttpResponseLocalReplyMatchInput: Final = _registered(
    "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput"
)
"""An input of a matcher: ``true`` for a response of Envoy itself, and ``false`` for one of a backend."""
