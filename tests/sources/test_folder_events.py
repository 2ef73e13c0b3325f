from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from asyncinotify import Inotify

from moongate.sources.folder_events import FolderEvents


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(10):
        yield


def replace_at_once(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replace_by_another(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    folder.rename(folder.with_name("former"))
    other.rename(folder)


async def test_what_happens_within_a_moment_is_one_burst(tmp_path: Path) -> None:
    with FolderEvents([str(tmp_path)]) as events:
        for name in ("a", "b"):
            (tmp_path / name).touch()

        assert set(await events.burst(None)) == {str(tmp_path / "a"), str(tmp_path / "b")}
        assert not events.stale


async def test_patience_ends_without_news(tmp_path: Path) -> None:
    with FolderEvents([str(tmp_path)]) as events:
        assert await events.burst(0.01) == []


@pytest.mark.parametrize("replace", [replace_at_once, replace_by_another])
async def test_the_watch_of_a_folder_that_is_replaced_is_stale(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    """Its path has another folder, or even the same inode again, and the watch hears nothing of it."""
    folder = tmp_path / "m"
    folder.mkdir()
    with FolderEvents([str(folder)]) as events:
        replace(folder)
        await events.burst(None)

        assert events.stale


async def test_a_file_that_is_closed_before_the_watches_are_renewed_is_not_being_written(
    tmp_path: Path,
) -> None:
    """Only the watches before have seen its end; without it the file would be read seconds later."""
    writing: dict[str, None] = {}
    path = tmp_path / "a"
    with FolderEvents([str(tmp_path)], writing) as events:
        with path.open("w") as file:
            file.write("half")
            file.flush()
            await events.burst(None)
            assert list(writing) == [str(path)]
        (tmp_path / "sub").mkdir()
        events.watch([str(tmp_path), str(tmp_path / "sub")])

        assert not writing
        (tmp_path / "sub" / "b").touch()
        assert str(tmp_path / "sub" / "b") in await events.burst(None)


async def test_watches_that_are_renewed_are_not_stale_because_of_what_was_before(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    with FolderEvents([str(folder)]) as events:
        replace_by_another(folder)
        events.watch([str(folder)])

        assert not events.stale
        (folder / "a").touch()
        assert str(folder / "a") in await events.burst(None)
        assert not events.stale


async def test_a_folder_that_went_before_it_was_watched_is_stale(tmp_path: Path) -> None:
    with FolderEvents([str(tmp_path / "gone")]) as events:
        assert events.stale


async def test_folders_beyond_the_limit_of_the_kernel_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of the user, so other programs may have used it up; those below it are heard."""
    limit(monkeypatch, lambda path: path.endswith("b"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with FolderEvents([str(tmp_path / "a"), str(tmp_path / "b")]) as events:
        (tmp_path / "a" / "new").touch()

        assert await events.burst(None) == [str(tmp_path / "a" / "new")]
        assert events.unheard == (str(tmp_path / "b"),)
        assert events.limit == "fs.inotify.max_user_watches"


async def test_without_any_watch_there_is_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Inotify, **_options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Inotify, "__init__", refuse)
    with FolderEvents([str(tmp_path)]) as events:
        assert await events.burst(0.01) == []
        assert events.unheard == (str(tmp_path),)
        assert events.limit == "fs.inotify.max_user_instances"


def limit(monkeypatch: pytest.MonkeyPatch, beyond: Callable[[str], bool]) -> None:
    """Let the kernel refuse to watch some folders."""
    add_watch = Inotify.add_watch  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]

    def limited(inotify: Inotify, path: str, mask: object) -> object:
        if beyond(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add_watch(inotify, path, mask)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]

    monkeypatch.setattr(Inotify, "add_watch", limited)
