"""Filter chains, as they are joined into listeners.

Theory of operation
===================
On the wire a repeated field is its entries one after another, so a listener is joined from its own settings
and the bytes of its filter chains. A chain that changed is encoded alone; the others are not touched. Chains
come in parts, as routes do: where a listener has thousands of them, one part holds those of a shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import V3, AggregatedConfigSource, ConfigSource
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.duration_pb2 import Duration

from moongate.policies.effective import effective_gateway_policy, effective_listener_policy
from moongate.policies.http_listeners import port_conflict
from moongate.xds.wire import Encoded, encode, message_field, packed, sized

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db
    from moongate.features.base import ChainEdit, Effective, Feature
    from moongate.policies.effective import EffectivePolicy

TLS_SOCKET: Final = "envoy.transport_sockets.tls"


class ChainEntry(NamedTuple):
    """One filter chain.

    Args:
        name: of the chain; no other of the listener has it.
        origin: the resource that it is made from.
        body: the encoded entry of the ``Listener`` message.
        inspector: what the TLS inspector must find out for it, encoded; ``None`` when the chain needs none.
    """

    name: str
    origin: Ref
    body: bytes
    inspector: bytes | None

    def __repr__(self) -> str:
        return sized(self, self._fields)


class ChainPart(Encoded, frozen=True):
    """Some filter chains of a listener: as such, and joined."""

    entries: tuple[ChainEntry, ...]
    body: bytes
    inspectors: frozenset[bytes]
    """What the TLS inspector must find out for any of them."""

    @classmethod
    def of(cls, *entries: ChainEntry) -> ChainPart:
        return cls(
            entries,
            b"".join(each.body for each in entries),
            frozenset(each.inspector for each in entries if each.inspector is not None),
        )


def entry(edit: ChainEdit, origin: Ref, *, default: bool = False) -> ChainEntry:
    """A chain that is whole but for its transport socket, encoded.

    Args:
        edit: the chain; changed.
        origin: the resource that it is made from.
        default: whether the chain takes the connections that no other chain of the listener matches.
    """
    if edit.tls is not None:
        edit.message.transport_socket.CopyFrom(
            TransportSocket(name=TLS_SOCKET, typed_config=packed(edit.tls))
        )
    field = Listener.DEFAULT_FILTER_CHAIN_FIELD_NUMBER if default else Listener.FILTER_CHAINS_FIELD_NUMBER
    return ChainEntry(
        edit.message.name,
        origin,
        message_field(field, encode(edit.message)),
        encode(edit.inspector) if edit.inspector is not None else None,
    )


def client_policy(db: Db, members: tuple[ListenerId, ...]) -> EffectivePolicy | None:
    """The ClientTrafficPolicy of listeners that share a chain.

    It is that of the first whose own is not refused, or else the Gateway's.
    """
    for member in members:
        if port_conflict(db, member) is None:
            return effective_listener_policy(db, "ClientTrafficPolicy", member)
    return effective_gateway_policy(db, "ClientTrafficPolicy", members[0].gateway)


def settings(policy: EffectivePolicy | None) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
    """The features of a policy that are in force."""
    return policy.features() if policy is not None else iter(())


def over_ads() -> ConfigSource:
    """Where routes and certificates come from: the stream that the listener came by."""
    # No time limit: a listener waits for its routes and certificates instead of opening without them.
    return ConfigSource(
        ads=AggregatedConfigSource(), initial_fetch_timeout=Duration(), resource_api_version=V3
    )
