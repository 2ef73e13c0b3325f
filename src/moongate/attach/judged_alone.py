"""Listeners, each judged by itself: protocol, kinds and namespaces of its routes, TLS, and what clients need.

Those without a fault can still clash with others: ``listeners`` judges them against each other.

Source: Gateway API, ``Listener``; the reference for reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from moongate.api.base import GATEWAY_GROUP, ListenerId, Ref
from moongate.api.diagnostics import did_you_mean
from moongate.api.gateway import Gateway
from moongate.api.gateway import Listener as ListenerSpec
from moongate.attach.client_validation import (
    NO_AUTHORITY,
    ClientAuthorities,
    client_authorities_outdated,
    client_authorities_problem,
    client_validation,
)
from moongate.attach.listener_certificates import listener_certificates
from moongate.attach.listener_sets import gateway_of, listener_specs
from moongate.attach.route_kinds import kinds_for
from moongate.engine import Failed, query
from moongate.problem import Problem
from moongate.store import get

if TYPE_CHECKING:
    from moongate.api.shared import LabelSelectorRequirement
    from moongate.attach.client_validation import ClientValidation
    from moongate.engine import Db

PROTOCOLS: Final = ("HTTP", "HTTPS", "TLS", "TCP", "UDP")
"""All that a listener can ask for."""


class JudgedAlone(Struct, frozen=True):
    """A listener, judged by itself.

    Args:
        id: which it is.
        spec: as written.
        kinds: as in ``listeners.Listener``.
        certificate_faults: likewise.
        sans: the DNS names of its certificates.
        has_unknown_certificate: as there.
        clients: likewise.
        client_faults: likewise.
        sound: whether its own spec has no fault.
        failure: the id of the failure because of which it is not known whether its certificates are in order;
            "" if it is known.
        conditions: what follows, by type: status, reason and message.
    """

    id: ListenerId
    spec: ListenerSpec
    kinds: tuple[tuple[str, str], ...]
    certificate_faults: tuple[Problem, ...]
    sans: tuple[str, ...]
    has_unknown_certificate: bool
    clients: ClientValidation | None
    client_faults: tuple[Problem, ...]
    sound: bool
    failure: str
    conditions: tuple[tuple[str, tuple[str, str, str]], ...]


@query
def judged_alone(db: Db, owner: Ref) -> tuple[JudgedAlone, ...]:
    """The listeners of an owner, each judged by itself."""
    gateway = gateway_of(db, owner)
    if gateway is None:
        return ()
    drafts = [Draft(ListenerId(gateway, owner, spec.name), spec) for spec in listener_specs(db, owner)]
    for draft in drafts:
        _judge_alone(db, draft)
    return tuple(draft.judged() for draft in drafts)


class Draft:
    """A listener while it is judged."""

    def __init__(self, id_: ListenerId, spec: ListenerSpec) -> None:
        self.id = id_
        self.spec = spec
        self.kinds: tuple[tuple[str, str], ...] = ()
        self.certificate_faults: tuple[Problem, ...] = ()
        self.sans: tuple[str, ...] = ()
        self.has_unknown_certificate = False
        self.clients: ClientValidation | None = None
        self.client_faults: tuple[Problem, ...] = ()
        self.sound = True
        self.ready = False
        self.failure = ""
        self.conditions: dict[str, tuple[str, str, str]] = {}

    @classmethod
    def of(cls, judged: JudgedAlone) -> Draft:
        """A listener that was judged by itself."""
        draft = cls(judged.id, judged.spec)
        draft.kinds, draft.certificate_faults = judged.kinds, judged.certificate_faults
        draft.sans, draft.has_unknown_certificate = judged.sans, judged.has_unknown_certificate
        draft.clients, draft.client_faults = judged.clients, judged.client_faults
        draft.sound, draft.failure = judged.sound, judged.failure
        draft.conditions = dict(judged.conditions)
        return draft

    def judged(self) -> JudgedAlone:
        """What is known now, as a value."""
        return JudgedAlone(
            self.id,
            self.spec,
            self.kinds,
            self.certificate_faults,
            self.sans,
            self.has_unknown_certificate,
            self.clients,
            self.client_faults,
            self.sound,
            self.failure,
            tuple(self.conditions.items()),
        )

    @property
    def hostname(self) -> str:
        return self.spec.hostname or ""

    @property
    def of_set(self) -> bool:
        return self.id.owner != self.id.gateway

    def set_condition(self, type_: str, status: str, reason: str, message: str) -> None:
        """Replace the condition of a type."""
        self.conditions[type_] = (status, reason, message)

    def fault(self, message: str, reason: str = "Invalid", type_: str = "Programmed") -> None:
        """The listener's own spec has a fault."""
        self.sound = False
        self.set_condition(type_, "False", reason, unserved(message))


def _judge_alone(db: Db, draft: Draft) -> None:
    spec = draft.spec
    _judge_namespaces(draft)
    allowed = _kinds(spec)
    if allowed is None:
        message = (
            f"Protocol {spec.protocol} is not served; it must be HTTP, HTTPS, TLS, TCP or UDP."
            f"{did_you_mean(spec.protocol, PROTOCOLS)}"
        )
        draft.fault(message, "UnsupportedProtocol", "Accepted")
        return
    _judge_kinds(draft, allowed)
    _judge_tls(db, draft)
    if spec.protocol in ("TCP", "UDP") and spec.hostname is not None:
        draft.fault(f"A listener of protocol {spec.protocol} cannot have a hostname; it has {spec.hostname}.")


def _judge_namespaces(draft: Draft) -> None:
    where = draft.spec.allowed_routes.namespaces
    if where.from_ != "Selector":
        return
    path = "allowedRoutes.namespaces.selector"
    if where.selector is None:
        draft.fault(f"{path} is missing; from: Selector needs one.")
        return
    for requirement in where.selector.match_expressions:
        if (fault := _selector_fault(requirement)) is not None:
            draft.fault(f"{path}: {fault}")


def _selector_fault(requirement: LabelSelectorRequirement) -> str | None:
    match requirement.operator:
        case "In" | "NotIn":
            if not requirement.values:
                return f"the operator {requirement.operator} on {requirement.key} needs values."
        case "Exists" | "DoesNotExist":
            if requirement.values:
                return f"the operator {requirement.operator} on {requirement.key} takes no values."
        case _:
            return f"{requirement.operator!r} is no operator; use In, NotIn, Exists or DoesNotExist."
    return None


def _kinds(spec: ListenerSpec) -> tuple[str, ...] | None:
    """Kinds of routes that a listener's protocol allows; ``None`` for an unknown protocol."""
    if spec.protocol not in PROTOCOLS:
        return None
    return kinds_for(spec.protocol, passthrough=passes_tls_on(spec))


def _judge_kinds(draft: Draft, allowed: tuple[str, ...]) -> None:
    written = draft.spec.allowed_routes.kinds
    if not written:
        draft.kinds = tuple((GATEWAY_GROUP, kind) for kind in allowed)
        return
    draft.kinds = tuple((k.group, k.kind) for k in written if k.group == GATEWAY_GROUP and k.kind in allowed)
    other = [f"{k.group}/{k.kind}" for k in written if (k.group, k.kind) not in draft.kinds]
    if other:
        message = (
            f"A listener of protocol {draft.spec.protocol} does not take {', '.join(other)}; "
            f"it takes {', '.join(allowed)} of {GATEWAY_GROUP}."
        )
        draft.fault(message, "InvalidRouteKinds", "ResolvedRefs")


def _judge_tls(db: Db, draft: Draft) -> None:
    protocol, tls = draft.spec.protocol, draft.spec.tls
    if protocol in ("HTTP", "TCP", "UDP"):
        if tls is not None:
            draft.fault(f"A listener of protocol {protocol} cannot have tls; use HTTPS or TLS.")
        return
    if tls is None:
        draft.fault(f"A listener of protocol {protocol} needs tls.")
    elif tls.mode == "Passthrough" and protocol == "HTTPS":
        message = (
            "tls.mode is Passthrough; HTTPS is served with Terminate only. Use protocol TLS to pass it on."
        )
        draft.fault(message, "UnsupportedTLSMode")
    elif tls.mode == "Passthrough":
        if tls.certificate_refs:
            draft.fault("tls.mode is Passthrough, so certificateRefs have no use; the backend has them.")
    elif not tls.certificate_refs:
        draft.fault("tls.certificateRefs is empty; mode Terminate needs at least one certificate.")
    else:
        _judge_certificates(db, draft)
    if protocol == "HTTPS":
        _judge_clients(db, draft)


def _judge_clients(db: Db, draft: Draft) -> None:
    """Note what the listener asks of its clients; without a CA that can be used it is closed."""
    draft.clients = validation = _validation_at(db, draft.id.gateway, draft.spec.port)
    if validation is None:
        return
    of = validation.authorities
    assert isinstance(of, ClientAuthorities), "a Gateway that asks for certificates names CAs"
    problem = client_authorities_problem.attempt(db, of)
    if fails := isinstance(problem, Failed):
        draft.failure = problem.id
        # A listener that was closed must not come back: its port may be another listener's by now.
        problem = client_authorities_problem.last_good(db, of)
    if isinstance(problem, Failed):
        return
    if problem is None and not fails:
        if (outdated := client_authorities_outdated(db, of)) is not None:
            draft.client_faults = (outdated,)
            message = f"{outdated.path}: {outdated.message}"
            draft.set_condition("ResolvedRefs", "False", outdated.reason, message)
    elif problem is not None:
        draft.client_faults = (problem,)
        message = f"No certificate of a client can be checked: {problem.path}: {problem.message}"
        draft.fault(message, problem.reason, "ResolvedRefs")
        draft.fault(message, problem.reason)
        draft.fault(message, NO_AUTHORITY, "Accepted")


@query
def _validation_at(db: Db, gateway: Ref, port: int) -> ClientValidation | None:
    """What a Gateway asks of the clients of a port, also at listeners of its ListenerSets."""
    resource = get(db, Gateway, gateway)
    return client_validation(resource, port) if resource is not None else None


def _judge_certificates(db: Db, draft: Draft) -> None:
    certificates = listener_certificates.attempt(db, draft.id)
    if isinstance(certificates, Failed):
        draft.failure = certificates.id
        # A listener without a certificate must not come back: its port may be another listener's by now.
        certificates = listener_certificates.last_good(db, draft.id)
    if isinstance(certificates, Failed):
        return
    draft.sans = certificates.sans
    draft.has_unknown_certificate = bool(certificates.servers)
    draft.certificate_faults = faults = certificates.faults
    if not faults:
        return
    messages = " ".join(f"{fault.path}: {fault.message}" for fault in faults)
    if certificates.served:
        some = len(certificates.outdated) < len(certificates.served)
        reason = "PartiallyInvalidCertificateRef" if some else "InvalidCertificateRef"
        message = f"Certificates are not all served as they are: {messages}"
        draft.set_condition("ResolvedRefs", "False", reason, message)
        return
    reasons = {fault.reason for fault in faults}
    reason = "RefNotPermitted" if reasons == {"RefNotPermitted"} else "InvalidCertificateRef"
    draft.fault(f"No certificate can be served: {messages}", reason, "ResolvedRefs")


def passes_tls_on(spec: ListenerSpec) -> bool:
    """Whether a listener passes TLS on as it is."""
    return spec.protocol == "TLS" and spec.tls is not None and spec.tls.mode == "Passthrough"


def unserved(message: str) -> str:
    """What keeps a listener from being served, and what follows."""
    return Problem("", message).saying("The listener serves nothing until this is fixed.").message
