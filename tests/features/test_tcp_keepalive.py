"""Keepalive as a cluster has it."""

from __future__ import annotations

from moongate.features.tcp_keepalive import FEATURE
from tests.features.backends import faults, on_cluster


def test_times_are_whole_seconds() -> None:
    cluster, _ = on_cluster(FEATURE, {"idleTime": "1m30s", "interval": "1500ms", "probes": 127})

    assert cluster["upstream_connection_options"]["tcp_keepalive"] == {
        "keepalive_probes": 127,
        "keepalive_time": 90,
        "keepalive_interval": 1,
    }


def test_what_no_kernel_takes_is_a_fault() -> None:
    for spec in (
        {"idleTime": "999ms"},
        {"idleTime": "10h"},
        {"interval": "0s"},
        {"probes": 0},
        {"probes": 128},
    ):
        assert faults(FEATURE, spec) == list(spec)
