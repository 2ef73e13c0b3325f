"""Where a client's address is read from: the connection, ``X-Forwarded-For``, or a header of your own.

Set by:      ClientTrafficPolicy ``spec.clientIPDetection``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       ``envoy.extensions.http.original_ip_detection.xff`` and ``….custom_header``
Cases:       client_ip_detection.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, ClassVar

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.original_ip_detection.custom_header.v3.custom_header_pb2 import CustomHeaderConfig
from envoy.extensions.http.original_ip_detection.xff.v3.xff_pb2 import XffConfig
from envoy.type.v3.http_status_pb2 import Forbidden, HttpStatus
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value
from msgspec import Meta, field

from moongate.api.base import Model, Rule, form
from moongate.api.shared import CIDR, Int32
from moongate.engine import Db
from moongate.features.base import Effective, Feature, ManagerEdit
from moongate.problem import Problem
from moongate.xds.wire import packed


class XForwardedForSettings(Model, frozen=True, kw_only=True):
    """Trust ``X-Forwarded-For`` as far as known proxies wrote it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.numTrustedHops) && !has(self.trustedCIDRs)) || (!has(self.numTrustedHops) && "
            "has(self.trustedCIDRs))",
            "Set exactly one of numTrustedHops and trustedCIDRs.",
        ),
    )

    num_trusted_hops: Int32 | None = None
    """How many proxies stand before this gateway: the client is the Nth address from the right; with 0, who
    connected."""
    trusted_cidrs: Annotated[tuple[CIDR, ...], Meta(min_length=1)] | None = field(
        default=None, name="trustedCIDRs"
    )
    """Addresses of the proxies: the client is the first from the right that is none of them."""
    disable_x_forwarded_for_append: bool | None = None
    """Pass the header on as it came, without the address of who connected."""


class CustomHeaderExtensionSettings(Model, frozen=True, kw_only=True):
    """Trust a header that holds the address and nothing else."""

    name: Annotated[
        str, form(r"^[A-Za-z0-9-]+$", "a header's name, of letters, digits and '-'", low=1, high=255)
    ]
    fail_closed: bool | None = None
    """Answer 403 when the header is absent or is no address; otherwise the connection's address counts."""


class DirectSourceIPSettings(Model, frozen=True, kw_only=True):
    """The address of who connected, whatever headers say."""


class ClientIPDetectionSettings(Model, frozen=True, kw_only=True):
    """Where a client's address is read from; exactly one way."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.xForwardedFor), has(self.customHeader), has(self.directSourceIP)].filter(x, "
            "x).size() == 1",
            "Set exactly one of xForwardedFor, customHeader and directSourceIP.",
        ),
    )

    x_forwarded_for: XForwardedForSettings | None = None
    custom_header: CustomHeaderExtensionSettings | None = None
    direct_source_ip: DirectSourceIPSettings | None = field(default=None, name="directSourceIP")


def check(db: Db, detection: Effective[ClientIPDetectionSettings]) -> Iterator[Problem]:
    """What the CRD's pattern lets through: address blocks that are none, and a negative count."""
    xff = detection.value.x_forwarded_for
    if xff is None:
        return
    if (xff.num_trusted_hops or 0) < 0:
        yield Problem(
            "xForwardedFor.numTrustedHops",
            f"numTrustedHops is {xff.num_trusted_hops}; it must be 0 or more.",
        )
    for i, cidr in enumerate(xff.trusted_cidrs or ()):
        if _block(cidr) is None:
            yield Problem(
                f"xForwardedFor.trustedCIDRs[{i}]",
                f"{cidr!r} is no address block; it must be like 10.0.0.0/8 or 2001:db8::/32.",
            )


def _connection_manager(edit: ManagerEdit, detection: Effective[ClientIPDetectionSettings]) -> None:
    spec, hcm = detection.value, edit.message
    xff = spec.x_forwarded_for
    if spec.custom_header is not None:
        _extension(hcm, "custom_header", _custom_header(spec.custom_header))
    elif xff is not None and xff.num_trusted_hops != 0:
        _extension(hcm, "xff", _xff(xff))
    else:
        # Envoy's extension trusts one proxy at least, so without any it is not asked.
        hcm.use_remote_address.value = True
        hcm.skip_xff_append = xff is not None and bool(xff.disable_x_forwarded_for_append)


def _extension(hcm: HttpConnectionManager, name: str, config: CustomHeaderConfig | XffConfig) -> None:
    # Envoy refuses detection extensions together with use_remote_address.
    hcm.use_remote_address.value = False
    hcm.original_ip_detection_extensions.append(
        TypedExtensionConfig(
            name=f"envoy.extensions.http.original_ip_detection.{name}", typed_config=packed(config)
        )
    )


def _custom_header(spec: CustomHeaderExtensionSettings) -> CustomHeaderConfig:
    config = CustomHeaderConfig(header_name=spec.name, allow_extension_to_set_address_as_trusted=True)
    if spec.fail_closed:
        config.reject_with_status.CopyFrom(HttpStatus(code=Forbidden))
    return config


def _xff(spec: XForwardedForSettings) -> XffConfig:
    config = XffConfig(skip_xff_append=BoolValue(value=bool(spec.disable_x_forwarded_for_append)))
    for cidr in spec.trusted_cidrs or ():
        block = _block(cidr)
        assert block is not None, "check has parsed every block"
        config.xff_trusted_cidrs.cidrs.append(block)
    if spec.num_trusted_hops is not None:
        # Envoy counts the proxies besides the one that connected.
        config.xff_num_trusted_hops = spec.num_trusted_hops - 1
    return config


def _block(cidr: str) -> CidrRange | None:
    """The address as written and the prefix length; ``None`` when it is no address block."""
    _, _, length = cidr.partition("/")
    if not length.isdecimal() or "%" in cidr:
        return None
    try:
        block = ipaddress.ip_interface(cidr)
    except ValueError:
        return None
    return CidrRange(address_prefix=str(block.ip), prefix_len=UInt32Value(value=block.network.prefixlen))


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="client_ip_detection",
    model=ClientIPDetectionSettings,
    check=check,
    connection_manager=_connection_manager,
)
