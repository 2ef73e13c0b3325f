"""Sending a certificate again that Envoy may keep already."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate.ads.secrets import respelled
from moongate.xds.wire import SECRET, XdsResource, encode


def test_a_certificate_can_be_written_in_other_bytes_that_mean_the_same() -> None:
    secret = Secret(name="s")
    secret.tls_certificate.certificate_chain.inline_bytes = b"chain"
    secret.tls_certificate.private_key.inline_bytes = b"key"
    resource = XdsResource.of(SECRET, "s", encode(secret))
    other = respelled(resource)

    assert other is not None
    assert (other.type_url, other.name) == (SECRET, "s")
    assert other.version != resource.version
    secret.tls_certificate.certificate_chain.inline_bytes = b"chain\n"
    assert Secret.FromString(other.body) == secret


def test_of_other_secrets_each_byte_counts() -> None:
    token = Secret(name="s")
    token.generic_secret.secret.inline_bytes = b"token"

    assert respelled(XdsResource.of(SECRET, "s", encode(token))) is None
    assert respelled(XdsResource.of(SECRET, "s", b"no message")) is None
