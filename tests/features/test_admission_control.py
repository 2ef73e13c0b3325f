"""Admission control as a filter of a cluster."""

from __future__ import annotations

from typing import Any

from moongate.features.admission_control import FEATURE
from moongate.translation import translate
from moongate.xds.wire import CLUSTER
from tests.features.backends import manifests, on_cluster, plain, refused

OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def control(spec: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the filter."""
    _, http = on_cluster(FEATURE, spec)
    [built] = http["http_filters"]
    assert built["name"] == "envoy.filters.http.admission_control"
    config: dict[str, Any] = built["typed_config"]
    config.pop("@type")
    return config


def test_what_is_not_written_is_left_to_envoy() -> None:
    assert control({}) == {"enabled": {"default_value": True}, "success_criteria": {}}


def test_zero_is_not_nothing() -> None:
    assert control({"minRequestRate": 0, "maxRejectionPercent": 0}) == {
        "enabled": {"default_value": True},
        "success_criteria": {},
        "rps_threshold": {},
        "max_rejection_probability": {"default_value": {}},
    }


def test_criteria_without_codes_are_those_of_envoy() -> None:
    spec: dict[str, Any] = {"successCriteria": {"http": {}, "grpc": {"statusCodes": []}}}

    assert control(spec)["success_criteria"] == {}


def test_the_codec_stands_behind_it() -> None:
    """Envoy wants it as the last filter of a cluster that has any."""
    xds = translate(manifests({"admissionControl": {}})).xds
    [cluster] = next(iter(xds.values()))[CLUSTER].values()
    filters = plain(cluster)["typed_extension_protocol_options"][OPTIONS]["http_filters"]

    assert [each["name"].rpartition(".")[2] for each in filters] == ["admission_control", "UpstreamCodec"]


def test_what_is_refused() -> None:
    for spec in (
        {"samplingWindow": "900ms"},
        {"minSuccessRate": 0},
        {"rejectionAggression": 0},
        {"maxRejectionPercent": 101},
        {"successCriteria": {"grpc": {"statusCodes": ["OK"]}}},
    ):
        assert refused(FEATURE, spec)
