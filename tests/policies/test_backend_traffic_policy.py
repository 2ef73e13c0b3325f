"""BackendTrafficPolicy is what its CRD says."""

from __future__ import annotations

from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from tests.api.crds import differences

ENVOYS_OWN = "Envoy's own default, so that absent says the same, and a merge can tell what a policy said"

MEANT = {
    **{
        f".spec.circuitBreaker.{name}: the default": ENVOYS_OWN
        for name in ("maxConnections", "maxParallelRequests", "maxParallelRetries", "maxPendingRequests")
    },
    ".spec.loadBalancer.consistentHash.tableSize: the default": ENVOYS_OWN,
    **{
        f".spec.{name}: the default": "built when absent; a merge can tell what a policy said"
        for name in (
            "circuitBreaker.perEndpoint.maxConnections",
            "faultInjection.abort.percentage",
            "faultInjection.delay.percentage",
            "loadBalancer.backendUtilization.keepResponseHeaders",
            "retry.numRetries",
        )
    },
    ".spec.mergeType: enum": "the reference's code knows these alone",
    ".spec.routingType: enum": "the reference's code knows these alone",
}


def test_backend_traffic_policy_mirrors_its_crd() -> None:
    crd = "envoy-gateway/backendtrafficpolicies.gateway.envoyproxy.io.yaml"

    assert differences(BackendTrafficPolicy, crd, MEANT) == []
