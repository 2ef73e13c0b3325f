"""``moongate run --keep-envoys``: Envoys go on when moongate ends, and the next one adopts them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import psutil
import pytest

from moongate.cli import main
from moongate.infra.rundir import KEPT
from tests.campaign.house import ran
from tests.cli.process import Moongate, left_in
from tests.core import extension, gateway_class
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.load import Load
from tests.e2e.test_recovery import ended
from tests.ports import free_port
from tests.run.conftest import app, is_, text, until, who

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from tests.e2e.load import Answer

CONFIGURATION = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
    "kind": "EnvoyGateway",
    "extensionApis": {"enableBackend": True},
}

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


class Home:
    """A folder of manifests, and one for runs, that several moongates share one after another."""

    def __init__(self, folder: Path, one: Echo, two: Echo) -> None:
        self.runs = folder / "runs"
        self.shop = folder / "shop"
        self.shop.mkdir()
        self.one, self.two = one, two
        self.port = free_port()
        self.serve(one)

    def serve(self, backend: Echo, name: str = "app.yaml") -> None:
        (self.shop / name).write_text(app(self.port, backend.port))

    def serve_parts(self, *hosts: str) -> None:
        """A part of the table for each of these hostnames, below ``.test``, and one for a wildcard."""
        flags = ["StableFilterChains", "MetadataWhereRead", "ScopedTables"]
        routes = [
            m.route(host.replace(".", "-"), f"[{{{m.to('one')}}}]", hostnames=(f"{host}.test",))
            for host in hosts
        ]
        (self.shop / "app.yaml").write_text(
            text(
                {**CONFIGURATION, "runtimeFlags": {"enabled": flags}},
                m.gateway("gateway", f"[{{name: http, port: {self.port}, protocol: HTTP}}]"),
                m.local("one", self.one.port),
                m.local("two", self.two.port),
                m.route("wild", f"[{{{m.to('two')}}}]", hostnames=("*.wild.test",)),
                *routes,
            )
        )

    def moongate(self, *options: str) -> Moongate:
        return Moongate("run", self.shop, "--run-dir", self.runs, *(options or ("--keep-envoys",)))

    def report(self) -> dict[str, Any]:
        return reported(self.runs)

    def envoy(self) -> dict[str, Any]:
        return self.report()["gateways"][0]["envoy"]

    async def stopped(self) -> str:
        async with Moongate("stop", "--run-dir", self.runs) as asked:
            printed, _ = await asked.process.communicate()
            assert asked.process.returncode == 0, printed
        return printed.decode()


def reported(runs: Path, *options: str) -> dict[str, Any]:
    """What ``moongate status`` says. It runs in this process: another would take a second to start."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        main(["status", "--run-dir", str(runs), "-o", "json", *options])
    return msgspec.json.decode(out.getvalue())


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    """A home that ends what still runs from it."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder:
        async with Echo("one").serving() as one, Echo("two").serving() as two:
            home = Home(Path(folder), one, two)
            yield home
            for process in psutil.process_iter(["cmdline"]):
                if any(word.startswith(f"{home.runs}/") for word in process.info["cmdline"] or ()):
                    process.kill()


async def test_no_request_fails_while_moongate_is_killed_ended_and_started_again(home: Home) -> None:
    """The same Envoy goes on with the same configuration, so it is sent nothing; later edits take effect."""
    async with home.moongate() as first:
        await first.says("gateway.serving")
        pid = home.envoy()["pid"]
        async with load(home.port) as answers:
            await first.killed()
            code, said = ran("status", "--run-dir", home.runs)
            assert code == 1
            assert "moongate stop` ends them" in said
            async with home.moongate() as second:
                await second.says("envoy.adopted")
                await second.says("gateway.serving")
                report = home.report()
                assert await second.ended_by(signal.SIGTERM) == 0
            async with home.moongate() as third:
                await third.says("envoy.adopted")
                home.serve(home.two)
                await until(lambda: is_(home.port, "two"))
                envoy = home.envoy()
        await home.stopped()

    assert {(answer.status, answer.error) for answer in answers} == {(200, "")}
    assert report["gateways"][0]["envoy"]["adopted"] is True
    assert report["gateways"][0]["envoy"]["pid"] == envoy["pid"] == pid
    assert report["figures"]["sent"] == {}
    assert ended(pid)
    assert left_in(home.runs) == []


async def test_what_was_edited_while_no_moongate_ran_takes_effect(home: Home) -> None:
    async with home.moongate() as first:
        await first.says("gateway.serving")
        await first.killed()
    home.serve(home.two)
    assert await who(home.port) == "one"

    async with home.moongate() as second, load(home.port) as answers:
        await second.says("envoy.adopted")
        await until(lambda: is_(home.port, "two"))

    assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("difference", ["none", "says nothing"])
async def test_a_hostname_whose_route_was_removed_while_no_moongate_ran_is_not_answered_any_more(
    home: Home, difference: str
) -> None:
    """Envoy has a part of the table for it, and does not say so when it connects again. It is asked for that,
    and ended if it does not answer."""
    home.serve_parts("here", "left", "left.wild")
    async with home.moongate() as first:
        await first.says("gateway.serving")
        await until(
            lambda: are(home.port, {"here": "one", "left": "one", "left.wild": "one", "any.wild": "two"})
        )
        envoy = home.envoy()
        pid, admin = envoy["pid"], Path(envoy["admin"])
        await first.killed()
    home.serve_parts("here")
    assert await parts(home.port, ["left", "left.wild"]) == {"left": "one", "left.wild": "one"}

    async with AsyncExitStack() as stack:
        if difference == "says nothing":
            await stack.enter_async_context(silent_about_parts(admin))
            second = await stack.enter_async_context(home.moongate())
            await second.says("does not say for which hostnames it has routes")
            await second.says("gateway.serving")
        else:
            answers = await stack.enter_async_context(load(home.port, "here.test"))
            second = await stack.enter_async_context(home.moongate())
            await second.says("envoy.adopted")
            await until(lambda: are(home.port, {"left": "404"}))
            assert {(answer.status, answer.error) for answer in answers} == {(200, "")}
        expected = {"here": "one", "left": "404", "left.wild": "two", "any.wild": "two"}
        await until(lambda: are(home.port, expected))
        assert ended(pid) == (difference != "none")

        home.serve_parts("here", "left")
        await until(lambda: are(home.port, expected | {"left": "one"}))


async def test_a_cluster_that_envoy_refuses_stays_as_it_was_when_moongate_starts_again(home: Home) -> None:
    """The Envoy that outlives it has the former one, and the next moongate says what is refused."""

    def logging_to(path: str) -> str:
        log = f"healthCheckLog: {{sinks: [{{type: File, file: {{path: '{path}'}}}}]}}"
        check = f"healthCheck: {{active: {{type: TCP, interval: 60s, tcp: {{}}, {log}}}}}"
        return text(m.policy("BackendTrafficPolicy", "checked", check, "HTTPRoute/app"))

    policy = home.shop / "policy.yaml"
    policy.write_text(logging_to("/dev/null"))
    async with home.moongate() as first:
        await first.says("gateway.serving")
        async with load(home.port) as answers:
            policy.write_text(logging_to(f"{home.runs}/missing/log"))
            await first.says("status.degraded")
            await first.killed()
            async with home.moongate() as second:
                await second.says("status.degraded")
                report = msgspec.json.encode(home.report()).decode()
                policy.write_text(logging_to("/dev/stdout"))
                await second.says("status.recovered")
        await home.stopped()

    assert {(answer.status, answer.error) for answer in answers} == {(200, "")}
    assert "missing/log" in report


async def test_an_adopted_envoy_that_dies_is_started_again(home: Home) -> None:
    """It is no child, so its end is no event of a child."""
    async with home.moongate() as first:
        await first.says("gateway.serving")
        await first.killed()
    async with home.moongate() as second:
        await second.says("gateway.serving")
        pid = home.envoy()["pid"]

        os.kill(pid, signal.SIGKILL)

        await second.says("envoy.ended")
        await second.says("envoy.ready")
        assert home.envoy() | {"adopted": False, "restarts": 1} == home.envoy()
        assert await who(home.port) == "one"


@pytest.mark.parametrize("difference", ["arguments", "version", "suspended"])
async def test_an_envoy_that_differs_is_replaced(home: Home, difference: str) -> None:
    """Other options, another version of Envoy: it is drained and ended, and a new one serves."""
    async with home.moongate() as first:
        await first.says("gateway.serving")
        pid = home.envoy()["pid"]
        await first.killed()
    options = ["--keep-envoys"]
    match difference:
        case "arguments":
            odd = extension("EnvoyProxy", "odd", "{concurrency: 1}")
            (home.shop / "odd.yaml").write_text("---\n".join((gateway_class("odd", name="moongate"), odd)))
        case "version":
            other = home.shop.parent / "envoy"
            binary = psutil.Process(pid).exe()
            says = 'echo "envoy  version: 0/1.39.0/Clean/RELEASE/x"'
            other.write_text(f'#!/bin/sh\ntest "$1" = --version && {says} && exit\nexec {binary} "$@"\n')
            other.chmod(0o755)
            options += ["--envoy", str(other)]
        case _:
            os.kill(pid, signal.SIGSTOP)

    async with home.moongate(*options) as second:
        await second.says("envoy.replaced")
        await second.says("gateway.serving")

        assert ended(pid)
        assert await who(home.port) == "one"
        assert home.envoy()["adopted"] is False


async def test_an_envoy_stays_where_the_binary_is_none(home: Home) -> None:
    """An update that went wrong ends no Envoy that serves."""
    async with home.moongate() as first:
        await first.says("gateway.serving")
        pid = home.envoy()["pid"]
        await first.killed()

    async with home.moongate("--keep-envoys", "--envoy", "/bin/true") as second, load(home.port) as answers:
        await second.says("/bin/true is no Envoy that runs here")
        await second.says("envoy.adopted")
        home.serve(home.two)
        await until(lambda: is_(home.port, "two"))

        assert not ended(pid)
    assert {answer.status for answer in answers} == {200}


async def test_the_envoy_of_a_gateway_that_is_gone_is_ended_once_manifests_have_no_error(home: Home) -> None:
    """An error may be the only reason why its Gateway is missing, where the last good state is not known.
    Another Gateway then gets its port."""
    async with home.moongate() as first:
        await first.says("gateway.serving")
        pid = home.envoy()["pid"]
        await first.killed()
    (home.runs / KEPT / "last-good" / "journal").unlink()
    (home.shop / "app.yaml").write_text("{")

    async with home.moongate() as second:
        await second.says("manifests.loaded")
        assert await who(home.port) == "one"

        (home.shop / "app.yaml").write_text(app(home.port, home.two.port).replace('"gateway"', '"other"'))
        await second.says("envoy.left_over")
        await until(lambda: is_(home.port, "two"))

        assert ended(pid)


async def test_one_folder_belongs_to_one_moongate(home: Home) -> None:
    """Both would configure the same Envoys. One that keeps none leaves these alone."""
    async with home.moongate() as first:
        await first.says("gateway.serving")

        async with home.moongate() as second:
            await second.says("Another moongate runs with Envoys that outlive it")
            assert await second.process.wait() == 1

        await first.killed()
        async with home.moongate("--bind", "127.0.0.2") as other:
            await other.says("gateway.serving")

            assert await who(home.port) == "one"
            assert await other.ended_by(signal.SIGTERM) == 0
    assert await who(home.port) == "one"


async def test_stop_ends_envoys_that_no_moongate_runs(home: Home) -> None:
    async with home.moongate() as first:
        await first.says("gateway.serving")
        await first.killed()

    assert await home.stopped() == "1 Envoy that it left running has ended.\n"
    assert await who(home.port) == ""
    assert left_in(home.runs) == []


async def parts(port: int, hosts: Iterable[str]) -> dict[str, str]:
    """Host below ``.test`` → which backend answers, or the status."""
    backends: dict[str, str] = {}
    async with httpx.AsyncClient(
        trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S
    ) as client:
        for host in hosts:
            try:
                answer = await client.get("/", headers={"host": f"{host}.test"})
            except httpx.TransportError:
                backends[host] = ""
            else:
                backends[host] = answer.headers.get("x-backend", str(answer.status_code))
    return backends


async def are(port: int, expected: dict[str, str]) -> bool:
    return await parts(port, expected) == expected


@asynccontextmanager
async def silent_about_parts(admin: Path) -> AsyncGenerator[None]:
    """Stand between an Envoy and whoever uses its admin socket, and let nobody ask for its configuration."""
    behind = moved(admin)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_envoy, to_envoy = await asyncio.open_unix_connection(behind)
        async with asyncio.TaskGroup() as tasks:
            back = tasks.create_task(hand_on(from_envoy, writer))
            while (chunk := await reader.read(1 << 16)) and b"/config_dump" not in chunk:
                to_envoy.write(chunk)
            back.cancel()
        to_envoy.close()
        writer.close()

    async with await asyncio.start_unix_server(connected, admin):
        yield


def moved(socket: Path) -> Path:
    return socket.rename(socket.with_name("behind"))


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)


@asynccontextmanager
async def load(port: int, host: str = "any") -> AsyncGenerator[list[Answer]]:
    """Requests on kept connections while the block runs, and what became of each."""
    asking, stop = Load(port, host, rate=200, connections=8), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asking.run(stop))
        try:
            yield asking.answers
        finally:
            stop.set()
