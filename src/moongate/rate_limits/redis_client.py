"""A client of redis-py for an address: of one Redis, of a cluster, or of the one that Sentinels name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from moongate.rate_limits.redis_address import RedisAddress

ANSWER_WITHIN_S: Final = 0.8
"""Seconds for an answer of Redis: less than Envoy waits for ours."""

SENTINELS_ASKED_EVERY_S: Final = 1.0
"""Seconds between two questions to Sentinels. In a planned failover they leave the former Redis as it is for
ten seconds, and what it counts then is lost."""


@asynccontextmanager
async def redis_client(address: RedisAddress) -> AsyncGenerator[Redis | RedisCluster]:
    """A client that connects when it is used, and does not repeat what has failed."""
    async with AsyncExitStack() as stack:
        client = _client(address, stack)
        stack.push_async_callback(client.aclose)
        if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
            tasks = await asyncio.TaskGroup().__aenter__()
            # An error of the caller is not its concern.
            stack.push_async_callback(tasks.__aexit__, None, None, None)
            following = tasks.create_task(_follow(client.connection_pool), name="Sentinels")
            stack.callback(following.cancel)
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
        cluster = RedisCluster(startup_nodes=nodes, **options)
        if address.tls:
            cluster.connection_kwargs["connection_class"] = _RenewedConnection
            for node in cluster.startup_nodes:
                node.connection_class = _RenewedConnection
        return cluster
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


class _RenewedConnection(SSLConnection):
    """A connection that reads its certificates whenever it connects: they may have been renewed.

    A client of a cluster keeps its connections for good, and connects them again.
    """

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        # redis-py leaves its type open.
        return super()._connection_arguments()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def _follow(pool: Any) -> None:
    """Leave a Redis in whose place Sentinels have put another one, until cancelled.

    Args:
        pool: the ``SentinelConnectionPool`` of the client; redis-py leaves its types open.
    """
    while True:
        await asyncio.sleep(SENTINELS_ASKED_EVERY_S)
        with suppress(Exception):  # without Sentinels the present Redis goes on to count
            address = await pool.sentinel_manager.discover_master(pool.service_name)
            if pool.master_address not in (None, address):
                await pool.disconnect()
