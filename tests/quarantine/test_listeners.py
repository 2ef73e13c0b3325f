"""Filters, filter chains and heads of listeners that Envoys refuse: found alone, and closed meanwhile.

Envoys are played: they take a listener or refuse it as a whole, and are sent routes once the listeners of the
same edit are answered, as ``ads.session`` and ``fleets`` do it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.chain_transitions import ChainTransitions
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy
from moongate.quarantine import Quarantine, Refusal
from moongate.world import World
from moongate.xds.filter_chains import DIRECT_RESPONSE, HCM
from moongate.xds.wire import LISTENER, ROUTE, XdsResource
from tests.connections import chains, connection_ref, connection_route, tls
from tests.core import EG, EG_FLEET, GATEWAY_CLASS, IN_CLUSTER, ON_HOST, gateway, https, read, tls_secret
from tests.listeners import client_traffic_policy
from tests.refusing import finished
from tests.routes import http_route, service
from tests.xds.test_filters import USERS, auth

WORDS = "Envoy does not like it."
PORT = "default/eg/a"
"""The Envoy listener of all listeners here: it has the name of the first."""
BAD_HEADER = "x-bad"
"""A filter of basicAuth that forwards the user in this header is refused."""
BAD_CHAIN = "path: {disableMergeSlashes: true}"
"""A policy whose chains are refused; on the first listener ``BAD_HEAD`` makes its head one, too."""
BAD_HEAD = "connection: {bufferLimit: 77}"


@cache
def manifests(*names: str) -> tuple[str, ...]:
    """An HTTPS listener and a route for each name, all on one port."""
    routes = [
        http_route(name=n, hostnames=(f"{n}.test",), parent=f"{{name: eg, sectionName: {n}}}") for n in names
    ]
    listeners = [https(n, n, hostname=f"{n}.test") for n in names]
    return (
        GATEWAY_CLASS,
        gateway(*listeners),
        service(),
        USERS,
        *routes,
        *(tls_secret(n, f"{n}.test") for n in names),
    )


def is_quic(listener: Listener) -> bool:
    """Whether a listener is one for HTTP/3."""
    return listener.udp_listener_config.HasField("quic_options")


def takes(_: Listener) -> bool:
    """No listener is refused."""
    return False


class Envoy:
    """What one Envoy has in force, by type and name, and what it answered last."""

    def __init__(self, refuses: Callable[[Listener], bool]) -> None:
        self.refuses = refuses
        self.resources: dict[tuple[str, str], XdsResource] = {}
        self.answered: dict[tuple[str, str], str] = {}

    def chains(self, *, quic: bool = False) -> dict[str, FilterChain]:
        """The filter chains of all listeners in force, by name; those of TCP, or those for QUIC."""
        listeners = (Listener.FromString(r.body) for (t, _), r in self.resources.items() if t == LISTENER)
        return {
            chain.name: chain for each in listeners if is_quic(each) == quic for chain in each.filter_chains
        }

    def answers(self, name: str, *, quic: bool = False) -> str:
        """What requests to a host are answered with: ``open``, ``guarded`` or ``500``; "" without a chain."""
        chain = self.chains(quic=quic).get(f"default/eg/{name}")
        if chain is None or chain.filters[-1].name == DIRECT_RESPONSE:
            return ""
        filters = {one.name: one for one in manager(chain).http_filters}
        routes = self.routes(name)
        assert routes, "a chain waits for its routes"
        route = routes[0]
        if route.match.filter_state and not all(
            any(each.string_match.contains.strip("|") == one for one in filters)
            for each in route.match.filter_state
        ):
            route = routes[1]
        if route.direct_response.status:
            return str(route.direct_response.status)
        relied = [one for one in route.typed_per_filter_config if "basic" in one]
        return "guarded" if any(one in filters for one in relied) else "open"

    def routes(self, name: str) -> list[Route]:
        table = self.resources.get((ROUTE, f"default/eg/{name}"))
        if table is None:
            return []
        return [r for host in RouteConfiguration.FromString(table.body).virtual_hosts for r in host.routes]


class Fleet:
    """A World, and the Envoys of its one fleet."""

    def __init__(self, *names: str, config: EnvoyGateway = ON_HOST, envoys: int = 1) -> None:
        self.world = World(config)
        self.quarantine = Quarantine(self.world)
        self.transitions = ChainTransitions(self.world, self.quarantine.searched)
        self.envoys = {f"e{n}": Envoy(dislikes) for n in range(envoys)}
        self.answers = 0
        self.watch: Callable[[], None] = lambda: None
        for node in self.envoys:
            self.quarantine.connected(EG_FLEET, node)
        if names:
            self.apply(*manifests(*names))

    def apply(self, *texts: str) -> None:
        """Put manifests in force, and let Envoys answer until there is nothing more to say."""
        self.world.apply({resource.ref: resource for text in texts for resource in read(text)})
        self.settle()

    def delete(self, *refs: Ref) -> None:
        self.world.apply(dict.fromkeys(refs))
        self.settle()

    def settle(self) -> None:
        again, turns = True, 0
        while again:
            turns += 1
            assert turns < 1000, "it does not come to rest"
            changes = self.world.pull()
            if EG_FLEET in changes.fleets.values():
                self.transitions.start(EG_FLEET)
                for node in self.envoys:
                    self.transitions.connected(EG_FLEET, node)
            gone = changes.gone.get("default/eg", ())
            self.transitions.handed_out(EG_FLEET, changes.put.get("default/eg", ()), gone)
            self.quarantine.left(EG_FLEET, gone)
            again = finished(self.quarantine.review()) | self.transitions.review() or self._answer()

    def _answer(self) -> bool:
        """Each Envoy answers for listeners, or else for routes. False if there is nothing to answer."""
        for types in ((LISTENER,), (ROUTE,)):
            news = [
                (node, key)
                for node in self.envoys
                for key in self._keys(node, *types)
                if self._answer_for(node, key)
            ]
            self.watch()
            if news:
                return True
        return False

    def _keys(self, node: str, *types: str) -> list[tuple[str, str]]:
        resources = self.world.xds().get("default/eg", {})
        names = {(t, name) for t in types for name in resources.get(t, {})}
        return sorted(names | {key for key in self.envoys[node].resources if key[0] in types})

    def _answer_for(self, node: str, key: tuple[str, str]) -> bool:
        envoy = self.envoys[node]
        resource = self.world.resource(EG_FLEET, *key)
        if resource is None:
            envoy.answered.pop(key, None)
            self.transitions.removed(EG_FLEET, node, *key)
            return envoy.resources.pop(key, None) is not None
        if envoy.answered.get(key) == resource.version:
            return False
        self.answers += 1
        assert self.answers < 2000, "the search does not come to an end"
        envoy.answered[key] = resource.version
        about = (EG_FLEET, node, *key, resource.version)
        if key[0] == LISTENER and envoy.refuses(Listener.FromString(resource.body)):
            self.quarantine.refused(*about, WORDS)
            self.transitions.refused(EG_FLEET, node, key[1], resource.version, WORDS)
        else:
            envoy.resources[key] = resource
            self.quarantine.acknowledged(*about)
            self.transitions.acknowledged(*about)
        return True

    def serving(self, node: str = "e0", *, quic: bool = False) -> dict[str, str]:
        """What each host is answered with."""
        eg: Any = self.world.store.resources()[EG]
        names = [listener.name for listener in eg.spec.listeners]
        return {name: self.envoys[node].answers(name, quic=quic) for name in names}

    def refusals(self) -> dict[str, Refusal]:
        """What is out of force, by the first words about it."""
        return {
            refusal.what.rpartition(" of ")[0] or "head": refusal for refusal in self.quarantine.refusals()
        }


def manager(chain: FilterChain) -> HttpConnectionManager:
    hcm = HttpConnectionManager()
    assert chain.filters[-1].name == HCM
    chain.filters[-1].typed_config.Unpack(hcm)
    return hcm


def dislikes(listener: Listener) -> bool:
    """An Envoy that refuses what is bad here."""
    if listener.per_connection_buffer_limit_bytes.value == 77:
        return True
    return any(map(bad_chain, listener.filter_chains))


def takes_all(_listener: Listener) -> bool:
    return False


def bad_chain(chain: FilterChain) -> bool:
    if "match.test" in chain.filter_chain_match.server_names:
        return True
    if chain.filters[-1].name == DIRECT_RESPONSE:
        return False
    hcm = manager(chain)
    return not hcm.merge_slashes or any(BAD_HEADER in forwarded(one) for one in hcm.http_filters)


def forwarded(http_filter: Any) -> str:
    config = BasicAuth()
    http_filter.typed_config.Unpack(config)
    return config.forward_username_header


both = pytest.mark.parametrize("config", [ON_HOST, IN_CLUSTER], ids=["stable", "reference"])


@both
def test_of_three_chains_one_that_is_refused_leaves_the_others_free_to_change(config: EnvoyGateway) -> None:
    fleet = Fleet("a", "b", "c", config=config)

    fleet.apply(client_traffic_policy(BAD_CHAIN, "b", "bad"))
    fleet.apply(auth("staff", "a", "x-user"), client_traffic_policy("connection: {}", "c", "other"))

    [refusal] = fleet.refusals().values()
    assert refusal.what == f"filter chain default/eg/b of listener {PORT}"
    assert [listener.name for listener in refusal.listeners] == ["b"]
    assert fleet.serving() == {"a": "guarded", "b": "open", "c": "open"}


def test_a_chain_that_is_mended_is_in_force() -> None:
    fleet = Fleet("a", "b")
    fleet.apply(client_traffic_policy(f"{BAD_CHAIN}\ntimeout: {{http: {{idleTimeout: 7s}}}}", "b"))
    assert fleet.refusals()
    fleet.apply(client_traffic_policy("timeout: {http: {idleTimeout: 7s}}", "b"))

    assert fleet.refusals() == {}
    hcm = manager(fleet.envoys["e0"].chains()["default/eg/b"])
    assert hcm.common_http_protocol_options.idle_timeout.seconds == 7


def test_a_chain_that_was_refused_for_something_else_is_tried_again() -> None:
    """As it is: an Envoy refuses a chain also for a certificate that comes by another way."""
    fleet = Fleet("a", "b")
    fleet.apply(client_traffic_policy(BAD_CHAIN, "b"))
    assert fleet.refusals()
    (envoy,) = fleet.envoys.values()
    envoy.refuses = takes

    fleet.quarantine.retry(EG_FLEET, LISTENER)
    fleet.settle()

    assert fleet.refusals() == {}
    assert dislikes(Listener.FromString(envoy.resources[LISTENER, PORT].body))


def test_a_chain_that_never_was_good_ends_its_connections() -> None:
    """They must not fall to a chain that asks less of them."""
    fleet = Fleet("a", "b")

    fleet.apply(client_traffic_policy(BAD_CHAIN, "new", "bad"), *manifests("a", "b", "new"))

    chain = fleet.envoys["e0"].chains()["default/eg/new"]
    assert list(chain.filter_chain_match.server_names) == ["new.test"]
    assert fleet.serving() == {"a": "open", "b": "open", "new": ""}
    assert not chain.HasField("transport_socket")


def test_a_chain_whose_match_is_refused_is_left_out() -> None:
    fleet = Fleet("a", "b")

    fleet.apply(*manifests("a", "b", "match"))

    assert "default/eg/match" not in fleet.envoys["e0"].chains()
    assert fleet.serving() == {"a": "open", "b": "open", "match": ""}
    assert {listener.name for refusal in fleet.refusals().values() for listener in refusal.listeners} == {
        "match"
    }


def test_a_listener_of_which_nothing_ever_was_good_is_not_opened() -> None:
    fleet = Fleet("match")

    assert fleet.envoys["e0"].chains() == {}
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/match") is None
    assert fleet.quarantine.refusals()


def test_a_first_listener_is_searched_from_nothing() -> None:
    """What is good of it is open in the end."""
    fleet = Fleet("c", "match", "d", "e")

    assert fleet.serving() == {"c": "open", "match": "", "d": "open", "e": "open"}


def test_a_head_that_is_refused_stays_as_it_was_and_chains_change() -> None:
    fleet = Fleet("a", "b")

    fleet.apply(client_traffic_policy(BAD_HEAD, "a"))
    fleet.apply(auth("staff", "b", "x-user"))

    assert fleet.refusals()["head"].what == f"listener {PORT}"
    assert len(fleet.refusals()["head"].listeners) == 2
    assert fleet.serving() == {"a": "open", "b": "guarded"}


def reports(listener: Listener) -> bool:
    """An Envoy that cannot write a log, wherever it is asked for one."""
    managers = (manager(chain) for chain in listener.filter_chains if chain.filters[-1].name == HCM)
    return bool(listener.access_log) or any(hcm.access_log for hcm in managers)


@both
def test_logs_that_are_refused_cost_no_request_and_no_edit(config: EnvoyGateway) -> None:
    """Also where nothing of the listener ever was in force; and nobody passes a guard meanwhile."""
    fleet = Fleet(config=config)
    (envoy,) = fleet.envoys.values()
    envoy.refuses = reports
    seen: set[str] = set()
    fleet.watch = lambda: seen.add(envoy.answers("a") if envoy.routes("a") else "")

    fleet.apply(*manifests("a", "b"), auth("staff", "a", "x-user"))

    assert fleet.serving() == {"a": "guarded", "b": "open"}
    assert "open" not in seen
    assert {refusal.what for refusal in fleet.quarantine.refusals()} == {
        f"listener {PORT}",
        f"filter chain default/eg/a of listener {PORT}",
        f"filter chain default/eg/b of listener {PORT}",
    }

    fleet.apply(client_traffic_policy("timeout: {http: {idleTimeout: 7s}}", "b"))
    [hcm] = (manager(chain) for name, chain in envoy.chains().items() if name.endswith("b"))
    assert hcm.common_http_protocol_options.idle_timeout.seconds == 7

    envoy.refuses = takes
    fleet.quarantine.retry(EG_FLEET, LISTENER)
    fleet.settle()
    assert fleet.refusals() == {}
    assert reports(Listener.FromString(envoy.resources[LISTENER, PORT].body))


@both
def test_routes_that_rely_on_a_refused_filter_answer_500_and_no_others(config: EnvoyGateway) -> None:
    fleet = Fleet("a", "b", "c", config=config)
    fleet.apply(auth("good", "b", "x-user"))

    fleet.apply(auth("bad", "a", BAD_HEADER), auth("more", "c", "x-more"))

    assert fleet.serving() == {"a": "500", "b": "guarded", "c": "guarded"}
    [refusal] = fleet.refusals().values()
    assert WORDS in str(fleet.world.statuses()[Ref.of(SecurityPolicy, "default", "bad")])
    assert WORDS not in str(fleet.world.statuses()[Ref.of(SecurityPolicy, "default", "good")])
    assert [listener.name for listener in refusal.listeners] == ["a"]


@both
def test_a_filter_that_is_mended_guards_its_routes(config: EnvoyGateway) -> None:
    fleet = Fleet("a", "b", config=config)
    fleet.apply(auth("staff", "a", BAD_HEADER))

    fleet.apply(auth("staff", "a", "x-user"))

    assert fleet.refusals() == {}
    assert fleet.serving() == {"a": "guarded", "b": "open"}


@both
def test_a_policy_that_is_taken_back_opens_its_routes(config: EnvoyGateway) -> None:
    fleet = Fleet("a", config=config)
    fleet.apply(auth("staff", "a", BAD_HEADER))
    assert fleet.serving() == {"a": "500"}

    fleet.delete(Ref.of(SecurityPolicy, "default", "staff"))

    assert fleet.serving() == {"a": "open"}
    assert fleet.refusals() == {}
    cold = World.of(fleet.world.store.resources().values(), config)
    assert fleet.world.everything() == cold.everything()


@both
@pytest.mark.parametrize("envoys", [1, 2])
def test_no_request_passes_a_guarded_route_while_a_filter_is_searched(
    config: EnvoyGateway, envoys: int
) -> None:
    """The old and the new configuration both ask for a password: nobody is let in without it in between."""
    fleet = Fleet("a", "b", "c", config=config, envoys=envoys)
    fleet.apply(auth("staff", "a", "x-one"))
    seen: list[str] = []
    fleet.watch = lambda: seen.extend(envoy.answers("a") for envoy in fleet.envoys.values())

    for n, header in enumerate((BAD_HEADER, "x-two", f"{BAD_HEADER}-2", f"{BAD_HEADER}-3", "x-one")):
        bad_chain_too = [client_traffic_policy(BAD_CHAIN, "b", "bad")] if n % 2 else []
        fleet.apply(auth("staff", "a", header), auth("more", "c", f"x-{n}"), *bad_chain_too)
        bad = header.startswith(BAD_HEADER)
        assert {envoy.answers("a") for envoy in fleet.envoys.values()} == {"500" if bad else "guarded"}

    assert set(seen) == {"guarded", "500"}


def test_one_of_two_envoys_that_refuses_a_filter_keeps_it_out_for_both() -> None:
    fleet = Fleet("a", "b", envoys=2)
    fleet.envoys["e1"].refuses = takes_all

    fleet.apply(auth("bad", "a", BAD_HEADER), auth("good", "b", "x-user"))

    for node in fleet.envoys:
        assert fleet.serving(node) == {"a": "500", "b": "guarded"}


def test_a_last_good_chain_that_another_envoy_refuses_ends_its_connections() -> None:
    """It comes in the place of the one that took it, and the search comes to an end."""
    fleet = Fleet("a", "b")
    fleet.apply(client_traffic_policy(f"{BAD_CHAIN}\ntimeout: {{http: {{idleTimeout: 7s}}}}", "b"))
    assert fleet.serving() == {"a": "open", "b": "open"}
    fleet.quarantine.disconnected(EG_FLEET, "e0")
    fleet.transitions.disconnected(EG_FLEET, "e0")

    def dislikes_b(listener: Listener) -> bool:
        chains = (each for each in listener.filter_chains if each.name == "default/eg/b")
        return any(each.filters[-1].name != DIRECT_RESPONSE for each in chains)

    fleet.envoys = {"e1": Envoy(dislikes_b)}
    fleet.quarantine.connected(EG_FLEET, "e1")
    fleet.transitions.connected(EG_FLEET, "e1")
    fleet.settle()

    assert fleet.serving("e1") == {"a": "open", "b": ""}
    assert "default/eg/b" in fleet.envoys["e1"].chains()
    assert {each.name for refusal in fleet.refusals().values() for each in refusal.listeners} == {"b"}


BADNESS = ("", "filter", "chain", "filter and chain")


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(BADNESS), min_size=1, max_size=7),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_exactly_what_is_bad_is_out_of_force_and_all_else_is_in(
    badness: list[str], envoys: int, stable: bool, afterwards: bool
) -> None:
    """Whichever it is and however many, for any number of Envoys, at the start or later."""
    names = [f"h{n}" for n in range(len(badness))]
    fleet = Fleet(*(names if afterwards else ()), config=ON_HOST if stable else IN_CLUSTER, envoys=envoys)
    policies = [
        auth(f"p-{name}", name, f"{BAD_HEADER}-{name}" if "filter" in bad else f"x-{name}")
        for name, bad in zip(names, badness, strict=True)
    ] + [
        client_traffic_policy(BAD_CHAIN, name, f"c-{name}")
        for name, bad in zip(names, badness, strict=True)
        if "chain" in bad
    ]
    before = fleet.answers

    fleet.apply(*policies, *manifests(*names))

    expected = {
        name: "" if "chain" in bad and not afterwards else "500" if "filter" in bad else "guarded"
        for name, bad in zip(names, badness, strict=True)
    }
    if all("chain" in bad for bad in badness) and not afterwards:
        assert fleet.world.resource(EG_FLEET, LISTENER, f"default/eg/{names[0]}") is None
    else:
        for node in fleet.envoys:
            assert fleet.serving(node) == expected
    out = {listener.name for r in fleet.quarantine.refusals() for listener in r.listeners}
    assert out == {name for name, bad in zip(names, badness, strict=True) if bad}
    most = 12 * envoys * (2 * len(names) + 4)
    assert fleet.answers - before <= most

    mended = [auth(f"p-{name}", name, f"x-{name}") for name in names]
    fleet.world.apply({Ref.of(ClientTrafficPolicy, "default", f"c-{name}"): None for name in names})
    fleet.apply(*mended)
    assert fleet.quarantine.refusals() == ()
    for node in fleet.envoys:
        assert set(fleet.serving(node).values()) == {"guarded"}


# -- chains of connections ----------------------------------------------------


def connections(*hosts: str) -> tuple[str, ...]:
    """A listener that passes TLS on, with a route for each hostname ``HOST.test``."""
    routes = (connection_route("TLSRoute", name=host, hostnames=(f"{host}.test",)) for host in hosts)
    return (GATEWAY_CLASS, gateway(tls("a")), service(), *routes)


def limited(listener: Listener) -> bool:
    """An Envoy that refuses to pass on the connections for ``bad.test``, but ends them."""
    return any(
        "bad.test" in chain.filter_chain_match.server_names and chain.filters[-1].name != DIRECT_RESPONSE
        for chain in listener.filter_chains
    )


def test_the_chain_of_a_route_of_connections_that_is_refused_leaves_the_others_in_force() -> None:
    fleet = Fleet()
    fleet.envoys["e0"].refuses = limited
    fleet.apply(*connections("one", "two"))

    fleet.apply(*connections("one", "two", "bad", "three"))

    listener = Listener.FromString(fleet.envoys["e0"].resources[LISTENER, "default/eg/a"].body)
    assert chains(listener) == {
        ("one.test",): "tlsroute/default/one/rule/-1",
        ("two.test",): "tlsroute/default/two/rule/-1",
        ("three.test",): "tlsroute/default/three/rule/-1",
        ("bad.test",): "",
    }
    [refusal] = fleet.refusals().values()
    assert refusal.what == "filter chain tlsroute/default/bad of listener default/eg/a"
    assert refusal.resources == (connection_ref("TLSRoute", "bad"),)

    fleet.delete(connection_ref("TLSRoute", "bad"))

    assert fleet.refusals() == {}
