"""``--state-dir``: what a file had before it was broken is served, also if moongate starts after that."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from moongate.run import Laptop
from moongate.sources.files import Files
from tests.cli.process import Moongate
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.broken_policies import A_TAB, FAULTS, POLICY, SHA_OF_TEST
from tests.e2e.conftest import started
from tests.e2e.test_outliving import reported
from tests.ports import free_port
from tests.run.conftest import text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

CANARY = SHA_OF_TEST.strip()


class Home:
    """A folder of manifests and one for the state, that several moongates use one after another."""

    def __init__(self, folder: Path, backend: Echo) -> None:
        self.root, self.state, self.runs = folder / "m", folder / "state", folder / "runs"
        self.root.mkdir()
        self.port = free_port()
        route = m.route("app", f"[{{{m.to('one')}}}]")
        del route["spec"]["hostnames"]
        self.files = {
            "gateway.json": text(
                m.gateway("gateway", f"[{{name: http, port: {self.port}, protocol: HTTP}}]")
            ),
            "backend.json": text(m.local("one", backend.port)),
            "route.json": text(route),
            "users.json": text(m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}")),
            "policy.yaml": POLICY,
        }
        for name, content in self.files.items():
            (self.root / name).write_text(content)

    def write(self, name: str, content: str | bytes) -> None:
        (self.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    @asynccontextmanager
    async def serving(self, *options: str | Path) -> AsyncGenerator[str]:
        """A moongate that serves, and what it said until then; it is killed at the end."""
        options = options or ("--state-dir", self.state)
        async with Moongate("run", self.root, "--run-dir", self.runs, *options) as moongate:
            yield await moongate.says("gateway.serving")
            await moongate.killed()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Moongate]:
        """As ``serving``: the process."""
        async with Moongate("run", self.root, "--run-dir", self.runs, "--state-dir", self.state) as moongate:
            await moongate.says("gateway.serving")
            yield moongate
            await moongate.killed()

    async def answer(self, *, user: bool = False) -> int:
        auth = httpx.BasicAuth("ann", "test") if user else None
        async with httpx.AsyncClient(trust_env=False, auth=auth, timeout=DEADLINE_S) as client:
            return (await client.get(f"http://127.0.0.1:{self.port}/")).status_code


def _listeners(port: int) -> str:
    return f"[{{name: http, port: {port}, protocol: HTTP}}]"


@pytest.fixture
async def home() -> AsyncGenerator[Home]:
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        async with Echo("one").serving() as one:
            yield Home(Path(name), one)


async def test_broken_files_are_served_as_they_were(home: Home) -> None:
    """After kill -9, with a fault in the policy, the route and the Gateway at once; the log and the status
    say since when. What was removed meanwhile is gone, and the text of no Secret is in the state folder."""
    async with home.serving():
        assert (await home.answer(), await home.answer(user=True)) == (401, 200)

    home.write("policy.yaml", A_TAB)
    home.write("route.json", home.files["route.json"].replace("HTTPRoute", "HTTPRoutes"))
    home.write("gateway.json", home.files["gateway.json"].replace('"port"', '"prt"'))
    async with home.serving() as said:
        assert (await home.answer(), await home.answer(user=True)) == (401, 200)
        assert said.count("in force, as it was at 20") == 3
        shown = reported(home.runs)["diagnostics"]
        assert sum("in force, as it was at 20" in each for each in shown) == 3

    (home.root / "policy.yaml").unlink()
    async with home.serving():
        assert await home.answer() == 200

    home.write("policy.yaml", A_TAB)
    async with home.serving():
        assert await home.answer(user=True) == 500

    written = b"".join(each.read_bytes() for each in home.state.rglob("*") if each.is_file())
    assert b"HTTPRoute" in written
    assert CANARY.encode() not in written


async def test_a_broken_secret_closes_what_needs_it(home: Home) -> None:
    """Its last good state is not kept, as no Secret is written to the disk."""
    async with home.serving():
        assert await home.answer(user=True) == 200

    home.write("users.json", home.files["users.json"][:-2])
    async with home.serving():
        assert await home.answer(user=True) == 500


async def test_a_state_folder_that_cannot_be_used_changes_nothing_else(home: Home) -> None:
    """It is said once, and a policy that cannot be read is closed."""
    home.state.write_text("no folder")
    async with home.serving() as said:
        assert said.count("state.failed") == 1
        assert await home.answer() == 401

    home.write("policy.yaml", A_TAB)
    async with home.serving():
        assert await home.answer() == 500


async def test_where_envoys_outlive_moongate_so_does_the_state(home: Home) -> None:
    """Without a state folder of its own; it is there as long as an Envoy runs."""
    try:
        async with home.serving("--keep-envoys"):
            assert await home.answer() == 401

        home.write("policy.yaml", A_TAB)
        assert await home.answer() == 401
        async with home.serving("--keep-envoys") as said:
            assert "in force, as it was at 20" in said
            assert (await home.answer(), await home.answer(user=True)) == (401, 200)
    finally:
        async with Moongate("stop", "--run-dir", home.runs) as asked:
            await asked.process.communicate()
    assert not home.runs.exists()


@pytest.mark.parametrize("known", [True, False])
async def test_a_policy_with_any_fault_lets_nobody_pass(tmp_path: Path, *, known: bool) -> None:
    """As before the fault, if that is known: who has a password passes, others get 401. Else 500."""
    port, root = free_port(), tmp_path / "m"
    root.mkdir()
    expected = (401, 200) if known else (500, 500)
    other: dict[str, tuple[int, ...]] = {}
    async with (
        Echo("one").serving() as one,
        Laptop(state_dir=tmp_path / "state") as laptop,
        httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):

        async def answers() -> tuple[int, ...]:
            headers = {"host": "app.test"}
            user = httpx.BasicAuth("ann", "test")
            each = [await client.get("/", headers=headers, auth=auth) for auth in (None, user)]
            return tuple(answer.status_code for answer in each)

        def restarted() -> AbstractAsyncContextManager[None]:
            """The folder as a moongate has it that starts now."""
            laptop.put({ref: None for ref in laptop.world.store.resources() if ref.kind == "SecurityPolicy"})
            return started(laptop, Files([root]))

        base = [
            m.gateway("gateway", _listeners(port)),
            m.local("one", one.port),
            m.route("app", f"[{{{m.to('one')}}}]"),
            m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}"),
        ]
        (root / "base.yaml").write_text(text(*base))
        async with restarted():
            pass
        for name, broken in FAULTS.items():
            path = root / ("policy.json" if "JSON" in name else "policy.yaml")
            if known:
                good = msgspec.yaml.decode(POLICY)
                path.write_text(msgspec.json.encode(good).decode() if "JSON" in name else POLICY)
                async with restarted():
                    assert await answers() == (401, 200)
            path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
            async with restarted():
                if (result := await answers()) != expected:
                    other[name] = result
            path.unlink()
            async with restarted():
                assert await answers() == (200, 200)

    assert other == {}


@pytest.mark.parametrize("of", ["route", "cluster"])
async def test_what_envoy_took_is_served_also_if_moongate_starts_while_it_refuses_the_new_form(
    home: Home, of: str
) -> None:
    """As often as it starts, as long as the edit stands in the files."""
    (home.root / "policy.yaml").unlink()
    change = {"set": [{"name": "x-why", "value": "%FOO%"}]}
    route = msgspec.json.decode(home.files["route.json"])
    route["spec"]["rules"][0]["filters"] = [
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": change}
    ]
    sinks = f"[{{type: File, file: {{path: {home.root.parent}/missing/log}}}}]"
    log = f"healthCheckLog: {{sinks: {sinks}}}"
    check = f"healthCheck: {{active: {{type: TCP, interval: 60s, tcp: {{}}, {log}}}}}"
    policy = m.policy("BackendTrafficPolicy", "checked", check, "HTTPRoute/app")
    name, refused = {"route": ("route.json", route), "cluster": ("checked.json", policy)}[of]
    async with home.running() as moongate:
        assert await home.answer() == 200
        home.write(name, text(refused))
        await moongate.says("Refused")
        assert await home.answer() == 200

    for _ in range(2):
        async with home.running():
            assert await home.answer() == 200

    home.write(name, home.files.get(name, ""))
    async with home.running():
        assert await home.answer() == 200
