"""Filter chains and routes in step, over a World and Envoys that answer when a test says so: no process."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate import names
from moongate.api.base import FleetId, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.chain_transitions import ChainTransitions
from moongate.policies.security_policy import SecurityPolicy
from moongate.recent_versions import MOST_VERSIONS
from moongate.world import World
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE, SCOPE, XdsResource
from tests import worlds
from tests.core import ON_HOST, read

NAME = "default/eg/http"
"""Of the listener, of its chain and of its table."""
AUTH = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: SecurityPolicy
    metadata: {{name: {name}, namespace: default}}
    spec:
      targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r0}}]
      basicAuth: {{users: {{name: users}}, forwardUsernameHeader: {header}}}
"""
USERS = """
    apiVersion: v1
    kind: Secret
    metadata: {name: users, namespace: default}
    stringData: {.htpasswd: "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="}
"""
REFERENCE = EnvoyGateway()


class Fleet:
    """A World whose differences are handed out, and what Envoys of it would be sent."""

    def __init__(self, config: EnvoyGateway = ON_HOST) -> None:
        self.world = World(config)
        self.transitions = ChainTransitions(self.world, self._searched)
        self.searched: list[tuple[str, str]] = []
        """What the quarantine searches."""
        self.asked = 0
        """How often it was asked for that."""
        self.world.apply({each.ref: each for each in (*worlds.routes_with_services(1), *read(USERS))})
        self.settle()

    def _searched(self, _fleet: FleetId) -> list[tuple[str, str]]:
        self.asked += 1
        return self.searched

    def put(self, text: str, *gone: str) -> None:
        """Put a policy in force, take others out in the same batch, and hand out what differs."""
        batch: dict[Ref, Resource | None] = dict.fromkeys(Ref.of(SecurityPolicy, "default", n) for n in gone)
        self.world.apply(batch | {each.ref: each for each in read(text)})
        self.settle()

    def apply(self, resource: Resource) -> None:
        self.world.apply({resource.ref: resource})
        self.settle()

    def settle(self) -> None:
        changes = self.world.pull()
        if worlds.EG_FLEET in changes.fleets.values():
            self.transitions.start(worlds.EG_FLEET)
        of = NAME.rpartition("/")[0]
        self.transitions.handed_out(worlds.EG_FLEET, changes.put.get(of, ()), changes.gone.get(of, ()))
        if self.transitions.review():
            self.settle()

    def acknowledge(self, node: str, *types: str) -> None:
        """An Envoy takes what it should have, of some types, in the order of the stream."""
        for type_url in types:
            if self.transitions.acknowledged(worlds.EG_FLEET, node, type_url, NAME, self.version(type_url)):
                self.settle()

    def refuse(self, node: str) -> None:
        """An Envoy refuses the listener as it should have it."""
        if self.transitions.refused(worlds.EG_FLEET, node, NAME, self.version(LISTENER), "no"):
            self.settle()

    def version(self, type_url: str) -> str:
        resource = self.world.resource(worlds.EG_FLEET, type_url, NAME)
        assert resource is not None
        return resource.version

    def message(self, type_url: str, of: Any) -> Any:
        resource = self.world.resource(worlds.EG_FLEET, type_url, NAME)
        assert resource is not None
        return of.FromString(resource.body)

    def chain(self) -> set[str]:
        """The filters of the chain that carry configuration, as it is handed out."""
        manager = HttpConnectionManager()
        self.message(LISTENER, Listener).default_filter_chain.filters[-1].typed_config.Unpack(manager)
        names = {
            each.name for each in manager.http_filters if each.name.startswith("envoy.filters.http.basic")
        }
        return names - {"envoy.filters.http.basic_auth"}

    def routes(self) -> list[Any]:
        return list(self.message(ROUTE, RouteConfiguration).virtual_hosts[0].routes)

    def relied(self) -> set[str]:
        """The filters that routes name, as they are handed out."""
        return {name for route in self.routes() for name in route.typed_per_filter_config}


both = pytest.mark.parametrize("config", [ON_HOST, REFERENCE], ids=["stable", "reference"])


@both
def test_a_chain_grows_before_its_routes_switch_and_shrinks_after_them(config: EnvoyGateway) -> None:
    """Otherwise there would be moments in which a route relies on a filter that is not there."""
    fleet = Fleet(config)
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    before = fleet.chain()

    fleet.put(AUTH.format(name="two", header="x-two"), "one")

    after = fleet.relied()
    assert fleet.chain() == before | after
    fleet.acknowledge("a", LISTENER)
    assert fleet.chain() == before | after
    fleet.acknowledge("a", ROUTE)
    assert fleet.chain() == after
    assert before.isdisjoint(after)


@both
def test_a_filter_lingers_until_each_envoy_has_switched(config: EnvoyGateway) -> None:
    fleet = Fleet(config)
    fleet.put(AUTH.format(name="one", header="x-one"))
    for node in ("a", "b"):
        fleet.transitions.connected(worlds.EG_FLEET, node)
        fleet.acknowledge(node, LISTENER, ROUTE)
    before = fleet.chain()

    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    fleet.acknowledge("a", LISTENER, ROUTE)

    assert before < fleet.chain()
    fleet.acknowledge("b", LISTENER, ROUTE)
    assert before.isdisjoint(fleet.chain())


@pytest.mark.parametrize(
    ("searched", "waits"),
    [
        ((ROUTE, NAME), True),
        ((ROUTE, "default/other/http"), False),
        ((SCOPE, names.scope(NAME, "gone.example.com")), False),
        ((LISTENER, NAME), False),
        ((CLUSTER, NAME), False),
    ],
)
def test_a_filter_lingers_while_routes_of_its_chain_are_searched(
    searched: tuple[str, str], waits: bool
) -> None:
    """Meanwhile some of them stand in their last good form, which may rely on it."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    before = fleet.chain()
    fleet.searched = [searched]

    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    fleet.acknowledge("a", LISTENER, ROUTE)

    assert (before <= fleet.chain()) == waits
    fleet.searched = []
    fleet.settle()
    assert before.isdisjoint(fleet.chain())


def test_it_is_not_asked_of_each_part_of_a_table_whether_it_is_searched() -> None:
    """Thousands of parts are acknowledged one by one."""
    fleet = Fleet()
    parts = [XdsResource.of(SCOPE, names.scope(NAME, f"h{n}.example.com"), b"") for n in range(100)]
    fleet.transitions.handed_out(worlds.EG_FLEET, parts)
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    before, fleet.asked = fleet.chain(), 0

    fleet.acknowledge("a", LISTENER, ROUTE)
    for part in parts:
        fleet.transitions.acknowledged(worlds.EG_FLEET, "a", SCOPE, part.name, part.version)

    assert fleet.asked == 1
    fleet.settle()
    assert fleet.chain() < before


def test_nobody_waits_for_an_envoy_that_is_gone() -> None:
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    for node in ("a", "b"):
        fleet.acknowledge(node, LISTENER, ROUTE)
    before = fleet.chain()
    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    fleet.acknowledge("a", LISTENER, ROUTE)

    assert fleet.transitions.disconnected(worlds.EG_FLEET, "b")
    fleet.settle()

    assert before.isdisjoint(fleet.chain())


def test_nobody_waits_for_an_answer_that_was_lost_with_its_stream() -> None:
    """The Envoy says at its reconnect what it has, and is sent nothing."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    before = fleet.chain()
    fleet.put(AUTH.format(name="two", header="x-two"), "one")

    fleet.transitions.disconnected(worlds.EG_FLEET, "a")
    fleet.transitions.connected(worlds.EG_FLEET, "a again")
    assert before < fleet.chain()
    fleet.acknowledge("a again", LISTENER, ROUTE)

    assert before.isdisjoint(fleet.chain())


def test_an_answer_about_former_routes_ends_nothing() -> None:
    """It may come while the chain has still to be built anew."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    former = fleet.version(ROUTE)
    before = fleet.chain()

    fleet.world.apply({each.ref: each for each in read(AUTH.format(name="one", header="x-two"))})
    steps = fleet.world.settle()
    while fleet.chain() == before:
        next(steps)
        assert not fleet.transitions.acknowledged(worlds.EG_FLEET, "a", ROUTE, NAME, former)
    for _ in steps:
        assert not fleet.transitions.acknowledged(worlds.EG_FLEET, "a", ROUTE, NAME, former)
    fleet.settle()

    assert before < fleet.chain()


@both
def test_routes_are_closed_while_envoy_refuses_the_listener_with_their_filter(
    config: EnvoyGateway,
) -> None:
    """The chain that it keeps would let everybody pass."""
    fleet = Fleet(config)
    fleet.acknowledge("a", LISTENER, ROUTE)
    fleet.put(AUTH.format(name="one", header="x-one"))

    assert fleet.routes()[0].route.cluster
    fleet.refuse("a")

    assert {route.direct_response.status for route in fleet.routes()} == {500}
    fleet.acknowledge("a", LISTENER)
    assert fleet.routes()[0].route.cluster


def programmed(status: Any) -> list[str]:
    """The messages of a status that say what is not programmed."""
    (part,) = getattr(status, "parents", None) or status.ancestors
    return [each.message for each in part.conditions if each.type == "Programmed" and each.status == "False"]


@both
@pytest.mark.parametrize("target", ["kind: HTTPRoute, name: r0", "kind: Gateway, name: eg"])
def test_route_and_policy_say_so_while_envoy_refuses_the_listener_with_their_filter(
    config: EnvoyGateway, target: str
) -> None:
    """The route answers 500, and nobody would guess why."""
    fleet = Fleet(config)
    fleet.acknowledge("a", LISTENER, ROUTE)
    fleet.put(AUTH.format(name="one", header="x-one").replace("kind: HTTPRoute, name: r0", target))
    ours = [worlds.route(0).ref, Ref.of(SecurityPolicy, "default", "one")]
    assert [programmed(fleet.world.statuses()[each]) for each in ours] == [[], []]

    fleet.refuse("a")

    for each in ours:
        (message,) = programmed(fleet.world.statuses()[each])
        assert message.startswith(
            "Envoy refuses the listener 'http' of Gateway default/eg with a filter that SecurityPolicy "
            "default/one asks for: No."
        )
    fleet.acknowledge("a", LISTENER)
    assert [programmed(fleet.world.statuses()[each]) for each in ours] == [[], []]


def test_only_what_asks_for_a_missing_filter_says_so() -> None:
    fleet = Fleet()
    fleet.apply(worlds.route(1))
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    fleet.put(AUTH.format(name="two", header="x-two").replace("r0", "r1"))
    fleet.refuse("a")

    of = {each.name for each, status in fleet.world.statuses().items() if "Envoy refuses" in str(status)}
    assert of == {"r1", "two"}


def test_one_envoy_of_several_that_refuses_the_listener_is_enough_to_close_its_routes() -> None:
    fleet = Fleet(REFERENCE)
    for node in ("a", "b"):
        fleet.acknowledge(node, LISTENER, ROUTE)
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.refuse("a")

    fleet.acknowledge("b", LISTENER)

    assert {route.direct_response.status for route in fleet.routes()} == {500}
    assert fleet.transitions.disconnected(worlds.EG_FLEET, "a")
    fleet.settle()
    assert fleet.routes()[0].route.cluster


def test_routes_of_a_listener_that_never_was_need_not_be_closed() -> None:
    """Nobody can connect to it."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))

    fleet.refuse("a")

    assert fleet.routes()[0].route.cluster


def test_an_envoy_with_a_listener_that_nobody_remembers_is_taken_to_lack_its_filters() -> None:
    """It was away while the others went on, and refuses what it is to have: its former chain is in force."""
    fleet = Fleet()
    former = fleet.version(LISTENER)
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("b", LISTENER, ROUTE)

    fleet.transitions.acknowledged(worlds.EG_FLEET, "a", LISTENER, NAME, former)
    fleet.refuse("a")

    assert {route.direct_response.status for route in fleet.routes()} == {500}


def test_a_fleet_that_ends_leaves_nothing_behind() -> None:
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    fleet.refuse("a")

    fleet.transitions.end(worlds.EG_FLEET)
    fleet.world.pull()

    assert fleet.chain() == fleet.relied()
    cold = World.of(fleet.world.store.resources().values(), ON_HOST)
    assert fleet.world.everything() == cold.everything()


def test_versions_that_no_envoy_can_answer_any_more_are_forgotten() -> None:
    """A gateway that runs for months has millions of them."""
    fleet = Fleet()
    fleet.acknowledge("a", LISTENER, ROUTE)
    for n in range(20):
        fleet.put(AUTH.format(name="one", header=f"x-{n}"))
        fleet.acknowledge("a", LISTENER, ROUTE, LISTENER)

    assert fleet.transitions.versions_kept() <= 2


def test_versions_that_are_refused_in_a_row_are_forgotten_but_for_a_few() -> None:
    """Somebody may edit for days what Envoy refuses. What it has in force stays known."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    in_force = fleet.version(LISTENER)
    fleet.apply(worlds.route(1))
    for n in range(3 * MOST_VERSIONS):
        fleet.put(AUTH.format(name="two", header=f"x-{n}").replace("r0", "r1"))
        fleet.refuse("a")
        assert fleet.transitions.versions_kept() <= MOST_VERSIONS

    fleet.transitions.disconnected(worlds.EG_FLEET, "a")
    fleet.transitions.acknowledged(worlds.EG_FLEET, "a again", LISTENER, NAME, in_force)
    fleet.refuse("a again")

    hosts = fleet.message(ROUTE, RouteConfiguration).virtual_hosts
    assert {host.domains[0]: host.routes[0].direct_response.status for host in hosts} == {
        "h0.example.com": 0,
        "h1.example.com": 500,
    }


def test_an_envoy_that_takes_a_version_that_is_forgotten_is_taken_to_lack_its_filters() -> None:
    """It is late, and another one is ahead. What it had before says nothing of what it has now."""
    fleet = Fleet(REFERENCE)
    fleet.put(AUTH.format(name="one", header="x-one"))
    for node in ("a", "b"):
        fleet.acknowledge(node, LISTENER, ROUTE)
    fleet.world.apply({Ref.of(SecurityPolicy, "default", "one"): None})
    fleet.settle()
    for node in ("a", "b"):
        fleet.acknowledge(node, ROUTE)
    without = fleet.version(LISTENER)
    more = AUTH.format(name="two", header="x-two").replace("r0", "r1")
    fleet.apply(worlds.route(1))
    fleet.put(AUTH.format(name="one", header="x-one") + "---" + more)
    fleet.acknowledge("b", LISTENER, ROUTE)

    fleet.transitions.acknowledged(worlds.EG_FLEET, "a", LISTENER, NAME, without)
    fleet.refuse("a")

    assert {route.direct_response.status for route in fleet.routes()} == {500}


def test_versions_of_listeners_that_are_gone_are_forgotten() -> None:
    fleet = Fleet()
    fleet.acknowledge("a", LISTENER, ROUTE)
    for n in range(1, 20):
        other = worlds.http_listener(f"other-{n}", port=80 + n)
        fleet.apply(worlds.gateway(worlds.http_listener("http"), other))
        assert fleet.transitions.versions_kept() == 2

    fleet.apply(worlds.gateway())

    assert fleet.transitions.versions_kept() == 1
    # An answer may come when the listener is gone.
    fleet.transitions.acknowledged(worlds.EG_FLEET, "a", LISTENER, "default/eg/other-1", "former")
    fleet.transitions.refused(worlds.EG_FLEET, "a", "default/eg/other-1", "former", "no")
    assert fleet.transitions.versions_kept() == 1


def test_an_envoy_that_asks_for_a_table_no_more_holds_nothing_back_when_the_table_is_gone() -> None:
    """No removal is sent for what nobody asks for, so there is no answer to wait for."""
    fleet = Fleet()
    fleet.put(AUTH.format(name="one", header="x-one"))
    fleet.acknowledge("a", LISTENER, ROUTE)
    fleet.put(AUTH.format(name="two", header="x-two"), "one")
    fleet.acknowledge("a", LISTENER)
    lingering = fleet.chain()

    fleet.transitions.removed(worlds.EG_FLEET, "a", ROUTE, NAME)
    fleet.transitions.handed_out(worlds.EG_FLEET, (), [(ROUTE, NAME)])
    if fleet.transitions.review():
        fleet.settle()

    assert fleet.chain() < lingering
