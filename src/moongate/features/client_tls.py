"""Which TLS clients may speak: versions, ciphers, curves, ALPN, session resumption, fingerprints, and which
certificates they must show.

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
* ``clientValidation`` goes before ``tls.frontend`` of the Gateway; the CAs of that stay where it names none
* where it cannot be built, routes answer 500 as for any such policy. Besides, a certificate that has to be
  verified comes from nobody then: Envoy learns of listeners before it learns of routes, so that somebody
  could pass in between
* without a CA, Envoy takes no matchers of names; in modes that verify nothing, no condition counts
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Final, Literal

from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
)
from msgspec import Meta

from moongate.api.base import Model, Ref, Rule, deprecated
from moongate.api.shared import SecretObjectReference, StringMatch
from moongate.api.tls import TLSSettings
from moongate.attach.client_validation import (
    ClientValidation,
    PolicyAuthorities,
    client_authorities_fault,
    client_authorities_unlisted,
)
from moongate.attach.tls_names import unknown_names
from moongate.engine import Db
from moongate.features.base import ChainEdit, Effective, Feature, Reference
from moongate.features.shared import string_matcher, tls_parameters
from moongate.problem import Problem
from moongate.regex import regex_fault
from moongate.xds.wire import encode

_SHA256_BYTES: Final = 32
_AUTHORITIES: Final = "clientValidation.caCertificateRefs"
_LISTS: Final = "clientValidation.crl.refs"
_HEX_HASH: Final = re.compile("[0-9a-fA-F]{64}|[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){31}")
_MOST_NAMED: Final = 5
"""How many CAs a message names."""
_OID: Final = re.compile(r"[0-2](\.[0-9]+)+")


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


class OtherSANMatch(StringMatch, frozen=True, kw_only=True):
    """How an alternative name of a kind of one's own is compared."""

    oid: str
    """The object identifier of the kind, such as ``1.3.6.1.4.1.311.20.2.3``."""


class SubjectAltNames(Model, frozen=True, kw_only=True):
    """The alternative names of which a certificate must have one."""

    dns_names: tuple[StringMatch, ...] = ()
    email_addresses: tuple[StringMatch, ...] = ()
    ip_addresses: tuple[StringMatch, ...] = ()
    uris: tuple[StringMatch, ...] = ()
    other_names: tuple[OtherSANMatch, ...] = ()

    def matches(self) -> Iterator[tuple[str, int, StringMatch]]:
        """Each with its path and Envoy's kind of names, in the order of Envoy Gateway."""
        for field, kind, matches in (
            ("dnsNames", SubjectAltNameMatcher.DNS, self.dns_names),
            ("emailAddresses", SubjectAltNameMatcher.EMAIL, self.email_addresses),
            ("ipAddresses", SubjectAltNameMatcher.IP_ADDRESS, self.ip_addresses),
            ("uris", SubjectAltNameMatcher.URI, self.uris),
            ("otherNames", SubjectAltNameMatcher.OTHER_NAME, self.other_names),
        ):
            yield from ((f"{field}[{n}]", kind, match) for n, match in enumerate(matches))


class CrlContext(Model, frozen=True, kw_only=True):
    """Lists of certificates that CAs have revoked."""

    refs: Annotated[tuple[SecretObjectReference, ...], Meta(min_length=1, max_length=8)]
    """Secrets or ConfigMaps with the lists under ``ca.crl``."""
    only_verify_leaf_certificate: bool | None = None
    """Only the certificate of the client is looked up, and not those of the CAs between."""


Mode = Literal["Request", "RequireAny", "VerifyIfGiven", "RequireAndVerify"]


class ClientValidationContext(Model, frozen=True, kw_only=True):
    """Which certificates clients show, and what must hold of them."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.allowExpiredCertificate) || !self.allowExpiredCertificate || !has(self.mode) || "
            "self.mode in ['VerifyIfGiven', 'RequireAndVerify']",
            "allowExpiredCertificate is for the modes VerifyIfGiven and RequireAndVerify; others verify "
            "nothing.",
        ),
    )

    mode: Mode | None = None
    """``RequireAndVerify`` when absent."""
    optional: Annotated[bool, deprecated("mode", only_if_true=True)] | None = None
    """The same as mode ``VerifyIfGiven``, where there is no mode."""
    ca_certificate_refs: Annotated[tuple[SecretObjectReference, ...], Meta(max_length=8)] = ()
    """Secrets, ConfigMaps or ClusterTrustBundles with the certificates of CAs under ``ca.crt``."""
    spki_hashes: tuple[str, ...] = ()
    """SHA-256 of public keys as base64; a certificate must have one of them, or of ``certificateHashes``."""
    certificate_hashes: tuple[str, ...] = ()
    """SHA-256 of certificates, hexadecimal."""
    subject_alt_names: SubjectAltNames | None = None
    crl: CrlContext | None = None
    allow_expired_certificate: bool | None = None

    @property
    def effective_mode(self) -> Mode:
        """The mode with its default."""
        return self.mode or ("VerifyIfGiven" if self.optional else "RequireAndVerify")

    @property
    def verifies(self) -> bool:
        """Whether a certificate that a client shows must come from a CA."""
        return self.effective_mode in ("VerifyIfGiven", "RequireAndVerify")

    @property
    def named_matches(self) -> tuple[tuple[str, int, StringMatch], ...]:
        """The matches of ``subjectAltNames``."""
        return tuple(self.subject_alt_names.matches()) if self.subject_alt_names is not None else ()


class ClientTLSSettings(TLSSettings, frozen=True, kw_only=True):
    """Which TLS clients may speak; h2 and http/1.1 when ``alpnProtocols`` is not set."""

    client_validation: ClientValidationContext | None = None
    session: Session | None = None


def references(tls: ClientTLSSettings) -> Iterator[Reference]:
    """The CAs and their lists of revoked certificates."""
    validation = tls.client_validation
    if validation is None:
        return
    for n, ref in enumerate(validation.ca_certificate_refs):
        yield Reference.to_authorities(f"{_AUTHORITIES}[{n}]", ref)
    for n, ref in enumerate(validation.crl.refs if validation.crl is not None else ()):
        yield Reference.to_lists(f"{_LISTS}[{n}]", ref)


def check(db: Db, tls: Effective[ClientTLSSettings]) -> Iterator[Problem]:
    """Names that Envoy does not know, and CAs and conditions for certificates that it could not use."""
    spec = tls.value
    if (validation := spec.client_validation) is not None:
        problems = _faults(validation)
        yield from (problem.under("clientValidation") for problem in problems)
        authorities = _authorities(tls)
        fault = client_authorities_fault(db, authorities) if authorities is not None else None
        if fault is not None:
            yield fault
    yield from unknown_names(spec)


def _faults(validation: ClientValidationContext) -> Iterator[Problem]:
    if validation.verifies and not validation.ca_certificate_refs:
        message = (
            f"There are no CAs, but mode {validation.effective_mode} verifies certificates; name a CA, or "
            "use mode Request or RequireAny."
        )
        yield Problem("caCertificateRefs", message)
    for n, text in enumerate(validation.spki_hashes):
        if not _is_spki_hash(text):
            message = f"The value is {text!r}; it must be the SHA-256 of a public key as base64."
            yield Problem(f"spkiHashes[{n}]", message)
    for n, text in enumerate(validation.certificate_hashes):
        if not _HEX_HASH.fullmatch(text):
            message = (
                f"The value is {text!r}; it must be the SHA-256 of a certificate: 64 hexadecimal digits, all "
                "or no pairs of which have colons between them."
            )
            yield Problem(f"certificateHashes[{n}]", message)
    matches = validation.named_matches
    if matches and not validation.ca_certificate_refs:
        message = "There are no CAs, and without one anybody can write any name; name a CA."
        yield Problem("subjectAltNames", message)
    for path, _, match in matches:
        if match.type == "RegularExpression" and (fault := regex_fault(match.value)) is not None:
            yield Problem(f"subjectAltNames.{path}.value", f"{fault}.")
        if isinstance(match, OtherSANMatch) and not _OID.fullmatch(match.oid):
            message = f"The value is {match.oid!r}; it must be an object identifier, such as 1.3.6.1.4.1.311."
            yield Problem(f"subjectAltNames.{path}.oid", message)


def _is_spki_hash(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _SHA256_BYTES
    except (binascii.Error, ValueError):
        return False


def hints(tls: ClientTLSSettings) -> Iterator[Problem]:
    """Conditions that do not count."""
    validation = tls.client_validation
    if validation is None or validation.verifies:
        return
    for field, value in (
        ("spkiHashes", validation.spki_hashes),
        ("certificateHashes", validation.certificate_hashes),
        ("subjectAltNames", validation.named_matches),
        ("crl", validation.crl),
    ):
        if value:
            mode = validation.effective_mode
            message = (
                f"With mode {mode} nothing of a certificate is verified, so clients pass whatever is set "
                "here; use RequireAndVerify or VerifyIfGiven."
            )
            yield Problem(f"clientValidation.{field}", message, "Unused")


def warnings(db: Db, tls: Effective[ClientTLSSettings]) -> Iterator[Problem]:
    """CAs without a list of what they revoked, where there are lists."""
    validation, authorities = tls.value.client_validation, _authorities(tls)
    if validation is None or authorities is None or not validation.verifies:
        return
    missing = client_authorities_unlisted(db, authorities)
    if missing.authorities:
        message = (
            f"No list of revoked certificates is of {_listed(missing.authorities)}, so Envoy refuses all "
            "clients whose certificates it has signed."
        )
        if missing.lists:
            message += f" There are lists of {_listed(missing.lists)}, which is no CA of this policy."
        yield Problem("clientValidation.crl", message, "NoRevocationList")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _authorities(tls: Effective[ClientTLSSettings]) -> PolicyAuthorities | None:
    """The CAs that a value names; ``None`` for none."""
    validation = tls.value.client_validation
    if validation is None or not validation.ca_certificate_refs:
        return None
    owner, crl = tls.owner_of(_AUTHORITIES), validation.crl
    of_lists = tls.owner_of(_LISTS)
    return PolicyAuthorities(
        owner,
        tuple(_sources(validation.ca_certificate_refs, _AUTHORITIES, owner)),
        tuple(_sources(crl.refs if crl is not None else (), _LISTS, of_lists)),
        of_lists if crl is not None and of_lists != owner else None,
        crl is not None and crl.only_verify_leaf_certificate is True,
    )


def _sources(refs: Iterable[SecretObjectReference], path: str, owner: Ref) -> Iterator[tuple[str, Ref]]:
    for n, ref in enumerate(refs):
        at = f"{path}[{n}]"
        yield at, Reference.to_authorities(at, ref).target_from(owner).ref


def _clients(
    tls: Effective[ClientTLSSettings], inherited: ClientValidation | None
) -> ClientValidation | None:
    validation = tls.value.client_validation
    if validation is None:
        return inherited
    return ClientValidation(
        _authorities(tls) or (inherited.authorities if inherited is not None else None),
        required=validation.effective_mode in ("RequireAny", "RequireAndVerify"),
        verified=validation.verifies,
        conditions=encode(_conditions(validation)),
    )


def _conditions(validation: ClientValidationContext) -> CertificateValidationContext:
    return CertificateValidationContext(
        verify_certificate_spki=validation.spki_hashes,
        verify_certificate_hash=validation.certificate_hashes,
        allow_expired_certificate=validation.allow_expired_certificate is True,
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(
                san_type=SubjectAltNameMatcher.SanType.Name(kind),
                matcher=string_matcher(match),
                oid=match.oid if isinstance(match, OtherSANMatch) else "",
            )
            for _, kind, match in validation.named_matches
        ],
    )


def _filter_chain(edit: ChainEdit, tls: Effective[ClientTLSSettings]) -> None:
    if edit.tls is None:
        return
    spec, common = tls.value, edit.tls.common_tls_context
    common.tls_params.CopyFrom(tls_parameters(spec))
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
    kind="ClientTrafficPolicy",
    field="tls",
    model=ClientTLSSettings,
    references=references,
    check=check,
    hints=hints,
    warnings=warnings,
    clients=_clients,
    filter_chain=_filter_chain,
)
