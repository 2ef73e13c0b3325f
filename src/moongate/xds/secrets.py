"""Certificates and CAs, as Envoy fetches them.

Warning: bodies hold private keys. They go to Envoy and nowhere else; ``XdsResource.body`` is shown by no log,
status or dump of ours without its keys struck out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretMessage

from moongate import names
from moongate.api.base import FleetId, Ref
from moongate.api.core import Secret
from moongate.attach.backend_tls import OF_SYSTEM, authorities, authorities_refusal
from moongate.attach.certificates import OCSP_STAPLE, chain_pem, key_pem, refusal
from moongate.attach.client_validation import client_authorities_server
from moongate.attach.fleets import members
from moongate.attach.gateways import system_authorities
from moongate.attach.listener_certificates import certificate_refs, listener_certificates
from moongate.attach.listeners import SECURE, all_last_judged
from moongate.attach.secret_servers import ServedSecret
from moongate.engine import Failed, query
from moongate.policies.http_listeners import clients_of
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.cluster_keys import ClientAuthoritiesSecret, SecretServerCluster
from moongate.xds.wire import SECRET, XdsResource, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import ListenerId
    from moongate.attach.listeners import Listener
    from moongate.engine import Db
    from moongate.xds.cluster_keys import AuthoritiesSecret, PolicySecret, ResourceKey


@query
def secret_refs(db: Db, fleet: FleetId) -> tuple[Ref, ...]:
    """The Secrets whose certificates a fleet's ready listeners serve, each once, sorted."""
    judged = all_last_judged(db, members(db, fleet))
    served = [each.id for each in judged if each.ready and each.chain_kind is not None]
    return tuple(sorted({ref for listener in served for ref in _certificates_of(db, listener)}))


@query
def listener_needs(db: Db, fleet: FleetId) -> tuple[ResourceKey, ...]:
    """What else a fleet's ready listeners need for TLS, each once: CAs for clients, and other servers."""
    needs: dict[ResourceKey, None] = {}
    for each in all_last_judged(db, members(db, fleet)):
        if each.ready and each.chain_kind is not None:
            needs.update(dict.fromkeys(_needs_of(db, fleet, each)))
    return tuple(sorted(needs, key=_name_of))


def _needs_of(db: Db, fleet: FleetId, listener: Listener) -> Iterator[ResourceKey]:
    certificates = listener_certificates.last_good(db, listener.id)
    if not isinstance(certificates, Failed):
        for _, server in certificates.servers:
            yield SecretServerCluster(names.secret_server(server.socket), fleet, server.socket)
    if listener.chain_kind not in SECURE:
        return
    clients = clients_of.last_good(db, listener.id)
    if isinstance(clients, Failed) or clients is None or clients.authorities is None:
        return
    of = clients.authorities
    server = client_authorities_server.last_good(db, of)
    if isinstance(server, ServedSecret):
        yield SecretServerCluster(names.secret_server(server.socket), fleet, server.socket)
    elif server is None:
        yield ClientAuthoritiesSecret(fleet, of)


def _name_of(key: ResourceKey) -> str:
    return key.name


def _certificates_of(db: Db, listener: ListenerId) -> tuple[Ref, ...]:
    certificates = listener_certificates.attempt(db, listener)
    if not isinstance(certificates, Failed):
        others = dict(certificates.servers)
        return tuple(ref for ref in certificates.served if ref not in others)
    # Which of them Envoy serves is not known, so it keeps all that the listener may use.
    refs = certificate_refs.last_good(db, listener)
    return () if isinstance(refs, Failed) else tuple(ref for ref in refs if isinstance(ref, Ref))


@query
def secret(db: Db, fleet: FleetId, ref: Ref) -> XdsResource:
    """A certificate with its key, as Envoy last took it.

    An empty one when the Secret is gone, until the listeners let go of it.
    """
    refused = refusal(db, fleet, ref)
    if refused is not None and refused.before is not None:
        return refused.before
    resource = get(db, Secret, ref)
    message = SecretMessage(name=names.secret(ref))
    if resource is not None:
        message.tls_certificate.CopyFrom(_tls_certificate(resource))
    return XdsResource.of(SECRET, message.name, encode(message))


@query
def policy_secret(db: Db, key: PolicySecret) -> XdsResource:
    """A secret that a feature needs; an empty one when it is gone, until the policies let go of it."""
    resource = get(db, Secret, key.found_in.secret)
    message = SecretMessage(name=key.name)
    message.generic_secret.secret.inline_bytes = (
        resource.data.get(key.found_in.key, b"") if resource is not None else b""
    )
    return XdsResource.of(SECRET, message.name, encode(message))


@query
def authorities_secret(db: Db, key: AuthoritiesSecret) -> XdsResource:
    """The CAs that a cluster checks its backends by; none at all where they cannot be used any more.

    Without any, Envoy refuses the secret and goes on with the one before, until the cluster lets go of it.
    """
    refused = authorities_refusal(db, key.fleet, key.owner or OF_SYSTEM)
    if refused is not None and refused.before is not None:
        return refused.before
    message = SecretMessage(name=key.name)
    trusted = message.validation_context.trusted_ca
    bundle = authorities(db, key.owner) if key.owner is not None else None
    if bundle is None or (not isinstance(bundle, Problem) and not bundle.pem):
        trusted.filename = system_authorities(db)
    else:
        trusted.inline_bytes = b"" if isinstance(bundle, Problem) else bundle.pem
    return XdsResource.of(SECRET, key.name, encode(message))


def _tls_certificate(secret: Secret) -> TlsCertificate:
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=chain_pem(secret)),
        private_key=DataSource(inline_bytes=key_pem(secret)),
    )
    if staple := secret.data.get(OCSP_STAPLE):
        certificate.ocsp_staple.inline_bytes = staple
    return certificate
