from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from moongate.sources import reading
from moongate.sources.file_states import Unreadable
from moongate.sources.reading import decoded, file_text


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    """Also where its size is not known: a file of the kernel says that it has none."""
    (tmp_path / "a").write_text("x" * 3_000_000)

    assert file_text(str(tmp_path / "a")) == "x" * 3_000_000
    assert file_text("/proc/self/comm") == Path("/proc/self/comm").read_text()


def test_what_is_not_there_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path, tmp_path / "none", tmp_path / "file" / "within"):
        assert file_text(str(path)) is None


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Its opening waits until somebody writes, and everything else would wait with it."""
    os.mkfifo(tmp_path / "a.yaml")

    text = file_text(str(tmp_path / "a.yaml"))

    assert text == Unreadable("It is a named pipe; only regular files are read.", text="")


def test_a_device_is_not_read() -> None:
    """It may have no end."""
    assert file_text("/dev/zero", pipes=True) == Unreadable(
        "It is a device; only regular files are read.", text=""
    )


def test_a_socket_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind("a.yaml")

        assert isinstance(file_text("a.yaml"), Unreadable)


def test_a_pipe_that_nobody_writes_into_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_PATIENCE_S", 0.01)
    os.mkfifo(tmp_path / "pipe")

    text = file_text(str(tmp_path / "pipe"), pipes=True)

    assert text == Unreadable("It is a named pipe, and nobody writes into it.", text="")


def test_a_pipe_is_read_until_its_writer_closes_it(tmp_path: Path) -> None:
    """However long the writer takes between two pieces."""
    reading_end, writing_end = os.pipe()

    def write() -> None:
        with os.fdopen(writing_end, "wb") as pipe:
            for piece in (b"kind: ", b"Backend\n"):
                pipe.write(piece)
                pipe.flush()

    writer = threading.Thread(target=write)
    writer.start()
    text = file_text(f"/dev/fd/{reading_end}", pipes=True)
    writer.join()
    os.close(reading_end)

    assert text == "kind: Backend\n"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_if_it_says_so(encoding: str) -> None:
    """PowerShell writes it where others write UTF-8, and YAML allows it."""
    assert decoded("\ufeffkind: é\r\n".encode(encoding)) == "kind: é\r\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"PK\x03\x04\x14", "a zip archive"),
        (b"\xff\xfea", "does not go on so"),
        (b"a: \xe9", "byte 0xe9 is not UTF-8"),
    ],
)
def test_bytes_that_are_no_text_say_what_they_are(data: bytes, words: str) -> None:
    text = decoded(data)

    assert isinstance(text, Unreadable)
    assert words in text.message
