"""What a process had in force, and how the next one reads it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from moongate.infra.journal import NAME, Journal

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path


def journal(folder: Path) -> Journal[str, str]:
    return Journal(folder, tuple[str, str | None])


def written(folder: Path, *changes: Mapping[str, str | None]) -> None:
    with journal(folder) as some:
        for change in changes:
            some.put(change)
            assert some.flush(10)


def read(folder: Path) -> dict[str, str]:
    with journal(folder) as some:
        return dict(some.entries)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "last-good"


def test_the_next_process_has_what_the_former_one_put(folder: Path) -> None:
    written(folder, {"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": None})

    assert read(folder) == {"c": "3", "a": "4"}


def test_only_its_user_can_read_it(folder: Path) -> None:
    written(folder, {"a": "1"})

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    assert [each.name for each in folder.iterdir()] == [NAME]


def test_a_change_writes_its_own_entry_and_not_the_others(folder: Path) -> None:
    """Of 5,000 routes, an edit of one must cost what one costs."""
    with journal(folder) as some:
        some.put({f"route-{n}": "spec" * 250 for n in range(5_000)})
        assert some.flush(30)
        before = some.written_bytes
        some.put({"route-7": "spec" * 251})
        assert some.flush(30)
        assert 1_000 < some.written_bytes - before < 1_200

    with journal(folder) as some:
        assert len(some.entries) == 5_000
        assert some.written_bytes == 0


def test_a_file_of_former_entries_is_written_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moongate.infra.journal.ROOM", 1_000)

    written(folder, *({"a": f"{n:0100}"} for n in range(200)))

    assert (folder / NAME).stat().st_size < 2_000
    assert read(folder) == {"a": f"{199:0100}"}


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_the_end_of_a_file_may_be_torn(folder: Path, lost: int) -> None:
    """A process was killed while it wrote. What it wrote before counts, and the next one goes on."""
    written(folder, {"a": "1", "b": "2"}, {"a": "newer"})
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[:-lost])

    assert read(folder) == {"a": "1", "b": "2"}
    written(folder, {"c": "3"})
    assert read(folder) == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (rb'"2"', b'"3"', "damaged"),
        (rb"journal 1", b"journal 7", "another version"),
        (rb"(?s).*", b"", "empty"),
        (rb"(?s)^.*$", b"\x00" * 4096, "another version"),
        (rb"(?s)^.{30}", b"", "another version"),
    ],
)
def test_what_cannot_be_trusted_is_not_used_and_said_once(
    folder: Path, before: bytes, after: bytes, message: str
) -> None:
    """The newest state of any key may be among what is damaged."""
    written(folder, {"a": "1"}, {"b": "2"}, {"c": "3"})
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(re.sub(before, after, content, count=1))

    with capture_logs() as logs:
        assert read(folder) == {}

    assert [message in each["message"] for each in logs] == [True]
    written(folder, {"d": "4"})
    assert read(folder) == {"d": "4"}


def test_entries_of_another_form_are_of_another_version(folder: Path) -> None:
    with Journal[str, int](folder, tuple[str, int | None]) as some:
        some.put({"a": 1})

    with capture_logs() as logs:
        assert read(folder) == {}
    assert "another version" in logs[0]["message"]


def test_a_value_that_cannot_be_written_does_not_end_the_writer(folder: Path) -> None:
    with journal(folder) as some:
        some.put({"a": "\ud800"})
        assert some.flush(10)
        some.put({"a": "1"})

    assert read(folder) == {"a": "1"}


def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """Neither to read nor to write: it could lead to a file of somebody else."""
    other = tmp_path / "other"
    written(other, {"a": "of another"})
    content = (other / NAME).read_bytes()
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(other / NAME)
    (folder / "journal.new").symlink_to(other / NAME)

    assert read(folder) == {}
    written(folder, {"a": "mine"})
    assert read(folder) == {"a": "mine"}
    assert (other / NAME).read_bytes() == content

    (tmp_path / "link").symlink_to(other)
    with capture_logs() as logs:
        assert read(tmp_path / "link") == {}
    assert len(logs) == 1


def test_a_folder_or_file_that_others_may_write_is_refused(folder: Path) -> None:
    written(folder, {"a": "1"})
    (folder / NAME).chmod(0o666)
    assert read(folder) == {}

    written(folder, {"a": "1"})
    folder.chmod(0o777)
    with capture_logs() as logs:
        assert read(folder) == {}
    assert "mode 777" in logs[0]["message"]


def test_two_processes_do_not_share_a_folder(folder: Path) -> None:
    with journal(folder) as first:
        first.put({"a": "1"})
        assert first.flush(10)
        with capture_logs() as logs, journal(folder) as second:
            second.put({"a": "2"})
        assert ["--state-dir" in each["message"] for each in logs] == [True]

    assert read(folder) == {"a": "1"}


def test_a_file_that_is_removed_meanwhile_is_written_anew(folder: Path) -> None:
    with journal(folder) as some:
        some.put({"a": "1"})
        assert some.flush(10)
        (folder / NAME).unlink()
        some.put({"b": "2"})

    assert read(folder) == {"a": "1", "b": "2"}


@contextmanager
def full_disk(room: int) -> Generator[None]:
    """No file becomes bigger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_once_and_leaves_no_old_state(folder: Path) -> None:
    """An old state that looks like the newest would be wrong. As soon as there is room, all is written."""
    with journal(folder) as some, capture_logs() as logs:
        some.put({"a": "1"})
        assert some.flush(10)
        with full_disk(60):
            for n in range(3):
                some.put({f"b{n}": "2" * 200})
                assert some.flush(10)
            assert list(folder.iterdir()) == []
        assert [each["event"] for each in logs] == ["state.failed"]
        some.put({"c": "3"})
        assert some.flush(10)

    assert read(folder).keys() == {"a", "b0", "b1", "b2", "c"}
    assert [each["event"] for each in logs] == ["state.failed", "state.written"]


def test_a_folder_that_cannot_be_created_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with capture_logs() as logs, journal(tmp_path / "file" / "last-good") as some:
        some.put({"a": "1"})
        assert some.flush(10)

    assert [each["event"] for each in logs] == ["state.failed"]


_WRITER = """
import sys
from pathlib import Path
from moongate.infra import journal
journal.ROOM = 2000
with journal.Journal(Path(sys.argv[1]), tuple[str, str | None]) as some:
    for n in range(1_000_000):
        some.put({"a": str(n) * 50, "b": str(n) * 50})
        if n % 3 == 0:
            some.flush(10)
        if n == 100:
            print(flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_leaves_a_state_that_was(folder: Path) -> None:
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", _WRITER, folder], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)

        with capture_logs() as logs:
            entries = read(folder)
        assert logs == []
        assert entries.keys() == {"a", "b"}
