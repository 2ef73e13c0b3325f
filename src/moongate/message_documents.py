"""Messages as JSON documents and back, with the fields that Envoy knows but not the messages that we have.

A message keeps the bytes of a field that it does not know, but JSON has nothing to write for them. So what
goes through JSON would lose them: a route would match without its cookies. Each is written and read with the
message that declares it (``later_messages.FIELDS``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from google.protobuf import descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message_factory import GetMessageClass

from moongate import later_messages
from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    M = TypeVar("M", bound="Message")
    Path: TypeAlias = "tuple[str | int, ...]"
    """Where a message is in a document: names of fields, keys of maps, and indices."""

_pool: Final = descriptor_pool.Default()


# -- writing ------------------------------------------------------------------


def as_document(message: Message, *, snake_case: bool = False) -> dict[str, Any]:
    """A message as a JSON document.

    Args:
        message: the message.
        snake_case: whether fields have the names of their declarations, and not those of JSON.

    Raises:
        TypeError: it holds a message of a type that nothing has imported.
    """
    document = json_format.MessageToDict(message, preserving_proto_field_name=snake_case)
    _complete(document, message, snake_case=snake_case)
    return document


def _complete(document: Any, message: Message, *, snake_case: bool) -> None:
    """Write the later fields of a message, and of all in it, into its document."""
    if isinstance(message, AnyMessage):
        if (packed := _unpacked(message)) is not None:
            _complete(document, packed, snake_case=snake_case)
        return
    beside = later_messages.FIELDS.get(message.DESCRIPTOR.full_name)
    if beside is not None:
        document |= json_format.MessageToDict(
            beside.FromString(encode(message)), preserving_proto_field_name=snake_case
        )
    for field, value in message.ListFields():
        if field.message_type is None or _is_of_json(field.message_type):
            continue
        part = document[field.name if snake_case else field.json_name]
        if not _is_repeated(field):
            _complete(part, value, snake_case=snake_case)
        elif _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    _complete(part[_written_key(key)], value[key], snake_case=snake_case)
        else:
            for below, each in zip(part, value, strict=True):
                _complete(below, each, snake_case=snake_case)


# -- reading ------------------------------------------------------------------


def from_document(document: Any, message: type[M]) -> M:
    """The message that a JSON document means.

    Raises:
        ParseError: it means none.
    """
    parts: list[tuple[Path, Message]] = []
    result = json_format.ParseDict(_without_later(document, message.DESCRIPTOR, (), parts), message())
    for path, part in parts:
        _merge(result, path, encode(part))
    return result


def _without_later(document: Any, descriptor: Any, path: Path, parts: list[tuple[Path, Message]]) -> Any:
    """A document without later fields; what they mean, and where, is added to ``parts``."""
    if not isinstance(document, dict) or _is_of_json(descriptor):
        return cast("Any", document)
    rest = whole = cast("dict[str, Any]", document)
    if descriptor.full_name == AnyMessage.DESCRIPTOR.full_name:
        named = str(rest.get("@type", "")).rpartition("/")[2]
        try:
            descriptor = _pool.FindMessageTypeByName(named)
        except KeyError:
            return whole  # the parser says so
        if _is_of_json(descriptor):
            return whole
    if (beside := later_messages.FIELDS.get(descriptor.full_name)) is not None:
        names = {name for field in beside.DESCRIPTOR.fields for name in (field.name, field.json_name)}
        later = {name: value for name, value in rest.items() if name in names}
        if later:
            rest = {name: value for name, value in rest.items() if name not in names}
            parts.append((path, json_format.ParseDict(later, beside())))
    fields: dict[str, Any] = {
        name: field for field in descriptor.fields for name in (field.name, field.json_name)
    }
    result: dict[str, Any] = {}
    for name, value in rest.items():
        field = fields.get(name)
        of = field.message_type if field is not None else None
        if field is not None and _is_map(field):
            of = field.message_type.fields_by_name["value"].message_type
        if field is None or of is None:
            result[name] = value
        elif _is_repeated(field) and isinstance(value, dict | list):
            entries: Iterable[tuple[str | int, Any]] = (
                cast("dict[str, Any]", value).items()
                if isinstance(value, dict)
                else enumerate(cast("list[Any]", value))
            )
            cleaned = {
                key: _without_later(each, of, (*path, field.name, key), parts) for key, each in entries
            }
            result[name] = cleaned if isinstance(value, dict) else list(cleaned.values())
        else:
            result[name] = _without_later(value, of, (*path, field.name), parts)
    return result


def _merge(message: Message, path: Path, body: bytes) -> None:
    """Merge an encoded message into the one at a path below another."""
    if isinstance(message, AnyMessage):
        packed = _unpacked(message)
        assert packed is not None, "the parser has found its type"
        _merge(packed, path, body)
        message.value = encode(packed)
        return
    if not path:
        message.MergeFromString(body)
        return
    name, *rest = path
    part = getattr(message, str(name))
    field = message.DESCRIPTOR.fields_by_name[str(name)]
    if not _is_repeated(field):
        _merge(part, tuple(rest), body)
    elif _is_map(field):
        key = next(key for key in part if _written_key(key) == rest[0])
        _merge(part[key], tuple(rest[1:]), body)
    else:
        _merge(part[rest[0]], tuple(rest[1:]), body)


# -- both ---------------------------------------------------------------------


def _unpacked(message: AnyMessage) -> Message | None:
    """What is packed in an ``Any``; ``None`` if JSON has a form of its own for it, or it is not known."""
    try:
        descriptor = _pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
    except KeyError:
        return None
    return None if _is_of_json(descriptor) else GetMessageClass(descriptor).FromString(message.value)


def _is_of_json(descriptor: Any) -> bool:
    """Whether messages of a type have a form of their own in JSON: durations, for example."""
    name = descriptor.full_name
    return name.startswith("google.protobuf.") and name != AnyMessage.DESCRIPTOR.full_name


def _is_repeated(field: Any) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _written_key(key: object) -> str:
    """The key of a map, as JSON has it."""
    return str(key).lower() if isinstance(key, bool) else str(key)
