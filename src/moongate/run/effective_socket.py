"""What ``moongate effective`` asks a running moongate, over a Unix socket: what is set for a resource.

A question is a line of JSON (``Question``), and so is the answer: the scopes in the form of
``effective_settings.as_data``, or ``null`` if there is no such resource.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from moongate.effective_settings import as_data, effective_settings
from moongate.kinds import ref_of
from moongate.run.private_socket import private_socket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from moongate.world import World


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """Which resource, and if asked for, which of its listeners or rules."""

    kind: str
    namespace: str
    name: str
    section: str = ""


@asynccontextmanager
async def effective_socket(path: Path, world: World) -> AsyncGenerator[None]:
    """Answer the question of each connection. Only the same user can connect."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Of a question that is none nothing is answered.
        with suppress(ConnectionError, ValueError, KeyError):
            asked = msgspec.json.decode(await reader.readline(), type=Question)
            ref = ref_of(asked.kind, asked.namespace, asked.name)
            scopes = effective_settings(world.db, ref, asked.section)
            writer.write(msgspec.json.encode(None if scopes is None else as_data(scopes)))
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with private_socket(path, answer):
        yield
