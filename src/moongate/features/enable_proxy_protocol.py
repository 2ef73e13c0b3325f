"""PROXY protocol, as it was written before ``proxyProtocol``.

Set by:      ClientTrafficPolicy ``spec.enableProxyProtocol``
Precedence:  ``proxyProtocol`` of the same policy wins
Envoy:       ``envoy.filters.listener.proxy_protocol``, the first listener filter
Cases:       enable_proxy_protocol.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.features.base import Effective, Feature
from moongate.features.shared import take_proxy_protocol

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_pb2 import Listener


def _listener(listener: Listener, enabled: Effective[bool]) -> None:
    if enabled.value and not listener.listener_filters:
        take_proxy_protocol(listener, optional=False)


FEATURE = Feature(kind="ClientTrafficPolicy", field="enable_proxy_protocol", model=bool, listener=_listener)
