"""The proxy protocol around transport sockets."""

from __future__ import annotations

from typing import Any

from moongate.translation import translate
from moongate.xds.wire import CLUSTER
from tests.features.backends import manifests, plain

PROXY = "envoy.transport_sockets.upstream_proxy_protocol"


def sockets(*more: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The transport sockets of the cluster of a rule whose policy wants the header."""
    documents = manifests({"proxyProtocol": {"version": "V2"}})
    xds = translate([*documents, *more]).xds
    [cluster] = next(iter(xds.values()))[CLUSTER].values()
    built = plain(cluster)
    matches = [each["transport_socket"] for each in built.get("transport_socket_matches", [])]
    return built["transport_socket"], matches


def test_a_plain_connection_is_wrapped() -> None:
    own, matches = sockets()

    assert own["name"] == PROXY
    assert own["typed_config"]["config"] == {"version": "V2"}
    assert own["typed_config"]["transport_socket"]["name"] == "envoy.transport_sockets.raw_buffer"
    assert matches == []


def test_each_way_to_speak_tls_is_wrapped() -> None:
    """Also the socket of endpoints that name none."""
    metadata = {"name": "tls", "namespace": "default"}
    target = {"group": "", "kind": "Service", "name": "shop"}
    validation = {"wellKnownCACertificates": "System", "hostname": "shop.test"}
    own, matches = sockets(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "BackendTLSPolicy",
            "metadata": metadata,
            "spec": {"targetRefs": [target], "validation": validation},
        }
    )

    assert own["typed_config"]["transport_socket"]["name"] == "dummy.transport_socket"
    assert [each["name"] for each in matches] == [PROXY]
    assert matches[0]["typed_config"]["transport_socket"]["name"] == "envoy.transport_sockets.tls"
