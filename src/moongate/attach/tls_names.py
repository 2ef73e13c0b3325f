"""The names of ciphers, curves and signature algorithms that Envoy takes.

Envoy refuses a whole listener or cluster for one unknown name in such a list.

Source: BoringSSL, whose expressions of ciphers these are (``[A|B]``, ``ALL``, ``!A``, ``A+B``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.api.tls import TLSSettings

CIPHERS: Final = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-PSK-CHACHA20-POLY1305": "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-SHA": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "ECDHE-RSA-AES128-SHA": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "ECDHE-PSK-AES128-CBC-SHA": "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
    "ECDHE-ECDSA-AES128-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-RSA-AES128-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "AES128-GCM-SHA256": "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "AES128-SHA": "TLS_RSA_WITH_AES_128_CBC_SHA",
    "PSK-AES128-CBC-SHA": "TLS_PSK_WITH_AES_128_CBC_SHA",
    "ECDHE-ECDSA-AES256-SHA": "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "ECDHE-RSA-AES256-SHA": "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "ECDHE-PSK-AES256-CBC-SHA": "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA",
    "AES256-GCM-SHA384": "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "AES256-SHA": "TLS_RSA_WITH_AES_256_CBC_SHA",
    "PSK-AES256-CBC-SHA": "TLS_PSK_WITH_AES_256_CBC_SHA",
    "DES-CBC3-SHA": "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
}
"""The ciphers that Envoy takes for TLS up to 1.2: OpenSSL's name → IANA's. Either may be written."""

TLS_1_3: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""The ciphers of TLS 1.3. Envoy always offers them, and takes their names only beside others."""

CIPHER_GROUPS: Final = (
    *("ALL", "HIGH", "FIPS", "SSLv3", "TLSv1", "TLSv1.2"),
    *("ECDHE", "EECDH", "ECDH", "kECDHE", "kEECDH", "RSA", "kRSA", "aRSA", "ECDSA", "aECDSA"),
    *("PSK", "kPSK", "aPSK", "AES", "AES128", "AES256", "AESGCM", "CHACHA20", "3DES", "SHA", "SHA1"),
)
"""The names of sets of ciphers that Envoy takes."""

CURVES: Final = {
    "X25519": "X25519",
    "x25519": "X25519",
    "P-256": "P-256",
    "prime256v1": "P-256",
    "P-384": "P-384",
    "secp384r1": "P-384",
    "P-521": "P-521",
    "secp521r1": "P-521",
    "X25519MLKEM768": "X25519MLKEM768",
    "MLKEM1024": "MLKEM1024",
}
"""The curves that Envoy takes, by all their names: the name → one name for the curve."""

SIGNATURES: Final = {
    "ecdsa_secp256r1_sha256": "ECDSA+SHA256",
    "ecdsa_secp384r1_sha384": "ECDSA+SHA384",
    "ecdsa_secp521r1_sha512": "ECDSA+SHA512",
    "ed25519": "",
    "rsa_pss_rsae_sha256": "RSA-PSS+SHA256",
    "rsa_pss_rsae_sha384": "RSA-PSS+SHA384",
    "rsa_pss_rsae_sha512": "RSA-PSS+SHA512",
    "rsa_pkcs1_sha256": "RSA+SHA256",
    "rsa_pkcs1_sha256_legacy": "",
    "rsa_pkcs1_sha384": "RSA+SHA384",
    "rsa_pkcs1_sha512": "RSA+SHA512",
    "rsa_pkcs1_sha1": "RSA+SHA1",
    "ecdsa_sha1": "ECDSA+SHA1",
}
"""The signature algorithms that Envoy takes: the name in TLS → OpenSSL's, if there is one."""

_SIGNATURES: Final = {
    **{name: name for name in SIGNATURES},
    **{other: name for name, other in SIGNATURES.items() if other},
    **{other[4:]: name for name, other in SIGNATURES.items() if other.startswith("RSA-PSS")},
}
_CIPHERS: Final = frozenset((*CIPHERS, *CIPHERS.values(), *CIPHER_GROUPS, *TLS_1_3))
_IN_EXPRESSIONS: Final = re.compile(r"[:|+\[\]]")
"""What stands between the names in an expression of ciphers."""
_LONGEST_PROTOCOL: Final = 255
"""Bytes of one protocol in a list of them. Source: RFC 7301, section 3.1."""


def unknown_names(spec: TLSSettings) -> Iterator[Problem]:
    """What Envoy does not take of some settings, at their fields."""
    for i, cipher in enumerate(spec.ciphers):
        for name in _IN_EXPRESSIONS.split(cipher):
            if name.lstrip("!-") not in _CIPHERS and name not in ("", "@STRENGTH"):
                yield Problem(
                    f"ciphers[{i}]",
                    f"{name!r} is not a cipher that Envoy offers; those are {', '.join(CIPHERS)}, and the "
                    f"groups {', '.join(CIPHER_GROUPS)}.",
                )
    if spec.ciphers and all(cipher in TLS_1_3 for cipher in spec.ciphers):
        message = "Envoy always offers these ciphers of TLS 1.3; name one for TLS up to 1.2, or none."
        yield Problem("ciphers", message)
    yield from _unusable("ecdhCurves", "a curve", spec.ecdh_curves, CURVES)
    yield from _unusable("signatureAlgorithms", "an algorithm", spec.signature_algorithms, _SIGNATURES)
    for i, protocol in enumerate(spec.alpn_protocols or ()):
        if not 0 < len(protocol.encode()) <= _LONGEST_PROTOCOL:
            message = f"The name of a protocol has 1 to {_LONGEST_PROTOCOL} bytes, such as h2 or http/1.1."
            yield Problem(f"alpnProtocols[{i}]", message)


def _unusable(
    field: str, what: str, entries: tuple[str, ...], meanings: Mapping[str, str]
) -> Iterator[Problem]:
    """The names of a list that Envoy does not know, or that mean what an entry before them does.

    Args:
        field: the list.
        what: one of its entries, in words.
        entries: each may be several names, with colons.
        meanings: all names, each with the one name for what it means.
    """
    before: dict[str, str] = {}
    for i, entry in enumerate(entries):
        for name in entry.split(":") if entry or len(entries) > 1 else ():
            if name not in meanings:
                listed = ", ".join(dict.fromkeys(meanings.values()))
                yield Problem(
                    f"{field}[{i}]", f"{name!r} is not {what} that Envoy knows; those are {listed}."
                )
            elif (other := before.setdefault(meanings[name], entry)) is not entry:
                yield Problem(f"{field}[{i}]", f"{name!r} stands there already, as {other!r}; name it once.")
