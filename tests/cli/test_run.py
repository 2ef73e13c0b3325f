from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest

from moongate.cli.forwarding import forwarding
from moongate.cli.upstreams import upstream
from tests.cli.conftest import Command
from tests.cli.process import Moongate, left_in
from tests.deadline import DEADLINE_S
from tests.ports import free_port


def test_a_port_without_an_upstream_is_a_mistake(command: Command, shop: Path) -> None:
    """Rather than to be passed over: the Gateway's listeners say the port."""
    ended = command("run", shop, "--port", "8080")

    assert ended.code == 2
    assert "--port goes with --to" in ended.err
    assert "set spec.listeners[].port of the Gateway to 8080" in ended.err


@pytest.mark.parametrize("address", ["here", "10.0.0", "0.0.0.0:8080"])
def test_an_address_to_listen_on_must_be_one(command: Command, shop: Path, address: str) -> None:
    ended = command("run", shop, "--bind", address)

    assert ended.code == 2
    assert f"The address is {address!r}" in ended.err


@pytest.mark.envoy
def test_a_port_that_is_taken_ends_it_at_once(command: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        ended = command("run", "--to", "localhost:1", f"--port={port}", "--run-dir", tmp_path)

    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert f"Port {port} is taken by" in last
    assert "name a free one with --port" in last


@pytest.mark.envoy
async def test_a_port_of_a_manifest_that_is_taken_is_waited_for(tmp_path: Path) -> None:
    """Whoever edits the manifest, or ends the other process, need not start moongate again."""
    runs, shop = tmp_path / "runs", tmp_path / "shop.yaml"
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as holder:
        shop.write_text(forwarding("localhost:1", port, "default"))
        async with Moongate("run", shop, "--run-dir", runs) as running:
            assert f"Port {port} is taken by" in await running.says("status.degraded")

            holder.close()
            await running.says("gateway.serving")

            assert await running.ended_by(signal.SIGTERM) == 0


def test_a_configuration_that_is_none_is_a_mistake(command: Command, shop: Path) -> None:
    ended = command("run", shop, "--config", shop / "nowhere.yaml")

    assert ended.code == 2
    assert "nowhere.yaml' cannot be read: No such file" in ended.err


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_must_be_one(command: Command, port: int) -> None:
    ended = command("run", "--to", "localhost:3000", f"--port={port}")

    assert ended.code == 2
    assert f"The port is '{port}'" in ended.err


def test_an_upstream_must_have_a_port(command: Command, tmp_path: Path) -> None:
    ended = command("run", "--to", "localhost", "--run-dir", tmp_path)

    assert ended.code == 2
    assert "HOST:PORT" in ended.err


@pytest.mark.envoy
@pytest.mark.slow
async def test_an_upstream_is_served_without_any_manifest(tmp_path: Path) -> None:
    port = free_port()
    async with (
        upstream("mine") as behind,
        Moongate("run", "--to", f"127.0.0.1:{behind}", "--port", port, "--run-dir", tmp_path) as running,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        await running.says("gateway.serving")
        answer = await client.get(f"http://127.0.0.1:{port}/a")

        assert answer.json()["upstream"] == "mine"
        assert await running.ended_by(signal.SIGTERM) == 0

    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--redis", "redis://:secret@r:x"], "The port of Redis at r is no number"),
        (["--rate-limit-service", "localhost"], "it must be HOST:PORT"),
        (["--rate-limit-xds-port", "18001"], "goes with --rate-limit-service"),
        (["--redis", "r", "--rate-limit-service", "r:1"], "does not go with another"),
    ],
)
def test_what_counts_requests_must_be_an_address(
    command: Command, shop: Path, options: list[str], message: str
) -> None:
    """What may be a password is not repeated."""
    ended = command("run", shop, *options)

    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert "secret" not in ended.err


def test_an_address_of_redis_may_come_from_the_environment(
    command: Command, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is hidden from other users."""
    monkeypatch.setenv("MOONGATE_REDIS", "redis://:secret@r:x")

    assert "The port of Redis at r is no number" in " ".join(command("run", shop).err.split())
