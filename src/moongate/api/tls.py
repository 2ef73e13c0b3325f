"""How TLS is spoken, to clients or to backends: versions, ciphers, curves, ALPN, and the own certificate."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from moongate.api.base import Model, Rule, form
from moongate.api.shared import SecretObjectReference

TLSVersion = Literal["Auto", "1.0", "1.1", "1.2", "1.3"]

WellKnownCACertificates = Annotated[
    str,
    form(
        r"^(System|([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/([A-Za-z0-9][-A-Za-z0-9_.]{0,"
        r"61})?[A-Za-z0-9]))$",
        "'System'",
        low=1,
        high=253,
    ),
]
"""CAs that have a name instead of a reference: those that the system trusts."""
SYSTEM = "System"


class TLSSettings(Model, frozen=True, kw_only=True):
    """What may be spoken."""

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

    min_version: TLSVersion | None = None
    """1.2 when not set."""
    max_version: TLSVersion | None = None
    """1.3 when not set."""
    ciphers: tuple[str, ...] = ()
    """For TLS up to 1.2, by OpenSSL's or IANA's name, or expressions of them. Envoy's choice when empty."""
    ecdh_curves: tuple[str, ...] = ()
    signature_algorithms: tuple[str, ...] = ()
    alpn_protocols: tuple[str, ...] | None = None
    """Offered protocols, the preferred first; ``[]`` offers none."""
    fingerprints: tuple[Literal["JA3", "JA4"], ...] = ()
    """Fingerprints of the client's hello that Envoy computes, for access logs."""


class BackendTLSConfig(TLSSettings, frozen=True, kw_only=True):
    """How TLS is spoken to backends, and with which certificate of one's own."""

    client_certificate_ref: SecretObjectReference | None = None
    """A Secret with ``tls.crt`` and ``tls.key``, in the namespace of the resource that names it."""
