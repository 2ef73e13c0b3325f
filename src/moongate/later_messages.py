"""What Envoy 1.40 knows, but not the protobuf modules that we have: fields of messages, and messages.

When the modules have caught up, an entry here goes, for the field has a name of its own then. The messages of
a whole filter stand in ``xds.filter_chain_messages``.

Fields that a message lacks are declared in a message of their own that stands beside it. Of that are built
the bytes that are merged into the message, and with it they are written in JSON and read.

Source: the descriptors of Envoy 1.40.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.type.matcher.v3 import string_pb2
from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from xds.core.v3 import cidr_pb2

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

# -- fields -------------------------------------------------------------------

_PACKAGE: Final = "moongate.later"
_STRING_MATCHER: Final = ".envoy.type.matcher.v3.StringMatcher"
_TYPES: Final = {
    "string": Field.TYPE_STRING,
    "bool": Field.TYPE_BOOL,
    "uint32": Field.TYPE_UINT32,
}


def _field(name: str, number: int, of: str, *, repeated: bool = False) -> Field:
    """A field.

    Args:
        name: in snake case.
        number: in Envoy.
        of: a basic type, or the full name of a message or an enum after a dot.
        repeated: whether it is repeated.
    """
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    if (basic := _TYPES.get(of)) is not None:
        return Field(name=name, number=number, label=label, type=basic)
    kind = Field.TYPE_ENUM if of.endswith("Option") else Field.TYPE_MESSAGE
    return Field(name=name, number=number, label=label, type=kind, type_name=of)


def _message(name: str, *fields: Field) -> DescriptorProto:
    return DescriptorProto(name=name, field=fields)


def _declared() -> FileDescriptorProto:
    parts = (string_pb2, cidr_pb2, struct_pb2)
    file = FileDescriptorProto(
        name="moongate/later.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[each.DESCRIPTOR.name for each in parts],
    )
    file.message_type.extend(
        (
            _message("RouteMatch", _field("cookies", 17, f".{_PACKAGE}.CookieMatcher", repeated=True)),
            _message(
                "CookieMatcher",
                _field("name", 1, "string"),
                _field("string_match", 2, _STRING_MATCHER),
                _field("invert_match", 3, "bool"),
            ),
            _message("RateLimit", _field("x_ratelimit_option", 7, f".{_PACKAGE}.XRateLimitOption")),
            _message("Action", _field("remote_address_match", 13, f".{_PACKAGE}.RemoteAddressMatch")),
            _message(
                "RemoteAddressMatch",
                _field("descriptor_value", 1, "string"),
                _field("descriptor_key", 2, "string"),
                _field("default_value", 3, "string"),
                _field("address_matcher", 4, f".{_PACKAGE}.AddressMatcher"),
            ),
            _message(
                "AddressMatcher",
                _field("ranges", 1, ".xds.core.v3.CidrRange", repeated=True),
                _field("invert_match", 2, "bool"),
            ),
            _message("LocalRateLimitDescriptor", _field("shadow_mode", 3, "bool")),
            _message(
                "ClientSideWeightedRoundRobin",
                _field("oob_reporting_config", 9, f".{_PACKAGE}.OrcaOobReportingConfig"),
            ),
            _message(
                "OrcaOobReportingConfig",
                _field("port_value", 1, "uint32"),
                _field("authority", 2, "string"),
                _field("transport_socket_match_criteria", 3, ".google.protobuf.Struct"),
            ),
        )
    )
    options = file.enum_type.add(name="XRateLimitOption")
    for number, name in enumerate(("UNSPECIFIED", "OFF", "DRAFT_VERSION_03")):
        options.value.add(name=name, number=number)
    return file


_pool: Final = Default()
_pool.AddSerializedFile(encode(_declared()))


def _beside(name: str) -> type[Message]:
    return GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


FIELDS: Final[Mapping[str, type[Message]]] = {
    "envoy.config.route.v3.RouteMatch": _beside("RouteMatch"),
    "envoy.config.route.v3.RateLimit": _beside("RateLimit"),
    "envoy.config.route.v3.RateLimit.Action": _beside("Action"),
    "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor": _beside("LocalRateLimitDescriptor"),
    (
        "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3."
        "ClientSideWeightedRoundRobin"
    ): _beside("ClientSideWeightedRoundRobin"),
}
"""Full name of a message → the message that declares those of its fields that it lacks."""


def set_later(message: Message, **fields: Any) -> None:
    """Set fields that a message lacks, by their names; a message in one of them may be a dictionary.

    What a message keeps of fields that it does not know is encoded again, and copied with it.
    """
    message.MergeFromString(encode(FIELDS[message.DESCRIPTOR.full_name](**fields)))


# -- messages -----------------------------------------------------------------


def _registered(name: str) -> type[Message]:
    """The class of a message. It is registered if it is in no module, so that it can be printed, too."""
    try:
        descriptor = _pool.FindMessageTypeByName(name)
    except KeyError:
        package, _, message = name.rpartition(".")
        file = FileDescriptorProto(name=f"moongate/{message}.proto", package=package, syntax="proto3")
        file.message_type.add(name=message)
        _pool.AddSerializedFile(encode(file))
        descriptor = _pool.FindMessageTypeByName(name)
    return GetMessageClass(descriptor)


HttpResponseLocalReplyMatchInput: Final = _registered(
    "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput"
)
"""An input of a matcher: ``true`` for a response of Envoy itself, and ``false`` for one of a backend."""
