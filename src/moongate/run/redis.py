"""The Redis that an EnvoyGateway configuration names, with its certificates from a Secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.gateways import CONTROLLER_NAMESPACE
from moongate.problem import Problem
from moongate.rate_limits.redis_address import RedisAddressError, redis_address
from moongate.rate_limits.settings import Redis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.api.base import Resource
    from moongate.api.envoygateway import EnvoyGateway

_AT: Final = "rateLimit.backend.redis"


class RedisConfigurationError(Exception):
    """The configuration names no Redis that can be used. ``problem`` says why."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(f"{_AT}.{path}", f"{message} The former Redis, or memory, goes on to count.")


def configured_redis(config: EnvoyGateway, held: Mapping[Ref, Resource]) -> Redis | None:
    """The Redis of a configuration; ``None`` if it names none.

    Args:
        config: the configuration.
        held: the resources in force.

    Raises:
        RedisConfigurationError: it cannot be used.
    """
    settings = config.rate_limit.backend.redis if config.rate_limit is not None else None
    if settings is None or settings.url is None:
        return None
    try:
        address = redis_address(settings.url)
    except RedisAddressError as error:
        raise RedisConfigurationError("url", str(error)) from None
    if settings.tls is None:
        return Redis(address=address)
    address = structs.replace(address, tls=True)
    named = settings.tls.certificate_ref
    if named is None:
        return Redis(address=address)
    ref = Ref.of(Secret, named.namespace or CONTROLLER_NAMESPACE, named.name)
    secret = held.get(ref)
    if not isinstance(secret, Secret):
        message = f"There is no Secret {ref.namespace}/{ref.name}."
        raise RedisConfigurationError("tls.certificateRef", message)
    parts = {key: _text(secret, key) for key in ("tls.crt", "tls.key", "ca.crt")}
    if not parts["tls.crt"] or not parts["tls.key"]:
        message = f"The Secret {ref.namespace}/{ref.name} must have tls.crt and tls.key, as PEM."
        raise RedisConfigurationError("tls.certificateRef", message)
    return Redis(address=address, certificate=parts["tls.crt"], key=parts["tls.key"], ca=parts["ca.crt"])


def _text(secret: Secret, key: str) -> str:
    return secret.data.get(key, b"").decode(errors="replace")
