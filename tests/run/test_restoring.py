from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import structlog

from moongate.infra.rundir import RunDirectory
from moongate.run import restoring
from tests.ads.laptop import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


@asynccontextmanager
async def restored(run: RunDirectory) -> AsyncGenerator[Path]:
    """A file in the folder of a run, which is restored."""
    path = run.path / "x"

    @asynccontextmanager
    async def opened() -> AsyncGenerator[None]:
        path.touch()
        yield

    async with run.standing(path, opened), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(restoring.restoring(run))
        yield path
        task.cancel()


async def test_a_file_or_its_folder_that_is_removed_is_there_again(folder: Path) -> None:
    """As often as it happens, and with a lock, so that the next moongate does not sweep it."""
    with RunDirectory(folder / "r") as run:
        async with restored(run) as path:
            for _ in range(2):
                path.unlink()
                await until(path.exists)
                shutil.rmtree(folder / "r")
                await until(path.exists)

            with RunDirectory(folder / "r") as other:
                assert path.exists()
                assert other.path != run.path


async def test_a_folder_in_which_others_can_write_is_reported_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used again when only we can."""
    monkeypatch.setattr(restoring, "LOOK_AGAIN_S", 0.01)
    with RunDirectory(folder / "r") as run, structlog.testing.capture_logs() as events:
        async with restored(run) as path:
            run.path.chmod(0o777)
            await until(lambda: events)
            path.unlink()
            run.path.chmod(0o700)
            await until(path.exists)

    (lost, again) = events
    assert (lost["event"], again["event"]) == ("run.lost", "run.restored")
    assert "mode 777" in lost["message"]
    assert "go on serving" in lost["message"]


async def test_a_base_that_cannot_be_written_is_left_at_the_end(folder: Path) -> None:
    """The end of a run is no time for an error."""
    with RunDirectory(folder / "r") as run:
        run.path.parent.chmod(0o777)

    assert run.path.exists()
