"""Throw-away certificates: an authority, what it signs, and Secrets that hold it."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

_BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


class Certificate(NamedTuple):
    """A certificate and its key, as PEM; ``serial`` tells one from the next of the same names."""

    pem: bytes
    key: bytes
    serial: int

    def secret(self, name: str, namespace: str = "default") -> dict[str, Any]:
        data = {"tls.crt": self.pem, "tls.key": self.key}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }


class Authority:
    """Signs certificates that clients of ``client_context`` trust.

    Args:
        name: its own.
        issuer: who signs its certificate, if it is none of those that are trusted by themselves. Whoever has
            a certificate of it shows that of the authority as well.
    """

    def __init__(self, name: str = "authority of the tests", issuer: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = (issuer or self)._builder(self._name, self._key.public_key())
        self._certificate = own.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign((issuer or self)._key, SHA256())
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def sign(
        self,
        *hostnames: str,
        others: Iterable[x509.GeneralName] = (),
        signs: bool = True,
        rsa: bool = False,
        curve: ec.EllipticCurve | None = None,
        days: int = 36_500,
    ) -> Certificate:
        """A certificate for these names; its key may be one that is not to sign, and it may have expired.

        The key is one of P-256, unless a curve or RSA is asked for.
        """
        key = generate_rsa(65537, 2048) if rsa else ec.generate_private_key(curve or ec.SECP256R1())
        named = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in hostnames[:1]]
        subject = x509.Name(named or [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")])
        names = x509.SubjectAlternativeName([*map(x509.DNSName, hostnames), *others])
        made = self._builder(subject, key.public_key(), days).add_extension(names, critical=False)
        usage = x509.KeyUsage(
            digital_signature=signs,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        signed = made.add_extension(usage, critical=True).sign(self._key, SHA256())
        return Certificate(
            signed.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            signed.serial_number,
        )

    def revoking(self, *revoked: Certificate, days: int = 30) -> bytes:
        """The list of what it has revoked, as PEM, from yesterday on."""
        now = datetime.now(UTC)  # noqa: TID251 - a list has dates
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - timedelta(days=1))
            .next_update(now + timedelta(days=days))
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(_BEGAN)
            made = made.add_revoked_certificate(entry.build())
        return made.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def client_context(self, *alpn: str) -> ssl.SSLContext:
        """For clients that trust this authority alone."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def _builder(
        self, subject: x509.Name, key: EllipticCurvePublicKey | RSAPublicKey, days: int = 36_500
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGAN)
            .not_valid_after(_BEGAN + timedelta(days=days))
        )
