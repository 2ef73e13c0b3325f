"""Configurations of rate limits and requests, as short as tests want them."""

from __future__ import annotations

from typing import Any

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor as Descriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor, RateLimitPolicy

ASK = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


def config(*descriptors: RateLimitDescriptor, domain: str = "shop") -> RateLimitConfig:
    return RateLimitConfig(name=domain, domain=domain, descriptors=descriptors)


def level(
    key: str,
    value: str = "",
    *below: RateLimitDescriptor,
    limit: tuple[int, str] | None = None,
    shadow: bool = False,
    **policy: Any,
) -> RateLimitDescriptor:
    """One level of a configuration: ``limit`` is the number of requests and the unit."""
    descriptor = RateLimitDescriptor(key=key, value=value, descriptors=below, shadow_mode=shadow)
    if limit is not None:
        descriptor.rate_limit.CopyFrom(RateLimitPolicy(requests_per_unit=limit[0], unit=limit[1], **policy))
    elif policy:
        descriptor.rate_limit.CopyFrom(RateLimitPolicy(**policy))
    return descriptor


def descriptor(*entries: tuple[str, str], hits: int | None = None) -> Descriptor:
    message = Descriptor(entries=[Descriptor.Entry(key=key, value=value) for key, value in entries])
    if hits is not None:
        message.hits_addend.value = hits
    return message


def request(*descriptors: Descriptor, domain: str = "shop", hits: int = 0) -> RateLimitRequest:
    return RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)
