"""A gateway of this process: manifests come by text, call and file; what is refused, logged and served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway, GatewayController, RuntimeFlag
from moongate.api.gateway import GatewayClass
from moongate.api.httproute import HTTPRoute
from moongate.attach.gateways import config, controller_name
from moongate.run import Laptop, ManifestError, laptop
from moongate.sources.files import Files, Loaded
from moongate.world import WRITTEN
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import admitted
from tests.ports import free_port
from tests.run.conftest import app, following, is_, text, until, who
from tests.sources.manifests import backend, stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


async def test_manifests_with_a_fault_are_not_put_in_force(folder: Path) -> None:
    """None of them, and each fault is reported."""
    sound, faulty = m.local("up", 80), m.local("no-port", 70000)
    async with Laptop(run_dir=folder) as running:
        for manifests in (text(sound, faulty), [sound, faulty]):
            with pytest.raises(ManifestError, match="port"):
                await running.apply(manifests)

            assert Ref.of(Backend, "default", "up") not in running.world.store.resources()


async def test_text_that_is_no_yaml_is_reported(folder: Path) -> None:
    async with Laptop(run_dir=folder) as running:
        with pytest.raises(ManifestError):
            await running.apply("kind: [")


async def test_a_gateway_class_is_there_without_being_defined(folder: Path) -> None:
    """And comes back when one of the same name is deleted."""
    classes = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "moongate"},
        "spec": {"controllerName": "example.com/other"},
    }
    ref = Ref.of(GatewayClass, "", "moongate")
    async with Laptop(run_dir=folder) as running:
        resources: Any = running.world.store.resources
        before = resources()[ref].spec.controller_name
        await running.apply([classes])
        assert resources()[ref].spec.controller_name == "example.com/other"

        await running.delete(ref)

        assert resources()[ref].spec.controller_name == before


async def test_a_laptop_without_gateways_is_served_at_once(folder: Path) -> None:
    async with Laptop(run_dir=folder) as running:
        await running.served(timeout_s=20)

        assert running.report()["gateways"] == []
        assert running.urls() == ()


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

            manifests.write_text("")
            await until(lambda: running.report()["gateways"] == [])
            await until(lambda: is_(port, ""))


@pytest.mark.envoy
async def test_a_file_with_a_fault_leaves_the_last_good_form_in_force(folder: Path) -> None:
    port, manifests = free_port(), folder / "app.yaml"
    async with Echo("one").serving() as one, Echo("two").serving() as two, Laptop() as running:
        manifests.write_text(app(port, one.port))
        async with following(running, Files((str(folder),))):
            await running.loaded.wait()
            manifests.write_text("kind: [")
            await until(lambda: [f for f in running.diagnostics() if f.severity == "error"])
            await running.served()
            assert await who(port) == "one"

            manifests.write_text(app(port, two.port))
            await until(lambda: is_(port, "two"))

            assert [f for f in running.diagnostics() if f.severity == "error"] == []


CONFIGURATION = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: example.com/mine}
extensionApis: {enableBackend: true}
"""


@pytest.mark.envoy
async def test_the_class_of_a_laptop_is_served_under_any_name_of_the_controller(folder: Path) -> None:
    """A configuration among the manifests may name it; what is served must not go by that."""
    port, manifests = free_port(), folder / "m"
    manifests.mkdir()
    async with Echo("one").serving() as one, Laptop(run_dir=folder / "run") as running:
        (manifests / "app.yaml").write_text(app(port, one.port))
        async with following(running, Files((manifests,))):
            await until(lambda: is_(port, "one"))

            (manifests / "config.yaml").write_text(CONFIGURATION)
            await until(lambda: controller_name(running.world.db) == "example.com/mine")
            await running.served()

            assert await who(port) == "one"
            assert running.report()["unserved"] == []


async def test_gateways_of_another_controller_are_reported(folder: Path) -> None:
    """Also those that were served before: nothing else would say why they are no longer."""
    manifests = folder / "m"
    manifests.mkdir()
    (manifests / "app.yaml").write_text(app(free_port(), 1))
    other = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "moongate"},
        "spec": {"controllerName": "example.com/other"},
    }
    with structlog.testing.capture_logs() as events:
        async with (
            Laptop(run_dir=folder / "run", envoy=Path("/bin/true")) as running,
            following(running, Files((manifests,))),
        ):
            await until(lambda: running.report()["gateways"])
            (manifests / "class.json").write_text(text(other))
            await until(lambda: bool(running.report()["unserved"] and running.report()["diagnostics"]))
            report = running.report()

    assert report["gateways"] == []
    warnings = [event["message"] for event in events if event["event"] == "manifest"]
    assert len(warnings) == 1
    assert "is of the controller 'example.com/other'" in warnings[0]
    assert "This Gateway is not served." in warnings[0]
    assert report["diagnostics"] == warnings
    assert report["unserved"] == [{"namespace": "default", "name": "gateway"}]


async def test_a_report_says_whether_manifests_are_still_being_put_in_force(folder: Path) -> None:
    """Who asks between two steps of the start must not take what is missing for all that there is."""
    async with Laptop(run_dir=folder / "run", envoy=Path("/bin/true")) as running:
        before = running.report()["settling"]
        running.take_text("app.yaml", app(free_port(), 1))
        meanwhile = running.report()
        await until(lambda: not running.report()["settling"])
        after = running.report()

    assert before is True
    assert (meanwhile["settling"], meanwhile["resources"]) == (True, [])
    assert {document["kind"] for document in after["resources"]} > {"Gateway", "HTTPRoute"}


async def test_files_are_read_again_after_a_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not end the Envoys that serve; nor must they miss what changes later."""

    class OddOnce(Files):
        times = 0

        async def watch(self) -> AsyncGenerator[Loaded, None]:
            self.times += 1
            async for loaded in super().watch():
                yield loaded
                if self.times == 1:
                    raise RecursionError

    monkeypatch.setattr(laptop, "FIRST_PAUSE_S", 0.01)
    (folder / "m").mkdir()
    (folder / "m" / "a.json").write_text(text(m.local("a", 80)))
    with structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=folder / "run") as running, following(running, OddOnce((folder / "m",))):
            await until(lambda: any(event["event"] == "files.failed" for event in events))
            (folder / "m" / "b.json").write_text(text(m.local("b", 80)))

            for name in ("a", "b"):
                ref = Ref.of(Backend, "default", name)
                await until(lambda ref=ref: ref in running.world.store.resources())


async def test_a_status_that_turns_bad_is_reported_once_with_its_place_and_so_is_its_end(
    folder: Path,
) -> None:
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

    counts = [(e["files"], e["resources"], e["changed"]) for e in events if e["event"] == "manifests.loaded"]
    assert counts == [(1, 2, 2), (1, 2, 1)]


async def test_a_reference_that_leads_nowhere_is_reported_when_its_target_goes(folder: Path) -> None:
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
            gateway.write_text("# nothing any more\n")
            await until(lambda: any("There is no Gateway" in e.get("message", "") for e in events))
            messages = [e["message"] for e in events if e["event"] == "manifest"]
            diagnostics = running.report()["diagnostics"]

    (message,) = (line for line in messages if "There is no Gateway" in line)
    assert message.startswith(f"{route}:1:")
    assert message in diagnostics


@pytest.mark.parametrize("flag", ["StableFilterChains", "XDSNameSchemeV2"])
async def test_a_flag_that_names_what_connections_go_by_holds_from_the_start(
    folder: Path, flag: RuntimeFlag
) -> None:
    """The rest of a configuration that changes is in force at once, and what waits is said."""
    manifests = folder / "config.yaml"
    kind = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    for before, after in ([flag], []), ([], [flag]):
        manifests.write_text(text({**kind, "runtimeFlags": {"enabled": before}}))
        async with (
            Laptop(run_dir=folder / "run") as running,
            following(running, Files((str(manifests),))),
        ):
            await running.loaded.wait()
            assert running.report()["diagnostics"] == []

            other = {"enabled": [*after, "MetadataWhereRead"]}
            manifests.write_text(
                text({**kind, "gateway": {"controllerName": "example.com/new"}, "runtimeFlags": other})
            )
            await until(lambda: controller_name(running.world.db) == "example.com/new")

            flags = config(running.world.db).runtime_flags
            assert flags.on(flag) is bool(before)
            assert flags.on("MetadataWhereRead")
            (said,) = running.report()["diagnostics"]
            assert said.startswith(f"{manifests}:")
            assert f"{flag} cannot be switched while moongate runs" in said

            manifests.write_text(text({**kind, "runtimeFlags": {"enabled": before}}))
            await until(lambda: running.report()["diagnostics"] == [])


@pytest.mark.envoy
@pytest.mark.parametrize("stable", [False, True], ids=["switched off", "switched on"])
async def test_a_guarded_route_stays_so_on_open_connections_whatever_flags_are_saved(
    folder: Path, *, stable: bool
) -> None:
    port = free_port()
    kind = {"apiVersion": m.ENVOY, "kind": "EnvoyGateway", "extensionApis": {"enableBackend": True}}
    flags = [["StableFilterChains"], []]
    config, users = folder / "config.yaml", m.secret("users", _htpasswd=f"ann:{{SHA}}{'A' * 27}=\n")
    guard = m.policy("SecurityPolicy", "guard", "basicAuth: {users: {name: users}}", "HTTPRoute/app")
    (folder / "app.yaml").write_text("\n---\n".join((app(port, free_port()), text(users, guard))))
    config.write_text(text({**kind, "runtimeFlags": {"enabled": flags[stable]}}))
    async with (
        Laptop(run_dir=folder / "run") as running,
        following(running, Files((str(config), str(folder / "app.yaml")))),
        httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        await running.loaded.wait()
        await running.served()
        assert (await client.get("/")).status_code == 401

        config.write_text(text({**kind, "runtimeFlags": {"enabled": flags[not stable]}}))
        await until(lambda: running.report()["diagnostics"])
        await running.served()

        assert (await client.get("/")).status_code == 401


async def test_the_configuration_that_was_given_goes_before_the_one_among_the_manifests(folder: Path) -> None:
    """As the command line says of --config, and as ``validate`` has it."""
    manifests = folder / "config.yaml"
    kind = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    manifests.write_text(text({**kind, "gateway": {"controllerName": "example.com/file"}}))
    for passed, expected in ((None, "example.com/file"), ("example.com/given", "example.com/given")):
        config = EnvoyGateway(gateway=GatewayController(controller_name=passed)) if passed else None
        async with (
            Laptop(config=config, run_dir=folder / "run") as running,
            following(running, Files((str(manifests),))),
        ):
            await running.loaded.wait()
            assert controller_name(running.world.db) == expected


async def test_half_an_edit_is_never_left_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many resources are put in force in slices. Who has all files read again meanwhile waits for the end."""
    monkeypatch.setattr("moongate.run.pump.SLICE_S", 0)
    many = 2 * WRITTEN
    (tmp_path / "many.yaml").write_text(stream(*(backend(f"b{n}") for n in range(many))))
    gateway = Laptop()
    resources = gateway.world.store.resources()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(gateway.follow(Files([tmp_path])))
        while not resources:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        at_first = len(resources)
        task.cancel()

    assert at_first == WRITTEN
    assert len(resources) == many
