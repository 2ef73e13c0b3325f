from __future__ import annotations

from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import GenericSecret, Secret

from moongate.cli.redaction import REDACTED, redacted
from moongate.xds.walk import unpacked
from moongate.xds.wire import packed

KEY = DataSource(inline_bytes=b"a private key")


def test_a_private_key_is_hidden_and_the_certificate_is_not() -> None:
    pair = TlsCertificate(private_key=KEY, certificate_chain=DataSource(inline_bytes=b"a certificate"))

    shown = redacted(Secret(name="cert", tls_certificate=pair)).tls_certificate

    assert shown.private_key == DataSource(inline_string=REDACTED)
    assert shown.certificate_chain == pair.certificate_chain


def test_a_generic_secret_is_hidden() -> None:
    shown = redacted(Secret(name="hmac", generic_secret=GenericSecret(secret=KEY)))

    assert shown.generic_secret.secret.inline_string == REDACTED


def test_what_is_packed_is_hidden_too() -> None:
    """Password hashes are deep inside listeners and routes."""
    users = packed(BasicAuth(users=DataSource(inline_bytes=b"mouse:{SHA}hash")))
    listener = Listener(filter_chains=[FilterChain(filters=[Filter(name="auth", typed_config=users)])])

    shown = unpacked(redacted(listener).filter_chains[0].filters[0].typed_config)

    assert shown == BasicAuth(users=DataSource(inline_string=REDACTED))


def test_the_metadata_of_calls_is_hidden() -> None:
    """It may be the token of a collector."""
    header = HeaderValue(key="authorization", value="Bearer token")

    shown = redacted(GrpcService(initial_metadata=[header]))

    assert [(each.key, each.value) for each in shown.initial_metadata] == [("authorization", REDACTED)]


def test_the_original_stays_as_it_is() -> None:
    secret = Secret(name="hmac", generic_secret=GenericSecret(secret=KEY))

    redacted(secret)

    assert secret.generic_secret.secret == KEY
