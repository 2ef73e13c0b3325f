"""Scoped tables: what Envoy gets, and what a change costs."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from msgspec import structs

from moongate.api.base import ListenerId
from moongate.api.envoygateway import RuntimeFlags
from moongate.api.httproute import HTTPRoute
from moongate.attach.envoy_listeners import ready_listeners
from moongate.attach.scopes import OTHERS_KEY
from moongate.world import World
from moongate.xds.route_entries import fail_closed
from moongate.xds.routes import host_part, scope_of_others, virtual_host
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.scoped_chains import FINDER, HOST_HEADER
from moongate.xds.wire import LISTENER, SCOPE
from tests import worlds
from tests.core import ON_HOST, read
from tests.faults import calls, faulty, put_fault

FLAGS = RuntimeFlags(enabled=("StableFilterChains", "MetadataWhereRead", "ScopedTables"))
PART = "xdstp:///envoy.config.route.v3.ScopedRouteConfiguration/default/eg/http/scoped/"
GUARD = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: SecurityPolicy
    metadata: {name: guard, namespace: default}
    spec:
      targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r0}]
      basicAuth: {users: {name: users}}
    ---
    apiVersion: v1
    kind: Secret
    metadata: {name: users, namespace: default}
    stringData: {.htpasswd: "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="}
"""


def world(*hosts: str) -> World:
    """A World with a route for each of these hostnames, all in force."""
    made = World(structs.replace(ON_HOST, runtime_flags=FLAGS))
    made.apply({each.ref: each for each in worlds.routes_with_backends(len(hosts))})
    for n, host in enumerate(hosts):
        serve(made, n, host)
    made.pull()
    return made


def serve(on: World, n: int, host: str, path: str = "/") -> None:
    """Let the route of a number be for a hostname; "" for none."""
    route: HTTPRoute = worlds.route(n, path, kind="Backend")
    spec = structs.replace(route.spec, hostnames=(host,) if host else ())
    on.apply({route.ref: structs.replace(route, spec=spec)})


def scopes(of: World) -> dict[str, Any]:
    """The parts of the table, by what comes after its name."""
    parts = of.xds()["default/eg"][SCOPE]
    return {n.removeprefix(PART): ScopedRouteConfiguration.FromString(r.body) for n, r in parts.items()}


def manager(of: World) -> Any:
    [listener] = (r for n, r in of.xds()["default/eg"][LISTENER].items() if n == "default/eg/http")
    message = HttpConnectionManager()
    Listener.FromString(listener.body).default_filter_chain.filters[-1].typed_config.Unpack(message)
    return message


def test_each_exact_hostname_has_a_part_and_all_others_share_one() -> None:
    parts = scopes(world("a.test", "b.test", "*.test", ""))

    assert {name: part.key.fragments[0].string_key for name, part in parts.items()} == {
        "a.test": "a.test",
        "b.test": "b.test",
        "_": OTHERS_KEY,
    }
    assert [h.domains[0] for h in parts["a.test"].route_configuration.virtual_hosts] == ["a.test"]
    others = parts["_"].route_configuration
    assert sorted(h.domains[0] for h in others.virtual_hosts) == ["*", "*.test"]
    assert (parts["a.test"].route_configuration.vhost_header, others.vhost_header) == ("", HOST_HEADER)


def test_the_shared_part_is_there_also_when_nothing_is_in_it() -> None:
    """Envoy waits for an answer, and a hostname may have its routes tomorrow."""
    assert not scopes(world("a.test"))["_"].route_configuration.virtual_hosts


def test_a_connection_manager_subscribes_to_the_parts_of_its_table() -> None:
    routes = manager(world("a.test")).scoped_routes

    assert routes.scoped_rds.srds_resources_locator == f"{PART}*"
    assert routes.scope_key_builder.fragments[0].header_value_extractor.name == ":authority"


def test_the_finder_stands_first_and_each_part_switches_it_off() -> None:
    made = world("a.test", "")

    assert [each.name for each in manager(made).http_filters].index(FINDER) == 0
    for part in scopes(made).values():
        assert part.route_configuration.typed_per_filter_config.keys() == {FINDER}


def test_a_route_says_which_filters_the_finder_is_to_switch_on() -> None:
    made = world("*.test")
    made.apply({each.ref: each for each in read(GUARD)})
    made.pull()

    [host] = scopes(made)["_"].route_configuration.virtual_hosts
    filters = host.routes[0].metadata.filter_metadata[FINDER]["filters"]
    assert dict(filters) == {"envoy.filters.http.basic_auth": True}


def test_a_changed_route_changes_one_part() -> None:
    made = world(*(f"h{n}.test" for n in range(200)), "")

    serve(made, 7, "h7.test", "/changed")
    changes = made.pull()

    assert [each.name for each in changes.put["default/eg"]] == [f"{PART}h7.test"]
    assert not changes.gone.get("default/eg")


def test_a_new_hostname_adds_one_part_and_one_that_goes_removes_one() -> None:
    made = world(*(f"h{n}.test" for n in range(200)), "")

    serve(made, 7, "new.test")
    changes = made.pull()

    assert [each.name for each in changes.put["default/eg"]] == [f"{PART}new.test"]
    assert changes.gone["default/eg"] == ((SCOPE, f"{PART}h7.test"),)


def test_a_match_on_the_host_looks_where_the_host_is_while_envoy_looks() -> None:
    made = world("a.test", "*.test")
    for n, host in enumerate(("a.test", "*.test")):
        text = f"""
            apiVersion: gateway.networking.k8s.io/v1
            kind: HTTPRoute
            metadata: {{name: r{n}, namespace: default}}
            spec:
              parentRefs: [{{name: eg}}]
              hostnames: ['{host}']
              rules: [{{matches: [{{headers: [{{name: Host, value: b.test}}]}}]}}]
        """
        made.apply({each.ref: each for each in read(text)})
    made.pull()

    parts = scopes(made)
    headers = {
        name: part.route_configuration.virtual_hosts[0].routes[0].match.headers[0].name
        for name, part in parts.items()
    }
    assert headers == {"a.test": ":authority", "_": HOST_HEADER}


def test_a_hostname_keeps_its_part_while_the_shared_one_cannot_be_built() -> None:
    """The shared one may guard less than it is to."""
    with faulty():
        made = world("a.test", "b.test", "*.test")
        [call] = (each for each in calls(made) if each[0] is scope_of_others)
        put_fault(made, call, "before")
        made.pull()
        made.apply({worlds.route(0).ref: None})
        changes = made.pull()

        assert SCOPE not in {type_url for type_url, _ in changes.gone["default/eg"]}
        assert {"a.test", "b.test", "_"} == scopes(made).keys()

        put_fault(made, call, None)
        assert made.pull().gone["default/eg"] == ((SCOPE, f"{PART}a.test"),)


def test_what_fails_of_a_shard_closes_in_the_shared_part_only_what_belongs_there() -> None:
    with faulty():
        made = world("a.test", "*.test")
        for call in calls(made):
            if call[0] is host_part:
                put_fault(made, call, "before")
        made.pull()
        serve(made, 1, "*.other.test")
        made.pull()

        shared = scopes(made)["_"].route_configuration
        assert [list(host.domains) for host in shared.virtual_hosts] == [["*.other.test"]]
        assert "a.test" in scopes(made)


def test_a_listener_that_fails_at_the_hostname_of_another_closes_nothing_there() -> None:
    """Envoy refuses a part in which a hostname stands twice."""
    gateway = worlds.gateway(worlds.http_listener("http"), worlds.http_listener("narrow", hostname="a.test"))
    with faulty():
        made, twin = (World(structs.replace(ON_HOST, runtime_flags=FLAGS)) for _ in range(2))
        wide = ListenerId(gateway.ref, gateway.ref, "http")
        put_fault(made, (virtual_host, (wide, "a.test", True)), "before")
        for each in (made, twin):
            each.apply({r.ref: r for r in (*worlds.routes_with_backends(1), gateway)})
            serve(each, 0, "a.test")
            each.pull()

        assert scopes(made)["a.test"] == scopes(twin)["a.test"]


def test_an_entry_that_is_closed_switches_no_filter_on() -> None:
    """The filter would answer instead, and maybe let pass."""
    made = world("*.test")
    made.apply({each.ref: each for each in read(GUARD)})
    made.pull()
    [listener] = ready_listeners(made.db, worlds.EG_FLEET)
    [entry] = route_entries_of(made.db, listener, worlds.route(0).ref, True)

    [shut] = VirtualHost.FromString(fail_closed(entry).body).routes
    assert FINDER not in shut.metadata.filter_metadata
