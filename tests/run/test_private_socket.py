"""Sockets of a run, for its user alone."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

import pytest

from moongate.run.private_socket import private_socket

if TYPE_CHECKING:
    from pathlib import Path


async def test_each_connection_is_answered_and_nobody_else_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async with private_socket(path, answer):
        mode = stat.S_IMODE(path.stat().st_mode)
        answers: list[bytes] = []
        for line in (b"one\n", b"two\n"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            answers.append(await reader.read())
            writer.close()

    assert mode == 0o600
    assert answers == [b"ONE\n", b"TWO\n"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)
