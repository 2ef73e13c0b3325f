"""HTTP/2 towards backends."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from moongate.features.base import ClusterEdit
from moongate.features.http2 import FEATURE
from tests.features.backends import effective, faults, plain

WINDOWS = {"initial_stream_window_size": 65536, "initial_connection_window_size": 1048576}


def options(spec: dict[str, Any]) -> dict[str, Any]:
    """The options after the hook."""
    assert FEATURE.cluster is not None
    edit = ClusterEdit(Cluster(), HttpProtocolOptions())
    FEATURE.cluster(edit, effective(FEATURE, spec))
    assert plain(edit.http) == {}, "the settings switch nothing on"
    return plain(edit.http2_options)


def test_what_is_not_written_is_as_at_the_edge() -> None:
    assert options({}) == WINDOWS


def test_all_of_it() -> None:
    spec = {
        "initialStreamWindowSize": 65535,
        "initialConnectionWindowSize": "2Mi",
        "maxConcurrentStreams": 1,
        "onInvalidMessage": "TerminateConnection",
        "connectionKeepalive": {
            "interval": "10s",
            "timeout": "1s",
            "intervalJitter": 0,
            "idleInterval": "5s",
        },
    }

    assert options(spec) == {
        "initial_stream_window_size": 65535,
        "initial_connection_window_size": 2 * 1048576,
        "max_concurrent_streams": 1,
        "override_stream_error_on_invalid_http_message": False,
        "connection_keepalive": {
            "interval": "10s",
            "timeout": "1s",
            "interval_jitter": {},
            "connection_idle_interval": "5s",
        },
    }


def test_what_envoy_would_refuse_is_a_fault() -> None:
    for spec, path in (
        ({"initialStreamWindowSize": 65534}, "initialStreamWindowSize"),
        ({"initialConnectionWindowSize": "2Gi"}, "initialConnectionWindowSize"),
        ({"connectionKeepalive": {"interval": "10s"}}, "connectionKeepalive"),
        ({"connectionKeepalive": {"timeout": "0s"}}, "connectionKeepalive.timeout"),
        (
            {"connectionKeepalive": {"timeout": "1s", "idleInterval": "0s"}},
            "connectionKeepalive.idleInterval",
        ),
    ):
        assert faults(FEATURE, spec) == [path]


def test_an_unknown_action_is_pointed_out() -> None:
    assert FEATURE.hints is not None
    for action, expected in (("Terminate", ["onInvalidMessage"]), ("TerminateStream", [])):
        value = effective(FEATURE, {"onInvalidMessage": action}).value

        assert [hint.path for hint in FEATURE.hints(value)] == expected
    assert options({"onInvalidMessage": "Terminate"}) == WINDOWS
