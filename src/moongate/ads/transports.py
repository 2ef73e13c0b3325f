"""How Envoys reach the server, and who they are when they do.

A stream carries the private keys of a fleet, and whoever opens one may say anything of itself. So it is the
transport that knows whose Envoy it is: by a Unix socket that is there for one fleet, by the name in a client
certificate, by a token. What the Envoy says is compared with that and refused when it differs, rather than
overruled: a bootstrap that names another fleet is a mistake, and its Envoy would serve what nobody meant it
to serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import grpc
    import grpc.aio
    from envoy.config.core.v3.base_pb2 import Node
    from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

    Context: TypeAlias = grpc.aio.ServicerContext[DeltaDiscoveryRequest, Any]

_MOST_SHOWN = 200
"""Characters of what a client says of itself that are said back to it."""


class Identity(Struct, frozen=True):
    """Whose Envoy opens a stream."""

    fleet: str
    node: str


class IdentityError(Exception):
    """Whoever connects is not served. The message goes back to it, and says what is wrong."""


class Transport(Struct, frozen=True, kw_only=True):
    """A place where Envoys connect.

    Args:
        address: as gRPC has it: ``unix:/run/xds.sock``, ``0.0.0.0:18000``.
        identify: says from the call, and from what the client says of itself, whose Envoy it is. Raises
            ``IdentityError`` when it is nobody's, or says that it is another's.
        credentials: of the server; None where the address itself is protected.
    """

    address: str
    identify: Callable[[Context, Node], Identity]
    credentials: grpc.ServerCredentials | None = None


def unix_socket(path: Path, fleet: str) -> Transport:
    """The transport of one fleet: whoever can open its socket is an Envoy of it.

    Its Envoys tell themselves apart by their node ids, which they choose.
    """

    def identify(_: Context, node: Node) -> Identity:
        if node.cluster not in ("", fleet):
            raise IdentityError(
                f"This socket is for Envoys of the fleet {fleet!r}, and node.cluster is "
                f"{node.cluster[:_MOST_SHOWN]!r}; use the socket of that fleet, or correct node.cluster."
            )
        return Identity(fleet, node.id)

    return Transport(address=f"unix:{path}", identify=identify)
