"""A client's address is read where the policy says, and nowhere else."""

from __future__ import annotations

from typing import TypeVar

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.original_ip_detection.custom_header.v3.custom_header_pb2 import CustomHeaderConfig
from envoy.extensions.http.original_ip_detection.xff.v3.xff_pb2 import XffConfig
from google.protobuf.message import Message

from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.client_ip_detection import (
    FEATURE,
    ClientIPDetectionSettings,
    CustomHeaderExtensionSettings,
    DirectSourceIPSettings,
    XForwardedForSettings,
    check,
)
from tests.features.listeners import OWNER, manager_with

M = TypeVar("M", bound=Message)


def edited(detection: ClientIPDetectionSettings) -> HttpConnectionManager:
    return manager_with(FEATURE, detection)


def xff(settings: XForwardedForSettings) -> XffConfig:
    return extension(ClientIPDetectionSettings(x_forwarded_for=settings), "xff", XffConfig())


def header(settings: CustomHeaderExtensionSettings) -> CustomHeaderConfig:
    detection = ClientIPDetectionSettings(custom_header=settings)
    return extension(detection, "custom_header", CustomHeaderConfig())


def extension(detection: ClientIPDetectionSettings, name: str, config: M) -> M:
    """The extension, the only one, that finds out the address; it is unpacked into ``config``."""
    hcm = edited(detection)
    [only] = hcm.original_ip_detection_extensions
    assert only.name == f"envoy.extensions.http.original_ip_detection.{name}"
    assert only.typed_config.Unpack(config)
    assert not hcm.use_remote_address.value
    return config


@pytest.mark.parametrize(("hops", "besides"), [(1, 0), (2, 1)])
def test_envoy_counts_the_proxies_besides_the_one_that_connected(hops: int, besides: int) -> None:
    config = xff(XForwardedForSettings(num_trusted_hops=hops))

    assert config.xff_num_trusted_hops == besides
    assert not config.HasField("xff_trusted_cidrs")


@pytest.mark.parametrize("disabled", [None, True])
def test_without_a_trusted_proxy_the_header_is_not_believed(disabled: bool | None) -> None:
    """Envoy's extension has no such setting: it trusts one proxy at least."""
    settings = XForwardedForSettings(num_trusted_hops=0, disable_x_forwarded_for_append=disabled)

    hcm = edited(ClientIPDetectionSettings(x_forwarded_for=settings))

    assert hcm.use_remote_address.value
    assert list(hcm.original_ip_detection_extensions) == []
    assert hcm.skip_xff_append is bool(disabled)


def test_proxies_may_be_known_by_their_addresses() -> None:
    config = xff(XForwardedForSettings(trusted_cidrs=("10.0.0.1/8", "2001:db8::/32")))
    cidrs = [(c.address_prefix, c.prefix_len.value) for c in config.xff_trusted_cidrs.cidrs]

    assert cidrs == [("10.0.0.1", 8), ("2001:db8::", 32)]


@pytest.mark.parametrize("disable", [None, False, True])
def test_the_connections_address_is_appended_unless_that_is_turned_off(disable: bool | None) -> None:
    """Told in so many words, for Envoy's own default here is not to append."""
    config = xff(XForwardedForSettings(num_trusted_hops=1, disable_x_forwarded_for_append=disable))

    assert config.HasField("skip_xff_append")
    assert config.skip_xff_append.value is (disable is True)


def test_a_header_of_ones_own_may_hold_the_address() -> None:
    config = header(CustomHeaderExtensionSettings(name="x-client-ip"))

    assert config.header_name == "x-client-ip"
    assert config.allow_extension_to_set_address_as_trusted
    assert not config.HasField("reject_with_status")


def test_requests_without_that_header_may_be_refused() -> None:
    config = header(CustomHeaderExtensionSettings(name="x-client-ip", fail_closed=True))

    assert config.reject_with_status.code == 403


def test_the_address_of_who_connected_needs_no_extension() -> None:
    hcm = edited(ClientIPDetectionSettings(direct_source_ip=DirectSourceIPSettings()))

    assert hcm.use_remote_address.value
    assert not hcm.original_ip_detection_extensions


@pytest.mark.parametrize(
    "cidr", ["10.0.0.0/33", "999.1.1.1/8", "10.0.0.0/255.0.0.0", "10.0.0.0/8x", "10.0.0.0", "fe80::1%eth0/64"]
)
def test_what_is_no_address_block_is_a_problem(cidr: str) -> None:
    """The CRD's pattern is not anchored, so it lets these through."""
    settings = XForwardedForSettings(trusted_cidrs=("10.0.0.0/8", cidr))
    [problem] = check(Db(), Effective(ClientIPDetectionSettings(x_forwarded_for=settings), OWNER))

    assert problem.path == "xForwardedFor.trustedCIDRs[1]"
    assert cidr in problem.message


def test_a_negative_count_is_a_problem() -> None:
    settings = XForwardedForSettings(num_trusted_hops=-1)
    [problem] = check(Db(), Effective(ClientIPDetectionSettings(x_forwarded_for=settings), OWNER))

    assert problem.path == "xForwardedFor.numTrustedHops"
