"""Sending a certificate again that Envoy may keep already.

Facts
-----
* a response with several secrets is refused as a whole, and Envoy does not say for which of them. It stops at
  the first that it refuses, so it has some of the others and some not
* Envoy keeps a secret before it looks at it. If it is sent again with equal bytes, Envoy ignores it, and
  acknowledges it even if it has refused it

So to find the culprit, each secret is sent alone, in other bytes that mean the same: PEM may end in line
breaks. Other secrets, of which each byte counts, are never sent with others.
"""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import DecodeError

from moongate.xds.wire import XdsResource, encode


def respelled(resource: XdsResource) -> XdsResource | None:
    """The same certificate in other bytes; None for any other secret."""
    try:
        secret = Secret.FromString(resource.body)
    except DecodeError:
        return None
    chain = secret.tls_certificate.certificate_chain
    if not chain.inline_bytes:
        return None
    chain.inline_bytes += b"\n"
    return XdsResource.of(resource.type_url, resource.name, encode(secret))
