"""The messages of Envoy's filter chain filter: what is written is read, and may be written in JSON."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from google.protobuf import descriptor_pool, message_factory

from moongate.xds.filter_chain_messages import FilterChainConfig
from moongate.xds.wire import encode


def test_a_chain_of_filters_is_read_as_it_was_written() -> None:
    config = FilterChainConfig()
    config.filter_chain.filters.add(name="first")
    config.filter_chains["other"].filters.append(TypedExtensionConfig(name="second"))

    again = FilterChainConfig.FromString(encode(config))

    assert [one.name for one in again.filter_chain.filters] == ["first"]
    assert [one.name for one in again.filter_chains["other"].filters] == ["second"]


def test_a_route_chooses_a_chain_by_its_name() -> None:
    name = f"{FilterChainConfig.DESCRIPTOR.full_name}PerRoute"
    kind: Any = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    per_route = kind(filter_chain_name="other")

    assert kind.FromString(encode(per_route)).filter_chain_name == "other"
