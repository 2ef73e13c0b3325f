"""Names of ciphers, curves and signature algorithms that Envoy takes, and some that it does not.

A test with a real Envoy says that they are right.
"""

from __future__ import annotations

from moongate.attach.tls_names import CIPHER_GROUPS, CIPHERS, CURVES, SIGNATURES, TLS_1_3

UNKNOWN = [
    ("ciphers", ("AES128-SHA", "ROT13"), "ROT13"),
    ("ciphers", ("ALL", "[AES128-SHA|ROT13]"), "ROT13"),
    ("ciphers", ("ALL", "!eNULL"), "!eNULL"),
    ("ciphers", ("ALL", "aes128-sha"), "aes128-sha"),
    ("ecdhCurves", ("X25519", "P-999"), "P-999"),
    ("ecdhCurves", ("X25519", "P-256:P-224"), "P-224"),
    ("ecdhCurves", ("P-256", "prime256v1"), "prime256v1"),
    ("ecdhCurves", ("X25519", ""), ""),
    ("signatureAlgorithms", ("ed25519", "ed448"), "ed448"),
    ("signatureAlgorithms", ("ed25519", "ed25519:RSA+SHA256"), "ed25519"),
    ("signatureAlgorithms", ("rsa_pss_rsae_sha256", "PSS+SHA256"), "PSS+SHA256"),
]
TAKEN = [
    ("ciphers", ("ALL",)),
    ("ciphers", ("[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "AES128-SHA")),
    ("ciphers", ("kECDHE+aRSA+AES128", "ALL:-AES128-SHA", "AES128-SHA:@STRENGTH", "!3DES")),
    ("ciphers", ("TLS_RSA_WITH_AES_128_CBC_SHA:", "ECDHE-RSA-AES128-SHA256")),
    ("ciphers", (*CIPHERS, *CIPHERS.values())),
    ("ciphers", CIPHER_GROUPS),
    ("ciphers", ("ALL", *TLS_1_3)),
    ("ecdhCurves", tuple(dict.fromkeys(CURVES.values()))),
    ("ecdhCurves", ("prime256v1:x25519", "secp384r1", "secp521r1")),
    ("ecdhCurves", ("",)),
    ("signatureAlgorithms", tuple(SIGNATURES)),
    ("signatureAlgorithms", tuple(filter(None, SIGNATURES.values()))),
    ("signatureAlgorithms", ("PSS+SHA256:PSS+SHA384", "RSA-PSS+SHA512")),
]
