"""The Redis that an EnvoyGateway configuration names; its address and certificates may be in Secrets."""

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


def configured_redis(config: EnvoyGateway, resources: Mapping[Ref, Resource]) -> Redis | None:
    """The Redis of a configuration; ``None`` if it names none.

    Args:
        config: the configuration.
        resources: those in force.

    Raises:
        RedisConfigurationError: it cannot be used.
    """
    settings = config.rate_limit.backend.redis if config.rate_limit is not None else None
    if settings is None:
        return None
    path, url = "url", settings.url
    if settings.url_ref is not None:
        path, of = "urlRef.secretKeyRef", settings.url_ref.secret_key_ref
        secret = _secret(resources, path, CONTROLLER_NAMESPACE, of.name)
        if of.key not in secret.data:
            raise RedisConfigurationError(path, f"The Secret {_name(secret)} must have {of.key!r}.")
        url = _text(secret, of.key)
    if url is None:
        return None
    try:
        address = redis_address(url)
    except RedisAddressError as error:
        raise RedisConfigurationError(path, str(error)) from None
    if settings.tls is None:
        return Redis(address=address)
    address = structs.replace(address, tls=True)
    named = settings.tls.certificate_ref
    if named is None:
        return Redis(address=address)
    path = "tls.certificateRef"
    secret = _secret(resources, path, named.namespace or CONTROLLER_NAMESPACE, named.name)
    parts = {key: _text(secret, key) for key in ("tls.crt", "tls.key", "ca.crt")}
    if not parts["tls.crt"] or not parts["tls.key"]:
        message = f"The Secret {_name(secret)} must have tls.crt and tls.key, as PEM."
        raise RedisConfigurationError(path, message)
    return Redis(address=address, certificate=parts["tls.crt"], key=parts["tls.key"], ca=parts["ca.crt"])


def _secret(resources: Mapping[Ref, Resource], path: str, namespace: str, name: str) -> Secret:
    secret = resources.get(Ref.of(Secret, namespace, name))
    if not isinstance(secret, Secret):
        raise RedisConfigurationError(path, f"There is no Secret {namespace}/{name}.")
    return secret


def _name(secret: Secret) -> str:
    return f"{secret.ref.namespace}/{secret.ref.name}"


def _text(secret: Secret, key: str) -> str:
    return secret.data.get(key, b"").decode(errors="replace")
