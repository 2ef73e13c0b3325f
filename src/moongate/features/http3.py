"""HTTP/3 for clients of TLS listeners.

Set by:      ClientTrafficPolicy ``spec.http3``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       a second listener at the same port of UDP, with QUIC; header ``alt-svc`` of responses
Cases:       http3.md beside this file: its reference page and its golden tests

Facts
-----
* a policy of one listener switches it on for all listeners of HTTPS at its port, as in the reference
* Envoy checks no certificates of clients over QUIC, so a listener that asks for some has no HTTP/3
* Envoy does not ask open connections of QUIC to end when their chain is drained; it closes them afterwards
* QUIC is always TLS 1.3; nothing of PROXY protocol comes by it
"""

from __future__ import annotations

from moongate.api.base import Model
from moongate.features.base import Feature


class HTTP3Settings(Model, frozen=True, kw_only=True):
    """HTTP/3 is on where this is set, also without anything in it."""


FEATURE = Feature(kind="ClientTrafficPolicy", field="http3", model=HTTP3Settings, http3=True)
