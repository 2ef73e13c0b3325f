from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.process import Moongate, left_in
from tests.ports import free_port


def test_where_nothing_runs_nothing_is_ended(command: Command, tmp_path: Path) -> None:
    ended = command("stop", "--run-dir", tmp_path)

    assert ended.code == 1
    assert "No moongate is running" in ended.err


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.parametrize("named", ["the base", "the run"])
async def test_a_run_is_ended_as_by_ctrl_c(command: Command, tmp_path: Path, named: str) -> None:
    async with Moongate("run", "--to", "localhost:1", "--port", free_port(), "--run-dir", tmp_path) as run:
        await run.says("gateway.serving")
        [folder] = left_in(tmp_path)

        ended = command("stop", "--run-dir", tmp_path if named == "the base" else tmp_path / folder)

        assert (ended.code, ended.out) == (0, f"moongate (process {run.process.pid}) has ended.\n")
        assert await run.process.wait() == 0
    assert left_in(tmp_path) == []
