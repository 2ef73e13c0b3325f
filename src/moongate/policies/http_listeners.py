"""The ClientTrafficPolicies of listeners that share a port of Envoy.

Theory of operation
===================
Plaintext connections to one port cannot be distinguished before their first request, so all HTTP listeners of
a port share one filter chain with one connection manager. A setting there applies to all of them or to none.
A policy of the whole Gateway applies to all listeners of its Gateway. A policy of one listener among several
is refused (``port_conflict``), and so is any policy where a listener of another Gateway shares the port: it
takes no effect on that listener, and requests are still served.

Besides, Envoy has some settings once for a port, whatever filter chains are on it (``Feature.listener``).
If several policies have such a setting, the oldest one wins, and the statuses of the others say so
(``setting_conflict``). If listeners of several Gateways share the port, no policy sets them: a policy never
changes what belongs to another Gateway.

Source: the reference for listeners that share a chain; it lets the first listener decide about the port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate import names
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import fleet_of
from moongate.attach.policies import applied_to_listener, winner
from moongate.engine import query
from moongate.features.base import ListenerFacts
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.effective import effective_gateway_policy, effective_listener_policy
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.wire import Encoded, encode

if TYPE_CHECKING:
    from moongate.api.base import ListenerId, Ref
    from moongate.attach.envoy_listeners import EnvoyListener
    from moongate.engine import Db
    from moongate.policies.effective import EffectivePolicy

CTP: Final = ClientTrafficPolicy.KIND

BUFFER_LIMIT: Final = 32 * 1024
"""How many bytes Envoy buffers per connection before it stops reading."""


def _defaults() -> Listener:
    return Listener(
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        # Accepted connections are spread over the workers, instead of one worker taking a burst.
        max_connections_to_accept_per_socket_event=UInt32Value(value=1),
    )


DEFAULTS: Final = encode(_defaults())
"""The settings of a port if no policy has any: a part of an encoded ``Listener``."""


class PortSettings(Encoded, frozen=True):
    """The settings that Envoy has once for a port.

    Args:
        body: a part of an encoded ``Listener``.
        owner: the policy that sets them, if there is one.
    """

    body: bytes = DEFAULTS
    owner: Ref | None = None


def _sharing(db: Db, listener: ListenerId) -> tuple[ListenerId, ...]:
    """The other listeners whose connections Envoy takes by the same filter chain."""
    envoy = _envoy_listener(db, listener)
    for group in envoy.groups if envoy is not None else ():
        if listener in group.members:
            return tuple(member for member in group.members if member != listener)
    return ()


@query
def port_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why the ClientTrafficPolicy of a listener cannot hold for it; ``None`` when it can."""
    others = _sharing(db, listener)
    strangers = [other for other in others if other.gateway != listener.gateway]
    if strangers:
        if applied_to_listener(db, CTP, listener) is None:
            return None
        others, advice = tuple(strangers), "Give each Gateway a port of its own."
    elif not others or winner(db, CTP, listener.owner, listener.name) is None:
        return None
    else:
        advice = "Target the Gateway, or give each a port."
    sharers = ", ".join(names.listener(other) for other in others)
    return Problem(
        "spec.targetRefs",
        f"Listener {names.listener(listener)} shares its port, and so its connections, with {sharers}; a "
        "ClientTrafficPolicy for one of them would hold for all. So it has no effect there, and requests are "
        f"served without it. {advice}",
    )


@query
def setting_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why a part of a listener's ClientTrafficPolicy is not in force on its port; ``None`` if all is."""
    policy, envoy = client_policy(db, listener), _envoy_listener(db, listener)
    if policy is None or envoy is None:
        return None
    settings = port_settings(db, envoy)
    wanted = _on_port(policy)
    if wanted in (DEFAULTS, settings.body):
        return None
    path = ", ".join(
        f"spec.{feature.field}" for feature, _ in policy.features() if feature.listener is not None
    )
    if settings.owner is not None:
        why = f"there {settings.owner}, which came before this policy, sets them"
    else:
        strangers = [m for m in envoy.members if m.gateway != listener.gateway]
        why = f"that port is shared with {', '.join(map(names.listener, strangers))} of another Gateway"
    message = (
        f"Envoy has some of these settings, such as limits of buffers, once for port {envoy.container_port}, "
        f"and {why}. So they are not in force for listener {names.listener(listener)}; the rest is."
    )
    return Problem(path, message, "Conflicted")


def port_settings(db: Db, envoy: EnvoyListener) -> PortSettings:
    """The settings that an Envoy listener has once for all filter chains."""
    if _is_shared(envoy.members):
        return PortSettings()
    wanted: list[tuple[tuple[str, str, str], PortSettings]] = []
    for group in envoy.groups:
        policy = chain_policy(db, group.members)
        if policy is not None and (body := _on_port(policy)) != DEFAULTS:
            resource = get(db, ClientTrafficPolicy, policy.owner)
            assert resource is not None, "an effective policy exists"
            wanted.append((resource.age, PortSettings(body, policy.owner)))
    return min(wanted, key=lambda each: each[0])[1] if wanted else PortSettings()


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
def listener_failed(db: Db, listener: ListenerId) -> bool:
    """Whether a listener's own policy cannot be built. It may be the one that controls access."""
    policy = client_policy(db, listener)
    return policy is not None and policy.failed


@query
def listener_facts(db: Db, listener: ListenerId) -> ListenerFacts:
    """The values of a listener's policy that routes need."""
    policy, facts = client_policy(db, listener), ListenerFacts()
    for feature, effective in policy.features() if policy is not None else ():
        if feature.listener_facts is not None:
            facts = feature.listener_facts(facts, effective.value)
    return facts


def _envoy_listener(db: Db, listener: ListenerId) -> EnvoyListener | None:
    fleet = fleet_of(db, listener.gateway)
    return next((each for each in envoy_listeners(db, fleet) if listener in each.members), None)


def _is_shared(members: tuple[ListenerId, ...]) -> bool:
    """Whether listeners are of several Gateways."""
    return any(member.gateway != members[0].gateway for member in members)


def _on_port(policy: EffectivePolicy) -> bytes:
    """The settings of a port if only this policy sets them."""
    message = _defaults()
    for feature, effective in policy.features():
        if feature.listener is not None:
            feature.listener(message, effective)
    return encode(message)
