"""How endpoints are chosen."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, WeightedCluster
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from moongate.api.cluster_settings import ConsistentHash, LoadBalancer, PreferLocal, ZoneAware
from moongate.engine import Db
from moongate.features.base import ClusterEdit, Effective, RouteEdit, Zones
from moongate.features.load_balancer import FEATURE
from moongate.translation import translate
from moongate.xds.wire import CLUSTER, encode
from tests.features.backends import OWNER, effective, faults, manifests, on_cluster, on_route, plain, refused

LOCALITY: dict[str, Any] = {"locality_lb_config": {"locality_weighted_lb_config": {}}}


def policy(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of the cluster's policy."""
    cluster, _ = on_cluster(FEATURE, spec)
    return named(cluster["load_balancing_policy"])


def named(policies: Any) -> tuple[str, dict[str, Any]]:
    [entry] = policies["policies"]
    config = dict(entry["typed_extension_config"]["typed_config"])
    kind = config.pop("@type")
    name = entry["typed_extension_config"]["name"].removeprefix("envoy.load_balancing_policies.")
    assert f".{name}." in kind
    return name, config


@pytest.mark.parametrize(
    ("kind", "name"), [("LeastRequest", "least_request"), ("Random", "random"), ("RoundRobin", "round_robin")]
)
def test_simple_types_heed_the_weights_of_backends(kind: str, name: str) -> None:
    """Each backendRef is a locality of the cluster, so that its weight counts."""
    assert policy({"type": kind}) == (name, LOCALITY)


@pytest.mark.parametrize("kind", ["LeastRequest", "RoundRobin"])
def test_a_new_endpoint_may_start_slowly(kind: str) -> None:
    _, config = policy({"type": kind, "slowStart": {"window": "1m"}})

    assert config == {**LOCALITY, "slow_start_config": {"slow_start_window": "60s"}}


def test_a_consistent_hash_is_maglev() -> None:
    spec = {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP", "tableSize": 5_000_011}}

    assert policy(spec) == ("maglev", {"table_size": "5000011"})


def test_a_consistent_hash_heeds_the_weights_of_zones() -> None:
    zones = {"zoneAware": {"weightedZones": [{"zone": "a", "weight": 2}]}}
    spec = {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}

    assert policy(spec | zones) == ("maglev", {"locality_weighted_lb_config": {}})
    assert policy(spec) == ("maglev", {})


@pytest.mark.parametrize(("size", "fault"), [(2, False), (1024, True), (65537, False), (65537 * 3, True)])
def test_a_table_size_must_be_prime(size: int, fault: bool) -> None:
    spec = {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP", "tableSize": size}}

    assert faults(FEATURE, spec) == (["consistentHash.tableSize"] if fault else [])


HASHES: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"type": "SourceIP"}, [{"connection_properties": {"source_ip": True}}]),
    ({"type": "Header", "header": {"name": "x-user"}}, [{"header": {"header_name": "x-user"}}]),
    (
        {"type": "Headers", "headers": [{"name": "x-user"}, {"name": "x-cart"}]},
        [{"header": {"header_name": "x-user"}}, {"header": {"header_name": "x-cart"}}],
    ),
    ({"type": "QueryParams", "queryParams": [{"name": "u"}]}, [{"query_parameter": {"name": "u"}}]),
    ({"type": "Cookie", "cookie": {"name": "c"}}, [{"cookie": {"name": "c"}}]),
    (
        {"type": "Cookie", "cookie": {"name": "c", "ttl": "1h", "attributes": {"b": "2", "a": "1"}}},
        [
            {
                "cookie": {
                    "name": "c",
                    "ttl": "3600s",
                    "attributes": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}],
                }
            }
        ],
    ),
]


@pytest.mark.parametrize(("hashed", "policies"), HASHES, ids=[spec["type"] for spec, _ in HASHES])
def test_what_is_hashed_is_the_routes_to_say(hashed: dict[str, Any], policies: list[dict[str, Any]]) -> None:
    """Attributes of cookies are sorted: maps have no order, and equal specs must give equal bytes."""
    route = on_route(FEATURE, {"type": "ConsistentHash", "consistentHash": hashed})

    assert route["route"] == {"hash_policy": policies}


def test_a_client_stays_with_one_of_several_backends() -> None:
    """Without it, the hash would choose among the endpoints of a backend that is chosen by chance."""
    split = RouteAction(weighted_clusters=WeightedCluster())
    route = on_route(
        FEATURE, {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}, action=split
    )

    assert route["route"]["weighted_clusters"] == {"use_hash_policy": True}


@pytest.mark.parametrize(
    ("hashed", "path"),
    [
        ({"type": "Header", "header": {"name": ""}}, "header"),
        ({"type": "Headers", "headers": [{"name": "a"}, {"name": ""}]}, "headers[1]"),
        ({"type": "Cookie", "cookie": {"name": ""}}, "cookie"),
        ({"type": "QueryParams", "queryParams": [{"name": ""}]}, "queryParams[0]"),
        ({"type": "Headers", "headers": [{"name": "a\nb"}]}, "headers[0]"),
        ({"type": "Cookie", "cookie": {"name": "a\r"}}, "cookie"),
    ],
)
def test_a_hash_of_nothing_is_a_fault(hashed: dict[str, Any], path: str) -> None:
    """Envoy would refuse the whole route configuration."""
    spec = {"type": "ConsistentHash", "consistentHash": hashed}

    assert faults(FEATURE, spec) == [f"consistentHash.{path}.name"]


@pytest.mark.parametrize("attributes", [{"": "a"}, {"a\n": "b"}, {"a": "\x00"}])
def test_an_attribute_of_a_cookie_that_no_header_can_have_is_a_fault(attributes: dict[str, str]) -> None:
    hashed = {"type": "Cookie", "cookie": {"name": "a", "attributes": attributes}}
    spec = {"type": "ConsistentHash", "consistentHash": hashed}

    assert faults(FEATURE, spec) == ["consistentHash.cookie.attributes"]


def test_backend_utilization_follows_what_backends_report() -> None:
    spec = {
        "type": "BackendUtilization",
        "slowStart": {"window": "30s"},
        "backendUtilization": {
            "blackoutPeriod": "10s",
            "weightExpirationPeriod": "1m",
            "weightUpdatePeriod": "0s",
            "errorUtilizationPenaltyPercent": 150,
            "metricNamesForComputingUtilization": ["named_metrics.foo"],
            "outOfBand": {"reportingPeriod": "5s"},
        },
    }

    assert policy(spec) == (
        "client_side_weighted_round_robin",
        {
            "blackout_period": "10s",
            "weight_expiration_period": "60s",
            "error_utilization_penalty": 1.5,
            "metric_names_for_computing_utilization": ["named_metrics.foo"],
            "slow_start_config": {"slow_start_window": "30s"},
            "enable_oob_load_report": True,
            "oob_reporting_period": "5s",
        },
    )


@pytest.mark.parametrize(("keep", "removed"), [(False, True), (True, False)])
def test_clients_do_not_see_how_busy_backends_are(keep: bool, removed: bool) -> None:
    spec = {"type": "BackendUtilization", "backendUtilization": {"keepResponseHeaders": keep}}

    names = on_route(FEATURE, spec).get("response_headers_to_remove", [])
    assert names == (["endpoint-load-metrics", "endpoint-load-metrics-bin"] if removed else [])


def test_a_request_may_name_its_endpoint() -> None:
    """What it falls back to is the bare policy of the type, as the reference builds it."""
    override = {"extractFrom": [{"header": "x-host"}, {"header": "x-other"}]}
    name, config = policy({"type": "RoundRobin", "endpointOverride": override, "slowStart": {"window": "1m"}})

    assert name == "override_host"
    assert config["override_host_sources"] == [{"header": "x-host"}, {"header": "x-other"}]
    assert named(config["fallback_policy"]) == ("round_robin", {})


def test_an_override_without_a_header_is_a_fault() -> None:
    spec = {"type": "Random", "endpointOverride": {"extractFrom": [{"header": "x"}, {}]}}

    assert faults(FEATURE, spec) == ["endpointOverride.extractFrom[1]"]


def test_an_override_by_what_no_header_is_called_is_a_fault() -> None:
    spec = {"type": "Random", "endpointOverride": {"extractFrom": [{"header": "a\nb"}]}}

    assert faults(FEATURE, spec) == ["endpointOverride.extractFrom[0].header"]


def test_a_dynamic_module_leaves_the_clusters_own_policy() -> None:
    """The reference does not build it either."""
    spec = {"type": "DynamicModule", "dynamicModule": {"name": "m", "lbPolicyName": "p"}}

    cluster, _ = on_cluster(FEATURE, spec)
    assert "load_balancing_policy" not in cluster


def test_settings_of_another_type_have_no_effect() -> None:
    """A merge lays a policy of one type over another's, and the settings of both remain."""
    other = ConsistentHash(type="SourceIP", table_size=4)
    merged = Effective(LoadBalancer(type="RoundRobin", consistent_hash=other), OWNER)
    assert FEATURE.check is not None
    assert FEATURE.route is not None
    edit = RouteEdit(Route(route=RouteAction()))

    FEATURE.route(edit, merged)

    assert list(FEATURE.check(Db(), merged)) == []
    assert not edit.message.route.hash_policy


def test_a_dynamic_module_has_no_zones_of_what_it_merges_into() -> None:
    merged = LoadBalancer(type="DynamicModule", zone_aware=ZoneAware(prefer_local=PreferLocal()))
    assert FEATURE.zones is not None

    assert FEATURE.zones(merged) is None


def test_where_requests_name_their_endpoint_there_is_nothing_to_balance() -> None:
    cluster = Cluster()
    cluster.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    cluster.load_balancing_policy.policies.add().typed_extension_config.name = "as-it-was"
    before = plain(cluster)
    assert FEATURE.cluster is not None

    FEATURE.cluster(ClusterEdit(cluster, HttpProtocolOptions()), effective(FEATURE, {"type": "Random"}))

    assert plain(cluster) == before


@pytest.mark.parametrize(
    ("spec", "alone"),
    [({"type": "Random"}, False), ({"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}, True)],
)
def test_a_hash_needs_all_endpoints_of_a_rule_in_one_cluster(spec: dict[str, Any], *, alone: bool) -> None:
    assert FEATURE.one_cluster is not None

    assert FEATURE.one_cluster(effective(FEATURE, spec).value) is alone


def test_a_load_report_that_a_rule_removes_itself_is_removed_once() -> None:
    assert FEATURE.route is not None
    edit = RouteEdit(Route(route=RouteAction(), response_headers_to_remove=["endpoint-load-metrics"]))

    FEATURE.route(edit, effective(FEATURE, {"type": "BackendUtilization", "backendUtilization": {}}))

    assert list(edit.message.response_headers_to_remove) == [
        "endpoint-load-metrics",
        "endpoint-load-metrics-bin",
    ]


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "ConsistentHash"},
        {"type": "Random", "consistentHash": {"type": "SourceIP"}},
        {"type": "Random", "slowStart": {"window": "1s"}},
        {"type": "ConsistentHash", "consistentHash": {"type": "Cookie"}},
        {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP", "header": {"name": "x"}}},
        {"type": "RoundRobin", "zoneAware": {"preferLocal": {}, "weightedZones": []}},
        {"type": "BackendUtilization", "backendUtilization": {"outOfBand": {"reportingPeriod": "0s"}}},
        {"type": "Random", "endpointOverride": {"extractFrom": []}},
        {"type": "RingHash"},
    ],
)
def test_settings_that_do_not_fit_the_type_are_refused(spec: dict[str, Any]) -> None:
    assert refused(FEATURE, spec) != []


def test_zones_are_chosen_by_weight_or_by_the_proxys_own() -> None:
    assert FEATURE.zones is not None
    cases: list[tuple[dict[str, Any], Zones | None]] = [
        ({"weightedZones": [{"zone": "a", "weight": 2}]}, Zones((("a", 2),))),
        ({"preferLocal": {}}, Zones()),
        ({}, None),
    ]
    for aware, expected in cases:
        assert FEATURE.zones(effective(FEATURE, {"type": "Random", "zoneAware": aware}).value) == expected


def test_the_thresholds_of_a_zone_are_those_of_the_crd() -> None:
    """Six endpoints in all, and one in the zone of the proxy."""
    local: dict[str, Any] = {"preferLocal": {"percentageEnabled": 20, "force": {}}}
    cluster, _ = on_cluster(FEATURE, {"type": "RoundRobin", "zoneAware": local})

    assert named(cluster["load_balancing_policy"])[1]["locality_lb_config"] == {
        "zone_aware_lb_config": {
            "routing_enabled": {"value": 20.0},
            "min_cluster_size": "6",
            "force_local_zone": {"min_size": 1},
        }
    }


def test_localities_are_backends_where_these_share_a_cluster() -> None:
    """They carry the weights of the backends then."""
    assert FEATURE.cluster is not None
    edit = ClusterEdit(Cluster(), HttpProtocolOptions(), backends=2)
    FEATURE.cluster(edit, effective(FEATURE, {"type": "Random", "zoneAware": {"preferLocal": {}}}))

    assert named(plain(edit.message)["load_balancing_policy"])[1]["locality_lb_config"] == {
        "locality_weighted_lb_config": {}
    }


HASH: dict[str, Any] = {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}
UTILIZATION: dict[str, Any] = {"type": "BackendUtilization", "backendUtilization": {}}


@pytest.mark.parametrize(("spec", "name"), [(HASH, "maglev"), (UTILIZATION, "wrr_locality")])
def test_backends_that_share_a_cluster_keep_their_weights(spec: dict[str, Any], name: str) -> None:
    """Alone or below ``endpointOverride``; else a canary of weight 1 in 10 would get half of the users."""
    assert FEATURE.cluster is not None
    for override in ({}, {"endpointOverride": {"extractFrom": [{"header": "x-endpoint"}]}}):
        edit = ClusterEdit(Cluster(), HttpProtocolOptions(), backends=2)
        FEATURE.cluster(edit, effective(FEATURE, {**spec, **override}))

        chosen = named(plain(edit.message)["load_balancing_policy"])
        if override:
            chosen = named(chosen[1]["fallback_policy"])

        assert chosen[0] == name
        assert name != "maglev" or chosen[1] == {"locality_weighted_lb_config": {}}


def test_a_policy_goes_before_the_service() -> None:
    assert FEATURE.cluster is not None
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"zone_aware_lb_config": {"min_cluster_size": "1"}}),
        ({"zoneAware": {"preferLocal": {}}}, {"zone_aware_lb_config": {"min_cluster_size": "6"}}),
        ({"zoneAware": {"weightedZones": [{"zone": "a", "weight": 1}]}}, {"locality_weighted_lb_config": {}}),
    ]
    for aware, expected in cases:
        local = PreferLocal(min_endpoints_threshold=1)
        edit = ClusterEdit(Cluster(), HttpProtocolOptions(), local=local)
        FEATURE.cluster(edit, effective(FEATURE, {"type": "RoundRobin", **aware}))

        assert named(plain(edit.message)["load_balancing_policy"])[1]["locality_lb_config"] == expected


def test_a_share_of_zero_is_a_fault() -> None:
    """Envoy would refuse all endpoints of the cluster."""
    zones = [{"zone": "a", "weight": 1}, {"zone": "b", "weight": 0}]
    spec = {"type": "Random", "zoneAware": {"weightedZones": zones}}

    assert faults(FEATURE, spec) == ["zoneAware.weightedZones[1].weight"]
    local = {"minEndpointsThreshold": -1, "force": {"minEndpointsInZoneThreshold": -1}}
    assert faults(FEATURE, {"type": "Random", "zoneAware": {"preferLocal": local}}) == [
        "zoneAware.preferLocal.minEndpointsThreshold",
        "zoneAware.preferLocal.force.minEndpointsInZoneThreshold",
    ]


def test_where_load_is_asked_for_is_in_fields_that_the_modules_do_not_know() -> None:
    """Envoy has them since 1.39: field 9, with a port (1) and an authority (2)."""
    assert FEATURE.cluster is not None
    band = {"port": 9001, "authority": "load.test"}
    edit = ClusterEdit(Cluster(), HttpProtocolOptions())
    spec = {"type": "BackendUtilization", "backendUtilization": {"outOfBand": band}}
    FEATURE.cluster(edit, effective(FEATURE, spec))

    assert b"\x4a\x0e\x08\xa9\x46\x12\x09load.test" in encode(edit.message)


def test_a_dynamic_module_is_pointed_out() -> None:
    assert FEATURE.hints is not None
    module = {"name": "balancer", "lbPolicyName": "by-name"}
    value = effective(FEATURE, {"type": "DynamicModule", "dynamicModule": module}).value

    assert [hint.path for hint in FEATURE.hints(value)] == ["type"]


def clusters(route_refs: list[dict[str, Any]], **service: Any) -> dict[str, Any]:
    """The clusters of a route to Services that say something about zones, by name."""
    documents = manifests({"timeout": {}})
    for document in documents:
        if document["kind"] == "HTTPRoute":
            document["spec"]["rules"] = [{"backendRefs": route_refs}]
        if document["kind"] == "Service":
            document["spec"] |= service.get("spec", {})
            document["metadata"]["annotations"] = service.get("annotations", {})
    xds = next(iter(translate(documents).xds.values()))
    return {name: plain(cluster) for name, cluster in xds[CLUSTER].items()}


SHOP = {"name": "shop", "port": 80}


@pytest.mark.parametrize(
    ("service", "least"),
    [
        ({"spec": {"trafficDistribution": "PreferClose"}}, 1),
        ({"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}, 3),
        ({"annotations": {"service.kubernetes.io/topology-mode": "Disabled"}}, None),
    ],
)
def test_a_service_says_where_its_requests_stay(service: dict[str, Any], least: int | None) -> None:
    [cluster] = clusters([SHOP], **service).values()

    _, built = named(cluster["load_balancing_policy"])
    assert built == (
        LOCALITY
        if least is None
        else {
            "locality_lb_config": {
                "zone_aware_lb_config": {
                    "min_cluster_size": str(least),
                    "force_local_zone": {"min_size": least},
                }
            }
        }
    )


def test_services_of_a_rule_have_clusters_of_their_own_then() -> None:
    """Else their localities would be the backends, and no zones."""
    refs = [{**SHOP, "weight": 1}, {**SHOP, "weight": 2}]

    apart = clusters(refs, spec={"trafficDistribution": "PreferClose"})
    together = clusters(refs)

    assert len(apart) == 2
    assert len(together) == 1
