"""What an access log can show of a resource."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import Metadata
from google.protobuf.json_format import MessageToDict

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.xds.metadata import NAMESPACE, metadata, shown

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

    told = read(metadata(ROUTE, policies=(policy,)))

    assert isinstance(told, dict)
    assert told["policies"] == [{"kind": "BackendTrafficPolicy", "name": "calm", "namespace": "default"}]


def test_only_annotations_of_the_gateway_are_shown() -> None:
    """The rest may be anybody's, and may be large."""
    given = {"gateway.envoyproxy.io/team": "shop", "kubectl.kubernetes.io/last-applied-configuration": "{}"}

    assert shown(given) == (("team", "shop"),)
