"""A server of secrets on a Unix socket, as SPIRE is one (SDS)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from moongate.xds.wire import SECRET, encode, packed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from tests.e2e.certificates import Certificate

_SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"


class SecretServer:
    """Has secrets by name.

    Attributes:
        secrets: what it answers with.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, Secret] = {}
        self._changed = asyncio.Event()

    def trust(self, name: str, pem: bytes) -> None:
        """Have certificates of authorities under a name."""
        secret = Secret(name=name)
        secret.validation_context.trusted_ca.inline_bytes = pem
        self._put(secret)

    def show(self, name: str, certificate: Certificate) -> None:
        """Have a certificate and its key under a name."""
        secret = Secret(name=name)
        secret.tls_certificate.certificate_chain.inline_bytes = certificate.pem
        secret.tls_certificate.private_key.inline_bytes = certificate.key
        self._put(secret)

    def _put(self, secret: Secret) -> None:
        self.secrets[secret.name] = secret
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncGenerator[None]:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            DiscoveryRequest.FromString,
            encode,  # type: ignore[arg-type]
        )
        handlers = grpc.method_handlers_generic_handler(_SERVICE, {"StreamSecrets": handler})
        server.add_generic_rpc_handlers((handlers,))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def _stream(
        self, requests: AsyncIterator[DiscoveryRequest], _context: Any
    ) -> AsyncIterator[DiscoveryResponse]:
        first = await anext(aiter(requests))
        for version in map(str, count(1)):
            changed = self._changed
            secrets = [packed(self.secrets[name]) for name in first.resource_names]
            yield DiscoveryResponse(version_info=version, nonce=version, type_url=SECRET, resources=secrets)
            await changed.wait()


def served(name: str, secret: str, socket: Path) -> dict[str, Any]:
    """A Secret that stands for one of a server."""
    data = {"secretName": secret, "url": f"unix://{socket}"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "gateway.envoyproxy.io/sds",
        "metadata": {"name": name},
        "stringData": data,
    }
