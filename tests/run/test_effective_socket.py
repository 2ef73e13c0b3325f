"""The socket on which ``moongate effective`` asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from moongate.run import Laptop
from tests.run.conftest import sockets


async def test_the_socket_is_for_the_same_user_and_answers_no_nonsense(tmp_path: Path) -> None:
    async with Laptop(run_dir=tmp_path, envoy=Path("/bin/true")):
        [socket] = (path for path in sockets(tmp_path) if path.name == "effective.sock")
        assert socket.stat().st_mode & 0o077 == 0
        for question in (b"\n", b"[]\n", b'{"kind": "Pod", "namespace": "a", "name": "b"}\n', b"x" * 100_000):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(question)
            assert await reader.read() == b""
            writer.close()
