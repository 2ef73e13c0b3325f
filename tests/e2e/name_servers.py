"""A DNS server that says how often it is asked, and an EnvoyProxy whose Envoys ask it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.e2e import manifests as m

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_A, _IN = b"\0\1", b"\0\1"


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for IPv4 addresses with the same one, and others with none.

    Attributes:
        port: where it listens on loopback, by UDP.
        ttl_s: how long answers may be kept.
        times: when each question for IPv4 addresses came, on the clock of the event loop.
    """

    def __init__(self, ttl_s: int) -> None:
        self.port = 0
        self.ttl_s = ttl_s
        self.times: list[float] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        # A header of 12 bytes, then a name that ends with an empty label, its type, and its class.
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        addresses = question[-4:-2] == _A
        header = data[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if addresses else b"\0\0") + b"\0\0\0\0"
        answer = b""
        if addresses:
            self.times.append(asyncio.get_running_loop().time())
            # The name is that of the question, which stands at byte 12.
            answer = b"\xc0\x0c" + _A + _IN + self.ttl_s.to_bytes(4, "big") + b"\0\4" + bytes([127, 0, 0, 1])
        if self._transport is not None:
            self._transport.sendto(header + question + answer, addr)


@asynccontextmanager
async def name_server(ttl_s: int) -> AsyncGenerator[NameServer]:
    """A server until the block is left."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(ttl_s), local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()


def proxy_that_asks(name: str, port: int) -> m.Document:
    """An EnvoyProxy whose Envoys look names up at a server on loopback."""
    address = f"{{socket_address: {{protocol: UDP, address: 127.0.0.1, port_value: {port}}}}}"
    kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    config: dict[str, Any] = {
        "bootstrap": {
            "type": "Merge",
            "value": f"""
            typed_dns_resolver_config:
              name: envoy.network.dns_resolver.cares
              typed_config:
                '@type': {kind}
                resolvers: [{address}]
            """,
        }
    }
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": m.ENVOY, "kind": "EnvoyProxy", "metadata": metadata, "spec": config}
