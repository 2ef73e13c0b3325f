"""xDS messages without what must not be shown: private keys, passwords, tokens.

Envoy's own annotation says which fields these are (``udpa.annotations.sensitive``), the same that its admin
interface goes by; so a new kind of secret is hidden without anybody having to think of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from envoy.config.core.v3.base_pb2 import DataSource
from google.protobuf.message import Message
from udpa.annotations.sensitive_pb2 import sensitive

from moongate.xds.walk import parts, visit

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

REDACTED: Final = "[redacted]"

# The stubs take an extension for any field.
_SENSITIVE: Final[Any] = sensitive

M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """A copy in which what is sensitive is ``[redacted]``."""
    copy = type(message)()
    copy.CopyFrom(message)
    visit(copy, _redact)
    return copy


def _redact(message: Message) -> None:
    for field, _ in message.ListFields():
        if field.GetOptions().Extensions[_SENSITIVE]:
            _blank_field(message, field)


def _blank_field(message: Message, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        for held, inner in parts(message):
            if held.number == field.number:
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
    """All of a message: whatever it holds may be the secret."""
    if isinstance(message, DataSource):
        # As text: the bytes of the word would be shown in base64.
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
