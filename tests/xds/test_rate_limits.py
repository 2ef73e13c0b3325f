"""What the rate limit service is told."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.json_format import MessageToDict

from moongate.api.envoygateway import EnvoyGateway
from moongate.rate_limits.config import Limits
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig
from moongate.world import World
from moongate.xds import rate_limits
from moongate.xds.rate_limits import SERVICE
from moongate.xds.wire import CLUSTER
from tests.strategies import resource
from tests.worlds import EG_FLEET, gateway, gateway_class, http_listener, routes_with_services

HOUR = {"requests": 5, "unit": "Hour"}


def world(*policies: Any, routes: int = 2, config: EnvoyGateway | None = None) -> World:
    infrastructure = (gateway_class(), gateway(http_listener("http")))
    return World.of([*infrastructure, *routes_with_services(routes), *policies], config)


def policy(name: str, target: str, rules: list[dict[str, Any]], **spec: Any) -> Any:
    kind = "Gateway" if target == "eg" else "HTTPRoute"
    ref = {"group": "gateway.networking.k8s.io", "kind": kind, "name": target}
    limits = {"rateLimit": {"global": {"rules": rules}}}
    return resource(
        "BackendTrafficPolicy", "default", name, {"spec": {"targetRefs": [ref], **limits, **spec}}
    )


def descriptors(of: World) -> dict[str, Any]:
    """The descriptors of each domain."""
    assert of.failures() == {}
    configs = {name: RateLimitConfig.FromString(each.body) for name, each in of.rate_limits().items()}
    assert all(config.name == config.domain == name for name, config in configs.items())
    return {
        name: MessageToDict(config, preserving_proto_field_name=True)["descriptors"]
        for name, config in configs.items()
    }


def chain(*entries: str, shadow: bool = False, **limit: Any) -> dict[str, Any]:
    """Descriptors one below the other, each written ``key=value`` or ``key``."""
    key, _, value = entries[0].partition("=")
    entry = {"key": key, **({"value": value} if value else {}), **({"shadow_mode": True} if shadow else {})}
    if entries[1:]:
        return {**entry, "descriptors": [chain(*entries[1:], shadow=shadow, **limit)]}
    return {**entry, "rate_limit": limit}


def same(key: str) -> str:
    return f"{key}={key}"


def test_each_route_has_limits_of_its_own() -> None:
    """They are of the listener's domain, and begin with the name of the Envoy route."""
    of = world(policy("p", "eg", [{"limit": HOUR}]))

    expected = [
        chain(
            same(f"httproute/default/r{n}/rule/0/match/0/h{n}_example_com"),
            same("rule-0-match--1"),
            unit="HOUR",
            requests_per_unit=5,
        )
        for n in range(2)
    ]
    assert descriptors(of) == {"default/eg/http": expected}


def test_a_shared_limit_is_told_once() -> None:
    """It is of the domain of its policy, whatever routes it is for."""
    of = world(policy("p", "eg", [{"limit": HOUR, "shared": True}]))

    limit = chain(same("default/p/rule/0"), same("rule-0-match--1"), unit="HOUR", requests_per_unit=5)
    assert descriptors(of) == {"default/p": [limit]}


SELECTORS: list[tuple[dict[str, Any], list[str]]] = [
    ({"headers": [{"name": "x", "value": "a"}]}, [same("rule-0-match-0")]),
    ({"headers": [{"name": "x", "type": "Distinct"}]}, ["rule-0-match-0"]),
    ({"methods": [{"value": "GET"}, {"value": "PUT"}]}, [same("rule-0-method")]),
    ({"path": {"value": "/a"}}, [same("rule-0-path")]),
    ({"sourceCIDR": {"value": "10.1.2.3/8"}}, ["masked_remote_address=10.0.0.0/8"]),
    ({"sourceCIDR": {"value": "10.0.0.0/8", "invert": True}}, ["masked_remote_address=invert:10.0.0.0/8"]),
    (
        {"sourceCIDR": {"value": "2001:db8::/32", "type": "Distinct"}},
        ["masked_remote_address=2001:db8::/32", "remote_address"],
    ),
    (
        {"queryParams": [{"name": "q", "value": "a"}, {"name": "r", "type": "Distinct"}]},
        [same("rule-0-match-0"), "rule-0-match-1"],
    ),
    (
        {
            "queryParams": [{"name": "q", "value": "a"}],
            "path": {"value": "/a"},
            "headers": [{"name": "x", "value": "a"}],
            "methods": [{"value": "GET"}],
            "sourceCIDR": {"value": "10.0.0.0/8"},
        },
        [
            same("rule-0-match-0"),
            same("rule-0-method"),
            same("rule-0-path"),
            "masked_remote_address=10.0.0.0/8",
            same("rule-0-match-1"),
        ],
    ),
]


@pytest.mark.parametrize(("selector", "entries"), SELECTORS)
def test_a_selector_becomes_the_entries_of_the_reference(
    selector: dict[str, Any], entries: list[str]
) -> None:
    """Redis counts by them, so that a count survives a move from the reference."""
    of = world(policy("p", "r0", [{"clientSelectors": [selector], "limit": HOUR, "shadowMode": True}]))

    [limit] = descriptors(of)["default/eg/http"]
    assert limit["descriptors"] == [chain(*entries, shadow=True, unit="HOUR", requests_per_unit=5)]


def test_rules_are_counted_within_their_domain() -> None:
    """Shared rules and others each begin at 0, as in the reference, but names count all rules."""
    path = {"clientSelectors": [{"path": {"value": "/a"}}]}
    rules = [
        {"limit": HOUR, "shared": True, **path},
        {"limit": HOUR, **path},
        {"limit": HOUR, "shared": True},
        {"limit": HOUR},
    ]
    of = world(policy("p", "r0", rules))

    [own] = descriptors(of)["default/eg/http"]
    assert [each["key"] for each in own["descriptors"]] == ["rule-0-path", "rule-1-match--1"]
    assert [(each["key"], each["descriptors"][0]["key"]) for each in descriptors(of)["default/p"]] == [
        ("default/p/rule/0", "rule-0-path"),
        ("default/p/rule/2", "rule-1-match--1"),
    ]


BLOCK = {"sourceCIDR": {"value": "10.0.0.0/8"}}
EACH = {"sourceCIDR": {"value": "10.0.0.0/8", "type": "Distinct"}}
MASKED = "masked_remote_address=10.0.0.0/8"


def asking(key: str, value: str) -> dict[str, Any]:
    return {**BLOCK, "queryParams": [{"name": key, "value": value}]}


@pytest.mark.parametrize(
    ("selectors", "paths"),
    [
        ([BLOCK, EACH], [[MASKED], [MASKED, "remote_address="]]),
        ([BLOCK, BLOCK], [[MASKED], [MASKED, same("rule-1-match--1")]]),
        (
            [EACH, EACH],
            [[MASKED, "remote_address="], [MASKED, "remote_address=", same("rule-1-match--1")]],
        ),
        (
            [asking("a", "b"), asking("a", "c")],
            [[MASKED, same("rule-0-match-0")], [MASKED, same("rule-1-match-0")]],
        ),
    ],
)
def test_rules_for_the_same_addresses_are_limits_of_their_own(
    selectors: list[dict[str, Any]], paths: list[list[str]]
) -> None:
    """The entries of addresses have no number, and a service refuses what it is told twice."""
    rules = [
        {"limit": {"requests": n, "unit": "Hour"}, "clientSelectors": [selector]}
        for n, selector in enumerate(selectors)
    ]
    of = world(policy("p", "r0", rules))
    domains = [RateLimitConfig.FromString(each.body) for each in of.rate_limits().values()]

    limits = {limit.requests: limit.path for limit in Limits(domains)}

    assert [[f"{key}={value}" for key, value in limits[n][1:]] for n in range(2)] == paths


def test_a_merged_policy_has_the_rules_of_both_under_their_own_names() -> None:
    """So a shared limit of the Gateway's policy is the same for routes that merge with it and for others."""
    wide = policy("wide", "eg", [{"limit": HOUR, "shared": True}])
    narrow = policy(
        "narrow", "r0", [{"limit": HOUR, "shared": True}, {"limit": HOUR}], mergeType="StrategicMerge"
    )
    of = world(wide, narrow)

    assert {name: [each["key"] for each in limits] for name, limits in descriptors(of).items()} == {
        "default/eg/http": ["httproute/default/r0/rule/0/match/0/h0_example_com"],
        "default/narrow": ["default/narrow/rule/0"],
        "default/wide": ["default/wide/rule/0"],
    }
    assert descriptors(of)["default/wide"] == descriptors(world(wide))["default/wide"]


def test_what_is_told_follows_the_policies() -> None:
    of = world(policy("p", "eg", [{"limit": HOUR}]), policy("q", "r1", [{"limit": HOUR, "shared": True}]))
    first = of.rate_limits()["default/eg/http"]

    changed = policy("p", "eg", [{"limit": {"requests": 6, "unit": "Hour"}}])
    of.apply({changed.ref: changed})
    changes = of.pull().limits

    assert changes.keys() == {"default/eg/http"}
    assert changes["default/eg/http"] == of.rate_limits()["default/eg/http"] != first

    of.apply({policy("q", "r1", []).ref: None})

    assert of.pull().limits.keys() == {"default/eg/http", "default/q"}
    assert of.rate_limits().keys() == {"default/eg/http"}


def test_a_rejected_gateway_keeps_its_limits() -> None:
    """Its Envoys go on with the routes that they have, which ask for these limits."""
    of = world(policy("p", "eg", [{"limit": HOUR}]))
    before = dict(of.rate_limits())
    rejected = gateway(http_listener("http"))
    broken = resource(
        "Gateway",
        "default",
        "eg",
        {
            "spec": {
                "gatewayClassName": "eg",
                "infrastructure": {
                    "parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "none"}
                },
                "listeners": [{"name": "other", "protocol": "HTTP", "port": 81}],
            }
        },
    )

    of.apply({broken.ref: broken})
    of.pull()
    assert of.rate_limits() == before

    of.apply({rejected.ref: rejected})
    of.pull()
    assert of.rate_limits() == before


def test_a_failed_route_keeps_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    of = world(policy("p", "eg", [{"limit": HOUR}]))
    before = descriptors(of)

    def fails(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(rate_limits, "is_scoped", fails)
    more = policy("p", "eg", [{"limit": {"requests": 6, "unit": "Hour"}}])
    of.apply({more.ref: more})
    of.pull()

    assert of.failures() != {}
    assert {name: config.body for name, config in of.rate_limits().items()}.keys() == before.keys()


@pytest.mark.parametrize(
    ("service", "address"),
    [
        ("/run/limits.sock", {"pipe": {"path": "/run/limits.sock"}}),
        ("127.0.0.1:9", {"socketAddress": {"address": "127.0.0.1", "portValue": 9}}),
        ("[::1]:9", {"socketAddress": {"address": "::1", "portValue": 9}}),
    ],
)
def test_the_service_is_where_who_runs_it_says(service: str, address: dict[str, Any]) -> None:
    of = world(policy("p", "eg", [{"limit": HOUR}]))
    of.write(SERVICE, service)
    of.pull()

    cluster = cluster_of(of)
    [locality] = cluster["loadAssignment"]["endpoints"]
    assert cluster["type"] == "STATIC"
    assert [each["endpoint"]["address"] for each in locality["lbEndpoints"]] == [address]
    assert "transportSocket" not in cluster


def test_without_a_service_calls_fail_at_once() -> None:
    """Nobody said where it is, and Envoy has no certificate for that of the reference."""
    assert cluster_of(world(policy("p", "eg", [{"limit": HOUR}]))) == {
        "name": "ratelimit_cluster",
        "type": "STATIC",
    }


def cluster_of(of: World) -> dict[str, Any]:
    cluster = of.resource(EG_FLEET, CLUSTER, "ratelimit_cluster")
    assert cluster is not None
    return MessageToDict(Cluster.FromString(cluster.body))


def test_nothing_is_told_where_nothing_is_limited() -> None:
    of = world(policy("p", "eg", []))

    assert of.rate_limits() == {}
