"""Certificates that break X.509, each in one way: real ones with some bytes of their DER exchanged."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.core import builder


class Odd(NamedTuple):
    """A sound certificate, and what becomes of it.

    Args:
        der: the sound one: common name ``subject``, DNS name ``name.test``, two extensions of nobody.
    """

    der: bytes

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> Odd:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "subject")])
        made = (
            builder(key)
            .subject_name(name)
            .issuer_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("name.test")]), critical=False)
            .add_extension(_nobodys(1), critical=False)
            .add_extension(_nobodys(2), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(made.public_bytes(Encoding.DER))

    def duplicate_extension(self) -> bytes:
        return self._with(_oid(2), _oid(1))

    def unknown_version(self) -> bytes:
        return self._with(bytes.fromhex("a003020102"), bytes.fromhex("a003020113"))

    def edi_party_name(self) -> bytes:
        """An alternative name that is no DNS name but one of the old telegraph world."""
        return self._with(b"\x82\x09name.test", b"\xa5\x09name.test")

    def broken_name(self) -> bytes:
        """A DNS name that is longer than the list that it stands in."""
        return self._with(b"\x82\x09name.test", b"\x82\x19name.test")

    def broken_subject(self) -> bytes:
        """A common name that is no text."""
        return self._with(b"\x0c\x07subject", b"\x0c\x07\xff\xfebject")

    def unknown_key(self) -> bytes:
        """A public key of an algorithm of nobody."""
        return self._with(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d027f"))

    def _with(self, old: bytes, new: bytes) -> bytes:
        assert self.der.count(old) == 1
        return self.der.replace(old, new)


def pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", label).encode()


def _nobodys(n: int) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{n}"), b"\x05\x00")


def _oid(n: int) -> bytes:
    return bytes.fromhex("2b06010401868d1f") + bytes([n])
