"""JSON patches of EnvoyPatchPolicies, applied to resources that a world has."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from msgspec import structs

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.envoygateway import RuntimeFlags
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy, JSONPatchOperation
from moongate.world import World
from moongate.xds.json_patches import apply
from moongate.xds.patches import Patch
from moongate.xds.wire import (
    CLUSTER,
    LISTENER,
    ROUTE,
    SCOPE,
    SECRET,
    XdsResource,
    encode,
    message_field,
)
from tests import worlds
from tests.core import ON_HOST
from tests.strategies import resource
from tests.worlds import EG_FLEET

TABLE = "default/eg/http"
SHARED = "backend/default/s0/8080/http"
TYPES = {"listener": LISTENER, "route": ROUTE, "cluster": CLUSTER, "secret": SECRET}


def policy(*patches: tuple[str, str, dict[str, Any]], name: str = "p", **spec: Any) -> EnvoyPatchPolicy:
    """A policy for the Gateway, of (word for a type, name, operation)."""
    made = resource("EnvoyPatchPolicy", "default", name, {"spec": {
        "type": "JSONPatch",
        "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"},
        "jsonPatches": [{"type": TYPES[t], "name": n, "operation": o} for t, n, o in patches],
        **spec,
    }})  # fmt: skip
    assert isinstance(made, EnvoyPatchPolicy)
    return made


def world(*policies: EnvoyPatchPolicy, routes: int = 1) -> World:
    made = World(ON_HOST)
    made.apply({each.ref: each for each in (*worlds.routes_with_backends(routes), *policies)})
    made.pull()
    return made


def cluster(of: World, name: str = SHARED) -> Cluster:
    held = of.resource(EG_FLEET, CLUSTER, name)
    assert held is not None
    return Cluster.FromString(held.body)


def words(of: World, name: str = "p") -> list[str]:
    """What the status of a policy says of its patches, line by line; the first is the reason."""
    status: Any = of.statuses()[Ref.of(EnvoyPatchPolicy, "default", name)]
    [programmed] = (c for c in status.ancestors[0].conditions if c.type == "Programmed")
    return [programmed.reason, *programmed.message.split("\n")]


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        ({"op": "replace", "path": "/connect_timeout", "value": "3s"}, 3),
        ({"op": "add", "path": "/connect_timeout", "value": "4s"}, 4),
        ({"op": "remove", "path": "/connect_timeout"}, 0),
        ({"op": "test", "path": "/connect_timeout", "value": "10s"}, 10),
        ({"op": "copy", "from": "/connect_timeout", "path": "/cleanup_interval"}, 10),
        ({"op": "move", "from": "/connect_timeout", "path": "/cleanup_interval"}, 0),
    ],
    ids=["replace", "add", "remove", "test", "copy", "move"],
)
def test_each_operation_changes_what_its_pointer_names(operation: dict[str, Any], seconds: int) -> None:
    made = world(policy(("cluster", SHARED, operation)))

    assert cluster(made).connect_timeout.seconds == seconds
    assert cluster(made).cleanup_interval.seconds == (10 if "from" in operation else 0)
    assert words(made)[0] == "Programmed"


def test_a_number_may_be_a_text_and_a_name_in_camel_case() -> None:
    made = world(policy(
        ("listener", TABLE, {"op": "replace", "path": "/per_connection_buffer_limit_bytes", "value": "1024"}),
        ("cluster", SHARED, {"op": "add", "path": "/circuit_breakers", "value": {
            "perHostThresholds": [{"maxConnections": 7}]}}),
    ))  # fmt: skip

    held = made.resource(EG_FLEET, LISTENER, TABLE)
    assert held is not None
    assert Listener.FromString(held.body).per_connection_buffer_limit_bytes.value == 1024
    assert cluster(made).circuit_breakers.per_host_thresholds[0].max_connections.value == 7


def test_an_extension_that_moongate_does_not_use_can_be_added() -> None:
    """Its message is known once it is named."""
    config = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    echo = {"name": "echo", "typed_config": config}
    place = "/default_filter_chain/filters/0"
    made = world(policy(("listener", TABLE, {"op": "add", "path": place, "value": echo})))

    held = made.resource(EG_FLEET, LISTENER, TABLE)
    assert held is not None
    filters = Listener.FromString(held.body).default_filter_chain.filters
    assert [each.name for each in filters] == ["echo", "envoy.filters.network.http_connection_manager"]


def test_a_resource_that_holds_a_message_of_which_nothing_is_imported_is_patched() -> None:
    """Some of what moongate builds is written without its type. Here a fresh process does so."""
    script = """
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.any_pb2 import Any
from moongate.api.base import Ref
from moongate.xds import json_patches
from moongate.xds.patches import Patch
from moongate.xds.wire import LISTENER, XdsResource, encode

listener = Listener(name="a")
filter = listener.listener_filters.add(name="dubbo")
of = "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy"
filter.typed_config.type_url = f"type.googleapis.com/{of}"
operation = b'{"op": "add", "path": "/stat_prefix", "value": "b"}'
owner = Ref("EnvoyPatchPolicy", "default", "p", "gateway.envoyproxy.io")
patch = Patch(owner, "spec.jsonPatches[0]", operation)
changed = json_patches.apply(XdsResource.of(LISTENER, "a", encode(listener)), LISTENER, "a", patch)
listener.stat_prefix = "b"
assert Listener.FromString(changed.body) == listener
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_an_unknown_message_is_refused_with_its_name() -> None:
    config = {"@type": "type.googleapis.com/os.path.Join"}
    value = {"name": "x", "typed_config": config}
    place = "/default_filter_chain/filters/0"
    made = world(policy(("listener", TABLE, {"op": "add", "path": place, "value": value})))

    reason, line = words(made)
    assert (reason, "os.path.Join" in line) == ("Invalid", True)


def test_parents_that_an_add_lacks_are_made() -> None:
    made = world(policy(
        ("cluster", SHARED, {
            "op": "add", "path": "/circuit_breakers/per_host_thresholds/0/max_connections", "value": 5}),
        ("cluster", SHARED, {
            "op": "add", "path": "/metadata/filter_metadata/mine/list/-", "value": "x"}),
    ))  # fmt: skip

    assert words(made)[0] == "Programmed"
    assert cluster(made).circuit_breakers.per_host_thresholds[0].max_connections.value == 5
    assert (
        cluster(made).metadata.filter_metadata["mine"].fields["list"].list_value.values[0].string_value == "x"
    )


TABLES = ("$..routes[?(@.match.prefix == '/')]", "..routes[?(@.name =~ /default.r/)]",
          "$.virtual_hosts[*].routes[?search(@.name, 'r[0-9]')]")  # fmt: skip


@pytest.mark.parametrize("json_path", TABLES)
@pytest.mark.parametrize("path", ["decorator/operation", "/decorator/operation"])
def test_a_json_path_stands_for_all_places_that_it_finds(json_path: str, path: str) -> None:
    made = world(
        policy(("route", TABLE, {"op": "add", "jsonPath": json_path, "path": path, "value": "mine"})),
        routes=2,
    )

    held = made.resource(EG_FLEET, ROUTE, TABLE)
    assert held is not None
    hosts = RouteConfiguration.FromString(held.body).virtual_hosts
    assert [route.decorator.operation for host in hosts for route in host.routes] == ["mine", "mine"]


def test_of_several_places_all_are_changed_or_none() -> None:
    """The second route has no header to remove."""
    field = "include_request_attempt_count"
    one = {"op": "add", "path": f"/virtual_hosts/0/{field}", "value": True}
    all_ = {"op": "remove", "jsonPath": "$.virtual_hosts[*]", "path": field}
    made = world(policy(("route", TABLE, one), ("route", TABLE, all_)), routes=2)

    held = made.resource(EG_FLEET, ROUTE, TABLE)
    assert held is not None
    hosts = RouteConfiguration.FromString(held.body).virtual_hosts
    assert [host.include_request_attempt_count for host in hosts] == [True, False]
    assert words(made)[1].startswith("spec.jsonPatches[1]: ")


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ({"op": "replace", "path": "/gone", "value": 1}, "replace at '/gone'"),
        ({"op": "add", "path": "/gone", "value": 1}, 'no field named "gone"'),
        ({"op": "test", "path": "/name", "value": "x"}, "test at '/name'"),
        ({"op": "add", "jsonPath": "$.gone", "path": "x", "value": 1}, "finds nothing"),
        ({"op": "add", "jsonPath": "$", "path": "x", "value": 1}, "the whole resource"),
        ({"op": "add", "jsonPath": "$.[", "path": "x", "value": 1}, "cannot be read"),
        ({"op": "add", "value": {"name": "x"}}, "needs path or jsonPath"),
        ({"op": "add", "path": "/name"}, "op add needs value"),
        ({"op": "remove", "path": "/name", "value": 1}, "op remove takes no value"),
        ({"op": "move", "path": "/name"}, "op move needs from"),
        ({"op": "add", "path": "name", "value": 1}, "begins with a slash"),
        ({"op": "replace", "path": "/name", "value": "other"}, "by which the resource is known"),
        ({"op": "replace", "path": "", "value": "other"}, "by which the resource is known"),
        ({"op": "add", "path": "", "value": {"connect_timeout": "1s"}}, "needs name"),
        ({"op": "replace", "path": "/connect_timeout", "value": "soon"}, "connect_timeout"),
    ],
)
def test_a_patch_that_cannot_be_applied_changes_nothing_and_says_why(
    operation: dict[str, Any], said: str
) -> None:
    other = {"op": "add", "path": "/cleanup_interval", "value": "7s"}
    made = world(policy(("cluster", SHARED, operation), ("cluster", SHARED, other)))

    reason, *lines = words(made)
    assert reason == "Invalid"
    assert said in "\n".join(lines)
    assert lines[0].startswith("spec.jsonPatches[0]: ")
    assert (cluster(made).connect_timeout.seconds, cluster(made).cleanup_interval.seconds) == (10, 7)


def test_a_resource_that_is_not_there_is_named() -> None:
    made = world(policy(("cluster", "nobody", {"op": "remove", "path": "/connect_timeout"})))

    assert words(made) == [
        "ResourceNotFound", f"spec.jsonPatches[0]: There is no {CLUSTER}/nobody."
    ]  # fmt: skip
    made.apply({each.ref: None for each in worlds.routes_with_backends(1) if each.KIND == "HTTPRoute"})
    made.pull()
    assert words(made)[0] == "ResourceNotFound"


def test_a_patch_takes_hold_when_its_resource_appears_and_a_status_follows() -> None:
    made = world(
        policy(("cluster", SHARED, {"op": "add", "path": "/cleanup_interval", "value": "7s"})), routes=0
    )
    assert words(made)[0] == "ResourceNotFound"

    made.apply({each.ref: each for each in worlds.routes_with_backends(1)})
    made.pull()
    assert (words(made)[0], cluster(made).cleanup_interval.seconds) == ("Programmed", 7)

    made.apply({worlds.route(0).ref: None})
    made.pull()
    assert words(made)[0] == "ResourceNotFound"


MINE = {"op": "add", "path": "", "value": {"name": "mine", "connect_timeout": "1s"}}


def test_a_patch_can_make_a_resource_of_its_own_and_later_ones_change_it() -> None:
    change = {"op": "replace", "path": "/connect_timeout", "value": "2s"}
    made = world(policy(("cluster", "ignored", MINE), ("cluster", "mine", change)))
    assert cluster(made, "mine").connect_timeout.seconds == 2

    made.apply({policy().ref: None})
    assert made.pull().gone == {"default/eg": ((CLUSTER, "mine"),)}


def test_an_earlier_patch_of_a_resource_that_a_later_one_makes_finds_nothing() -> None:
    change = {"op": "replace", "path": "/connect_timeout", "value": "2s"}
    made = world(policy(("cluster", "mine", change), ("cluster", "ignored", MINE)))

    assert cluster(made, "mine").connect_timeout.seconds == 1
    assert words(made) == ["ResourceNotFound", f"spec.jsonPatches[0]: There is no {CLUSTER}/mine."]


def test_a_resource_of_a_patch_takes_the_place_of_one_that_is_built_and_gives_it_back() -> None:
    own = {"op": "add", "path": "", "value": {"name": SHARED, "cleanup_interval": "7s"}}
    made = world(policy(("cluster", "ignored", own)))
    assert (cluster(made).connect_timeout.seconds, cluster(made).cleanup_interval.seconds) == (0, 7)

    made.apply({worlds.route(0).ref: None})
    made.pull()
    assert cluster(made).cleanup_interval.seconds == 7, "nothing builds it any more, but the patch does"
    made.apply({worlds.route(0).ref: worlds.route(0, kind="Backend")})
    made.apply({policy().ref: None})
    made.pull()
    assert (cluster(made).connect_timeout.seconds, cluster(made).cleanup_interval.seconds) == (10, 0)


@pytest.mark.parametrize("type_", ["listener", "route", "cluster", "secret"])
def test_a_patch_can_make_a_resource_of_any_type(type_: str) -> None:
    made = world(policy((type_, "x", {"op": "add", "path": "", "value": {"name": "mine"}})))

    assert made.resource(EG_FLEET, TYPES[type_], "mine") is not None
    assert made.parts(EG_FLEET, TYPES[type_], "mine") == ()
    assert words(made)[0] == "Programmed"


PATHS = [
    "$[?@.x == 1e999]", "$[?@.x =~ /a{99999999999999999999}/]", f"$[{'9' * 5000}]", "$" + ".a" * 20_000,
    "$[?isinstance(@, 'x')]", "$..[?@ in @]", "$..[?1 in @]", "$..[?@ contains 1]", "$.~name", "$..~", "$|$",
]  # fmt: skip
POINTERS = [
    "/metadata/C:\\Users",
    "/a\\",
    "/\\x",
    "/\\ud800",
    "/a" * 1500,
    "/#name",
    "/~name",
    "/-/-",
    "/9999999",
]


@pytest.mark.parametrize(
    "place", [*({"jsonPath": path} for path in PATHS), *({"path": at} for at in POINTERS)], ids=str
)
@pytest.mark.parametrize(
    "rest", [{"op": "add", "value": "{"}, {"op": "remove"}, {"op": "move", "from": "/name"}]
)
def test_whatever_a_place_is_its_patch_alone_is_at_fault(place: dict[str, Any], rest: dict[str, Any]) -> None:
    """Whatever the libraries raise: no query fails, and the next patch is applied."""
    other = {"op": "add", "path": "/cleanup_interval", "value": "7s"}
    made = world(policy(("cluster", SHARED, {**rest, **place}), ("cluster", SHARED, other)))

    assert dict(made.failures()) == {}
    assert cluster(made).cleanup_interval.seconds == 7
    assert words(made)[1].startswith("spec.jsonPatches[0]: ")


@pytest.mark.parametrize(
    "value",
    [
        {"@type": "type.googleapis.com/google.protobuf.Struct"},
        {"@type": "type.googleapis.com/envoy._main.X"},
        {"@type": "type.googleapis.com/envoy.config.cluster.v3.cluster_pb2.X"},
        {"@type": "type.googleapis.com/envoy." + "a." * 5000},
        {"@type": "type.googleapis.com/google.protobuf.UInt64Value", "value": 10**30},
    ],
)
def test_whatever_a_value_is_its_patch_alone_is_at_fault(value: dict[str, Any]) -> None:
    place = "/typed_extension_protocol_options/x"
    made = world(policy(("cluster", SHARED, {"op": "add", "path": place, "value": value})))

    assert dict(made.failures()) == {}
    assert words(made)[0] == "Invalid"


def test_a_key_is_taken_as_it_is_written() -> None:
    place = "/metadata/filter_metadata/grün\\n"
    made = world(policy(("cluster", SHARED, {"op": "add", "path": place, "value": {"a": 1}})))

    assert list(cluster(made).metadata.filter_metadata) == ["grün\\n"]


def test_what_is_copied_to_many_places_is_what_was_there_before() -> None:
    """Otherwise it would double with each place."""
    copy = {
        "op": "copy",
        "jsonPath": "$.virtual_hosts[*]",
        "from": "/virtual_hosts/0/domains",
        "path": "domains",
    }
    made = world(policy(("route", TABLE, copy)), routes=40)

    held = made.resource(EG_FLEET, ROUTE, TABLE)
    assert held is not None
    assert {tuple(host.domains) for host in RouteConfiguration.FromString(held.body).virtual_hosts} == {
        ("h0.example.com",)
    }


def test_no_value_of_a_private_key_is_quoted() -> None:
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"tls_certificates": {"private_key": {"inline_string": "hunter2"}}},
    }
    value = {"name": "tls", "typed_config": context}
    made = world(policy(("cluster", SHARED, {"op": "add", "path": "/transport_socket", "value": value})))

    reason, line = words(made)
    assert (reason, "hunter2" in line) == ("Invalid", False)


def test_policies_are_applied_by_priority_and_then_by_age() -> None:
    def sets(seconds: int, name: str, priority: int, time: str) -> EnvoyPatchPolicy:
        value = {"op": "replace", "path": "/connect_timeout", "value": f"{seconds}s"}
        made = policy(("cluster", SHARED, value), name=name, priority=priority)
        return structs.replace(made, metadata=structs.replace(made.metadata, creation_timestamp=time))

    old, new = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
    assert cluster(world(sets(1, "a", 0, new), sets(2, "b", 0, old))).connect_timeout.seconds == 1
    assert cluster(world(sets(1, "a", 0, new), sets(2, "b", 1, old))).connect_timeout.seconds == 2


def test_the_secret_of_the_system_stays_as_it_is() -> None:
    own = {"op": "add", "path": "", "value": {"name": "system_ca_certificates"}}
    made = world(policy(("secret", "x", own)))

    assert words(made)[0] == "Invalid"
    assert made.resource(EG_FLEET, SECRET, "system_ca_certificates") is None


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "", "value": {"name": "mine", "generic_secret": {"hunter2": 1}}},
        {"op": "add", "path": "/generic_secret/secret/hunter2", "value": "hunter2"},
        {"op": "add", "jsonPath": "$.hunter2", "path": "x", "value": "hunter2"},
    ],
)
def test_nothing_of_a_secret_is_quoted(operation: dict[str, Any]) -> None:
    first: dict[str, Any] = {"op": "add", "path": "", "value": {"name": "mine", "generic_secret": {}}}
    made = world(policy(("secret", "mine", first), ("secret", "mine", operation)))

    reason, line = words(made)
    assert (reason, "hunter2" in line) == ("Invalid", False)


@pytest.mark.parametrize(
    ("type_", "path"), [("route", "/response_headers_to_remove/-"), ("listener", "/traffic_direction")]
)
def test_a_table_that_a_patch_names_stands_whole(type_: str, path: str) -> None:
    """A patch is written for the whole table, and for the filters of its connection manager."""
    flags = RuntimeFlags(enabled=(*ON_HOST.runtime_flags.enabled, "ScopedTables"))
    made = World(structs.replace(ON_HOST, runtime_flags=flags))
    made.apply({each.ref: each for each in worlds.routes_with_backends(1)})
    made.pull()
    assert SCOPE in made.xds()["default/eg"]

    value = "x" if type_ == "route" else "INBOUND"
    named = policy((type_, TABLE, {"op": "add", "path": path, "value": value}))
    made.apply({named.ref: named})
    made.pull()

    assert SCOPE not in made.xds()["default/eg"]
    assert words(made)[0] == "Programmed"


def test_a_rule_whose_cluster_a_patch_names_has_that_cluster() -> None:
    """Otherwise it uses the cluster of its backend, which other rules use, too."""
    own = "httproute/default/r0/rule/0"
    named = policy(("cluster", own, {"op": "add", "path": "/cleanup_interval", "value": "7s"}))
    made = world(routes=2)
    assert made.resource(EG_FLEET, CLUSTER, SHARED) is not None
    made.apply({named.ref: named})
    with made.ran() as ran:
        made.pull()

    assert (cluster(made, own).cleanup_interval.seconds, words(made)[0]) == (7, "Programmed")
    assert made.resource(EG_FLEET, CLUSTER, SHARED) is None
    assert ran.counts()["rule_destination"] == 1, "that of no other route"
    made.apply({named.ref: None})
    made.pull()
    assert made.resource(EG_FLEET, CLUSTER, own) is None
    assert made.resource(EG_FLEET, CLUSTER, SHARED) is not None


def test_the_cluster_of_a_rule_that_a_patch_names_is_that_of_all_listeners() -> None:
    """It means all requests of the rule, also of listeners whose policies say something else."""
    own = "httproute/default/r0/rule/0"
    limits = resource("BackendTrafficPolicy", "default", "b", {"spec": {
        "targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg", "sectionName": "more"}],
        "circuitBreaker": {"maxConnections": 22},
    }})  # fmt: skip
    made = world()
    two = worlds.gateway(worlds.http_listener("http"), worlds.http_listener("more", port=81))
    made.apply({two.ref: two, limits.ref: limits})
    made.pull()
    assert "/listener/default/eg/more" in str(made.xds()["default/eg"][CLUSTER])

    named = policy(("cluster", own, {"op": "add", "path": "/cleanup_interval", "value": "7s"}))
    made.apply({named.ref: named})
    made.pull()

    assert cluster(made, own).cleanup_interval.seconds == 7
    assert "/listener/default/eg/more" not in str(made.xds()["default/eg"][CLUSTER])


def test_a_changed_route_does_not_apply_patches_of_other_resources_again() -> None:
    made = world(
        policy(("listener", TABLE, {"op": "add", "path": "/traffic_direction", "value": "INBOUND"})), routes=3
    )
    edited = worlds.route(1, "/more", kind="Backend")
    made.apply({edited.ref: edited})
    with made.ran() as ran:
        made.pull()

    assert "result" not in ran.counts()
    assert "patch_policy_status" not in ran.counts()


def test_a_patch_of_a_table_leaves_matches_by_cookies_alone() -> None:
    """Our messages know no cookies: through JSON they were lost, and the route matched every request."""
    route = RouteConfiguration(name="table")
    match = route.virtual_hosts.add(name="host").routes.add().match
    match.MergeFromString(message_field(17, message_field(1, b"session")))
    before = XdsResource.of(ROUTE, "table", encode(route))
    operation = JSONPatchOperation(op="add", path="/max_direct_response_body_size_bytes", value=9)
    patch = Patch(Ref.of(EnvoyPatchPolicy, "default", "p"), "spec", msgspec.json.encode(operation))

    after = RouteConfiguration.FromString(apply(before, ROUTE, "table", patch).body)

    assert after.max_direct_response_body_size_bytes.value == 9
    assert after.virtual_hosts == route.virtual_hosts
    assert encode(after.virtual_hosts[0]) == encode(route.virtual_hosts[0])


def test_a_patch_of_one_envoy_route_is_passed_on_no_other() -> None:
    """It may be what says who may pass, and a connection that lacks a compressor would meet another route."""
    guard: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        "rbac": {},
    }
    at = "/virtual_hosts/0/routes/0/typed_per_filter_config"
    made = world(policy(("route", TABLE, {"op": "add", "path": f"{at}/guard", "value": guard})))
    compressor: list[Any] = [{"type": "Gzip", "gzip": {}, "minContentLength": "1Mi"}]
    target = {"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"}
    spec: dict[str, Any] = {"spec": {"targetRefs": [target], "compressor": compressor}}
    made.apply({(each := resource("BackendTrafficPolicy", "default", "c", spec)).ref: each})
    made.pull()

    table = made.resource(EG_FLEET, ROUTE, TABLE)
    assert table is not None
    first, second = RouteConfiguration.FromString(table.body).virtual_hosts[0].routes

    assert "guard" in first.typed_per_filter_config
    assert first.match.filter_state
    assert second.name == f"{first.name}/filter-missing"
    assert second.direct_response.status == 500
