from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from moongate import translate
from moongate.cli.quickstart import manifests
from tests.cli.conftest import Command
from tests.cli.process import Moongate, left_in
from tests.deadline import DEADLINE_S
from tests.ports import free_port


@pytest.mark.envoy
@pytest.mark.slow
async def test_what_it_prints_works_and_nothing_stays(tmp_path: Path) -> None:
    """The calls are pasted by people who see moongate for the first time."""
    port = free_port()
    async with (
        Moongate("quickstart", "--port", port, "--run-dir", tmp_path) as running,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        output = await running.says("Press Ctrl-C to stop")
        calls = [
            shlex.split(line, comments=True) for line in re.findall(r"^    (curl .*)$", output, re.MULTILINE)
        ]
        answers = [await client.get(words[-1]) for words in calls]

        assert [answer.status_code for answer in answers] == [200, 200, 200, 302]
        assert answers[0].json()["upstream"] == "apple"
        assert (answers[1].json()["upstream"], answers[1].json()["path"]) == ("banana", "/split")
        assert answers[3].headers["location"] == f"http://localhost:{port}/banana/new"
        assert listening_at(port) == {"127.0.0.1"}
        assert await running.ended_by(signal.SIGINT) == 0

    assert left_in(tmp_path) == []


@pytest.mark.envoy
@pytest.mark.slow
async def test_status_shows_it_while_it_runs(tmp_path: Path) -> None:
    """The command that it prints, the real socket and the real report: the tables have what they need."""
    async with Moongate("quickstart", "--port", free_port(), "--run-dir", tmp_path) as running:
        said = await running.says("Press Ctrl-C to stop")
        printed = re.search(r"^    (\S*python\S* -m moongate status.*)$", said, re.MULTILINE)
        assert printed is not None
        words = shlex.split(printed[1], comments=True)
        asked = await asyncio.create_subprocess_exec(*words, "-o", "json", stdout=asyncio.subprocess.PIPE)
        out, _ = await asked.communicate()

        report = json.loads(out)
        assert asked.returncode == 0
        assert {one["kind"] for one in report["resources"]} >= {"Gateway", "HTTPRoute"}
        assert all("spec" in one for one in report["resources"])


def test_what_it_serves_has_no_fault() -> None:
    translation = translate(yaml.safe_load_all(manifests(8080, 3000, 3001)))

    conditions = [c for one in translation.status for c in json_conditions(one["status"])]
    assert translation.problems == ()
    assert {c["status"] for c in conditions} == {"True"}


@pytest.mark.envoy
@pytest.mark.slow
async def test_it_is_opened_to_the_network_when_asked(tmp_path: Path) -> None:
    port = free_port()
    async with Moongate("quickstart", "--bind", "0.0.0.0", "--port", port, "--run-dir", tmp_path) as running:
        await running.says("Press Ctrl-C to stop")

        assert listening_at(port) == {"0.0.0.0"}


@pytest.mark.parametrize("bind", ["localhost", "0.0.0.0", "::1"])
def test_a_port_that_is_taken_is_reported(command: Command, bind: str) -> None:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.create_server((bind, 0), family=family) as taken:
        ended = command("quickstart", "--bind", bind, "--port", taken.getsockname()[1])

    assert ended.code == 1
    assert "is taken" in ended.err
    assert "--port" in ended.err
    assert ended.err.count("\n") == 1


def test_an_address_to_listen_on_must_be_one(command: Command) -> None:
    ended = command("quickstart", "--bind", "here")

    assert ended.code == 2
    assert "The address is 'here'" in ended.err


def listening_at(port: int) -> set[str]:
    """The addresses at which somebody listens on a port."""
    connections = psutil.net_connections("tcp")
    return {
        c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
    }


def json_conditions(status: object) -> list[dict[str, str]]:
    """All conditions in a status."""
    inside: list[Any]
    match status:
        case {"type": str(), "status": str()}:
            return [status]  # pyright: ignore[reportReturnType]
        case dict():
            inside = list(status.values())  # pyright: ignore[reportUnknownArgumentType]
        case list() | tuple():
            inside = list(status)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            inside = []
    return [condition for value in inside for condition in json_conditions(value)]
