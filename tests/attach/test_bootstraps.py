"""Envoy's bootstrap, and what an EnvoyProxy may make of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.metrics.v3.stats_pb2 import StatsSink
from google.protobuf.json_format import MessageToJson

from moongate.api.envoyproxy import ProxyBootstrap
from moongate.attach.bootstraps import amended, bootstrap_problem, default_bootstrap, with_parts
from moongate.infra.binary import envoy_binary
from moongate.json_patch import PatchError
from moongate.xds.wire import encode

XDS, ADMIN = "/run/m/xds.sock", "/run/m/envoy.sock"

SOON = {"retryBackOff": {"baseInterval": "0.050s", "maxInterval": "1s"}}
"""When an Envoy that lost its control plane asks again: one that outlived it is to be adopted soon."""

WHOLE = """
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 19000}}
node: {locality: {zone: $(ENVOY_SERVICE_ZONE)}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds_cluster}}]
    set_node_on_first_message_only: true
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: mine
    type: STATIC
    connect_timeout: 1s
  - name: xds_cluster
    type: STRICT_DNS
    connect_timeout: 10s
    load_assignment:
      cluster_name: xds_cluster
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {socket_address: {address: envoy-gateway, port_value: 18000}}
"""
"""A bootstrap as one is written for Envoy Gateway."""


def own() -> Bootstrap:
    return default_bootstrap("shop/eg", "node-1", xds_socket=XDS, admin_socket=ADMIN)


def made(*, zone: str = "", stats_tags: bool = False) -> dict[str, Any]:
    message = default_bootstrap(
        "shop/eg", "node-1", xds_socket=XDS, admin_socket=ADMIN, zone=zone, stats_tags=stats_tags
    )
    return json.loads(MessageToJson(message))


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

    assert locality["lbEndpoints"] == [{"endpoint": {"address": {"pipe": {"path": XDS}}}}]


def test_envoy_can_ask_itself_for_its_statistics() -> None:
    """For the listener that Prometheus asks; Envoy serves it only if an EnvoyProxy says so."""
    (locality,) = cluster_of("prometheus_stats")["loadAssignment"]["endpoints"]

    assert locality["lbEndpoints"] == [{"endpoint": {"address": {"pipe": {"path": ADMIN}}}}]


def cluster_of(name: str) -> dict[str, Any]:
    return next(each for each in made()["staticResources"]["clusters"] if each["name"] == name)


def test_with_a_sink_statistics_are_sent_without_being_asked_for() -> None:
    parts = encode(Bootstrap(stats_sinks=[StatsSink(name="x")]))
    message = with_parts(own(), parts)

    assert made()["statsFlushOnAdmin"]
    assert not message.stats_flush_on_admin
    assert [sink.name for sink in message.stats_sinks] == ["x"]


def test_the_admin_interface_is_a_socket_for_its_owner_alone() -> None:
    """It can end Envoy and shows every secret's name: no TCP port, and mode 0600."""
    assert made()["admin"]["address"] == {"pipe": {"path": ADMIN, "mode": 0o600}}


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
    message = default_bootstrap(
        "shop/eg",
        "node-1",
        xds_socket=str(tmp_path / "xds.sock"),
        admin_socket=str(tmp_path / "admin.sock"),
        zone="eu-1a",
        stats_tags=stats_tags,
    )

    assert refusal(message, tmp_path) == ""


def refusal(message: Bootstrap, folder: Path) -> str:
    """What a real Envoy says against a bootstrap."""
    file = folder / "envoy.json"
    file.write_text(MessageToJson(message))
    command = [
        envoy_binary(),
        "--mode",
        "validate",
        "--disable-hot-restart",
        "--log-level",
        "warn",
        "-c",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode or "warning" in done.stderr else ""


def changed(changes: str) -> Bootstrap:
    return amended(own(), msgspec.yaml.decode(changes, type=ProxyBootstrap))


def test_a_merge_adds_to_lists_and_changes_fields() -> None:
    message = changed("""
    type: Merge
    value: |
      static_resources: {clusters: [{name: mine, type: STATIC, connect_timeout: 1s}]}
      overload_manager: {refresh_interval: 1s}
      node: {metadata: {team: shop}}
    """)

    assert [each.name for each in message.static_resources.clusters] == [
        "xds_cluster",
        "prometheus_stats",
        "mine",
    ]
    assert message.overload_manager.refresh_interval.seconds == 1
    assert message.node.cluster == "shop/eg"


def test_a_patch_is_applied_at_its_places() -> None:
    message = changed("""
    type: JSONPatch
    jsonPatches:
    - {op: add, path: /layered_runtime/layers/0/static_layer/x, value: 1}
    - op: replace
      jsonPath: "$.static_resources.clusters[?@.name=='xds_cluster']"
      path: connect_timeout
      value: 3s
    """)

    assert message.layered_runtime.layers[0].static_layer["x"] == 1
    assert message.static_resources.clusters[0].connect_timeout.seconds == 3


def test_statistics_are_sent_if_a_change_asks_for_it() -> None:
    message = changed("{type: Merge, value: 'stats_flush_interval: 1s'}")

    assert not message.stats_flush_on_admin


def test_the_time_for_the_first_resources_may_be_limited() -> None:
    message = changed("{type: Merge, value: 'dynamic_resources: {lds_config: {initial_fetch_timeout: 9s}}'}")

    assert message.dynamic_resources.lds_config.initial_fetch_timeout.seconds == 9


def test_a_whole_bootstrap_for_envoy_gateway_gets_our_control_plane() -> None:
    """What is written for a cluster works on a laptop, where the control plane has another address."""
    message = amended(own(), ProxyBootstrap(value=WHOLE))

    assert message.admin.address == own().admin.address
    assert message.node == own().node
    assert message.dynamic_resources.ads_config == own().dynamic_resources.ads_config
    assert [each.name for each in message.static_resources.clusters] == [
        "xds_cluster",
        "prometheus_stats",
        "mine",
    ]
    assert message.static_resources.clusters[0] == own().static_resources.clusters[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("{type: Merge, value: 'a: [b'}", "It is no YAML at line"),
        ("{type: Merge, value: 'text'}", "must be an object"),
        ("{type: Merge, value: 'nothing: 1'}", "no field named"),
        (
            "{type: Merge, value: 'dynamic_resources: {ads_config: {rate_limit_settings: {}}}'}",
            "dynamic_resources",
        ),
        ("{type: Merge, value: 'static_resources: {clusters: [{name: xds_cluster}]}'}", "it has 2"),
        ("{type: Merge, value: 'node: {id: other}'}", "node.id"),
        (
            "{type: Merge, value: 'admin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}'}",
            "admin.address",
        ),
        ("{type: JSONPatch, jsonPatches: [{op: remove, path: /nothing/here}]}", "jsonPatches[0]"),
        ("{type: JSONPatch, jsonPatches: [{op: remove, path: /dynamic_resources}]}", "dynamic_resources"),
        ("{type: JSONPatch, jsonPatches: [{op: remove, path: /static_resources/clusters/0}]}", "it has 0"),
        (
            "{type: JSONPatch, jsonPatches: [{op: replace, value: /x, jsonPath: $.static_resources..path}]}",
            "load_assignment",
        ),
        ("{value: '{}'}", "dynamic_resources"),
    ],
)
def test_what_must_stay_stays(changes: str, words: str) -> None:
    """Without it the Envoy is nobody's; and a user's mistake is a sentence, never a crash."""
    problem = bootstrap_problem(msgspec.yaml.decode(changes, type=ProxyBootstrap))

    assert problem is not None
    assert words in problem.message
    assert problem.reason == "InvalidParameters"


def test_a_whole_bootstrap_with_another_control_plane_is_refused() -> None:
    for value in (
        WHOLE.replace("address: envoy-gateway,", "address: evil.test,"),
        WHOLE.replace("name: xds_cluster\n    type", "name: other\n    type"),
    ):
        assert bootstrap_problem(ProxyBootstrap(value=value)) is not None


def test_a_bomb_of_aliases_is_refused() -> None:
    levels = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(PatchError, match="aliases"):
        amended(own(), ProxyBootstrap(type="Merge", value="\n".join(levels)))
