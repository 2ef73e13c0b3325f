"""Which TLS clients may speak: versions, ciphers, curves, ALPN, session resumption, fingerprints.

Set by:      ClientTrafficPolicy ``spec.tls``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       ``DownstreamTlsContext`` of the filter chain; ``envoy.filters.listener.tls_inspector``
Cases:       client_tls.md beside this file: its reference page and its golden tests

Facts
-----
* listeners without TLS are left alone
* Envoy refuses the whole listener for one unknown name in these lists, so such a policy cannot be built; the
  expressions of ciphers are BoringSSL's (``[A|B]``, ``ALL``, ``!A``, ``A+B``)
* versions 1.2 to 1.3 are pinned by any policy on the TLS listeners that it governs, also one without ``tls``
* client certificates are not checked yet: a policy that asks for it is refused, and like any policy that
  cannot be built it makes the routes of its listeners answer 500, so that nobody passes unchecked
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters

from moongate.api.base import Model, Rule, deprecated, not_built_yet
from moongate.engine import Db
from moongate.features.base import ChainEdit, Effective, Feature
from moongate.problem import Problem

TLSVersion = Literal["Auto", "1.0", "1.1", "1.2", "1.3"]

_VERSIONS: Final = {
    "Auto": TlsParameters.TLS_AUTO,
    "1.0": TlsParameters.TLSv1_0,
    "1.1": TlsParameters.TLSv1_1,
    "1.2": TlsParameters.TLSv1_2,
    "1.3": TlsParameters.TLSv1_3,
}

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


class StatelessTLSSessionResumption(Model, frozen=True, kw_only=True):
    """Resume by session tickets, which the client keeps."""


class StatefulTLSSessionResumption(Model, frozen=True, kw_only=True):
    """Resume by session ids, which Envoy keeps."""


class SessionResumption(Model, frozen=True, kw_only=True):
    """Ways in which a client may skip the full handshake; each is off unless it is set."""

    stateless: StatelessTLSSessionResumption | None = None
    stateful: StatefulTLSSessionResumption | None = None


class Session(Model, frozen=True, kw_only=True):
    """TLS sessions."""

    resumption: SessionResumption | None = None


class ClientTLSSettings(Model, frozen=True, kw_only=True):
    """Which TLS clients may speak."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.minVersion) && self.minVersion == '1.3' ? !has(self.ciphers) : true",
            "ciphers are about TLS up to 1.2, but minVersion is 1.3.",
        ),
        Rule(
            "has(self.minVersion) && has(self.maxVersion) ? "
            '{"Auto":0,"1.0":1,"1.1":2,"1.2":3,"1.3":4}[self.minVersion] <= '
            '{"1.0":1,"1.1":2,"1.2":3,"1.3":4,"Auto":5}[self.maxVersion] : '
            "!has(self.minVersion) && has(self.maxVersion) ? 3 <= "
            '{"1.0":1,"1.1":2,"1.2":3,"1.3":4,"Auto":5}[self.maxVersion] : true',
            "minVersion (1.2 when it is not set) must not be above maxVersion.",
        ),
    )

    client_validation: (
        Annotated[
            Any,
            not_built_yet("routes on its listeners answer 500, so that nobody passes unchecked"),
            deprecated("mode", "optional", only_if_true=True),
        ]
        | None
    ) = None
    min_version: TLSVersion | None = None
    """1.2 when not set."""
    max_version: TLSVersion | None = None
    """1.3 when not set."""
    ciphers: tuple[str, ...] = ()
    """For TLS up to 1.2, by OpenSSL's or IANA's name, or expressions of them. Envoy's choice when empty."""
    ecdh_curves: tuple[str, ...] = ()
    signature_algorithms: tuple[str, ...] = ()
    alpn_protocols: tuple[str, ...] | None = None
    """Offered protocols, the preferred first; ``[]`` offers none. h2 and http/1.1 when not set."""
    fingerprints: tuple[Literal["JA3", "JA4"], ...] = ()
    """Fingerprints of the client's hello that Envoy computes, for access logs."""
    session: Session | None = None


def check(db: Db, tls: Effective[ClientTLSSettings]) -> Iterator[Problem]:
    """Names that Envoy does not know, and client certificates, which are not checked yet."""
    spec = tls.value
    if spec.client_validation is not None:
        yield Problem(
            "clientValidation",
            "Client certificates are not checked yet; until they are, the routes of this policy's listeners "
            "answer 500, so that nobody passes without one.",
        )
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


def _unusable(field: str, what: str, entries: tuple[str, ...], known: Mapping[str, str]) -> Iterator[Problem]:
    """The names of a list that Envoy does not know, or that mean what an entry before them does.

    Args:
        field: the list.
        what: one of its entries, in words.
        entries: each may be several names, with colons.
        known: all names, each with the one name for what it means.
    """
    before: dict[str, str] = {}
    for i, entry in enumerate(entries):
        for name in entry.split(":") if entry or len(entries) > 1 else ():
            if name not in known:
                listed = ", ".join(dict.fromkeys(known.values()))
                yield Problem(
                    f"{field}[{i}]", f"{name!r} is not {what} that Envoy knows; those are {listed}."
                )
            elif (other := before.setdefault(known[name], entry)) is not entry:
                yield Problem(f"{field}[{i}]", f"{name!r} stands there already, as {other!r}; name it once.")


def _filter_chain(edit: ChainEdit, tls: Effective[ClientTLSSettings]) -> None:
    if edit.tls is None:
        return
    spec, common = tls.value, edit.tls.common_tls_context
    common.tls_params.CopyFrom(
        TlsParameters(
            tls_minimum_protocol_version=_VERSIONS[spec.min_version or "1.2"],
            tls_maximum_protocol_version=_VERSIONS[spec.max_version or "1.3"],
            cipher_suites=spec.ciphers,
            ecdh_curves=spec.ecdh_curves,
            signature_algorithms=spec.signature_algorithms,
        )
    )
    if spec.alpn_protocols is not None:
        common.alpn_protocols[:] = spec.alpn_protocols
    resumption = (spec.session and spec.session.resumption) or SessionResumption()
    if resumption.stateless is not None:
        edit.tls.ClearField("disable_stateless_session_resumption")
    else:
        edit.tls.disable_stateless_session_resumption = True
    edit.tls.disable_stateful_session_resumption = resumption.stateful is None
    if spec.fingerprints:
        inspector = edit.inspector = edit.inspector or TlsInspector()
        if "JA3" in spec.fingerprints:
            inspector.enable_ja3_fingerprinting.value = True
        if "JA4" in spec.fingerprints:
            inspector.enable_ja4_fingerprinting.value = True


FEATURE = Feature(
    kind="ClientTrafficPolicy", field="tls", model=ClientTLSSettings, check=check, filter_chain=_filter_chain
)
