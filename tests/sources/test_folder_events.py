from __future__ import annotations

import asyncio
import errno
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asyncinotify import Inotify

from moongate.sources.folder_events import FolderEvents


def replace_at_once(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replace_by_another(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    folder.rename(folder.with_name("former"))
    other.rename(folder)


async def test_what_happens_within_a_moment_is_one_burst(tmp_path: Path) -> None:
    with FolderEvents({str(tmp_path): True}) as events:
        for name in ("a", "b"):
            (tmp_path / name).touch()

        assert set(await events.burst(None)) == {str(tmp_path / "a"), str(tmp_path / "b")}
        assert not events.stale


async def test_patience_ends_without_news(tmp_path: Path) -> None:
    with FolderEvents({str(tmp_path): True}) as events:
        assert await events.burst(0.01) == []


async def test_what_happens_while_the_event_loop_is_held_up_for_longer_than_patience_is_heard(
    tmp_path: Path,
) -> None:
    with FolderEvents({str(tmp_path): True}) as events:
        async with asyncio.TaskGroup() as tasks:
            burst = tasks.create_task(events.burst(0.02))
            await asyncio.sleep(0)
            (tmp_path / "a").touch()
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to be held up

        assert burst.result() == [str(tmp_path / "a")]


async def test_what_is_written_to_a_file_that_does_not_matter_is_no_news(tmp_path: Path) -> None:
    """Such as to a log in a folder of manifests. That it comes or goes is news, as it may be a folder."""
    log, other = tmp_path / "log", tmp_path / "other"
    log.touch()
    with FolderEvents({str(tmp_path): True}, matters=lambda path: path != str(log)) as events:
        log.write_text("line")
        log.chmod(0o600)
        assert await events.burst(0.01) == []

        log.write_text("another line")
        other.write_text("news")
        assert await events.burst(None) == [str(other)]

        log.unlink()
        assert await events.burst(None) == [str(log)]


async def test_news_behind_thousands_of_events_that_do_not_matter_are_heard(tmp_path: Path) -> None:
    """Two logs that are written in turns make an event for each line."""
    other = tmp_path / "other"
    with (
        (tmp_path / "1").open("wb", buffering=0) as first,
        (tmp_path / "2").open("wb", buffering=0) as second,
        FolderEvents({str(tmp_path): True}, matters=lambda path: path == str(other)) as events,
    ):
        for _ in range(1000):
            first.write(b"line")
            second.write(b"line")
        other.touch()

        assert await events.burst(None) == [str(other)]


async def test_of_a_folder_in_which_no_file_is_read_only_comings_and_goings_are_news(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with FolderEvents({str(tmp_path): False}) as events:
        (tmp_path / "a").write_text("text")
        assert await events.burst(0.01) == []

        (tmp_path / "b").touch()
        assert str(tmp_path / "b") in await events.burst(None)


@pytest.mark.parametrize("read", [True, False])
def test_a_log_that_is_written_all_the_time_hardly_wakes_the_event_loop(tmp_path: Path, read: bool) -> None:
    """Each line of an access log would wake it, thousands of times a second."""
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)

    async def listen() -> int:
        with FolderEvents({str(tmp_path): True}, matters=lambda _path: read) as events:
            selector.times = 0
            await events.burst(0.1)
            return selector.times

    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(["/bin/sh", "-c", "while :; do echo line; done"], stdout=log) as writer,
    ):
        try:
            while not log.tell():
                log.seek(0, os.SEEK_END)
            waits = loop.run_until_complete(listen())
        finally:
            writer.kill()
            loop.close()

    assert waits < 100


@pytest.mark.parametrize("replace", [replace_at_once, replace_by_another])
async def test_the_watch_of_a_folder_that_is_replaced_is_stale(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    """Its path has another folder, or even the same inode again, and the watch hears nothing of it."""
    folder = tmp_path / "m"
    folder.mkdir()
    with FolderEvents({str(folder): True}) as events:
        replace(folder)
        await events.burst(None)

        assert events.stale


async def test_a_file_that_is_closed_before_the_watches_are_renewed_is_not_being_written(
    tmp_path: Path,
) -> None:
    """Only the watches before have seen its end; without it the file would be read seconds later."""
    writing: dict[str, None] = {}
    path = tmp_path / "a"
    with FolderEvents({str(tmp_path): True}, writing) as events:
        with path.open("w") as file:
            file.write("half")
            file.flush()
            await events.burst(None)
            assert list(writing) == [str(path)]
        (tmp_path / "sub").mkdir()
        events.watch({str(tmp_path): True, str(tmp_path / "sub"): True})

        assert not writing
        (tmp_path / "sub" / "b").touch()
        assert str(tmp_path / "sub" / "b") in await events.burst(None)


async def test_watches_that_are_renewed_are_not_stale_because_of_what_was_before(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    with FolderEvents({str(folder): True}) as events:
        replace_by_another(folder)
        events.watch({str(folder): True})

        assert not events.stale
        (folder / "a").touch()
        assert str(folder / "a") in await events.burst(None)
        assert not events.stale


async def test_a_folder_that_went_before_it_was_watched_is_stale(tmp_path: Path) -> None:
    with FolderEvents({str(tmp_path / "gone"): True}) as events:
        assert events.stale


async def test_folders_beyond_the_limit_of_the_kernel_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of the user, so other programs may have used it up; those below it are heard."""
    limit(monkeypatch, lambda path: path.endswith("b"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with FolderEvents({str(tmp_path / "a"): True, str(tmp_path / "b"): True}) as events:
        (tmp_path / "a" / "new").touch()

        assert await events.burst(None) == [str(tmp_path / "a" / "new")]
        assert events.unheard == (str(tmp_path / "b"),)
        assert events.limit == "fs.inotify.max_user_watches"


async def test_without_any_watch_there_is_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Inotify, **_options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Inotify, "__init__", refuse)
    with FolderEvents({str(tmp_path): True}) as events:
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


class CountingSelector(selectors.DefaultSelector):
    """Counts how often an event loop waits."""

    times = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.times += 1
        return super().select(timeout)
