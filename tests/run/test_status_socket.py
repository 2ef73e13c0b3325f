"""The report that ``moongate status`` reads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from moongate.api.admission import admit
from moongate.api.base import Ref, Resource
from moongate.kinds import KINDS
from moongate.policies.security_policy import SecurityPolicy
from moongate.run import Laptop
from moongate.run.status_socket import RESOURCES_AT_ONCE
from moongate.sources.files import Files
from tests.e2e import manifests as m
from tests.run.conftest import following, sockets, text, until
from tests.unbuilt import PROTECTIONS


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

        parts = list(running.status.encoded({}))
        resources = running.world.store.resources()

        report = msgspec.json.decode(b"".join(parts))
        whole = msgspec.json.decode(msgspec.json.encode(running.report()))
    assert len(parts) > 8
    assert parts.count(b"") == (1 + len(resources)) // RESOURCES_AT_ONCE, "the looks at their references"
    assert report["resources"] == whole["resources"]
    assert report.keys() == {*whole, "rateLimits"}


POLICY: dict[str, Any] = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
    "kind": "SecurityPolicy",
    "metadata": {"name": "closed", "namespace": "default"},
    "spec": {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"}],
        PROTECTIONS[0]: {},
    },
}


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_field_that_is_not_built_is_reported_once(folder: Path, from_file: bool) -> None:
    """The log has it with the manifest, or else with the status; the report has it with the status."""
    gateway = m.gateway("gateway", "[{name: http, port: 8080, protocol: HTTP}]")
    ref = Ref.of(SecurityPolicy, "default", "closed")
    with structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=folder, envoy=Path("/bin/true")) as running:
            running.take_text("all", text(gateway, *([POLICY] if from_file else [])))
            if not from_file:
                running.put({ref: admitted(POLICY)})
            await until(lambda: running.statuses.document(ref) is not None and not running.status.settling())
            report = running.report()
            running.take_text("all", text(gateway))
            running.put({ref: None})
            await until(lambda: running.statuses.document(ref) is None)

    field = f"spec.{PROTECTIONS[0]}"
    assert [e["event"] for e in events if field in str(e)] == ["manifest" if from_file else "status.degraded"]
    assert report["diagnostics"] == []
    (status,) = (r["status"] for r in report["resources"] if r["kind"] == "SecurityPolicy")
    assert field in status["ancestors"][0]["conditions"][0]["message"]


def admitted(document: dict[str, Any]) -> Resource:
    resource = admit(document, KINDS, namespace="default").resource
    assert resource is not None
    return resource


async def test_a_policy_whose_selectors_match_nothing_is_a_hint(folder: Path, tmp_path: Path) -> None:
    """It is apart from the diagnostics, as it does not change the exit code of ``moongate status``."""
    selecting = POLICY | {"spec": {"targetSelectors": [{"kind": "Gateway", "matchLabels": {"tier": "web"}}]}}
    (tmp_path / "all.yaml").write_text(text(selecting))
    async with (
        Laptop(run_dir=folder, envoy=Path("/bin/true")) as running,
        following(running, Files([str(tmp_path)])),
    ):
        await until(lambda: running.report()["hints"])
        report = running.report()

    assert ["No Gateway that is served here matches" in hint for hint in report["hints"]] == [True]
    assert report["diagnostics"] == []


async def test_a_route_that_nothing_serves_is_reported_with_an_empty_status(folder: Path) -> None:
    """It has no status, as that would be another controller's; but whoever wrote it looks for it."""
    lonely, mesh = (
        m.route("lonely", "[{}]", parents="[]"),
        m.route("mesh", "[{}]", parents="[{kind: Service, name: a}]"),
    )
    async with Laptop(run_dir=folder, envoy=Path("/bin/true")) as running:
        running.take_text("all", text(lonely, mesh))
        await until(lambda: not running.report()["settling"] and len(running.report()["resources"]) == 3)
        reported = [(r["metadata"]["name"], r["status"]) for r in running.report()["resources"][1:]]

    assert reported == [("lonely", {}), ("mesh", {})]


async def test_a_secret_with_a_fault_is_not_said_to_be_missing(folder: Path, tmp_path: Path) -> None:
    """Its reader would look for the wrong thing. When it is mended, nothing is said any more."""
    guard = m.policy("SecurityPolicy", "guard", "basicAuth: {users: {name: users}}", "HTTPRoute/app")
    secret = {**m.secret("users"), "data": {".htpasswd": "!!!"}}
    served = (
        m.gateway("gateway", "[{name: http, port: 8080, protocol: HTTP}]"),
        m.local("up", 1),
        m.route("app", f"[{{{m.to('up')}}}]"),
        guard,
    )
    file = tmp_path / "all.yaml"
    file.write_text(text(*served, secret))
    ref = Ref.of(SecurityPolicy, "default", "guard")

    def said() -> str:
        document = running.statuses.document(ref)
        return document["status"]["ancestors"][0]["conditions"][0]["message"] if document is not None else ""

    async with (
        Laptop(run_dir=folder, envoy=Path("/bin/true")) as running,
        following(running, Files([str(tmp_path)])),
    ):
        await until(lambda: "is not in force, as its manifest has a fault" in said())
        assert str(file) in said()
        assert "!!!" not in said()
        assert "All requests that this policy is for are answered with 500" in said()

        file.write_text(text(*served))
        await until(lambda: "Secret default/users does not exist." in said())
