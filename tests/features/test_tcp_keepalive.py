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


def test_the_least_and_the_most_that_a_kernel_takes_are_no_faults() -> None:
    assert faults(FEATURE, {"probes": 1, "idleTime": "1s", "interval": "1s"}) == []
    assert faults(FEATURE, {"probes": 127, "idleTime": "32767s", "interval": "32767s"}) == []
