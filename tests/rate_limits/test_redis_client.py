# The stubs of redis-py leave types of commands open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from msgspec import structs
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from moongate.rate_limits.config import Limit
from moongate.rate_limits.counters import CountersError, Hit
from moongate.rate_limits.redis_address import RedisAddress, redis_address
from moongate.rate_limits.redis_client import redis_client
from moongate.rate_limits.redis_counters import RedisCounters
from tests.deadline import DEADLINE_S
from tests.e2e.certificates import Authority
from tests.ports import free_port
from tests.redis_servers import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from redis.asyncio.cluster import RedisCluster

pytestmark = pytest.mark.slow

LIMIT = Limit(domain="shop", path=(("user", ""),), requests=3, unit=RateLimitResponse.RateLimit.Unit.YEAR)


def hit(user: str) -> Hit:
    return Hit(LIMIT, LIMIT.bucket([("user", user)], 0), LIMIT.ends(0), 1)


async def counts(address: RedisAddress, *users: str) -> list[int]:
    async with (
        redis_client(address) as client,
        RedisCounters(client, str(address), address.files) as counters,
    ):
        return await counters.add([hit(user) for user in users])


async def test_a_socket_and_a_database(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "r", f"unixsocket {tmp_path}/redis.sock") as server:
        by_path = await counts(redis_address(f"unix://{tmp_path}/redis.sock?db=2"), "anne")
        by_port = await counts(redis_address(f"{server.url}/2"), "anne")
        other = await counts(redis_address(server.url), "anne")

    assert (by_path, by_port, other) == ([1], [2], [1])


async def test_a_user_with_a_password(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "r", "user anne on >secret ~* +@all") as server:
        right = redis_address(f"redis://anne:secret@127.0.0.1:{server.port}")

        assert await counts(right, "anne") == [1]
        with pytest.raises(CountersError):
            await counts(redis_address(f"redis://anne:wrong@127.0.0.1:{server.port}"), "anne")


async def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    """The certificate of Redis is checked, unless that is switched off; ours is shown."""
    authority = Authority()
    files = {name: tmp_path / name for name in ("ca", "server", "server-key", "client", "client-key")}
    files["ca"].write_bytes(authority.pem)
    for name, hostname in (("server", "localhost"), ("client", "moongate")):
        certificate = authority.sign(hostname)
        files[name].write_bytes(certificate.pem)
        files[f"{name}-key"].write_bytes(certificate.key)
    server = RedisServer(tmp_path / "r")
    server.use_tls(*(files[name] for name in ("server", "server-key", "ca")))
    async with server:
        at = f"rediss://localhost:{server.port}"
        own, ca = f"ssl_certfile={files['client']}&ssl_keyfile={files['client-key']}", files["ca"]

        assert await counts(redis_address(f"{at}?{own}&ssl_ca_certs={ca}"), "anne") == [1]
        assert await counts(redis_address(f"{at}?{own}&ssl_cert_reqs=none"), "anne") == [2]
        with pytest.raises(CountersError):
            await counts(redis_address(f"{at}?{own}"), "anne")
        with pytest.raises(CountersError):
            await counts(redis_address(f"{at}?ssl_ca_certs={ca}"), "anne")
        missing = tmp_path / "missing"
        with pytest.raises(CountersError, match=f"does not count: {missing} cannot be read: No such file"):
            await counts(redis_address(f"{at}?ssl_ca_certs={missing}"), "anne")


@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_certificates_are_read_again_when_redis_has_to_be_found_again(
    tmp_path: Path, kind: Literal["single", "cluster"]
) -> None:
    """They are renewed on the disk, all signed by another authority, and Redis is restarted."""
    names = ("ca", "server", "server-key", "client", "client-key")
    files = {name: tmp_path / name for name in names}

    def renew() -> None:
        authority = Authority()
        files["ca"].write_bytes(authority.pem)
        for name, hostname in (("server", "localhost"), ("client", "moongate")):
            certificate = authority.sign(hostname)
            files[name].write_bytes(certificate.pem)
            files[f"{name}-key"].write_bytes(certificate.key)

    renew()
    server = RedisServer(tmp_path / "r", *((*_member(), "tls-cluster yes") if kind == "cluster" else ()))
    server.use_tls(*(files[name] for name in ("server", "server-key", "ca")))
    own = f"ssl_certfile={files['client']}&ssl_keyfile={files['client-key']}&ssl_ca_certs={files['ca']}"
    single = redis_address(f"rediss://localhost:{server.port}?{own}")
    # A client of a cluster asks for IP addresses, which these certificates do not have.
    address = structs.replace(single, kind=kind, verify=kind == "single")
    async with (
        asyncio.timeout(DEADLINE_S),
        server,
        redis_client(single) as alone,
        redis_client(address) as client,
        RedisCounters(client, str(address)) as counters,
    ):
        if kind == "cluster":
            await alone.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await _until(partial(_has_all_slots, alone))
        before = await counters.add([hit("anne")])
        await server.kill()
        with pytest.raises(CountersError):
            await counters.add([hit("anne")])
        renew()
        await server.start()
        after: list[int] = []
        while not after:
            await asyncio.sleep(0.05)
            with suppress(CountersError):  # a cluster that starts refuses to count for a moment
                after = await counters.add([hit("anne")])

    assert (before, after) == ([1], [2])


async def test_a_cluster(tmp_path: Path) -> None:
    """Buckets of one request lie on several members."""
    async with _cluster(tmp_path) as servers:
        address = redis_address(f"127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}")
        users = [f"user {n}" for n in range(20)]

        assert address.kind == "cluster"
        assert await counts(address, *users, "user 0") == [*[1] * 20, 2]
        sizes: list[int] = []
        for server in servers:
            async with Redis(port=server.port) as client:
                sizes.append(await client.dbsize())

    assert sum(sizes) == 20
    assert min(sizes) > 0


async def test_a_member_of_a_cluster_that_fails_fails_its_own_buckets_until_another_takes_its_place(
    tmp_path: Path,
) -> None:
    users = [f"user {n}" for n in range(20)]
    async with (
        _cluster(tmp_path, "cluster-require-full-coverage no") as servers,
        redis_server(tmp_path / "replica", *_member()) as replica,
        asyncio.timeout(DEADLINE_S),
    ):
        await _follow(replica, servers[1])
        address = redis_address(",".join(f"127.0.0.1:{server.port}" for server in servers))
        with capture_logs() as log:
            async with redis_client(address) as client, RedisCounters(client, str(address)) as counters:

                async def ask() -> list[list[int] | BaseException]:
                    each = (counters.add([hit(user)]) for user in users)
                    return await asyncio.gather(*each, return_exceptions=True)

                before = await ask()
                cluster: Any = client
                ports = [cluster.get_node_from_key(hit(user).bucket).port for user in users]
                await servers[1].kill()
                for _ in range(3):
                    without = await ask()
                    failed = [isinstance(answer, CountersError) for answer in without]
                    assert failed == [port == servers[1].port for port in ports]
                await _take_over(replica)
                while counters.trouble:  # noqa: ASYNC110 - it is for those who ask
                    await asyncio.sleep(0.05)
                after = await ask()

    assert before == [[1]] * 20
    # What the replica has not got yet is lost.
    assert all(isinstance(answer, list) for answer in after)
    assert after[ports.index(servers[0].port)] == [5]
    assert [entry["event"] for entry in log] == ["redis_lost", "redis_back"]


async def test_sentinels_say_which_redis_counts(tmp_path: Path) -> None:
    """When it dies, the next one that they name counts on, without a restart of ours."""
    async with _sentinel(tmp_path) as (sentinel, first, second):
        address = redis_address(f"shop,127.0.0.1:{sentinel.port}")
        async with (
            asyncio.timeout(DEADLINE_S),
            redis_client(address) as client,
            RedisCounters(client, str(address)) as counters,
            Redis(port=sentinel.port) as asked,
            Redis(port=second.port) as replica,
        ):
            before = await counters.add([hit("anne")])
            await _until(partial(_has_the_count, replica))
            await first.kill()
            with pytest.raises(CountersError):
                await counters.add([hit("anne")])
            await _until(partial(_fails_over, asked))
            while counters.trouble:  # noqa: ASYNC110 - it is for those who ask
                await asyncio.sleep(0.05)
            after = await counters.add([hit("anne")])

    assert (before, after) == ([1], [2])


async def test_a_redis_that_sentinels_have_replaced_does_not_count_on(tmp_path: Path) -> None:
    """For ten seconds it takes hits, and knows nothing of it; then it takes the data of the other one."""
    async with _sentinel(tmp_path) as (sentinel, first, second):
        address = redis_address(f"shop,127.0.0.1:{sentinel.port}")
        async with (
            asyncio.timeout(DEADLINE_S),
            redis_client(address) as client,
            RedisCounters(client, str(address)) as counters,
            Redis(port=sentinel.port) as asked,
            Redis(port=first.port) as former,
            Redis(port=second.port) as successor,
        ):
            await counters.add([hit("anne")])
            await _until(partial(_fails_over, asked))
            await _until(partial(_writes, successor))
            while await successor.get("shop_user_bob_0") is None:
                with suppress(CountersError):
                    await counters.add([hit("bob")])
            role = (await former.info("replication"))["role"]

    assert role == "master"


@asynccontextmanager
async def _sentinel(folder: Path) -> AsyncGenerator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A Sentinel, the Redis that it knows as ``shop``, and the replica of that."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(redis_server(folder / "a"))
        second = await stack.enter_async_context(
            redis_server(folder / "b", f"replicaof 127.0.0.1 {first.port}")
        )
        sentinel = RedisServer(folder / "s")
        sentinel.use_sentinel("shop", first.port)
        await stack.enter_async_context(sentinel)
        async with (
            Redis(port=second.port) as replica,
            Redis(port=sentinel.port, decode_responses=True) as asked,
        ):
            await _until(partial(_is_up_to_date, replica))
            await _until(partial(_knows_replica, asked, second.port))
        yield sentinel, first, second


def _member() -> tuple[str, str]:
    return "cluster-enabled yes", f"cluster-port {free_port()}"


@asynccontextmanager
async def _cluster(folder: Path, *options: str) -> AsyncGenerator[list[RedisServer]]:
    """Three members, which share all slots."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(redis_server(folder / f"r{n}", *options, *_member()))
            for n in range(3)
        ]
        await _join(servers)
        yield servers


async def _follow(replica: RedisServer, server: RedisServer) -> None:
    """Let a member take the place of another one when that fails."""
    async with (
        Redis(port=replica.port, decode_responses=True) as follower,
        Redis(port=server.port, decode_responses=True) as followed,
    ):
        bus = replica.options[-1].split()[-1]
        await followed.execute_command("CLUSTER", "MEET", "127.0.0.1", replica.port, bus)
        own = await followed.execute_command("CLUSTER", "MYID")

        async def follows() -> bool:
            try:
                await follower.execute_command("CLUSTER", "REPLICATE", own)
            except ResponseError:  # it does not know the other one yet
                return False
            return True

        async def is_known() -> bool:
            return str(replica.port) in str(await followed.execute_command("CLUSTER", "SLOTS"))

        await _until(follows)
        await _until(partial(_is_up_to_date, follower))
        await _until(is_known)


async def _take_over(replica: RedisServer) -> None:
    """Let a member take the place of the one that it follows, as if the others had given that up."""
    async with Redis(port=replica.port) as client:
        await client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")


async def _join(servers: list[RedisServer]) -> None:
    ranges = [(0, 5460), (5461, 10922), (10923, 16383)]
    clients = [Redis(port=server.port, decode_responses=True) for server in servers]
    for client, (first, last) in zip(clients, ranges, strict=True):
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for server in servers[1:]:
        bus = server.options[-1].split()[-1]
        await clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
    for client in clients:
        await _until(partial(_knows_all, client))
        await client.aclose()


async def _has_all_slots(client: Redis | RedisCluster) -> bool:
    info: Any = await client.execute_command("CLUSTER INFO")
    return info["cluster_state"] in {"ok", b"ok"}


async def _knows_all(client: Redis) -> bool:
    info: Any = await client.execute_command("CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "3")


async def _is_up_to_date(replica: Redis) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"


async def _writes(server: Redis) -> bool:
    return (await server.info("replication"))["role"] == "master"


async def _has_the_count(replica: Redis) -> bool:
    return await replica.get("shop_user_anne_0") is not None


async def _knows_replica(sentinel: Redis, port: int) -> bool:
    return str(port) in str(await sentinel.execute_command("SENTINEL REPLICAS", "shop"))


async def _fails_over(sentinel: Redis) -> bool:
    """Tell a Sentinel to let the replica take over, which it refuses until it has heard enough of that."""
    try:
        await sentinel.execute_command("SENTINEL", "FAILOVER", "shop")
    except ResponseError as error:
        if not str(error).startswith("NOGOODSLAVE"):
            raise
        return False
    return True


async def _until(claim: Callable[[], Awaitable[bool]]) -> None:
    """Return when something is so of a foreign process, which has no event for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not await claim():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.05)
