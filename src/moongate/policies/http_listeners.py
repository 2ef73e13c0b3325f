"""Whether a ClientTrafficPolicy can apply to a plaintext HTTP listener that shares its port with others.

Theory of operation
===================
Plaintext connections to one port cannot be distinguished before their first request, so all HTTP listeners of
a port share one filter chain with one connection manager. A setting there applies to all of them or to none.
A policy of the whole Gateway applies to all. A policy of one listener among several is refused: neither it
nor a wider policy takes effect on that listener, and requests are still served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate import names
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import fleet_of
from moongate.attach.policies import winner
from moongate.engine import query
from moongate.features.base import ListenerFacts
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.effective import effective_listener_policy
from moongate.problem import Problem

if TYPE_CHECKING:
    from moongate.api.base import ListenerId
    from moongate.engine import Db
    from moongate.policies.effective import EffectivePolicy


@query
def sharing(db: Db, listener: ListenerId) -> tuple[ListenerId, ...]:
    """The other listeners whose connections Envoy takes by the same filter chain."""
    for envoy in envoy_listeners(db, fleet_of(db, listener.gateway)):
        for group in envoy.groups:
            if listener in group.members:
                return tuple(member for member in group.members if member != listener)
    return ()


@query
def port_conflict(db: Db, listener: ListenerId) -> Problem | None:
    """Why the ClientTrafficPolicy that names a listener cannot hold for it; ``None`` when it can."""
    if winner(db, ClientTrafficPolicy.KIND, listener.owner, listener.name) is None:
        return None
    others = sharing(db, listener)
    if not others:
        return None
    sharers = ", ".join(names.listener(other) for other in others)
    return Problem(
        "spec.targetRefs",
        f"Listener {names.listener(listener)} shares its port, and so its connections, with {sharers}; a "
        "ClientTrafficPolicy for one of them would hold for all. Target the Gateway, or give each a port.",
    )


def client_policy(db: Db, listener: ListenerId) -> EffectivePolicy | None:
    """The ClientTrafficPolicy of a listener, if it is in force there."""
    policy = effective_listener_policy(db, ClientTrafficPolicy.KIND, listener)
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
