"""The cluster of the fleet itself."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from moongate.xds.local import local_assignment, local_cluster
from tests.core import EG_FLEET, ON_HOST, Core, gateway, http, policy

FLEET = """
apiVersion: v1
kind: Service
metadata:
  name: envoy-default-eg
  labels:
    gateway.envoyproxy.io/owning-gateway-name: eg
    gateway.envoyproxy.io/owning-gateway-namespace: default
spec: {ports: [{name: http, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: envoy-default-eg-1, labels: {kubernetes.io/service-name: envoy-default-eg}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.2], zone: b}
- {addresses: [10.0.0.1], zone: a}
"""


def test_it_is_there_once_the_fleet_has_a_service() -> None:
    """Envoy compares its own zone with those of its peers; without this cluster it could not."""
    core = Core(gateway(http("http")))
    assert local_cluster(core.db, EG_FLEET) is None

    core.apply(FLEET)

    cluster, endpoints = local_cluster(core.db, EG_FLEET), local_assignment(core.db, EG_FLEET)
    assert cluster is not None
    assert endpoints is not None
    assert Cluster.FromString(cluster.body).name == "default/eg"
    assert [e.locality.zone for e in ClusterLoadAssignment.FromString(endpoints.body).endpoints] == ["a", "b"]


def test_on_a_host_there_is_none() -> None:
    """One process is the whole fleet."""
    core = Core(gateway(http("http")), FLEET, config=ON_HOST)

    assert local_cluster(core.db, EG_FLEET) is None
    assert local_assignment(core.db, EG_FLEET) is None


def test_with_routing_to_services_the_fleet_is_its_service() -> None:
    """Then Envoy sees no zones of others either, so there is nothing to compare."""
    proxy = """
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: EnvoyProxy
        metadata: {name: proxy, namespace: default}
        spec: {routingType: Service}
    """
    named = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "proxy"}}
    fleet = FLEET.replace("spec: {ports", "spec: {clusterIP: 10.96.0.7, ports")
    core = Core(gateway(http("http"), infrastructure=named), proxy, fleet)

    assignment = local_assignment(core.db, EG_FLEET)

    assert assignment is not None
    [locality] = ClusterLoadAssignment.FromString(assignment.body).endpoints
    [endpoint] = locality.lb_endpoints
    assert locality.locality.zone == ""
    assert endpoint.endpoint.address.socket_address.address == "10.96.0.7"


def test_a_policy_that_routes_to_services_does_not_concern_the_fleet() -> None:
    """It is about backends; Envoy still has to know its own zone."""
    to_services = policy("BackendTrafficPolicy", "routingType: Service", target="Gateway/eg")
    fleet = FLEET.replace("spec: {ports", "spec: {clusterIP: 10.96.0.7, ports")
    core = Core(gateway(http("http")), to_services, fleet)

    assignment = local_assignment(core.db, EG_FLEET)

    assert assignment is not None
    zones = [each.locality.zone for each in ClusterLoadAssignment.FromString(assignment.body).endpoints]
    assert zones == ["a", "b"]
