from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import pytest

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.core import Namespace
from moongate.api.httproute import HTTPRoute
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources import files, folder
from moongate.sources.files import Files, Loaded, load, watch
from moongate.sources.folder import STDIN
from moongate.sources.listing import Listing, list_paths
from moongate.sources.manifests import Document
from tests.deadline import DEADLINE_S
from tests.sources.manifests import backend, policy, route, stream
from tests.sources.test_folder_events import limit, replace_at_once, replace_by_another

A, B = Ref.of(Backend, "default", "a"), Ref.of(Backend, "default", "b")


def port(resource: Resource | None) -> int | None:
    if resource is None:
        return None
    assert isinstance(resource, Backend)
    endpoint = resource.spec.endpoints[0]
    assert endpoint.ip is not None
    return endpoint.ip.port


class Watching:
    """A watch, and what has come of it so far."""

    def __init__(self, news: AsyncGenerator[Loaded, None]) -> None:
        self._news = news
        self.resources: dict[Ref, Resource] = {}
        self.batches: list[dict[Ref, Resource | None]] = []
        self.last: Loaded | None = None

    @property
    def ports(self) -> dict[str, int | None]:
        return {ref.name: port(resource) for ref, resource in sorted(self.resources.items())}

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not claim():
                self.last = await anext(self._news)
                self.batches.append(dict(self.last.batch))
                for ref, new in self.last.batch.items():
                    if new is None:
                        self.resources.pop(ref, None)
                    else:
                        self.resources[ref] = new

    async def next(self) -> Loaded:
        count = len(self.batches)
        await self.until(lambda: len(self.batches) > count)
        assert self.last is not None
        return self.last


@asynccontextmanager
async def watching(*paths: Path | Files) -> AsyncGenerator[Watching]:
    news = (
        paths[0].watch()
        if isinstance(paths[0], Files)
        else watch(path for path in paths if isinstance(path, Path))
    )
    watched = Watching(news)
    try:
        await watched.next()
        yield watched
    finally:
        await news.aclose()


async def moved_over_a_standstill(folder: Path, standstill_s: float, pause_s: float) -> dict[str, int | None]:
    """The first other ports, where a Backend goes to another file while the process stands still.

    Args:
        folder: an empty one.
        standstill_s: how long the process stands still after the Backend is gone.
        pause_s: how long it is awake before the Backend is there again, with another port.
    """
    for name in ("a", "c"):
        (folder / f"{name}.yaml").write_text(backend(name, 1))

    async with watching(folder) as watched, asyncio.TaskGroup() as tasks:
        tasks.create_task(watched.until(lambda: watched.ports != {"a": 1, "c": 1}))
        (folder / "a.yaml").unlink()
        await asyncio.sleep(2 * files.TICK)  # no event tells that the removal waits
        time.sleep(standstill_s)  # noqa: ASYNC251 - the process is to stand still
        if pause_s:
            await asyncio.sleep(pause_s)
        (folder / "b.yaml").write_text(backend("a", 2))
    return watched.ports


class TestLoad:
    def test_folders_are_read_through(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "deeper").mkdir(parents=True)
        (tmp_path / "a.yaml").write_text(backend("a"))
        (tmp_path / "sub" / "b.yml").write_text(backend("b"))
        (tmp_path / "sub" / "deeper" / "c.json").write_text(
            '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}'
        )
        (tmp_path / "README.md").write_text("not: [a manifest")

        loaded = load([tmp_path])

        assert set(loaded.batch) == {A, B, Ref.of(Namespace, "", "c")}
        assert loaded.diagnostics == ()

    @pytest.mark.parametrize("name", [".a.yaml", ".a.yaml.swp", "a.yaml~", "#a.yaml#", ".git/a.yaml"])
    def test_what_is_hidden_or_an_editors_is_not_read(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(backend("a"))

        assert load([tmp_path]).batch == {}

    def test_a_file_that_is_named_may_be_called_anything(self, tmp_path: Path) -> None:
        (tmp_path / "manifests.txt").write_text(backend("a"))

        assert set(load([tmp_path / "manifests.txt"]).batch) == {A}

    def test_a_file_that_is_named_twice_is_read_once(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a"))

        assert load([tmp_path / "a.yaml", tmp_path]).diagnostics == ()

    @pytest.mark.parametrize("order", [1, -1])
    def test_folders_may_overlap(self, tmp_path: Path, order: int) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.yaml").write_text(backend("a"))

        assert load([tmp_path, tmp_path / "sub"][::order]).diagnostics == ()

    def test_links_that_lead_up_do_not_lead_astray(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a"))
        (tmp_path / "up").symlink_to(tmp_path)

        assert set(load([tmp_path]).batch) == {A}

    def test_the_place_of_a_fault_is_reported_with_the_path_as_it_was_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "a.yaml").write_text(backend("a", "many"))
        monkeypatch.chdir(tmp_path)

        assert [str(load([path]).errors[0].place) for path in ("m", ".", "m/a.yaml")] == ["m/a.yaml:9:15"] * 3

    def test_a_path_that_does_not_exist_is_an_error(self, tmp_path: Path) -> None:
        (diagnostic,) = load([tmp_path / "nowhere"]).errors

        assert (
            str(diagnostic)
            == f"{tmp_path}/nowhere: There is no such file or folder; it is read as soon as there is."
        )

    def test_an_empty_folder_says_what_to_put_there(self, tmp_path: Path) -> None:
        (diagnostic,) = load([tmp_path]).diagnostics

        assert diagnostic.severity == "warning"
        assert str(diagnostic).startswith(
            f"{tmp_path}: The folder has no manifests, which are files that end in"
        )
        assert "moongate quickstart --show" in str(diagnostic)

    def test_a_file_that_is_no_utf8_is_reported_with_the_place(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")

        (diagnostic,) = load([tmp_path]).diagnostics

        assert str(diagnostic) == (
            f"{tmp_path}/a.yaml:2:4: The byte 0xff is not UTF-8; save the file as UTF-8. "
            "Nothing of this file is in force."
        )

    def test_a_byte_order_mark_is_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + backend("a").encode())

        assert set(load([tmp_path]).batch) == {A}

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a"))
        (tmp_path / "a.yaml").chmod(0)

        assert "permission denied" in str(load([tmp_path]).errors[0])

    def test_standard_input_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = stream(backend("a"), backend("b", "many"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

        loaded = load(["-"])

        assert set(loaded.batch) == {A}
        assert loaded.errors[0].place == (STDIN, 19, 15)

    def test_a_pipe_is_read(self, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        os.write(writing, backend("a").encode())
        os.close(writing)

        loaded = load([f"/dev/fd/{reading}"])
        os.close(reading)

        assert set(loaded.batch) == {A}


class TestWatch:
    async def test_an_edit_is_a_batch_of_what_it_changes(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(stream(backend("a", 1), backend("b", 1)))

        async with watching(tmp_path) as watched:
            (tmp_path / "a.yaml").write_text(stream(backend("a", 1), backend("b", 2)))
            loaded = await watched.next()

        assert set(loaded.batch) == {B}
        assert loaded.parsed == 1
        assert loaded.files == (str(tmp_path / "a.yaml"),)

    async def test_files_come_and_go(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a"))

        async with watching(tmp_path) as watched:
            (tmp_path / "b.yaml").write_text(backend("b"))
            await watched.until(lambda: set(watched.resources) == {A, B})
            (tmp_path / "a.yaml").unlink()
            await watched.until(lambda: set(watched.resources) == {B})

    async def test_a_file_replaced_by_an_editor_is_read_again(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text(backend("a", 1))

        async with watching(file) as watched:
            for number in (2, 3):
                (tmp_path / ".a.yaml.tmp").write_text(backend("a", number))
                (tmp_path / ".a.yaml.tmp").rename(file)
                await watched.until(lambda wanted=number: watched.ports == {"a": wanted})

    async def test_a_file_that_is_removed_and_written_anew_leaves_no_gap(self, tmp_path: Path) -> None:
        """Editors that keep a backup move the file away before they write it."""
        file = tmp_path / "a.yaml"
        file.write_text(backend("a", 1))

        async with watching(tmp_path) as watched:
            file.rename(tmp_path / "a.yaml~")
            file.write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2})

        assert all(None not in batch.values() for batch in watched.batches)

    @pytest.mark.parametrize("writes", ["while the process stands still", "a moment after"])
    async def test_time_in_which_the_process_stands_still_is_no_quiet(
        self, tmp_path: Path, writes: str
    ) -> None:
        """The whole machine may stand still, and the program that edits with it."""
        pause_s = files.TICK if writes == "a moment after" else 0.0

        assert await moved_over_a_standstill(tmp_path, 1.5 * files.SETTLE_USED, pause_s) == {"a": 2, "c": 1}

    async def test_an_edit_does_not_get_old_while_the_process_stands_still(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is old is taken to be whole, because its program may never end to write."""
        monkeypatch.setattr(files, "SETTLE_USED", inf)
        monkeypatch.setattr(files, "LONG_EDIT", inf)
        monkeypatch.setattr(files, "PATIENCE", 1.0)

        assert await moved_over_a_standstill(tmp_path, 1.2 * files.PATIENCE, files.TICK) == {"a": 2, "c": 1}

    async def test_a_file_that_is_emptied_before_it_is_filled_leaves_no_gap(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path) as watched:
            with (tmp_path / "a.yaml").open("w") as half_written:
                (tmp_path / "b.yaml").write_text(backend("b", 2))
                await watched.until(lambda: watched.ports["b"] == 2)
                half_written.write(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2, "b": 2})

        assert all(None not in batch.values() for batch in watched.batches)

    async def test_a_file_that_is_open_for_writing_is_read_when_it_is_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shell empties a file long before a program has written it, and half of it may be a manifest."""
        monkeypatch.setattr(files, "OPEN_S", inf)
        monkeypatch.setattr(files, "SETTLE_USED", 0.0)
        monkeypatch.setattr(files, "PATIENCE", 0.0)
        (tmp_path / "a.yaml").write_text(stream(backend("a", 1), backend("c", 1)))
        (tmp_path / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path) as watched:
            with (tmp_path / "a.yaml").open("w") as written:
                for number, half in enumerate(("", backend("a", 2) + "\n---\n"), start=2):
                    written.write(half)
                    written.flush()
                    (tmp_path / "b.yaml").write_text(backend("b", number))
                    await watched.until(lambda wanted=number: watched.ports["b"] == wanted)
                    (tmp_path / "sub").mkdir(exist_ok=True)  # all is listed again
                    assert watched.ports == {"a": 1, "b": number, "c": 1}
                written.write(backend("c", 2))
            await watched.until(lambda: watched.ports == {"a": 2, "b": 3, "c": 2})

        assert all(None not in batch.values() for batch in watched.batches)

    async def test_a_file_that_is_written_anew_is_read_when_it_is_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also while it waits because it was removed first."""
        monkeypatch.setattr(files, "SETTLE_USED", inf)
        monkeypatch.setattr(files, "PATIENCE", inf)
        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path) as watched:
            (tmp_path / "a.yaml").unlink()
            (tmp_path / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports["b"] == 2)
            with (tmp_path / "a.yaml").open("w") as written:
                written.write(backend("a", 2))
                written.flush()
                (tmp_path / "b.yaml").write_text(backend("b", 3))
                await watched.until(lambda: watched.ports["b"] == 3)
                assert watched.ports["a"] == 1
            await watched.until(lambda: watched.ports["a"] == 2)

    async def test_a_file_that_was_missing_is_read_when_it_is_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "OPEN_S", inf)
        (tmp_path / "others").mkdir()
        (tmp_path / "others" / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path / "others", tmp_path / "a.yaml") as watched:
            (tmp_path / "others" / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports["b"] == 2)  # It is watched now.
            with (tmp_path / "a.yaml").open("w") as written:
                written.write(backend("a", 1) + "\n---\n")
                written.flush()
                (tmp_path / "others" / "b.yaml").write_text(backend("b", 3))
                await watched.until(lambda: watched.ports["b"] == 3)
                assert "a" not in watched.ports
                written.write(backend("c", 1))
            await watched.until(lambda: {"a", "c"} <= watched.ports.keys())

    async def test_a_file_that_is_never_closed_is_read_if_it_takes_nothing_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "OPEN_S", 0.01)
        (tmp_path / "a.yaml").write_text(stream(backend("a", 1), backend("b", 1)))

        async with watching(tmp_path) as watched:
            with (tmp_path / "a.yaml").open("r+") as written:
                written.write(stream(backend("a", 2), backend("b", 2)))
                written.flush()
                await watched.until(lambda: watched.ports == {"a": 2, "b": 2})
                written.truncate(0)
                for number in (1, 2, 3):
                    (tmp_path / "c.yaml").write_text(backend("c", number))
                    await watched.until(lambda wanted=number: watched.ports.get("c") == wanted)
                    assert watched.ports == {"a": 2, "b": 2, "c": number}
            await watched.until(lambda: watched.ports == {"c": 3})

    async def test_renaming_a_file_is_no_news_to_the_store(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path) as watched:
            (tmp_path / "a.yaml").rename(tmp_path / "c.yaml")
            (tmp_path / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports["b"] == 2)
            (tmp_path / "c.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports["a"] == 2)

        assert all(None not in batch.values() for batch in watched.batches)

    async def test_a_broken_file_keeps_its_resources_and_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a", 1))

        async with watching(tmp_path) as watched:
            (tmp_path / "a.yaml").write_text("kind: [")
            broken = await watched.next()
            (tmp_path / "a.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2})

        assert broken.batch == {}
        assert broken.errors[0].effect.startswith("The last good state of 1 resource")
        assert watched.last is not None
        assert watched.last.diagnostics == ()

    async def test_folders_come_and_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "EMPTIED_S", 0.0)
        root = tmp_path / "m"
        root.mkdir()
        (root / "a.yaml").write_text(backend("a"))

        async with watching(root) as watched:
            (root / "sub" / "deeper").mkdir(parents=True)
            (root / "sub" / "deeper" / "b.yaml").write_text(backend("b", 1))
            await watched.until(lambda: watched.ports.get("b") == 1)
            (root / "sub" / "deeper" / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports.get("b") == 2)
            (root / "sub").rename(tmp_path / "elsewhere")
            await watched.until(lambda: set(watched.resources) == {A})

    async def test_a_folder_in_place_of_a_file_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "c.yaml").write_text(backend("c", 0))

        async with watching(tmp_path) as watched:
            (tmp_path / "c.yaml").write_text(backend("c", 1))
            await watched.until(lambda: watched.ports["c"] == 1)
            (tmp_path / "a.yaml").unlink()
            (tmp_path / "a.yaml").mkdir()
            (tmp_path / "c.yaml").write_text(backend("c", 2))
            await watched.until(lambda: watched.ports["c"] == 2)
            (tmp_path / "a.yaml" / "b.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2, "c": 2})

    async def test_a_folder_that_is_awaited_is_read_when_it_is_there(self, tmp_path: Path) -> None:
        root = tmp_path / "to" / "come"

        async with watching(root) as watched:
            assert watched.last is not None
            assert len(watched.last.errors) == 1
            for number in (1, 2):
                root.mkdir(parents=True)
                (root / "a.yaml").write_text(backend("a", number))
                await watched.until(lambda wanted=number: watched.ports == {"a": wanted})
                (root / "a.yaml").unlink()
                root.rmdir()
                root.parent.rmdir()
                await watched.until(lambda: watched.last is not None and bool(watched.last.errors))
                assert watched.last is not None
                assert str(watched.last.errors[0]).endswith(
                    "it is read as soon as there is. The resource that it had stays in force until then."
                )

        assert all(None not in batch.values() for batch in watched.batches)

    async def test_an_emptied_folder_is_believed_after_a_while(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Builds remove a folder and write it anew, and so does git."""
        monkeypatch.setattr(files, "EMPTIED_S", 3600.0)
        for name in ("m", "m/sub"):
            (tmp_path / name).mkdir()
        (tmp_path / "m" / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "m" / "sub" / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path / "m") as watched:
            for number in (2, 3):
                shutil.rmtree(tmp_path / "m" / "sub")
                await watched.until(lambda: watched.last is not None and bool(watched.last.diagnostics))
                assert watched.last is not None
                [warning] = watched.last.diagnostics
                (tmp_path / "m" / "sub").mkdir()
                (tmp_path / "m" / "sub" / "b.yaml").write_text(backend("b", number))
                await watched.until(lambda wanted=number: watched.ports == {"a": 1, "b": wanted})
            assert warning.severity == "warning"
            assert str(warning) == (
                f"{tmp_path}/m/sub: The folder has no manifests any more. The resource that it had stays in "
                "force for 3600 seconds, in case the folder is being rebuilt; after that, it is removed."
            )
            assert all(None not in batch.values() for batch in watched.batches)
            (tmp_path / "m" / "sub" / "b.yaml").unlink()
            monkeypatch.setattr(files, "EMPTIED_S", 0.0)
            await watched.until(lambda: watched.ports == {"a": 1})

    async def test_a_removal_holds_nothing_else_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither in the same file; and the removal is believed when nothing has changed for a moment."""
        (tmp_path / "a.yaml").write_text(stream(backend("a", 1), backend("c", 1)))

        async with watching(tmp_path) as watched:
            monkeypatch.setattr(files, "SETTLE_USED", inf)
            monkeypatch.setattr(files, "PATIENCE", inf)
            (tmp_path / "a.yaml").write_text(stream(backend("b", 2), backend("c", 2)))
            await watched.until(lambda: watched.ports == {"a": 1, "b": 2, "c": 2})
            monkeypatch.setattr(files, "SETTLE_USED", 0.0)
            await watched.until(lambda: watched.ports == {"b": 2, "c": 2})

    async def test_a_program_that_writes_again_and_again_holds_nothing_back_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each change waits as long as the edit in which it came, at most: not as long as later changes."""
        monkeypatch.setattr(files, "SETTLE_USED", inf)
        monkeypatch.setattr(files, "PATIENCE", 0.3)
        paths = [tmp_path / f"p{number}.yaml" for number in range(200)]
        for path in paths:
            path.write_text(policy("r").replace("name: p", f"name: {path.stem}"))

        async def remove() -> None:
            for path in paths:
                path.unlink()
                await asyncio.sleep(0.01)

        async with watching(tmp_path) as watched, asyncio.TaskGroup() as tasks:
            removing = tasks.create_task(remove())
            await watched.until(lambda: len(watched.resources) < len(paths))
            assert not removing.done()
            removing.cancel()

    @pytest.mark.parametrize("name", ["", "sub"])
    @pytest.mark.parametrize("replace", [replace_at_once, replace_by_another])
    async def test_a_folder_that_is_replaced_is_followed(
        self, tmp_path: Path, replace: Callable[[Path], None], name: str
    ) -> None:
        """By a checkout, or by hand: what is at the path counts, not the folder that was there."""
        root = tmp_path / "m"
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "a.yaml").write_text(backend("a", 0))

        async with watching(root) as watched:
            (folder / "a.yaml").write_text(backend("a", 1))
            await watched.until(lambda: watched.ports == {"a": 1})  # now it is watched
            replace(folder)
            (folder / "a.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2})
            (folder / "a.yaml").write_text(backend("a", 3))
            await watched.until(lambda: watched.ports == {"a": 3})

    async def test_a_pipe_in_place_of_a_file_stops_nobody(self, tmp_path: Path) -> None:
        """Its opening would wait until somebody writes into it."""
        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "b.yaml").write_text(backend("b", 1))

        async with watching(tmp_path) as watched:
            os.mkfifo(tmp_path / "pipe")
            (tmp_path / "pipe").rename(tmp_path / "a.yaml")
            (tmp_path / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports == {"a": 1, "b": 2})
            await watched.until(lambda: watched.last is not None and bool(watched.last.errors))
            assert watched.last is not None
            fault = str(watched.last.errors[0])
            (tmp_path / "a.yaml").unlink()
            (tmp_path / "a.yaml").write_text(backend("a", 3))
            await watched.until(lambda: watched.ports == {"a": 3, "b": 2})

        assert "It is a named pipe; only regular files are read." in fault

    async def test_a_folder_that_cannot_be_read_keeps_what_was_read_of_it(self, mine: Path) -> None:
        """It is a fault, and the others go on; once it can be read, it is."""
        (mine / "sub").mkdir()
        (mine / "sub" / "a.yaml").write_text(backend("a", 1))
        (mine / "b.yaml").write_text(backend("b", 1))

        async with watching(mine) as watched:
            (mine / "sub").chmod(0)
            await watched.until(lambda: watched.last is not None and bool(watched.last.errors))
            (mine / "b.yaml").write_text(backend("b", 2) + "---\n" + route("r", "b"))
            await watched.until(lambda: watched.resources.keys() > {A, B})
            assert watched.last is not None
            assert watched.last.refused is None, "what was in it is known"
            (mine / "sub").chmod(0o700)
            (mine / "sub" / "a.yaml").write_text(backend("a", 2))
            await watched.until(lambda: port(watched.resources[A]) == 2)

    async def test_what_is_read_again_while_its_folder_cannot_be_read_is_read_when_it_can(
        self, mine: Path
    ) -> None:
        """The file itself is the same as before."""
        (mine / "sub").mkdir()
        (mine / "sub" / "a.yaml").write_text(backend("a"))
        os.utime(mine / "sub" / "a.yaml", (1, 1))
        manifests = Files([mine])
        async with watching(manifests):
            pass
        (mine / "sub").chmod(0)

        async with watching(manifests) as watched:
            assert watched.last is not None
            assert len(watched.last.errors) == 2
            (mine / "sub").chmod(0o700)
            await watched.until(lambda: watched.last is not None and not watched.last.errors)

    async def test_a_new_folder_that_cannot_be_read_closes_what_is_new_besides(self, mine: Path) -> None:
        """It may have a policy about who may pass, which nobody has seen."""
        (mine / "old.yaml").write_text(route("old", "b"))

        async with watching(mine) as watched:
            await watched.until(lambda: bool(watched.resources))
            (mine / "sub").mkdir(mode=0)
            (mine / "r.yaml").write_text(route("r", "b"))
            await watched.until(lambda: watched.last is not None and bool(watched.last.shut))
            assert watched.last is not None
            refused = watched.last.refused
            faults = {each.place.file: str(each) for each in watched.last.errors}
            (mine / "sub").chmod(0o700)
            await watched.until(lambda: watched.last is not None and watched.last.refused is None)

        assert refused == {Ref.of(HTTPRoute, "default", "r")}
        assert "what is served stays as it was" in faults[str(mine / "sub")]
        assert "until all folders can be read" in faults[str(mine / "r.yaml")]

    async def test_a_policy_that_cannot_be_read_and_comes_during_the_start_closes_all_routes(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its file was away while the folder was listed, because a program wrote it anew just then."""
        (mine / "old.yaml").write_text(route("old", "b"))

        def list_before_it_comes(paths: list[str]) -> Listing:
            listing = list_paths(paths)
            (mine / "p.yaml").write_text(policy("old") + "\t")
            return listing

        monkeypatch.setattr(files, "list_paths", list_before_it_comes)
        async with watching(mine) as watched:
            await watched.until(lambda: bool(watched.resources))
            assert watched.last is not None
            assert watched.last.closed == ("",)
            monkeypatch.undo()
            (mine / "p.yaml").write_text(policy("old"))
            await watched.until(lambda: watched.last is not None and watched.last.refused is None)

        assert any(ref.is_a(SecurityPolicy) for ref in watched.resources)

    def test_a_folder_that_cannot_be_read_at_the_start_closes_all_routes(self, mine: Path) -> None:
        """It may have a policy about who may pass."""
        (mine / "sub").mkdir()
        (mine / "b.yaml").write_text(backend("b", 1))
        (mine / "sub").chmod(0)

        loaded = load([mine])

        assert loaded.closed == ("",)
        [fault] = loaded.errors
        assert fault.effect.startswith("It may say who may pass, so all requests to all routes are answered")

    async def test_what_went_before_all_is_read_again_is_gone(self, tmp_path: Path) -> None:
        """A script removes a file, and sends SIGHUP at once."""
        (tmp_path / "a.yaml").write_text(backend("a"))
        (tmp_path / "b.yaml").write_text(backend("b"))
        manifests = Files([tmp_path])
        async with watching(manifests):
            pass
        (tmp_path / "b.yaml").unlink()

        async with watching(manifests) as watched:
            await watched.until(lambda: B in watched.batches[-1])

        assert watched.batches[-1] == {B: None}

    async def test_what_is_cancelled_amid_an_edit_has_all_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All is read again when somebody asks for it, which may be at any time; none of the edit is lost."""
        monkeypatch.setattr(files, "SLICE", 0)
        manifests = Files([tmp_path])
        news = manifests.watch()
        await anext(news)
        (tmp_path / "m.yaml").write_text(stream(*(backend(f"b{n}") for n in range(9))))

        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(anext(news))
            while not len(manifests.folder):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
            in_force = len(manifests.folder)
            following.cancel()
        async with watching(manifests) as watched:
            batch = watched.batches[0]

        assert in_force < 9
        assert len(batch) == 9

    async def test_what_is_away_when_all_is_read_again_stays_in_force(self, tmp_path: Path) -> None:
        """A folder that was moved away, or unmounted, is as good as one that is away while it is watched."""
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "a.yaml").write_text(backend("a"))
        manifests = Files([tmp_path / "m"])
        async with watching(manifests):
            pass
        (tmp_path / "m").rename(tmp_path / "away")

        async with watching(manifests) as watched:
            assert watched.batches == [{}]
            assert watched.last is not None
            assert "stays in force" in watched.last.errors[0].effect

    async def test_a_folder_that_the_kernel_does_not_watch_is_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its limit is one of the user, whatever else uses it up; edits come later, and it is said why."""
        monkeypatch.setattr(files, "RETRY_S", 0.05)
        limit(monkeypatch, lambda path: path.endswith("sub"))
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.yaml").write_text(backend("a", 1))

        async with watching(tmp_path) as watched:
            (tmp_path / "sub" / "a.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2})
            assert watched.last is not None
            [warning] = watched.last.diagnostics

        assert warning.severity == "warning"
        assert "sysctl fs.inotify.max_user_watches" in warning.problem.message

    async def test_a_bug_that_one_file_meets_concerns_that_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever it raises: the others are read, and what was good of it stays in force."""
        read = folder.read_document

        def broken(text: str, is_json: bool, namespace: str) -> Document:
            if "odd" in text:
                raise RecursionError
            return read(text, is_json, namespace)

        (tmp_path / "a.yaml").write_text(backend("a", 1))
        (tmp_path / "b.yaml").write_text(backend("b", 1))
        async with watching(tmp_path) as watched:
            monkeypatch.setattr(folder, "read_document", broken)
            (tmp_path / "a.yaml").write_text(backend("a", "odd"))
            (tmp_path / "b.yaml").write_text(backend("b", 2))
            await watched.until(lambda: watched.ports == {"a": 1, "b": 2})
            assert watched.last is not None
            [fault] = watched.last.errors

        assert "because of a bug of moongate: RecursionError" in str(fault)

    async def test_a_mounted_config_map_is_followed(self, tmp_path: Path) -> None:
        """A kubelet swaps a link that all files are reached through."""
        for number in (1, 2, 3):
            (tmp_path / f"..{number}").mkdir()
            (tmp_path / f"..{number}" / "a.yaml").write_text(backend("a", number))
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

        async with watching(tmp_path) as watched:
            for number in (2, 3):
                (tmp_path / "..data_tmp").symlink_to(f"..{number}")
                (tmp_path / "..data_tmp").rename(tmp_path / "..data")
                await watched.until(lambda wanted=number: watched.ports == {"a": wanted})

    async def test_what_a_link_leads_to_is_watched(self, tmp_path: Path) -> None:
        folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        (elsewhere / "real.yaml").write_text(backend("a", 1))
        (folder / "a.yaml").symlink_to(elsewhere / "real.yaml")

        async with watching(folder) as watched:
            (elsewhere / "real.yaml").write_text(backend("a", 2))
            await watched.until(lambda: watched.ports == {"a": 2})

    async def test_what_a_link_leads_to_is_watched_that_takes_the_place_of_a_file(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        real = tmp_path / "real.yaml"
        (folder / "a.yaml").write_text(backend("a", 1))

        async with watching(folder) as watched:
            real.write_text(backend("a", 2))
            # At first, all is listed anew.
            (folder / "b.yaml").write_text(backend("b", 1))
            await watched.until(lambda: "b" in watched.ports)
            (folder / "a.tmp").symlink_to(real)
            (folder / "a.tmp").rename(folder / "a.yaml")
            await watched.until(lambda: watched.ports["a"] == 2)
            real.write_text(backend("a", 3))
            await watched.until(lambda: watched.ports["a"] == 3)

    async def test_many_files_at_once_leave_the_loop_its_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others get a turn after each slice of work; here a slice is over with each document."""
        monkeypatch.setattr("moongate.sources.files.SLICE", 0)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        for number in range(100):
            (tmp_path / f"{number}.yaml").write_text(backend(f"b{number}"))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(others())
            async with watching(tmp_path) as watched:
                task.cancel()

        assert len(watched.resources) == 100
        assert turns >= 100

    @pytest.mark.slow
    async def test_a_long_document_leaves_the_loop_its_time(self, tmp_path: Path) -> None:
        """A thread reads it: other tasks take their turns all the while."""
        (tmp_path / "long.yaml").write_text(f"a: [{'1,' * 50_000}]")
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(take_turns())
            news = watch([tmp_path])
            await anext(news)
            task.cancel()
        await news.aclose()

        assert turns > 10

    async def test_standard_input_alone_is_not_watched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(backend("a").encode())))

        news = [loaded async for loaded in Files(["-"]).watch()]

        assert [set(loaded.batch) for loaded in news] == [{A}]
