from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.metrics.v3.stats_pb2 import StatsSink

from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import EnvoyOptions, arguments, as_json, bootstrap
from moongate.xds.wire import encode

XDS, ADMIN = Path("/run/m/xds.sock"), Path("/run/m/envoy.sock")

SOON = {"retryBackOff": {"baseInterval": "0.050s", "maxInterval": "1s"}}
"""When an Envoy that lost its control plane asks again: one that outlived it is to be adopted soon."""


def made(*, zone: str = "", stats_tags: bool = False) -> dict[str, Any]:
    message = bootstrap(
        "shop/eg", "node-1", xds_socket=XDS, admin_socket=ADMIN, zone=zone, stats_tags=stats_tags
    )
    return json.loads(as_json(message))


def test_the_node_says_whose_envoy_it_is() -> None:
    """By the cluster of its node the control plane knows which snapshot to send."""
    assert made()["node"] == {"id": "node-1", "cluster": "shop/eg"}


def test_a_zone_is_in_the_bootstrap_when_there_is_one() -> None:
    assert made(zone="eu-1a")["node"]["locality"] == {"zone": "eu-1a"}


def test_listeners_and_clusters_come_by_delta_ads() -> None:
    dynamic = made()["dynamicResources"]

    assert dynamic["adsConfig"] == {
        "apiType": "DELTA_GRPC",
        "transportApiVersion": "V3",
        "grpcServices": [{"envoyGrpc": {"clusterName": "xds_cluster", "retryPolicy": SOON}}],
        "setNodeOnFirstMessageOnly": True,
    }
    for kind in ("ldsConfig", "cdsConfig"):
        assert dynamic[kind] == {"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"}


def test_the_control_plane_is_reached_over_its_unix_socket() -> None:
    cluster = cluster_of("xds_cluster")
    (locality,) = cluster["loadAssignment"]["endpoints"]

    assert locality["lbEndpoints"] == [{"endpoint": {"address": {"pipe": {"path": str(XDS)}}}}]


def test_envoy_can_ask_itself_for_its_statistics() -> None:
    """For the listener that Prometheus asks; Envoy serves it only if an EnvoyProxy says so."""
    (locality,) = cluster_of("prometheus_stats")["loadAssignment"]["endpoints"]

    assert locality["lbEndpoints"] == [{"endpoint": {"address": {"pipe": {"path": str(ADMIN)}}}}]


def cluster_of(name: str) -> dict[str, Any]:
    return next(each for each in made()["staticResources"]["clusters"] if each["name"] == name)


def test_with_a_sink_statistics_are_sent_without_being_asked_for() -> None:
    parts = encode(Bootstrap(stats_sinks=[StatsSink(name="x")]))
    message = bootstrap("shop/eg", "node-1", xds_socket=XDS, admin_socket=ADMIN, parts=parts)

    assert made()["statsFlushOnAdmin"]
    assert not message.stats_flush_on_admin
    assert [sink.name for sink in message.stats_sinks] == ["x"]


def test_the_admin_interface_is_a_socket_for_its_owner_alone() -> None:
    """It can end Envoy and shows every secret's name: no TCP port, and mode 0600."""
    assert made()["admin"]["address"] == {"pipe": {"path": str(ADMIN), "mode": 0o600}}


def test_extra_labels_of_statistics_are_off_unless_asked_for() -> None:
    """They cost seconds of CPU with thousands of clusters."""
    assert "statsTags" not in made()["statsConfig"]
    assert [tag["tagName"] for tag in made(stats_tags=True)["statsConfig"]["statsTags"]] == [
        "from_zone",
        "to_zone",
        "socket_match_name",
        "priority",
    ]


def test_statistics_are_gone_through_only_for_those_who_ask() -> None:
    """With thousands of clusters Envoy would stand still for a moment every five seconds, for nobody."""
    assert made()["statsFlushOnAdmin"] is True
    assert "statsSinks" not in made()


@pytest.mark.envoy
@pytest.mark.parametrize("stats_tags", [False, True])
def test_envoy_finds_the_bootstrap_valid(tmp_path: Path, stats_tags: bool) -> None:
    file = tmp_path / "envoy.json"
    message = bootstrap(
        "shop/eg",
        "node-1",
        xds_socket=tmp_path / "xds.sock",
        admin_socket=tmp_path / "admin.sock",
        zone="eu-1a",
        stats_tags=stats_tags,
    )
    file.write_bytes(as_json(message))

    done = subprocess.run(
        [envoy_binary(), *words(file=file), "--mode", "validate"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def words(options: EnvoyOptions | None = None, *, cpus: int = 2, file: Path = ADMIN) -> tuple[str, ...]:
    return arguments(file, options or EnvoyOptions(), cpus=cpus, log_format="%l %v")


def value(flag: str, options: EnvoyOptions | None = None, *, cpus: int = 2) -> str:
    arguments = words(options, cpus=cpus)
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (3, "3"), (64, "4")])
def test_a_laptop_gets_a_thread_per_cpu_up_to_four(cpus: int, threads: str) -> None:
    assert value("--concurrency", cpus=cpus) == threads


def test_a_chosen_concurrency_is_taken() -> None:
    assert value("--concurrency", EnvoyOptions(concurrency=9)) == "9"


def test_the_level_of_all_is_warn_unless_chosen() -> None:
    assert value("--log-level") == "warn"
    assert value("--log-level", EnvoyOptions(log_levels={"default": "info"})) == "info"


def test_components_have_levels_of_their_own() -> None:
    options = EnvoyOptions(log_levels={"default": "info", "upstream": "debug", "jwt": "trace"})

    assert value("--component-log-level", options) == "jwt:trace,upstream:debug"
    assert "--component-log-level" not in words()


def test_connections_of_a_listener_that_changed_have_a_minute_unless_chosen() -> None:
    """In Envoy's own ten minutes they would be served by what was in force then."""
    assert value("--drain-time-s") == "60"
    assert value("--drain-time-s", EnvoyOptions(listener_drain_s=9)) == "9"


def test_envoy_does_not_search_what_it_is_sent_for_unknown_fields() -> None:
    """It would walk over thousands of routes for one that changed."""
    assert "--ignore-unknown-dynamic-fields" in words()


@pytest.mark.parametrize("flag", ["--log-level", "-l"])
def test_an_extra_argument_replaces_ours(flag: str) -> None:
    """Envoy would refuse to start with a flag that comes twice."""
    arguments = words(EnvoyOptions(extra_args=(flag, "trace")))

    assert "warn" not in arguments
    assert arguments[-2:] == (flag, "trace")
