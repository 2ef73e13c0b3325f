"""What a query that fails costs: its own part, and nothing else. And that statuses say so.

A failure is a bug of moongate, so no world that works has one; ``tests.faults`` makes queries fail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from moongate import names
from moongate.api.backend import Backend
from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, FleetId, ListenerId, Ref
from moongate.api.core import ConfigMap
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ListenerTLSConfig
from moongate.api.httproute import HTTPRoute
from moongate.api.listenerset import ParentGatewayReference
from moongate.api.shared import ParentReference
from moongate.attach.client_validation import client_authorities_problem
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import managed, managed_classes, proxy
from moongate.attach.judged_alone import judged_alone
from moongate.attach.listener_certificates import listener_certificates
from moongate.attach.listener_sets import gateway_of_set, listener_specs, owners, owners_of, set_refusal
from moongate.attach.listeners import all_last_judged, fleet_owners, listener_at, listeners
from moongate.attach.listeners import places as places_of
from moongate.attach.policies import selected, selected_shards
from moongate.attach.routes import attachments_at, wider
from moongate.engine import Contained, Failed, Query
from moongate.status.failures import INTERNAL, MOST_NAMED, concerned
from moongate.status.gateways import EnvoyProxyStatus
from moongate.status.listener_sets import ListenerSetStatus
from moongate.status.policies import PolicyStatus
from moongate.status.routes import RouteStatus
from moongate.world import World
from moongate.xds.filter_chains import DIRECT_RESPONSE
from moongate.xds.filters import filters_of
from moongate.xds.listeners import listener_head
from moongate.xds.needed_resources import route_resources
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE, SCOPE, XdsResource
from moongate.xds.wire import SECRET as SECRET_TYPE
from tests.connections import chains
from tests.faults import SECRET, Call, When, calls, faulty, put_fault
from tests.strategies import BASE, MERGED_BASE, SCOPED, Batch, configs, histories, resource
from tests.test_law import assert_same, flat, frozen_fleets, held_after, world
from tests.worlds import (
    CONTROLLER,
    EG,
    EG_FLEET,
    gateway,
    gateway_class,
    http_listener,
    listener_set,
    meta,
    of_set,
    route,
    routes_with_services,
    shared_gateway,
)

law = settings(max_examples=max(4, settings().max_examples // 6))

OTHER = Ref.of(Gateway, "other", "eg")

whole_tables = st.sampled_from([None, EnvoyGateway()])
"""Where a part of a scoped table was never built, the shared one may answer (scoped-tables.md, Limits)."""

Keys = set[tuple[str, tuple[str, str]]]


@law
@given(configs, histories, st.integers(0, 6), st.integers(0, 1 << 30), st.sampled_from(get_args(When)))
def test_a_query_that_fails_costs_what_it_concerns(
    config: EnvoyGateway | None, history: list[Batch], healthy: int, which: int, when: When
) -> None:
    """Whatever fails at whatever time: nothing is withdrawn, no other Gateway notices, and it is mended."""
    fail_and_mend(config, [BASE, *history], healthy, lambda calls: calls[which % len(calls)], when)


@law
@given(whole_tables, histories, st.integers(0, 1 << 30), st.sampled_from(get_args(When)))
def test_a_world_that_begins_with_a_failure_is_closed_where_it_fails(
    config: EnvoyGateway | None, history: list[Batch], which: int, when: When
) -> None:
    """No request is answered by another route than without the failure, unless by 500."""
    with faulty():
        resources = held_after([BASE, *history])
        twin = World.of(resources, config)
        call = calls(twin)[which % len(calls(twin))]
        cold = World(config)
        cold.apply({each.ref: each for each in resources})
        put_fault(cold, call, when)
        cold.pull()

        assert_contained(cold, twin)
        assert_others_alike(cold, twin, call)
        # A table or a certificate alone serves nobody.
        more = {key for key in keys(cold) - keys(twin) if key[1][0] not in {ROUTE, SCOPE, SECRET_TYPE}}
        # What listeners share in Envoy has the name of the first of them, and that may be closed here.
        assert {key for key in more if key[1][0] != LISTENER} == set()
        for fleet, key in more:
            meant = open_chains(flat(twin)[fleet]) | served_names(twin)
            assert open_chains(flat(cold)[fleet], key[1]) <= meant
        for fleet, resources_of in flat(cold).items():
            ours, theirs = tables_of(resources_of), tables_of(flat(twin)[fleet])
            for name in ours.keys() & theirs.keys():
                assert_as_closed(ours[name], theirs[name], besides=not_taken(cold, twin))
            assert_no_connection_goes_elsewhere(resources_of, flat(twin)[fleet])
        put_fault(cold, call, None)
        cold.pull()
        assert_same(cold, twin)


@law
@given(
    st.sampled_from([EnvoyGateway(), SCOPED]),
    histories,
    st.integers(0, 6),
    st.integers(0, 1 << 30),
    st.sampled_from(get_args(When)),
)
def test_what_fails_of_one_gateway_does_not_freeze_those_that_share_its_envoys(
    config: EnvoyGateway, history: list[Batch], healthy: int, which: int, when: When
) -> None:
    """The other members of a merged fleet have what they would have: chains, virtual hosts, clusters."""

    def chosen(of: Sequence[Call]) -> Call:
        of_one = [call for call in of if len(gateways_of(call)) == 1]
        return of_one[which % len(of_one)]

    fail_and_mend(config, [MERGED_BASE, *history], healthy, chosen, when)


JOINED = (
    "age",
    "attachable",
    "attachments_at",
    "chain_part",
    "filters_in",
    "host_part",
    "listener_certificates",
    "listeners",
    "parts_beside_others",
    "policy_attachments",
    "rejection",
    "route_shards",
    "virtual_host",
)
"""Queries about one Gateway that others read, where a fleet joins what its Gateways have."""


@pytest.mark.parametrize("config", [EnvoyGateway(), SCOPED], ids=["whole", "scoped"])
@pytest.mark.parametrize("name", [*JOINED, "host_shards_of", "hosts_in"])
def test_edits_of_a_gateway_take_effect_while_a_query_of_another_in_its_fleet_fails(
    name: str, config: EnvoyGateway
) -> None:
    """A listener, a route and a policy more, on the ports that both have."""
    edited = MERGED_BASE[OTHER]
    assert isinstance(edited, Gateway)
    more = structs.replace(edited.spec.listeners[1], name="more", hostname="c.com")
    edited = structs.replace(
        edited, spec=structs.replace(edited.spec, listeners=(*edited.spec.listeners, more))
    )
    added = [
        resource("HTTPRoute", "other", "r9", {"spec": {
            "parentRefs": [{"name": "eg"}],
            "hostnames": ["b.com", "c.com"],
            "rules": [{"backendRefs": [{"name": "s0", "port": 8080}]}],
        }}),
        resource("SecurityPolicy", "other", "p9", {"spec": {
            "targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"}],
            "cors": {"allowOrigins": ["https://a.com"]},
        }}),
    ]  # fmt: skip
    with faulty():
        warm, twin = world(config, MERGED_BASE), world(config, MERGED_BASE)
        before = members_hosts(warm, EG)
        failing = [call for call in calls(warm) if call[0].name == name and gateways_of(call) == {EG}]
        assert failing
        for call in failing:
            put_fault(warm, call, "after")
        warm.pull()
        play({each.ref: each for each in (edited, *added)}, warm, twin)

        assert_contained(warm, twin)
        assert_members_alike(warm, twin, failing[0])
        if name in {"listeners", "parts_beside_others"}:
            assert members_hosts(warm, EG) == before, "it keeps what it had"
        for call in failing:
            put_fault(warm, call, None)
        warm.pull()
        assert_same(warm, twin)


LISTENING = (
    "applied_to_listener",
    "is_default",
    "is_served",
    "policy_attachments",
    "rule_destination",
    "rule_policies",
    "table_size",
    "to_service",
)
"""Queries about one Gateway that a fleet, or what its routes need, is computed from."""


@pytest.mark.parametrize(
    ("name", "failing"),
    [*((name, ref) for name in LISTENING for ref in (EG, OTHER)), ("listener_cluster_settings", EG)],
    ids=lambda each: each.namespace if isinstance(each, Ref) else each,
)
def test_a_fleet_that_comes_about_while_a_query_of_a_gateway_fails_serves_the_others(
    name: str, failing: Ref
) -> None:
    """Nothing of it was ever built. A route of both has its clusters, or requests of the other would fail."""
    both = tuple(ParentReference(name="eg", namespace=namespace) for namespace in ("default", "other"))
    shared = BASE[Ref.of(HTTPRoute, "other", "r0")]
    assert isinstance(shared, HTTPRoute)
    shared = structs.replace(shared, spec=structs.replace(shared.spec, parent_refs=both))
    merging = {**MERGED_BASE, shared.ref: shared}
    with faulty():
        warm, twin = world(None), world(None, merging)
        failing_calls = [
            call for call in calls(twin) if call[0].name == name and gateways_of(call) == {failing}
        ]
        assert failing_calls
        for call in failing_calls:
            put_fault(warm, call, "before")
        warm.pull()
        play(merging, warm)

        assert_contained(warm, twin)
        assert_members_alike(warm, twin, failing_calls[0])
        for call in failing_calls:
            put_fault(warm, call, None)
        warm.pull()
        assert_same(warm, twin)


@pytest.mark.parametrize("name", ["host_shards_of", "listeners", "policy_attachments", "port_conflict"])
def test_a_gateway_leaves_a_port_though_the_one_that_stays_there_fails(name: str) -> None:
    """It may have been closed for good reason. As they last were, table and listener have it in them."""
    left = MERGED_BASE[OTHER]
    assert isinstance(left, Gateway)
    left = structs.replace(
        left, spec=structs.replace(left.spec, listeners=(structs.replace(left.spec.listeners[0], port=81),))
    )
    with faulty():
        warm, twin = world(EnvoyGateway(), MERGED_BASE), world(EnvoyGateway(), MERGED_BASE)
        failing = [call for call in calls(warm) if call[0].name == name and gateways_of(call) == {EG}]
        assert failing
        for call in failing:
            put_fault(warm, call, "before")
        warm.pull()
        play({OTHER: left}, warm, twin)

        assert_contained(warm, twin)
        assert_members_alike(warm, twin, failing[0])
        table = RouteConfiguration.FromString(flat(warm)["eg"][ROUTE, "default/eg/web"].body)
        assert {host.name.split("/")[0] for host in table.virtual_hosts} == {"default"}
        assert chains_of(flat(warm)["eg"], "other/eg/") == {}
        assert members_hosts(warm, EG), "what fails stays as it was"


def test_a_gateway_whose_proxy_fails_keeps_all_and_the_other_goes_on() -> None:
    """Its Envoys keep what they have, whatever is asked of it; that nobody knows is no rejection."""
    with faulty():
        warm = world(None)
        before = flat(warm)
        one, other = (Ref.of(Gateway, namespace, "eg") for namespace in ("default", "other"))
        put_fault(warm, (proxy, (one,)), "before")
        warm.apply({ref: None for ref in BASE if ref.kind == "HTTPRoute"})
        warm.pull()

        assert flat(warm)["default/eg"] == before["default/eg"]
        assert len(flat(warm)["other/eg"]) < len(before["other/eg"])
        (failed,) = warm.failures().values()
        assert failed.id in str(warm.statuses()[one])
        assert INTERNAL not in str(warm.statuses()[other])


def test_a_gateway_whose_fleet_was_never_known_is_no_matter_of_its_namesake_elsewhere() -> None:
    """It asks for the same port, and a patch is for it."""
    other = structs.replace(
        gateway(http_listener("http")), metadata=structs.replace(meta("eg"), namespace="other")
    )
    patch = resource("EnvoyPatchPolicy", "other", "p0", {"spec": {
        "targetRef": {"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"},
        "type": "JSONPatch",
        "jsonPatches": [],
    }})  # fmt: skip
    with faulty():
        twin = World.of([*routes_with_services(3), other, patch])
        cold = World()
        cold.apply(dict(twin.store.resources()))
        put_fault(cold, (fleet_of, (other.ref,)), "before")
        cold.pull()

        assert flat(twin)["default/eg"]
        assert flat(cold)["default/eg"] == flat(twin)["default/eg"]


def test_a_listener_whose_certificates_cannot_be_judged_keeps_its_port_while_others_change() -> None:
    """Envoy keeps what it has of it, and its certificate. A listener of another port may even leave."""
    with faulty():
        warm = world(None)
        before = flat(warm)["default/eg"]
        gateway = BASE[EG]
        assert isinstance(gateway, Gateway)
        [secured] = [each for each in gateway.spec.listeners if each.protocol == "HTTPS"]
        put_fault(warm, (listener_certificates, (ListenerId(EG, EG, secured.name),)), "before")
        fewer = tuple(each for each in gateway.spec.listeners if each.protocol != "HTTP")
        warm.apply({EG: structs.replace(gateway, spec=structs.replace(gateway.spec, listeners=fewer))})
        warm.pull()

        after = flat(warm)["default/eg"]
        kept = [(LISTENER, "default/eg/tls"), (ROUTE, "default/eg/tls"), (SECRET_TYPE, "default/cert")]
        assert [after[key] for key in kept] == [before[key] for key in kept]
        assert (LISTENER, "default/eg/web") not in after


def test_a_gateway_that_was_rejected_keeps_a_listener_that_fails_by_then() -> None:
    """While it was rejected there was no such listener to build, and Envoy kept it all the same."""
    named = {"group": ENVOY_GROUP, "kind": EnvoyProxy.KIND, "name": "ep", "namespace": "default"}
    rejecting = resource(
        "GatewayClass", "", "eg", {"spec": {"controllerName": CONTROLLER, "parametersRef": named}}
    )
    mending = resource("EnvoyProxy", "default", "ep", {"spec": {}})
    with faulty():
        warm = world(None)
        before = keys(warm)
        play({rejecting.ref: rejecting}, warm)
        for call in [each for each in calls(warm) if each[0] is listener_head]:
            put_fault(warm, call, "before")
        play({mending.ref: mending}, warm)

        assert keys(warm) >= {key for key in before if key[1][0] == LISTENER}


@pytest.mark.parametrize("port", [90, 8443])
def test_a_listener_of_tcp_that_becomes_https_and_fails_by_then_is_kept_and_closed(port: int) -> None:
    """It was plaintext, which nobody asks for any more; so it can neither stay as it was nor leave."""
    before = BASE[EG]
    assert isinstance(before, Gateway)
    raw, secured = (next(each for each in before.spec.listeners if each.name == n) for n in ("raw", "tls"))
    assert (raw.protocol, raw.port) == ("TCP", 90)
    changed = structs.replace(secured, name="raw", port=port, hostname=None)
    after = structs.replace(before, spec=structs.replace(before.spec, listeners=(secured, changed), tls=None))
    with faulty():
        warm, twin = world(None), world(None)
        assert open_chains(flat(warm)["default/eg"], "default/eg/raw")
        put_fault(warm, (listener_at, (ListenerId(EG, EG, "raw"),)), "after")
        play({EG: after}, warm, twin)

        served = flat(warm)["default/eg"]
        message = Listener.FromString(served[LISTENER, "default/eg/raw"].body)
        assert message.address.socket_address.port_value == port
        assert [each.filters[0].name for each in message.filter_chains] == [DIRECT_RESPONSE]
        assert served[LISTENER, "default/eg/tls"] == flat(twin)["default/eg"][LISTENER, "default/eg/tls"]
        assert_contained(warm, twin)
        put_fault(warm, (listener_at, (ListenerId(EG, EG, "raw"),)), None)
        warm.pull()
        assert_same(warm, twin)


def test_a_gateway_whose_listeners_fail_keeps_its_clusters_beside_its_routes() -> None:
    with faulty():
        warm = World.of(routes_with_services(3))
        before = flat(warm)
        put_fault(warm, (listeners, (EG,)), "after")
        changes = warm.pull()

        assert (changes.put, changes.gone, flat(warm)) == ({}, {}, before)


def test_a_gateway_whose_listeners_fail_does_not_take_a_route_from_another() -> None:
    """The route is attached to both."""
    with faulty():
        both = tuple(ParentReference(name="eg", namespace=namespace) for namespace in ("default", "other"))
        shared = BASE[Ref.of(HTTPRoute, "other", "r0")]
        assert isinstance(shared, HTTPRoute)
        shared = structs.replace(shared, spec=structs.replace(shared.spec, parent_refs=both))
        warm = world(None, BASE | {shared.ref: shared})
        before = flat(warm)
        put_fault(warm, (listeners, (EG,)), "after")
        warm.pull()

        assert flat(warm) == before


def test_a_route_that_fails_answers_500_and_keeps_its_clusters() -> None:
    """Its neighbours, and all that may be edited meanwhile, are no matter of it."""
    with faulty():
        warm = World.of(routes_with_services(3))
        before = flat(warm)["default/eg"]
        put_fault(warm, (attachments_at, (route(1).ref, EG)), "before")
        put_fault(warm, (route_resources, (EG_FLEET, route(1).ref)), "before")
        warm.apply({route(2).ref: None})
        warm.pull()

        after = flat(warm)["default/eg"]
        assert {name for type_url, name in before.keys() - after.keys() if type_url == CLUSTER} == {
            "service/default/s2/8080/http"
        }
        table = routes_of(tables_of(after)["default/eg/http"])
        assert [each.direct_response.status for each in table.values()] == [0, 500]
        assert str(warm.statuses()[route(1).ref]).count(INTERNAL) == 1
        assert INTERNAL not in str({r: s for r, s in warm.statuses().items() if r != route(1).ref})


def test_a_route_is_closed_while_the_filters_of_its_chain_are_unknown() -> None:
    """What it says to a filter means nothing where there is none."""
    with faulty():
        warm = world(EnvoyGateway())
        guarded = Ref.of(HTTPRoute, "default", "r0")
        listener = ListenerId(EG, EG, "web")
        put_fault(warm, (filters_of, (listener, guarded)), "before")
        warm.pull()

        table = routes_of(tables_of(flat(warm)["default/eg"])["default/eg/web"])
        assert {
            each.direct_response.status for name, each in table.items() if "httproute/default/r0/" in name
        } == {500}


def test_a_listener_without_certificate_does_not_come_back_because_of_a_failure() -> None:
    """It has no certificate, so the port is another Gateway's. A failure must not rename that listener."""
    broken = resource("Secret", "default", "cert", {"type": "kubernetes.io/tls", "data": {}})
    with faulty():
        warm = world(EnvoyGateway(), {**MERGED_BASE, broken.ref: broken})
        before = keys(warm)
        put_fault(warm, (listener_certificates, (ListenerId(EG, EG, "tls"),)), "before")
        warm.pull()

        assert keys(warm) == before


def test_a_listener_that_cannot_check_clients_does_not_come_back_because_of_a_failure() -> None:
    """It is closed, and its port has the name of the listener beside it."""
    gone = Ref.of(ConfigMap, "default", "ca")
    with faulty():
        warm = world(None)
        play({gone: None}, warm)
        before = keys(warm)
        for call in [each for each in calls(warm) if each[0] is client_authorities_problem]:
            put_fault(warm, call, "after")
        warm.pull()

        assert warm.failures()
        assert keys(warm) == before


def test_listeners_of_a_set_say_that_the_cas_of_its_gateway_could_not_be_judged() -> None:
    """The failure is the Gateway's, and the set is sound."""
    adding = resource("ListenerSet", "default", "m0", {"spec": {
        "parentRef": {"name": "eg", "namespace": "default"},
        "listeners": [{
            "name": "web", "port": 443, "protocol": "HTTPS", "hostname": "a.x.com",
            "tls": {"certificateRefs": [{"name": "cert"}]},
        }],
    }})  # fmt: skip
    with faulty():
        warm, twin = world(None, {**BASE, adding.ref: adding}), world(None, {**BASE, adding.ref: adding})
        for call in [each for each in calls(warm) if each[0] is client_authorities_problem]:
            put_fault(warm, call, "before")
        warm.pull()

        assert_contained(warm, twin)
        by_ref = concerned(warm.db)
        assert EG in by_ref
        assert adding.ref not in by_ref
        [failed] = by_ref[EG]
        status = warm.statuses()[adding.ref]
        assert isinstance(status, ListenerSetStatus)
        assert INTERNAL not in str(status.conditions)
        [listener] = status.listeners
        told = [each.type for each in listener.conditions if each.reason == INTERNAL]
        assert told == ["Programmed", "ResolvedRefs"]
        assert f"failure {failed.id}" in listener.conditions[1].message


def test_a_set_whose_allowance_is_not_known_goes_to_no_gateway_because_another_took_it() -> None:
    """It moves from the Gateway that takes all sets to one that takes none of its namespace."""
    adding = listener_set(0, http_listener("web", hostname="a.com"), namespace="shop")
    parent = ParentGatewayReference(name="b", namespace=EG.namespace)
    moved = structs.replace(adding, spec=structs.replace(adding.spec, parent_ref=parent))
    other = structs.replace(gateway(http_listener("own")), metadata=meta("b"))
    with faulty():
        warm = World.of([gateway_class(), shared_gateway(), other, adding])
        assert owners(warm.db, EG) == (EG, adding.ref)
        for at in (EG, other.ref):
            put_fault(warm, (set_refusal, (at, adding.ref)), "before")
        play({adding.ref: moved}, warm)

        assert owners(warm.db, other.ref) == (other.ref,)
        assert owners(warm.db, EG) == (EG,)


def test_listeners_of_a_set_that_moved_are_not_those_that_another_gateway_had() -> None:
    """They would have that one's policies and names."""
    adding = listener_set(0, http_listener("web", hostname="a.com"))
    parent = ParentGatewayReference(name="b", namespace=EG.namespace)
    moved = structs.replace(adding, spec=structs.replace(adding.spec, parent_ref=parent))
    other = structs.replace(shared_gateway(http_listener("own")), metadata=meta("b"))
    with faulty():
        warm = World.of([gateway_class(), shared_gateway(), other, adding])
        for failing in (judged_alone, listeners):
            put_fault(warm, (failing, (adding.ref,)), "after")
        play({adding.ref: moved}, warm)

        known = {each.id for each in all_last_judged(warm.db, [other.ref])}
        assert known == {ListenerId(other.ref, other.ref, "own"), ListenerId(other.ref, adding.ref, "web")}


@pytest.mark.parametrize("failing", [judged_alone, listeners])
@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
def test_a_set_that_was_never_judged_takes_no_place_of_another(
    failing: Query[..., Any], protocol: str
) -> None:
    """Envoy refuses a table with one hostname twice, so the fault would reach the listener beside it."""
    same = structs.replace(http_listener("web", hostname="a.com"), protocol=protocol)
    adding = listener_set(0, structs.replace(same, hostname="a.com" if protocol == "HTTP" else None))
    own = [gateway_class(), shared_gateway(http_listener("web", hostname="a.com")), route(0)]
    with faulty():
        warm, twin = World.of(own), World.of(own)
        put_fault(warm, (failing, (adding.ref,)), "before")
        play({adding.ref: adding, (more := of_set_route()).ref: more}, warm, twin)

        assert flat(warm) == flat(twin)


@pytest.mark.parametrize("failing", [gateway_of_set, listener_specs, listeners])
def test_a_wider_host_takes_no_requests_of_a_set_that_was_never_judged(failing: Query[..., Any]) -> None:
    """Its hostname is written in the set itself, so it can be closed whatever else fails."""
    adding = listener_set(0, http_listener("web", hostname="c.x.com"))
    wide = route(0)
    own = [gateway_class(), shared_gateway(http_listener("any")), wide, of_set(route(1), 0)]
    with faulty():
        cold = World()
        cold.apply({each.ref: each for each in (*own, adding)})
        put_fault(cold, (failing, (adding.ref,)), "before")
        cold.pull()

        table = tables_of(flat(cold)["default/eg"])["default/eg/any"]
        [closed] = [host for host in table.virtual_hosts if "c.x.com" in host.domains]
        assert [each.direct_response.status for each in closed.routes] == [500]
        assert any("httproute/default/r0/" in name for name in routes_of(table)), "the wide one is served"


def test_a_set_at_fault_takes_no_place_of_another_while_it_cannot_be_judged() -> None:
    """It asked for none before, and what is written would take it from the younger set."""
    at_fault = structs.replace(http_listener("web", hostname="a.com"), tls=ListenerTLSConfig())
    faulty_set, sound = listener_set(0, at_fault), listener_set(1, http_listener("web", hostname="a.com"))
    with faulty():
        warm = World.of([gateway_class(), shared_gateway(), faulty_set, sound, of_set(route(1), 1)])
        before = flat(warm)
        assert [each.ready for each in listeners(warm.db, sound.ref)] == [True]
        put_fault(warm, (places_of, (faulty_set.ref,)), "before")
        warm.pull()

        assert flat(warm) == before


def test_a_gateway_keeps_its_sets_while_it_is_not_known_which_it_takes() -> None:
    adding = listener_set(0, http_listener("web", hostname="a.com"))
    with faulty():
        warm = World.of([gateway_class(), shared_gateway(), adding, of_set_route()])
        before = flat(warm)
        put_fault(warm, (owners, (EG,)), "after")
        warm.pull()

        assert flat(warm) == before
        assert fleet_owners(warm.db, EG_FLEET) == (EG, adding.ref)


def of_set_route() -> HTTPRoute:
    """A route on a ListenerSet, for the hostname that the Gateway has."""
    attached = of_set(route(1), 0)
    return structs.replace(attached, spec=structs.replace(attached.spec, hostnames=("a.com",)))


def fail_and_mend(
    config: EnvoyGateway | None,
    history: list[Batch],
    healthy: int,
    chosen: Callable[[Sequence[Call]], Call],
    when: When,
) -> None:
    """Let a call fail after some batches of a history, and hold against the law what follows.

    Left out is what the fleet of a Gateway has that is rejected when the failure comes, and parts of scoped
    tables that come from another Gateway to the one that fails.
    """
    base, *batches = history
    with faulty():
        warm, twin = world(config, base), world(config, base)
        for batch in batches[:healthy]:
            play(batch, warm, twin)
        call = chosen(calls(warm))
        # What a query last said of a Gateway that is rejected is that there is nothing (ARCHITECTURE.md).
        rejected = {names.fleet(fleet) for fleet in frozen_fleets(warm)}
        before = flat(warm)
        kept = {key for key in keys(warm) if key[0] not in rejected}
        put_fault(warm, call, when)
        for batch in [{}, *batches[healthy:]]:
            play(batch, warm, twin)
            kept &= keys(twin)
            assert_contained(warm, twin)
            left = kept - keys(warm)
            meant = flat(twin)
            left = {key for key in left if not is_won(call, before[key[0]][key[1]], meant[key[0]][key[1]])}
            assert left == set(), "a resource left because of a failure"
            assert_others_alike(warm, twin, call)
            if gateways_of(call):
                assert_members_alike(warm, twin, call)
        put_fault(warm, call, None)
        warm.pull()

        assert_same(warm, World.of(held_after(history), config))


def is_won(call: Call, before: XdsResource, meant: XdsResource) -> bool:
    """Whether a part of a scoped table is now of the Gateway that a failing call names, and was of another.

    The one that fails stays as it was, so it does not get a hostname that another gives up (ARCHITECTURE.md).
    """
    if meant.type_url != SCOPE:
        return False
    own = tuple(f"{gateway.namespace}/{gateway.name}/" for gateway in gateways_of(call))
    was, is_ = (
        [
            host.name.startswith(own)
            for host in ScopedRouteConfiguration.FromString(each.body).route_configuration.virtual_hosts
        ]
        for each in (before, meant)
    )
    return all(is_) and not any(was)


def play(batch: Batch, *worlds: World) -> None:
    for each in worlds:
        each.apply(batch)
        each.pull()


def keys(of: World) -> Keys:
    return {(fleet, key) for fleet, resources in flat(of).items() for key in resources}


def assert_contained(of: World, twin: World) -> None:
    """Nothing that a driver calls raises, and statuses say what failed, but nothing that was read."""
    assert of.settled
    statuses = of.statuses()
    assert SECRET not in f"{statuses} {of.failures()}"
    by_ref = concerned(of.db)
    for ref, status in statuses.items():
        assert (INTERNAL in str(status)) == (ref in by_ref or is_told_by_listeners(of, ref, status, by_ref))
    for ref in by_ref.keys() & twin.statuses().keys():
        if ref not in statuses:
            assert is_unknown(of, ref, twin.statuses()[ref])
            continue
        assert all(failed.id in str(statuses[ref]) for failed in by_ref[ref][:MOST_NAMED])
    if managed_classes.attempt(twin.db):
        assert {f.id for f in of.failures().values()} == {f.id for fs in by_ref.values() for f in fs}
    list(of.problems())


def is_told_by_listeners(
    of: World, ref: Ref, status: Struct, by_ref: Mapping[Ref, tuple[Failed, ...]]
) -> bool:
    """Whether a set is sound, but its listeners say what failed of its Gateway.

    What a Gateway asks of clients holds for listeners of its sets, too, and so does a failure of that.
    """
    if not isinstance(status, ListenerSetStatus) or INTERNAL in str(status.conditions):
        return False
    gateway = gateway_of_set.attempt(of.db, ref)
    failures = by_ref.get(gateway, ()) if isinstance(gateway, Ref) else ()
    return any(failed.id in str(status.listeners) for failed in failures)


def is_unknown(of: World, ref: Ref, status: Struct) -> bool:
    """Whether nobody can tell that a resource is ours, for which its status would be this one.

    It is known by a Gateway or class above it that is known to be ours; a Backend is everybody's. What
    labels select is not known either while that fails: to show the failure elsewhere would be wrong.
    """
    if ref.is_a(Backend):
        return False
    classes = managed_classes.attempt(of.db)
    ours = [above for above in named_above(ref, status) if is_ours(of, above, classes)]
    return not ours or is_selecting_unknown(of, ref)


def is_selecting_unknown(of: World, ref: Ref) -> bool:
    """Whether it cannot be computed what the selectors of a policy match."""
    if not getattr(getattr(of.store.resources()[ref], "spec", None), "target_selectors", ()):
        return False
    shards = selected_shards.attempt(of.db, ref)
    return isinstance(shards, Failed) or any(
        isinstance(selected.attempt(of.db, ref, *shard), Failed) for shard in shards
    )


def is_ours(of: World, above: Ref, classes: tuple[Ref, ...] | Failed) -> bool:
    if above.is_a(Gateway):
        return managed.attempt(of.db, above) is True
    return not isinstance(classes, Failed) and above in classes


def named_above(ref: Ref, status: Struct) -> Iterator[Ref]:
    """The Gateways and classes that a status is about."""
    match status:
        case RouteStatus():
            for parent in status.parents:
                at = parent.parent_ref
                yield Ref(at.kind, at.namespace or ref.namespace, at.name, at.group)
        case PolicyStatus() | EnvoyProxyStatus():
            for ancestor in status.ancestors:
                at = ancestor.ancestor_ref
                yield Ref(at.kind, at.namespace or "", at.name, at.group)
        case _:
            yield ref


def assert_others_alike(of: World, twin: World, call: Call) -> None:
    """The Gateways that a failing call does not name have what they would have; if it names any."""
    gateways = [ref for ref in refs(call[1]) if ref.kind in {Gateway.KIND, GatewayClass.KIND}]
    if gateways:
        fleets = map(FleetId, gateways), (fleet_of(twin.db, ref) for ref in gateways if ref.is_a(Gateway))
        named = {names.fleet(fleet) for some in fleets for fleet in some}
        one, other = flat(of), flat(twin)
        assert {f: r for f, r in one.items() if f not in named} == {
            f: r for f, r in other.items() if f not in named
        }


def gateways_of(call: Call) -> set[Ref]:
    """The Gateways that the arguments of a call name."""
    return {ref for ref in refs(call[1]) if ref.kind == Gateway.KIND}


def assert_members_alike(of: World, twin: World, call: Call) -> None:
    """What a merged fleet has of the Gateways that a failing call does not name is as it would be.

    The Gateway that it names stays as it was. If it has lost or won a hostname in the twin, the hostnames of
    the others differ too, so there is nothing to compare; nor is there if it is not known that it shares
    Envoys with them. A cluster that its routes need as well has settings of its policies, so that may stay as
    it was; but it is there. And a chain offers HTTP/2 unless another one has a certificate for its hostnames.
    """
    for ref in gateways_of(call):
        if places(of, ref) != places(twin, ref) or fleet_of.last_good(of.db, ref) != fleet_of(twin.db, ref):
            return
    for fleet, resources in flat(twin).items():
        mine = flat(of).get(fleet, {})
        failing = [f"{each.namespace}/{each.name}/" for each in gateways_of(call)]
        shared = {cluster for own in failing for cluster in clusters_of(hosts_of(resources, own))}
        for each in twin.store.resources().keys() - gateways_of(call):
            if each.kind == Gateway.KIND:
                own = f"{each.namespace}/{each.name}/"
                assert_chains_alike(chains_of(mine, own), chains_of(resources, own))
                assert hosts_of(mine, own) == hosts_of(resources, own), own
                for cluster in clusters_of(hosts_of(resources, own)):
                    key = (CLUSTER, cluster)
                    assert mine.get(key) == resources.get(key) or (cluster in shared and key in mine), cluster


def assert_chains_alike(one: Mapping[str, FilterChain], other: Mapping[str, FilterChain]) -> None:
    """HTTPS chains are equal, but for whether they offer HTTP/2."""
    assert one.keys() == other.keys()
    for name, chain in one.items():
        assert chain == other[name] or without_alpn(chain) == without_alpn(other[name]), name


def without_alpn(chain: FilterChain) -> FilterChain:
    other, tls = FilterChain(), DownstreamTlsContext()
    other.CopyFrom(chain)
    if other.transport_socket.typed_config.Unpack(tls):
        del tls.common_tls_context.alpn_protocols[:]
        other.transport_socket.typed_config.Pack(tls)
    return other


def places(of: World, gateway: Ref) -> set[tuple[int, str]] | None:
    """The ports and hostnames that a Gateway and its ListenerSets have; None if that cannot be judged."""
    try:
        return {(each.port, each.hostname) for each in all_last_judged(of.db, [gateway]) if each.ready}
    except Contained:
        return None


def members_hosts(of: World, gateway: Ref) -> dict[str, VirtualHost]:
    """The virtual hosts of a Gateway of ``MERGED_BASE``."""
    return hosts_of(flat(of)["eg"], f"{gateway.namespace}/{gateway.name}/")


def chains_of(resources: Mapping[tuple[str, str], XdsResource], prefix: str) -> dict[str, FilterChain]:
    """The HTTPS chains of a Gateway, by name. A plaintext chain is everybody's."""
    listeners = (Listener.FromString(r.body) for (t, _), r in resources.items() if t == LISTENER)
    chains = (chain for listener in listeners for chain in listener.filter_chains)
    return {chain.name: chain for chain in chains if chain.name.startswith(prefix)}


def hosts_of(resources: Mapping[tuple[str, str], XdsResource], prefix: str) -> dict[str, VirtualHost]:
    hosts = (host for table in tables_of(resources).values() for host in table.virtual_hosts)
    return {host.name: host for host in hosts if host.name.startswith(prefix)}


def tables_of(resources: Mapping[tuple[str, str], XdsResource]) -> dict[str, RouteConfiguration]:
    """The route tables of a fleet, by name; of a scoped table all parts together."""
    tables: defaultdict[str, RouteConfiguration] = defaultdict(RouteConfiguration)
    for (type_url, name), each in resources.items():
        if type_url == ROUTE:
            tables[name].MergeFromString(each.body)
        elif type_url == SCOPE:
            scope = ScopedRouteConfiguration.FromString(each.body)
            tables[names.table_of_scope(name)].MergeFrom(scope.route_configuration)
    return dict(tables)


def clusters_of(hosts: Mapping[str, VirtualHost]) -> set[str]:
    actions = [route.route for host in hosts.values() for route in host.routes]
    weighted = {each.name for action in actions for each in action.weighted_clusters.clusters}
    return weighted | {action.cluster for action in actions if action.cluster}


def refs(key: Any) -> Iterator[Ref]:
    if isinstance(key, Ref):
        yield key
    elif isinstance(key, tuple):
        for each in key:  # pyright: ignore[reportUnknownVariableType] - arguments of queries are anything
            yield from refs(each)


def assert_no_connection_goes_elsewhere(
    ours: Mapping[tuple[str, str], XdsResource], theirs: Mapping[tuple[str, str], XdsResource]
) -> None:
    """Each connection goes where it would go without the failure, or nowhere."""
    for key in ours.keys() & theirs.keys():
        if key[0] == LISTENER:
            here, there = (chains(Listener.FromString(each[key].body)) for each in (ours, theirs))
            for host in {host for hosts in (*here, *there) for host in hosts or ("",)}:
                assert taken_to(here, host) in {taken_to(there, host), "", names.EMPTY_CLUSTER}


def taken_to(served: Mapping[tuple[str, ...], str], host: str) -> str:
    """Where the connections for a hostname go; "" if they are closed."""
    for name in (host, *wider(host)):
        for hosts, cluster in served.items():
            if name and name in hosts:
                return cluster
    return served.get((), "")


def open_chains(resources: Mapping[tuple[str, str], XdsResource], name: str = "") -> set[str]:
    """The names of chains of one Envoy listener, or of all, that do more than to end connections."""
    of = [each for key, each in resources.items() if key[0] == LISTENER and name in ("", key[1])]
    messages = [Listener.FromString(each.body) for each in of]
    chains_ = (chain for each in messages for chain in (*each.filter_chains, each.default_filter_chain))
    return {chain.name for chain in chains_ if chain.filters and chain.filters[0].name != DIRECT_RESPONSE}


def served_names(of: World) -> set[str]:
    """What the chains of all listeners may be called that Envoys are to serve."""
    gateways = [ref for ref in of.store.resources() if ref.is_a(Gateway)]
    return {names.listener(each.id) for each in all_last_judged(of.db, gateways) if each.ready}


def not_taken(cold: World, twin: World) -> tuple[str, ...]:
    """What the hosts of ListenerSets begin with that a world does not take, as it never could judge that."""
    gateways = [ref for ref in twin.store.resources() if ref.is_a(Gateway)]
    return tuple(
        f"{gateway.namespace}/{gateway.name}/{owner.namespace}/{owner.name}/"
        for gateway in gateways
        for owner in {*owners_of(twin.db, [gateway])} - {*owners_of(cold.db, [gateway])}
    )


def assert_as_closed(one: RouteConfiguration, other: RouteConfiguration, besides: tuple[str, ...]) -> None:
    """A table has the routes of another, by host in the same order, each as it is there or answered with 500.

    What it has besides, as it may be meant for it, is answered with 500 as well. So is all of a host that
    cannot be built: it has one route without a name. And so is all of a listener whose hosts are not known:
    it has one host, its own, which is closed. Clients may go without being told of HTTP/3, as the listener of
    UDP may not be there either.

    Args:
        one: the table of a world where something failed from the start.
        other: as it is meant to be.
        besides: what hosts begin with that may be missing.
    """
    routes = routes_of(one)
    meant = {name: route for name, route in routes_of(other).items() if not name.startswith(besides)}
    closed = {name.removesuffix(" ") for name in routes if name.endswith(" ")}
    for listener, hosts in hosts_by_listener(routes).items():
        if len(hosts) == 1 and hosts <= closed:
            closed |= hosts_by_listener(meant).get(listener, set())
    for name, each in routes.items():
        may_be = [meant[name], without_http3(meant[name])] if name in meant else []
        assert each in may_be or each.direct_response.status == 500, name
    for host in {name.partition(" ")[0] for name in meant} - closed:
        of_host = [name for name in meant if name.startswith(f"{host} ") and not is_beside_another(name)]
        assert of_host == [name for name in routes if name in of_host]


def is_beside_another(name: str) -> bool:
    """Whether a route answers where another one cannot, which a closed one does itself."""
    return "cors-preflight" in name or name.endswith(("/filter-missing", "/filter-spared"))


def without_http3(route: Route) -> Route:
    """A route whose answers do not tell clients of HTTP/3."""
    other = Route()
    other.CopyFrom(route)
    headers = [each for each in route.response_headers_to_add if each.header.key != "alt-svc"]
    del other.response_headers_to_add[:]
    other.response_headers_to_add.extend(headers)
    return other


def hosts_by_listener(routes: Iterable[str]) -> dict[str, set[str]]:
    """The names of virtual hosts, by what those of one listener begin with."""
    of: defaultdict[str, set[str]] = defaultdict(set)
    for name in routes:
        host = name.partition(" ")[0]
        listener, _, own = host.rpartition("/")
        if own != "misdirected":  # which is for the hosts of other listeners
            of[listener].add(host)
    return of


def routes_of(table: RouteConfiguration) -> dict[str, Route]:
    return {f"{host.name} {route.name}": route for host in table.virtual_hosts for route in host.routes}
