"""Whether a Secret holds a certificate that Envoy can serve, and for which names.

Facts
=====
* A serving chain is ordered: one member that cannot be read, or is out of date, spoils the Secret.
* Envoy refuses a whole secret, and the listener then never opens, for

  - a key that does not belong to the certificate, or that is neither RSA nor ECDSA
  - an RSA key under 2048 bits or over 16384, whose numbers do not belong together, or for RSASSA-PSS alone
  - a curve that it does not know
  - a certificate without any name
  - an ECDSA certificate whose key usage leaves out signatures
  - an OCSP staple that is no answer about the certificate, or is missing where the certificate demands one

  So moongate looks for each of these before Envoy gets the Secret. Like Envoy, it does not ask whether the
  primes of a key are prime.
* Messages about a Secret never hold any of its data, for they reach statuses and logs. What the library that
  reads certificates says of them may hold some, so it is never repeated.
* That library raises many things about odd input, some of which are no ``ValueError``, and its part in Rust
  may panic. All of it is a fault of the one Secret.

Source: Envoy, ``source/common/tls/server_context_impl.cc``; Kubernetes, type ``kubernetes.io/tls``.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID, NameOID, PublicKeyAlgorithmOID
from msgspec import Struct

from moongate.api.core import ENCODED_TWICE, Secret
from moongate.attach.refused import absence
from moongate.engine import query
from moongate.store import get
from moongate.xds.wire import Encoded, XdsResource, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
        PublicKeyTypes,
    )

    from moongate.api.base import FleetId, Ref
    from moongate.engine import Db, Query

T = TypeVar("T")
S = TypeVar("S", bound="Hashable")

NOW: Final = "now"
"""A cell with the time, in seconds since 1970. Whoever has a clock moves it when a certificate's time comes
or ends. Without it, every certificate counts as in date."""

TLS_SECRET: Final = "kubernetes.io/tls"  # noqa: S105 - the name of a type
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
OCSP_STAPLE: Final = "tls.ocsp-staple"

MOST_RSA_BITS: Final = 16384
MOST_EXPONENT_BITS: Final = 33
"""What Envoy's library takes, of the modulus and of the public exponent."""

_RSASSA_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
"""The object identifier of such a key, as DER has it."""
_HEAD: Final = 32
"""Within so many bytes a PKCS8 key says of what kind it is."""

_KEY_LABELS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_ENCRYPTED = "ENCRYPTED PRIVATE KEY"
_BEGIN = b"-----BEGIN "
_CERTIFICATE_LABEL = "CERTIFICATE"
_LIST_LABEL = "X509 CRL"
_TRUST_LABELS = (_CERTIFICATE_LABEL, _LIST_LABEL)
_BLOCK = re.compile(
    # What is within is base64, so it ends at a hyphen: each byte is looked at once, whatever lacks its END.
    rb"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n([^-]*)-----END \1-----[ \t]*(?:\r?\n|\Z)"
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
    """Why a Secret cannot be served.

    Args:
        message: the rest of a sentence that begins with the Secret's name.
    """

    message: str


class RefusedCertificate(Encoded, frozen=True):
    """What the Envoys of a fleet refuse of a Secret or of the CAs of a resource, although moongate took it.

    Args:
        contents: which contents they refuse, as ``contents`` has it.
        message: why, in Envoy's words.
        before: what they took last, and go on with; ``None`` if they never took any.
    """

    contents: str
    message: str
    before: XdsResource | None


def refused_certificate(fleet: FleetId, source: S) -> tuple[str, FleetId, S]:
    """The cell with the ``RefusedCertificate`` of a Secret, or of what names CAs; or absent."""
    return ("refused-certificate", fleet, source)


@query
def contents(db: Db, ref: Ref) -> str:
    """What tells one certificate and key of a Secret from the next; nobody can guess them from it."""
    secret = get(db, Secret, ref)
    if secret is None:
        return ""
    return fingerprint(b"".join((chain_pem(secret), key_pem(secret), secret.data.get(OCSP_STAPLE, b""))))


@query
def refusal(db: Db, fleet: FleetId, secret: Ref) -> RefusedCertificate | None:
    """Why the Envoys of a fleet refuse what is in a Secret now; ``None`` as far as is known."""
    return refused_as_it_is(db, fleet, secret, contents)


def refused_as_it_is(
    db: Db, fleet: FleetId, source: S, contents: Query[[S], str]
) -> RefusedCertificate | None:
    """Why the Envoys of a fleet refuse what a source has now, if they do.

    Args:
        db: where to read.
        fleet: whose Envoys.
        source: a Secret, or what names CAs.
        contents: what tells one state of it from the next.
    """
    refused: RefusedCertificate | None = db.read(refused_certificate(fleet, source))
    return refused if refused is not None and refused.contents == contents(db, source) else None


@query
def certificate(db: Db, ref: Ref) -> Certificate | Fault:
    """The certificate in a Secret, its time not looked at, or what is wrong with the Secret.

    A renewed certificate for the same names is an equal answer.
    """
    secret = get(db, Secret, ref)
    return Fault(f"{absence(db, ref)}.") if secret is None else in_secret(secret)


def covers(name: str, hostname: str) -> bool:
    """Whether a DNS name of a certificate fits a hostname, or some of what a wildcard hostname stands for.

    Source: RFC 6125, section 6.4: a wildcard stands for the first label alone.
    """
    name, hostname = name.lower(), hostname.lower()
    if hostname.startswith("*."):
        return name.endswith(hostname[1:])
    return name == hostname or (name.startswith("*.") and name[2:] == hostname.partition(".")[2])


def in_secret(secret: Secret) -> Certificate | Fault:
    """``certificate`` of a Secret that exists."""
    if secret.type != TLS_SECRET:
        return Fault(f"is of type {secret.type}; it must be of type {TLS_SECRET}.")
    judged = _pair(secret)
    if isinstance(judged, Fault):
        return judged
    leaf, certificate = judged
    return _staple_fault(secret.data.get(OCSP_STAPLE, b""), leaf) or certificate


def client_certificate_fault(secret: Secret) -> Fault | None:
    """Why a Secret, of whatever type, holds no certificate that a client can show."""
    judged = _pair(secret)
    return judged if isinstance(judged, Fault) else None


def trusted(key: str, data: bytes) -> bytes | Fault:
    """The certificates of CAs in some data as PEM, without what people write between them.

    Args:
        key: where the data is, for messages.
        data: certificates, and perhaps lists of revoked ones.
    """
    kept = [(label, der) for label, der in _blocks(data) if label in _TRUST_LABELS]
    if not any(label == _CERTIFICATE_LABEL for label, _ in kept):
        return Fault(
            f"holds no certificate in {key}: it must be between the lines '-----BEGIN CERTIFICATE-----' and "
            "'-----END CERTIFICATE-----'."
        )
    if len(kept) < data.count(_BEGIN + _CERTIFICATE_LABEL.encode()):
        return Fault(f"holds a certificate in {key} that is cut off, or is no base64.")
    for n, (label, der) in enumerate(kept, start=1):
        kind = "certificate" if label == _CERTIFICATE_LABEL else "list of revoked ones"
        read = partial(_member if label == _CERTIFICATE_LABEL else x509.load_der_x509_crl, der)
        member = reading(read, f"holds something in block {n} of {key} that is no {kind}.")
        if isinstance(member, Fault):
            return member
    return b"".join(_pem(label, der) for label, der in kept)


class Member(NamedTuple):
    """A block of PEM about CAs.

    Args:
        pem: the block.
        last: the last second of its time; ``None`` if it has no end.
        is_list: whether it is a list of revoked certificates.
    """

    pem: bytes
    last: int | None
    is_list: bool


def readable_members(data: bytes) -> tuple[Member, ...]:
    """The certificates and the lists of revoked ones in some data; what cannot be read is passed over."""
    members = (_read_member(label, der) for label, der in _blocks(data) if label in _TRUST_LABELS)
    return tuple(member for member in members if not isinstance(member, Fault))


def list_members(key: str, data: bytes) -> tuple[Member, ...] | Fault:
    """The lists of revoked certificates in some data. One that cannot be read spoils it: it may revoke more.

    Args:
        key: where the data is, for messages.
        data: the lists, as PEM.
    """
    blocks = [(label, der) for label, der in _blocks(data) if label == _LIST_LABEL]
    if not blocks:
        return Fault(
            f"holds no list of revoked certificates in {key}: it must be between the lines "
            "'-----BEGIN X509 CRL-----' and '-----END X509 CRL-----'."
        )
    if len(blocks) < data.count(_BEGIN + _LIST_LABEL.encode()):
        return Fault(f"holds a list of revoked certificates in {key} that is cut off, or is no base64.")
    members: list[Member] = []
    for n, (label, der) in enumerate(blocks, start=1):
        member = _read_member(label, der)
        if isinstance(member, Fault):
            return Fault(f"holds something in block {n} of {key} that is no list of revoked certificates.")
        members.append(member)
    return tuple(members)


def _read_member(label: str, der: bytes) -> Member | Fault:
    if label == _CERTIFICATE_LABEL:
        member = reading(partial(_member, der), "cannot be read.")
        return member if isinstance(member, Fault) else Member(_pem(label, der), member.last, is_list=False)
    end = reading(lambda: x509.load_der_x509_crl(der).next_update_utc, "cannot be read.")
    if isinstance(end, Fault):
        return end
    return Member(_pem(label, der), int(end.timestamp()) if end is not None else None, is_list=True)


def size_of_names(pem: bytes) -> int:
    """The bytes that the names of CAs take in a TLS handshake, each with its length, and each once.

    Args:
        pem: certificates, as ``trusted`` returns them.
    """
    blocks = (der for label, der in _blocks(pem) if label == _CERTIFICATE_LABEL)
    return sum(2 + len(name) for name in {_member(der).certificate.subject.public_bytes() for der in blocks})


class Unlisted(NamedTuple):
    """CAs whose clients are all refused, as lists of revoked certificates are looked for, and none is theirs.

    Args:
        authorities: the names of these CAs.
        lists: the issuers of the lists that are of no CA.
    """

    authorities: tuple[str, ...]
    lists: tuple[str, ...]


def unlisted(pem: bytes) -> Unlisted:
    """The CAs that have no list of revoked certificates, if there is any list.

    Args:
        pem: certificates and lists that can be read.
    """
    blocks = _blocks(pem)
    lists = [x509.load_der_x509_crl(der) for label, der in blocks if label == _LIST_LABEL]
    authorities = [_member(der).certificate for label, der in blocks if label == _CERTIFICATE_LABEL]
    if not lists:
        return Unlisted((), ())
    owners = [{n for n, each in enumerate(authorities) if _has_issued(each, one)} for one in lists]
    subjects = [each.subject for each in authorities]
    return Unlisted(
        tuple(
            dict.fromkeys(
                subject.rfc4514_string()
                for n, subject in enumerate(subjects)
                if not any(n in of for of in owners)
            )
        ),
        tuple(
            dict.fromkeys(
                one.issuer.rfc4514_string() + (" by another key" if one.issuer in subjects else "")
                for one, of in zip(lists, owners, strict=True)
                if not of
            )
        ),
    )


def _has_issued(authority: x509.Certificate, one: x509.CertificateRevocationList) -> bool:
    """Whether a list is one of a CA: it has its name, and its signature."""
    if authority.subject != one.issuer:
        return False

    def is_signed() -> bool:
        key = authority.public_key()
        return one.is_signature_valid(key)  # pyright: ignore[reportArgumentType] - keys of other kinds raise

    # What cannot be compared may be right.
    signed = reading(is_signed, "cannot be compared.")
    return isinstance(signed, Fault) or signed


def _pair(secret: Secret) -> tuple[x509.Certificate, Certificate] | Fault:
    """The certificate in a Secret, as far as a server and a client need the same of it."""
    for name in (CERTIFICATE, KEY):
        if not secret.data.get(name):
            return Fault(f"has no {name}; it must hold {CERTIFICATE} and {KEY}.{secret.listed_keys}")
    chain = _chain(secret)
    if isinstance(chain, Fault):
        return chain
    key = _private_key(secret)
    if isinstance(key, Fault):
        return key
    leaf = chain[0].certificate
    unknown = f"has a certificate in {CERTIFICATE} whose kind of key is not known; use RSA or ECDSA."
    public = reading(leaf.public_key, unknown)
    if isinstance(public, Fault):
        return public
    of_certificate = reading(lambda: _spki(public), unknown)
    of_key = reading(lambda: _spki(key.public_key()), f"holds a private key in {KEY} that cannot be read.")
    for one in (of_certificate, of_key):
        if isinstance(one, Fault):
            return one
    if of_certificate != of_key:
        many = len(_blocks(secret.data.get(CERTIFICATE, b""))) > 1
        first = "first certificate in" if many else "certificate in"
        order = "; a chain begins with the certificate of the server" if many else ""
        return Fault(f"has a {KEY} that does not belong to the {first} {CERTIFICATE}{order}.")
    certificate = _judged(leaf, public)
    return certificate if isinstance(certificate, Fault) else (leaf, certificate)


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
            return Fault(f"holds {which} in {CERTIFICATE} that has expired; it must be renewed.")
    return None


@query
def _validity(db: Db, ref: Ref) -> tuple[tuple[int, int], ...]:
    """First and last second of each certificate of the chain."""
    secret = get(db, Secret, ref)
    chain = _chain(secret) if secret is not None else ()
    return () if isinstance(chain, Fault) else tuple((each.first, each.last) for each in chain)


def chain_pem(secret: Secret) -> bytes:
    """The chain of a Secret as PEM, without what people write between the blocks."""
    return b"".join(_pem(label, der) for label, der in _blocks(secret.data.get(CERTIFICATE, b"")))


def key_pem(secret: Secret) -> bytes:
    """The private key of a Secret as PEM, without blocks of other kinds (``EC PARAMETERS``)."""
    keys = (block for block in _blocks(secret.data.get(KEY, b"")) if block[0] in _KEY_LABELS)
    return next((_pem(label, der) for label, der in keys), b"")


def _judged(leaf: x509.Certificate, public: CertificatePublicKeyTypes) -> Certificate | Fault:
    unreadable = f"has extensions in {CERTIFICATE} that cannot be read."
    if isinstance(public, rsa.RSAPublicKey):
        if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
            return Fault(
                f"has a certificate in {CERTIFICATE} with an RSASSA-PSS key; Envoy takes plain RSA keys."
            )
        if public.key_size < 2048:
            return Fault(f"has an RSA key of {public.key_size} bits; Envoy wants 2048 or more.")
        if public.key_size > MOST_RSA_BITS:
            return Fault(f"has an RSA key of {public.key_size} bits; Envoy takes {MOST_RSA_BITS} at most.")
        if public.public_numbers().e.bit_length() > MOST_EXPONENT_BITS:
            return Fault(f"has an RSA key whose exponent is longer than {MOST_EXPONENT_BITS} bits.")
        algorithm = "RSA"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return Fault(f"has a key on the curve {public.curve.name}; Envoy knows P-256, P-384 and P-521.")
        signs = reading(lambda: _signs(leaf), unreadable)
        if signs is not True:
            return signs or Fault(
                f"has a certificate in {CERTIFICATE} whose key usage lacks digitalSignature, which TLS needs."
            )
        algorithm = "ECDSA"
    else:
        return Fault(f"has a key in {KEY} that is neither RSA nor ECDSA, which is all that Envoy serves.")
    sans = reading(lambda: _dns_names(leaf), unreadable)
    if isinstance(sans, Fault):
        return sans
    names = reading(lambda: _common_names(leaf), f"has a subject in {CERTIFICATE} that cannot be read.")
    if isinstance(names, Fault):
        return names
    if not reading(lambda: _has_name(leaf), unreadable):
        return Fault(
            f"has a certificate in {CERTIFICATE} with no name: neither a subject nor an alternative one."
        )
    return Certificate(algorithm, sans, sans or names[:1])


def _dns_names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))


def _has_name(leaf: x509.Certificate) -> bool:
    """Whether a certificate has a name that Envoy counts as one."""
    if leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return True
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    kinds = (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress)
    return any(isinstance(name, kinds) for name in names)


def _signs(leaf: x509.Certificate) -> bool:
    """Whether the key of a certificate may sign: a certificate that says nothing of it restricts nothing."""
    try:
        return leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _staple_fault(staple: bytes, leaf: x509.Certificate) -> Fault | None:
    """Why Envoy would refuse the OCSP staple of a certificate, or the lack of one."""
    if not staple:
        if any(extension.oid == ExtensionOID.TLS_FEATURE for extension in leaf.extensions):
            return Fault(f"has a certificate in {CERTIFICATE} that must be stapled, and no {OCSP_STAPLE}.")
        return None
    unreadable = (
        f"has an answer in {OCSP_STAPLE} that is no OCSP response which says how a certificate stands."
    )
    serial = reading(lambda: ocsp.load_der_ocsp_response(staple).serial_number, unreadable)
    if isinstance(serial, Fault):
        return serial
    if serial != leaf.serial_number:
        return Fault(f"has an answer in {OCSP_STAPLE} about another certificate than that in {CERTIFICATE}.")
    return None


def _common_names(leaf: x509.Certificate) -> tuple[str, ...]:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return tuple(str(name.value) for name in names if name.value)


class _Member(NamedTuple):
    """A certificate of a chain, with the first and the last second of its time."""

    certificate: x509.Certificate
    first: int
    last: int


def _chain(secret: Secret) -> tuple[_Member, ...] | Fault:
    blocks = _blocks(secret.data.get(CERTIFICATE, b""))
    if secret.is_encoded_twice(CERTIFICATE, _BEGIN):
        return Fault(f"has a {CERTIFICATE} that {ENCODED_TWICE}.")
    if not blocks:
        return Fault(
            f"holds no PEM block in {CERTIFICATE}: it must be between the lines "
            "'-----BEGIN CERTIFICATE-----' and '-----END CERTIFICATE-----'."
        )
    chain: list[_Member] = []
    for n, (_, der) in enumerate(blocks, start=1):
        none = (
            f"holds something in block {n} of {CERTIFICATE} that is not a certificate; it must hold "
            f"certificates alone, and {KEY} the private key."
        )
        member = reading(partial(_member, der), none)
        if isinstance(member, Fault):
            return member
        chain.append(member)
    return tuple(chain)


def _member(der: bytes) -> _Member:
    with warnings.catch_warnings():
        # A serial number of 0 or less breaks RFC 5280, and is served by Envoy all the same.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        read = x509.load_der_x509_certificate(der)
    first, last = read.not_valid_before_utc, read.not_valid_after_utc
    return _Member(read, int(first.timestamp()), int(last.timestamp()))


def _private_key(secret: Secret) -> PrivateKeyTypes | Fault:
    blocks = _blocks(secret.data.get(KEY, b""))
    if secret.is_encoded_twice(KEY, _BEGIN):
        return Fault(f"has a {KEY} that {ENCODED_TWICE}.")
    if not blocks:
        return Fault(f"holds no PEM block in {KEY}.")
    ders = [der for label, der in blocks if label in _KEY_LABELS]
    if not ders:
        if any(label == _ENCRYPTED for label, _ in blocks):
            return Fault(
                f"holds a private key in {KEY} that is encrypted, and nobody can be asked for its password: "
                "write it without one, as `openssl pkey` does."
            )
        return Fault(f"holds no private key in {KEY} that is PKCS1, PKCS8 or EC.")
    unreadable = f"holds a private key in {KEY} that cannot be read."
    if _RSASSA_PSS in ders[0][:_HEAD]:
        return Fault(f"holds an RSASSA-PSS key in {KEY}; Envoy takes plain RSA keys.")
    key = reading(partial(_loaded_key, ders[0]), unreadable)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size <= MOST_RSA_BITS:
        # Of others the size is the fault, and judged with the certificate.
        sound = reading(lambda: _sound(key.private_numbers()), unreadable)
        if sound is not True:
            return sound or Fault(f"holds a private key in {KEY} whose numbers do not belong together.")
    return key


def _loaded_key(der: bytes) -> PrivateKeyTypes:
    # The library would look whether the primes are prime, which takes a minute for a long key.
    return load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)


def _sound(key: rsa.RSAPrivateNumbers) -> bool:
    """Whether the numbers of a key belong together, as Envoy looks; their primes may be no primes."""
    p, q, e = key.p, key.q, key.public_numbers.e
    return (
        p > 1
        and q > 1
        and p * q == key.public_numbers.n
        and key.d * e % (p - 1) == 1
        and key.d * e % (q - 1) == 1
        and (key.dmp1, key.dmq1) == (key.d % (p - 1), key.d % (q - 1))
        and key.iqmp * q % p == 1
    )


_FAULTS: Final[Mapping[type[Exception], str]] = {
    x509.DuplicateExtension: f"has a certificate in {CERTIFICATE} with two extensions of the same kind.",
    x509.InvalidVersion: f"has a certificate in {CERTIFICATE} of a version of X.509 that does not exist.",
    x509.UnsupportedGeneralNameType: (
        f"has a certificate in {CERTIFICATE} with an alternative name of a kind that is not known."
    ),
}
"""What is wrong, where the library's exception says more than that something cannot be read."""


def reading(read: Callable[[], T], fault: str) -> T | Fault:
    """What the library makes of a user's bytes, or a fault.

    Args:
        read: one step of reading them.
        fault: what is wrong when the step fails, as ``Fault`` has it.
    """
    try:
        return read()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception, and must not end the process
        messages = (message for kind, message in _FAULTS.items() if isinstance(error, kind))
        return Fault(next(messages, fault))


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _blocks(data: bytes) -> list[tuple[str, bytes]]:
    """(label, DER) of each PEM block; those that are no base64, or encrypted, are passed over."""
    blocks: list[tuple[str, bytes]] = []
    for label, body in _BLOCK.findall(data):
        try:
            blocks.append((label.decode(), base64.b64decode(b"".join(body.split()), validate=True)))
        except binascii.Error:
            continue
    return blocks


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()
