"""Resources as messages again."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from moongate.xds.messages import TYPES, message
from moongate.xds.wire import CLUSTER, XdsResource, encode


def test_a_resource_is_the_message_that_it_was_built_from() -> None:
    built = Cluster(name="shop")

    assert message(XdsResource.of(CLUSTER, "shop", encode(built))) == built


@pytest.mark.parametrize("type_url", TYPES)
def test_a_type_url_names_its_message(type_url: str) -> None:
    """Envoy decodes by the type URL: one that names another message would be refused, or worse, accepted."""
    assert type_url.rpartition("/")[2] == TYPES[type_url].DESCRIPTOR.full_name
