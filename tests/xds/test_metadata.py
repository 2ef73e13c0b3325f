"""What an access log can show of a resource."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import MessageToDict
from msgspec import structs

from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.httproute import HTTPRoute
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.world import World
from moongate.xds.metadata import NAMESPACE, holders, metadata, resources_of, shown
from moongate.xds.wire import CLUSTER, ENDPOINT
from moongate.xds.wire import ROUTE as TABLE
from tests import worlds
from tests.core import EG_FLEET, IN_CLUSTER, ON_HOST, Core, gateway, http
from tests.core import read as read_manifests

ROUTE = Ref.of(HTTPRoute, "default", "shop")


def read(encoded: bytes) -> object:
    return MessageToDict(Metadata.FromString(encoded).filter_metadata[NAMESPACE])


def test_it_names_the_resource_and_its_section() -> None:
    assert read(metadata(ROUTE, "checkout")) == {
        "resources": [
            {"kind": "HTTPRoute", "name": "shop", "namespace": "default", "sectionName": "checkout"}
        ]
    }


def test_it_names_the_policies_that_shaped_the_resource() -> None:
    policy = Ref.of(BackendTrafficPolicy, "default", "calm")

    resources = read(metadata(ROUTE, policies=(policy,)))

    assert isinstance(resources, dict)
    assert resources["policies"] == [{"kind": "BackendTrafficPolicy", "name": "calm", "namespace": "default"}]


def test_only_annotations_of_the_gateway_are_shown() -> None:
    """The rest may be anybody's, and may be large."""
    annotations = {
        "gateway.envoyproxy.io/team": "shop",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }

    assert shown(annotations) == (("team", "shop"),)


PROXY = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyProxy
    metadata: {name: logs, namespace: default}
    spec:
      telemetry:
        accessLog:
          settings:
          - format: {type: Text, text: "FORMAT"}
            matches: ["EXPRESSION"]
            sinks: [{type: File, file: {path: /dev/stdout}}]
"""


def core(form: str = "%ROUTE_NAME%", expression: str = "true", config: EnvoyGateway = ON_HOST) -> Core:
    proxy = PROXY.replace("FORMAT", form).replace("EXPRESSION", expression)
    parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "logs"}
    return Core(gateway(http("web"), infrastructure={"parametersRef": parameters}), proxy, config=config)


def test_as_shipped_there_is_no_metadata_where_nothing_reads_it() -> None:
    """Of a table of thousands of routes it would be most of Envoy's work at each change."""
    assert holders(core().db, EG_FLEET) == ()

    (types,) = World.of(worlds.routes_with_backends(3), ON_HOST).xds().values()

    bodies = [resource.body for resources in types.values() for resource in resources.values()]
    assert {*types} >= {CLUSTER, ENDPOINT, TABLE}
    assert not any(NAMESPACE.encode() + b"\x12" in body for body in bodies)


def test_the_reference_has_metadata_everywhere() -> None:
    assert holders(core(config=IN_CLUSTER).db, EG_FLEET) == ("route", "virtual_host", "cluster", "endpoint")


@pytest.mark.parametrize(
    ("form", "expression", "reads"),
    [
        ("%METADATA(ROUTE:envoy-gateway:resources)%", "true", ("route",)),
        ("%METADATA(VIRTUAL_HOST:envoy-gateway:resources)%", "true", ("virtual_host",)),
        ("%METADATA(CLUSTER:envoy-gateway:resources)%", "true", ("cluster",)),
        ("%METADATA(UPSTREAM_HOST:envoy-gateway)%", "true", ("endpoint",)),
        ("%DYNAMIC_METADATA(some:key)%", "true", ()),
        ("-", "'a' in xds.route_metadata.filter_metadata", ("route",)),
        ("%CEL(xds.cluster_metadata)%", "true", ("cluster",)),
    ],
)
def test_what_an_access_log_reads_has_metadata(form: str, expression: str, reads: tuple[str, ...]) -> None:
    assert holders(core(form, expression).db, EG_FLEET) == reads


def test_metadata_comes_with_the_log_that_reads_it_and_goes_with_it() -> None:
    resources = [*worlds.routes_with_backends(2)]
    world = World.of(resources, ON_HOST)
    before = world.everything()
    reading = PROXY.replace("FORMAT", "%METADATA(ROUTE:envoy-gateway:resources)%").replace(
        "EXPRESSION", "true"
    )
    (proxy,) = read_manifests(reading)
    shipped = ON_HOST.envoy_proxy
    assert shipped is not None
    assert isinstance(proxy, EnvoyProxy)

    logging = structs.replace(shipped, telemetry=proxy.spec.telemetry)
    world.configure(structs.replace(ON_HOST, envoy_proxy=logging))
    world.pull()

    (table,) = next(iter(world.xds().values()))[TABLE].values()
    entry = RouteConfiguration.FromString(table.body).virtual_hosts[0]
    assert resources_of(entry.routes[0].metadata)[0][0].kind == "HTTPRoute"
    assert not entry.HasField("metadata")
    world.configure(ON_HOST)
    world.pull()
    assert world.everything() == before
