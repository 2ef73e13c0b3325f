"""A policy of one plaintext listener never changes its neighbours."""

from __future__ import annotations

from moongate.api.base import GATEWAY_GROUP, ListenerId, ObjectMeta, Ref, Resource
from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.gateway import Gateway, GatewayClass, GatewayClassSpec, GatewaySpec, Listener
from moongate.api.policy import PolicyTargetReference
from moongate.attach.gateways import CLASSES, GATEWAYS
from moongate.attach.grants import GRANTS
from moongate.attach.policies import SELECTORS, TARGETS
from moongate.engine import Db
from moongate.policies.client_traffic_policy import ClientTrafficPolicy, ClientTrafficPolicySpec
from moongate.policies.http_listeners import port_conflict
from moongate.store import Index, PartedIndex, Store

GATEWAY = Ref.of(Gateway, "default", "gateway")


def gateway(**ports: int) -> Gateway:
    """A Gateway with a plaintext listener per name, each with a hostname of its own."""
    listeners = tuple(
        Listener(name=name, port=port, protocol="HTTP", hostname=f"{name}.example.com")
        for name, port in ports.items()
    )
    return Gateway(
        metadata=ObjectMeta(name="gateway", namespace="default"),
        spec=GatewaySpec(gateway_class_name="moongate", listeners=listeners),
    )


def policy(section: str | None) -> ClientTrafficPolicy:
    target = PolicyTargetReference(group=GATEWAY_GROUP, kind="Gateway", name="gateway", section_name=section)
    return ClientTrafficPolicy(
        metadata=ObjectMeta(name="clients", namespace="default"),
        spec=ClientTrafficPolicySpec(target_refs=(target,)),
    )


def world(*resources: Resource) -> Db:
    ours = GatewayClass(
        metadata=ObjectMeta(name="moongate"), spec=GatewayClassSpec(controller_name=CONTROLLER_NAME)
    )
    targets = Index(TARGETS.name, (ClientTrafficPolicy,), TARGETS.entries)
    selectors = PartedIndex(SELECTORS.name, (ClientTrafficPolicy,), SELECTORS.entries)
    db = Db()
    store = Store(db, (CLASSES, GATEWAYS, GRANTS, targets, selectors))
    store.apply({r.ref: r for r in (ours, *resources)})
    return db


def test_a_policy_of_one_listener_among_several_of_a_port_is_refused() -> None:
    db = world(gateway(a=8080, b=8080), policy("a"))
    problem = port_conflict(db, ListenerId(GATEWAY, GATEWAY, "a"))

    assert problem is not None
    assert "shares its port, and so its connections, with default/gateway/b" in problem.message


def test_its_neighbour_has_no_conflict_of_its_own() -> None:
    db = world(gateway(a=8080, b=8080), policy("a"))

    assert port_conflict(db, ListenerId(GATEWAY, GATEWAY, "b")) is None


def test_a_policy_of_a_listener_alone_on_its_port_holds() -> None:
    db = world(gateway(a=8080, b=8081), policy("a"))

    assert port_conflict(db, ListenerId(GATEWAY, GATEWAY, "a")) is None


def test_a_policy_of_the_whole_gateway_holds_for_all_listeners_of_a_port() -> None:
    db = world(gateway(a=8080, b=8080), policy(None))

    assert port_conflict(db, ListenerId(GATEWAY, GATEWAY, "a")) is None
