"""The certificates of CAs behind references to ConfigMaps, Secrets and ClusterTrustBundles.

Rules
=====
1. Several references add up. If one of them leads nowhere, none of them counts.
2. A Secret may stand for a secret of another server. It must stand alone then.
3. ``valid_bundle`` passes over what has expired or cannot be read, as long as another certificate is left.

Source: Gateway API, ``caCertificateRefs``; the reference for the keys and kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import Ref
from moongate.api.core import ClusterTrustBundle, ConfigMap, Secret
from moongate.attach.certificates import NOW, Fault, Member, list_members, readable_members, trusted
from moongate.attach.refused import absence
from moongate.attach.secret_servers import ServedSecret, served_secret
from moongate.engine import query
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
_KEY: Final = "ca.crt"
_LIST_KEY: Final = "ca.crl"


class Bundle(Encoded, frozen=True):
    """Certificates of CAs.

    Args:
        pem: the certificates, as PEM.
        server: the server that has them instead.
        revoked: the lists of certificates that they revoked, as PEM.
    """

    pem: bytes
    server: ServedSecret | None = None
    revoked: bytes = b""


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


def valid_bundle(db: Db, sources: Iterable[tuple[str, Ref]]) -> Bundle | Problem:
    """As ``bundle``, but without what has expired or cannot be read; each certificate once."""
    named = list(sources)
    blocks: dict[bytes, None] = {}
    for path, at in named:
        members = _members(db, at)
        if isinstance(members, ServedSecret):
            if len(named) == 1:
                return Bundle(b"", members)
            members = Fault(f"{at} is of another server; it must stand alone.")
        if isinstance(members, Fault):
            return Problem(path, members.message)
        expired = _expired(db, at)
        valid = [member for n, member in enumerate(members) if n not in expired]
        if not any(not member.is_list for member in valid):
            return Problem(path, f"{at} has no certificate of a CA that is valid: all of them have expired.")
        blocks.update((member.pem, None) for member in valid)
    return Bundle(b"".join(blocks))


def revoked(db: Db, sources: Iterable[tuple[str, Ref]]) -> bytes | Problem:
    """The lists of revoked certificates of some sources together, as PEM, or what is wrong with one.

    Args:
        db: where to read.
        sources: each with the path of its reference.
    """
    blocks: dict[bytes, None] = {}
    for path, at in sources:
        lists = _lists(db, at)
        if isinstance(lists, Fault):
            return Problem(path, lists.message)
        if _expired_lists(db, at):
            return Problem(
                path,
                f"{at} has a list of revoked certificates that has expired, so Envoy would refuse all "
                "clients of its CA; it must be renewed.",
            )
        blocks.update((member.pem, None) for member in lists)
    return b"".join(blocks)


@query
def _members(db: Db, at: Ref) -> tuple[Member, ...] | ServedSecret | Fault:
    data = _data(db, at)
    if not isinstance(data, dict):
        return data
    key = _key(data, _KEY)
    if key is None:
        return Fault(f"{at} has no {_KEY}, which must hold the certificates of CAs, as PEM.")
    members = readable_members(data[key])
    if any(not member.is_list for member in members):
        return members
    # The strict reading says what is wrong.
    fault = trusted(key, data[key])
    assert isinstance(fault, Fault), "what has no certificate that can be read has a fault"
    return Fault(f"{at} {fault.message}")


@query
def _lists(db: Db, at: Ref) -> tuple[Member, ...] | Fault:
    data = _data(db, at)
    if isinstance(data, ServedSecret):
        return Fault(f"{at} is of another server; lists of revoked certificates must be here.")
    if isinstance(data, Fault):
        return data
    key = _key(data, _LIST_KEY)
    if key is None:
        return Fault(f"{at} has no {_LIST_KEY}, which must hold the lists of revoked certificates, as PEM.")
    lists = list_members(key, data[key])
    return Fault(f"{at} {lists.message}") if isinstance(lists, Fault) else lists


# The time has queries of its own, so that nothing runs again as long as it changes no answer.


@query
def _expired(db: Db, at: Ref) -> frozenset[int]:
    """Which of the blocks of a source have expired, by index; lists are left to Envoy."""
    members = _members(db, at)
    return frozenset() if isinstance(members, ServedSecret | Fault) else _past(db, members, is_list=False)


@query
def _expired_lists(db: Db, at: Ref) -> frozenset[int]:
    lists = _lists(db, at)
    return frozenset() if isinstance(lists, Fault) else _past(db, lists, is_list=True)


def _past(db: Db, members: tuple[Member, ...], *, is_list: bool) -> frozenset[int]:
    now: int | None = db.read(NOW)
    return frozenset(
        n
        for n, member in enumerate(members)
        if now is not None and member.is_list == is_list and member.last is not None and now > member.last
    )


def _behind(db: Db, at: Ref) -> bytes | ServedSecret | Fault:
    data = _data(db, at)
    if not isinstance(data, dict):
        return data
    key = _key(data, *_KEYS)
    if key is None:
        return Fault(f"{at} has no {_KEY}, which must hold the certificates of CAs, as PEM.")
    pem = trusted(key, data[key])
    return Fault(f"{at} {pem.message}") if isinstance(pem, Fault) else pem


def _key(data: Mapping[str, bytes], *usual: str) -> str | None:
    """The first of the usual keys that is there; the only one, if there is one only."""
    return next((key for key in usual if key in data), next(iter(data)) if len(data) == 1 else None)


def _data(db: Db, at: Ref) -> dict[str, bytes] | ServedSecret | Fault:
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
    return Fault(f"{at} {absence(db, at)}.") if data is None else dict(data)
