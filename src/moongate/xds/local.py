"""The cluster of the fleet itself: Envoy compares its own zone with it, for zone-aware routing.

Named like the fleet, because the bootstrap's ``local_cluster_name`` is. It exists where the fleet's own
Service does, that is in Kubernetes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import LoadBalancingPolicy
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2 import LeastRequest

from moongate import names
from moongate.api.base import FleetId, Ref
from moongate.api.core import Service
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.backends import Target, endpoints
from moongate.attach.fleets import keeps_what_it_has
from moongate.attach.gateways import fleet_proxy, on_host
from moongate.engine import query
from moongate.store import Index, find, get
from moongate.xds.clusters import add_endpoint, eds_cluster
from moongate.xds.metadata import holders, metadata
from moongate.xds.wire import CLUSTER, ENDPOINT, XdsResource, encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

_NAME = "gateway.envoyproxy.io/owning-gateway-name"
_CLASS = "gateway.envoyproxy.io/owning-gatewayclass"
_NAMESPACE = "gateway.envoyproxy.io/owning-gateway-namespace"


def _by_owner(service: Service) -> Iterator[tuple[FleetId, Ref]]:
    labels = service.metadata.labels
    if _CLASS in labels:
        yield FleetId(Ref.of(GatewayClass, "", labels[_CLASS])), service.ref
    elif _NAME in labels and _NAMESPACE in labels:
        yield FleetId(Ref.of(Gateway, labels[_NAMESPACE], labels[_NAME])), service.ref


FLEET_SERVICES = Index("fleet-services", (Service,), _by_owner)
"""Fleet → its Service."""


@query
def local_cluster(db: Db, fleet: FleetId) -> XdsResource | None:
    """The fleet's own cluster; ``None`` where it has none."""
    target = next(iter(local_targets(db, fleet)), None)
    if target is None:
        return None
    message = eds_cluster(names.fleet(fleet))
    if "cluster" in holders(db, fleet):
        message.metadata.MergeFromString(metadata(target.ref, str(target.port)))
    policy = LeastRequest()
    policy.locality_lb_config.zone_aware_lb_config.min_cluster_size.value = 1
    balancing = LoadBalancingPolicy()
    config = balancing.policies.add().typed_extension_config
    config.name = "envoy.load_balancing_policies.least_request"
    config.typed_config.CopyFrom(packed(policy))
    message.load_balancing_policy.CopyFrom(balancing)
    return XdsResource.of(CLUSTER, message.name, encode(message))


@query
def local_assignment(db: Db, fleet: FleetId) -> XdsResource | None:
    """The fleet's own endpoints, by zone."""
    target = next(iter(local_targets(db, fleet)), None)
    if target is None:
        return None
    message = ClusterLoadAssignment(cluster_name=names.fleet(fleet))
    # The routing type of a policy does not count: policies are for backends, and the fleet is none.
    fleet_endpoints = endpoints(db, target, fleet_proxy(db, fleet).spec.routing_type == "Service")
    for zone in sorted({e.zone for e in fleet_endpoints}):
        locality = message.endpoints.add()
        locality.locality.zone = zone
        if "endpoint" in holders(db, fleet):
            locality.metadata.MergeFromString(metadata(target.ref, str(target.port)))
        for endpoint in fleet_endpoints:
            if endpoint.zone == zone:
                add_endpoint(locality, endpoint)
    return XdsResource.of(ENDPOINT, message.cluster_name, encode(message))


@query
def local_targets(db: Db, fleet: FleetId) -> tuple[Target, ...]:
    """Where the fleet's own Service leads, as one backend; none on a host, and before there is a Service."""
    if on_host(db) or keeps_what_it_has(db, fleet):
        return ()
    for ref in find(db, FLEET_SERVICES, fleet):
        service = get(db, Service, ref)
        if service is not None and service.spec.ports:
            port = service.spec.ports[0]
            transport = "UDP" if port.protocol == "UDP" else "TCP"
            return (Target("", Service.KIND, ref.namespace, ref.name, port.port, transport),)
    return ()
