from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from moongate.infra.admin import Admin
from moongate.names import scope
from moongate.xds.wire import SCOPE
from tests.ads.laptop import Envoy, part, scoped_listener
from tests.ads.serving import serving
from tests.deadline import DEADLINE_S
from tests.infra.conftest import HeldBackend, add_backend, envoy, listener, standalone
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from moongate.infra.rundir import RunDirectory


@pytest.mark.envoy
async def test_a_request_in_flight_keeps_it_busy_and_an_idle_connection_does_not(run: RunDirectory) -> None:
    """An open browser must not delay the end; a request must."""
    port = free_port()
    async with (
        asyncio.timeout(DEADLINE_S),
        HeldBackend().serving() as backend,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        made = standalone(run, "default/eg", listener(port, backend.port))
        add_backend(made, backend.port)
        async with envoy(run, made) as process, Admin(run.envoy("default/eg").admin) as admin:
            await process.ready()
            assert await admin.live()

            await client.get(f"http://127.0.0.1:{port}/")
            # Envoy sends the end of an answer before it counts the request as done.
            await admin.idle()
            assert await admin.busy() == 0

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(client.get(f"http://127.0.0.1:{port}/slow"))
                await backend.asked.wait()
                assert await admin.busy() == 1

                backend.let_go.set()


async def test_an_envoy_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async with Admin(tmp_path / "none.sock") as admin:
        with pytest.raises(httpx.TransportError):
            await admin.live()


@pytest.mark.parametrize("standstill_s", [0.0, 0.8])
async def test_who_stood_still_does_not_take_envoy_for_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standstill_s: float
) -> None:
    """With the whole machine Envoy did. One that does not answer is given up all the same."""
    monkeypatch.setattr("moongate.infra.admin._TIMEOUT_S", 0.4)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if standstill_s:
            time.sleep(standstill_s)  # noqa: ASYNC251 - this is the standstill
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    socket = tmp_path / "admin.sock"
    async with await asyncio.start_unix_server(answer, socket), Admin(socket) as admin:
        if standstill_s:
            assert await admin.live()
        else:
            with pytest.raises(httpx.ReadTimeout, match=r"0\.4 s"):
                await admin.live()


@pytest.mark.envoy
async def test_log_levels_are_set_by_component(run: RunDirectory) -> None:
    """Those that are no longer named fall back to the level of all others."""
    async with asyncio.timeout(DEADLINE_S), envoy(run) as process:
        await process.ready()
        async with Admin(run.envoy("default/eg").admin) as admin:
            await admin.set_log_levels({"default": "error", "http": "debug", "upstream": "warn"})
            before = await _log_levels(run)
            await admin.set_log_levels({"http": "info"})
            after = await _log_levels(run)

    assert (before["http"], before["upstream"], before["main"]) == ("debug", "warning", "error")
    assert (after["http"], after["upstream"], after["main"]) == ("info", "warning", "warning")


@pytest.mark.envoy
async def test_it_says_which_scopes_envoy_has(tmp_path: Path) -> None:
    """Envoy does not say so to a control plane. Before its first HTTP listener, it knows of no scopes."""
    async with (
        serving(tmp_path / "ads") as ads,
        Envoy(tmp_path, tmp_path / "ads"),
        Admin(tmp_path / "envoy-1.admin") as admin,
    ):
        ads.publish("eg")
        await ads.settled("eg", DEADLINE_S)
        assert await admin.scopes() == []

        ads.publish("eg", [scoped_listener("l", free_port(), "t"), part("t", "a", ""), part("t", "b", "")])
        await ads.settled("eg", DEADLINE_S)
        assert sorted(await admin.scopes()) == [scope("t", "a"), scope("t", "b")]

        ads.publish("eg", [], [(SCOPE, scope("t", each)) for each in "ab"])
        await ads.settled("eg", DEADLINE_S)
        assert await admin.scopes() == []


async def _log_levels(run: RunDirectory) -> dict[str, str]:
    transport = httpx.AsyncHTTPTransport(uds=str(run.envoy("default/eg").admin))
    async with httpx.AsyncClient(transport=transport, timeout=DEADLINE_S) as client:
        levels = (await client.post("http://envoy/logging")).text
    lines = (line.strip().partition(": ") for line in levels.splitlines()[1:])
    return {name: level for name, _, level in lines}
