"""JSON patches of documents; those of resources are tested in ``tests/xds/test_json_patches.py``."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from moongate.api.envoypatchpolicy import JSONPatchOperation
from moongate.json_patch import PatchError, patched, read


def test_a_place_may_be_found_by_what_is_there() -> None:
    document: dict[str, Any] = {"clusters": [{"name": "a"}, {"name": "b"}]}
    operation = JSONPatchOperation(op="add", json_path="$.clusters[*]", path="type", value="EDS")

    assert patched(document, operation) == {
        "clusters": [{"name": "a", "type": "EDS"}, {"name": "b", "type": "EDS"}]
    }


def test_what_finds_nothing_is_an_error() -> None:
    with pytest.raises(PatchError, match="finds nothing"):
        patched({}, JSONPatchOperation(op="remove", json_path="$.a"))


def test_a_document_is_read_as_a_message() -> None:
    assert read(Cluster, {"name": "a", "connect_timeout": "3s"}).connect_timeout.seconds == 3
    with pytest.raises(PatchError, match="is no Cluster"):
        read(Cluster, {"other": "a"})
