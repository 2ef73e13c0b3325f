"""What is set for a rule or a listener; ``tests/cli/test_effective.py`` has the rest, as it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, cast

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from hypothesis import assume, given
from hypothesis import strategies as st

from moongate.api.admission import checked
from moongate.api.base import GATEWAY_GROUP, ListenerId, Model, Ref, fields_of
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute
from moongate.api.policy import PolicyTargetReferences
from moongate.effective_settings import effective_settings
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy, BackendTrafficPolicySpec
from moongate.world import World
from moongate.xds.clusters import cluster
from moongate.xds.destinations import rule_destination
from tests.core import EG, IN_CLUSTER, ON_HOST, Core, allowing, gateway, http, listener_set, policy
from tests.routes import http_route, rule, service
from tests.strategies import BASE, TRAFFIC, resource
from tests.test_law import Xds, flat, law

NOWHERE = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: lost, namespace: default}
    spec: {parentRefs: [{name: eg, sectionName: none}], rules: [{}]}
"""
ROUTING = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: BackendTrafficPolicy
    metadata: {name: all, namespace: default}
    spec:
      targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
      routingType: Service
"""
CORE = Core(gateway(http("http")), NOWHERE, ROUTING)
ON_TWO_LISTENERS = (gateway(http("http"), http("other", port=81)), service(), http_route(rule()))
SHOP = Ref.of(HTTPRoute, "default", "shop")


def test_a_route_that_no_listener_takes_has_no_settings() -> None:
    assert effective_settings(CORE.db, Ref.of(HTTPRoute, "default", "lost")) == ()


def test_a_field_that_is_no_feature_is_shown_too() -> None:
    scopes = effective_settings(CORE.db, Ref.of(Gateway, "default", "eg"), "http")

    assert scopes is not None
    [[setting]] = [scope.settings for scope in scopes]
    assert (setting.field, setting.value, setting.owner.name) == ("routingType", "Service", "all")


def test_what_does_not_exist_is_not_empty() -> None:
    assert effective_settings(CORE.db, Ref.of(Gateway, "default", "none")) is None
    assert effective_settings(CORE.db, Ref.of(Gateway, "default", "eg"), "none") == ()


def test_a_policy_that_its_port_rules_out_is_not_in_force_and_refuses_nothing() -> None:
    """It would apply to the other listener of the port as well, so requests are served without it."""
    spec = "{connection: {bufferLimit: 1Mi}, tcpKeepalive: {probes: 200}}"
    one = policy("ClientTrafficPolicy", spec, target="Gateway/eg/a")
    core = Core(gateway(http("a", "a.example.com"), http("b", "b.example.com")), one)

    scopes = effective_settings(core.db, Ref.of(Gateway, "default", "eg"), "a")

    assert scopes is not None
    [scope] = scopes
    assert sorted(setting.field for setting in scope.settings) == [
        "connection.bufferLimit",
        "tcpKeepalive.probes",
    ]
    assert all("shares its port" in setting.fault for setting in scope.settings)
    assert scope.refused == ()


def test_a_gateway_has_the_listeners_of_its_sets() -> None:
    core = Core(
        gateway(http("http"), allowedListeners=allowing("Same")), listener_set(http("other", port=81))
    )

    scopes = effective_settings(core.db, Ref.of(Gateway, "default", "eg"))

    assert scopes is not None
    assert [(scope.listener.owner.kind, scope.listener.name) for scope in scopes] == [
        ("Gateway", "http"),
        ("ListenerSet", "other"),
    ]


def test_the_fault_of_an_entry_of_a_list_is_the_fault_of_its_field() -> None:
    page = {"type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": "none"}}
    override = {"match": {"statusCodes": [{"value": 500}]}, "response": {"body": page}}

    scopes = effective_settings(world_of({}, {"responseOverride": [override]}).db, ROUTE)

    assert scopes
    faults = {each.fault for each in scopes[0].settings if each.field.startswith("responseOverride[0]")}
    [fault] = faults
    assert "none" in fault


WIDE, NARROW = (Ref.of(BackendTrafficPolicy, "default", name) for name in ("wide", "narrow"))
ROUTE = Ref.of(HTTPRoute, "default", "r0")
OF_ONE_NAME = frozenset({"rateLimit", "responseOverride"})
"""Fields whose filters and counters have the name of their policy."""


def test_entries_of_a_list_have_owners_of_their_own() -> None:
    """Lists that merge by a type have entries of both policies."""
    wide: dict[str, Any] = {"compressor": [{"type": "Brotli", "brotli": {}}]}
    narrow: dict[str, Any] = {"compressor": [{"type": "Gzip", "gzip": {}}]}
    scopes = effective_settings(world_of(wide, {**narrow, "mergeType": "StrategicMerge"}).db, ROUTE)
    assert scopes

    assert [
        (each.field, each.value, each.owner) for each in scopes[0].settings if each.kind == WIDE.kind
    ] == [
        ("compressor[0].type", "Gzip", NARROW),
        ("compressor[0].gzip", {}, NARROW),
        ("compressor[1].type", "Brotli", WIDE),
        ("compressor[1].brotli", {}, WIDE),
    ]


def test_each_leaf_of_three_policies_about_clients_has_the_owner_that_sets_it() -> None:
    """In one field as well, where references are to the namespace of who writes them."""
    clients = "ClientTrafficPolicy"
    top = "{connection: {bufferLimit: 1Mi, maxAcceptPerSocketEvent: 4}, path: {disableMergeSlashes: true}}"
    middle = "{mergeType: JSONMerge, connection: {bufferLimit: 2Mi, connectionLimit: {value: 9}}}"
    own = "{mergeType: JSONMerge, connection: {bufferLimit: 3Mi}, timeout: {http: {idleTimeout: 5s}}}"
    core = Core(
        gateway(http("http"), allowedListeners=allowing("Same")),
        listener_set(http("other", port=81)),
        policy(clients, top, name="top", target="Gateway/eg"),
        policy(clients, middle, name="middle", target="ListenerSet/more"),
        policy(clients, own, name="own", target="ListenerSet/more/other"),
    )

    scopes = effective_settings(core.db, Ref.of(Gateway, "default", "eg"), "other")

    assert scopes is not None
    assert {each.field: (each.value, each.owner.name) for each in scopes[0].settings} == {
        "connection.bufferLimit": ("3Mi", "own"),
        "connection.connectionLimit.value": (9, "middle"),
        "connection.maxAcceptPerSocketEvent": (4, "top"),
        "path.disableMergeSlashes": (True, "top"),
        "timeout.http.idleTimeout": ("5s", "own"),
    }


COMPRESSED: dict[str, Any] = {"compressor": [{"type": "Zstd", "zstd": {}}]}
RESPONSES: dict[str, Any] = {"bandwidthLimit": {"response": {"limit": {"value": 9999, "unit": "Second"}}}}


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        (COMPRESSED, "compressor[0].type"),
        ({"compressor": [{"type": "Zstd"}]}, "compressor[0].type"),
        (RESPONSES, "bandwidthLimit.response.limit.value"),
    ],
)
def test_a_field_of_several_features_is_shown_whichever_it_concerns(
    fields: dict[str, Any], leaf: str
) -> None:
    scopes = effective_settings(world_of({}, fields).db, ROUTE)
    assert scopes

    assert leaf in {each.field for each in scopes[0].settings}


def document(name: str, target: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind, target_name = target.split("/")
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"targetRefs": [{"group": GATEWAY_GROUP, "kind": kind, "name": target_name}], **fields},
    }


def world_of(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> World:
    """``BASE`` with one policy of the Gateway and one of a route."""
    policies = [
        resource(WIDE.kind, "default", "wide", document("wide", "Gateway/eg", wide)),
        resource(NARROW.kind, "default", "narrow", document("narrow", "HTTPRoute/r0", narrow)),
    ]
    batch = {ref: each for ref, each in BASE.items() if ref.kind != WIDE.kind}
    return World.of([*(each for each in batch.values() if each is not None), *policies], EnvoyGateway())


def of_policy(world: World, policy: Ref) -> dict[str, Any]:
    """What a policy itself says: leaf → value."""
    resource = world.store.resources()[policy]
    assert isinstance(resource, BackendTrafficPolicy)
    spec = resource.spec
    said = {f.encode_name: getattr(spec, f.name) for f in fields_of(type(spec)) if f.encode_name in FIELDS}
    return dict(leaf for name, value in said.items() if value is not None for leaf in leaves(value, name))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    match value:
        case Model():
            below = [(f"{path}.{f.encode_name}", getattr(value, f.name)) for f in fields_of(type(value))]
            below = [(at, each) for at, each in below if each not in (None, (), {})]
        case dict():
            below = [(f"{path}.{key}", each) for key, each in cast("dict[str, Any]", value).items()]
        case tuple():
            below = [(f"{path}[{n}]", each) for n, each in enumerate(cast("tuple[Any, ...]", value))]
            below = below if any(isinstance(each, Model) for _, each in below) else []
        case _:
            below = []
    if not below:
        yield path, msgspec.to_builtins(value)
    for at, each in below:
        yield from leaves(each, at)


FIELDS = {f.encode_name for f in fields_of(BackendTrafficPolicySpec)} - {
    *(f.encode_name for f in fields_of(PolicyTargetReferences)),
    "mergeType",
}
fields = st.lists(st.sampled_from(TRAFFIC), max_size=5).map(
    lambda some: {name: value for fields in some for name, value in fields.items()}
)
"""What a policy may say: fields of several small policies together."""


@law
@given(fields, fields, st.sampled_from(["StrategicMerge", "JSONMerge"]))
def test_each_leaf_is_of_the_policy_that_has_it_and_wins(
    wide: dict[str, Any], narrow: dict[str, Any], merge_type: str
) -> None:
    warm = world_of(wide, {**narrow, "mergeType": merge_type})
    below, above = of_policy(warm, WIDE), of_policy(warm, NARROW)
    scopes = effective_settings(warm.db, ROUTE)
    assert scopes

    for scope in scopes:
        of_policies = [each for each in scope.settings if each.kind == WIDE.kind]
        assert {each.owner for each in of_policies} <= {WIDE, NARROW}
        for each in of_policies:
            if each.owner == NARROW:
                assert above[each.field] == each.value
            else:
                # Entries of a list that both have stand behind those of the route's.
                assert each.field not in above
                assert each.value in [value for path, value in below.items() if alike(path, each.field)]
        # What is at its default in an object is not shown.
        fields_shown = {re.split(r"[.[]", each.field)[0] for each in of_policies}
        assert fields_shown == {re.split(r"[.[]", path)[0] for path in above.keys() | below.keys()}


def alike(path: str, other: str) -> bool:
    """Whether two paths are the same but for places in lists."""
    return re.sub(r"\[\d+\]", "[]", path) == re.sub(r"\[\d+\]", "[]", other)


@law
@given(fields, fields, st.sampled_from(["StrategicMerge", "JSONMerge"]))
def test_what_is_shown_is_what_envoy_gets(
    wide: dict[str, Any], narrow: dict[str, Any], merge_type: str
) -> None:
    """Whoever writes what is shown into one policy gets the same routes, clusters and endpoints."""
    wide = {name: value for name, value in wide.items() if name not in OF_ONE_NAME}
    narrow = {name: value for name, value in narrow.items() if name not in OF_ONE_NAME}
    merged = world_of(wide, {**narrow, "mergeType": merge_type})
    shown: dict[str, Any] = {}
    for scope in effective_settings(merged.db, ROUTE) or ():
        for each in scope.settings:
            if each.kind == WIDE.kind:
                put(shown, each.field, each.value)

    # A merge may leave settings of another type, which a policy alone cannot have.
    spec = msgspec.json.encode(document("narrow", "HTTPRoute/r0", shown)["spec"])
    assume(not checked(BackendTrafficPolicySpec, msgspec.json.decode(spec))[1])

    assert changed(flat(merged), flat(world_of(wide, shown))) == []


@pytest.mark.parametrize("shared_by", ["a patch that names it", "Envoy Gateway's rules"])
def test_where_all_listeners_share_the_cluster_of_a_rule_they_have_the_settings_of_the_first(
    shared_by: str,
) -> None:
    """What is about routes is their own. One field may have both."""
    limit, patience = "circuitBreaker: {maxConnections: 22}", "timeout: {http: {requestTimeout: 9s}}"
    patch = """
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: EnvoyPatchPolicy
        metadata: {name: patch, namespace: default}
        spec:
          targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: eg}
          type: JSONPatch
          jsonPatches:
          - type: type.googleapis.com/envoy.config.cluster.v3.Cluster
            name: httproute/default/shop/rule/0
            operation: {op: add, path: /cleanup_interval, value: 7s}
    """
    manifests = (
        *ON_TWO_LISTENERS,
        policy(WIDE.kind, "circuitBreaker: {maxConnections: 11}", name="wide", target="Gateway/eg"),
        policy(WIDE.kind, f"{{{limit}, {patience}, retry: {{}}}}", name="narrow", target="Gateway/eg/other"),
    )
    core = Core(*manifests, config=ON_HOST)

    def shown() -> dict[str, tuple[Any, str, bool]]:
        [scope] = [each for each in effective_settings(core.db, SHOP) or () if each.listener.name == "other"]
        return {each.field: (each.value, each.owner.name, bool(each.fault)) for each in scope.settings}

    before = shown()
    assert before["circuitBreaker.maxConnections"] == (22, "narrow", False)
    assert before["timeout.http.requestTimeout"] == ("9s", "narrow", False)

    if shared_by == "a patch that names it":
        core.apply(patch)
    else:
        core = Core(*manifests, config=IN_CLUSTER)
    [message] = clusters_on(core, "other")
    assert message.circuit_breakers.thresholds[0].max_connections.value == 11
    assert shown() == before | {
        "circuitBreaker.maxConnections": (11, "wide", False),
        "timeout.http.requestTimeout": ("9s", "narrow", True),
    }


@law
@given(fields, fields)
def test_what_is_shown_for_a_listener_is_what_its_clusters_have(
    wide: dict[str, Any], narrow: dict[str, Any]
) -> None:
    """A Gateway that says only that gives the rule the same clusters, by name and weight apart."""
    assume(is_valid(wide) and is_valid(narrow))
    of_gateway, of_listener = (json.dumps(each) for each in (wide, narrow))
    core = Core(
        *ON_TWO_LISTENERS,
        policy(WIDE.kind, of_gateway, name="wide", target="Gateway/eg"),
        policy(WIDE.kind, of_listener, name="narrow", target="Gateway/eg/other"),
        config=ON_HOST,
    )
    for name in ("http", "other"):
        [scope] = [s for s in effective_settings(core.db, SHOP) or () if s.listener.name == name]
        shown: dict[str, Any] = {}
        for each in scope.settings:
            put(shown, each.field, each.value)
        alone = Core(
            *ON_TWO_LISTENERS,
            policy(WIDE.kind, json.dumps(shown), name="wide", target="Gateway/eg"),
            config=ON_HOST,
        )

        assert clusters_on(core, name) == clusters_on(alone, name)


def is_valid(fields: Mapping[str, Any]) -> bool:
    """Whether a policy may say all of this together."""
    spec = msgspec.json.encode(document("one", "Gateway/eg", fields)["spec"])
    return not checked(BackendTrafficPolicySpec, msgspec.json.decode(spec))[1]


def clusters_on(core: Core, listener: str) -> list[Cluster]:
    """The clusters of the rule of ``ON_TWO_LISTENERS`` on a listener, without what has their names."""
    messages: list[Cluster] = []
    for key in rule_destination(core.db, ListenerId(EG, EG, listener), SHOP, 0).clusters():
        built = cluster(core.db, key)
        assert built is not None
        message = Cluster.FromString(built.body)
        for field in ("name", "eds_cluster_config", "metadata"):
            message.ClearField(field)
        messages.append(message)
    return messages


def changed(one: Xds, other: Xds) -> list[str]:
    """The names of what differs."""
    return [
        f"{fleet} {key}"
        for fleet in one
        for key in one[fleet].keys() | other[fleet].keys()
        if one[fleet].get(key) != other[fleet].get(key)
    ]


def put(into: Any, path: str, value: Any) -> None:
    """Put a leaf where it belongs; entries of lists come in their order."""
    *parts, last = re.findall(r"[^.\[\]]+|(?<=\[)\d+(?=\])", path)
    for part, following in pairwise([*parts, last]):
        empty: Any = [] if following.isdigit() else {}
        if isinstance(into, list):
            entries = cast("list[Any]", into)
            entries += [empty] if int(part) == len(entries) else []
            into = entries[int(part)]
        else:
            into = into.setdefault(part, empty)
    if isinstance(into, list):
        cast("list[Any]", into).append(value)
    else:
        into[last] = value
