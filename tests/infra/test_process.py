# grpc-stubs leave the types of a handler open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import weakref
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import httpx
import psutil
import pytest
import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.infra.ending import TERM_WAIT_S
from moongate.infra.process import EnvoyFailedError, State
from moongate.infra.rundir import RunDirectory
from tests.deadline import DEADLINE_S
from tests.infra.conftest import (
    HeldBackend,
    add_backend,
    envoy,
    let_go_when_refused,
    listener,
    standalone,
)
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator

    from moongate.infra.process import EnvoyProcess

pytestmark = pytest.mark.envoy


async def test_an_envoy_becomes_ready_and_leaves_nothing_behind(run: RunDirectory) -> None:
    """Neither a process, nor a file, nor a socket."""
    async with envoy(run) as process:
        await process.ready()
        pid = process.pid

        assert pid is not None
        assert psutil.Process(pid).name() == "envoy"

    assert process.state is State.STOPPED
    assert not psutil.pid_exists(pid)
    assert list(run.path.iterdir()) == []


async def test_an_envoy_is_ready_only_when_its_control_plane_has_answered(run: RunDirectory) -> None:
    """Until then it would serve nothing, or worse, the wrong thing."""
    answer = asyncio.Event()

    async def stream(
        requests: AsyncIterator[DeltaDiscoveryRequest], _context: object
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        async for request in requests:
            if not request.response_nonce:
                await answer.wait()
                yield DeltaDiscoveryResponse(type_url=request.type_url, nonce="1")

    handler = grpc.stream_stream_rpc_method_handler(
        stream, DeltaDiscoveryRequest.FromString, DeltaDiscoveryResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "envoy.service.discovery.v3.AggregatedDiscoveryService", {"DeltaAggregatedResources": handler}
            )
        ]
    )
    files = run.envoy("default/eg")
    server.add_insecure_port(f"unix:{files.xds}")
    await server.start()
    made = bootstrap("default/eg", "n", xds_socket=files.xds, admin_socket=files.admin)
    try:
        async with envoy(run, made) as process:
            await _admin_answers(run)

            assert process.state is State.STARTING

            answer.set()
            await process.ready()
    finally:
        await server.stop(None)


@pytest.mark.slow
async def test_a_killed_envoy_is_started_again(run: RunDirectory) -> None:
    async with envoy(run) as process:
        for killed in (1, 2):
            await process.ready()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            await process.until(lambda killed=killed: process.restarts == killed)
            await process.until(lambda: process.state is State.READY)

    assert process.restarts == 2


@pytest.mark.slow
async def test_an_envoy_that_does_not_take_its_new_arguments_is_started_again_with_the_former(
    run: RunDirectory,
) -> None:
    """Who edits arguments does not see that they are wrong before the next crash, which may be at night."""
    async with envoy(run) as process:
        await process.ready()
        await process.configure(EnvoyOptions(concurrency=1, extra_args=("--no-such-flag",)))
        assert "--no-such-flag" in process.arguments_error
        assert process.state is State.READY

        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.until(lambda: process.restarts == 1 and process.state is State.READY)
        assert "--no-such-flag" in process.arguments_error

        await process.configure(EnvoyOptions(concurrency=1, extra_args=("--service-node", "x")))
        assert process.arguments_error == ""


@pytest.mark.slow
async def test_arguments_that_envoy_takes_only_on_trial_are_given_up_at_its_start(run: RunDirectory) -> None:
    """With ``--version`` it prints that and ends, whatever else it is asked for."""
    async with envoy(run) as process:
        await process.ready()
        await process.configure(EnvoyOptions(concurrency=1, extra_args=("--version",)))
        assert process.arguments_error == ""

        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.until(lambda: process.restarts == 1 and process.state is State.READY)

    assert process.arguments_error


@pytest.mark.slow
async def test_another_bootstrap_does_not_wait_for_arguments_that_envoy_takes(run: RunDirectory) -> None:
    """It ran, with other arguments: an edit of both at once must not end it."""
    async with envoy(run) as process:
        await process.ready()
        first = process.pid
        process.take(EnvoyOptions(concurrency=1, extra_args=("--no-such-flag",)))
        await process.renew(standalone(run, "default/eg", listener(free_port())))
        await process.until(lambda: process.pid not in {None, first} and process.state is State.READY)

        assert "--no-such-flag" in process.arguments_error
        assert process.bootstrap_error == ""


async def test_bootstraps_that_follow_each_other_are_tried_one_after_another(run: RunDirectory) -> None:
    """The file of one must not leave with the other."""
    async with envoy(run) as process:
        await process.ready()
        wanted = [standalone(run, "default/eg", listener(free_port())) for _ in range(4)]

        await asyncio.gather(*map(process.renew, wanted))

        assert process.bootstrap_error == ""


async def test_an_envoy_that_cannot_be_started_is_reported_in_its_own_words(run: RunDirectory) -> None:
    """It is tried again, for which other options need no pause."""
    async with envoy(run, extra_args=("--no-such-flag",), first_pause_s=3600) as process:
        with pytest.raises(EnvoyFailedError, match="--no-such-flag"):
            await process.ready()

        assert process.state is State.FAILED
        assert "--no-such-flag" in process.start_error
        assert not process.unusable, "other options would do"

        await process.configure(EnvoyOptions(concurrency=1))
        await process.until(lambda: process.state is State.READY)

        assert process.start_error == ""


async def test_an_envoy_that_ends_well_without_having_served_is_in_trouble_too(run: RunDirectory) -> None:
    """Nothing failed, and yet nothing is served."""
    async with envoy(run, extra_args=("--version",), first_pause_s=3600) as process:
        with pytest.raises(EnvoyFailedError, match="status 0"):
            await process.ready()


@pytest.mark.parametrize("argument", ["a\0b", "x" * 3_000_000])
async def test_an_argument_that_no_process_takes_is_the_trouble_of_its_envoy(
    run: RunDirectory, argument: str
) -> None:
    """The kernel or Python refuses it before there is an Envoy; whoever runs this has others."""
    async with envoy(run, extra_args=(argument,), first_pause_s=3600) as process:
        with pytest.raises(EnvoyFailedError, match=r"null byte|too long"):
            await process.ready()


async def test_an_envoy_is_started_once_its_files_can_be_written(run: RunDirectory) -> None:
    """A folder that somebody cleaned, a full disk: it is tried again."""
    elsewhere = run.path.with_name("elsewhere")
    run.path.rename(elsewhere)
    async with envoy(run) as process:
        with pytest.raises(EnvoyFailedError, match="No such file or directory"):
            await process.ready()

        elsewhere.rename(run.path)
        await process.until(lambda: process.state is State.READY)


async def test_an_envoy_is_started_once_what_it_needs_is_there(run: RunDirectory) -> None:
    """Its control plane may not be able to listen at first."""
    refusals = ["The address cannot be listened on."]

    @asynccontextmanager
    async def beside() -> AsyncGenerator[None]:
        if refusals:
            raise OSError(refusals.pop())
        yield

    async with envoy(run, beside=beside) as process:
        with pytest.raises(EnvoyFailedError, match="cannot be listened on"):
            await process.ready()

        await process.until(lambda: process.state is State.READY)


async def test_an_envoy_that_has_ended_is_no_circle_of_garbage(run: RunDirectory) -> None:
    """What it needs may know its process. While both live, they may be excluded from garbage collection."""

    async def runs_once() -> weakref.ref[EnvoyProcess]:
        @asynccontextmanager
        async def beside() -> AsyncGenerator[None]:
            assert process.state is State.STARTING
            yield

        process = envoy(run, beside=beside)
        async with process:
            await process.ready()
        return weakref.ref(process)

    gc.disable()
    try:
        ended = await runs_once()
        await asyncio.sleep(0)  # its callbacks are run

        assert ended() is None
    finally:
        gc.enable()


@pytest.mark.slow
async def test_other_options_hold_from_the_next_start(run: RunDirectory) -> None:
    """Also those that Envoy would take at once, if it has just ended."""
    async with envoy(run) as process:
        await process.ready()
        first = process.pid
        assert first is not None
        await process.configure(EnvoyOptions(concurrency=2, log_levels={"http": "info"}))

        os.kill(first, signal.SIGKILL)
        await process.until(lambda: process.pid not in {None, first} and process.state is State.READY)

        assert process.pid is not None
        command = psutil.Process(process.pid).cmdline()
    assert command[command.index("--concurrency") + 1] == "2"
    assert command[command.index("--component-log-level") + 1] == "http:info"


async def test_options_that_envoy_refuses_are_not_kept(run: RunDirectory) -> None:
    """It could not be started again with them."""
    async with envoy(run) as process:
        await process.ready()
        first = process.pid
        assert first is not None
        with pytest.raises(httpx.HTTPStatusError):
            await process.configure(EnvoyOptions(concurrency=1, log_levels={"nosuch": "info"}))

        os.kill(first, signal.SIGKILL)
        await process.until(lambda: process.pid not in {None, first} and process.state is State.READY)

    assert process.restarts == 1


async def test_several_envoys_run_side_by_side(run: RunDirectory) -> None:
    async with envoy(run, gateway="default/a") as a, envoy(run, gateway="default/b") as b:
        await a.ready()
        await b.ready()

        assert a.pid != b.pid


async def test_a_request_in_flight_is_answered_before_the_end(run: RunDirectory) -> None:
    """While new connections are refused already."""
    async with (
        slow(run) as (process, backend, url),
        asyncio.TaskGroup() as tasks,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        async with process:
            await process.ready()
            request = tasks.create_task(client.get(url))
            await backend.asked.wait()
            tasks.create_task(let_go_when_refused(httpx.URL(url).port or 0, backend))

        assert (await request).text == "done"


async def test_a_hurried_end_waits_for_nobody(run: RunDirectory) -> None:
    """The second Ctrl-C."""
    async with slow(run) as (process, backend, url), asyncio.TaskGroup() as tasks, process:
        await process.ready()
        tasks.create_task(_cut_off(url))
        await backend.asked.wait()
        process.skip_drain()


async def test_a_hurried_end_does_not_wait_for_an_envoy_that_is_suspended(run: RunDirectory) -> None:
    """It answers nothing, and ends by no signal but SIGKILL."""
    with structlog.testing.capture_logs() as events:
        async with asyncio.timeout(DEADLINE_S), envoy(run, drain_s=3600) as process:
            await process.ready()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(0.1, process.skip_drain)

    (killed,) = (event for event in events if event["event"] == "envoy.killed")
    assert killed["after_s"] < TERM_WAIT_S


async def test_a_cancelled_drain_leaves_no_process(run: RunDirectory) -> None:
    """Whoever loses patience with us must not be left with an Envoy."""
    pids: list[int | None] = []

    async with slow(run) as (process, backend, url), asyncio.TaskGroup() as tasks:

        async def serve() -> None:
            async with process:
                await process.ready()
                pids.append(process.pid)
                await asyncio.Event().wait()

        serving = tasks.create_task(serve())
        await process.ready()
        tasks.create_task(_cut_off(url))
        await backend.asked.wait()
        serving.cancel()
        await process.until(lambda: process.state is State.DRAINING)
        serving.cancel()

    (pid,) = pids
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert list(run.path.iterdir()) == []


async def test_envoys_log_is_part_of_ours(run: RunDirectory) -> None:
    """With its level and its component, and whose Envoy said it."""
    with structlog.testing.capture_logs() as events:
        async with envoy(run, extra_args=("--log-level", "info")) as process:
            await process.ready()

    assert {
        "event": "envoy.log",
        "log_level": "info",
        "gateway": "default/eg",
        "component": "main",
        "message": "starting main dispatch loop",
    } in events


async def test_what_envoy_writes_to_standard_output_is_handed_on(run: RunDirectory) -> None:
    port = free_port()
    lines: list[bytes] = []
    async with envoy(run, standalone(run, "default/eg", listener(port)), access_log=lines.append) as process:
        await process.ready()
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            await client.get(f"http://127.0.0.1:{port}/")

    assert b"".join(lines) == b'{"method":"GET","response_code":200,"route_name":"here"}\n'


@pytest.mark.slow
def test_no_envoy_outlives_a_killed_moongate(base: Path) -> None:
    """Not even kill -9, which leaves no time to clean; what is left is swept by the next start."""
    with moongate(base) as (parent, pid):
        # Readable when the process has ended, though init may take its time to collect it.
        child = os.pidfd_open(pid)
        ended = select.poll()
        ended.register(child, select.POLLIN)

        parent.kill()

        assert ended.poll(1000 * DEADLINE_S), "Envoy lives on"
        os.close(child)

    left = [path for path in base.iterdir() if any(path.iterdir())]
    assert len(left) == 1, "the dead run's folder is still there"
    with RunDirectory(base):
        assert not left[0].exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_cleanly(base: Path, number: signal.Signals) -> None:
    with moongate(base) as (parent, pid):
        parent.send_signal(number)
        parent.wait(DEADLINE_S)

        assert not psutil.pid_exists(pid)
        assert not base.exists()


PARENT = textwrap.dedent("""
    import asyncio, signal, sys
    from pathlib import Path
    import structlog
    from moongate.infra.rundir import RunDirectory
    from tests.infra.conftest import envoy

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def main():
        end = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        with RunDirectory(Path(sys.argv[1])) as run:
            async with envoy(run) as process:
                await process.ready()
                print(process.pid, flush=True)
                await end.wait()

    asyncio.run(main())
""")


@contextmanager
def moongate(base: Path) -> Generator[tuple[subprocess.Popen[str], int]]:
    """A process that runs an Envoy, and the Envoy's process id; the latter is ready."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(base)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        try:
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


async def _admin_answers(run: RunDirectory) -> None:
    """Return when the admin socket is there, whatever it answers."""
    transport = httpx.AsyncHTTPTransport(uds=str(run.envoy("default/eg").admin))
    async with httpx.AsyncClient(transport=transport, timeout=DEADLINE_S) as client:
        while True:
            try:
                answer = await client.get("http://envoy/ready")
            except httpx.TransportError:
                await asyncio.sleep(0.01)
            else:
                assert answer.status_code == 503
                return


@asynccontextmanager
async def slow(run: RunDirectory) -> AsyncGenerator[tuple[EnvoyProcess, HeldBackend, str]]:
    """An Envoy that drains for ever, a backend that answers when it is let go, a URL to there."""
    port = free_port()
    async with HeldBackend().serving() as backend:
        made = standalone(run, "default/eg", listener(port, backend.port))
        add_backend(made, backend.port)
        try:
            yield envoy(run, made, drain_s=3600), backend, f"http://127.0.0.1:{port}/slow"
        finally:
            backend.let_go.set()


async def _cut_off(url: str) -> None:
    """A request that gets no answer."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        with pytest.raises(httpx.HTTPError):
            await client.get(url)
