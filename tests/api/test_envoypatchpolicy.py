"""What a patch of an EnvoyPatchPolicy changes or makes."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.envoypatchpolicy import EnvoyJSONPatchConfig, JSONPatchOperation
from moongate.xds.wire import CLUSTER, ENDPOINT


@pytest.mark.parametrize(
    ("type_", "operation", "name"),
    [
        (CLUSTER, {"op": "add", "path": "", "value": {"name": "mine"}}, "mine"),
        (ENDPOINT, {"op": "add", "path": "", "value": {"cluster_name": "mine"}}, "mine"),
        (ENDPOINT, {"op": "add", "path": "", "value": {"clusterName": "mine"}}, "mine"),
        (ENDPOINT, {"op": "add", "path": "", "value": {"name": "mine"}}, ""),
        (CLUSTER, {"op": "add", "path": "", "value": {"name": 1}}, ""),
        (CLUSTER, {"op": "add", "path": "", "value": ["name"]}, ""),
        (CLUSTER, {"op": "add", "path": "", "json_path": "$.x", "value": {"name": "mine"}}, "named"),
        (CLUSTER, {"op": "add", "path": "/x", "value": {"name": "mine"}}, "named"),
        (CLUSTER, {"op": "replace", "path": "", "value": {"name": "mine"}}, "named"),
    ],
)
def test_a_resource_of_its_own_has_the_name_of_its_value(
    type_: Any, operation: dict[str, Any], name: str
) -> None:
    patch = EnvoyJSONPatchConfig(type=type_, name="named", operation=JSONPatchOperation(**operation))

    assert patch.target == (type_, name)
