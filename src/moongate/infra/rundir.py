"""The folder with one run's sockets and files, which no end of moongate leaves behind for good.

Theory of operation
===================
Each running moongate has a folder ``<base>/<8 hex digits>``, readable to its user only, and holds a
lock on it (``flock``) that the kernel gives back however the process ends. A folder that nobody
has locked belongs to the dead: the next start kills what still runs from it and removes it.

The folders themselves carry the locks, so there are no lock files to leave behind. Making,
sweeping and removing folders happens under a lock on the base, so that no one sweeps a folder
between its making and its locking.

Facts
-----
* a Unix socket's path has at most 107 bytes; a base in which they would be longer is not taken
* an orphan is killed only if process id, start time and command line all match what was recorded
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import select
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import structlog
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

# sizeof(sockaddr_un.sun_path) less the final NUL. Source: unix(7).
MAX_SOCKET_PATH = 107
# "/12345678/" and the longest name of a socket in it.
_BELOW_BASE = 10 + len("envoy-0123456789ab.sock")
_KILL_WAIT_MS = 5_000

_log = structlog.get_logger("moongate.infra")


class NoRunDirectoryError(Exception):
    """No folder for sockets can be had; the message says what to do."""


class EnvoyFiles(Struct, frozen=True):
    """The files of one Envoy.

    Args:
        bootstrap: what it is started with.
        admin: the Unix socket that it makes.
        xds: the Unix socket that its control plane makes for it alone.
        record: which process it is, for the sweep of a later start.
    """

    bootstrap: Path
    admin: Path
    xds: Path
    record: Path

    def write_record(self, pid: int) -> None:
        started = _started(pid)
        if started is not None:
            self.record.write_bytes(msgspec.json.encode(_Record(pid, started)))

    def remove(self) -> None:
        for path in (self.bootstrap, self.admin, self.record):
            path.unlink(missing_ok=True)


class RunDirectory:
    """A context manager: the folder exists inside, and is gone after.

    Args:
        base: where the folders of all runs are; by default ``$XDG_RUNTIME_DIR/moongate`` if there
            is one, else ``moongate-<uid>`` in the folder for temporary files.
    """

    path: Path

    def __init__(self, base: Path | None = None) -> None:
        self._bases = _candidates() if base is None else [base]
        self._fd = -1

    def __enter__(self) -> Self:
        """Sweep what dead runs left, then make this run's folder.

        Raises:
            NoRunDirectoryError: no base is usable.
        """
        refusals: list[str] = []
        for base in self._bases:
            try:
                self._take(base)
            except (OSError, NoRunDirectoryError) as refusal:
                refusals.append(str(refusal))
            else:
                break
        if self._fd < 0:
            raise NoRunDirectoryError(
                " ".join(refusals)
                + " Set XDG_RUNTIME_DIR to a short path of a folder that only you can write."
            )
        for base in self._bases:
            if base != self.path.parent and base.is_dir():
                with contextlib.suppress(OSError, NoRunDirectoryError), _locked_base(base):
                    _sweep(base)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        base = self.path.parent
        with _locked_base(base):
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1
            # Others may be running: then it is not empty, and stays.
            with contextlib.suppress(OSError):
                base.rmdir()

    def socket(self, name: str) -> Path:
        """The path of a Unix socket, short enough to be bound."""
        path = self.path / f"{name}.sock"
        assert len(os.fsencode(path)) <= MAX_SOCKET_PATH, f"{path} is too long for a Unix socket"
        return path

    def envoy(self, fleet: str) -> EnvoyFiles:
        """Where the files of a fleet's Envoy are. Their names have a digest: keys may be long."""
        digest = hashlib.blake2b(fleet.encode(), digest_size=6).hexdigest()
        return EnvoyFiles(
            bootstrap=self.path / f"envoy-{digest}.json",
            admin=self.socket(f"envoy-{digest}"),
            xds=self.socket(f"xds-{digest}"),
            record=self.path / f"envoy-{digest}.pid",
        )

    def _take(self, base: Path) -> None:
        longest = len(os.fsencode(base)) + _BELOW_BASE
        if longest > MAX_SOCKET_PATH:
            raise NoRunDirectoryError(
                f"{base} is too long by {longest - MAX_SOCKET_PATH} bytes to hold Unix sockets."
            )
        with _locked_base(base):
            _sweep(base)
            self.path = base / secrets.token_hex(4)
            self.path.mkdir(mode=0o700)
            self._fd = _open_folder(self.path)
            fcntl.flock(self._fd, fcntl.LOCK_EX)


def runs(base: Path | None = None) -> list[Path]:
    """The folders of moongates that run now, sorted.

    Args:
        base: where their folders are; all places that ``RunDirectory`` chooses from when ``None``.
    """
    folders: list[Path] = []
    for each in _candidates() if base is None else [base]:
        with contextlib.suppress(OSError, NoRunDirectoryError):
            # In a folder where others can write, they could answer in the place of a moongate.
            os.close(_open_folder(each))
            folders += (folder for folder in sorted(each.iterdir()) if _is_ours(folder) and _is_held(folder))
    return list(dict.fromkeys(folders))


def _is_ours(folder: Path) -> bool:
    """Whether it has a name that we give: a base named by hand may hold other things."""
    return len(folder.name) == 8 and not set(folder.name) - set("0123456789abcdef")


def _is_held(folder: Path) -> bool:
    """Whether a living moongate has its lock on it."""
    try:
        fd = _open_folder(folder)
    except (OSError, NoRunDirectoryError):
        return False
    try:
        # Shared, so that two who ask at once do not take each other for a moongate.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class _Record(Struct, frozen=True):
    """A process: its id, and when it started in ticks since boot (so a reused id is another)."""

    pid: int
    started: int


def _candidates() -> list[Path]:
    """Where folders of runs may be, best first."""
    mine = f"moongate-{os.getuid()}"
    bases = [Path(tempfile.gettempdir(), mine), Path("/tmp", mine)]  # noqa: S108 - owner and mode are checked
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute():
        bases.insert(0, Path(runtime, "moongate"))
    return list(dict.fromkeys(bases))


@contextlib.contextmanager
def _locked_base(base: Path) -> Generator[None]:
    """The base, which exists now, is ours and is locked."""
    while True:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = -1
        try:
            fd = _open_folder(base)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Between our opening and our locking, a run that ended may have removed it.
            if os.path.samestat(os.fstat(fd), base.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        if fd >= 0:
            os.close(fd)
    try:
        yield
    finally:
        os.close(fd)


def _open_folder(path: Path) -> int:
    """A descriptor of the folder, after making sure that nobody else can write in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    owned = os.fstat(fd)
    if owned.st_uid != os.getuid() or stat.S_IMODE(owned.st_mode) & 0o022:
        os.close(fd)
        raise NoRunDirectoryError(
            f"{path} belongs to user {owned.st_uid} with mode {stat.S_IMODE(owned.st_mode):o}; "
            "others could replace the sockets in it."
        )
    return fd


def _sweep(base: Path) -> None:
    """Remove the folders that no living moongate holds, and end what still runs from them."""
    for folder in sorted(base.iterdir()):
        if not _is_ours(folder):
            continue
        try:
            fd = _open_folder(folder)
        except (OSError, NoRunDirectoryError):
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            for record in folder.glob("*.pid"):
                _end_orphan(record)
            shutil.rmtree(folder, ignore_errors=True)
            _log.info("run.swept", folder=str(folder))
        finally:
            os.close(fd)


def _end_orphan(path: Path) -> None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
        # A descriptor of the process stays with that process, whatever becomes of the number.
        process = os.pidfd_open(record.pid)
    except (OSError, msgspec.DecodeError):
        return
    try:
        if _started(record.pid) == record.started and _runs_from(record.pid, path.parent):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            gone = select.poll()
            gone.register(process, select.POLLIN)
            gone.poll(_KILL_WAIT_MS)
            _log.warning("envoy.orphan_killed", pid=record.pid)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Field 22. The second, the name in parentheses, may itself hold blanks and parentheses.
    return int(fields.rpartition(b")")[2].split()[19])


def _runs_from(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(os.fsencode(folder) + b"/") for word in words)
