"""The report that ``moongate status`` reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from moongate.run import Laptop
from moongate.run.status_socket import RESOURCES_AT_ONCE
from tests.e2e import manifests as m
from tests.run.conftest import sockets, text, until


async def test_the_report_travels_over_a_socket(folder: Path) -> None:
    """``moongate status`` of another terminal reads it; it is for the same user only."""
    async with Laptop(run_dir=folder) as running:
        await running.served()
        socket = next(path for path in sockets(folder) if "status" in path.name)
        assert socket.stat().st_mode & 0o077 == 0
        reader, writer = await asyncio.open_unix_connection(socket)
        report = msgspec.json.decode(await reader.read())
        writer.close()

    assert report["version"] == 1
    assert [r["kind"] for r in report["resources"]] == ["GatewayClass"]


@pytest.mark.slow
async def test_a_report_of_thousands_is_sent_in_parts(folder: Path) -> None:
    """Endpoints that change do not wait for somebody who looks at statuses."""
    routes = [m.route(f"app-{n}", f"[{{{m.to('up')}}}]") for n in range(3 * RESOURCES_AT_ONCE)]
    gateway = m.gateway("gateway", "[{name: http, port: 8080, protocol: HTTP}]")
    async with Laptop(run_dir=folder, envoy=Path("/bin/true")) as running:
        running.take_text("all", text(gateway, m.local("up", 1), *routes))
        await until(lambda: len(running.statuses.documents()) > 3 * RESOURCES_AT_ONCE)

        parts = list(running.status.encoded())

        report = msgspec.json.decode(b"".join(parts))
        whole = msgspec.json.decode(msgspec.json.encode(running.report()))
    assert len(parts) > 4
    assert report["resources"] == whole["resources"]
    assert report.keys() == whole.keys()
