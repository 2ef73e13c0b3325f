"""The listeners of Gateways and ListenerSets: which routes each may serve, and why one is not served.

Theory of operation
===================
Listeners are judged by their *owner*, a Gateway or a ListenerSet, in two rounds. Each is judged by itself
(``judged_alone``). Then those of a Gateway and of all its ListenerSets that have no fault are judged against
each other (protocols, hostnames and ports that clash), ``conflicts``. ``attachable`` is the part that a
route's attachment depends on, and no more. How ready listeners share Envoy's is decided in
``envoy_listeners``, and which of them a client may take for each other is seen in ``tls_overlaps``.

Rules
=====
1. A listener with a fault of its own takes no part in conflicts, so a sound one is served beside it.
2. A listener is *ready* when it is ``Programmed``; only then does it reach Envoy. Routes attach to it all the
   same, and are counted.
3. Who wins where listeners clash is said in ``listener_conflicts``.
4. Of two Gateways with Envoys of their own on this machine, the older one has the port (``host_ports``).

Source: Gateway API, ``Listener``, and GEP-1713 (ListenerSets); the reference for reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, structs

from moongate.api.base import Condition, ListenerId, Ref
from moongate.api.shared import LabelSelector
from moongate.attach.fleets import fleet_of, keeps_what_it_has, members
from moongate.attach.gateways import config, fleet_proxy
from moongate.attach.host_ports import rivals
from moongate.attach.judged_alone import Draft, judged_alone, passes_tls_on, unserved
from moongate.attach.listener_conflicts import (
    HOSTNAME,
    PORT_UNAVAILABLE,
    PROTOCOL,
    Conflict,
    Place,
    called,
    container_port,
    transport,
)
from moongate.attach.listener_conflicts import conflicts as conflicts_among
from moongate.attach.listener_sets import (
    owners,
    owners_of,
    owners_of_each,
    serving_gateway,
    written_listeners,
)
from moongate.engine import Failed, query
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moongate.api.base import FleetId, Resource
    from moongate.api.gateway import Listener as ListenerSpec
    from moongate.attach.client_validation import ClientValidation
    from moongate.attach.host_ports import Claim
    from moongate.engine import Db

ChainKind = Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
"""What the filter chains of a listener are made of; those of UDP have none, but a listener filter."""
HTTP_CHAINS: Final[tuple[ChainKind, ...]] = ("HTTP", "HTTPS")
"""The kinds with a route configuration."""

SECURE: Final[tuple[ChainKind, ...]] = ("HTTPS", "TLS")
"""The kinds whose connections are told apart by the hostname in the TLS handshake."""

LISTENERS_NOT_VALID: Final = "ListenersNotValid"
"""The reason of a Gateway or ListenerSet with listeners that are not valid, and of such ones of a set."""

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
        shut: whether its connections are ended, as its clients cannot be checked: a wider listener of another
            Gateway, which may ask for less, must not get them.
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
    shut: bool = False


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
    """

    id: ListenerId
    protocol: str
    port: int
    hostname: str
    kinds: tuple[tuple[str, str], ...]
    from_: str
    selector: LabelSelector | None


@query
def listeners(db: Db, owner: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway or a ListenerSet, in the order of its spec.

    Empty if another controller serves it, or if its Gateway is rejected or does not allow the set.
    """
    gateway = serving_gateway(db, owner)
    if gateway is None:
        return ()
    lost = conflicts(db, gateway) if owner == gateway else _conflicts_of_set(db, gateway, owner)
    drafts = [Draft.of(judged) for judged in judged_alone(db, owner)]
    for draft in drafts:
        if draft.id in lost:
            _lose(draft, lost[draft.id])
        _conclude(draft)
    resource: Resource | None = db.read(owner)
    generation = resource.metadata.generation if resource is not None else 0
    shift = _shift(db, gateway)
    return tuple(_listener(draft, generation, shift) for draft in drafts)


@query
def places(db: Db, owner: Ref) -> tuple[Place, ...]:
    """What the listeners of an owner ask for that have no fault of their own."""
    return tuple(_place(each.id, each.spec) for each in judged_alone(db, owner) if each.sound)


@query
def places_written(db: Db, gateway: Ref, owner: Ref) -> tuple[Place, ...]:
    """What the listeners of a Gateway or of a set of it ask for, sound or not."""
    specs = written_listeners(db, gateway, owner)
    return tuple(_place(ListenerId(gateway, owner, spec.name), spec) for spec in specs)


def _place(listener: ListenerId, spec: ListenerSpec) -> Place:
    return Place(listener, spec.protocol, spec.port, spec.hostname or "")


@query
def conflicts(db: Db, gateway: Ref) -> Mapping[ListenerId, Conflict]:
    """The listeners of a Gateway and of its ListenerSets that cannot be served together with others.

    The others are of the same Gateway, of an older one that shares its Envoys, or of an older one that shares
    this machine. While listeners cannot be judged, those last judged count, or those that are written.
    """
    of = owners(db, gateway)
    candidates: list[Place] = []
    for owner, judged in zip(of, places.attempt_each(db, [(owner,) for owner in of]), strict=True):
        judged_last = places.last_good(db, owner) if isinstance(judged, Failed) else judged
        if isinstance(judged_last, Failed) or any(place.id.gateway != gateway for place in judged_last):
            judged_last = places_written.attempt(db, gateway, owner)
        candidates += () if isinstance(judged_last, Failed) else judged_last
    return _all_conflicts(db, gateway, candidates)


@query
def _conflicts_by_owner(db: Db, gateway: Ref) -> Mapping[Ref, Mapping[ListenerId, Conflict]]:
    """``conflicts`` by owner: each of thousands of ListenerSets reads only its own."""
    by_owner: dict[Ref, dict[ListenerId, Conflict]] = {}
    for listener, conflict in conflicts(db, gateway).items():
        by_owner.setdefault(listener.owner, {})[listener] = conflict
    return by_owner


@query
def _conflicts_of_set(db: Db, gateway: Ref, listener_set: Ref) -> Mapping[ListenerId, Conflict]:
    """The ``conflicts`` of one ListenerSet."""
    return _conflicts_by_owner(db, gateway).get(listener_set, {})


def last_judged(db: Db, gateway: Ref, owner: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway or of a set of it, for queries that join all Gateways of its fleet.

    While they cannot be judged, they are as they were before. If they never were judged, they keep the ports
    and hostnames that are written: nothing is served there, but no other listener takes these over.
    """
    judged = _last_good_of(db, gateway, owner)
    if judged is not None:
        return judged
    if is_alone.attempt(db, gateway) is True:
        return listeners(db, owner)  # This fails. The fleet has no other listeners that must go on.
    places = unjudged.attempt(db, gateway, owner)
    return () if isinstance(places, Failed) else places


def _last_good_of(db: Db, gateway: Ref, owner: Ref) -> tuple[Listener, ...] | None:
    """The listeners of an owner as last judged; ``None`` if never, or as those of another Gateway."""
    judged = listeners.last_good(db, owner)
    # All of them were judged as those of one Gateway.
    if isinstance(judged, Failed) or any(each.id.gateway != gateway for each in judged[:1]):
        return None
    return judged


def last_judged_at(db: Db, listener: ListenerId) -> Listener | None:
    """One of these listeners; ``None`` when its owner has none of that name."""
    own = last_judged(db, listener.gateway, listener.owner)
    return next((each for each in own if each.id == listener), None)


def all_last_judged(db: Db, gateways: Sequence[Ref]) -> list[Listener]:
    """The listeners of many Gateways and of their ListenerSets, as ``last_judged`` has them.

    One that is not judged now may have a place of another. Envoy would refuse the two, so it is not ready.
    """
    each_of = zip(gateways, owners_of_each(db, gateways), strict=True)
    of = [(gateway, owner) for gateway, own in each_of for owner in own]
    judged = listeners.attempt_each(db, [(owner,) for _, owner in of])
    if not any(isinstance(each, Failed) for each in judged):
        return [listener for own in judged if not isinstance(own, Failed) for listener in own]
    by_owner = [
        last_judged(db, *at) if isinstance(own, Failed) else own for at, own in zip(of, judged, strict=True)
    ]
    lost = _clashes(by_owner, [not isinstance(own, Failed) for own in judged])
    return [
        structs.replace(each, ready=False) if each.id in lost else each for own in by_owner for each in own
    ]


def _clashes(by_owner: Sequence[tuple[Listener, ...]], is_certain: Sequence[bool]) -> set[ListenerId]:
    """The ready listeners of some owners that cannot be served beside others.

    Those that are judged now go first.
    """
    in_order = sorted(zip(is_certain, by_owner, strict=True), key=lambda owner: not owner[0])
    ready = [each for _, own in in_order for each in own if each.ready]
    candidates = [Place(each.id, each.protocol, each.container_port, each.hostname) for each in ready]
    return set(conflicts_among(candidates, 0))


@query
def unjudged(db: Db, gateway: Ref, owner: Ref) -> tuple[Listener, ...]:
    """The listeners of a Gateway or of a set of it, judged by protocol, port and hostname alone."""
    specs = written_listeners(db, gateway, owner)
    drafts = [Draft(ListenerId(gateway, owner, spec.name), spec) for spec in specs]
    lost = _all_conflicts(db, gateway, [_place(draft.id, draft.spec) for draft in drafts])
    for draft in drafts:
        draft.ready = draft.id not in lost
    return tuple(_listener(draft, 0, _shift(db, gateway)) for draft in drafts)


@query
def attachable(db: Db, owner: Ref) -> tuple[Attachable, ...]:
    """What routes see of an owner's listeners, in the order of its spec."""
    return tuple(
        Attachable(each.id, each.protocol, each.port, each.hostname, each.kinds, each.from_, each.selector)
        for each in listeners(db, owner)
    )


@query
def fleet_owners(db: Db, fleet: FleetId) -> tuple[Ref, ...]:
    """The Gateways and ListenerSets whose listeners a fleet has."""
    return tuple(owners_of(db, members(db, fleet)))


@query
def is_alone(db: Db, gateway: Ref) -> bool:
    """Whether the listeners of a Gateway are all that its fleet has."""
    return len(members(db, fleet_of(db, gateway))) == 1 and owners_of(db, [gateway]) == [gateway]


def is_beside(db: Db, listener: ListenerId, port: int, hostname: str) -> bool:
    """Whether a listener of another owner has a hostname on a port of the same Envoys."""
    if is_alone(db, listener.gateway):
        return False
    holders = _holders(db, fleet_of(db, listener.gateway), port, hostname)
    return any(owner != listener.owner for owner in holders)


def was_beside(db: Db, listener: ListenerId, port: int, hostname: str) -> bool:
    """As ``is_beside``; while that fails, as it last was."""
    fleet = fleet_of.last_good(db, listener.gateway)
    if isinstance(fleet, Failed) or is_alone.attempt(db, listener.gateway) is True:
        return False
    holders = _holders.last_good(db, fleet, port, hostname)
    return not isinstance(holders, Failed) and any(owner != listener.owner for owner in holders)


@query
def _holders(db: Db, fleet: FleetId, port: int, hostname: str) -> tuple[Ref, ...]:
    """The owners of ready listeners with a hostname on a port, two at the most."""
    return _hostnames_on(db, fleet).get(port, {}).get(hostname, ())


@query
def _hostnames_on(db: Db, fleet: FleetId) -> Mapping[int, Mapping[str, tuple[Ref, ...]]]:
    """The hostnames on each port of a fleet, with the first two owners that have each."""
    judged = all_last_judged(db, members(db, fleet))
    secure = {each.port for each in judged if each.ready and each.chain_kind in SECURE}
    by_port: dict[int, dict[str, tuple[Ref, ...]]] = {}
    for each in judged:
        if each.ready or (each.shut and each.port in secure):
            of = by_port.setdefault(each.port, {})
            holders = of.get(each.hostname, ())
            if len(holders) < 2 and each.id.owner not in holders:
                of[each.hostname] = (*holders, each.id.owner)
    return by_port


@query
def listener_at(db: Db, listener: ListenerId) -> Listener | None:
    """One listener, ``None`` when there is none of that name."""
    return next((each for each in listeners(db, listener.owner) if each.id == listener), None)


def _chain_kind(protocol: str) -> ChainKind | None:
    match protocol:
        case "HTTP" | "HTTPS" | "TLS" | "TCP" | "UDP":
            return protocol
        case _:
            return None


def _all_conflicts(db: Db, gateway: Ref, candidates: Sequence[Place]) -> dict[ListenerId, Conflict]:
    """Judge listeners against each other, and against those of older Gateways."""
    shift = _shift(db, gateway)
    lost = conflicts_among(candidates, shift)
    lost |= _conflicts_with_older(db, gateway, [each for each in candidates if each.id not in lost], shift)
    lost |= _ports_of_rivals(db, gateway, [each for each in candidates if each.id not in lost])
    return lost


def _conflicts_with_older(
    db: Db, gateway: Ref, candidates: Sequence[Place], shift: int
) -> dict[ListenerId, Conflict]:
    """Refuse what an older Gateway has already that shares the same Envoys."""
    gateways = members(db, fleet_of(db, gateway))
    older = gateways[: gateways.index(gateway)] if gateway in gateways else ()
    if not older:
        return {}
    taken: dict[tuple[int, bool], list[Listener]] = {}
    for each in all_last_judged(db, older):
        if each.ready:
            taken.setdefault((each.container_port, each.protocol == "UDP"), []).append(each)
    lost: dict[ListenerId, Conflict] = {}
    for place in candidates:
        for other in taken.get((container_port(place.port, shift), place.protocol == "UDP"), ()):
            alike = transport(other.protocol) == transport(place.protocol) and other.port == place.port
            if alike and place.protocol not in ("TCP", "UDP") and other.hostname != place.hostname:
                continue
            of_hostname = alike and other.protocol not in ("TCP", "UDP")
            same = "port and hostname" if of_hostname else "port"
            message = f"{other.id.gateway} is older, and its listener {called(other.id)} has the same {same}."
            lost[place.id] = Conflict(HOSTNAME if of_hostname else PROTOCOL, message)
    return lost


def _ports_of_rivals(db: Db, gateway: Ref, candidates: Sequence[Place]) -> dict[ListenerId, Conflict]:
    """Refuse the ports of this machine that belong to older Gateways with Envoys of their own."""
    at_ports = dict.fromkeys((place.port, place.protocol == "UDP") for place in candidates)
    holders = {at: _holder_of_port(db, gateway, *at) for at in at_ports}
    lost: dict[ListenerId, Conflict] = {}
    for place in candidates:
        holder = holders[place.port, place.protocol == "UDP"]
        if holder is not None:
            message = (
                f"Port {place.port} of this machine belongs to listener {called(holder)} of "
                f"{holder.gateway}, which comes first by age, then by namespace and name. Requests to the "
                "port reach that Gateway, and nothing listens here until it gives the port up. Set another "
                "port, or let one Envoy serve both Gateways (mergeGateways)."
            )
            lost[place.id] = Conflict(PORT_UNAVAILABLE, message)
    return lost


def _holder_of_port(db: Db, gateway: Ref, port: int, udp: bool) -> ListenerId | None:
    """The listener of an older Gateway with Envoys of its own that has a port of this machine."""
    holders = (_opened_by(db, claim).get((port, udp)) for claim in rivals(db, gateway, port))
    return next((holder for holder in holders if holder is not None), None)


@query
def _opened_by(db: Db, claim: Claim) -> Mapping[tuple[int, bool], ListenerId]:
    """The ports that the Envoys of a Gateway open, or keep open while it is rejected or not judged.

    Each with the first listener there, and with whether it is UDP. Thousands of listeners look for theirs.
    """
    keeps = keeps_what_it_has(db, claim.fleet)
    opened: dict[tuple[int, bool], ListenerId] = {}
    for owner in owners_of(db, [claim.gateway]):
        judged = None if keeps else _last_good_of(db, claim.gateway, owner)
        if judged is None:
            judged = unjudged.attempt(db, claim.gateway, owner)
        for each in () if isinstance(judged, Failed) else judged:
            if each.ready and each.chain_kind:
                opened.setdefault((each.port, each.protocol == "UDP"), each.id)
    return opened


def _lose(draft: Draft, conflict: Conflict) -> None:
    """The listener cannot be served together with others."""
    message = conflict.message
    if conflict.reason != PORT_UNAVAILABLE:
        message = unserved(message)
        draft.set_condition("Conflicted", "True", conflict.reason, message)
        if not draft.of_set:
            return
    draft.set_condition("Accepted", "False", conflict.reason, message)
    draft.set_condition("Programmed", "False", conflict.reason, message)


def _conclude(draft: Draft) -> None:
    """Fill in the conditions that follow from the others."""
    reasons = {type_: reason for type_, (_, reason, _) in draft.conditions.items()}
    partly = draft.sound and reasons.keys() == {"ResolvedRefs"}
    closed = reasons == {"ResolvedRefs": "InvalidCertificateRef"}
    if not reasons or partly or closed:
        draft.set_condition("Accepted", "True", "Accepted", "The listener is valid.")
    if not reasons and draft.failure:
        _conclude_failed(draft)
    elif not reasons or partly:
        draft.ready = True
        draft.set_condition("Programmed", "True", "Programmed", "The listener is sent to Envoy.")
    elif "Programmed" not in reasons:
        draft.set_condition("Programmed", "False", "Invalid", "Not served; the other conditions say why.")
    if "ResolvedRefs" not in draft.conditions:
        draft.set_condition("ResolvedRefs", "True", "ResolvedRefs", "All references can be used.")
    if draft.of_set and draft.ready:
        draft.set_condition(
            "Conflicted", "False", "NoConflicts", "No other listener has the same port and hostname."
        )


def _conclude_failed(draft: Draft) -> None:
    """Envoy keeps what it has of a listener that could not be judged."""
    message = (
        f"moongate failed to judge the certificates of this listener (failure {draft.failure} in its log). "
        "Until that is mended, Envoy keeps what it has of it."
    )
    draft.ready = True
    draft.set_condition("Programmed", "False", "InternalError", message)
    draft.set_condition("ResolvedRefs", "Unknown", "InternalError", message)


_ORDER = ("Accepted", "Programmed", "ResolvedRefs", "Conflicted")


def _listener(draft: Draft, generation: int, shift: int) -> Listener:
    where = draft.spec.allowed_routes.namespaces
    return Listener(
        id=draft.id,
        protocol=draft.spec.protocol,
        chain_kind=_chain_kind(draft.spec.protocol),
        port=draft.spec.port,
        container_port=container_port(draft.spec.port, shift),
        hostname=draft.hostname,
        kinds=draft.kinds,
        from_=where.from_,
        selector=where.selector,
        conditions=tuple(_conditions(draft, generation)),
        ready=draft.ready,
        passthrough=passes_tls_on(draft.spec),
        certificate_faults=draft.certificate_faults,
        sans=draft.sans,
        has_unknown_certificate=draft.has_unknown_certificate,
        clients=draft.clients,
        client_faults=draft.client_faults,
        shut=bool(draft.client_faults) and not draft.ready,
    )


def _conditions(draft: Draft, generation: int) -> Iterator[Condition]:
    for type_ in _ORDER:
        if type_ in draft.conditions:
            status, reason, message = draft.conditions[type_]
            if draft.of_set and reason == "Invalid":
                reason = LISTENERS_NOT_VALID  # as the reference says it of the listeners of a set
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


def passes_through(db: Db, listener: ListenerId) -> bool:
    """Whether a listener passes TLS on as it is."""
    own = last_judged_at(db, listener)
    return own is not None and own.passthrough
