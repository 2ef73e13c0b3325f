"""What a BackendTrafficPolicy says about the clusters of routes of connections, and about other backends."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from moongate.features import FEATURES
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.translation import translate
from moongate.xds.wire import CLUSTER
from tests.cases import PRELUDE
from tests.features.backends import plain

EVERYTHING: dict[str, Any] = {
    "loadBalancer": {"type": "Random"},
    "proxyProtocol": {"version": "V1"},
    "tcpKeepalive": {"probes": 3},
    "healthCheck": {"panicThreshold": 10, "passive": {}},
    "circuitBreaker": {"maxConnections": 7},
    "timeout": {"tcp": {"connectTimeout": "3s"}},
    "connection": {"bufferLimit": 4096},
    "dns": {"lookupFamily": "IPv4"},
    "http2": {"maxConcurrentStreams": 5},
    "useClientProtocol": True,
    "admissionControl": {},
}


def policy(name: str, kind: str, of: str, spec: dict[str, Any]) -> dict[str, Any]:
    target = {"group": "gateway.networking.k8s.io", "kind": kind, "name": of}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"targetRefs": [target], **spec},
    }


def cluster(
    kind: str, *policies: dict[str, Any], ref: dict[str, Any] | None = None, more: str = ""
) -> dict[str, Any]:
    """What policies say about the one cluster of a route of a kind."""
    protocol = {"UDPRoute": "UDP", "TCPRoute": "TCP"}.get(kind, "HTTP")
    documents: list[dict[str, Any]] = []
    for document in (*yaml.safe_load_all(PRELUDE.read_text("utf-8")), *yaml.safe_load_all(more)):
        if document["kind"] == "Gateway":
            document["spec"]["listeners"] = [{"name": "in", "protocol": protocol, "port": 8080}]
        if document["kind"] == "Service":
            document["spec"]["ports"][0]["protocol"] = "UDP" if kind == "UDPRoute" else "TCP"
        if document["kind"] == "EndpointSlice":
            document["ports"][0]["protocol"] = "UDP" if kind == "UDPRoute" else "TCP"
        if document["kind"] == "HTTPRoute":
            rules = [{"backendRefs": [ref or {"name": "shop", "port": 80}]}]
            document |= {"kind": kind}
            document["spec"] = {"parentRefs": [{"name": "gateway"}], "rules": rules}
            if kind in ("TCPRoute", "UDPRoute"):
                document["apiVersion"] = "gateway.networking.k8s.io/v1alpha2"
        documents.append(document)
    if kind != "HTTPRoute":
        for each in policies:
            each["spec"].pop("admissionControl", None)  # the CRD refuses it there
    xds = translate([*documents, *policies]).xds
    clusters = [
        each for name, each in next(iter(xds.values()))[CLUSTER].items() if "empty" not in name.lower()
    ]
    assert len(clusters) == 1
    built = plain(clusters[0])
    balancer = built["load_balancing_policy"]["policies"][0]["typed_extension_config"]["name"]
    return {
        "balancer": balancer.rpartition(".")[2],
        "proxy_protocol": built.get("transport_socket", {}).get("name"),
        "keepalive": built.get("upstream_connection_options"),
        "outliers": "outlier_detection" in built,
        "panics_at": built.get("common_lb_config", {}).get("healthy_panic_threshold", {}).get("value"),
        "max_connections": built["circuit_breakers"]["thresholds"][0].get("max_connections"),
        "connect_timeout": built["connect_timeout"],
        "buffer": built["per_connection_buffer_limit_bytes"],
        "dns_lookup_family": built.get("dns_lookup_family", "AUTO"),
        "http": "typed_extension_protocol_options" in built,
    }


IN_FULL = {
    "balancer": "random",
    "proxy_protocol": "envoy.transport_sockets.upstream_proxy_protocol",
    "keepalive": {"tcp_keepalive": {"keepalive_probes": 3}},
    "outliers": True,
    "panics_at": 10.0,
    "max_connections": 7,
    "connect_timeout": "3s",
    "buffer": 4096,
    "dns_lookup_family": "V4_ONLY",
    "http": True,
}
OF_UDP = {
    "balancer": "random",
    "proxy_protocol": None,
    "keepalive": None,
    "outliers": False,
    "panics_at": None,
    "max_connections": None,
    "connect_timeout": "10s",
    "buffer": 32768,
    "dns_lookup_family": "V4_ONLY",
    "http": False,
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("HTTPRoute", IN_FULL), ("TCPRoute", IN_FULL | {"http": False}), ("UDPRoute", OF_UDP)],
)
@pytest.mark.parametrize("level", ["Gateway", ""])
def test_what_a_kind_of_routes_takes(kind: str, expected: dict[str, Any], level: str) -> None:
    of = "gateway" if level else "shop"

    assert cluster(kind, policy("all", level or kind, of, dict(EVERYTHING))) == expected


def test_policies_of_connections_fill_each_others_gaps() -> None:
    """Of requests the more specific one would replace the other."""
    narrow = policy("narrow", "TCPRoute", "shop", {"timeout": {"tcp": {"connectTimeout": "1s"}}})
    wide = policy("wide", "Gateway", "gateway", dict(EVERYTHING))

    assert cluster("TCPRoute", narrow, wide) == IN_FULL | {"http": False, "connect_timeout": "1s"}


def test_policies_of_requests_replace_each_other() -> None:
    narrow = policy("narrow", "HTTPRoute", "shop", {"timeout": {"tcp": {"connectTimeout": "1s"}}})
    wide = policy("wide", "Gateway", "gateway", dict(EVERYTHING))

    built = cluster("HTTPRoute", narrow, wide)

    assert (built["connect_timeout"], built["max_connections"], built["http"]) == ("1s", None, False)


BACKENDS = {
    "Backend": (
        {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "other"},
        """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: other, namespace: default}
spec: {endpoints: [{ip: {address: 10.0.0.9, port: 80}}]}
""",
    ),
    "ServiceImport": (
        {"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "other", "port": 80},
        """
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: other, namespace: default}
spec: {type: ClusterSetIP, ips: [10.0.0.9], ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other, namespace: default, labels: {multicluster.kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{name: http, port: 80, protocol: TCP}]
endpoints: [{addresses: [10.0.0.9]}]
""",
    ),
}


@pytest.mark.parametrize("kind", BACKENDS)
def test_other_kinds_of_backends_have_the_same_settings(kind: str) -> None:
    ref, manifest = BACKENDS[kind]

    assert (
        cluster("HTTPRoute", policy("all", "HTTPRoute", "shop", dict(EVERYTHING)), ref=ref, more=manifest)
        == IN_FULL
    )


def test_what_shapes_clusters_is_what_the_reference_keeps_apart() -> None:
    """A rule with a field of these has no cluster that rules share (``mergeBackends``)."""
    shaping = {f.field for f in FEATURES if f.kind == BackendTrafficPolicy.KIND and f.shapes_clusters}

    assert shaping == {
        "load_balancer",
        "proxy_protocol",
        "health_check",
        "circuit_breaker",
        "timeout",
        "tcp_keepalive",
        "connection",
        "http2",
        "dns",
        "admission_control",
        "use_client_protocol",
    }
