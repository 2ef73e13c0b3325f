"""The certificates of CAs behind references to ConfigMaps, Secrets and ClusterTrustBundles.

Rules
=====
1. Several references add up. If one of them leads nowhere, none of them counts.
2. A Secret may stand for a secret of another server. It must stand alone then.

Source: Gateway API, ``caCertificateRefs``; the reference for the keys and kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import Ref
from moongate.api.core import ClusterTrustBundle, ConfigMap, Secret
from moongate.attach.certificates import Fault, trusted
from moongate.attach.refused import absence
from moongate.attach.secret_servers import ServedSecret, served_secret
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.wire import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moongate.engine import Db

_SOURCES: Final = {kind.KIND: kind for kind in (ConfigMap, Secret, ClusterTrustBundle)}
KINDS: Final = tuple(_SOURCES)
"""What may hold CAs."""
_KEYS: Final = ("ca.crt", "tls.crt")
"""Where CAs are in a ConfigMap or Secret; if it has one key only, there."""


class Bundle(Encoded, frozen=True):
    """Certificates of CAs, as PEM; or the server that has them."""

    pem: bytes
    server: ServedSecret | None = None


def source(kind: str, namespace: str, name: str) -> Ref | None:
    """What a reference to CAs names; ``None`` if that kind cannot hold any."""
    type_ = _SOURCES.get(kind)
    return None if type_ is None else Ref.of(type_, "" if type_.CLUSTER_SCOPED else namespace, name)


def bundle(db: Db, sources: Iterable[tuple[str, Ref]]) -> Bundle | Problem:
    """The certificates of some sources together, or what is wrong with one of them.

    Args:
        db: where to read.
        sources: each with the path of its reference.
    """
    named = list(sources)
    pem = b""
    for path, at in named:
        behind = _behind(db, at)
        if isinstance(behind, ServedSecret):
            if len(named) == 1:
                return Bundle(b"", behind)
            behind = Fault(f"{at} is of another server; it must stand alone.")
        if isinstance(behind, Fault):
            return Problem(path, behind.message, "InvalidCACertificateRef")
        pem += behind
    return Bundle(pem)


def _behind(db: Db, at: Ref) -> bytes | ServedSecret | Fault:
    data: Mapping[str, bytes] | None = None
    if at.is_a(ClusterTrustBundle):
        if (trust := get(db, ClusterTrustBundle, at)) is not None:
            data = {"spec.trustBundle": trust.spec.trust_bundle.encode()}
    elif at.is_a(ConfigMap):
        if (texts := get(db, ConfigMap, at)) is not None:
            data = {key: text.encode() for key, text in texts.data.items()}
    elif (secret := get(db, Secret, at)) is not None:
        data = secret.data
        if (served := served_secret(db, at)) is not None:
            return Fault(f"{at} {served.message}") if isinstance(served, Fault) else served
    if data is None:
        return Fault(f"{at} {absence(db, at)}.")
    key = next((key for key in _KEYS if key in data), next(iter(data)) if len(data) == 1 else None)
    if key is None:
        return Fault(f"{at} has no ca.crt, which must hold the certificates of CAs, as PEM.")
    pem = trusted(key, data[key])
    return Fault(f"{at} {pem.message}") if isinstance(pem, Fault) else pem
