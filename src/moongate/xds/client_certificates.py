"""How a filter chain checks the certificates of clients.

Theory of operation
===================
A chain names the secret with the CAs, and Envoy fetches it. So other CAs hold for new connections at once,
and no chain needs to change for them. But connections that are open were checked by the former CAs, and would
stay. So a chain says in its metadata which CAs it was made for (runtime flag ``DrainOnClientCAs``). With
other ones it is another chain: Envoy asks the clients of the former one to connect again, and closes what is
left after its drain time. Secrets are sent before listeners, so nobody comes to the new chain by the former
CAs.

Without a CA, Envoy requires no certificate even where its configuration says so. So a chain that requires any
certificate, and names no CA, has one that signed nothing; that all are accepted which it did not sign, is
said apart.

CAs that another server has are not known, so connections stay when those change. Envoy takes any secret under
the name that it asked for: if that is a certificate, or nothing at all, it knows no CA, and would ask clients
for no certificate. So the chain has a CA that signed nothing, and Envoy replaces it by those of the server.

Source: the reference's shape; Envoy, ``DownstreamTlsContext``, ``FilterChain.metadata`` and
``CombinedCertificateValidationContext`` (what a server answers is merged into the default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate.attach.client_validation import (
    PolicyAuthorities,
    client_authorities,
    client_authorities_contents,
    client_authorities_refusal,
    client_authorities_server,
)
from moongate.attach.gateways import config
from moongate.engine import query
from moongate.problem import Problem
from moongate.xds.filter_chains import secret_from
from moongate.xds.wire import SECRET, XdsResource, encode

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_components_pb2 import FilterChain
    from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

    from moongate.attach.client_validation import ClientValidation
    from moongate.engine import Db
    from moongate.xds.cluster_keys import ClientAuthoritiesSecret

_ABOUT: Final = "envoy-gateway"
_MARK: Final = "client-authorities"
_NOBODY: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIBJzCBz6ADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBm5vYm9keTAg
Fw0wMDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowETEPMA0GA1UEAwwGbm9i
b2R5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUvZsPlrX+w6REwg2EwoowL55
ovSOX44QWHcV646AXdS30OKEA52xiWaRgPCromvJ+2SuJGfss7sva4vUarDMZ6MW
MBQwEgYDVR0TAQH/BAgwBgEB/wIBADAKBggqhkjOPQQDAgNHADBEAiBMQEkvALOZ
m2Ijll+S02wvfFNDmloQfgVmPRScT33H9gIgc47wb01nFVvG6YmNrEnQw35n/2if
rDJf3NnZujnFaGI=
-----END CERTIFICATE-----
"""
"""An authority whose key nobody has: it was never written down."""


def check_clients(
    db: Db, chain: FilterChain, tls: DownstreamTlsContext, validation: ClientValidation
) -> None:
    """Let a chain ask for certificates of clients, and check them.

    Args:
        db: where to read.
        chain: changed.
        tls: its TLS; changed.
        validation: which certificates clients must show.
    """
    tls.require_client_certificate.value = validation.required
    common, of = tls.common_tls_context, validation.authorities
    default = CertificateValidationContext.FromString(validation.conditions)
    if not validation.verified:
        default.trust_chain_verification = CertificateValidationContext.ACCEPT_UNTRUSTED
    # If it knows no CA, Envoy verifies nothing, and does not even require a certificate.
    needs_ca = validation.verified or validation.required
    if of is None:
        if needs_ca:
            default.trusted_ca.inline_bytes = _NOBODY
        common.validation_context.CopyFrom(default)
        return
    server = client_authorities_server(db, of)
    if server is None and config(db).runtime_flags.on("DrainOnClientCAs"):
        contents = client_authorities_contents(db, of)
        chain.metadata.filter_metadata[_ABOUT].fields[_MARK].string_value = contents
    if server is not None and needs_ca:
        default.trusted_ca.inline_bytes = _NOBODY
    by_sds = secret_from(of.secret, server)
    if default == CertificateValidationContext():
        common.validation_context_sds_secret_config.CopyFrom(by_sds)
        return
    common.combined_validation_context.default_validation_context.CopyFrom(default)
    common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(by_sds)


@query
def client_authorities_secret(db: Db, key: ClientAuthoritiesSecret) -> XdsResource:
    """The CAs that listeners check their clients by; none at all where they cannot be used any more.

    Without any, Envoy refuses the secret and goes on with the one before, until the listeners let go of it.
    """
    refused = client_authorities_refusal(db, key.fleet, key.of)
    if refused is not None and refused.before is not None:
        return refused.before
    authorities = client_authorities(db, key.of)
    message = Secret(name=key.name)
    context = message.validation_context
    context.trusted_ca.inline_bytes = b"" if isinstance(authorities, Problem) else authorities.pem
    if not isinstance(authorities, Problem) and authorities.revoked:
        context.crl.inline_bytes = authorities.revoked
        context.only_verify_leaf_cert_crl = isinstance(key.of, PolicyAuthorities) and key.of.only_leaf
    return XdsResource.of(SECRET, key.name, encode(message))
