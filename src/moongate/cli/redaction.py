"""Hiding private keys, passwords and tokens in xDS messages.

Envoy marks these fields by an annotation, ``udpa.annotations.sensitive``, and its admin interface uses the
same annotation. So fields that Envoy marks in the future are hidden without a change here. It does not mark
the metadata that gRPC services are called with, which may be a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from google.protobuf.message import Message
from udpa.annotations.sensitive_pb2 import sensitive

from moongate.api.marks import REDACTED
from moongate.xds.walk import parts, visit

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

# The stubs take an extension for any field.
_SENSITIVE: Final[Any] = sensitive

M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """A copy of a message in which each sensitive value is ``[redacted]``."""
    copy = type(message)()
    copy.CopyFrom(message)
    visit(copy, _redact)
    return copy


def _redact(message: Message) -> None:
    if isinstance(message, GrpcService):
        for header in message.initial_metadata:
            header.value = REDACTED
    for field, _ in message.ListFields():
        if field.GetOptions().Extensions[_SENSITIVE]:
            _blank_field(message, field)


def _blank_field(message: Message, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        for descriptor, inner in parts(message):
            if descriptor.number == field.number:
                visit(inner, _blank)
        return
    value = getattr(message, field.name)
    if field.is_repeated:
        blanks = [_blanked(each) for each in value]
        del value[:]
        value.extend(blanks)
    else:
        setattr(message, field.name, _blanked(value))


def _blank(message: Message) -> None:
    """Redact all fields of a message, because each of them may contain the secret."""
    if isinstance(message, DataSource):
        # As a string, because JSON would show bytes in base64.
        message.Clear()
        message.inline_string = REDACTED
        return
    for field, _ in message.ListFields():
        if field.message_type is None:
            _blank_field(message, field)


def _blanked(value: object) -> object:
    match value:
        case str():
            return REDACTED
        case bytes():
            return REDACTED.encode()
        case _:
            return type(value)()
