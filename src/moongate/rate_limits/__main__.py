"""``python -m moongate.rate_limits``: the rate limit service of a laptop, as a process of its own.

moongate starts it. A process of its own answers Envoys while moongate works, and does not delay moongate.

Theory of operation
===================
Arguments are the socket on which Envoys ask and, if the process may outlive moongate, the descriptor of its
lifeline (``infra.rundir``): when that ends, moongate and all its Envoys are gone, and this process ends.
Standard input has the settings. The log goes to standard error, one JSON object a line, which moongate makes
part of its own. Without a moongate that reads them, lines are lost.

The socket is bound under another name and then renamed, so that there is always a service behind it when a
new process takes the place of an old one.

Facts
-----
* the settings may have a password, and a private key. They are in no file and no argument
* a moongate that is stopped reads no log, and must not keep this process from answering
* OpenSSL reads certificates from files only: those in the settings are files in memory
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec import structs

from moongate.rate_limits.counters import MemoryCounters
from moongate.rate_limits.service import RateLimitService
from moongate.rate_limits.settings import Settings, identity
from moongate.rate_limits.subscription import follow

if TYPE_CHECKING:
    from moongate.rate_limits.config import Limits
    from moongate.rate_limits.counters import Counters

_log = structlog.get_logger("moongate.rate_limits")


def main() -> None:
    """Serve until the lifeline ends, or SIGTERM."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=lambda *_: _Log(),
    )
    socket, *lifeline = sys.argv[1:]
    asyncio.run(_serve(Path(socket), sys.stdin.buffer.read(), *map(int, lifeline)))


class _Log:
    """Writes lines to standard error; what is not taken at once is lost."""

    def __init__(self) -> None:
        os.set_blocking(sys.stderr.fileno(), False)

    def msg(self, line: str) -> None:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"{line}\n".encode())

    debug = info = warning = error = msg


async def _serve(socket: Path, settings_line: bytes, lifeline: int | None = None) -> None:
    settings = msgspec.json.decode(settings_line, type=Settings)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    if lifeline is not None:
        # Nobody writes into it, so that it can be read means that it has ended.
        loop.add_reader(lifeline, ended.set)
    # A name of its own: another one may be about to take our place.
    fresh = socket.with_name(f"{socket.stem}-{os.getpid()}")
    async with AsyncExitStack() as stack:
        service = RateLimitService(await _counters(settings, stack))

        def take(limits: Limits) -> None:
            if service.limits is None:
                _log.info("serving", pid=os.getpid())
            service.take(limits)

        fresh.unlink(missing_ok=True)
        await stack.enter_async_context(service.listening(f"unix:{fresh}", identity(settings_line)))
        fresh.chmod(0o600)
        fresh.rename(socket)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        following = tasks.create_task(follow(settings.configuration, take), name="configuration")
        await ended.wait()
        following.cancel()


async def _counters(settings: Settings, stack: AsyncExitStack) -> Counters:
    if settings.redis is None:
        return MemoryCounters()
    # Slow, and not always needed.
    from moongate.rate_limits.redis_client import redis_client  # noqa: PLC0415
    from moongate.rate_limits.redis_counters import RedisCounters  # noqa: PLC0415

    redis, address = settings.redis, settings.redis.address
    address = structs.replace(
        address,
        certificate=_in_memory(redis.certificate) or address.certificate,
        key=_in_memory(redis.key) or address.key,
        ca=_in_memory(redis.ca) or address.ca,
    )
    client = await stack.enter_async_context(redis_client(address))
    return await stack.enter_async_context(RedisCounters(client, str(address), address.files))


def _in_memory(content: str) -> str:
    """The path of a file in memory, which lasts as long as this process; "" if there is no content."""
    if not content:
        return ""
    fd = os.memfd_create("moongate")
    os.write(fd, content.encode())
    return f"/proc/self/fd/{fd}"


if __name__ == "__main__":
    main()
