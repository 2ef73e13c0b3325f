"""The listeners of a Gateway: what each may serve, with which certificates, and what keeps it from it.

Theory of operation
===================
``listeners`` judges all listeners of one Gateway in two rounds: each by itself (kinds, namespaces, TLS,
hostname), then those without a fault against each other (protocols, hostnames and ports that clash).
``attachable`` is the part that a route's attachment depends on, and no more. How ready listeners share
Envoy's is decided in ``envoy_listeners``, and which of them a client may take for each other is seen in
``tls_overlaps``.

Rules
=====
1. A listener with a fault of its own takes no part in conflicts, so it cannot keep a sound one from serving.
2. A listener is *ready* when it is ``Programmed``; only then does it reach Envoy. Routes attach to it all the
   same, and are counted.
3. Where neither of two listeners is older, neither wins: both are refused, and no order of the spec matters.
4. Of two Gateways with Envoys of their own on this machine, the older one has the port (``host_ports``).

Source: Gateway API, ``Listener``; the reference for reasons.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from msgspec import Struct

from moongate.api.base import GATEWAY_GROUP, Condition, ListenerId, Ref
from moongate.api.core import Namespace
from moongate.api.diagnostics import did_you_mean
from moongate.api.gateway import Gateway
from moongate.api.gateway import Listener as ListenerSpec
from moongate.api.shared import LabelSelector
from moongate.attach.client_validation import (
    NO_AUTHORITY,
    client_authorities_outdated,
    client_authorities_problem,
    client_validation,
)
from moongate.attach.fleets import fleet_of, keeps_what_it_has, members
from moongate.attach.gateways import config, fleet_proxy, managed, rejection
from moongate.attach.host_ports import rivals
from moongate.attach.listener_certificates import listener_certificates
from moongate.attach.route_kinds import kinds_for
from moongate.engine import Failed, query
from moongate.problem import Problem
from moongate.store import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from moongate.api.base import FleetId
    from moongate.api.shared import LabelSelectorRequirement
    from moongate.attach.client_validation import ClientValidation
    from moongate.attach.host_ports import Claim
    from moongate.engine import Db

K = TypeVar("K")

ChainKind = Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
"""What the filter chains of a listener are made of; those of UDP have none, but a listener filter."""
HTTP_CHAINS: Final[tuple[ChainKind, ...]] = ("HTTP", "HTTPS")
"""The kinds with a route configuration."""

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that each namespace has, with its name."""

PROTOCOLS: Final = ("HTTP", "HTTPS", "TLS", "TCP", "UDP")
"""All that a listener can ask for."""

_PORT_SHIFT = 10_000


class Listener(Struct, frozen=True):
    """One listener, judged.

    Args:
        id: which it is.
        protocol: as written.
        chain_kind: what Envoy serves it with; ``None`` when it does not know the protocol.
        passthrough: whether it passes TLS on as it is.
        port: as written.
        container_port: where Envoy listens.
        hostname: "" for any.
        kinds: (group, kind) of the routes that it takes; a subset of what its protocol allows.
        from_: ``All``, ``Same`` or ``Selector``: namespaces whose routes may attach.
        selector: their labels, for ``Selector``.
        conditions: in the order in which a status lists them.
        ready: whether Envoy is to serve it, or, where moongate failed to judge it, to go on as before.
        certificate_faults: why a certificate is not served, each at its reference, with a path within the
            listener; ``ResolvedRefs`` sums them up.
        sans: the DNS names of its certificates.
        has_unknown_certificate: whether another server has one of them, so that its names are not known.
        clients: what it asks of its clients; ``None`` for no certificate.
        client_faults: why these cannot be checked, with a path within the Gateway.
    """

    id: ListenerId
    protocol: str
    chain_kind: ChainKind | None
    port: int
    container_port: int
    hostname: str
    kinds: tuple[tuple[str, str], ...]
    from_: str
    selector: LabelSelector | None
    conditions: tuple[Condition, ...]
    ready: bool
    passthrough: bool = False
    certificate_faults: tuple[Problem, ...] = ()
    sans: tuple[str, ...] = ()
    has_unknown_certificate: bool = False
    clients: ClientValidation | None = None
    client_faults: tuple[Problem, ...] = ()


class Attachable(Struct, frozen=True):
    """What decides whether a route attaches to a listener; certificates and conditions do not.

    Args:
        id: which it is.
        protocol: as written.
        port: as written.
        hostname: "" for any.
        kinds: as in ``Listener``.
        from_: likewise.
        selector: likewise.
        beside: the hostnames that listeners of other Gateways of its fleet have on its port, sorted.
    """

    id: ListenerId
    protocol: str
    port: int
    hostname: str
    kinds: tuple[tuple[str, str], ...]
    from_: str
    selector: LabelSelector | None
    beside: tuple[str, ...]


@query
def listeners(db: Db, gateway: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway, in the order of its spec; none if it is not ours, or is rejected."""
    resource = get(db, Gateway, gateway)
    if resource is None or not managed(db, gateway) or rejection(db, gateway) is not None:
        return ()
    drafts = [_Draft(ListenerId(gateway, gateway, spec.name), spec) for spec in resource.spec.listeners]
    for draft in drafts:
        _judge_alone(db, draft, resource)
    shift = _shift(db, gateway)
    _conflicts(db, gateway, [d for d in drafts if d.sound], shift)
    for draft in drafts:
        _conclude(draft)
    return tuple(_listener(d, resource.metadata.generation, shift) for d in drafts)


def last_judged(db: Db, gateway: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway, for queries that join all Gateways of its fleet.

    While they cannot be judged, they are as they were before. If they never were judged, they keep the ports
    and hostnames that are written: nothing is served there, but no other listener takes these over.
    """
    judged = listeners.last_good(db, gateway)
    if not isinstance(judged, Failed):
        return judged
    if len(members(db, fleet_of(db, gateway))) == 1:
        return listeners(db, gateway)  # This fails. The fleet has no other Gateway that must go on.
    places = unjudged.attempt(db, gateway)
    return () if isinstance(places, Failed) else places


def last_judged_at(db: Db, listener: ListenerId) -> Listener | None:
    """One of these listeners; ``None`` when its Gateway has none of that name."""
    return next((each for each in last_judged(db, listener.gateway) if each.id == listener), None)


def all_last_judged(db: Db, gateways: Sequence[Ref]) -> list[Listener]:
    """The listeners of many Gateways, as ``last_judged`` has them."""
    calls = [(gateway,) for gateway in gateways]
    return [
        listener
        for gateway, judged in zip(gateways, listeners.attempt_each(db, calls), strict=True)
        for listener in (last_judged(db, gateway) if isinstance(judged, Failed) else judged)
    ]


@query
def unjudged(db: Db, gateway: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway, judged by protocol, port and hostname alone."""
    resource = get(db, Gateway, gateway)
    written = resource.spec.listeners if resource is not None else ()
    drafts = [_Draft(ListenerId(gateway, gateway, spec.name), spec) for spec in written]
    shift = _shift(db, gateway)
    _conflicts(db, gateway, drafts, shift)
    for draft in drafts:
        draft.ready = not draft.conditions
    return tuple(_listener(draft, 0, shift) for draft in drafts)


@query
def attachable(db: Db, gateway: Ref) -> tuple[Attachable, ...]:
    """What routes see of a Gateway's listeners, in the order of its spec."""
    own = listeners(db, gateway)
    return tuple(
        Attachable(
            each.id,
            each.protocol,
            each.port,
            each.hostname,
            each.kinds,
            each.from_,
            each.selector,
            _beside(db, gateway, each.port),
        )
        for each in own
    )


def _beside(db: Db, gateway: Ref, port: int) -> tuple[str, ...]:
    """The hostnames that listeners of other Gateways of its fleet have on a port, sorted."""
    fleet = fleet_of(db, gateway)
    if len(members(db, fleet)) == 1:
        return ()
    hostnames = _hostnames_on(db, fleet).get(port, {})
    return tuple(hostname for hostname, owners in hostnames.items() if owners - {gateway})


@query
def _hostnames_on(db: Db, fleet: FleetId) -> Mapping[int, Mapping[str, frozenset[Ref]]]:
    """The hostnames on each port of a merged fleet, sorted, with the Gateways that have them."""
    by_port: dict[int, dict[str, set[Ref]]] = {}
    for each in all_last_judged(db, members(db, fleet)):
        if each.ready:
            by_port.setdefault(each.port, {}).setdefault(each.hostname, set()).add(each.id.gateway)
    return {
        port: {host: frozenset(of) for host, of in sorted(hosts.items())} for port, hosts in by_port.items()
    }


@query
def listener_at(db: Db, listener: ListenerId) -> Listener | None:
    """One listener, ``None`` when there is none of that name."""
    return next((each for each in listeners(db, listener.gateway) if each.id == listener), None)


@query
def namespace_labels(db: Db, namespace: str) -> tuple[tuple[str, str], ...]:
    """The labels of a namespace, sorted. A namespace that nobody declared has its name as its only label."""
    resource = get(db, Namespace, Ref.of(Namespace, "", namespace))
    return tuple(sorted(labels_of(resource, namespace).items()))


def labels_of(resource: Namespace | None, namespace: str) -> dict[str, str]:
    """The labels of a namespace that may not be declared."""
    labels = resource.metadata.labels if resource is not None else {}
    return labels | {NAMESPACE_LABEL: namespace}


def selects(db: Db, selector: LabelSelector, namespace: str) -> bool:
    """Whether a selector matches a namespace; it reads the namespace's labels."""
    return selector.selects(dict(namespace_labels(db, namespace)))


class _Draft:
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
        self.failure: Failed | None = None
        self.conditions: dict[str, tuple[str, str, str]] = {}

    @property
    def hostname(self) -> str:
        return self.spec.hostname or ""

    def set_condition(self, type_: str, status: str, reason: str, message: str) -> None:
        self.conditions[type_] = (status, reason, message)

    def fault(self, message: str, reason: str = "Invalid", type_: str = "Programmed") -> None:
        """The listener's own spec has a fault."""
        self.sound = False
        self.set_condition(type_, "False", reason, _unserved(message))

    def conflict(self, reason: str, message: str) -> None:
        """The listener cannot be served together with others."""
        self.set_condition("Conflicted", "True", reason, _unserved(message))


def _unserved(message: str) -> str:
    """What keeps a listener from being served, and what follows."""
    return Problem("", message).saying("The listener serves nothing until this is fixed.").message


def _judge_alone(db: Db, draft: _Draft, gateway: Gateway) -> None:
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
    _judge_tls(db, draft, gateway)
    if spec.protocol in ("TCP", "UDP") and spec.hostname is not None:
        draft.fault(f"A listener of protocol {spec.protocol} cannot have a hostname; it has {spec.hostname}.")


def _kinds(spec: ListenerSpec) -> tuple[str, ...] | None:
    """Kinds of routes that a listener's protocol allows; ``None`` for an unknown protocol."""
    if spec.protocol not in PROTOCOLS:
        return None
    return kinds_for(spec.protocol, passthrough=_passes_through(spec))


def _passes_through(spec: ListenerSpec) -> bool:
    return spec.protocol == "TLS" and spec.tls is not None and spec.tls.mode == "Passthrough"


def _chain_kind(protocol: str) -> ChainKind | None:
    match protocol:
        case "HTTP" | "HTTPS" | "TLS" | "TCP" | "UDP":
            return protocol
        case _:
            return None


def _judge_namespaces(draft: _Draft) -> None:
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


def _judge_kinds(draft: _Draft, allowed: tuple[str, ...]) -> None:
    wanted = draft.spec.allowed_routes.kinds
    if not wanted:
        draft.kinds = tuple((GATEWAY_GROUP, kind) for kind in allowed)
        return
    draft.kinds = tuple((k.group, k.kind) for k in wanted if k.group == GATEWAY_GROUP and k.kind in allowed)
    other = [f"{k.group}/{k.kind}" for k in wanted if (k.group, k.kind) not in draft.kinds]
    if other:
        message = (
            f"A listener of protocol {draft.spec.protocol} does not take {', '.join(other)}; "
            f"it takes {', '.join(allowed)} of {GATEWAY_GROUP}."
        )
        draft.fault(message, "InvalidRouteKinds", "ResolvedRefs")


def _judge_tls(db: Db, draft: _Draft, gateway: Gateway) -> None:
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
        _judge_clients(db, draft, gateway)


def _judge_clients(db: Db, draft: _Draft, gateway: Gateway) -> None:
    """Note what the listener asks of its clients; without a CA that can be used it is closed."""
    draft.clients = asked = client_validation(gateway, draft.spec.port)
    if asked is None:
        return
    problem = client_authorities_problem.attempt(db, asked.authorities)
    if isinstance(problem, Failed):
        draft.failure = problem
    elif problem is None:
        if (outdated := client_authorities_outdated(db, asked.authorities)) is not None:
            draft.client_faults = (outdated,)
            message = f"{outdated.path}: {outdated.message}"
            draft.set_condition("ResolvedRefs", "False", outdated.reason, message)
    else:
        draft.client_faults = (problem,)
        message = f"No certificate of a client can be checked: {problem.path}: {problem.message}"
        draft.fault(message, problem.reason, "ResolvedRefs")
        draft.fault(message, problem.reason)
        draft.fault(message, NO_AUTHORITY, "Accepted")


def _judge_certificates(db: Db, draft: _Draft) -> None:
    certificates = listener_certificates.attempt(db, draft.id)
    if isinstance(certificates, Failed):
        draft.failure = certificates
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


def _conflicts(db: Db, gateway: Ref, drafts: list[_Draft], shift: int) -> None:
    """Judge listeners against each other, and against those of older Gateways."""
    _protocol_conflicts(drafts)
    _hostname_conflicts(drafts)
    for protocol in ("TCP", "UDP"):
        _port_conflicts(d for d in drafts if d.spec.protocol == protocol)
    _shifted_port_conflicts(drafts, shift)
    _conflicts_with_older(db, gateway, drafts, shift)
    _ports_of_rivals(db, gateway, drafts)


def _protocol_conflicts(drafts: list[_Draft]) -> None:
    for port, sharing in _grouped(drafts, lambda d: d.spec.port).items():
        others = [d for d in sharing if d.spec.protocol != "UDP"]
        if len({_transport(d.spec.protocol) for d in others}) > 1:
            message = f"Port {port} is asked for with protocols that exclude each other, by {_named(others)}."
            for draft in others:
                draft.conflict("ProtocolConflict", message)


def _transport(protocol: str) -> str:
    """Listeners of different transports exclude each other. HTTPS and TLS do not: the hostname decides."""
    return "TLS" if protocol == "HTTPS" else protocol


def _hostname_conflicts(drafts: list[_Draft]) -> None:
    apart = [d for d in drafts if d.spec.protocol not in ("TCP", "UDP") and "Conflicted" not in d.conditions]
    for (port, hostname), sharing in _grouped(apart, lambda d: (d.spec.port, d.hostname)).items():
        if len(sharing) > 1:
            message = (
                f"Port {port} has several listeners for hostname {hostname or '(any)'}: {_named(sharing)}."
            )
            for draft in sharing:
                draft.conflict("HostnameConflict", message)


def _conflicts_with_older(db: Db, gateway: Ref, drafts: list[_Draft], shift: int) -> None:
    """Refuse what an older Gateway has already that shares the same Envoys."""
    gateways = members(db, fleet_of(db, gateway))
    older = gateways[: gateways.index(gateway)] if gateway in gateways else ()
    taken = [each for each in all_last_judged(db, older) if each.ready]
    for draft in drafts:
        spec, port = draft.spec, _container_port(draft.spec.port, shift)
        for other in taken if "Conflicted" not in draft.conditions else ():
            if other.container_port != port or (other.protocol == "UDP") is not (spec.protocol == "UDP"):
                continue
            alike = _transport(other.protocol) == _transport(spec.protocol) and other.port == spec.port
            if alike and spec.protocol not in ("TCP", "UDP") and other.hostname != draft.hostname:
                continue
            reason = (
                "HostnameConflict" if alike and other.protocol not in ("TCP", "UDP") else "ProtocolConflict"
            )
            message = f"{other.id.owner} is older and has the same place, with its listener {other.id.name}."
            draft.conflict(reason, message)


def _ports_of_rivals(db: Db, gateway: Ref, drafts: list[_Draft]) -> None:
    """Refuse the ports of this machine that belong to older Gateways with Envoys of their own."""
    for draft in drafts:
        if draft.conditions.keys() & {"Conflicted", "Accepted"}:
            continue
        port, udp = draft.spec.port, draft.spec.protocol == "UDP"
        holder = next(
            (
                other
                for claim in rivals(db, gateway, port)
                for other in _opened_by(db, claim)
                if other.port == port and (other.protocol == "UDP") is udp
            ),
            None,
        )
        if holder is not None:
            message = (
                f"Port {port} of this machine belongs to listener {holder.id.name} of {holder.id.owner}, "
                "which comes first by age, then by namespace and name. Requests to the port reach that "
                "Gateway, and nothing listens here until it gives the port up. Set another port, or let one "
                "Envoy serve both Gateways (mergeGateways)."
            )
            draft.set_condition("Accepted", "False", "PortUnavailable", message)
            draft.set_condition("Programmed", "False", "PortUnavailable", message)


def _opened_by(db: Db, claim: Claim) -> Iterator[Listener]:
    """The listeners of a Gateway that its Envoys open, or keep open while it is rejected or not judged."""
    judged = listeners.last_good(db, claim.gateway)
    if isinstance(judged, Failed) or keeps_what_it_has(db, claim.fleet):
        judged = unjudged.attempt(db, claim.gateway)
    return (each for each in (() if isinstance(judged, Failed) else judged) if each.ready and each.chain_kind)


def _port_conflicts(drafts: Iterable[_Draft]) -> None:
    for port, (first, *later) in _grouped(drafts, lambda d: d.spec.port).items():
        for draft in later:
            message = f"Port {port} is taken by listener {first.id.name}, of the same protocol."
            draft.conflict("ProtocolConflict", message)


def _shifted_port_conflicts(drafts: list[_Draft], shift: int) -> None:
    """80 and 10080 are one port to Envoy where privileged ports are shifted; the first in the spec has it."""
    taken: dict[tuple[bool, int], int] = {}
    for draft in drafts:
        if "Conflicted" in draft.conditions:
            continue
        port = draft.spec.port
        at = _container_port(port, shift)
        other = taken.setdefault((draft.spec.protocol == "UDP", at), port)
        if other != port:
            message = (
                f"Envoy would listen on port {at} for it, as it does for a listener of port {other} already."
            )
            draft.set_condition("Accepted", "False", "PortUnavailable", message)
            draft.set_condition("Programmed", "False", "PortUnavailable", message)


def _conclude(draft: _Draft) -> None:
    """Fill in the conditions that follow from the others."""
    reasons = {type_: reason for type_, (_, reason, _) in draft.conditions.items()}
    partly = draft.sound and reasons.keys() == {"ResolvedRefs"}
    closed = reasons == {"ResolvedRefs": "InvalidCertificateRef"}
    if not reasons or partly or closed:
        draft.set_condition("Accepted", "True", "Accepted", "The listener is valid.")
    if not reasons and draft.failure is not None:
        _conclude_failed(draft, draft.failure)
    elif not reasons or partly:
        draft.ready = True
        draft.set_condition("Programmed", "True", "Programmed", "The listener is sent to Envoy.")
    elif "Programmed" not in reasons:
        draft.set_condition("Programmed", "False", "Invalid", "Not served; the other conditions say why.")
    if "ResolvedRefs" not in draft.conditions:
        draft.set_condition("ResolvedRefs", "True", "ResolvedRefs", "All references can be used.")


def _conclude_failed(draft: _Draft, failure: Failed) -> None:
    """Envoy keeps what it has of a listener that could not be judged."""
    message = (
        f"moongate failed to judge the certificates of this listener (failure {failure.id} in its log). "
        "Until that is mended, Envoy keeps what it has of it."
    )
    draft.ready = True
    draft.set_condition("Programmed", "False", "InternalError", message)
    draft.set_condition("ResolvedRefs", "Unknown", "InternalError", message)


_ORDER = ("Accepted", "Programmed", "ResolvedRefs", "Conflicted")


def _listener(draft: _Draft, generation: int, shift: int) -> Listener:
    where = draft.spec.allowed_routes.namespaces
    return Listener(
        id=draft.id,
        protocol=draft.spec.protocol,
        chain_kind=_chain_kind(draft.spec.protocol),
        port=draft.spec.port,
        container_port=_container_port(draft.spec.port, shift),
        hostname=draft.hostname,
        kinds=draft.kinds,
        from_=where.from_,
        selector=where.selector,
        conditions=tuple(_conditions(draft, generation)),
        ready=draft.ready,
        passthrough=_passes_through(draft.spec),
        certificate_faults=draft.certificate_faults,
        sans=draft.sans,
        has_unknown_certificate=draft.has_unknown_certificate,
        clients=draft.clients,
        client_faults=draft.client_faults,
    )


def _conditions(draft: _Draft, generation: int) -> Iterator[Condition]:
    for type_ in _ORDER:
        if type_ in draft.conditions:
            status, reason, message = draft.conditions[type_]
            yield Condition(
                type=type_, status=status, reason=reason, message=message, observed_generation=generation
            )


def _shift(db: Db, gateway: Ref) -> int:
    """What is added to privileged ports: an unprivileged Envoy behind a Service cannot bind them."""
    custom = config(db).provider.custom
    if custom is not None and custom.infrastructure is not None:
        return 0
    provider = fleet_proxy(db, fleet_of(db, gateway)).spec.provider
    kubernetes = provider.kubernetes if provider is not None else None
    kept = kubernetes is not None and kubernetes.use_listener_port_as_container_port
    return 0 if kept else _PORT_SHIFT


def _container_port(port: int, shift: int) -> int:
    return port + shift if port < 1024 else port


def _named(drafts: Iterable[_Draft]) -> str:
    return ", ".join(sorted(d.id.name for d in drafts))


def _grouped(drafts: Iterable[_Draft], key: Callable[[_Draft], K]) -> dict[K, list[_Draft]]:
    groups: dict[K, list[_Draft]] = defaultdict(list)
    for draft in drafts:
        groups[key(draft)].append(draft)
    return groups


def passes_through(db: Db, listener: ListenerId) -> bool:
    """Whether a listener passes TLS on as it is."""
    own = last_judged_at(db, listener)
    return own is not None and own.passthrough
