"""What policies can set: one module per feature, and the table of all of them.

Adding one: a module and its page, a field in the policy's spec, a line here.
"""

from __future__ import annotations

from typing import Any

from moongate.features import (
    basic_auth,
    circuit_breaker,
    client_http2,
    client_ip_detection,
    client_proxy_protocol,
    client_tcp_keepalive,
    client_timeout,
    client_tls,
    connection,
    cors,
    credential_injection,
    enable_proxy_protocol,
    external_auth,
    fault_injection,
    grpc,
    headers,
    http1,
    listener_health_check,
    load_balancer,
    path,
    retry,
    scheme,
    session_persistence,
    timeout,
)
from moongate.features.base import Feature

FEATURES: tuple[Feature[Any], ...] = (
    # HTTP filters, in the order of Envoy's chain: the order is behaviour. The router comes after all of them.
    listener_health_check.FEATURE,  # a load balancer's probe meets nobody who may refuse it
    fault_injection.FEATURE,  # rejects before anyone has spent work
    cors.FEATURE,  # answers preflights, which carry no credentials, before anyone asks for some
    headers.FEATURE,  # of a response: after all that stand behind it have changed it
    external_auth.FEATURE,  # as in the reference: a server of the user's is asked before credentials
    basic_auth.FEATURE,
    session_persistence.FEATURE,  # chooses an endpoint for those who may pass
    credential_injection.FEATURE,  # after all that judges a client by what it sends
    # What is no filter; each is alone in what it sets, so that their order has no meaning.
    timeout.FEATURE,
    retry.FEATURE,
    circuit_breaker.FEATURE,
    load_balancer.FEATURE,
    client_tcp_keepalive.FEATURE,
    client_proxy_protocol.FEATURE,
    enable_proxy_protocol.FEATURE,  # after proxyProtocol, which wins
    scheme.FEATURE,
    client_timeout.FEATURE,
    connection.FEATURE,
    grpc.FEATURE,
    client_http2.FEATURE,
    http1.FEATURE,  # after connection: it takes back how old connections end
    client_tls.FEATURE,
    path.FEATURE,
    client_ip_detection.FEATURE,
)
"""Every feature; what has a filter stands in the order of the filter chain."""
