"""The kinds are what the CRDs say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moongate.api.backend import Backend
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.httproute import HTTPRoute
from moongate.api.httproutefilter import HTTPRouteFilter
from tests.api.crds import differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.api.base import Resource

GATEWAY_API = "gateway-api/experimental/gateway.networking.k8s.io_"

MIRRORED: list[tuple[type[Resource], str, Mapping[str, str]]] = [
    (
        GatewayClass,
        f"{GATEWAY_API}gatewayclasses.yaml",
        {".spec.controllerName: lacks the rule self == oldSelf": "a manifest is not an update"},
    ),
    (
        Gateway,
        f"{GATEWAY_API}gateways.yaml",
        {
            ".spec.addresses[]: has a rule of its own, self.type == 'IPAddress'": "a format in the CRD",
        },
    ),
    (ReferenceGrant, f"{GATEWAY_API}referencegrants.yaml", {}),
    (HTTPRoute, f"{GATEWAY_API}httproutes.yaml", {}),
    (
        HTTPRouteFilter,
        "envoy-gateway/httproutefilters.gateway.envoyproxy.io.yaml",
        {
            ".spec.directResponse.header.add[].value: pattern": "as in a header filter of the Gateway API",
            ".spec.directResponse.header.set[].value: pattern": "as in a header filter of the Gateway API",
        },
    ),
    (Backend, "envoy-gateway/backends.gateway.envoyproxy.io.yaml", {}),
    (
        EnvoyProxy,
        "envoy-gateway/envoyproxies.gateway.envoyproxy.io.yaml",
        {
            ".spec.telemetry.accessLog.settings[].sinks[].type: required": "no rule could hold without",
            ".spec.telemetry.accessLog.settings[].sinks[].file.path: required": "Envoy needs it",
        },
    ),
]


@pytest.mark.parametrize(("kind", "crd", "known"), MIRRORED, ids=lambda value: getattr(value, "KIND", ""))
def test_a_kind_mirrors_its_crd(kind: type[Resource], crd: str, known: Mapping[str, str]) -> None:
    """Every field is declared, with the CRD's default, range, pattern, enum, length and rules."""
    assert differences(kind, crd, known) == []
