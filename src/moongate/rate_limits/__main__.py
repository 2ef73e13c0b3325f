"""``python -m moongate.rate_limits``: the rate limit service of a laptop, as a process of its own.

moongate starts it. A process of its own answers Envoys while moongate works, and does not delay moongate.

Theory of operation
===================
Standard input has the settings in one line. It stays open as long as moongate lives: its end means that
moongate is gone, and ends this process. The log goes to standard error, one JSON object a line, which
moongate makes part of its own.

The socket is bound under another name and then renamed, so that there is always a service behind it when a
new process takes the place of an old one.

Facts
-----
* the settings may have a password, and a private key. They are in no file and no argument
* OpenSSL reads certificates from files only: those in the settings are files in memory
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec import structs

from moongate.rate_limits.counters import MemoryCounters, RedisCounters
from moongate.rate_limits.service import RateLimitService
from moongate.rate_limits.settings import Settings
from moongate.rate_limits.subscription import follow

if TYPE_CHECKING:
    from moongate.rate_limits.config import Limits
    from moongate.rate_limits.counters import Counters

_log = structlog.get_logger("moongate.rate_limits")


def main() -> None:
    """Serve until standard input ends, or SIGTERM."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    # Nothing comes after the settings, so that it can be read means that it has ended.
    loop.add_reader(sys.stdin.fileno(), ended.set)
    socket = Path(settings.socket)
    fresh = socket.with_suffix(".new")
    async with AsyncExitStack() as stack:
        service = RateLimitService(await _counters(settings, stack))

        def take(limits: Limits) -> None:
            if service.limits is None:
                _log.info("serving")
            service.take(limits)

        fresh.unlink(missing_ok=True)
        await stack.enter_async_context(service.listening(f"unix:{fresh}"))
        fresh.chmod(0o600)
        fresh.rename(socket)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        following = tasks.create_task(follow(settings.configuration, take), name="configuration")
        await ended.wait()
        following.cancel()


async def _counters(settings: Settings, stack: AsyncExitStack) -> Counters:
    if settings.redis is None:
        return MemoryCounters()
    from moongate.rate_limits.redis_client import redis_client  # noqa: PLC0415 - slow, and not always needed

    redis, address = settings.redis, settings.redis.address
    address = structs.replace(
        address,
        certificate=_in_memory(redis.certificate) or address.certificate,
        key=_in_memory(redis.key) or address.key,
        ca=_in_memory(redis.ca) or address.ca,
    )
    client = await stack.enter_async_context(redis_client(address))
    return await stack.enter_async_context(RedisCounters(client, str(address)))


def _in_memory(content: str) -> str:
    """The path of a file in memory, which lasts as long as this process; "" if there is no content."""
    if not content:
        return ""
    fd = os.memfd_create("moongate")
    os.write(fd, content.encode())
    return f"/proc/self/fd/{fd}"


if __name__ == "__main__":
    main()
