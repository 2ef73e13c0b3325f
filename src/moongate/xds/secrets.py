"""The certificates of listeners, as Envoy fetches them.

Warning: bodies hold private keys. They go to Envoy and nowhere else; ``XdsResource.body`` is shown by no log,
status or dump of ours without its keys struck out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretMessage

from moongate import names
from moongate.api.core import Secret
from moongate.attach.certificates import OCSP_STAPLE, chain_pem, key_pem
from moongate.attach.listeners import listeners
from moongate.engine import query
from moongate.store import get
from moongate.xds.wire import SECRET, XdsResource, encode

if TYPE_CHECKING:
    from moongate.api.base import Ref
    from moongate.engine import Db


@query
def secret_refs(db: Db, gateway: Ref) -> tuple[Ref, ...]:
    """The Secrets whose certificates a Gateway's ready listeners serve, each once, sorted."""
    served = {
        ref
        for each in listeners(db, gateway)
        if each.ready and each.chain_kind is not None
        for ref in each.certificates
    }
    return tuple(sorted(served))


@query
def secret(db: Db, gateway: Ref, ref: Ref) -> XdsResource:
    """A certificate with its key; an empty one when the Secret is gone, until the listeners let go of it."""
    found = get(db, Secret, ref)
    message = SecretMessage(name=names.secret(ref))
    if found is not None:
        message.tls_certificate.CopyFrom(_certificate(found))
    return XdsResource.of(SECRET, message.name, encode(message))


def _certificate(found: Secret) -> TlsCertificate:
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=chain_pem(found)),
        private_key=DataSource(inline_bytes=key_pem(found)),
    )
    if staple := found.data.get(OCSP_STAPLE):
        certificate.ocsp_staple.inline_bytes = staple
    return certificate
