"""The configuration: what is shipped, and what its switches mean."""

from __future__ import annotations

from moongate.api.envoygateway import CONTROLLER_NAME, EnvoyGateway, RuntimeFlags


def test_the_shipped_configuration_shares_clusters_and_knows_backends() -> None:
    """What a laptop runs with; an empty configuration stays what Envoy Gateway does."""
    shipped, bare = EnvoyGateway.shipped(), EnvoyGateway()

    assert shipped.gateway.controller_name == bare.gateway.controller_name == CONTROLLER_NAME
    assert shipped.envoy_proxy is not None
    assert shipped.envoy_proxy.merge_backends is not None
    assert shipped.extension_apis.enable_backend
    assert shipped.extension_apis.enable_envoy_patch_policy
    assert shipped.provider.custom is not None
    assert shipped.provider.custom.resource.type == "File"
    assert bare.envoy_proxy is None
    assert not bare.extension_apis.enable_backend


def test_a_runtime_flag_in_both_lists_is_off() -> None:
    flags = RuntimeFlags(enabled=("XDSNameSchemeV2",), disabled=("XDSNameSchemeV2",))

    assert not flags.on("XDSNameSchemeV2")
    assert flags.on("EndpointSliceIndex")
