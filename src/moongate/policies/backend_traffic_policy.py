"""BackendTrafficPolicy: how the gateway treats backends, and requests on their way to them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from moongate.api.base import ENVOY_GROUP, Rule, deprecated
from moongate.api.cluster_settings import (
    DNS,
    PREDICTED_BY_TURNS,
    BackendConnection,
    CircuitBreaker,
    LoadBalancer,
    ProxyProtocol,
    Retry,
    Timeout,
)
from moongate.api.connections import HTTP2Settings, TCPKeepalive
from moongate.api.health_checks import HealthCheck
from moongate.api.policy import REPLACES_WHEN_ABSENT, MergeType, PolicyTargetReferences
from moongate.api.rate_limits import RateLimits
from moongate.attach.policies import Policy
from moongate.features.admission_control import AdmissionControl
from moongate.features.bandwidth_limit import BandwidthLimit
from moongate.features.compressor import Compressions
from moongate.features.fault_injection import FaultInjection
from moongate.features.http_upgrade import ProtocolUpgrades
from moongate.features.request_buffer import RequestBuffer
from moongate.features.response_override import ResponseOverrides
from moongate.features.telemetry import BackendTelemetry

_KINDS = "['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute', 'UDPRoute', 'TCPRoute', 'TLSRoute']"
_ROUTES = "['HTTPRoute', 'GRPCRoute', 'UDPRoute', 'TCPRoute', 'TLSRoute']"
_HTTP = "['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute']"


def _targets_only(kinds: str) -> str:
    """CEL: each target, however it is named, is of one of these kinds."""
    return (
        f"((!has(self.targetRef) || self.targetRef.kind in {kinds}) && "
        f"(!has(self.targetRefs) || self.targetRefs.all(ref, ref.kind in {kinds})) && "
        f"(!has(self.targetSelectors) || self.targetSelectors.all(sel, sel.kind in {kinds})))"
    )


class BackendTrafficPolicySpec(PolicyTargetReferences, frozen=True, kw_only=True):
    """How backends are treated, and requests on their way to them."""

    # The order of fields is the order of the reference page.

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.targetRef) ? self.targetRef.group == 'gateway.networking.k8s.io' : true",
            "targetRef.group must be gateway.networking.k8s.io.",
        ),
        Rule(
            f"has(self.targetRef) ? self.targetRef.kind in {_KINDS} : true",
            "targetRef.kind must be Gateway, ListenerSet or a kind of route.",
        ),
        Rule(
            "has(self.targetRefs) ? "
            "self.targetRefs.all(ref, ref.group == 'gateway.networking.k8s.io') : true",
            "The group of each of targetRefs must be gateway.networking.k8s.io.",
        ),
        Rule(
            f"has(self.targetRefs) ? self.targetRefs.all(ref, ref.kind in {_KINDS}) : true",
            "The kind of each of targetRefs must be Gateway, ListenerSet or a kind of route.",
        ),
        Rule(
            f"has(self.targetSelectors) ? self.targetSelectors.all(sel, sel.kind in {_KINDS}) : true",
            "The kind of each of targetSelectors must be Gateway, ListenerSet or a kind of route.",
        ),
        Rule(
            f"!has(self.mergeType) || {_targets_only(_ROUTES)}",
            "mergeType is for policies that target routes only; a Gateway's has nothing to merge with.",
        ),
        Rule(
            "!has(self.compression) || !has(self.compressor)",
            "Set compressor or the older compression, not both.",
        ),
        Rule(
            "!has(self.requestBuffer) || !has(self.httpUpgrade) || self.httpUpgrade.size() == 0",
            "An upgraded connection has no body to buffer: set requestBuffer or httpUpgrade, not both.",
        ),
        Rule(
            f"!has(self.admissionControl) || {_targets_only(_HTTP)}",
            "admissionControl is for targets that carry HTTP: Gateway, ListenerSet, HTTPRoute and GRPCRoute.",
        ),
        PREDICTED_BY_TURNS,
    )
    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "merge_type": (REPLACES_WHEN_ABSENT,),
    }

    load_balancer: LoadBalancer | None = None
    retry: Retry | None = None
    proxy_protocol: ProxyProtocol | None = None
    tcp_keepalive: TCPKeepalive | None = None
    health_check: HealthCheck | None = None
    circuit_breaker: CircuitBreaker | None = None
    timeout: Timeout | None = None
    connection: BackendConnection | None = None
    dns: DNS | None = None
    http2: HTTP2Settings | None = None
    merge_type: MergeType | None = None
    rate_limit: RateLimits | None = None
    bandwidth_limit: BandwidthLimit | None = None
    fault_injection: FaultInjection | None = None
    admission_control: AdmissionControl | None = None
    use_client_protocol: bool | None = None
    compression: Annotated[Compressions, deprecated("compressor")] | None = None
    compressor: Compressions | None = None
    response_override: ResponseOverrides | None = None
    http_upgrade: ProtocolUpgrades | None = None
    request_buffer: RequestBuffer | None = None
    telemetry: BackendTelemetry | None = None
    routing_type: Literal["Service", "Endpoint"] | None = None


class BackendTrafficPolicy(Policy, frozen=True, kw_only=True):
    """How requests reach their backends."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "BackendTrafficPolicy"
    PLURAL: ClassVar[str] = "BackendTrafficPolicies"

    spec: BackendTrafficPolicySpec
