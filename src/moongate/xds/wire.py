"""xDS resources as bytes, put together from bytes.

Theory of operation
===================
In the protobuf wire format a repeated message field is nothing but its entries one after another,
each as tag, length, payload; and two encodings of parts of one message, joined, are an encoding of
the merged message. So a parent never re-encodes its children: ``message = own fields + entry + entry``.
Changing one route re-encodes one route and joins the rest.

Rule: this is the only module that calls ``SerializeToString``; it always asks for a deterministic one.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

TYPE_PREFIX = "type.googleapis.com/"

LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SCOPE = TYPE_PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
RATE_LIMIT_CONFIG = TYPE_PREFIX + "ratelimit.config.ratelimit.v3.RateLimitConfig"


def message_field(field: int, payload: bytes) -> bytes:
    """One entry of a repeated (or the value of a singular) message field."""
    return field_header(field, len(payload)) + payload


@lru_cache(maxsize=4096)  # lengths are much the same among thousands of resources
def field_header(field: int, length: int) -> bytes:
    """What stands before the ``length`` bytes of a message field, or of a string."""
    return _varint(field << 3 | 2) + _varint(length)


def has_string(body: bytes, text: str) -> bool:
    """Whether an encoded message has a field, at any depth, whose value is some text.

    It is not decoded, so other bytes may look so as well.
    """
    value = text.encode()
    return _varint(len(value)) + value in body


def encode(message: Message) -> bytes:
    """Encode with map keys sorted: equal messages give equal bytes."""
    return message.SerializeToString(deterministic=True)


def packed(message: Message) -> AnyMessage:
    """``message`` as ``google.protobuf.Any``, its bytes deterministic."""
    return AnyMessage(type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=encode(message))


def packed_as(message: type[Message], body: bytes) -> AnyMessage:
    """An encoded message as ``google.protobuf.Any``."""
    return AnyMessage(type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=body)


def version(body: bytes) -> str:
    """The content version of some bytes: equal bytes, equal version, in every process."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def fingerprint(body: bytes) -> str:
    """A name for some bytes that somebody may choose: nobody can find two with the same one."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


class Encoded(Struct, frozen=True):
    """Base of values that hold encoded messages: of these their repr has the sizes alone.

    In messages are keys and passwords, and a repr may end up in a log.
    """

    def __repr__(self) -> str:
        return sized(self, self.__struct_fields__)

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [(name, _shown(getattr(self, name))) for name in self.__struct_fields__]


def sized(value: object, names: Iterable[str]) -> str:
    """The repr of an object with these fields, bytes by their sizes; for named tuples, which have no base."""
    return f"{type(value).__name__}({', '.join(f'{name}={_shown(getattr(value, name))}' for name in names)})"


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, frozenset):
        return f"<{len(cast('frozenset[object]', value))} entries>"
    return repr(value)


class XdsResource(Encoded, frozen=True):
    """What a client is sent: a name and an encoded message, never a ``Message``."""

    type_url: str
    name: str
    body: bytes
    version: str

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> XdsResource:
        return cls(type_url, name, body, version(body))

    @classmethod
    def joined(cls, type_url: str, name: str, parts: Iterable[tuple[bytes, str]]) -> XdsResource:
        """The resource that is these bytes joined, each with its version.

        Its version follows from theirs, so that of megabytes only what changed is read for it. Equal parts
        give equal versions; equal bytes that are parted otherwise do not.
        """
        bodies, versions = zip(*parts, strict=True)
        return cls(type_url, name, b"".join(bodies), version("".join(versions).encode()))

    def wire(self) -> bytes:
        """``envoy.service.discovery.v3.Resource``: 1 version, 2 Any, 3 name."""
        # Joined once, for a body may have megabytes: adding up pieces copies it each time.
        any_head = _type_url(self.type_url) + field_header(2, len(self.body))
        any_length = len(any_head) + len(self.body)
        return b"".join(
            (
                message_field(1, self.version.encode()),
                field_header(2, any_length),
                any_head,
                self.body,
                message_field(3, self.name.encode()),
            )
        )


@cache
def _type_url(type_url: str) -> bytes:
    """Field 1 of ``google.protobuf.Any``."""
    return message_field(1, type_url.encode())


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)
