"""PROXY protocol: a load balancer says in front of each connection whose connection it passes on.

Set by:      ClientTrafficPolicy ``spec.proxyProtocol``
Precedence:  the policy of the listener, else that of the Gateway, as a whole; for a port the oldest policy
Envoy:       ``envoy.filters.listener.proxy_protocol``, the first listener filter
Cases:       client_proxy_protocol.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import Model
from moongate.features.base import Effective, Feature
from moongate.features.shared import take_proxy_protocol

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_pb2 import Listener


class ProxyProtocolSettings(Model, frozen=True, kw_only=True):
    """Connections begin with a header of the PROXY protocol, version 1 or 2."""

    optional: bool | None = None
    """Whether connections without it are taken as well. Then anybody who can connect may claim an address."""


def _listener(listener: Listener, protocol: Effective[ProxyProtocolSettings]) -> None:
    take_proxy_protocol(listener, optional=bool(protocol.value.optional))


FEATURE = Feature(
    kind="ClientTrafficPolicy", field="proxy_protocol", model=ProxyProtocolSettings, listener=_listener
)
