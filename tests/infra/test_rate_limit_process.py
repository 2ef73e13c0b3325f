from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import msgspec
import psutil
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from structlog.testing import capture_logs

from moongate.ads.sotw import SotwServer
from moongate.infra.process import State
from moongate.infra.rate_limit_process import RateLimitProcess
from moongate.infra.rundir import ServiceFiles
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.service import answered
from moongate.rate_limits.settings import Redis, Settings
from moongate.rate_limits.subscription import NODE
from moongate.xds.wire import RATE_LIMIT_CONFIG, encode
from tests.deadline import DEADLINE_S
from tests.rate_limits.configs import ASK, config, descriptor, level, request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

pytestmark = pytest.mark.slow

ANNE = request(descriptor(("user", "anne")))


async def _at_once() -> None:
    pass


@asynccontextmanager
async def serving(
    folder: Path, redis: str = "", answered: Callable[[], Coroutine[Any, Any, None]] = _at_once
) -> AsyncGenerator[RateLimitProcess]:
    """A process with one limit, whose socket is ``folder/limits.sock``; it has the configuration."""
    server, address = SotwServer(RATE_LIMIT_CONFIG, NODE), f"unix:{folder}/xds.sock"
    server.publish({"shop": encode(config(level("user", limit=(2, "YEAR"))))})
    settings = Settings(
        configuration=address,
        redis=Redis(address=redis_address(redis)) if redis else None,
    )
    process = RateLimitProcess(msgspec.json.encode(settings), ServiceFiles.of(folder), answered=answered)
    async with server.listen(address), process:
        await process.ready()
        await server.settled()
        yield process


async def codes(folder: Path, count: int = 3) -> list[int]:
    """What some equal requests are answered with."""
    async with grpc.aio.insecure_channel(f"unix:{folder}/limits.sock") as channel:
        ask = channel.unary_unary(
            ASK,
            encode,
            RateLimitResponse.FromString,
        )
        return [(await ask(ANNE)).overall_code for _ in range(count)]


async def test_it_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as process:
        pid, answers = process.pid, await codes(tmp_path)
        mode = (tmp_path / "limits.sock").stat().st_mode

    assert answers == [RateLimitResponse.OK, RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]
    assert mode & 0o777 == 0o600
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert process.state is State.STOPPED


async def test_it_is_started_again_when_it_dies(tmp_path: Path) -> None:
    """It counts from the beginning then, as its counts were in its memory."""
    async with serving(tmp_path) as process:
        await codes(tmp_path)
        before = process.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        while process.restarts == 0:  # noqa: ASYNC110 - the process has no event for a test
            await asyncio.sleep(0.01)
        await process.ready()

        assert process.pid != before
        assert (await codes(tmp_path))[0] == RateLimitResponse.OK


async def test_one_that_does_not_answer_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request would wait for it. One that answers goes on."""
    monkeypatch.setattr("moongate.infra.rate_limit_process.ASKED_EVERY_S", 0.05)
    asked = asyncio.Event()

    async def answers() -> None:
        await answered(f"unix:{tmp_path}/limits.sock")
        asked.set()

    with capture_logs() as log:
        async with serving(tmp_path, answered=answers) as process, asyncio.timeout(DEADLINE_S):
            before = process.pid
            assert before is not None
            for _ in range(3):
                asked.clear()
                await asked.wait()
            assert (process.restarts, process.pid, process.last_end) == (0, before, "")

            monkeypatch.setattr("moongate.infra.rate_limit_process.SILENT_S", 1.0)
            os.kill(before, signal.SIGSTOP)
            while process.restarts == 0:  # noqa: ASYNC110 - the process has no event for a test
                await asyncio.sleep(0.01)
            monkeypatch.undo()
            await process.ready()

            assert (await codes(tmp_path))[0] == RateLimitResponse.OK
            assert not psutil.pid_exists(before)
            why = process.last_end

    assert why == "It is stopped, has not answered for 1 s, and was killed."
    assert [each["message"] for each in log if each["event"] == "rate_limits.ended"] == [why]


async def test_one_that_is_stopped_before_it_serves_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would notice: it never says that it serves."""
    monkeypatch.setattr("moongate.infra.rate_limit_process.STARTED_WITHIN_S", 1.0)
    server, address = SotwServer(RATE_LIMIT_CONFIG, NODE), f"unix:{tmp_path}/xds.sock"
    server.publish({"shop": encode(config(level("user", limit=(2, "YEAR"))))})
    settings = msgspec.json.encode(Settings(configuration=address))
    ask = partial(answered, f"unix:{tmp_path}/limits.sock")
    process = RateLimitProcess(settings, ServiceFiles.of(tmp_path), answered=ask)
    async with server.listen(address), process, asyncio.timeout(DEADLINE_S):
        while process.pid is None:  # noqa: ASYNC110 - the process has no event for a test
            await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGSTOP)
        while process.restarts == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        monkeypatch.undo()
        await process.ready()

        assert (await codes(tmp_path))[0] == RateLimitResponse.OK
        assert process.last_end == "It is stopped, has not answered for 1 s, and was killed."


async def test_a_password_is_neither_in_its_arguments_nor_in_the_log(tmp_path: Path) -> None:
    with capture_logs() as log:
        async with serving(tmp_path, "redis://anne:secret@127.0.0.1:1") as process:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await codes(tmp_path)
            words = psutil.Process(process.pid).cmdline()
            variables = psutil.Process(process.pid).environ()

    assert "secret" not in f"{words} {variables} {error.value} {log}"
    assert "rate_limits.redis_lost" in {entry["event"] for entry in log}


async def test_modules_in_the_working_directory_are_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have a ``redis.py`` of his own where he starts moongate."""
    (tmp_path / "grpc.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    async with serving(tmp_path):
        assert len(await codes(tmp_path)) == 3


@pytest.mark.parametrize("stopped", [False, True])
async def test_it_ends_with_moongate_however_that_ends(tmp_path: Path, stopped: bool) -> None:
    """An orphan would keep the memory, and its socket. Also one that hangs must not stay."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from moongate.report.logs import configure
        from tests.infra.test_rate_limit_process import serving

        async def main():
            async with serving(Path(sys.argv[1])) as process:
                print(process.pid, flush=True)
                await asyncio.sleep(600)

        configure()
        asyncio.run(main())
        """
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(  # noqa: ASYNC220 - it is ended by a signal, and asyncio would wait for it
        command, stdout=subprocess.PIPE, env=environment, cwd=root
    ) as moongate:
        assert moongate.stdout is not None
        service = psutil.Process(int(await asyncio.to_thread(moongate.stdout.readline)))
        if stopped:
            service.suspend()
        moongate.kill()
        await asyncio.to_thread(service.wait, 20)

    assert not service.is_running()
