"""Whether a Secret holds a certificate that Envoy can serve, and for which names.

Facts
=====
* A serving chain is ordered: one member that cannot be read, or is out of date, spoils the Secret.
* Envoy refuses a whole secret for a key that does not belong to the certificate, an RSA key under 2048 bits,
  a curve that it does not know, or a key that is neither RSA nor ECDSA; the listener would then never open.
  So each of these is found here, before Envoy sees it.
* What is said about a Secret never holds any of its data: messages reach statuses and logs.

Source: Envoy, ``source/common/tls/server_context_impl.cc``; Kubernetes, type ``kubernetes.io/tls``.
"""

from __future__ import annotations

import base64
import binascii
import re
import textwrap
import warnings
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID
from msgspec import Struct

from moongate.api.core import Secret
from moongate.engine import query
from moongate.store import get

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
        PublicKeyTypes,
    )

    from moongate.api.base import Ref
    from moongate.engine import Db

NOW: Final = "now"
"""A cell with the time, in seconds since 1970. Whoever has a clock moves it when a certificate's time comes
or ends. Without it, every certificate counts as in date."""

TLS_SECRET: Final = "kubernetes.io/tls"  # noqa: S105 - the name of a type
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
OCSP_STAPLE: Final = "tls.ocsp-staple"

_KEY_LABELS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n(.*?)\r?\n?-----END \1-----[ \t]*(?:\r?\n|\Z)", re.DOTALL
)


class Certificate(Struct, frozen=True):
    """What a listener needs to know of a certificate.

    Args:
        algorithm: of its key, ``RSA`` or ``ECDSA``.
        sans: its DNS names, in order.
        domains: what it stands for: its DNS names, else the common name of its subject.
    """

    algorithm: str
    sans: tuple[str, ...]
    domains: tuple[str, ...]


class Fault(Struct, frozen=True):
    """Why a Secret cannot be served: the rest of a sentence that begins with its name."""

    told: str


@query
def certificate(db: Db, secret: Ref) -> Certificate | Fault:
    """The certificate in a Secret, its time not looked at, or what is wrong with the Secret.

    A renewed certificate for the same names is an equal answer.
    """
    found = get(db, Secret, secret)
    if found is None:
        return Fault("does not exist.")
    if found.type != TLS_SECRET:
        return Fault(f"is of type {found.type}; it must be of type {TLS_SECRET}.")
    for entry in (CERTIFICATE, KEY):
        if not found.data.get(entry):
            return Fault(f"has no {entry}; it must hold {CERTIFICATE} and {KEY}.")
    chain = _chain(found)
    if isinstance(chain, Fault):
        return chain
    key = _private_key(found)
    if isinstance(key, Fault):
        return key
    leaf = chain[0]
    try:
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return Fault(f"has a certificate in {CERTIFICATE} whose kind of key is not known; use RSA or ECDSA.")
    if _spki(public) != _spki(key.public_key()):
        return Fault(f"has a {KEY} that does not belong to the certificate in {CERTIFICATE}.")
    return _judged(leaf, public)


@query
def out_of_date(db: Db, secret: Ref) -> Fault | None:
    """Whether a certificate of the chain in a Secret is not valid yet, or no longer."""
    now: int | None = db.read(NOW)
    if now is None:
        return None
    for n, (first, last) in enumerate(_validity(db, secret)):
        which = "the certificate" if n == 0 else f"certificate {n + 1} of the chain"
        if now < first:
            return Fault(f"holds {which} in {CERTIFICATE} that is not valid yet.")
        if now > last:
            return Fault(f"holds {which} in {CERTIFICATE} that has expired.")
    return None


@query
def _validity(db: Db, secret: Ref) -> tuple[tuple[int, int], ...]:
    """First and last second of each certificate of the chain."""
    found = get(db, Secret, secret)
    chain = _chain(found) if found is not None else ()
    if isinstance(chain, Fault):
        return ()
    return tuple(
        (int(c.not_valid_before_utc.timestamp()), int(c.not_valid_after_utc.timestamp())) for c in chain
    )


def chain_pem(secret: Secret) -> bytes:
    """The chain of a Secret as PEM, without what people write between the blocks."""
    return b"".join(_pem(label, der) for label, der in _blocks(secret.data.get(CERTIFICATE, b"")))


def key_pem(secret: Secret) -> bytes:
    """The private key of a Secret as PEM, without blocks of other kinds (``EC PARAMETERS``)."""
    keys = (block for block in _blocks(secret.data.get(KEY, b"")) if block[0] in _KEY_LABELS)
    return next((_pem(label, der) for label, der in keys), b"")


def _judged(leaf: x509.Certificate, public: CertificatePublicKeyTypes) -> Certificate | Fault:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < 2048:
            return Fault(f"has an RSA key of {public.key_size} bits; Envoy wants 2048 or more.")
        algorithm = "RSA"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return Fault(f"has a key on the curve {public.curve.name}; Envoy knows P-256, P-384 and P-521.")
        algorithm = "ECDSA"
    else:
        return Fault(f"has a key in {KEY} that is neither RSA nor ECDSA, which is all that Envoy serves.")
    try:
        found = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert isinstance(found, x509.SubjectAlternativeName)
        sans = tuple(found.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        sans = ()
    except ValueError:
        return Fault(f"has extensions in {CERTIFICATE} that cannot be read.")
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Certificate(algorithm, sans, sans or tuple(str(n.value) for n in names[:1] if n.value))


def _chain(secret: Secret) -> tuple[x509.Certificate, ...] | Fault:
    blocks = _blocks(secret.data.get(CERTIFICATE, b""))
    if not blocks:
        return Fault(f"holds no PEM block in {CERTIFICATE}.")
    chain: list[x509.Certificate] = []
    for n, (_, der) in enumerate(blocks):
        try:
            with warnings.catch_warnings():
                # A serial number of 0 or less breaks RFC 5280, and is served by Envoy all the same.
                warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                chain.append(x509.load_der_x509_certificate(der))
        except ValueError:
            return Fault(f"holds something in block {n + 1} of {CERTIFICATE} that is not a certificate.")
    return tuple(chain)


def _private_key(secret: Secret) -> PrivateKeyTypes | Fault:
    blocks = _blocks(secret.data.get(KEY, b""))
    if not blocks:
        return Fault(f"holds no PEM block in {KEY}.")
    found = next(((label, der) for label, der in blocks if label in _KEY_LABELS), None)
    if found is None:
        return Fault(f"holds no private key in {KEY} that is PKCS1, PKCS8 or EC.")
    try:
        return load_der_private_key(found[1], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Fault(f"holds a private key in {KEY} that cannot be read.")


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _blocks(data: bytes) -> list[tuple[str, bytes]]:
    """(label, DER) of each PEM block; those that are no base64, or encrypted, are passed over."""
    found: list[tuple[str, bytes]] = []
    for label, body in _BLOCK.findall(data):
        try:
            found.append((label.decode(), base64.b64decode(b"".join(body.split()), validate=True)))
        except binascii.Error:
            continue
    return found


def _pem(label: str, der: bytes) -> bytes:
    lines = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()
