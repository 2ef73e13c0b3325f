"""The wiring: manifests in by text, call and file; what is refused, told and left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import psutil
import pytest

from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.infra.process import EnvoyFailedError
from moongate.run import Laptop, LaptopOptions, ManifestError, forwarding, laptop
from moongate.sources.files import Files
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        yield Path(name)


def text(*documents: dict[str, Any]) -> str:
    """Manifests as a file has them."""
    return "\n---\n".join(msgspec.json.encode(document).decode() for document in documents)


def app(port: int, upstream: int) -> str:
    """A Gateway and a route that takes all hostnames, as a file has them."""
    route = m.route("app", f"[{{{m.to('up')}}}]")
    del route["spec"]["hostnames"]
    return text(
        m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.local("up", upstream),
        route,
    )


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


async def who(port: int) -> str:
    """Who answers there; "" when nobody does."""
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{port}/")).headers.get("x-backend", "")
    return ""


async def until(claim: Callable[[], Any]) -> None:
    """Return when ``claim`` holds. For what no event tells: that a change of a file is served."""
    async with asyncio.timeout(20):
        while True:
            held = claim()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(running: Laptop, files: Files) -> AsyncGenerator[None]:
    """Follow files until the block is left."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running.follow(files))
        try:
            yield
        finally:
            task.cancel()


@pytest.mark.parametrize(
    "upstream", ["localhost", "localhost:", ":80", "localhost:http", "localhost:0", "a:70000"]
)
def test_an_upstream_that_is_none_is_told(upstream: str) -> None:
    with pytest.raises(ManifestError, match="it must be HOST:PORT"):
        forwarding(upstream, 8080, "default")


@pytest.mark.parametrize("upstream", ["localhost:3000", "10.0.0.1:80", "[::1]:80", "app.example.com:443"])
def test_what_forwards_to_an_upstream_is_sound(upstream: str) -> None:
    """The manifests that are made of it have no fault, in any namespace."""
    found = Laptop(namespace="any")
    found.take_text("to", forwarding(upstream, 8080, "any"))

    assert [f for f in found.findings() if f.severity == "error"] == []
    assert Ref(Gateway.KIND, "any", "to") in found.world.store.held()


def test_forwarding_listens_on_its_port_and_names_its_upstream() -> None:
    documents = [msgspec.json.decode(d) for d in forwarding("[::1]:81", 8081, "default").split("\n---\n")]

    assert documents[0]["spec"]["listeners"][0]["port"] == 8081
    address = "0000:0000:0000:0000:0000:0000:0000:0001"
    assert documents[1]["spec"]["endpoints"] == [{"ip": {"address": address, "port": 81}}]


async def test_manifests_with_a_fault_are_not_put_in_force(folder: Path) -> None:
    """None of them, and each fault is told."""
    sound, faulty = m.local("up", 80), m.local("no-port", 70000)
    async with Laptop(run_dir=folder) as running:
        for manifests in (text(sound, faulty), [sound, faulty]):
            with pytest.raises(ManifestError, match="port"):
                await running.apply(manifests)

            assert Ref("Backend", "default", "up") not in running.world.store.held()


async def test_text_that_is_no_yaml_is_told(folder: Path) -> None:
    async with Laptop(run_dir=folder) as running:
        with pytest.raises(ManifestError):
            await running.apply("kind: [")


async def test_a_gateway_class_is_there_without_being_defined(folder: Path) -> None:
    """And comes back when one of the same name is deleted."""
    given = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "moongate"},
        "spec": {"controllerName": "example.com/other"},
    }
    ref = Ref("GatewayClass", "", "moongate")
    async with Laptop(run_dir=folder) as running:
        held: Any = running.world.store.held
        before = held()[ref].spec.controller_name
        await running.apply([given])
        assert held()[ref].spec.controller_name == "example.com/other"

        await running.delete(ref)

        assert held()[ref].spec.controller_name == before


async def test_a_laptop_without_gateways_is_served_at_once(folder: Path) -> None:
    async with Laptop(run_dir=folder) as running:
        await running.served(timeout_s=1)

        assert running.report()["gateways"] == []
        assert running.urls() == ()


async def test_the_report_travels_over_a_socket(folder: Path) -> None:
    """``moongate status`` of another terminal reads it; it is for the same user only."""
    async with Laptop(run_dir=folder) as running:
        await running.served()
        socket = next(path for path in sockets(folder) if "status" in path.name)
        assert socket.stat().st_mode & 0o077 == 0
        reader, writer = await asyncio.open_unix_connection(socket)
        told = msgspec.json.decode(await reader.read())
        writer.close()

    assert told["version"] == 1
    assert [r["kind"] for r in told["resources"]] == ["GatewayClass"]


@pytest.mark.envoy
async def test_an_edit_of_a_file_is_served(folder: Path) -> None:
    port, manifests = free_port(), folder / "app.yaml"
    async with Echo("one").serving() as one, Echo("two").serving() as two, Laptop() as running:
        manifests.write_text(app(port, one.port))
        async with following(running, Files((str(folder),))):
            await running.loaded.wait()
            await running.served()
            assert await who(port) == "one"
            assert running.urls() == (f"http://127.0.0.1:{port}",)

            manifests.write_text(app(port, two.port))
            await until(lambda: is_(port, "two"))

            manifests.unlink()
            await until(lambda: running.report()["gateways"] == [])
            await until(lambda: is_(port, ""))


async def is_(port: int, name: str) -> bool:
    return await who(port) == name


@pytest.mark.envoy
async def test_a_file_with_a_fault_leaves_the_last_good_form_in_force(folder: Path) -> None:
    port, manifests = free_port(), folder / "app.yaml"
    async with Echo("one").serving() as one, Echo("two").serving() as two, Laptop() as running:
        manifests.write_text(app(port, one.port))
        async with following(running, Files((str(folder),))):
            await running.loaded.wait()
            manifests.write_text("kind: [")
            await until(lambda: [f for f in running.findings() if f.severity == "error"])
            await running.served()
            assert await who(port) == "one"

            manifests.write_text(app(port, two.port))
            await until(lambda: is_(port, "two"))

            assert [f for f in running.findings() if f.severity == "error"] == []


@pytest.mark.envoy
async def test_a_gateway_that_is_told_to_stop_leaves_nothing_behind(folder: Path) -> None:
    """SIGTERM to this very process: it is what a terminal and a container send."""
    port, seen = free_port(), list[dict[str, Any]]()

    def served(running: Laptop) -> None:
        seen.append(running.report())
        os.kill(os.getpid(), signal.SIGTERM)

    async with Echo("one").serving() as one:
        options = LaptopOptions(to=f"localhost:{one.port}", port=port, run_dir=folder)
        async with asyncio.timeout(20):
            await laptop(options, served=served)

    pid = seen[0]["gateways"][0]["envoy"]["pid"]
    assert not psutil.pid_exists(pid)
    assert sockets(folder) == []
    assert await who(port) == ""


@pytest.mark.envoy
async def test_an_envoy_that_cannot_run_is_told(folder: Path) -> None:
    broken = folder / "envoy"
    broken.write_text("#!/bin/sh\necho 'no such bootstrap' >&2\nexit 1\n")
    broken.chmod(0o755)

    with pytest.raises(EnvoyFailedError, match="no such bootstrap"):
        async with Laptop(envoy=broken) as running:
            await running.apply(app(free_port(), 1))


async def test_a_configuration_that_is_none_is_told(folder: Path) -> None:
    path = folder / "config.yaml"

    with pytest.raises(ManifestError, match="No such file"):
        await laptop(LaptopOptions(config=path, run_dir=folder / "run"))

    path.write_text(text(m.local("up", 80)))
    with pytest.raises(ManifestError, match="no document of kind EnvoyGateway"):
        await laptop(LaptopOptions(config=path, run_dir=folder / "run"))


@pytest.mark.envoy
async def test_a_port_is_served_once_it_is_free() -> None:
    """The message says to end the process that holds it; doing so must be enough."""
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with Laptop() as laptop:
            await laptop.apply(_GATEWAY.format(port=port))
            refused = laptop.report()["rejections"]
            holder.close()

            await asyncio.wait_for(_connected(port), 15)

    assert [r["name"] for r in refused] == ["default/eg/http"]


@pytest.mark.envoy
async def test_a_gateway_that_goes_and_comes_is_served_again() -> None:
    """The Envoy that drains and the one that starts share files and a port: one after the other."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(_GATEWAY.format(port=port))
        before = laptop.report()["gateways"][0]["envoy"]["pid"]

        laptop.put({Ref("Gateway", "default", "eg"): None})
        await asyncio.wait_for(_without_gateways(laptop), 5)
        await laptop.apply(_GATEWAY.format(port=port))

        after = laptop.report()["gateways"][0]["envoy"]
        await asyncio.wait_for(_connected(port), 5)

    assert after["state"] == "ready"
    assert after["pid"] != before


async def _without_gateways(laptop: Laptop) -> None:
    while laptop.report()["gateways"]:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0)


async def _connected(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


_GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: eg}}
spec: {{gatewayClassName: moongate, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
"""


def test_an_upstream_with_a_scheme_is_told_how_to_write_it() -> None:
    """The most natural thing to paste is a URL."""
    with pytest.raises(ManifestError, match="such as localhost:3000"):
        forwarding("http://localhost:3000/", 8080, "default")
