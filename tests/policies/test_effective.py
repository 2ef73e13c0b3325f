"""Two policies laid over each other, and what is wrong with the result."""

from __future__ import annotations

from typing import Any

import msgspec

from moongate.api.base import ObjectMeta, Ref
from moongate.api.httproute import HTTPRoute, HTTPRouteRule, HTTPRouteTimeouts
from moongate.attach.policies import Policy
from moongate.engine import Db
from moongate.features import client_timeout, timeout
from moongate.features.base import Effective
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy, BackendTrafficPolicySpec
from moongate.policies.client_traffic_policy import ClientTrafficPolicy, ClientTrafficPolicySpec
from moongate.policies.effective import (
    EffectivePolicy,
    RuleSettings,
    effective_policy,
    effective_rule,
    laid_over,
)
from moongate.store import Store
from tests.core import Core, gateway, http
from tests.routes import WEB, http_route

WIDE = Ref.of(BackendTrafficPolicy, "default", "wide")
NARROW = Ref.of(BackendTrafficPolicy, "default", "narrow")
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}
SHOP = Ref.of(HTTPRoute, "default", "shop")
GATEWAY_POLICY = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: wide, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
  retry: {numRetries: 3}
"""
ROUTE = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "shop"}


def merged(wide: dict[str, Any], narrow: dict[str, Any]) -> EffectivePolicy:
    """What holds where a route's policy merges into its Gateway's."""
    specs = {
        WIDE: {"targetRefs": [GATEWAY]} | wide,
        NARROW: {"targetRefs": [ROUTE], "mergeType": "StrategicMerge"} | narrow,
    }
    policies = [
        BackendTrafficPolicy(
            metadata=ObjectMeta(name=ref.name, namespace=ref.namespace),
            spec=msgspec.convert(spec, BackendTrafficPolicySpec),
        )
        for ref, spec in specs.items()
    ]
    return judged(*policies, owner=NARROW, parent=WIDE)


def judged(*policies: Policy, owner: Ref, parent: Ref | None = None) -> EffectivePolicy:
    db = Db()
    Store(db, ()).apply({policy.ref: policy for policy in policies})
    effective = effective_policy(db, owner, parent)
    assert effective is not None
    return effective


def settings(policy: EffectivePolicy) -> dict[str, Any]:
    return msgspec.to_builtins(policy.spec)


def test_what_a_policy_targets_is_not_merged() -> None:
    """One policy has ``targetRef``, the other ``targetRefs``: together they are no fault."""
    effective = merged(
        {"targetRefs": [], "targetRef": GATEWAY, "timeout": {"http": {"requestTimeout": "5s"}}},
        {"retry": {"numRetries": 3}},
    )

    assert effective.problems == ()
    assert effective.spec.target_ref is None
    assert settings(effective)["timeout"] == {"http": {"requestTimeout": "5s"}}


def test_a_merge_may_change_the_type_of_a_load_balancer() -> None:
    """What the other type had set remains, and no rule about it refuses the route's requests."""
    effective = merged(
        {"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}},
        {"loadBalancer": {"type": "RoundRobin"}},
    )

    assert effective.problems == ()
    assert settings(effective)["loadBalancer"]["type"] == "RoundRobin"


def test_a_default_that_is_written_overrides() -> None:
    """Somebody who writes 100 means 100, although it is what holds when nothing is written."""
    wide = {
        "faultInjection": {"delay": {"fixedDelay": "1s", "percentage": 5}},
        "circuitBreaker": {"perEndpoint": {"maxConnections": 8}},
        "loadBalancer": {"type": "BackendUtilization", "backendUtilization": {"keepResponseHeaders": True}},
    }
    narrow = {
        "faultInjection": {"delay": {"fixedDelay": "1s", "percentage": 100}},
        "circuitBreaker": {"perEndpoint": {"maxConnections": 1024}},
        "loadBalancer": {"type": "BackendUtilization", "backendUtilization": {"keepResponseHeaders": False}},
    }

    effective = settings(merged(wide, narrow))

    assert {name: effective[name] for name in narrow} == narrow


def test_a_fraction_is_overridden_as_a_whole() -> None:
    """5 of 100 laid over 1 of 1000 is not 5 of 1000."""
    wide = {"circuitBreaker": {"retryBudget": {"percent": {"numerator": 1, "denominator": 1000}}}}
    narrow = {"circuitBreaker": {"retryBudget": {"percent": {"numerator": 5}}}}

    effective = merged(wide, narrow)

    assert isinstance(effective.spec, BackendTrafficPolicySpec)
    assert effective.spec.circuit_breaker is not None
    assert effective.spec.circuit_breaker.retry_budget is not None
    assert effective.spec.circuit_breaker.retry_budget.percent.denominator == 100


def test_a_field_that_the_schema_refuses_is_not_built() -> None:
    """An object from before a rule: what could be read out of ``5sec`` is not what was meant."""
    policy = ClientTrafficPolicy(
        metadata=ObjectMeta(name="slow", namespace="default"),
        spec=ClientTrafficPolicySpec(
            timeout=client_timeout.ClientTimeout(
                http=client_timeout.HTTPClientTimeout(request_received_timeout="5sec")
            )
        ),
    )

    effective = judged(policy, owner=policy.ref)

    assert "spec.timeout.http.requestReceivedTimeout" in {problem.path for problem in effective.problems}
    assert [feature for feature, _ in effective.features()] == []


def test_owners_are_known_leaf_by_leaf() -> None:
    """A merged field is of both policies, and a reference in it may be meant in the namespace of either."""
    policy = merged(
        {"timeout": {"http": {"requestTimeout": "5s"}, "tcp": {"connectTimeout": "1s"}}, "retry": {}},
        {"timeout": {"http": {"streamIdleTimeout": "7s"}}, "circuitBreaker": {"maxConnections": 1}},
    )
    owners = {feature.field: effective for feature, effective in policy.features()}

    assert {field: effective.owner for field, effective in owners.items()} == {
        "timeout": NARROW,
        "retry": WIDE,
        "circuit_breaker": NARROW,
    }
    paths = ("http.streamIdleTimeout", "http.requestTimeout", "tcp", "tcp.connectTimeout")
    assert [owners["timeout"].owner_of(path) for path in paths] == [NARROW, WIDE, WIDE, WIDE]


def test_a_rules_own_timeout_is_the_routes_and_the_rest_stays_the_policys() -> None:
    spec = {"http": {"requestTimeout": "5s", "streamIdleTimeout": "7s"}}
    policy = Effective(msgspec.convert(spec, timeout.Timeout), WIDE)
    rule = HTTPRouteRule(timeouts=HTTPRouteTimeouts(request="1s"))

    below = RuleSettings(((timeout.FEATURE, policy),), (WIDE,), failed=False)
    [(_, effective)] = laid_over(below, SHOP, rule).features

    assert msgspec.to_builtins(effective.value) == {
        "http": {"requestTimeout": "1s", "streamIdleTimeout": "7s"}
    }
    assert effective.owner_of("http.requestTimeout") == SHOP
    assert effective.owner_of("http.streamIdleTimeout") == WIDE


def test_routes_without_policies_of_their_own_share_one_answer() -> None:
    """5,000 routes under one Gateway's policy: it is merged, checked and cut once."""
    core = Core(gateway(http("web")), *(http_route(name=f"r{n}") for n in range(9)), GATEWAY_POLICY)
    rule = HTTPRouteRule()

    with core.ran() as ran:
        answers = [
            effective_rule(core.db, WEB, Ref.of(HTTPRoute, "default", f"r{n}"), rule) for n in range(9)
        ]

    assert len({id(answer) for answer in answers}) == 1
    assert (ran["effective_policy"], ran["rule_settings"], ran["rule_policies"]) == (1, 1, 9)
