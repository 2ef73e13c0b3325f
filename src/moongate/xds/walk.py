"""Every message inside a message, also those that are packed into ``google.protobuf.Any``.

For whoever shows or checks xDS resources; what builds them knows where everything is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import FieldDescriptor


def visit(message: Message, change: Callable[[Message], None]) -> None:
    """Call ``change`` with a message and all inside it, outermost first; it may edit them.

    A packed message of a type that is not known here is passed over.
    """
    if isinstance(message, AnyMessage):
        inner = unpacked(message)
        if inner is not None:
            visit(inner, change)
            message.value = encode(inner)
        return
    change(message)
    for _, inner in parts(message):
        visit(inner, change)


def unpacked(message: AnyMessage) -> Message | None:
    """What is packed; ``None`` when its type is not known here."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(message.type_url.rpartition("/")[2])
    except KeyError:
        return None
    return message_factory.GetMessageClass(descriptor).FromString(message.value)


def packed_types(message: Message) -> Iterator[str]:
    """The full names of the messages that are packed in a message, and of those in them: outermost first.

    What is in one of them is read when the next name is asked for, so its type must be known by then.
    """
    if isinstance(message, AnyMessage):
        yield message.TypeName()
        inner = unpacked(message)
        within = () if inner is None else (inner,)
    else:
        within = (part for _, part in parts(message))
    for each in within:
        yield from packed_types(each)


def parts(message: Message) -> Iterator[tuple[FieldDescriptor, Message]]:
    """The messages that a message directly holds, each with its field; entries of maps are their values."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from ((field, value[key]) for key in value)
        elif field.is_repeated:
            yield from ((field, entry) for entry in value)
        else:
            yield field, value
