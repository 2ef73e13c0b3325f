"""Degradations in statuses, each at the field that it is about."""

from __future__ import annotations

import re

import pytest

from moongate.api.base import Condition
from moongate.status.degraded import Degradation, degradations
from moongate.status.gateways import GatewayStatus, ListenerStatus
from moongate.world import World
from tests import worlds
from tests.core import GATEWAY_CLASS, gateway, http, https, read

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: eg, sectionName: web}, {name: eg, sectionName: none}]
  rules: [{backendRefs: [{name: nowhere, port: 80}]}]
"""

POLICY = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: staff, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  basicAuth: {users: {name: nowhere}}
"""


def degraded(kind: str, *manifests: str) -> list[Degradation]:
    """The degradations of all resources of a kind."""
    resources = [resource for text in (GATEWAY_CLASS, *manifests) for resource in read(text)]
    world = World.of(resources)
    in_force = world.store.resources()
    return [
        degradation
        for ref, status in sorted(world.statuses().items())
        if ref.kind == kind
        for degradation in degradations(in_force[ref], status)
    ]


def test_a_listener_without_its_secret_is_reported_at_the_listener() -> None:
    """And not that it is therefore not programmed."""
    (degradation,) = degraded("Gateway", gateway(http("web"), https("tls", "nowhere")))

    assert (degradation.part, degradation.condition, degradation.status) == (
        "listener tls",
        "ResolvedRefs",
        "False",
    )
    assert degradation.problems[0].path == "spec.listeners[1]"
    assert "default/nowhere does not exist" in degradation.problems[0].message
    assert degradation.severity == "error"


def test_a_route_is_reported_at_its_parents_by_default() -> None:
    route = re.sub("parentRefs: .*", "useDefaultGateways: All", ROUTE)

    (degradation,) = degraded("HTTPRoute", gateway(http("web"), defaultScope="All"), route)

    assert degradation.part == "parent default/eg"
    assert [problem.path for problem in degradation.problems] == ["spec.rules[0].backendRefs[0]"]


def test_a_route_is_reported_at_each_of_its_parents() -> None:
    by_part = {(t.part, t.condition): t for t in degraded("HTTPRoute", gateway(http("web")), ROUTE)}

    missing, nowhere = by_part["parent eg/web", "ResolvedRefs"], by_part["parent eg/none", "Accepted"]
    assert (missing.at, missing.problems[0].path) == ("spec.parentRefs[0]", "spec.rules[0].backendRefs[0]")
    assert missing.problems[0].reason == "BackendNotFound"
    assert (nowhere.at, nowhere.problems[0].path) == ("spec.parentRefs[1]", "spec.parentRefs[1]")


def test_a_policy_is_reported_at_its_targets() -> None:
    degradation, *_ = degraded("SecurityPolicy", gateway(http("web")), ROUTE, POLICY)

    assert degradation.part.startswith("ancestor ")
    assert degradation.condition == "Accepted"
    assert "nowhere" in degradation.problems[0].message


@pytest.mark.parametrize("others", [False, True])
def test_not_programmed_is_reported_where_nothing_else_gives_the_reason(others: bool) -> None:
    conditions = [_condition("Programmed")] + ([_condition("ResolvedRefs")] if others else [])

    types = [t.condition for t in degradations(worlds.gateway(), GatewayStatus(conditions=tuple(conditions)))]

    assert types == (["ResolvedRefs"] if others else ["Programmed"])


def test_a_status_that_is_older_than_its_resource_is_reported_all_the_same() -> None:
    """While the world settles, a resource may be newer than what is said of it."""
    gone = ListenerStatus(
        name="gone", supported_kinds=(), attached_routes=0, conditions=(_condition("Accepted"),)
    )

    (degradation,) = degradations(worlds.gateway(), GatewayStatus(listeners=(gone,)))

    assert degradation.problems[0].path == "spec.listeners"


def _condition(type_: str) -> Condition:
    return Condition(type=type_, status="False", reason="Invalid", message="No.", observed_generation=1)
