"""Fields that Envoy knows, and the messages that we have do not yet.

A message keeps fields that it does not know, and encodes them again. So each is merged into its message as
bytes, under its number in Envoy.

Source: Envoy 1.40, envoy/config/route/v3/route_components.proto,
envoy/extensions/common/ratelimit/v3/ratelimit.proto and envoy/type/matcher/v3/address.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from moongate.xds.wire import encode, message_field, number_field

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import RateLimit
    from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor
    from xds.core.v3.cidr_pb2 import CidrRange

_X_RATE_LIMIT_OPTION: Final = 7
_X_RATE_LIMIT_OPTIONS: Final = {"Off": 1, "DraftVersion03": 2}
_REMOTE_ADDRESS_MATCH: Final = 13
_DESCRIPTOR_VALUE: Final = 1
_DESCRIPTOR_KEY: Final = 2
_ADDRESS_MATCHER: Final = 4
_RANGES: Final = 1
_INVERT_MATCH: Final = 2
_SHADOW_MODE: Final = 3


def set_headers_option(message: RateLimit, option: Literal["Off", "DraftVersion03"]) -> None:
    """Set ``RateLimit.x_ratelimit_option``."""
    message.MergeFromString(number_field(_X_RATE_LIMIT_OPTION, _X_RATE_LIMIT_OPTIONS[option]))


def set_address_match(
    action: RateLimit.Action, key: str, value: str, block: CidrRange, *, invert: bool
) -> None:
    """Set ``RateLimit.Action.remote_address_match``."""
    matcher = message_field(_RANGES, encode(block)) + number_field(_INVERT_MATCH, int(invert))
    action.MergeFromString(
        message_field(
            _REMOTE_ADDRESS_MATCH,
            message_field(_DESCRIPTOR_VALUE, value.encode())
            + message_field(_DESCRIPTOR_KEY, key.encode())
            + message_field(_ADDRESS_MATCHER, matcher),
        )
    )


def set_shadow_mode(message: LocalRateLimitDescriptor) -> None:
    """Set ``LocalRateLimitDescriptor.shadow_mode``."""
    message.MergeFromString(number_field(_SHADOW_MODE, 1))
