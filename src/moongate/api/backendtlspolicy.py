"""BackendTLSPolicy: requests to a backend go by TLS, and what its certificate must be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from moongate.api.base import GATEWAY_GROUP, Model, Resource, Rule, form
from moongate.api.policy import PolicyTargetReference
from moongate.api.shared import Hostname, LocalObjectReference, PreciseHostname
from moongate.api.tls import SYSTEM, WellKnownCACertificates
from moongate.problem import Problem

_OptionValue = Annotated[str, Meta(min_length=0, max_length=4096)]


class SubjectAltName(Model, frozen=True, kw_only=True):
    """A name that the certificate of the backend may have."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            '!(self.type == "Hostname" && (!has(self.hostname) || self.hostname == ""))',
            "type is Hostname, so hostname must be set.",
        ),
        Rule(
            '!(self.type != "Hostname" && has(self.hostname) && self.hostname != "")',
            "hostname is set, so type must be Hostname.",
        ),
        Rule(
            '!(self.type == "URI" && (!has(self.uri) || self.uri == ""))',
            "type is URI, so uri must be set.",
        ),
        Rule(
            '!(self.type != "URI" && has(self.uri) && self.uri != "")',
            "uri is set, so type must be URI.",
        ),
    )

    type: Literal["Hostname", "URI"]
    hostname: Hostname | None = None
    uri: (
        Annotated[
            str,
            form(
                r"^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?",
                "a URI with a scheme and '//', such as 'spiffe://example.com/shop'",
                low=1,
                high=253,
            ),
        ]
        | None
    ) = None


class BackendTLSPolicyValidation(Model, frozen=True, kw_only=True):
    """Who signs the certificate of the backend, and for which names."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0 && "
            'has(self.wellKnownCACertificates) && self.wellKnownCACertificates != "")',
            "Set caCertificateRefs or wellKnownCACertificates, not both.",
        ),
        Rule(
            "(has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0 || "
            'has(self.wellKnownCACertificates) && self.wellKnownCACertificates != "")',
            "Set caCertificateRefs or wellKnownCACertificates.",
        ),
    )

    ca_certificate_refs: Annotated[tuple[LocalObjectReference, ...], Meta(max_length=8)] = field(
        default=(), name="caCertificateRefs"
    )
    well_known_ca_certificates: WellKnownCACertificates | None = field(
        default=None, name="wellKnownCACertificates"
    )
    hostname: PreciseHostname
    """Sent as SNI, and the certificate must be for it, unless ``subjectAltNames`` say otherwise."""
    subject_alt_names: Annotated[tuple[SubjectAltName, ...], Meta(max_length=5)] = ()
    """The certificate must have one of them."""


class BackendTLSPolicySpec(Model, frozen=True, kw_only=True):
    """Which backends, and what their certificates must be."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "target_refs": (
            Rule(
                "self.all(p1, self.all(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name "
                "? ((!has(p1.sectionName) || p1.sectionName == '') == (!has(p2.sectionName) || "
                "p2.sectionName == '')) : true))",
                "Of several targetRefs to one resource, each needs a sectionName.",
            ),
            Rule(
                "self.all(p1, self.exists_one(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == "
                "p2.name && (((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || "
                "p2.sectionName == '')) || (has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == "
                "p2.sectionName))))",
                "Of several targetRefs to one resource, each needs another sectionName.",
            ),
        ),
    }

    target_refs: Annotated[tuple[PolicyTargetReference, ...], Meta(min_length=1, max_length=16)]
    validation: BackendTLSPolicyValidation
    options: Annotated[dict[str, _OptionValue], Meta(max_length=16)] = field(
        default_factory=dict[str, _OptionValue]
    )


class BackendTLSPolicy(Resource, frozen=True, kw_only=True):
    """TLS from the gateway to Services, ServiceImports and Backends of its namespace."""

    GROUP: ClassVar[str] = GATEWAY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1alpha3", "v1alpha2")
    KIND: ClassVar[str] = "BackendTLSPolicy"

    spec: BackendTLSPolicySpec


class FaultyBackendTLSPolicy(BackendTLSPolicy, frozen=True, kw_only=True):
    """Stands in for a manifest that has had faults from the start: nothing is sent to its targets.

    Only its targets are sound.

    Args:
        faults: what is wrong with the manifest.
    """

    faults: tuple[Problem, ...]


UNKNOWN_VALIDATION = {"hostname": "unknown.invalid", "wellKnownCACertificates": SYSTEM}
"""Takes the place of what cannot be read in such a manifest. It is never used."""
