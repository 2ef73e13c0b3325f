"""The ClientTrafficPolicies of listeners that share a port of Envoy.

Theory of operation
===================
Plaintext connections to one port cannot be distinguished before their first request, so all HTTP listeners of
a port share one filter chain with one connection manager. A setting there applies to all of them or to none.
A policy of the whole Gateway applies to all listeners of its Gateway. A policy of one listener among several,
or of a ListenerSet among others, is refused (``port_conflict``), and so is any policy where a listener of
another Gateway shares the port: it takes no effect on that listener, and requests are still served.

Besides, Envoy has some settings once for a port, whatever filter chains are on it (``Feature.listener``).
If several policies have such a setting, the oldest one wins that setting, and the statuses of those that have
another value say so (``setting_conflict``). If listeners of several Gateways share the port, no policy sets
them: a policy never changes what belongs to another Gateway.

A hook changes a message, and does not say which fields it sets. So it is called with two messages that differ
in all fields: a field that is then equal in both was set, also one that was set to the default or removed.

Source: the reference for listeners that share a chain; it lets the first listener decide about the port.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate import names
from moongate.attach.client_validation import (
    PolicyAuthorities,
    client_authorities_refusal,
    refused_words,
)
from moongate.attach.envoy_listeners import envoy_listener, envoy_listeners, placement_of
from moongate.attach.fleets import age, fleet_of
from moongate.attach.listeners import SECURE, last_judged_at
from moongate.attach.policies import Target, applied_to_listener, level_of
from moongate.engine import Failed, query
from moongate.features import FEATURES
from moongate.features.base import ListenerFacts
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.effective import effective_gateway_policy, effective_listener_policy
from moongate.problem import Problem
from moongate.xds.wire import Encoded, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.attach.certificates import RefusedCertificate
    from moongate.attach.client_validation import ClientValidation
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db
    from moongate.features.base import Effective, Feature
    from moongate.policies.effective import EffectivePolicy, Settings

CTP: Final = ClientTrafficPolicy.KIND

BUFFER_LIMIT: Final = 32 * 1024
"""How many bytes Envoy buffers per connection before it stops reading."""


def _defaults() -> Listener:
    return Listener(
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        # Accepted connections are spread over the workers, instead of one worker taking a burst.
        max_connections_to_accept_per_socket_event=UInt32Value(value=1),
    )


_DEFAULTS: Final = encode(_defaults())

_UNLIKE: Final = encode(
    Listener(
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT + 1),
        max_connections_to_accept_per_socket_event=UInt32Value(value=2),
        listener_filters_timeout=Duration(seconds=1),
    )
)
"""Settings that all differ from ``_DEFAULTS``."""


class PortSettings(Encoded, frozen=True):
    """The settings that Envoy has once for a port.

    Args:
        body: a part of an encoded ``Listener``.
        owners: the policy that sets a field of ``Listener``, by the name of the field.
    """

    body: bytes = _DEFAULTS
    owners: Mapping[str, Ref] = MappingProxyType({})


def _sharing(db: Db, listener: ListenerId) -> tuple[ListenerId, ...]:
    """The other listeners whose connections Envoy takes by the same filter chain."""
    placement = placement_of(db, listener)
    return tuple(m for m in placement.group.members if m != listener) if placement is not None else ()


@query
def port_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why the ClientTrafficPolicy of a listener cannot apply to it; ``None`` when it can."""
    others = _sharing(db, listener)
    of_other_gateways = [other for other in others if other.gateway != listener.gateway]
    if of_other_gateways:
        if applied_to_listener(db, CTP, listener) is None:
            return None
        others, advice = tuple(of_other_gateways), "Give each Gateway a port of its own."
    else:
        # A policy of the whole Gateway applies to all of them, and one of a ListenerSet to those of the set.
        level = level_of(db, CTP, listener)
        if level is None or level == Target(listener.gateway, ""):
            return None
        others = tuple(each for each in others if level.section or each.owner != level.ref)
        if not others:
            return None
        advice = "Target the Gateway, or give each a port."
    sharers = ", ".join(names.listener(other) for other in others)
    return Problem(
        "spec.targetRefs",
        f"Listener {names.listener(listener)} shares its port, and so its connections, with {sharers}; a "
        "ClientTrafficPolicy for one of them would apply to all. So it has no effect there, and requests are "
        f"served without it. {advice}",
    )


@query
def setting_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why a part of a listener's ClientTrafficPolicy is not in force on its port; ``None`` if all is."""
    policy, placement = client_policy(db, listener), placement_of(db, listener)
    if policy is None or placement is None:
        return None
    envoy = placement.envoy
    settings = port_settings(db, fleet_of(db, listener.gateway), envoy.name)
    in_force = _fields(Listener.FromString(settings.body))
    paths: list[str] = []
    owners: set[Ref] = set()
    features = list(policy.features())
    lost = {name for name, value in _set_fields(features).items() if value != in_force.get(name)}
    for feature, effective in features if lost else ():
        own = lost.intersection(_set_fields([(feature, effective)]))
        paths += [policy.path(feature)] if own else []
        owners.update(settings.owners[name] for name in own if name in settings.owners)
    if not paths:
        return None
    if owners:
        one = len(owners) == 1
        listed = " and ".join(map(str, sorted(owners)))
        has, sets = ("has", "sets") if one else ("have", "set")
        why = f"there {listed}, which {has} precedence over this policy, {sets} them"
    else:
        of_other_gateways = [m for m in envoy.members if m.gateway != listener.gateway]
        why = (
            f"that port is shared with {', '.join(map(names.listener, of_other_gateways))} of another Gateway"
        )
    message = (
        f"Envoy has some of these settings, such as limits of buffers, once for port {envoy.container_port}, "
        f"and {why}. So they are not in force for listener {names.listener(listener)}; the rest is."
    )
    return Problem(", ".join(paths), message, "Conflicted")


@query
def port_settings(db: Db, fleet: FleetId, name: str) -> PortSettings:
    """The settings that an Envoy listener has once for all filter chains."""
    envoy = envoy_listener(db, fleet, name)
    if envoy is None or _is_shared(envoy.members):
        return PortSettings()
    asking: dict[tuple[Ref, ...], EffectivePolicy] = {}
    for group in envoy.groups:
        if (policy := chain_policy(db, group.members)) is not None:
            asking[policy.owner, *policy.parents] = policy
    fields = _fields(_defaults())
    owners: dict[str, Ref] = {}
    for policy in sorted(asking.values(), key=lambda policy: age(db, policy.owner)):
        for setting, value in _set_fields(list(policy.features())).items():
            if setting not in owners:
                owners[setting] = policy.owner
                fields[setting] = value
    body = encode(Listener(**{name: value for name, value in fields.items() if value is not None}))
    return PortSettings(body, owners)


def chain_policy(db: Db, members: tuple[ListenerId, ...]) -> EffectivePolicy | None:
    """The ClientTrafficPolicy of listeners that share a chain; none if they are of several Gateways.

    It is that of the first whose own is not refused, or else the Gateway's.
    """
    if _is_shared(members):
        return None
    for member in members:
        if port_conflict(db, member) is None:
            return effective_listener_policy(db, CTP, member)
    return effective_gateway_policy(db, CTP, members[0].gateway)


def client_policy(db: Db, listener: ListenerId) -> EffectivePolicy | None:
    """The ClientTrafficPolicy of a listener, if it is in force there."""
    policy = effective_listener_policy(db, CTP, listener)
    return policy if policy is not None and port_conflict(db, listener) is None else None


@query
def listener_faults(db: Db, listener: ListenerId) -> tuple[Problem, ...]:
    """What is wrong with the ClientTrafficPolicy of a listener there, and not on other listeners."""
    policy = client_policy(db, listener)
    if policy is None or not _looks_at_requests(db, listener):
        return ()
    return tuple(
        problem.under(policy.path(feature))
        for feature, effective in policy.features()
        if feature.check_listener is not None
        for problem in feature.check_listener(db, listener, effective.value)
    )


@query
def clients_of(db: Db, listener: ListenerId) -> ClientValidation | None:
    """What a listener asks of its clients, by its policy, or else by its Gateway; ``None`` for nothing."""
    judged = last_judged_at(db, listener)
    if judged is None or judged.chain_kind not in SECURE or judged.passthrough:
        return None
    validation, policy = judged.clients, client_policy(db, listener)
    for feature, effective in policy.settings() if policy is not None else ():
        if feature.clients is not None:
            validation = feature.clients(effective, validation)
            if validation is not None and policy is not None and feature.field in policy.faulty:
                validation = validation.shut()
    refused = _refused_authorities(db, listener, validation)
    return (
        validation.shut()
        if validation is not None and refused is not None and refused.before is None
        else validation
    )


@query
def http3_groups(db: Db, fleet: FleetId, name: str) -> tuple[ChainGroup, ...]:
    """The chains of an Envoy listener that have HTTP/3 as well: of each Gateway all for HTTPS, or none.

    Those of listeners that ask for certificates of clients are not among them.
    """
    envoy = envoy_listener(db, fleet, name)
    if envoy is None or envoy.is_udp or shares_udp(db, fleet, envoy.container_port):
        return ()
    # A port may be of several Gateways, and a failure at one of them must not concern the others.
    secure = [group for group in envoy.groups if group.kind == "HTTPS"]
    open_ = tuple(group for group in secure if clients_of.last_good(db, group.members[0]) is None)
    asking: set[Ref] = set()
    for group in open_:
        field = _http3_field.last_good(db, group.members[0])
        if field and not isinstance(field, Failed):
            asking.add(group.members[0].gateway)
    return tuple(group for group in open_ if group.members[0].gateway in asking)


@query
def shares_udp(db: Db, fleet: FleetId, container_port: int) -> bool:
    """Whether a listener of UDP has a port already."""
    return any(each.is_udp and each.container_port == container_port for each in envoy_listeners(db, fleet))


def http3_port(db: Db, listener: ListenerId) -> int:
    """The port at which clients reach a listener by HTTP/3; 0 if they do not."""
    judged = last_judged_at(db, listener)
    if judged is None or judged.chain_kind != "HTTPS" or (placement := placement_of(db, listener)) is None:
        return 0
    served = http3_groups(db, fleet_of(db, listener.gateway), placement.envoy.name)
    return judged.port if placement.group in served else 0


@query
def http3_dropped(db: Db, listener: ListenerId) -> bool:
    """Whether a listener's policy asks for HTTP/3, and the listener has none as it checks its clients."""
    return _http3_field(db, listener) != "" and clients_of(db, listener) is not None


@query
def http3_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why a listener has no HTTP/3 although its policy asks for it, and it checks no clients."""
    placement = placement_of(db, listener)
    field = _http3_field(db, listener)
    if placement is None or not field:
        return None
    port = placement.envoy.container_port
    if not shares_udp(db, fleet_of(db, listener.gateway), port):
        return None
    message = (
        f"HTTP/3 needs port {port} of UDP, where a listener of UDP is. So {names.listener(listener)} is "
        "served without HTTP/3."
    )
    return Problem(f"spec.{field}", message, "Conflicted")


def http3_without_tls(db: Db, governed: Sequence[ListenerId]) -> Problem | None:
    """Why nothing is served by HTTP/3 though a policy asks for it; ``None`` if it does not, or some may be.

    Args:
        db: where the listeners are.
        governed: the listeners that have their settings from the policy.
    """
    kinds = [judged.chain_kind for each in governed if (judged := last_judged_at(db, each)) is not None]
    field = next(filter(None, (_asked_http3(client_policy(db, each)) for each in governed)), "")
    if not field or not kinds or "HTTPS" in kinds:
        return None
    message = (
        "HTTP/3 is always encrypted, and this policy is for no listener of HTTPS here. So nothing is served "
        "by HTTP/3; add a listener with protocol HTTPS and a certificate."
    )
    return Problem(f"spec.{field}", message, "NoHTTPSListener")


@query
def _http3_field(db: Db, listener: ListenerId) -> str:
    """The field by which the policy of a listener of HTTPS asks for HTTP/3; "" if it does not."""
    judged = last_judged_at(db, listener)
    if judged is None or judged.chain_kind != "HTTPS":
        return ""
    return _asked_http3(client_policy(db, listener))


def _asked_http3(policy: EffectivePolicy | None) -> str:
    """The field by which a policy asks for HTTP/3; "" if it does not."""
    features = policy.features() if policy is not None else ()
    return next((feature.field for feature, _ in features if feature.http3), "")


@query
def authorities_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why Envoy does not check clients of a listener by the CAs of its policy; ``None`` if it does."""
    policy = client_policy(db, listener)
    for feature, effective in policy.features() if policy is not None else ():
        validation = feature.clients(effective, None) if feature.clients is not None else None
        refused = _refused_authorities(db, listener, validation)
        if refused is not None:
            effect = (
                f"So nobody passes who must show a certificate at {names.listener(listener)}."
                if refused.before is None
                else "Until it takes new ones, clients are checked by those before."
            )
            return Problem(f"spec.{feature.field}", f"{refused_words(refused)} {effect}")
    return None


def _refused_authorities(
    db: Db, listener: ListenerId, validation: ClientValidation | None
) -> RefusedCertificate | None:
    """Why Envoy refuses CAs that a policy names; those of Gateways are judged with the listener."""
    if validation is None or not isinstance(validation.authorities, PolicyAuthorities):
        return None
    return client_authorities_refusal(db, fleet_of(db, listener.gateway), validation.authorities)


@query
def listener_failed(db: Db, listener: ListenerId) -> bool:
    """Whether a listener's own policy cannot be built. It may be the one that controls access."""
    policy = client_policy(db, listener)
    if policy is None:
        return False
    if policy.failed and not _looks_at_requests(db, listener):
        # A fault in what is about requests alone, such as a header, means nothing to connections.
        of_requests = {f.field for f in FEATURES if f.kind == CTP and not f.shapes_connections}
        return not policy.faulty or not of_requests.issuperset(policy.faulty)
    return policy.failed or bool(listener_faults(db, listener))


def _looks_at_requests(db: Db, listener: ListenerId) -> bool:
    """Whether a listener takes requests, and not connections as they are."""
    placement = placement_of(db, listener)
    return placement is None or placement.group.has_table


@query
def listener_facts(db: Db, listener: ListenerId) -> ListenerFacts:
    """The values of a listener's policy that routes need."""
    return _facts(client_policy(db, listener))


@query
def chain_facts(db: Db, members: tuple[ListenerId, ...]) -> ListenerFacts:
    """The values of the policy of listeners that share a chain that its filters need."""
    return _facts(chain_policy(db, members))


def _facts(policy: EffectivePolicy | None) -> ListenerFacts:
    facts = ListenerFacts()
    for feature, effective in policy.features() if policy is not None else ():
        if feature.listener_facts is not None:
            facts = feature.listener_facts(facts, effective.value)
    return facts


@query
def listener_cluster_settings(db: Db, listener: ListenerId) -> Settings:
    """What a listener's policy says of the clusters of its routes."""
    return _of_clusters(client_policy(db, listener))


@query
def gateway_cluster_settings(db: Db, gateway: Ref) -> Settings:
    """What the policy of a whole Gateway says of the clusters that its rules share."""
    return _of_clusters(effective_gateway_policy(db, CTP, gateway))


def _of_clusters(policy: EffectivePolicy | None) -> Settings:
    features = policy.features() if policy is not None else ()
    return tuple(each for each in features if each[0].shapes_clusters)


def _is_shared(members: tuple[ListenerId, ...]) -> bool:
    """Whether listeners are of several Gateways."""
    return any(member.gateway != members[0].gateway for member in members)


def _set_fields(features: Sequence[tuple[Feature[Any], Effective[Any]]]) -> dict[str, Any]:
    """The fields of ``Listener`` that features of a policy set, by name; ``None`` if they remove it."""
    results: list[dict[str, Any]] = []
    for base in (_DEFAULTS, _UNLIKE):
        message = Listener.FromString(base)
        for feature, effective in features:
            if feature.listener is not None:
                feature.listener(message, effective)
        results.append(_fields(message))
    one, other = results
    candidates = dict.fromkeys((*_fields(Listener.FromString(_UNLIKE)), *other))
    return {name: other.get(name) for name in candidates if one.get(name) == other.get(name)}


def _fields(message: Listener) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}
