"""Statuses of Gateways, GatewayClasses and EnvoyProxies.

Theory of operation
===================
``gateway_status`` is what the translation knows: the listeners with their conditions, and why a Gateway is
rejected. Whether Envoy runs, and where, is no input of a query; ``live`` adds such facts just before a status
is shown or written.

Source: Gateway API, ``GatewayStatus``; Envoy Gateway, ``EnvoyProxyStatus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from moongate.api.base import GATEWAY_GROUP, Condition, Ref
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.fleets import access_log_problem, fleet_of
from moongate.attach.gateways import (
    PROXY_USERS,
    class_proxy,
    managed,
    managed_classes,
    proxy_problems,
    rejection,
)
from moongate.attach.listeners import listeners
from moongate.attach.routes import attached_count
from moongate.engine import query
from moongate.status.conditions import accepted, condition, sentence, unsupported
from moongate.store import find, get

if TYPE_CHECKING:
    from moongate.engine import Db

MAX_ADDRESSES: Final = 16
"""Addresses that a Gateway's status may list."""


class SupportedKind(Struct, frozen=True, kw_only=True, rename="camel"):
    """A kind of route that a listener takes."""

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


class GatewayClassStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status`` of a GatewayClass."""

    conditions: tuple[Condition, ...]


class AncestorRef(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The GatewayClass or Gateway that an EnvoyProxy is judged for."""

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
    """A listener that Envoy did not take.

    Args:
        name: of the listener.
        reason: of its condition: ``PortUnavailable`` when its port cannot be bound, else ``Invalid``.
        message: why.
    """

    name: str
    reason: str
    message: str


class EnvoyState(Struct, frozen=True, kw_only=True):
    """What is known of a Gateway's Envoys.

    Args:
        serving: Envoys that have their configuration and take traffic.
        wanted: Envoys that there should be.
        trouble: why an Envoy could not be started; empty when all could.
        addresses: where they are reached.
        refusals: what Envoy said of configuration or ports that it did not take; the last good one is served.
        refused_listeners: the listeners among them.
    """

    serving: int
    wanted: int = 1
    trouble: str = ""
    addresses: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    refused_listeners: tuple[RefusedListener, ...] = ()


@query
def gateway_status(db: Db, gateway: Ref) -> GatewayStatus | None:
    """The status of a Gateway as far as the translation knows it; ``None`` when it is not ours."""
    resource = get(db, Gateway, gateway)
    if resource is None or not managed(db, gateway):
        return None
    generation = resource.metadata.generation
    problem = rejection(db, gateway)
    if problem is not None:
        return GatewayStatus(conditions=(accepted([problem], generation),))
    problem = access_log_problem(db, fleet_of(db, gateway))
    return GatewayStatus(
        conditions=(
            *((accepted([problem], generation),) if problem is not None else ()),
            *unsupported(resource),
        ),
        listeners=tuple(
            ListenerStatus(
                name=each.id.name,
                supported_kinds=tuple(SupportedKind(group=group, kind=kind) for group, kind in each.kinds),
                attached_routes=attached_count(db, each.id),
                conditions=tuple(structs.replace(c, message=sentence(c.message)) for c in each.conditions),
            )
            for each in listeners(db, gateway)
        ),
    )


@query
def class_status(db: Db, gateway_class: Ref) -> GatewayClassStatus | None:
    """The status of a GatewayClass; ``None`` when it is not ours."""
    resource = get(db, GatewayClass, gateway_class)
    if resource is None or gateway_class not in managed_classes(db):
        return None
    _, problems = class_proxy(db, gateway_class.name)
    message = "The GatewayClass is served by this controller."
    return GatewayClassStatus(conditions=(accepted(problems, resource.metadata.generation, message=message),))


@query
def proxy_status(db: Db, envoy_proxy: Ref) -> EnvoyProxyStatus | None:
    """The status of an EnvoyProxy, one entry for each GatewayClass or Gateway of ours that names it.

    ``None`` when there is none. Gateways that only inherit it from their class have no entry.
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
    conditions = [
        accepted(proxy_problems(db, envoy_proxy), generation, message="The EnvoyProxy is in force.")
    ]
    conditions += unsupported(resource)
    deprecated = getattr(resource.spec, "lua_validation", None) is not None
    if deprecated:
        message = "spec.luaValidation is deprecated; use spec.lua.validationType."
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


def live(status: GatewayStatus, spec: Gateway, facts: EnvoyState) -> GatewayStatus:
    """A Gateway's status with what is known of its Envoys: addresses, ``Accepted`` and ``Programmed``.

    A listener that Envoy did not take is valid, and not programmed. What the translation says of
    ``Programmed`` stays: that a part of it failed.

    Args:
        status: what the translation knows.
        spec: the Gateway that it is about.
        facts: what is known of its Envoys.
    """
    conditions = {c.type: c for c in status.conditions}
    generation = spec.metadata.generation
    conditions.setdefault("Accepted", _accepted(status, generation))
    conditions.setdefault("Programmed", _programmed(conditions["Accepted"], spec, facts))
    return structs.replace(
        status,
        addresses=tuple(Address(value=a) for a in facts.addresses[:MAX_ADDRESSES]),
        conditions=tuple(conditions.values()),
        listeners=tuple(_as_taken(each, facts, generation) for each in status.listeners),
    )


def _as_taken(listener: ListenerStatus, facts: EnvoyState, generation: int) -> ListenerStatus:
    refused = next((r for r in facts.refused_listeners if r.name == listener.name), None)
    if refused is None:
        return listener
    programmed = condition("Programmed", "False", refused.reason, refused.message, generation)
    conditions = tuple(programmed if c.type == "Programmed" else c for c in listener.conditions)
    return structs.replace(listener, conditions=conditions)


def _accepted(status: GatewayStatus, generation: int) -> Condition:
    refused = sorted(each.name for each in status.listeners if not _is_true(each, "Accepted"))
    if not refused:
        return condition(
            "Accepted", "True", "Accepted", "The Gateway is served by this controller.", generation
        )
    some = len(refused) < len(status.listeners)
    message = f"{'Not valid, so not served' if some else 'No listener is valid'}: {', '.join(refused)}."
    return condition("Accepted", str(some), "ListenersNotValid", message, generation)


def _is_true(listener: ListenerStatus, type_: str) -> bool:
    return any(c.type == type_ and c.status == "True" for c in listener.conditions)


def _programmed(accepted: Condition, spec: Gateway, facts: EnvoyState) -> Condition:
    generation = spec.metadata.generation
    if any(a.type == "Hostname" for a in spec.spec.addresses):
        message = "spec.addresses asks for a hostname, which cannot be assigned."
        return condition("Programmed", "False", "AddressNotUsable", message, generation)
    if facts.refusals:
        message = f"Envoy did not take all of it: {' '.join(map(sentence, facts.refusals))}"
        return condition("Programmed", "False", "Invalid", message, generation)
    if facts.trouble:
        message = (
            f"Envoy could not be started: {sentence(facts.trouble)} "
            "It is tried again, at once when its options in the EnvoyProxy change."
        )
        return condition("Programmed", "False", "NoResources", message, generation)
    if accepted.status == "False" and not facts.serving:
        message = "The Gateway is not accepted, so no Envoy was started for it."
        return condition("Programmed", "False", "Invalid", message, generation)
    if not facts.addresses:
        message = "The Gateway has no address yet."
        return condition("Programmed", "False", "AddressNotAssigned", message, generation)
    if not facts.serving:
        message = f"None of {facts.wanted} Envoy(s) takes traffic yet."
        return condition("Programmed", "False", "NoResources", message, generation)
    message = f"{facts.serving} of {facts.wanted} Envoy(s) take traffic."
    if len(facts.addresses) > MAX_ADDRESSES:
        message += f" Of {len(facts.addresses)} addresses, the first {MAX_ADDRESSES} are listed."
    return condition("Programmed", "True", "Programmed", message, generation)
