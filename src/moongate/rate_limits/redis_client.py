"""A client of redis-py for an address: of one Redis, of a cluster, or of the one that Sentinels name."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.rate_limits.redis_address import RedisAddress

ANSWER_WITHIN_S: Final = 0.8
"""Seconds for an answer of Redis: less than Envoy waits for ours."""


@asynccontextmanager
async def redis_client(address: RedisAddress) -> AsyncGenerator[Redis | RedisCluster]:
    """A client that connects when it is used, and does not repeat what has failed."""
    async with AsyncExitStack() as stack:
        client = _client(address, stack)
        stack.push_async_callback(client.aclose)
        yield client


def _client(address: RedisAddress, stack: AsyncExitStack) -> Redis | RedisCluster:
    options: dict[str, Any] = {
        "username": address.username or None,
        "password": address.password or None,
        "socket_timeout": ANSWER_WITHIN_S,
        "socket_connect_timeout": ANSWER_WITHIN_S,
        # A hit that is repeated may be counted twice.
        "retry": Retry(NoBackoff(), 0),
    }
    if address.tls:
        options |= {
            "ssl": True,
            "ssl_cert_reqs": "required" if address.verify else "none",
            "ssl_check_hostname": address.verify,
            "ssl_ca_certs": address.ca or None,
            "ssl_certfile": address.certificate or None,
            "ssl_keyfile": address.key or None,
        }
    if address.path:
        return Redis(unix_socket_path=address.path, db=address.db, **options)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        return RedisCluster(startup_nodes=nodes, **options)
    if address.kind == "sentinel":
        of_sentinels = {
            **options,
            "username": address.sentinel_username or None,
            "password": address.sentinel_password or None,
        }
        sentinels = Sentinel(list(address.nodes), sentinel_kwargs=of_sentinels, **options)
        for sentinel in sentinels.sentinels:
            stack.push_async_callback(sentinel.aclose)
        return sentinels.master_for(  # pyright: ignore[reportUnknownMemberType]
            address.master, db=address.db
        )
    [(host, port)] = address.nodes
    return Redis(host=host, port=port, db=address.db, **options)
