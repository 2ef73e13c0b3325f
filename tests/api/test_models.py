"""The kinds are what the CRDs say."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.api.backend import Backend, IPEndpoint
from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.grpcroute import GRPCRoute
from moongate.api.httproute import HTTPRoute
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.tcproute import TCPRoute, TCPRouteV1
from moongate.api.tlsroute import TLSRoute, TLSRouteV1
from moongate.api.udproute import UDPRoute, UDPRouteV1
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
    (ListenerSet, f"{GATEWAY_API}listenersets.yaml", {}),
    (ReferenceGrant, f"{GATEWAY_API}referencegrants.yaml", {}),
    (BackendTLSPolicy, f"{GATEWAY_API}backendtlspolicies.yaml", {}),
    (HTTPRoute, f"{GATEWAY_API}httproutes.yaml", {}),
    (GRPCRoute, f"{GATEWAY_API}grpcroutes.yaml", {}),
    (TLSRouteV1, f"{GATEWAY_API}tlsroutes.yaml", {}),
    (TCPRouteV1, f"{GATEWAY_API}tcproutes.yaml", {}),
    (UDPRouteV1, f"{GATEWAY_API}udproutes.yaml", {}),
    (
        HTTPRouteFilter,
        "envoy-gateway/httproutefilters.gateway.envoyproxy.io.yaml",
        {
            ".spec.directResponse.header.add[].value: pattern": "as in a header filter of the Gateway API",
            ".spec.directResponse.header.set[].value: pattern": "as in a header filter of the Gateway API",
            ".spec.matches[]: has a rule of its own, has(self.cookies)": "minProperties in the CRD",
        },
    ),
    (
        Backend,
        "envoy-gateway/backends.gateway.envoyproxy.io.yaml",
        {
            ".spec.endpoints[].ip.address: pattern": "that of the CRD refuses '::1' and takes leading zeros",
        },
    ),
    (EnvoyPatchPolicy, "envoy-gateway/envoypatchpolicies.gateway.envoyproxy.io.yaml", {}),
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


@pytest.mark.parametrize("kind", [TLSRoute, TCPRoute, UDPRoute], ids=lambda kind: kind.KIND)
def test_an_older_version_of_a_kind_mirrors_its_crd(kind: type[Resource]) -> None:
    """It is the one that allows most."""
    crd = f"{GATEWAY_API}{kind.KIND.lower()}s.yaml"

    assert differences(kind, crd, version="v1alpha2") == []


def test_versions_that_allow_the_same_have_one_type() -> None:
    crd = f"{GATEWAY_API}tlsroutes.yaml"

    assert differences(TLSRoute.STRICTER["v1alpha3"], crd, version="v1alpha3") == []


@given(
    st.ip_addresses().map(str)
    | st.ip_addresses(v=6).map(lambda address: address.exploded)
    | st.ip_addresses(v=4).map("::ffff:{}".format)
    | st.from_regex(re.compile(r"[0-9a-f:.]{3,20}", re.ASCII), fullmatch=True)
    | st.lists(st.sampled_from(["1", "ab", "0", "", "1.2.3.4"]), min_size=3, max_size=9).map(":".join)
)
def test_a_backend_takes_all_ip_addresses_and_nothing_else(text: str) -> None:
    """``::1`` is the address that everybody has. Envoy refuses what has leading zeros."""
    try:
        ipaddress.ip_address(text)
        is_address = text != "::"  # no address to connect to
    except ValueError:
        is_address = False
    try:
        takes = bool(msgspec.convert({"address": text, "port": 1}, IPEndpoint))
    except msgspec.ValidationError:
        takes = False

    assert takes == is_address
