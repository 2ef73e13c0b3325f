"""Fields of a ClientTrafficPolicy of which no client and no backend of the tests can see anything."""

from __future__ import annotations

from typing import Final

_GROUP: Final = (
    "There is only one: the API server refuses another, as the CRD says.",
    "tests/policies/test_client_traffic_policy.py::test_targets_are_of_one_group",
)

UNSEEN: Final[dict[str, tuple[str, str]]] = {
    "targetRef.group": _GROUP,
    "targetRefs[].group": _GROUP,
    "targetSelectors[].group": _GROUP,
    "connection.maxAcceptPerSocketEvent": (
        "All waiting connections are accepted in any case, a moment earlier or later.",
        "src/moongate/features/connection.md",
    ),
    "connection.socketBufferLimit": (
        "It has no effect, as in Envoy Gateway, and a hint says so.",
        "tests/features/test_connection.py::test_the_size_of_a_socket_is_pointed_out",
    ),
    "http2.connectionKeepalive.idleInterval": (
        "Envoy takes it, and looks at it only where it sends the requests; a hint says so.",
        "src/moongate/features/client_http2.md",
    ),
    "tls.clientValidation.caCertificateRefs[].group": (
        "The kind alone says what is read, as in Envoy Gateway.",
        "tests/features/test_client_tls.py::test_authorities_are_of_a_kind_whatever_group_is_written",
    ),
}
"""Field → why, and what checks that or its xDS; ``path.*`` stands for all below it."""
