"""The protocol of clients towards backends."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from moongate.features.base import ClusterEdit, Effective
from moongate.features.use_client_protocol import FEATURE
from tests.features.backends import OWNER


def test_only_true_changes_something() -> None:
    assert FEATURE.cluster is not None
    for value in (True, False):
        edit = ClusterEdit(Cluster(), HttpProtocolOptions())
        FEATURE.cluster(edit, Effective(value, OWNER))

        assert edit.http.HasField("use_downstream_protocol_config") is value
