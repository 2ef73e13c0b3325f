"""Headers of the PROXY protocol are read first, and demanded unless they are optional."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2 import ProxyProtocol

from moongate.features.client_proxy_protocol import FEATURE, ProxyProtocolSettings
from tests.features.listeners import listener_with


@pytest.mark.parametrize("optional", [None, False, True])
def test_connections_without_it_are_taken_only_if_asked(optional: bool | None) -> None:
    [only] = listener_with(FEATURE, ProxyProtocolSettings(optional=optional)).listener_filters
    config = ProxyProtocol()

    assert only.name == "envoy.filters.listener.proxy_protocol"
    assert only.typed_config.Unpack(config)
    assert config.allow_requests_without_proxy_protocol is bool(optional)
