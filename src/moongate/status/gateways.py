"""Statuses of Gateways, GatewayClasses and EnvoyProxies.

Theory of operation
===================
``gateway_status`` has the part that follows from resources: the listeners with their conditions, and the
reason if the Gateway is rejected. The state of Envoys is not an input of queries. ``live`` adds it just
before a status is shown or written.

Source: Gateway API, ``GatewayStatus``; Envoy Gateway, ``EnvoyProxyStatus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from moongate.api.base import GATEWAY_GROUP, Condition, Ref
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.backend_tls import gateway_certificate
from moongate.attach.client_validation import (
    ClientAuthorities,
    client_authorities_problem,
    validations,
)
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import (
    PROXY_USERS,
    class_proxy,
    managed,
    managed_classes,
    proxy_problems,
    rejection,
)
from moongate.attach.listener_conflicts import PORT_UNAVAILABLE
from moongate.attach.listener_sets import owners_of
from moongate.attach.listeners import LISTENERS_NOT_VALID, listeners
from moongate.attach.routes import attached_counts
from moongate.attach.tls_overlaps import overlap
from moongate.engine import query
from moongate.problem import Problem
from moongate.status.conditions import accepted, condition, sentence, summary, unsupported
from moongate.status.supported_features import VERSION, supported_features
from moongate.store import find, get
from moongate.xds.telemetry import telemetry_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moongate.attach.listeners import Listener
    from moongate.engine import Db

MAX_ADDRESSES: Final = 16
"""The most addresses that a Gateway's status lists."""


STAYS_AS_IT_WAS: Final = (
    "Until it takes the listener, it is served without access logs and traces, if that is what is wrong; "
    "otherwise what was in force of it stays so, and a new one serves nothing."
)
"""What happens to the requests of a listener that Envoy refuses."""


class SupportedKind(Struct, frozen=True, kw_only=True, rename="camel"):
    """A kind of route that a listener accepts."""

    group: str
    kind: str


class ListenerStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status.listeners[]``."""

    name: str
    supported_kinds: tuple[SupportedKind, ...]
    attached_routes: int
    conditions: tuple[Condition, ...]


class Address(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status.addresses[]``."""

    type: str = "IPAddress"
    value: str


class GatewayStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``status`` of a Gateway."""

    addresses: tuple[Address, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()
    attached_listener_sets: int = 0


class SupportedFeature(Struct, frozen=True, kw_only=True):
    """A feature of the Gateway API that Gateways of a class have."""

    name: str


class GatewayClassStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status`` of a GatewayClass."""

    conditions: tuple[Condition, ...]
    supported_features: tuple[SupportedFeature, ...] = ()


class AncestorRef(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The GatewayClass or Gateway to which a status entry of an EnvoyProxy belongs."""

    group: str
    kind: str
    namespace: str = ""
    name: str


class ProxyAncestor(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status.ancestors[]`` of an EnvoyProxy."""

    ancestor_ref: AncestorRef
    conditions: tuple[Condition, ...]


class EnvoyProxyStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status`` of an EnvoyProxy."""

    ancestors: tuple[ProxyAncestor, ...]


class RefusedListener(NamedTuple):
    """A listener that Envoy refuses.

    Args:
        name: the name of the listener.
        reason: the reason of its condition: ``PortUnavailable`` if its port cannot be bound, else
            ``Invalid``.
        message: why Envoy refuses it.
    """

    name: str
    reason: str
    message: str


class SharedPort(NamedTuple):
    """A port of UDP that another Envoy has open as well.

    Args:
        name: the name of the listener.
        message: which Envoy, and how long.
    """

    name: str
    message: str


class EnvoyState(Struct, frozen=True, kw_only=True):
    """The state of a Gateway's Envoys.

    Args:
        serving: how many have their configuration and accept connections.
        replicas: how many there should be.
        start_error: why an Envoy could not be started; empty if all could.
        late: why it is not known whether they have their newest configuration; empty if they have it.
        addresses: their addresses.
        refusals: the reasons of Envoys that refuse a part; the last good version of the part stays in force.
        refused_listeners: the refused listeners.
        unopened: the listeners of which no Envoy has acknowledged the newest version, although there
            was time for it.
        shared_ports: the listeners of which another Envoy has the port of UDP open as well.
    """

    serving: int
    replicas: int = 1
    start_error: str = ""
    late: str = ""
    addresses: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    refused_listeners: tuple[RefusedListener, ...] = ()
    unopened: tuple[str, ...] = ()
    shared_ports: tuple[SharedPort, ...] = ()


@query
def gateway_status(db: Db, gateway: Ref) -> GatewayStatus | None:
    """The status of a Gateway without the state of its Envoys; ``None`` if another controller owns it."""
    resource = get(db, Gateway, gateway)
    if resource is None or not managed(db, gateway):
        return None
    generation = resource.metadata.generation
    problem = rejection(db, gateway)
    if problem is not None:
        return GatewayStatus(conditions=(accepted([problem], generation),))
    problems = [of_envoy_proxy(each) for each in telemetry_problems(db, fleet_of(db, gateway))]
    return GatewayStatus(
        conditions=(
            *((accepted(problems, generation),) if problems else ()),
            *_resolved(db, resource),
            *_insecure(db, resource),
            *unsupported(resource),
        ),
        listeners=listener_statuses(db, gateway),
        attached_listener_sets=sum(_are_accepted(db, owners_of(db, [gateway])[1:])),
    )


def of_envoy_proxy(problem: Problem) -> Problem:
    """A problem of an EnvoyProxy, as the status of a Gateway reports it."""
    message = f"{problem.path} of the EnvoyProxy: {problem.message}"
    return structs.replace(problem, message=message)


def listener_statuses(db: Db, owner: Ref) -> tuple[ListenerStatus, ...]:
    """The listeners of a Gateway or ListenerSet without the state of Envoys."""
    attached = attached_counts(db, owner)
    return tuple(
        ListenerStatus(
            name=each.id.name,
            supported_kinds=tuple(SupportedKind(group=group, kind=kind) for group, kind in each.kinds),
            attached_routes=attached.get(each.id, 0),
            conditions=tuple(_listener_conditions(db, each)),
        )
        for each in listeners(db, owner)
    )


def _are_accepted(db: Db, sets: Sequence[Ref]) -> Iterator[bool]:
    """Whether each of some ListenerSets is accepted; not if that is not known."""
    answers = _is_accepted.attempt_each(db, [(each,) for each in sets])
    return (answer is True for answer in answers)


@query
def _is_accepted(db: Db, listener_set: Ref) -> bool:
    conditions = (each.conditions for each in listeners(db, listener_set))
    return any(c.type == "Accepted" and c.status == "True" for some in conditions for c in some)


def _listener_conditions(db: Db, listener: Listener) -> Iterator[Condition]:
    generation = max((each.observed_generation for each in listener.conditions), default=0)
    for each in listener.conditions:
        yield structs.replace(each, message=sentence(each.message))
    if listener.protocol == "HTTPS" and (overlaps := overlap(db, listener.id)) is not None:
        yield condition("OverlappingTLSConfig", "True", overlaps.reason, overlaps.message, generation)


def _resolved(db: Db, gateway: Gateway) -> tuple[Condition, ...]:
    """Whether the references of ``spec.tls`` lead somewhere; nothing if that is not set."""
    generation = gateway.metadata.generation
    if gateway.spec.tls is None:
        return ()
    problems: list[Problem] = []
    reason = ""
    for place, _, _ in validations(gateway):
        problem = client_authorities_problem(db, ClientAuthorities(gateway.ref, place))
        if problem is not None:
            reason = "InvalidParameters"
            problems.append(
                problem.saying("Until this is fixed, the HTTPS listeners that need it serve nothing.")
            )
    certificate = gateway_certificate(db, gateway.ref)
    if isinstance(certificate, Problem):
        reason = certificate.reason
        problems.append(certificate.saying("Until this is fixed, no certificate is shown to backends."))
    if problems:
        return (condition("ResolvedRefs", "False", reason, summary(problems), generation),)
    message = "All references of spec.tls are resolved."
    return (condition("ResolvedRefs", "True", "ResolvedRefs", message, generation),)


def _insecure(db: Db, gateway: Gateway) -> tuple[Condition, ...]:
    """Whether clients pass without a certificate that is valid, although certificates are asked for."""
    effect = "Clients pass with any certificate, or none."
    problems = [
        Problem(f"{path}.mode", f"It is {validation.mode}. {effect}")
        for place, path, validation in validations(gateway)
        if validation.mode == "AllowInsecureFallback"
        and client_authorities_problem(db, ClientAuthorities(gateway.ref, place)) is None
    ]
    if not problems:
        return ()
    type_, generation = "InsecureFrontendValidationMode", gateway.metadata.generation
    return (condition(type_, "True", "ConfigurationChanged", summary(problems), generation),)


@query
def class_status(db: Db, gateway_class: Ref) -> GatewayClassStatus | None:
    """The status of a GatewayClass; ``None`` if another controller owns it."""
    resource = get(db, GatewayClass, gateway_class)
    if resource is None or gateway_class not in managed_classes(db):
        return None
    _, problems = class_proxy(db, gateway_class.name)
    generation = resource.metadata.generation
    message = "The GatewayClass is served by this controller."
    read = f"moongate reads version {VERSION} of the Gateway API, in its standard and experimental channels."
    return GatewayClassStatus(
        conditions=(
            accepted(problems, generation, message=message),
            condition("SupportedVersion", "True", "SupportedVersion", read, generation),
        ),
        supported_features=tuple(SupportedFeature(name=name) for name in supported_features(db)),
    )


@query
def proxy_status(db: Db, envoy_proxy: Ref) -> EnvoyProxyStatus | None:
    """The status of an EnvoyProxy: one entry for each of our GatewayClasses and Gateways that refers to it.

    ``None`` if there is none. Gateways that use it only through their class have no entry.
    """
    resource = get(db, EnvoyProxy, envoy_proxy)
    if resource is None:
        return None
    ancestors = [
        ref
        for ref in find(db, PROXY_USERS, envoy_proxy)
        if (managed(db, ref) if ref.is_a(Gateway) else ref in managed_classes(db))
    ]
    if not ancestors:
        return None
    generation = resource.metadata.generation
    conditions = [accepted(proxy_problems(db, envoy_proxy), generation, message="The EnvoyProxy is valid.")]
    conditions += unsupported(resource)
    deprecated = getattr(resource.spec, "lua_validation", None) is not None
    if deprecated:
        message = "spec.luaValidation: The field is deprecated: write spec.lua.validationType."
        conditions.append(condition("Warning", "True", "DeprecatedField", message, generation))
    return EnvoyProxyStatus(
        ancestors=tuple(
            ProxyAncestor(
                ancestor_ref=AncestorRef(
                    group=GATEWAY_GROUP, kind=ref.kind, namespace=ref.namespace, name=ref.name
                ),
                conditions=tuple(conditions),
            )
            for ref in ancestors
        )
    )


def live(status: GatewayStatus, gateway: Gateway, envoys: EnvoyState) -> GatewayStatus:
    """A Gateway's status with the state of its Envoys: addresses, ``Accepted`` and ``Programmed``.

    A listener that Envoy refuses is accepted, but not programmed. A Gateway is programmed if it is accepted
    and at least one of its listeners is programmed: with ``mergeGateways`` an Envoy may serve other Gateways
    only. If the status has ``Programmed`` already, because a query failed, that condition stays.

    Args:
        status: the status that follows from resources.
        gateway: the Gateway.
        envoys: the state of its Envoys.
    """
    conditions = {c.type: c for c in status.conditions}
    generation = gateway.metadata.generation
    conditions.setdefault("Accepted", _accepted(status, generation))
    listeners = tuple(as_in_envoy(each, envoys, generation) for each in status.listeners)
    programmed = _programmed(conditions["Accepted"], gateway, listeners, envoys)
    conditions.setdefault("Programmed", programmed)
    return structs.replace(
        status,
        addresses=tuple(Address(value=a) for a in envoys.addresses[:MAX_ADDRESSES]),
        conditions=tuple(conditions.values()),
        listeners=listeners,
    )


def as_in_envoy(listener: ListenerStatus, envoys: EnvoyState, generation: int) -> ListenerStatus:
    """A listener's status with the state of Envoys."""
    refused = next((r for r in envoys.refused_listeners if r.name == listener.name), None)
    if refused is not None:
        message = refused.message
        if refused.reason != PORT_UNAVAILABLE:
            message = f"Envoy refuses the listener: {sentence(message)} {STAYS_AS_IT_WAS}"
        programmed = condition("Programmed", "False", refused.reason, message, generation)
        return _not_programmed(listener, programmed)
    if is_true(listener, "Programmed") and (not envoys.serving or listener.name in envoys.unopened):
        message = "No Envoy has this listener in force; the condition Programmed of the Gateway says why."
        return _not_programmed(listener, condition("Programmed", "False", "Pending", message, generation))
    shared = " ".join(each.message for each in envoys.shared_ports if each.name == listener.name)
    if shared:
        port_shared = condition("PortShared", "True", "Draining", shared, generation)
        return structs.replace(listener, conditions=(*listener.conditions, port_shared))
    return listener


def _not_programmed(listener: ListenerStatus, programmed: Condition) -> ListenerStatus:
    conditions = tuple(programmed if c.type == "Programmed" else c for c in listener.conditions)
    return structs.replace(listener, conditions=conditions)


def _accepted(status: GatewayStatus, generation: int) -> Condition:
    refused = sorted(each.name for each in status.listeners if not is_true(each, "Accepted"))
    if not refused:
        return condition(
            "Accepted", "True", "Accepted", "The Gateway is served by this controller.", generation
        )
    some = len(refused) < len(status.listeners)
    message = f"{'Not valid, so not served' if some else 'No listener is valid'}: {', '.join(refused)}."
    return condition("Accepted", str(some), LISTENERS_NOT_VALID, message, generation)


def is_true(listener: ListenerStatus, type_: str) -> bool:
    """Whether a listener has a condition that is True."""
    return any(c.type == type_ and c.status == "True" for c in listener.conditions)


def is_pending(listener: ListenerStatus) -> bool:
    """Whether a listener is not programmed because its Envoy is not ready."""
    return any(c.type == "Programmed" and c.reason == "Pending" for c in listener.conditions)


def _is_unservable(listener: ListenerStatus) -> bool:
    """Whether a listener is not programmed, and not because its Envoy is not ready."""
    return any(
        c.type == "Programmed" and c.status == "False" and c.reason != "Pending" for c in listener.conditions
    )


def _programmed(
    accepted: Condition, gateway: Gateway, listeners: tuple[ListenerStatus, ...], envoys: EnvoyState
) -> Condition:
    generation = gateway.metadata.generation
    if any(a.type == "Hostname" for a in gateway.spec.addresses):
        message = "spec.addresses asks for a hostname, which cannot be assigned."
        return condition("Programmed", "False", "AddressNotUsable", message, generation)
    if envoys.refusals:
        message = f"Envoy refuses a part of it: {' '.join(map(sentence, envoys.refusals))}"
        return condition("Programmed", "False", "Invalid", message, generation)
    if envoys.start_error:
        message = (
            f"Envoy could not be started: {sentence(envoys.start_error)} "
            "moongate tries again, and does so at once when its options in the EnvoyProxy change."
        )
        return condition("Programmed", "False", "NoResources", message, generation)
    if envoys.late:
        return condition("Programmed", "False", "Pending", sentence(envoys.late), generation)
    if accepted.status == "False" and not envoys.serving:
        message = "The Gateway is not accepted, so no Envoy was started for it."
        return condition("Programmed", "False", "Invalid", message, generation)
    if all(_is_unservable(each) for each in listeners):
        if listeners:
            message = f"None of its listeners is programmed: {', '.join(each.name for each in listeners)}."
        elif accepted.status == "False":
            message = "The Gateway is not accepted, so its listeners are not programmed as they are written."
        else:
            message = "The Gateway has no listener."
        return condition("Programmed", "False", "Invalid", message, generation)
    if not envoys.addresses:
        message = "The Gateway has no address yet."
        return condition("Programmed", "False", "AddressNotAssigned", message, generation)
    if not envoys.serving:
        message = f"None of {envoys.replicas} Envoy(s) accepts connections yet."
        return condition("Programmed", "False", "NoResources", message, generation)
    message = f"{envoys.serving} of {envoys.replicas} Envoy(s) accept connections."
    if len(envoys.addresses) > MAX_ADDRESSES:
        message += f" Of {len(envoys.addresses)} addresses, the first {MAX_ADDRESSES} are listed."
    return condition("Programmed", "True", "Programmed", message, generation)
