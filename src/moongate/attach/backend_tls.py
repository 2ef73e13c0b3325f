"""TLS to backends: what the certificate of a backend must be, and which one the gateway shows.

Theory of operation
===================
``validation`` answers for a backend, or a port of it, from its BackendTLSPolicy and the ``tls`` of a Backend.
``upstream_tls`` adds what the Gateway says. Neither reads certificates: ``authorities`` does, for the secret
that Envoy fetches. So other CAs under the same name re-run one secret, and no cluster.

Rules
=====
1. The policy that names the port wins over the one for the whole backend; of two for the same, the oldest.
2. A policy wins over the Backend, field by field; but ``insecureSkipVerify`` of a Backend stays.
3. A Backend's own certificate and settings win over the Gateway's. ``tls.backend`` of a Gateway replaces
   ``backendTLS`` of its EnvoyProxy, even if its certificate cannot be used. None of these turns TLS on.
4. What cannot be built is a ``Problem``, and the backend then gets no request: nothing is sent in the clear,
   or to somebody whose certificate was not checked.

Source: Gateway API, ``BackendTLSPolicy``; Envoy Gateway, ``BackendTLSSettings`` and ``BackendTLSConfig``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from moongate import names
from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy, FaultyBackendTLSPolicy
from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.core import Secret
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway
from moongate.api.tls import SYSTEM, BackendTLSConfig
from moongate.attach.authorities import KINDS, Bundle, bundle, source
from moongate.attach.certificates import (
    Fault,
    RefusedCertificate,
    client_certificate_fault,
    refusal,
    refused_as_it_is,
)
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import config, proxy, system_authorities
from moongate.attach.grants import granted
from moongate.attach.policies import TARGETS, attached_of
from moongate.attach.refused import absence
from moongate.attach.secret_servers import ServedSecret, served_secret
from moongate.attach.tls_names import unknown_names
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import find, get
from moongate.xds.wire import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.backend import BackendTLSSettings
    from moongate.api.base import FleetId, Resource
    from moongate.api.gateway import GatewayBackendTLS
    from moongate.api.shared import LocalObjectReference, SecretObjectReference
    from moongate.engine import Db

INVALID_BACKEND_TLS: Final = "InvalidBackendTLS"
"""The reason of a route whose backend cannot be reached by TLS."""
INVALID: Final = "Invalid"
"""The reason of a policy whose manifest has a fault."""
INVALID_CERTIFICATE: Final = "InvalidClientCertificateRef"
"""The reason of a Gateway whose own certificate for backends cannot be used."""

OF_SYSTEM: Final = Ref("", "", names.SYSTEM_AUTHORITIES, "")
"""Takes the place of the resource that names CAs, for those of the system: no resource has such a name."""

_VERSIONS: Final = ("1.0", "1.1", "1.2", "1.3")
_SETTINGS: Final = tuple(
    name for name in BackendTLSConfig.__struct_fields__ if name != "client_certificate_ref"
)


class Authorities(NamedTuple):
    """CAs that a certificate must come from.

    Args:
        secret: their name in xDS.
        owner: the BackendTLSPolicy or Backend that names them; ``None`` for those of the system.
        server: the server that has them, instead of moongate.
    """

    secret: str
    owner: Ref | None
    server: ServedSecret | None = None


class Validation(Struct, frozen=True):
    """What the certificate of a backend must be, and how the backend wants TLS to be spoken.

    Args:
        authorities: who it must come from; ``None`` if any certificate will do.
        sni: the server name; "" for that of the endpoint, or of the request.
        sni_of_endpoint: whether it is that of the endpoint.
        names: the names that it must have one of, by type: ``Hostname`` or ``URI``.
        certificate: the Secret with the certificate that the Backend wants to be shown.
        settings: those of the Backend.
    """

    authorities: Authorities | None
    sni: str = ""
    sni_of_endpoint: bool = False
    names: tuple[tuple[str, str], ...] = ()
    certificate: Ref | None = None
    settings: BackendTLSConfig = BackendTLSConfig()


class UpstreamTLS(Struct, frozen=True):
    """All that a cluster needs to know of TLS to a backend.

    Args:
        validation: what the certificate of the backend must be.
        certificate: the Secret with the certificate that is shown to it.
        settings: how TLS is spoken.
        server: the server that has this certificate, instead of moongate.
    """

    validation: Validation
    certificate: Ref | None
    settings: BackendTLSConfig
    server: ServedSecret | None = None


class _Offer(Struct, frozen=True):
    """What a Gateway brings along for all backends that have TLS.

    Args:
        settings: how TLS is spoken.
        certificate: the Secret with the certificate that it shows.
        problem: why it cannot show the one that it should.
    """

    settings: BackendTLSConfig = BackendTLSConfig()
    certificate: Ref | None = None
    problem: Problem | None = None


def certificates_named(resource: Resource) -> Iterator[tuple[str, Ref]]:
    """What a resource names for TLS to backends: CAs, and certificates to show; each with its field."""
    namespace = resource.metadata.namespace
    authorities: tuple[LocalObjectReference, ...] = ()
    certificate: SecretObjectReference | None = None
    at, field = "", ""
    match resource:
        case BackendTLSPolicy():
            at, authorities = (
                "spec.validation.caCertificateRefs",
                resource.spec.validation.ca_certificate_refs,
            )
        case Backend():
            if (own := resource.spec.tls) is not None:
                at, authorities = "spec.tls.caCertificateRefs", own.ca_certificate_refs
                field, certificate = "spec.tls.clientCertificateRef", own.client_certificate_ref
        case EnvoyProxy():
            if (to_all := resource.spec.backend_tls) is not None:
                field, certificate = "spec.backendTLS.clientCertificateRef", to_all.client_certificate_ref
        case Gateway():
            tls = resource.spec.tls
            if tls is not None and tls.backend is not None:
                field = "spec.tls.backend.clientCertificateRef"
                certificate = tls.backend.client_certificate_ref
        case _:
            return
    for n, ref in enumerate(authorities):
        if (named := source(ref.kind, namespace, ref.name)) is not None:
            yield f"{at}[{n}]", named
    if certificate is not None and isinstance(secret := _secret(certificate, namespace), Ref):
        yield field, secret


def has_policy(db: Db, backend: Ref) -> bool:
    """Whether any policy names a backend. It costs no query, for most have none."""
    return bool(find(db, TARGETS, backend))


@query
def policy_of(db: Db, backend: Ref, section: str) -> Ref | None:
    """The BackendTLSPolicy in force for a port of a backend; "" for no port with a name."""
    attached = dict(attached_of(db, BackendTLSPolicy.KIND, backend))
    return attached.get(section) or attached.get("")


@query
def validation(db: Db, backend: Ref, section: str) -> Validation | Problem | None:
    """What the certificate of a backend must be; ``None`` if it has no TLS.

    Args:
        db: where to read.
        backend: a Service, ServiceImport or Backend.
        section: the name of its port, for a Backend the number; "" for none.
    """
    policy = policy_of(db, backend, section)
    own = own_tls(db, backend) if backend.is_a(Backend) else None
    judged = _of_backend(db, backend, own) if own is not None else None
    if policy is None or isinstance(judged, Problem):
        if isinstance(judged, Validation) and own is not None and not _is_validated(own):
            message = (
                f"{backend} has tls without CAs, and no BackendTLSPolicy for this port has them; set "
                "spec.tls.caCertificateRefs or spec.tls.wellKnownCACertificates."
            )
            return Problem("", message, INVALID_BACKEND_TLS)
        return judged
    if (problem := authorities_problem(db, policy)) is not None:
        return Problem("", f"{policy}: {problem.path}: {problem.message}", INVALID_BACKEND_TLS)
    resource = get(db, BackendTLSPolicy, policy)
    assert resource is not None, f"{policy} is attached but not held"
    of_policy = resource.spec.validation
    merged = judged if judged is not None else Validation(None)
    skips = own is not None and own.insecure_skip_verify
    return structs.replace(
        merged,
        authorities=None if skips else _authorities_of(db, policy, of_policy.well_known_ca_certificates),
        sni=of_policy.hostname,
        sni_of_endpoint=False,
        names=tuple(
            (name.type, text)
            for name in of_policy.subject_alt_names
            if (text := {"Hostname": name.hostname, "URI": name.uri}.get(name.type))
        ),
    )


@query
def own_tls(db: Db, backend: Ref) -> BackendTLSSettings | None:
    """``tls`` of a Backend."""
    resource = get(db, Backend, backend)
    return None if resource is None else resource.spec.tls


def own_problem(db: Db, resource: Backend) -> Problem | None:
    """Why the ``tls`` of a Backend is wrong, whatever refers to it."""
    tls, ref = resource.spec.tls, resource.ref
    if tls is None:
        return None
    certificate = tls.client_certificate_ref
    if certificate is not None and certificate.namespace not in (None, ref.namespace):
        message = f"The Secret must be in the namespace of the Backend, {ref.namespace}."
        return Problem("spec.tls.clientCertificateRef.namespace", message, "InvalidBackendRef")
    if not _is_validated(tls):
        sections = {section for section, _ in attached_of(db, BackendTLSPolicy.KIND, ref)}
        ports = {str(at.port) for each in resource.spec.endpoints if (at := each.ip or each.fqdn) is not None}
        if "" not in sections and not (ports and ports <= sections):
            message = (
                "No CA is named, and no BackendTLSPolicy names one for all of its ports; set "
                "caCertificateRefs or wellKnownCACertificates, or insecureSkipVerify to check no certificate."
            )
            return Problem("spec.tls", message, "InvalidBackendRef")
    return None


def upstream_tls(db: Db, backend: Validation, gateway: Ref) -> UpstreamTLS | Problem:
    """TLS from the Envoys of a Gateway to a backend."""
    offer = _offer(db, gateway)
    if offer.problem is not None:
        return offer.problem
    certificate = backend.certificate or offer.certificate
    if (problem := _refused(db, gateway, backend, certificate)) is not None:
        return problem
    settings = _merged(backend.settings, offer.settings)
    problem = next(_faults(settings), None)
    if problem is not None:
        message = f"How TLS is spoken to backends has a fault: {problem.path}: {problem.message}"
        return Problem("", message, INVALID_BACKEND_TLS)
    server = served_secret(db, certificate) if certificate is not None else None
    return UpstreamTLS(backend, certificate, settings, server if isinstance(server, ServedSecret) else None)


def _refused(db: Db, gateway: Ref, backend: Validation, certificate: Ref | None) -> Problem | None:
    """Why TLS to a backend cannot be built as Envoy refuses what is needed for it, and never took any."""
    fleet, bundle = fleet_of(db, gateway), backend.authorities
    if bundle is not None:
        refused = authorities_refusal(db, fleet, bundle.owner or OF_SYSTEM)
        if refused is not None and refused.before is None:
            message = f"Envoy refuses the CAs of {bundle.owner or 'the system'}: {refused.message}"
            return Problem("", message, INVALID_BACKEND_TLS)
    if certificate is not None:
        refused = refusal(db, fleet, certificate)
        if refused is not None and refused.before is None:
            message = f"Envoy refuses {certificate}, which is to be shown: {refused.message}"
            return Problem("", message, INVALID_BACKEND_TLS)
    return None


def authorities_source(db: Db, owner: Ref) -> Ref:
    """Who names the CAs that a BackendTLSPolicy or Backend asks for: itself, or the system."""
    _, _, well_known = _named_authorities(db, owner)
    return owner if _authorities_of(db, owner, well_known).owner is not None else OF_SYSTEM


@query
def authorities_contents(db: Db, owner: Ref) -> str:
    """What tells one state of the CAs that a resource names from the next."""
    if owner == OF_SYSTEM:
        return system_authorities(db)
    bundle = authorities(db, owner)
    return "" if isinstance(bundle, Problem) else fingerprint(bundle.pem)


@query
def authorities_refusal(db: Db, fleet: FleetId, owner: Ref) -> RefusedCertificate | None:
    """Why the Envoys of a fleet refuse the CAs that a resource names now; ``None`` as far as is known.

    Those of the system have ``OF_SYSTEM`` in its place.
    """
    return refused_as_it_is(db, fleet, owner, authorities_contents)


@query
def authorities(db: Db, owner: Ref) -> Bundle | Problem:
    """The CAs that a BackendTLSPolicy or Backend names, or why there are none."""
    if (fault := _fault(db, owner)) is not None:
        return fault
    field, refs, well_known = _named_authorities(db, owner)
    if well_known:
        if well_known == SYSTEM:
            return Bundle(b"")
        at = field.replace("caCertificateRefs", "wellKnownCACertificates")
        return Problem(at, f"{well_known!r} is not served; it must be {SYSTEM!r}.", "InvalidKind")
    named = [(f"{field}[{n}]", source(ref.kind, owner.namespace, ref.name)) for n, ref in enumerate(refs)]
    sources = [(path, at) for path, at in named if at is not None]
    if not sources:
        message = f"The kind is {refs[0].kind!r}; it must be" if refs else "None is named; it must be"
        at = f"{field}[0].kind" if refs else field
        return Problem(at, f"{message} one of {', '.join(KINDS)}.", "InvalidKind")
    return bundle(db, sources)


@query
def _authorities_server(db: Db, owner: Ref) -> ServedSecret | None:
    bundle = authorities(db, owner)
    return None if isinstance(bundle, Problem) else bundle.server


def _fault(db: Db, owner: Ref) -> Problem | None:
    """The fault of a policy that is in force only so that nothing is sent to its targets."""
    policy = get(db, BackendTLSPolicy, owner) if owner.is_a(BackendTLSPolicy) else None
    if not isinstance(policy, FaultyBackendTLSPolicy):
        return None
    return Problem(policy.faults[0].path, policy.faults[0].message, INVALID)


@query
def authorities_problem(db: Db, owner: Ref) -> Problem | None:
    """Why the CAs of a BackendTLSPolicy or Backend cannot be used; another CA is no other answer."""
    bundle = authorities(db, owner)
    return bundle if isinstance(bundle, Problem) else None


@query
def gateway_certificate(db: Db, gateway: Ref) -> Ref | Problem | None:
    """The certificate of ``tls.backend`` of a Gateway; ``None`` if it names none."""
    tls = _gateway_tls(db, gateway)
    ref = tls.client_certificate_ref if tls is not None else None
    if ref is None:
        return None
    at = "spec.tls.backend.clientCertificateRef"
    target = _secret(ref, gateway.namespace)
    if isinstance(target, str):
        return Problem(at, target, INVALID_CERTIFICATE)
    if not granted(db, GATEWAY_GROUP, gateway.kind, gateway.namespace, target):
        message = f"No ReferenceGrant in namespace {target.namespace} lets this Gateway use {target}."
        return Problem(at, message, "RefNotPermitted")
    fault = certificate_problem(db, target)
    return target if fault is None else Problem(at, fault, INVALID_CERTIFICATE)


@query
def certificate_problem(db: Db, ref: Ref) -> str | None:
    """Why a Secret holds no certificate that can be shown to a backend; a renewed one is no other answer."""
    secret = get(db, Secret, ref)
    if secret is None:
        return f"{ref} {absence(db, ref)}."
    served = served_secret(db, ref)
    fault = client_certificate_fault(secret) if served is None else served
    return f"{ref} {fault.message}" if isinstance(fault, Fault) else None


def _of_backend(db: Db, ref: Ref, tls: BackendTLSSettings) -> Validation | Problem:
    """What ``tls`` of a Backend says alone."""
    checked = not tls.insecure_skip_verify and _is_validated(tls)
    if checked and (problem := authorities_problem(db, ref)) is not None:
        return Problem(problem.path, problem.message, INVALID_BACKEND_TLS)
    certificate: Ref | None = None
    if tls.client_certificate_ref is not None:
        at = "spec.tls.clientCertificateRef"
        target = _secret(tls.client_certificate_ref, ref.namespace)
        fault = target if isinstance(target, str) else certificate_problem(db, target)
        if fault is not None or isinstance(target, str):
            return Problem(at, fault or "", INVALID_BACKEND_TLS)
        certificate = target
    sni = tls.sni or ""
    return Validation(
        _authorities_of(db, ref, tls.well_known_ca_certificates) if checked else None,
        sni=sni,
        sni_of_endpoint=bool(tls.auto_sni_from_endpoint_hostname) and not sni,
        certificate=certificate,
        settings=BackendTLSConfig(**{name: getattr(tls, name) for name in _SETTINGS}),
    )


def _is_validated(tls: BackendTLSSettings) -> bool:
    """Whether a Backend says itself what certificates it takes: those of some CAs, or any."""
    return bool(tls.insecure_skip_verify or tls.ca_certificate_refs or tls.well_known_ca_certificates)


def _authorities_of(db: Db, owner: Ref, well_known: str | None) -> Authorities:
    shared = not config(db).runtime_flags.on("PerResourceSystemCASecret")
    if well_known and shared:
        return Authorities(names.SYSTEM_AUTHORITIES, None)
    if (server := _authorities_server(db, owner)) is not None:
        return Authorities(server.name, owner, server)
    return Authorities(authorities_name(db, owner), owner)


@query
def authorities_name(db: Db, owner: Ref) -> str:
    """The name of the secret with the CAs that a BackendTLSPolicy or Backend names.

    It is the reference's, unless that is also the name of something else: of the CAs of a policy that has the
    name of the Backend, or of a certificate.
    """
    name = names.authorities(owner)
    certificate = Ref.of(Secret, owner.name, name.removeprefix(f"{owner.name}/"))
    policy = Ref.of(BackendTLSPolicy, owner.namespace, owner.name)
    is_taken = _exists(db, certificate) or (owner != policy and _exists(db, policy))
    return f"{name}/{owner.kind.lower()}" if is_taken else name


@query
def _exists(db: Db, ref: Ref) -> bool:
    return db.read(ref) is not None


@query
def _named_authorities(db: Db, owner: Ref) -> tuple[str, tuple[LocalObjectReference, ...], str | None]:
    """The field with references to CAs, the references, and the name of well-known ones."""
    if owner.is_a(Backend):
        tls = own_tls(db, owner)
        field = "spec.tls.caCertificateRefs"
        return (field, tls.ca_certificate_refs, tls.well_known_ca_certificates) if tls else (field, (), None)
    policy = get(db, BackendTLSPolicy, owner)
    field = "spec.validation.caCertificateRefs"
    if policy is None:
        return field, (), None
    checks = policy.spec.validation
    return field, checks.ca_certificate_refs, checks.well_known_ca_certificates


@query
def _offer(db: Db, gateway: Ref) -> _Offer:
    if _gateway_tls(db, gateway) is not None:
        certificate = gateway_certificate(db, gateway)
        return _Offer(certificate=certificate if isinstance(certificate, Ref) else None)
    settings = proxy(db, gateway)
    tls, owner = settings.spec.backend_tls, settings.tls_owner
    if tls is None:
        return _Offer()
    plain = structs.replace(tls, client_certificate_ref=None)
    ref = tls.client_certificate_ref
    if ref is None:
        return _Offer(plain)
    namespace = owner.namespace if owner is not None else ""
    target = _secret(ref, namespace)
    where = f"{owner or 'The EnvoyProxy of the configuration'}: spec.backendTLS.clientCertificateRef"
    if isinstance(target, str):
        fault: str | None = target
    elif target.namespace != namespace:
        fault = f"The Secret must be in the namespace of the EnvoyProxy, {namespace or 'which has none'}."
    else:
        fault = certificate_problem(db, target)
    if fault is not None or isinstance(target, str):
        return _Offer(problem=Problem("", f"{where}: {fault}", INVALID_BACKEND_TLS))
    return _Offer(plain, target)


@query
def _gateway_tls(db: Db, gateway: Ref) -> GatewayBackendTLS | None:
    resource = get(db, Gateway, gateway)
    tls = resource.spec.tls if resource is not None else None
    return tls.backend if tls is not None else None


def _secret(ref: SecretObjectReference, namespace: str) -> Ref | str:
    """The Secret of a reference, or why it is none."""
    if (ref.group, ref.kind) != ("", Secret.KIND):
        return f"{ref.group or 'core'}/{ref.kind} is not served; it must be a Secret of the core group."
    return Ref.of(Secret, ref.namespace or namespace, ref.name)


def _merged(own: BackendTLSConfig, others: BackendTLSConfig) -> BackendTLSConfig:
    """The settings of a Backend over those of its Gateway, field by field."""
    unset: tuple[object, ...] = (None, ())
    overrides: dict[str, object] = {
        name: value
        for name in _SETTINGS
        if (value := getattr(own, name)) not in unset or (name == "alpn_protocols" and value is not None)
    }
    return structs.replace(others, **overrides) if overrides else others


def _faults(settings: BackendTLSConfig) -> Iterator[Problem]:
    low, high = settings.min_version or "1.2", settings.max_version or "1.3"
    for field, version in (("minVersion", low), ("maxVersion", high)):
        if version not in ("Auto", *_VERSIONS):
            message = f"{version!r} is no version of TLS; those are {', '.join(_VERSIONS)}."
            yield Problem(field, message)
            return
    if "Auto" not in (low, high) and _VERSIONS.index(low) > _VERSIONS.index(high):
        message = f"It is {low}, which is above the maxVersion, {high}: they come from two resources."
        yield Problem("minVersion", message)
    yield from unknown_names(settings)
