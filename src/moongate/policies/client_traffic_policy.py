"""ClientTrafficPolicy: how a listener treats its clients."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from moongate.api.base import ENVOY_GROUP, Rule, deprecated
from moongate.api.connections import HTTP2Settings, TCPKeepalive
from moongate.api.policy import REPLACES_WHEN_ABSENT, MergeType, PolicyTargetReferences
from moongate.attach.policies import Policy
from moongate.features.client_ip_detection import ClientIPDetectionSettings
from moongate.features.client_proxy_protocol import ProxyProtocolSettings
from moongate.features.client_timeout import ClientTimeout
from moongate.features.client_tls import ClientTLSSettings
from moongate.features.connection import ClientConnection
from moongate.features.grpc import GRPCSettings
from moongate.features.headers import HeaderSettings
from moongate.features.http1 import HTTP1Settings
from moongate.features.http3 import HTTP3Settings
from moongate.features.listener_health_check import HealthCheckSettings
from moongate.features.path import PathSettings
from moongate.features.scheme import SchemeHeaderTransform


class ClientTrafficPolicySpec(PolicyTargetReferences, frozen=True, kw_only=True):
    """How clients connect, what they may send, and how long they may take."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.targetRef) ? self.targetRef.group == 'gateway.networking.k8s.io' : true",
            "targetRef.group must be gateway.networking.k8s.io.",
        ),
        Rule(
            "has(self.targetRef) ? self.targetRef.kind in ['Gateway', 'ListenerSet'] : true",
            "targetRef.kind must be Gateway or ListenerSet.",
        ),
        Rule(
            "has(self.targetRefs) ? self.targetRefs.all(ref, ref.group == "
            "'gateway.networking.k8s.io') : true",
            "The group of each of targetRefs must be gateway.networking.k8s.io.",
        ),
        Rule(
            "has(self.targetRefs) ? self.targetRefs.all(ref, ref.kind in ['Gateway', 'ListenerSet']) : true",
            "The kind of each of targetRefs must be Gateway or ListenerSet.",
        ),
        Rule(
            "has(self.targetSelectors) ? "
            "self.targetSelectors.all(sel, sel.kind in ['Gateway', 'ListenerSet']) : true",
            "The kind of each of targetSelectors must be Gateway or ListenerSet.",
        ),
        Rule(
            "!has(self.mergeType) || (has(self.targetRef) && "
            "(self.targetRef.kind == 'ListenerSet' || has(self.targetRef.sectionName))) || "
            "(has(self.targetRefs) && "
            "self.targetRefs.exists(ref, ref.kind == 'ListenerSet' || has(ref.sectionName))) || "
            "(has(self.targetSelectors) && self.targetSelectors.exists(sel, sel.kind == 'ListenerSet'))",
            "mergeType is for policies of a ListenerSet or a listener; nothing is above a whole Gateway.",
        ),
    )
    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "merge_type": (REPLACES_WHEN_ABSENT,),
    }

    merge_type: MergeType | None = None
    """How this policy is laid over that of the ListenerSet or Gateway, which it replaces when absent.

    Envoy Gateway has no such field.
    """
    tcp_keepalive: TCPKeepalive | None = None
    enable_proxy_protocol: Annotated[bool, deprecated("proxyProtocol")] | None = None
    proxy_protocol: ProxyProtocolSettings | None = None
    client_ip_detection: ClientIPDetectionSettings | None = field(default=None, name="clientIPDetection")
    tls: ClientTLSSettings | None = None
    path: PathSettings | None = None
    headers: HeaderSettings | None = None
    timeout: ClientTimeout | None = None
    connection: ClientConnection | None = None
    http1: HTTP1Settings | None = None
    http2: HTTP2Settings | None = None
    http3: HTTP3Settings | None = None
    grpc: GRPCSettings | None = None
    health_check: HealthCheckSettings | None = None
    scheme: SchemeHeaderTransform | None = None


class ClientTrafficPolicy(Policy, frozen=True, kw_only=True):
    """Settings of a Gateway's listeners, all or one by name."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "ClientTrafficPolicy"
    PLURAL: ClassVar[str] = "ClientTrafficPolicies"
    OF_LISTENERS: ClassVar[bool] = True

    spec: ClientTrafficPolicySpec
