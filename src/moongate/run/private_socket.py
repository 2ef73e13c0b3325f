"""A Unix socket that only the same user can connect to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path


@asynccontextmanager
async def private_socket(
    path: Path, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncGenerator[None]:
    """Answer each connection at a path, which is made.

    Raises:
        OSError: it cannot be made.
    """
    server = await asyncio.start_unix_server(answer, path)
    path.chmod(0o600)  # noqa: ASYNC240 - one socket, at the start
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
