"""Fields of a BackendTrafficPolicy of which no client and no backend of the tests can see anything."""

from __future__ import annotations

from typing import Final

_LIMITS: Final = "tests/features/test_rate_limit.py"
_REFUSED: Final = "A local limit has none: the API server refuses it, as the CRD says."

UNSEEN: Final[dict[str, tuple[str, str]]] = {
    "targetSelectors[].group": (
        "It has one value only, which is the default.",
        "tests/policies/test_backend_traffic_policy.py::test_a_selector_has_one_group",
    ),
    "loadBalancer.dynamicModule.*": (
        "It has no effect, as in Envoy Gateway, and a hint says so.",
        "tests/features/test_load_balancer.py::test_a_dynamic_module_leaves_the_clusters_own_policy",
    ),
    "connection.socketBufferLimit": (
        "It has no effect, as in Envoy Gateway, and a hint says so.",
        "tests/features/test_backend_connection.py::test_the_size_of_a_socket_is_pointed_out",
    ),
    "rateLimit.global.rules[].cost.request.from": (
        "What is set beside it, number or metadata, says it alone, as in Envoy Gateway.",
        f"{_LIMITS}::test_a_cost_is_what_is_set_whatever_it_says_it_is_from",
    ),
    "rateLimit.global.rules[].cost.response.from": (
        "What is set beside it, number or metadata, says it alone, as in Envoy Gateway.",
        f"{_LIMITS}::test_a_cost_is_what_is_set_whatever_it_says_it_is_from",
    ),
    "rateLimit.local.rules[].limit.fromMetadata.*": (
        _REFUSED,
        f"{_LIMITS}::test_what_the_crd_refuses_is_refused",
    ),
    "rateLimit.local.rules[].cost.response.*": (_REFUSED, f"{_LIMITS}::test_what_the_crd_refuses_is_refused"),
    "rateLimit.local.rules[].cost.request.*": (
        "Locally each request costs 1, as in Envoy Gateway, and a hint says so.",
        f"{_LIMITS}::test_a_local_limit_is_the_same_whatever_it_says_of_costs_and_of_sharing",
    ),
    "rateLimit.local.rules[].shared": (
        "Locally each route has a limit of its own, as in Envoy Gateway, and a hint says so.",
        f"{_LIMITS}::test_a_local_limit_is_the_same_whatever_it_says_of_costs_and_of_sharing",
    ),
    "compression[].brotli": (
        "In the older field the type alone turns an entry on.",
        "tests/features/test_compressor.py::test_in_the_older_field_the_type_is_enough",
    ),
    "compression[].gzip": (
        "In the older field the type alone turns an entry on.",
        "tests/features/test_compressor.py::test_in_the_older_field_the_type_is_enough",
    ),
    "compression[].zstd": (
        "In the older field the type alone turns an entry on.",
        "tests/features/test_compressor.py::test_in_the_older_field_the_type_is_enough",
    ),
    "responseOverride[].response.body.valueRef.group": (
        "The kind alone says what is read, as in Envoy Gateway.",
        "tests/features/test_response_override.py::test_a_page_is_of_a_kind_whatever_group_is_written",
    ),
    "responseOverride[].response.header.remove": (
        "It is refused: Envoy cannot remove headers there.",
        "tests/features/test_response_override.py::test_what_the_crd_refuses",
    ),
    "responseOverride[].redirect.path.replacePrefixMatch": (
        "It is refused: the path can be replaced as a whole only.",
        "tests/features/test_response_override.py::test_what_the_crd_refuses",
    ),
}
"""Field → why, and the test of its xDS; ``path.*`` stands for all below it."""
