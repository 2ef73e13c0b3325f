"""What was last in force, on the disk, so that it outlives the process.

Rules
=====
1. Nothing that happens to the folder ends the process or delays it: a full disk, a folder of somebody else,
   a damaged file. It is logged once, and what cannot be trusted is not used.
2. A change writes the entries that it concerns, never all.
3. What is on the disk and cannot be brought up to date is removed if possible: an old state is worse than
   none, because nobody knows how old it is.

Theory of operation
===================
The folder has one file, to which lines are appended: a hash, then a key and its value in JSON; a value of
null removes the key. The last line of a key counts. Once the file has far more lines than keys, it is written
anew beside the old one, which it then replaces. A thread does all this, and takes all changes that came while
it wrote at once.

A process that is killed while it writes leaves a part of a line at the end, which is skipped. Damage anywhere
else may have hit the newest state of any key, so then nothing of the file is used.

The folder is locked as long as a process uses it. Only its user may write in it, or it is refused. No
symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import msgspec
import structlog

from moongate.infra.rundir import NoRunDirectoryError, open_folder
from moongate.patience import join

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

K = TypeVar("K")
V = TypeVar("V")

NAME: Final = "journal"
_NEW: Final = "journal.new"
_VERSION: Final = "moongate journal 1"
AGAIN_AFTER_S: Final = 10.0
"""Seconds until a failed write is tried again, if nothing changes before."""
CLOSE_WITHIN_S: Final = 2.0
ROOM: Final = 1 << 20
"""Bytes that may be appended beyond the size of what is held, before the file is written anew."""
_DIGEST: Final = 16
_CHUNK: Final = 1 << 20

_log = structlog.get_logger("moongate")


class _DamagedError(Exception):
    """The file cannot be used; the message says why."""


class Journal(Generic[K, V]):
    """A context manager: a map on the disk.

    Args:
        folder: holds nothing else. It is created if necessary.
        entry: the type of a key and its value, ``tuple[K, V | None]``. Both are plain data for msgspec.

    ``entries`` is what the former process left, and all changes since.
    """

    def __init__(self, folder: Path, entry: Any) -> None:
        self.entries: dict[K, V] = {}
        self.written_bytes = 0
        """All that was written so far."""
        self._folder = folder
        self._decoder = msgspec.json.Decoder(entry)
        self._encoder = msgspec.json.Encoder()
        self._fd = self._file = -1
        self._size = self._limit = 0
        self._outdated = False
        """Whether the file lacks changes, so that it must be written anew."""
        self._failed = False
        self._pending: dict[K, V | None] = {}
        self._news = threading.Condition()
        self._busy = False
        self._closed = False
        # A daemon thread, because a disk that hangs must not prevent our exit.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def __enter__(self) -> Self:
        """Lock the folder and read what is in it."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = open_folder(self._folder)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._give_up("Another moongate uses this folder; name another one with --state-dir.")
        except (OSError, NoRunDirectoryError) as error:
            self._give_up(_sentence(error))
        if self._fd >= 0:
            self._read()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is pending; give up after two seconds."""
        if self._fd < 0:
            return
        with self._news:
            self._closed = True
            self._news.notify_all()
        join(self._thread, CLOSE_WITHIN_S)
        if not self._thread.is_alive():
            for fd in {self._fd, self._file} - {-1}:
                os.close(fd)
            self._fd = self._file = -1

    @property
    def is_usable(self) -> bool:
        """Whether the folder can be used; if not, nothing is kept."""
        return self._fd >= 0

    def put(self, changes: Mapping[K, V | None]) -> None:
        """Change entries; None removes one. Returns at once."""
        if not changes or self._fd < 0:
            return
        with self._news:
            for key, value in changes.items():
                self.entries.pop(key, None)
                if value is not None:
                    self.entries[key] = value
            self._pending.update(changes)
            self._news.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all changes are written, or a write has failed. Returns whether that was in time."""
        with self._news:
            return self._news.wait_for(lambda: not (self._pending or self._busy), timeout_s)

    def _give_up(self, message: str) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._report(message)

    def _report(self, message: str) -> None:
        if not self._failed:
            effect = "Requests are served as usual; the next start may not know what was in force."
            _log.warning("state.failed", folder=str(self._folder), message=f"{message} {effect}")
        self._failed = True

    # -- reading ------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._file = self._open(NAME, os.O_RDWR | os.O_APPEND)
            self._size = self._load(self._file)
            self._limit = 2 * self._size + ROOM
        except FileNotFoundError:
            self._outdated = False
            self._limit = -1  # The first change writes the file.
        except (OSError, _DamagedError) as error:
            self.entries.clear()
            self._report(f"{_sentence(error)} It is not used, and replaced.")
            self._failed = False
            self._outdated = True

    def _load(self, fd: int) -> int:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise _DamagedError(f"Others could have written {NAME}.")
        content = b""
        while piece := os.read(fd, _CHUNK):
            content += piece
        header, *lines = content.split(b"\n")
        if not content.strip():
            raise _DamagedError(f"{NAME} is empty.")
        if header != _VERSION.encode():
            raise _DamagedError(f"{NAME} is of another version of moongate.")
        bodies = [_checked(line) for line in lines[:-1]]
        good = [body for body in bodies if body is not None]
        if good != bodies[: len(good)]:
            raise _DamagedError(f"{NAME} is damaged.")
        for body in good:
            try:
                key, value = self._decoder.decode(body)
            except msgspec.DecodeError:
                raise _DamagedError(f"{NAME} is of another version of moongate.") from None
            self.entries.pop(key, None)
            if value is not None:
                self.entries[key] = value
        whole = sum(len(line) + 1 for line in (header, *lines[: len(good)]))
        if whole < len(content):
            # The end of the former process came while it wrote.
            self._outdated = True
        return whole

    # -- writing, in the thread ---------------------------------------------

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                self._news.wait_for(
                    lambda: self._pending or self._closed, AGAIN_AFTER_S if self._outdated else None
                )
                changes, self._pending = self._pending, {}
                closed = self._closed
                self._busy = True
            if changes or self._outdated:
                self._write(changes)
            if closed:
                return

    def _write(self, changes: Mapping[K, V | None]) -> None:
        try:
            lines = b"".join(map(self._line, changes.items()))
            removed = self._file < 0 or os.fstat(self._file).st_nlink == 0
            if self._outdated or removed or self._size + len(lines) > self._limit:
                self._write_anew()
            else:
                self._append(self._file, lines)
        except Exception as error:  # noqa: BLE001 - also a bug must not end the thread
            self._outdated = True
            with contextlib.suppress(OSError):
                os.unlink(NAME, dir_fd=self._fd)
            self._report(
                f"{_sentence(error)} Until it can be written, a start does not know what is in force."
            )
        else:
            if self._failed:
                _log.info("state.written", folder=str(self._folder))
            self._outdated = self._failed = False

    def _write_anew(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=self._fd)
        new = self._open(_NEW, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._size = 0
        with self._news:
            entries = list(self.entries.items())
        try:
            self._append(new, b"".join((_VERSION.encode(), b"\n", *map(self._line, entries))))
            os.rename(_NEW, NAME, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.fsync(self._fd)
        except BaseException:
            os.close(new)
            with contextlib.suppress(OSError):
                os.unlink(_NEW, dir_fd=self._fd)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = new
        self._limit = 2 * self._size + ROOM

    def _append(self, fd: int, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            count = os.write(fd, view)
            self.written_bytes += count
            view = view[count:]
        os.fdatasync(fd)
        self._size += len(lines)

    def _line(self, entry: tuple[K, V | None]) -> bytes:
        body = self._encoder.encode(entry)
        return _digest(body) + b" " + body + b"\n"

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=self._fd)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST).hexdigest().encode()


def _checked(line: bytes) -> bytes | None:
    """The content of a line; None if it is damaged."""
    digest, _, body = line.partition(b" ")
    return body if digest == _digest(body) else None


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'It'}: {(error.strerror or str(error)).lower()}."
    return (
        str(error) if isinstance(error, _DamagedError | NoRunDirectoryError) else f"{type(error).__name__}."
    )
