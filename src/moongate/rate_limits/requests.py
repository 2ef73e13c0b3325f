"""Requests of Envoy to the service, of which some values are no text.

Descriptors have values of headers and of query parameters, as clients send them: any bytes. A field of text
in protobuf is UTF-8, and a message with anything else in it cannot be decoded. A client that sends such a
value would pass every limit that counts by it. So its other bytes are written as ``\\xe9``, and it counts.
"""

from __future__ import annotations

from typing import Any, Final

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from moongate.xds.wire import encode


def request_of(encoded: bytes) -> RateLimitRequest:
    """Decode a request.

    Raises:
        DecodeError: it is none.
    """
    try:
        return RateLimitRequest.FromString(encoded)
    except DecodeError:
        request = _OF_BYTES.FromString(encoded)
        for descriptor in request.descriptors:
            for entry in descriptor.entries:
                entry.value = entry.value.decode(errors="backslashreplace").encode()
        return RateLimitRequest.FromString(encode(request))


def _of_bytes() -> Any:
    """The same message, whose values are bytes. It knows no other fields, and hands them on as they are.

    Source: envoy/service/ratelimit/v3/rls.proto and envoy/extensions/common/ratelimit/v3/ratelimit.proto.
    """
    file = FileDescriptorProto(name="moongate/requests.proto", package="moongate", syntax="proto3")
    many, one = FieldDescriptorProto.LABEL_REPEATED, FieldDescriptorProto.LABEL_OPTIONAL
    request, descriptor, entry = (
        file.message_type.add(name=name) for name in ("Request", "Descriptor", "Entry")
    )
    of = FieldDescriptorProto.TYPE_MESSAGE
    request.field.add(name="descriptors", number=2, label=many, type=of, type_name=".moongate.Descriptor")
    descriptor.field.add(name="entries", number=1, label=many, type=of, type_name=".moongate.Entry")
    entry.field.add(name="value", number=2, label=one, type=FieldDescriptorProto.TYPE_BYTES)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("moongate.Request"))


_OF_BYTES: Final = _of_bytes()
