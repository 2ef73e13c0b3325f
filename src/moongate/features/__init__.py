"""What policies can set: one module per feature, and the table of all of them.

Adding one: a module and its page, a field in the policy's spec, a line here.
"""

from __future__ import annotations

from typing import Any

from moongate import expressions as _  # noqa: F401 - before all that import the package ``cel``
from moongate.features import (
    admission_control,
    backend_connection,
    bandwidth_limit,
    basic_auth,
    circuit_breaker,
    client_http2,
    client_ip_detection,
    client_proxy_protocol,
    client_tcp_keepalive,
    client_timeout,
    client_tls,
    compressor,
    connection,
    cors,
    credential_injection,
    dns,
    enable_proxy_protocol,
    external_auth,
    fault_injection,
    grpc,
    headers,
    health_check,
    http1,
    http2,
    http3,
    http_upgrade,
    listener_health_check,
    load_balancer,
    path,
    proxy_protocol,
    rate_limit,
    request_buffer,
    response_override,
    retry,
    scheme,
    session_persistence,
    tcp_keepalive,
    telemetry,
    timeout,
    use_client_protocol,
)
from moongate.features.base import Feature

FEATURES: tuple[Feature[Any], ...] = (
    # HTTP filters, in the order of Envoy's chain: the order is behaviour. The router comes after all of them.
    response_override.FEATURE,  # sees what all others answer
    listener_health_check.FEATURE,  # a load balancer's probe meets nobody who may refuse it
    fault_injection.FEATURE,  # rejects before anyone has spent work
    cors.FEATURE,  # answers preflights, which carry no credentials, before anyone asks for some
    headers.FEATURE,  # of a response: after all that stand behind it have changed it
    external_auth.FEATURE,  # as in the reference: a server of the user's is asked before credentials
    basic_auth.FEATURE,
    session_persistence.FEATURE,  # chooses an endpoint for those who may pass
    request_buffer.FEATURE,
    rate_limit.LOCAL,  # counts those who may pass; this one asks nobody, so it comes first
    rate_limit.GLOBAL,
    rate_limit.SHARED,
    rate_limit.INHERITED,
    bandwidth_limit.REQUESTS,
    bandwidth_limit.RESPONSES,
    credential_injection.FEATURE,  # after all that judges a client by what it sends
    *compressor.FEATURES,  # the last that changes a response on its way to the client
    # What is no filter; each is alone in what it sets, so that their order has no meaning.
    timeout.FEATURE,
    http_upgrade.FEATURE,
    telemetry.FEATURE,
    retry.FEATURE,
    circuit_breaker.FEATURE,
    load_balancer.FEATURE,
    client_tcp_keepalive.FEATURE,
    client_proxy_protocol.FEATURE,
    enable_proxy_protocol.FEATURE,  # after proxyProtocol, which wins
    scheme.FEATURE,
    health_check.FEATURE,
    tcp_keepalive.FEATURE,
    backend_connection.FEATURE,
    dns.FEATURE,
    http2.FEATURE,
    use_client_protocol.FEATURE,
    proxy_protocol.FEATURE,
    admission_control.FEATURE,
    client_timeout.FEATURE,
    connection.FEATURE,
    grpc.FEATURE,
    client_http2.FEATURE,
    http1.FEATURE,  # after connection: it takes back how old connections end
    client_tls.FEATURE,
    http3.FEATURE,
    path.FEATURE,
    client_ip_detection.FEATURE,
)
"""Every feature; what has a filter stands in the order of the filter chain."""
