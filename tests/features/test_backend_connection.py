"""Buffers and connections in advance, as a cluster has them."""

from __future__ import annotations

from moongate.features.backend_connection import FEATURE
from tests.features.backends import effective, faults, on_cluster, refused


def test_only_what_is_written_is_said() -> None:
    cluster, _ = on_cluster(FEATURE, {"preconnect": {"perEndpointPercent": 110}})

    assert cluster["preconnect_policy"] == {"per_upstream_preconnect_ratio": 1.1}
    assert "per_connection_buffer_limit_bytes" not in cluster
    assert "preconnect_policy" not in on_cluster(FEATURE, {"preconnect": {}})[0]


def test_a_buffer_that_is_too_large_is_a_fault() -> None:
    assert faults(FEATURE, {"bufferLimit": "5Gi"}) == ["bufferLimit"]
    assert faults(FEATURE, {"bufferLimit": 2**32 - 1}) == []
    assert faults(FEATURE, {"bufferLimit": 0}) == []


def test_more_connections_in_advance_than_envoy_takes_are_a_fault() -> None:
    """Envoy would refuse the cluster."""
    assert faults(FEATURE, {"preconnect": {"predictivePercent": 301}}) == ["preconnect.predictivePercent"]
    assert faults(FEATURE, {"preconnect": {"predictivePercent": 300}}) == []


def test_what_the_crd_refuses() -> None:
    for spec in ({"bufferLimit": "1.5"}, {"preconnect": {"perEndpointPercent": 301}}):
        assert refused(FEATURE, spec)


def test_the_size_of_a_socket_is_pointed_out() -> None:
    assert FEATURE.hints is not None
    value = effective(FEATURE, {"socketBufferLimit": "1Mi"}).value

    assert [hint.path for hint in FEATURE.hints(value)] == ["socketBufferLimit"]
    assert on_cluster(FEATURE, {"socketBufferLimit": "1Mi"})[0].keys() == {
        "connect_timeout",
        "circuit_breakers",
    }
