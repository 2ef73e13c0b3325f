"""SecurityPolicy: who may pass.

Rule: a request never passes because moongate cannot enforce a policy. A policy (or its parent) with a field
that moongate does not implement yet fails, and the routes of a failed policy answer 500.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from moongate.api.base import ENVOY_GROUP, Rule, deprecated, not_built_yet
from moongate.api.policy import REPLACES_WHEN_ABSENT, MergeType, PolicyTargetReferences
from moongate.attach.policies import Policy
from moongate.features.basic_auth import BasicAuth
from moongate.features.cors import CORS
from moongate.problem import Problem

UnbuiltGuard = Annotated[
    Any, not_built_yet("routes of this policy answer 500, so that nobody passes unchecked")
]
"""A way to decide who may pass that is not built yet."""


class SecurityPolicySpec(PolicyTargetReferences, frozen=True, kw_only=True):
    """Who may pass."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.targetRef) ? self.targetRef.group == 'gateway.networking.k8s.io' : true",
            "targetRef.group must be gateway.networking.k8s.io.",
        ),
        Rule(
            "has(self.targetRef) ? self.targetRef.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', "
            "'GRPCRoute', 'TCPRoute'] : true",
            "targetRef.kind must be Gateway, ListenerSet, HTTPRoute, GRPCRoute or TCPRoute.",
        ),
        Rule(
            "has(self.targetRefs) ? self.targetRefs.all(ref, ref.group == "
            "'gateway.networking.k8s.io') : true",
            "The group of each of targetRefs must be gateway.networking.k8s.io.",
        ),
        Rule(
            "has(self.targetRefs) ? self.targetRefs.all(ref, ref.kind in ['Gateway', 'ListenerSet', "
            "'HTTPRoute', 'GRPCRoute', 'TCPRoute']) : true",
            "The kind of each of targetRefs must be Gateway, ListenerSet, HTTPRoute, GRPCRoute or TCPRoute.",
        ),
        Rule(
            "has(self.targetSelectors) ? self.targetSelectors.all(sel, sel.kind in ['Gateway', "
            "'ListenerSet', 'HTTPRoute', 'GRPCRoute', 'TCPRoute']) : true",
            "The kind of each of targetSelectors must be Gateway, ListenerSet, HTTPRoute, GRPCRoute or "
            "TCPRoute.",
        ),
        Rule(
            "!has(self.mergeType) || ((!has(self.targetRef) || self.targetRef.kind in ['HTTPRoute', "
            "'GRPCRoute', 'TCPRoute']) && (!has(self.targetRefs) || self.targetRefs.all(ref, ref.kind in "
            "['HTTPRoute', 'GRPCRoute', 'TCPRoute'])) && (!has(self.targetSelectors) || "
            "self.targetSelectors.all(sel, sel.kind in ['HTTPRoute', 'GRPCRoute', 'TCPRoute'])))",
            "mergeType is for policies of routes, which merge with what is above them.",
        ),
        Rule(
            "(has(self.authorization) && has(self.authorization.rules) && "
            "self.authorization.rules.exists(r, has(r.principal) ? has(r.principal.jwt) : false)) ? "
            "has(self.jwt) : true",
            "authorization has a rule about the claims of a JWT, so jwt must be set.",
        ),
    )
    FIELD_RULES: ClassVar[Mapping[str, tuple[Rule, ...]]] = {
        "merge_type": (REPLACES_WHEN_ABSENT,),
    }

    merge_type: MergeType | None = None
    api_key_auth: UnbuiltGuard | None = None
    cors: CORS | None = None
    csrf: UnbuiltGuard | None = None
    basic_auth: BasicAuth | None = None
    jwt: UnbuiltGuard | None = None
    oidc: UnbuiltGuard | None = None
    ext_auth: (
        Annotated[UnbuiltGuard, deprecated("backendRefs", "grpc.backendRef", "http.backendRef")] | None
    ) = None
    authorization: UnbuiltGuard | None = None


DEMANDS: Final = ("api_key_auth", "basic_auth", "jwt", "oidc", "ext_auth", "authorization")
"""The fields of a policy by which it lets only some pass. The others are about browsers."""


class SecurityPolicy(Policy, frozen=True, kw_only=True):
    """Who may pass to a route, or to all routes of a Gateway or listener."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "SecurityPolicy"
    PLURAL: ClassVar[str] = "SecurityPolicies"
    GUARDS: ClassVar[bool] = True

    spec: SecurityPolicySpec

    @property
    def demands(self) -> frozenset[str]:
        """The fields by which it lets only some pass."""
        return frozenset(field for field in DEMANDS if getattr(self.spec, field) is not None)


class FaultySecurityPolicy(SecurityPolicy, frozen=True, kw_only=True):
    """Stands in for a manifest with faults that never was without: nobody passes where it holds.

    It does not say who may pass, nor that everybody may; only its targets are sound.

    Args:
        faults: what is wrong with the manifest.
    """

    faults: tuple[Problem, ...]

    @property
    def demands(self) -> frozenset[str]:
        return frozenset(DEMANDS)
