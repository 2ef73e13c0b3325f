"""A policy of one plaintext listener never changes its neighbours."""

from __future__ import annotations

import pytest

from moongate.api.base import GATEWAY_GROUP, ListenerId, ObjectMeta, Ref, Resource
from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.gateway import Gateway, GatewayClass, GatewayClassSpec, GatewaySpec, Listener
from moongate.api.listenerset import ListenerSet
from moongate.api.policy import PolicyTargetReference
from moongate.attach.gateways import CLASSES, GATEWAYS
from moongate.attach.grants import GRANTS
from moongate.attach.policies import SELECTORS, TARGETS
from moongate.engine import Db
from moongate.policies.client_traffic_policy import ClientTrafficPolicy, ClientTrafficPolicySpec
from moongate.policies.http_listeners import port_conflict
from moongate.store import Index, PartedIndex, Store
from tests.core import EG, Core, allowing, http, https, listener_set, tls_secret
from tests.core import gateway as core_gateway
from tests.core import policy as core_policy

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


def shared_port(*targets: str) -> dict[str, str]:
    """What is refused, as ``owner/listener``, of policies on one port of a Gateway and two of its sets.

    The Gateway has the listeners ``g`` and ``h`` there, the set ``ext`` has ``a``, ``b`` and, alone on a port
    of its own, ``own``; the set ``ext-b``, whose name begins with that of the other, has ``c``.
    """
    core = Core(
        core_gateway(http("g", "g.test"), http("h", "h.test"), allowedListeners=allowing("All")),
        listener_set(http("a", "a.test"), http("b", "b.test"), http("own", "own.test", 90), name="ext"),
        listener_set(http("c", "c.test"), name="ext-b"),
        *(
            core_policy("ClientTrafficPolicy", "path: {disableMergeSlashes: true}", name=f"p{n}", target=each)
            for n, each in enumerate(targets)
        ),
    )
    refused: dict[str, str] = {}
    for owner, names in ((EG, "gh"), (EXT, ("a", "b", "own")), (EXT_B, "c")):
        for name in names:
            problem = port_conflict(core.db, ListenerId(EG, owner, name))
            if problem is not None:
                refused[f"{owner.name}/{name}"] = problem.message
    return refused


EXT, EXT_B = (Ref.of(ListenerSet, "default", name) for name in ("ext", "ext-b"))


@pytest.mark.parametrize(
    ("targets", "refused"),
    [
        (("Gateway/eg",), set[str]()),
        (("Gateway/eg/g",), {"eg/g"}),
        (("ListenerSet/ext",), {"ext/a", "ext/b"}),
        (("ListenerSet/ext-b",), {"ext-b/c"}),
        (("ListenerSet/ext/own",), set[str]()),
        (("ListenerSet/ext/a",), {"ext/a"}),
        (("Gateway/eg", "ListenerSet/ext"), {"ext/a", "ext/b"}),
        (("Gateway/eg", "Gateway/eg/h", "ListenerSet/ext-b/c"), {"eg/h", "ext-b/c"}),
    ],
)
def test_only_a_policy_of_the_whole_gateway_holds_on_a_port_that_its_sets_share(
    targets: tuple[str, ...], refused: set[str]
) -> None:
    assert set(shared_port(*targets)) == refused


def test_a_policy_of_a_set_holds_on_a_port_of_this_set_alone() -> None:
    core = Core(
        core_gateway(http("g", "g.test", 81), allowedListeners=allowing("All")),
        listener_set(http("a", "a.test"), http("b", "b.test"), name="ext"),
        core_policy("ClientTrafficPolicy", "path: {}", target="ListenerSet/ext"),
    )

    assert [port_conflict(core.db, ListenerId(EG, EXT, name)) for name in "ab"] == [None, None]


def test_a_refusal_names_those_who_share_the_port_and_not_those_of_the_same_set() -> None:
    message = shared_port("ListenerSet/ext")["ext/a"]

    assert "default/eg/g" in message
    assert "ext-b/c" in message
    assert "ext/b" not in message.replace("ext-b", "")


def test_tls_listeners_of_a_port_have_chains_of_their_own() -> None:
    core = Core(
        tls_secret("cert", "x.test"),
        core_gateway(https("a", "cert", hostname="a.test"), https("b", "cert", hostname="b.test")),
        core_policy("ClientTrafficPolicy", "path: {}", target="Gateway/eg/a"),
    )

    assert port_conflict(core.db, ListenerId(EG, EG, "a")) is None
