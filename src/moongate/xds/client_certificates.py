"""How a filter chain checks the certificates of clients.

Theory of operation
===================
A chain names the secret with the CAs, and Envoy fetches it. So other CAs hold for new connections at once,
and no chain needs to change for them. But connections that are open were checked by the former CAs, and would
stay. So a chain says in its metadata which CAs it was made for (runtime flag ``DrainOnClientCAs``). With
other ones it is another chain: Envoy asks the clients of the former one to connect again, and closes what is
left after its drain time. Secrets are sent before listeners, so nobody comes to the new chain by the former
CAs.

CAs that another server has are not known, so connections stay when those change.

Source: the reference's shape; Envoy, ``DownstreamTlsContext`` and ``FilterChain.metadata``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate import names
from moongate.attach.client_validation import (
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


def check_clients(db: Db, chain: FilterChain, tls: DownstreamTlsContext, asked: ClientValidation) -> None:
    """Let a chain ask for certificates of clients, and check them.

    Args:
        db: where to read.
        chain: changed.
        tls: its TLS; changed.
        asked: what is asked of clients.
    """
    of = asked.authorities
    server = client_authorities_server(db, of)
    if server is None and config(db).runtime_flags.on("DrainOnClientCAs"):
        contents = client_authorities_contents(db, of)
        chain.metadata.filter_metadata[_ABOUT].fields[_MARK].string_value = contents
    common = tls.common_tls_context
    source = secret_from(names.client_authorities(of.gateway, of.place), server)
    tls.require_client_certificate.value = asked.only_valid
    if asked.only_valid:
        common.validation_context_sds_secret_config.CopyFrom(source)
    else:
        combined = common.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(source)
        combined.default_validation_context.trust_chain_verification = (
            CertificateValidationContext.ACCEPT_UNTRUSTED
        )


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
    pem = b"" if isinstance(authorities, Problem) else authorities.pem
    message.validation_context.trusted_ca.inline_bytes = pem
    return XdsResource.of(SECRET, key.name, encode(message))
