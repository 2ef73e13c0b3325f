"""The features of the Gateway API that moongate has, as the status of a GatewayClass lists them.

A feature stands here if a test with a real Envoy shows it: ``tests/status/test_supported_features.py`` names
that test for each of them, and says of all others of this version why they are not here.

Source: Gateway API v1.6, ``pkg/features``; ``GatewayClassStatus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.attach.gateways import config

if TYPE_CHECKING:
    from moongate.engine import Db

VERSION: Final = "v1.6"
"""The version of the Gateway API that moongate reads, in its standard and experimental channels."""

MISDIRECTED: Final = "GatewayHTTPSListenerDetectMisdirectedRequests"

SUPPORTED: Final = (
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
)
"""What is there whatever the configuration says, sorted."""


def supported_features(db: Db) -> tuple[str, ...]:
    """The names of the features that the Gateways of a class have, sorted."""
    detects = config(db).runtime_flags.on("MisdirectedRequests")
    return tuple(sorted((*SUPPORTED, *((MISDIRECTED,) if detects else ()))))
