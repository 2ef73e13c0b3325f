"""What policies can set: one module per feature, and the table of all of them.

Adding one: a module and its page, a field in the policy's spec, a line here.
"""

from __future__ import annotations

from typing import Any

from moongate.features import (
    basic_auth,
    circuit_breaker,
    client_ip_detection,
    client_timeout,
    client_tls,
    connection,
    cors,
    credential_injection,
    external_auth,
    fault_injection,
    http3,
    load_balancer,
    path,
    retry,
    session_persistence,
    timeout,
)
from moongate.features.base import Feature

FEATURES: tuple[Feature[Any], ...] = (
    # HTTP filters, in the order of Envoy's chain: the order is behaviour. The router comes after all of them.
    fault_injection.FEATURE,  # rejects before anyone has spent work
    cors.FEATURE,  # answers preflights, which carry no credentials, before anyone asks for some
    external_auth.FEATURE,  # as in the reference: a server of the user's is asked before credentials
    basic_auth.FEATURE,
    session_persistence.FEATURE,  # chooses an endpoint for those who may pass
    credential_injection.FEATURE,  # after all that judges a client by what it sends
    # What is no filter; each is alone in what it sets, so that their order has no meaning.
    timeout.FEATURE,
    retry.FEATURE,
    circuit_breaker.FEATURE,
    load_balancer.FEATURE,
    client_timeout.FEATURE,
    connection.FEATURE,
    client_tls.FEATURE,
    http3.FEATURE,
    path.FEATURE,
    client_ip_detection.FEATURE,
)
"""Every feature; what has a filter stands in the order of the filter chain."""
