"""Routes and clusters as the translation hands them to hooks, and specs as admission reads them."""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate.api.admission import checked
from moongate.api.base import Model, Ref
from moongate.api.httproute import HTTPRoute, HTTPRouteRule
from moongate.engine import Db
from moongate.features.base import ClusterEdit, Effective, Feature, ListenerFacts, RouteEdit
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.effective import RuleSettings, laid_over
from moongate.problem import Problem
from tests.cases import PRELUDE

OWNER = Ref.of(BackendTrafficPolicy, "default", "backends")
ROUTE = Ref.of(HTTPRoute, "default", "shop")

M = TypeVar("M", bound=Model)


def effective(feature: Feature[M], spec: dict[str, Any]) -> Effective[M]:
    """The feature's field as a manifest has it, which the CRD must find nothing wrong with."""
    value, problems = checked(feature.model, spec)
    assert value is not None, problems
    return Effective(value, OWNER)


def refused(feature: Feature[Any], spec: dict[str, Any]) -> list[str]:
    """What the CRD finds wrong with a field: ``path: message``."""
    _, problems = checked(feature.model, spec)
    return [f"{problem.path}: {problem.message}" for problem in problems]


def faults(feature: Feature[Any], spec: dict[str, Any]) -> list[str]:
    """The paths at which the feature itself finds a fault."""
    assert feature.check is not None
    problems: list[Problem] = list(feature.check(Db(), effective(feature, spec)))
    assert all(problem.message.endswith(".") for problem in problems)
    return [problem.path for problem in problems]


def on_route(
    feature: Feature[Any],
    spec: dict[str, Any],
    rule: HTTPRouteRule | None = None,
    action: RouteAction | None = None,
    *,
    listener: ListenerFacts | None = None,
) -> dict[str, Any]:
    """What a route is after the feature's hook, where a rule has settings of its own or not."""
    assert feature.route is not None
    edit = RouteEdit(Route(route=action or RouteAction()), listener or ListenerFacts())
    policy = RuleSettings(((feature, effective(feature, spec)),), (OWNER,), failed=False)
    for built, setting in laid_over(policy, ROUTE, rule or HTTPRouteRule()).features:
        if built is feature:
            feature.route(edit, setting)
    return plain(edit.message)


def on_cluster(feature: Feature[Any], spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a cluster, and its HTTP options, are after the feature's hook."""
    assert feature.cluster is not None
    limits = CircuitBreakers.Thresholds(max_retries=UInt32Value(value=1024))
    cluster = Cluster(
        connect_timeout=Duration(seconds=10), circuit_breakers=CircuitBreakers(thresholds=[limits])
    )
    edit = ClusterEdit(cluster, HttpProtocolOptions())
    feature.cluster(edit, effective(feature, spec))
    return plain(edit.message), plain(edit.http)


def plain(message: Message) -> dict[str, Any]:
    """A message with its field names as protobuf has them."""
    return MessageToDict(message, preserving_proto_field_name=True)


def manifests(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """A route with a policy."""
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "shop"}
    policy = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": {"name": "backends", "namespace": "default"},
        "spec": {"targetRefs": [target], **spec},
    }
    return [*yaml.safe_load_all(PRELUDE.read_text("utf-8")), policy]
