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
import structlog

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway, GatewayController
from moongate.api.gateway import GatewayClass
from moongate.api.httproute import HTTPRoute
from moongate.attach.gateways import controller_name
from moongate.infra.ports import PortError
from moongate.run import REPORTED_AT_ONCE, Laptop, LaptopOptions, ManifestError, laptop
from moongate.sources.files import Files
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import admitted
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


async def test_manifests_with_a_fault_are_not_put_in_force(folder: Path) -> None:
    """None of them, and each fault is told."""
    sound, faulty = m.local("up", 80), m.local("no-port", 70000)
    async with Laptop(run_dir=folder) as running:
        for manifests in (text(sound, faulty), [sound, faulty]):
            with pytest.raises(ManifestError, match="port"):
                await running.apply(manifests)

            assert Ref.of(Backend, "default", "up") not in running.world.store.held()


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
    ref = Ref.of(GatewayClass, "", "moongate")
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
async def test_who_waits_does_not_wait_for_what_others_write_meanwhile() -> None:
    async with Laptop() as running:
        await running.apply(app(free_port(), 1))

        async def write() -> None:
            for n in range(10_000):
                running.put(admitted(m.local("up", 1 + n % 2)))
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write())
            await running.apply([m.local("up", 3)])

            assert not writing.done()
            writing.cancel()


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
        options = LaptopOptions(documents=(app(port, one.port),), run_dir=folder)
        async with asyncio.timeout(20):
            await laptop(options, served=served)

    pid = seen[0]["gateways"][0]["envoy"]["pid"]
    assert not psutil.pid_exists(pid)
    assert sockets(folder) == []
    assert await who(port) == ""


@pytest.mark.envoy
async def test_a_run_says_that_it_ends_and_that_it_has(folder: Path) -> None:
    def served(_running: Laptop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with structlog.testing.capture_logs() as events:
        async with asyncio.timeout(20):
            await laptop(LaptopOptions(documents=(app(free_port(), 1),), run_dir=folder), served=served)

    assert [event["event"] for event in events][-2:] == ["gateway.stopping", "gateway.stopped"]


@pytest.mark.envoy
async def test_a_port_that_is_taken_ends_a_run_without_files(folder: Path) -> None:
    """Nothing that could change would mend it; and it does not say that it stops before it has begun."""
    with structlog.testing.capture_logs() as events, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortError, match=f"Port {port} is taken by .* \\(process {os.getpid()}\\)"):
            async with asyncio.timeout(20):
                await laptop(LaptopOptions(documents=(app(port, 1),), run_dir=folder))

    assert {"gateway.serving", "gateway.stopping"}.isdisjoint(event["event"] for event in events)


async def test_a_status_that_turns_bad_is_told_once_with_its_place_and_so_is_its_end(folder: Path) -> None:
    manifests, backend = folder / "app.yaml", folder / "backend.yaml"
    manifests.write_text(app(8080, 1))
    (folder / "run").mkdir(mode=0o700)
    with structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=folder / "run", envoy=Path("/bin/true")) as running:

            def turned(*names: str) -> list[Any]:
                return [event for event in events if event["event"] in names]

            async with following(running, Files((str(manifests), str(backend)))):
                await running.loaded.wait()
                await until(lambda: running.statuses.document(Ref.of(HTTPRoute, "default", "app")))
                assert turned("status.degraded", "status.recovered") == []

                gateway, _, route = app(8080, 1).split("\n---\n")
                manifests.write_text(f"# moved\n{gateway}\n---\n{route}\n")
                await until(lambda: turned("status.degraded"))
                backend.write_text(text(m.local("up", 1)))
                await until(lambda: turned("status.recovered"))

    (bad,) = turned("status.degraded")
    assert bad["resource"] == "HTTPRoute default/app"
    assert (bad["condition"], bad["status"], bad["reason"]) == ("ResolvedRefs", "False", "BackendNotFound")
    assert bad["at"].startswith(f"{manifests}:4:")
    assert "up" in bad["message"]
    (good,) = turned("status.recovered")
    assert (good["resource"], good["condition"]) == ("HTTPRoute default/app", "ResolvedRefs")


async def test_what_was_loaded_counts_resources_and_changes_apart(folder: Path) -> None:
    manifests = folder / "app.yaml"
    manifests.write_text(text(m.local("a", 1), m.local("b", 1)))
    with structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=folder / "run") as running, following(running, Files((str(manifests),))):
            await running.loaded.wait()
            manifests.write_text(text(m.local("a", 1), m.local("b", 2)))
            await until(lambda: len(events) > 1)

    told = [(e["files"], e["resources"], e["changed"]) for e in events if e["event"] == "manifests.loaded"]
    assert told == [(1, 2, 2), (1, 2, 1)]


async def test_a_reference_that_leads_nowhere_is_told_when_its_target_goes(folder: Path) -> None:
    """And once: with its place, in the log and in the report."""
    route, gateway = folder / "route.yaml", folder / "gateway.yaml"
    sound, _, attached = app(8080, 1).split("\n---\n")
    route.write_text(attached)
    gateway.write_text(sound)
    with structlog.testing.capture_logs() as events:
        async with (
            Laptop(run_dir=folder / "run", envoy=Path("/bin/true")) as running,
            following(running, Files((str(route), str(gateway)))),
        ):
            await running.loaded.wait()
            gateway.unlink()
            await until(lambda: any("There is no Gateway" in e.get("told", "") for e in events))
            told = [e["told"] for e in events if e["event"] == "manifest"]
            findings = running.report()["findings"]

    (told,) = (line for line in told if "There is no Gateway" in line)
    assert told.startswith(f"{route}:1:")
    assert told in findings


async def test_the_configuration_that_was_given_goes_before_the_one_among_the_manifests(folder: Path) -> None:
    """As the command line says of --config, and as ``validate`` has it."""
    manifests = folder / "config.yaml"
    kind = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    manifests.write_text(text({**kind, "gateway": {"controllerName": "example.com/file"}}))
    for given, expected in ((None, "example.com/file"), ("example.com/given", "example.com/given")):
        config = EnvoyGateway(gateway=GatewayController(controller_name=given)) if given else None
        async with (
            Laptop(config=config, run_dir=folder / "run") as running,
            following(running, Files((str(manifests),))),
        ):
            await running.loaded.wait()
            assert controller_name(running.world.db) == expected


async def test_a_report_of_thousands_is_told_in_parts(folder: Path) -> None:
    """Endpoints that change do not wait for somebody who looks at statuses."""
    routes = [m.route(f"app-{n}", f"[{{{m.to('up')}}}]") for n in range(3 * REPORTED_AT_ONCE)]
    gateway = m.gateway("gateway", "[{name: http, port: 8080, protocol: HTTP}]")
    async with Laptop(run_dir=folder, envoy=Path("/bin/true")) as running:
        running.take_text("all", text(gateway, m.local("up", 1), *routes))
        await until(lambda: len(running.statuses.documents()) > 3 * REPORTED_AT_ONCE)

        parts = list(running.encoded_report())

        told = msgspec.json.decode(b"".join(parts))
        whole = msgspec.json.decode(msgspec.json.encode(running.report()))
    assert len(parts) > 4
    assert told["resources"] == whole["resources"]
    assert told.keys() == whole.keys()
