"""The Envoys of a gateway: those that cannot run, ports that cannot be had, what changes while they run."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import structlog
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from moongate import names
from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway
from moongate.attach.fleets import fleets as all_fleets
from moongate.chain_transitions import ChainTransitions
from moongate.infra.binary import envoy_binary
from moongate.infra.ports import PortError
from moongate.infra.process import EnvoyFailedError
from moongate.infra.rundir import runs
from moongate.quarantine.search import Search
from moongate.run import Laptop
from moongate.world import Changes
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE, XdsResource, encode
from tests.ads.client import Client
from tests.ads.laptop import until
from tests.core import GATEWAY_CLASS, extension, gateway, gateway_class, http, read
from tests.deadline import DEADLINE_S
from tests.infra.conftest import HeldBackend, let_go_when_refused
from tests.ports import free_port
from tests.routes import http_route, rule

EG = Ref.of(Gateway, "default", "eg")
LATENESS = frozenset({"envoy.late", "envoy.caught_up"})
"""The events in the log of an Envoy that owes an answer, and gives it."""


def opened(*ports: int, **spec: Any) -> str:
    """A Gateway with a listener on each port, named after it."""
    listeners = [http(f"at-{port}", port=port) for port in ports]
    return gateway(*listeners, gatewayClassName="moongate", **spec)


@contextmanager
def taken() -> Generator[tuple[int, socket.socket]]:
    """A port that somebody listens on."""
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        yield holder.getsockname()[1], holder


async def connected(port: int, host: str = "127.0.0.1") -> None:
    """Return when somebody takes connections there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def without_gateways(laptop: Laptop) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while laptop.report()["gateways"]:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


def nacks(laptop: Laptop) -> int:
    """How often an Envoy has refused listeners."""
    return laptop.figures()["sent"][LISTENER]["nacks"]


def conditions(laptop: Laptop, listener: str = "") -> dict[str, dict[str, Any]]:
    """Those of the Gateway, or of one of its listeners, by type."""
    document = laptop.statuses.document(EG)
    assert document is not None
    status = document["status"]
    if listener:
        (status,) = (one for one in status["listeners"] if one["name"] == listener)
    return {c["type"]: c for c in status["conditions"]}


@pytest.mark.envoy
async def test_an_envoy_that_cannot_run_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_text("#!/bin/sh\necho 'no such bootstrap' >&2\nexit 1\n")
    broken.chmod(0o755)

    async with Laptop(envoy=broken) as running:
        with pytest.raises(EnvoyFailedError, match="no such bootstrap"):
            await running.apply(opened(free_port()))

        assert "no such bootstrap" in str(await running.failed())


async def test_no_envoy_is_started_when_all_end(tmp_path: Path) -> None:
    """Nobody would end it. The pump may be in the middle of its turn."""
    async with Laptop(run_dir=tmp_path, envoy=Path("/bin/true")) as running:
        running.take_text("all", opened(free_port()))

    running.world.pull()
    (late,) = all_fleets(running.world.db)
    assert list(running.fleets.publish(Changes({}, {}, {names.fleet(late): late}, {}))) == []
    assert running.fleets.counters == {}


@pytest.mark.envoy
@pytest.mark.parametrize(
    "options", ["{extraArgs: [--no-such-flag]}", "{extraArgs: [--component-log-level, nosuch:info]}"]
)
async def test_an_envoy_that_cannot_be_started_concerns_its_gateway_alone(options: str) -> None:
    """Its status says why; the others are served, and so is this once its options are mended."""
    port, other = free_port(), free_port()
    beside = gateway(http("web", port=other), name="beside", gatewayClassName="moongate")
    async with Laptop() as laptop, asyncio.TaskGroup() as tasks:
        await laptop.apply(beside)
        failed = tasks.create_task(laptop.failed())
        with pytest.raises(EnvoyFailedError):
            await laptop.apply(proxied(port, options))

        await until(lambda: conditions(laptop)["Programmed"]["reason"] == "NoResources")
        message = conditions(laptop)["Programmed"]["message"]
        await laptop.apply(proxied(port, "{}"))

        await connected(other)
        await connected(port)
        await until(lambda: conditions(laptop)["Programmed"]["status"] == "True")
        assert not failed.done()
        failed.cancel()

    assert message.startswith("Envoy could not be started: ")
    assert "nosuch" in message or "--no-such-flag" in message


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        yield Path(name)


def run_folder(laptop: Laptop) -> Path:
    (fleet,) = laptop.report()["gateways"]
    return Path(fleet["envoy"]["admin"]).parent


def held_back(folder: Path) -> tuple[Path, Path]:
    """An Envoy that begins when a file is created, and that file."""
    go, binary = folder / "go", folder / "envoy"
    real = envoy_binary()
    binary.write_text(
        f'#!/bin/sh\ncase $1 in --version) exec {real} "$@";; esac\n'
        f'while ! [ -e {go} ]; do sleep 0.02; done; exec {real} "$@"\n'
    )
    binary.chmod(0o755)
    return binary, go


@pytest.mark.envoy
async def test_a_fleet_whose_files_cannot_be_written_is_started_later(short_path: Path) -> None:
    """Others may write in the folder of the run, so an Envoy there could be misled; other Envoys go on."""
    port, other = free_port(), free_port()
    beside = gateway(http("web", port=other), name="beside", gatewayClassName="moongate")
    async with Laptop(run_dir=short_path) as laptop:
        await laptop.apply(beside)
        run = run_folder(laptop)
        run.chmod(0o777)
        with pytest.raises(EnvoyFailedError, match="with mode 777; others could replace what is in it"):
            await laptop.apply(opened(port))

        await until(lambda: conditions(laptop)["Programmed"]["reason"] == "NoResources")
        run.chmod(0o700)

        await connected(port)
        await connected(other)


@pytest.mark.envoy
async def test_an_envoy_whose_files_are_removed_while_it_starts_serves_all_the_same(short_path: Path) -> None:
    """It would wait for a control plane at a path where there is none, or have no configuration."""
    binary, go = held_back(short_path)
    port = free_port()
    async with Laptop(run_dir=short_path / "r", envoy=binary) as laptop:
        laptop.put({each.ref: each for each in read(opened(port))})
        await until(lambda: any(short_path.glob("r/*/envoy-*.pid")))
        (first,) = laptop.report()["gateways"]
        shutil.rmtree(short_path / "r")
        await until(
            lambda: laptop.report()["gateways"][0]["envoy"]["pid"] not in {first["envoy"]["pid"], None}
        )
        go.touch()

        await connected(port)
        await laptop.served()


@pytest.mark.envoy
@pytest.mark.parametrize("lost", ["folder", "sockets"])
async def test_what_is_removed_from_the_folder_of_the_run_is_there_again(short_path: Path, lost: str) -> None:
    """An Envoy that has to connect anew finds its control plane, a new one has its files."""
    port, other = free_port(), free_port()
    beside = gateway(http("web", port=other), name="beside", gatewayClassName="moongate")
    with structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=short_path) as laptop:
            await laptop.apply(opened(port))
            run = run_folder(laptop)
            sockets = [run / "status.sock", *run.glob("xds-*.sock")]
            if lost == "folder":
                run.rename(short_path / "elsewhere")
            else:
                for each in sockets:
                    each.unlink()

            await until(lambda: all(each.is_socket() for each in sockets))
            assert len(runs(short_path)) == 1, "`moongate status` finds it"
            await laptop.apply(beside)
            await connected(port)
            await connected(other)
            _, writer = await asyncio.open_unix_connection(run / "status.sock")
            writer.close()
            await writer.wait_closed()

    assert {"event", "log_level", "folder", "files"} == {
        key for event in events if event["event"] == "run.restored" for key in event
    }
    assert not [event for event in events if event["event"] in {"envoy.ended", "envoy.failed"}]


@pytest.mark.envoy
async def test_an_envoy_whose_admin_socket_is_removed_still_drains(short_path: Path) -> None:
    """Requests in flight end before it does."""
    port = free_port()
    async with (
        HeldBackend().serving() as backend,
        asyncio.TaskGroup() as tasks,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        async with Laptop(run_dir=short_path) as laptop:
            await laptop.apply(opened(port))
            at = f"{{ip: {{address: 127.0.0.1, port: {backend.port}}}}}"
            await laptop.apply(extension("Backend", "slow", f"{{endpoints: [{at}]}}"))
            slow = "{group: gateway.envoyproxy.io, kind: Backend, name: slow}"
            await laptop.apply(http_route(rule("", slow)))
            request = tasks.create_task(client.get(f"http://127.0.0.1:{port}/"))
            await backend.asked.wait()
            shutil.rmtree(run_folder(laptop))
            tasks.create_task(let_go_when_refused(port, backend))

        assert (await request).text == "done"


@pytest.mark.envoy
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
async def test_a_port_of_another_program_is_no_success(address: str) -> None:
    """Whoever waits for a port and then asks it would ask that program. The other Gateway is served."""
    free = free_port()
    other = opened(free, name="other")
    dual = ":" in address
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server((address, 0), family=family, dualstack_ipv6=dual) as holder:
        port = holder.getsockname()[1]
        has_it = f"Port {port} is taken by .* \\(process {os.getpid()}\\); end it, or .* serves nothing there"
        async with Laptop() as laptop:
            with pytest.raises(PortError, match=has_it):
                await laptop.apply("---\n".join((opened(port), other)))
            with pytest.raises(PortError, match=has_it):
                await laptop.served()
            await connected(free)

            await laptop.delete(Ref.of(Gateway, "default", "eg"))
            await laptop.served()


@pytest.mark.envoy
async def test_a_port_that_is_taken_during_a_handover_is_blamed_on_who_has_it() -> None:
    """While Envoys of moongate give up ports nobody is blamed, so there is no reason yet when it ends."""
    with taken() as (port, _):
        async with Laptop() as laptop:
            await laptop.apply(opened(free_port(), name="leaving"))

            with pytest.raises(PortError, match=f"^Port {port} is taken by"):
                await laptop.apply("---\n".join((opened(port), opened(free_port(), name="leaving"))))


@pytest.mark.envoy
async def test_a_port_is_served_once_it_is_free() -> None:
    """The message says to end the process that holds it; doing so is enough, and no error any more."""
    with taken() as (port, holder):
        async with Laptop() as laptop:
            with pytest.raises(PortError):
                await laptop.apply(opened(port))
            refused = laptop.report()["rejections"]
            holder.close()

            await connected(port)
            await laptop.served()

    assert [r["name"] for r in refused] == [f"default/eg/at-{port}"]


@pytest.mark.envoy
async def test_a_port_goes_from_one_gateway_to_another() -> None:
    """It is open again, by the Envoy of the other, when the change is served; no port is said to be taken."""
    first, second = free_port(), free_port()

    def manifests(web: int, other: int) -> str:
        return "---\n".join((opened(web, name="web"), opened(other, name="other")))

    with structlog.testing.capture_logs() as events:
        async with Laptop() as laptop:
            for ports in ((first, second), (second, first)):
                await laptop.apply(manifests(*ports))
                assert {f"http://127.0.0.1:{port}" for port in ports} == set(laptop.urls())
                assert [await answers(port) for port in ports] == [True, True]

    assert "status.degraded" not in {event["event"] for event in events}


@pytest.mark.envoy
async def test_an_envoy_whose_gateway_is_replaced_serves_until_that_of_the_next_has_started() -> None:
    port = free_port()
    with structlog.testing.capture_logs() as events:
        async with Laptop() as laptop:
            await laptop.apply(opened(port))
            laptop.put({EG: None} | {each.ref: each for each in read(opened(port, name="next"))})
            started, answered = False, [True]
            while not started:
                answered.append(await answers(port))
                started = ("envoy.ready", "default/next") in {(e["event"], e.get("gateway")) for e in events}

            await laptop.served()
            assert await answers(port)

    assert all(answered[:-1]), "the last one may have been asked when the next had started"
    assert "status.degraded" not in {event["event"] for event in events}


@pytest.mark.envoy
@pytest.mark.parametrize(
    "change", ["a listener moves", "a listener is removed", "a Gateway leaves the Envoy of its class"]
)
async def test_a_port_that_goes_to_an_envoy_that_starts_is_served_until_it_has_started(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Envoy of the former Gateway goes on with other listeners. It closes the port at the last moment.

    Also where a machine is so slow that it may be sent its changes before others have theirs.
    """
    monkeypatch.setattr("moongate.run.pump.SLICE_S", 0)
    port, other = free_port(), free_port()
    merged = (
        gateway_class("shared", name="shared"),
        extension("EnvoyProxy", "shared", "{mergeGateways: true}"),
    )
    beside = gateway(http("beside", port=other), name="beside", gatewayClassName="shared")
    leaves = gateway(http("web", port=port), name="next", gatewayClassName="shared")
    before = {
        "a listener moves": (opened(port),),
        "a listener is removed": (opened(port, other),),
        "a Gateway leaves the Envoy of its class": (*merged, beside, leaves),
    }[change]
    after = (
        (*merged, beside) if "class" in change else (opened(port).replace(f"port: {port}", f"port: {other}"),)
    )
    with structlog.testing.capture_logs() as events:
        async with Laptop() as laptop:
            await laptop.apply("---\n".join(before))
            laptop.put(
                {each.ref: each for text in (*after, opened(port, name="next")) for each in read(text)}
            )
            started, answered = False, [True]
            while not started:
                answered.append(await answers(port))
                started = ("envoy.ready", "default/next") in {(e["event"], e.get("gateway")) for e in events}

            await laptop.served()
            assert [await answers(each) for each in (port, other)] == [True, True]

    assert all(answered[:-1]), "the last one may have been asked when the next had started"
    assert len(answered) > 3, "or nothing was asked while the Envoy started"
    assert "status.degraded" not in {event["event"] for event in events}


@pytest.mark.envoy
async def test_of_two_gateways_on_one_port_the_first_serves_and_then_the_other() -> None:
    """No Envoy is asked for the port of another, so nothing depends on which one is faster."""
    port, other = free_port(), free_port()
    with structlog.testing.capture_logs() as events:
        async with Laptop() as laptop:
            await laptop.apply("---\n".join((opened(port), opened(port, other, name="later"))))
            document = laptop.statuses.document(Ref.of(Gateway, "default", "later"))
            assert document is not None
            listeners = {each["name"]: each["conditions"][0] for each in document["status"]["listeners"]}
            assert [await answers(each) for each in (port, other)] == [True, True]

            # The first one gives the port up, and takes it back.
            for ports in ((free_port(),), (port,)):
                await laptop.apply(opened(*ports))
                assert [await answers(each) for each in (port, other, *ports)] == [True] * (2 + len(ports))

            await laptop.delete(EG)
            assert [await answers(each) for each in (port, other)] == [True, True]

    assert (listeners[f"at-{other}"]["status"], listeners[f"at-{port}"]["status"]) == ("True", "False")
    assert listeners[f"at-{port}"]["reason"] == "PortUnavailable"
    assert "Gateway default/eg" in listeners[f"at-{port}"]["message"]
    assert "envoy.refused" not in {event["event"] for event in events}
    refused = [event for event in events if event["event"] == "status.degraded"]
    assert {event["condition"] for event in refused} <= {"Accepted"}


@pytest.mark.envoy
async def test_a_listener_that_envoy_could_not_open_after_its_acknowledgement_is_reported_and_served_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Envoy binds a port, acknowledges, and begins to listen when routes are there: too late, this time."""
    with socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", free_port()))
        port = late.getsockname()[1]
        acknowledged = ChainTransitions.acknowledged

        def listens_then(*event: Any) -> bool:
            if event[3] == LISTENER:
                late.listen()
            return acknowledged(*event)

        with structlog.testing.capture_logs() as events:
            async with Laptop() as laptop:
                monkeypatch.setattr(ChainTransitions, "acknowledged", listens_then)
                laptop.put({each.ref: each for each in read(opened(port))})
                await until(lambda: "status.degraded" in {event["event"] for event in events})
                refused, urls = conditions(laptop, f"at-{port}")["Programmed"], laptop.urls()
                monkeypatch.undo()
                late.close()

                await until(lambda: "status.recovered" in {event["event"] for event in events})
                assert await answers(port)

    assert (refused["status"], refused["reason"], urls) == ("False", "PortUnavailable", ())
    assert refused["message"].startswith(f"Port {port} is taken by ")
    assert "envoy.log" not in {event["event"] for event in events}, "it would say the same"


@pytest.mark.envoy
async def test_an_envoy_that_does_not_acknowledge_is_reported_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has stopped, and an edit is not in force; the status must not call it programmed."""
    monkeypatch.setattr("moongate.fleets.LATE_SECONDS", 0.3)
    port, more, other = free_port(), free_port(), free_port()
    beside = opened(other, name="beside")
    with structlog.testing.capture_logs() as events:
        async with Laptop() as laptop:
            await laptop.apply("---\n".join((opened(port), beside)))
            pid = next(f["envoy"]["pid"] for f in laptop.report()["gateways"] if f["fleet"] == "default/eg")
            events.clear()  # a start under load may take longer
            os.kill(pid, signal.SIGSTOP)
            try:
                laptop.put({each.ref: each for each in read(opened(port, more))})
                await until(lambda: conditions(laptop)["Programmed"]["reason"] == "Pending")
                listeners = [conditions(laptop, f"at-{n}")["Programmed"]["reason"] for n in (port, more)]
                stopped, report = conditions(laptop)["Programmed"], laptop.report()["gateways"]
            finally:
                os.kill(pid, signal.SIGCONT)
            await until(lambda: conditions(laptop)["Programmed"]["status"] == "True")
            resumed = laptop.report()["gateways"]

    assert stopped["status"] == "False"
    assert stopped["message"].startswith(f"Envoy (process {pid}) is stopped and has not acknowledged")
    assert f"kill -CONT {pid}" in stopped["message"]
    assert listeners == ["Programmed", "Pending"], "Envoy has the first one, and nothing listens at the other"
    late = {fleet["fleet"]: fleet["envoy"]["unacknowledged_s"] for fleet in report}
    assert late["default/beside"] is None, "another Envoy is not concerned"
    assert late["default/eg"] is not None
    assert {fleet["envoy"]["unacknowledged_s"] for fleet in resumed} == {None}
    reported = [(event["event"], event["gateway"]) for event in events if event["event"] in LATENESS]
    assert reported == [("envoy.late", "default/eg"), ("envoy.caught_up", "default/eg")]
    assert "status.degraded" not in {event["event"] for event in events}, "it would say the same"


VERSION = """\
#!/bin/sh
test "$1" = --version && echo "envoy  version: 0/1.40.0/Clean/RELEASE/x" && exit
"""
"""The beginning of a program that looks like an Envoy."""


@pytest.mark.envoy
async def test_a_binary_that_is_no_envoy_is_replaced_by_one_while_others_serve(tmp_path: Path) -> None:
    """An update that went wrong: it is reported once, not used, and started when it is there."""
    mine, used = tmp_path / "envoy", tmp_path / "used"
    mine.symlink_to(envoy_binary())
    port, other = free_port(), free_port()
    beside = gateway(http("web", port=other), name="beside", gatewayClassName="moongate")
    with structlog.testing.capture_logs() as events:
        async with Laptop(envoy=mine) as laptop:
            await laptop.apply(beside)
            mine.unlink()
            mine.write_text(f"#!/bin/sh\ntest $1 = --version || touch {used}\n")
            mine.chmod(0o755)
            with pytest.raises(EnvoyFailedError, match="is no Envoy that runs here"):
                await laptop.apply(opened(port))
            await until(lambda: "is no Envoy" in conditions(laptop)["Programmed"]["message"])
            assert laptop.fleets.failure() is None, "one serves"
            mine.unlink()
            mine.symlink_to(envoy_binary())

            await connected(port)
            await connected(other)

    assert not used.exists()
    assert [e["gateway"] for e in events if e["event"] == "envoy.failed" and e["log_level"] == "error"] == [
        "default/eg"
    ]


@pytest.mark.envoy
async def test_an_envoy_that_never_connects_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.fleets.LATE_SECONDS", 0.3)
    idle = tmp_path / "envoy"
    idle.write_text(VERSION + "exec sleep 60\n")
    idle.chmod(0o755)
    with structlog.testing.capture_logs() as events:
        async with Laptop(envoy=idle) as laptop:
            laptop.put({each.ref: each for each in read(opened(free_port()))})
            await until(lambda: "envoy.late" in {event["event"] for event in events})
            await until(lambda: conditions(laptop)["Programmed"]["reason"] == "Pending")
            message = conditions(laptop)["Programmed"]["message"]

    assert "has not connected to moongate since" in message
    assert [event["event"] for event in events if event["event"] in LATENESS] == ["envoy.late"]


async def answers(port: int) -> bool:
    """Whether somebody takes a connection there now, and answers a request."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            # Without a client, which would take as long to make as Envoy takes to start.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, EOFError):
            return False  # Whoever closes a port resets the connections that have not been taken.
        writer.close()
    return answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.envoy
async def test_a_listener_whose_port_is_taken_is_not_called_served() -> None:
    """Nor is it programmed; the one beside it is both."""
    free = free_port()
    with structlog.testing.capture_logs() as events, taken() as (port, _):
        async with Laptop() as laptop:
            with pytest.raises(PortError):
                await laptop.apply(opened(free, port))
            urls = laptop.urls()
            of_taken, of_free = (conditions(laptop, f"at-{n}")["Programmed"] for n in (port, free))
            of_gateway = conditions(laptop)["Programmed"]

    served = [event["url"] for event in events if event["event"] == "gateway.serving"]
    reasons = [event["reason"] for event in events if event["event"] == "status.degraded"]
    assert urls == (f"http://127.0.0.1:{free}",)
    assert served == [f"http://127.0.0.1:{free}"]
    assert of_free["status"] == "True"
    assert (of_taken["status"], of_taken["reason"]) == ("False", "PortUnavailable")
    assert f"Port {port} is taken by" in of_taken["message"]
    assert (of_gateway["status"], of_gateway["reason"]) == ("False", "Invalid")
    assert reasons == ["PortUnavailable"]
    assert "envoy.refused" not in {event["event"] for event in events}, "it would say the same"


@pytest.mark.envoy
async def test_a_listener_is_called_served_at_a_port_once_it_is_there() -> None:
    """One that moves to a port that is taken never is; one that changes otherwise is served all the time."""
    free = free_port()
    with structlog.testing.capture_logs() as events, taken() as (port, _):
        async with Laptop() as laptop:
            await laptop.apply(opened(free))
            with pytest.raises(PortError):
                await laptop.apply(opened(free).replace(f"port: {free}", f"port: {port}"))
            await laptop.apply(opened(free))
            await laptop.apply(opened(free).replace(f"port: {free}", f"port: {free}\n    hostname: a.test"))

    served = [event["url"] for event in events if event["event"] == "gateway.serving"]
    assert f"http://127.0.0.1:{port}" not in served
    assert served[0] == f"http://127.0.0.1:{free}"
    assert served[-1] == f"http://a.test:{free}"


@pytest.mark.envoy
async def test_over_the_socket_of_a_gateway_no_other_is_served(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an Envoy is sent holds private keys. Each socket is there for one Gateway, as long as that is."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    served: list[bool] = []
    async with Laptop() as laptop:
        await laptop.apply("---\n".join((opened(free_port()), opened(free_port(), name="other"))))
        sockets = sorted(short_path.glob("moongate/*/xds-*.sock"))  # noqa: ASYNC240 - local files, in a test
        modes = {socket.stat().st_mode & 0o777 for socket in sockets}
        for socket in sockets:
            async with Client(socket, fleet="default/eg") as client:
                await client.ask(LISTENER)
                try:
                    served.append(bool((await client.answer()).resources))
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.PERMISSION_DENIED  # noqa: PT017 - one of both
                    served.append(False)

        await laptop.delete(Ref.of(Gateway, "default", "other"))
        await until(lambda: sum(socket.exists() for socket in sockets) == 1)

    assert sorted(served) == [False, True]
    assert modes == {0o600}


@pytest.mark.envoy
async def test_what_an_envoy_had_before_does_not_end_a_refusal(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Envoy that comes back says what it has, which is older than what it refused."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    with structlog.testing.capture_logs() as events, taken() as (port, holder):
        async with Laptop() as laptop:
            with pytest.raises(PortError):
                await laptop.apply(opened(port))
            (socket,) = short_path.glob("moongate/*/xds-*.sock")  # noqa: ASYNC240 - local files, in a test
            async with Client(socket, fleet="default/eg") as client:
                await client.ask(LISTENER, initial_resource_versions={f"default/eg/at-{port}": "former"})
                await client.answer()
                await client.ask(CLUSTER)
                await client.answer()
                # Asked for again, and refused again.
                refusals = nacks(laptop)
                await until(lambda: nacks(laptop) > refusals)
            holder.close()
            await connected(port)

    changes = [event["event"] for event in events if event["event"].startswith("status.")]
    assert changes == ["status.degraded", "status.recovered"]


@pytest.mark.envoy
@pytest.mark.usefixtures("only_own_garbage")
async def test_listeners_that_come_and_go_leave_nothing_behind() -> None:
    """A fleet may live for months."""

    def searches() -> int:
        gc.unfreeze()
        gc.collect()
        return sum(isinstance(each, Search) for each in gc.get_objects())

    drained = "{shutdown: {drainTimeout: 1s}}"
    async with Laptop() as laptop:
        await laptop.apply(proxied(free_port(), drained))
        first = searches()
        for _ in range(3):
            await laptop.apply(proxied(free_port(), drained))

        await until(lambda: searches() <= first)


@pytest.mark.envoy
async def test_a_refused_listener_that_is_gone_is_no_longer_reported() -> None:
    """Envoy never had it, so there is nothing to remove, and nothing that Envoy would answer."""
    free = free_port()
    with structlog.testing.capture_logs() as events, taken() as (port, _):
        async with Laptop() as laptop:
            with pytest.raises(PortError):
                await laptop.apply(opened(free, port))
            refused = conditions(laptop)["Programmed"]

            await laptop.apply(opened(free))
            programmed = conditions(laptop)["Programmed"]

    assert (refused["status"], refused["reason"]) == ("False", "Invalid")
    assert (programmed["status"], programmed["reason"]) == ("True", "Programmed")
    assert "status.recovered" in {event["event"] for event in events}


@pytest.mark.envoy
async def test_a_refused_cluster_that_is_mended_is_no_longer_reported() -> None:
    """Also where its acknowledgement is the last that is heard."""
    async with Laptop() as laptop:
        await laptop.apply(opened(free_port()))
        for type_, status in ((Cluster.EDS, "False"), (Cluster.STATIC, "True")):
            cluster = XdsResource.of(CLUSTER, "odd", encode(Cluster(name="odd", type=type_)))
            for _ in laptop.fleets.publish(Changes({"default/eg": (cluster,)}, {}, {}, {})):
                pass
            async with asyncio.timeout(DEADLINE_S):
                while conditions(laptop)["Programmed"]["status"] != status:  # noqa: ASYNC110 - a document
                    await asyncio.sleep(0.01)


@pytest.mark.envoy
async def test_a_refusal_is_not_mended_by_the_end_of_envoy() -> None:
    """Nor by its crash: whoever has the port has it still."""
    with structlog.testing.capture_logs() as events, taken() as (port, _):
        async with Laptop() as laptop:
            with pytest.raises(PortError):
                await laptop.apply(opened(port))
            first = laptop.report()["gateways"][0]["envoy"]["pid"]

            os.kill(first, signal.SIGKILL)
            await until_logged(events, "envoy.ended")
            await until_logged(events, "envoy.ready", times=2)

    assert "status.recovered" not in {event["event"] for event in events}
    assert sum(event["event"] == "status.degraded" for event in events) == 1


@pytest.mark.envoy
async def test_a_listener_is_open_to_this_machine_alone() -> None:
    """Somebody who tries a gateway in a café does not open it to the café."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(opened(port))

        await connected(port)

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", port)


@pytest.mark.envoy
async def test_a_listener_is_open_to_all_who_are_asked_in() -> None:
    port = free_port()
    async with Laptop(bind="0.0.0.0") as laptop:
        await laptop.apply(opened(port))

        await connected(port, "127.0.0.2")
        assert laptop.urls() == (f"http://127.0.0.1:{port}",)


@pytest.mark.envoy
async def test_a_gateway_may_name_its_addresses() -> None:
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(opened(port, addresses=[{"value": "127.0.0.2"}, {"value": "127.0.0.3"}]))

        await connected(port, "127.0.0.2")
        await connected(port, "127.0.0.3")
        assert laptop.urls() == (f"http://127.0.0.2:{port}",)


@pytest.mark.envoy
async def test_a_gateway_that_goes_and_comes_is_served_again() -> None:
    """The Envoy that drains and the one that starts share files and a port: one after the other."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(opened(port))
        before = laptop.report()["gateways"][0]["envoy"]["pid"]

        laptop.put({EG: None})
        await without_gateways(laptop)
        await laptop.apply(opened(port))

        after = laptop.report()["gateways"][0]["envoy"]
        await connected(port)

    assert after["state"] == "ready"
    assert after["pid"] != before


def proxied(port: int, spec: str) -> str:
    """A Gateway with an EnvoyProxy."""
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "px"}
    return f"""{opened(port, infrastructure={"parametersRef": ref})}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {{name: px}}
spec: {spec}
"""


async def until_logged(events: list[Any], name: str, times: int = 1) -> dict[str, Any]:
    """The last event of that name, once there are so many."""
    async with asyncio.timeout(DEADLINE_S):
        while len(logged := [e for e in events if e["event"] == name]) < times:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    return logged[-1]


@pytest.mark.envoy
async def test_log_levels_change_while_envoy_runs() -> None:
    port = free_port()
    async with Laptop() as laptop, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        await laptop.apply(proxied(port, "{}"))
        pid = laptop.report()["gateways"][0]["envoy"]["pid"]

        with structlog.testing.capture_logs() as events:
            await laptop.apply(proxied(port, "{logging: {level: {default: warn, http: debug}}}"))
            async with asyncio.timeout(DEADLINE_S):
                while not any(event["event"] == "envoy.log" for event in events):
                    await client.get(f"http://127.0.0.1:{port}/")

        assert laptop.report()["gateways"][0]["envoy"]["pid"] == pid
    assert "envoy.restart_needed" not in {event["event"] for event in events}


@pytest.mark.envoy
async def test_a_component_that_envoy_does_not_know_is_never_sent_to_it() -> None:
    """An Envoy that runs would refuse it, and one that starts would end."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(proxied(port, "{}"))

        await laptop.apply(proxied(port, "{logging: {level: {default: warn, nosuch: debug}}}"))
        accepted = conditions(laptop)["Accepted"]

        await connected(port)

    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidParameters")
    assert "no component 'nosuch'" in accepted["message"]


@pytest.mark.envoy
async def test_a_connection_ends_when_its_listener_has_been_drained() -> None:
    """What is in force now is not what it came by."""
    port, other = free_port(), free_port()
    timeout = "{shutdown: {drainTimeout: 1s}}"
    async with Laptop() as laptop:
        await laptop.apply(proxied(port, timeout))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        await laptop.apply(proxied(other, timeout))

        # It would be a minute.
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.envoy
async def test_what_holds_from_the_start_of_envoy_only_is_reported() -> None:
    """Otherwise one would wait for it."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(proxied(port, "{concurrency: 1}"))

        with structlog.testing.capture_logs() as events:
            late = "concurrency: 2, extraArgs: [--service-node, x], shutdown: {drainTimeout: 3s}"
            await laptop.apply(proxied(port, f"{{{late}}}"))
            event = await until_logged(events, "envoy.restart_needed")
            await laptop.apply(proxied(port, f"{{{late}, ipFamily: IPv4}}"))

    assert event["fields"] == "spec.concurrency, spec.extraArgs, spec.shutdown.drainTimeout"
    assert sum(event["event"] == "envoy.restart_needed" for event in events) == 1


@pytest.mark.envoy
async def test_arguments_that_a_running_envoy_would_not_start_with_are_in_the_status() -> None:
    """Not only when it crashes."""
    port = free_port()
    async with Laptop() as laptop:
        await laptop.apply(proxied(port, "{}"))

        await laptop.apply(proxied(port, "{extraArgs: [--no-such-flag]}"))
        await until(lambda: conditions(laptop)["Programmed"]["status"] == "False")
        assert "--no-such-flag" in conditions(laptop)["Programmed"]["message"]
        await connected(port)

        await laptop.apply(proxied(port, "{}"))
        await until(lambda: conditions(laptop)["Programmed"]["status"] == "True")


MERGING = "---\n".join(
    (gateway_class("merging", name="moongate"), extension("EnvoyProxy", "merging", "{mergeGateways: true}"))
)


def redirecting(gateway: str) -> str:
    """A route that needs no backend; where it redirects to says whose it is."""
    redirect = f"{{type: RequestRedirect, requestRedirect: {{hostname: {gateway}.example.com}}}}"
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {gateway}, namespace: default}}
spec:
  parentRefs: [{{name: {gateway}}}]
  rules: [{{filters: [{redirect}]}}]
"""


def merged(ports: Mapping[str, int]) -> str:
    """Gateways that share Envoys, by name, each with a port of its own and a route."""
    gateways = (
        gateway(http("web", port=port), name=name, gatewayClassName="moongate")
        for name, port in ports.items()
    )
    return "\n---\n".join((MERGING, *gateways, *map(redirecting, ports)))


@pytest.mark.envoy
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
async def test_former_routes_are_in_force_until_envoy_has_acknowledged_others_or_is_dead(
    then: signal.Signals,
) -> None:
    """Until then requests may be counted by their rate limits."""
    port = free_port()
    async with Laptop() as laptop:
        fleets = laptop.fleets
        await laptop.apply("---\n".join((opened(port), redirecting("eg"))))
        ((name, before),) = fleets.edits().items()
        pid = laptop.report()["gateways"][0]["envoy"]["pid"]
        first = fleets.in_force(name, before)
        os.kill(pid, signal.SIGSTOP)
        try:
            laptop.put({each.ref: each for each in read(redirecting("eg").replace(".com", ".org"))})
            await until(lambda: fleets.edits()[name] > before)
            edit = fleets.edits()[name]
            stopped = fleets.in_force(name, edit), fleets.in_force(name, before)
        finally:
            os.kill(pid, then)
        await until(lambda: fleets.in_force(name, edit))

    assert first
    assert stopped == (False, True)


@pytest.mark.envoy
async def test_former_routes_are_in_force_while_an_envoy_refuses_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it has answered for all of them."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    async with Laptop() as laptop:
        await laptop.apply("---\n".join((opened(free_port()), redirecting("eg"))))
        ((name, edit),) = laptop.fleets.edits().items()
        before = laptop.fleets.in_force(name, edit)
        (socket,) = short_path.glob("moongate/*/xds-*.sock")  # noqa: ASYNC240 - local files, in a test
        async with Client(socket, fleet=name) as client:
            for type_url in (CLUSTER, LISTENER):
                await client.ask(type_url)
                await client.acknowledge(await client.answer())
            await client.ask(ROUTE, resource_names_subscribe=list(laptop.world.xds()[name][ROUTE]))
            await client.refuse(await client.answer(), "no such filter")
            await until(lambda: laptop.figures()["sent"][ROUTE]["nacks"])
            refused = laptop.fleets.in_force(name, edit)

    assert before
    assert not refused


@pytest.mark.envoy
async def test_one_envoy_serves_all_gateways_of_a_class_that_merges_them() -> None:
    ports = {"one": free_port(), "two": free_port()}
    async with Laptop(config=EnvoyGateway()) as laptop:
        await laptop.apply(merged(ports))
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            answers = {name: await client.get(f"http://127.0.0.1:{port}/") for name, port in ports.items()}
        reports = laptop.report()["gateways"]
        urls = laptop.urls()
        programmed = [
            condition["status"]
            for name in ports
            for condition in (laptop.statuses.document(Ref.of(Gateway, "default", name)) or {})["status"][
                "conditions"
            ]
            if condition["type"] == "Programmed"
        ]

    assert {name: answer.headers["location"] for name, answer in answers.items()} == {
        name: f"http://{name}.example.com:{port}/" for name, port in ports.items()
    }
    (report,) = reports
    assert (report["fleet"], [each["name"] for each in report["gateways"]]) == ("moongate", ["one", "two"])
    assert urls == tuple(f"http://127.0.0.1:{port}" for port in ports.values())
    assert programmed == ["True", "True"]


@pytest.mark.envoy
async def test_merged_gateways_are_served_on_while_the_settings_of_their_class_are_gone() -> None:
    """What is deleted is still named by the class, so their statuses say that they are served as before."""
    ports = {"one": free_port(), "two": free_port()}
    async with Laptop(config=EnvoyGateway()) as laptop:
        await laptop.apply(merged(ports))
        (before,) = laptop.report()["gateways"]
        await laptop.delete(Ref.of(EnvoyProxy, "default", "merging"))
        (after,) = laptop.report()["gateways"]
        rejected = laptop.statuses.document(Ref.of(Gateway, "default", "one"))
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            answers = [await client.get(f"http://127.0.0.1:{port}/") for port in ports.values()]

        await laptop.apply(GATEWAY_CLASS.replace("name: eg", "name: moongate"))
        apart = [report["fleet"] for report in laptop.report()["gateways"]]

    assert (after["fleet"], after["envoy"]["pid"]) == ("moongate", before["envoy"]["pid"])
    assert "the Gateway is served as it was before" in str(rejected)
    assert [answer.status_code for answer in answers] == [302, 302]
    assert apart == ["default/one", "default/two"]
