from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.rate_limits.redis_address import redis_address
from moongate.run.redis import RedisConfigurationError, configured_redis
from moongate.translation import configuration
from tests.e2e.conftest import admitted


def configured(redis: dict[str, Any] | None, *documents: dict[str, Any]) -> Any:
    document: dict[str, Any] = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    if redis is not None:
        document["rateLimit"] = {"backend": {"type": "Redis", "redis": redis}}
    config = configuration(document)
    assert config is not None
    resources: dict[Ref, Resource] = {
        ref: each for ref, each in admitted(*documents).items() if each is not None
    }
    return configured_redis(config, resources)


def secret(namespace: str = "envoy-gateway-system", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": Secret.KIND,
        "metadata": {"name": "redis", "namespace": namespace},
        "stringData": {key.replace("_", "."): value for key, value in data.items()},
    }


def test_a_configuration_without_redis_counts_in_memory() -> None:
    assert configured(None) is None


def test_a_redis_with_a_certificate() -> None:
    """It comes from a Secret in the namespace of the configuration, and TLS is spoken with it."""
    redis = configured(
        {"url": "redis.example:6379", "tls": {"certificateRef": {"name": "redis"}}},
        secret(tls_crt="certificate", tls_key="key", ca_crt="authority"),
    )

    assert redis.address == redis_address("rediss://redis.example:6379")
    assert (redis.certificate, redis.key, redis.ca) == ("certificate", "key", "authority")
    assert repr(redis) == "Redis at redis.example:6379"


URL_REF = {"urlRef": {"secretKeyRef": {"name": "redis", "key": "url"}}}


def test_the_address_may_be_in_a_secret() -> None:
    """A password need not stand in the configuration then."""
    redis = configured(URL_REF, secret(url="redis://:secret@redis.example:6379\n"))

    assert redis.address == redis_address("redis://:secret@redis.example:6379")
    assert repr(redis) == "Redis at redis.example:6379"


@pytest.mark.parametrize(
    ("redis", "documents", "path", "message"),
    [
        (URL_REF, [], "urlRef.secretKeyRef", "no Secret envoy-gateway-system/redis"),
        (URL_REF, [secret(uri="r")], "urlRef.secretKeyRef", "must have 'url'"),
        (URL_REF, [secret(url="redis://:secret@r:x")], "urlRef.secretKeyRef", "no number from 1 to 65535"),
        ({"url": "redis://:secret@r:x"}, [], "url", "no number from 1 to 65535"),
        (
            {"url": "r", "tls": {"certificateRef": {"name": "redis"}}},
            [secret(namespace="other", tls_crt="a", tls_key="b")],
            "tls.certificateRef",
            "There is no Secret envoy-gateway-system/redis",
        ),
        (
            {"url": "r", "tls": {"certificateRef": {"name": "redis"}}},
            [secret(tls_crt="a")],
            "tls.certificateRef",
            "must have tls.crt and tls.key",
        ),
    ],
)
def test_a_redis_that_cannot_be_used(
    redis: dict[str, Any], documents: list[dict[str, Any]], path: str, message: str
) -> None:
    with pytest.raises(RedisConfigurationError, match=message) as error:
        configured(redis, *documents)

    assert error.value.problem.path == f"rateLimit.backend.redis.{path}"
    assert "secret@" not in error.value.problem.message
