"""The folder with the sockets and files of one run, removed at its end or by the next start of moongate.

Theory of operation
===================
Each running moongate has a folder ``<base>/<8 hex digits>``, which only its user can read, and holds a lock
on it (``flock``). The kernel releases the lock when the process ends for any reason. A folder without a lock
belongs to a dead process: the next start of moongate kills the Envoys that still run from it, and removes it.

A moongate whose Envoys are to outlive it has the folder ``<base>/kept`` instead. It stays as long as an Envoy
runs from it, and the next such moongate takes it over. So there is one of these for each base.

The rate limit service outlives moongate too, as long as an Envoy may ask it. To know how long that is, it has
the reading end of a FIFO, the *lifeline*. Nobody writes into it, but moongate and the Envoys hold it open for
writing: its end says that all of them have ended, however they did.

The lock is on the folder itself, so no lock file can be left behind. Folders are created, swept and removed
under a lock on the base, so that no other moongate sweeps a folder before it is locked.

Somebody may remove the folder, or a socket in it, while moongate runs. ``restore`` then creates the folder
again, and opens what had been opened with ``standing``.

Facts
-----
* the path of a Unix socket has at most 107 bytes; a base that is too long for that is refused
* an Envoy is taken for ours only if process id, start time, boot of the machine and command line all match
  what was recorded
"""

from __future__ import annotations

import asyncio
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
from typing import TYPE_CHECKING, Final, Self

import msgspec
import structlog
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

# sizeof(sockaddr_un.sun_path) less the final NUL. Source: unix(7).
MAX_SOCKET_PATH = 107
# "/12345678/" and the longest name of a socket in it.
_BELOW_BASE = 10 + len("envoy-0123456789ab.sock")
_KILL_WAIT_MS = 5_000

KEPT: Final = "kept"
"""The name of the folder whose Envoys outlive their moongate."""

_log = structlog.get_logger("moongate.infra")


class NoRunDirectoryError(OSError):
    """No folder for sockets can be created; the message says what to do."""


class TakenError(NoRunDirectoryError):
    """Another moongate runs in the folder."""


class EnvoyFiles(Struct, frozen=True):
    """The files of one Envoy.

    Args:
        bootstrap: its configuration at the start.
        admin: the Unix socket that it creates.
        xds: the Unix socket that its control plane creates for it alone.
        record: its process id and start time, for a later start of moongate.
        access_log: the FIFO for its standard output.
        log: the FIFO for its standard error.
    """

    bootstrap: Path
    admin: Path
    xds: Path
    record: Path
    access_log: Path
    log: Path

    def write_record(self, pid: int) -> None:
        _write_record(self.record, pid)

    def running(self) -> int | None:
        """The process id of the Envoy of these files, if it still runs."""
        return _running(self.record, self.bootstrap, ["--config-path", str(self.bootstrap)])

    def remove(self) -> None:
        for path in (self.bootstrap, self.admin, self.record, self.access_log, self.log):
            path.unlink(missing_ok=True)


class ServiceFiles(Struct, frozen=True):
    """The files of the rate limit service.

    Args:
        socket: the Unix socket on which it answers.
        record: its process id and start time, for a later start of moongate.
        log: the FIFO for its log.
    """

    socket: Path
    record: Path
    log: Path

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Those in the folder of a run."""
        return cls(folder / "limits.sock", folder / "limits.pid", folder / "limits.log")

    def write_record(self, pid: int) -> None:
        _write_record(self.record, pid)

    def running(self) -> int | None:
        """The process id of the service of these files, if it still runs."""
        return _running(self.record, self.log, self.command)

    @property
    def command(self) -> list[str]:
        """What it is started with: the module, and its first argument."""
        return ["moongate.rate_limits", str(self.socket)]


class RunDirectory:
    """A context manager: the folder is created at its start and removed at its end.

    Args:
        base: contains the folders of all runs; by default ``$XDG_RUNTIME_DIR/moongate`` if that is
            set, else ``moongate-<uid>`` in the folder for temporary files.
        keep: whether Envoys outlive this run, so that the folder stays as long as one of them runs.
    """

    path: Path
    lifeline: int | None = None
    """A descriptor that holds the lifeline open for writing; None if nothing is to outlive this run."""
    left_over: tuple[EnvoyFiles, ...]
    """The files of Envoys that an earlier run has left in this folder."""

    def __init__(self, base: Path | None = None, *, keep: bool = False) -> None:
        self._keep = keep
        self._bases = _candidates(base)
        remedy = "Set XDG_RUNTIME_DIR to" if base is None else "Choose as the folder of runs (--run-dir)"
        self._remedy = f"{remedy} a short path of a folder that only you can write."
        self._fd = -1
        self._standing: dict[Path, _Standing] = {}
        self._lock = asyncio.Lock()

    def __enter__(self) -> Self:
        """Sweep the folders of dead runs, then create the folder of this run.

        Raises:
            NoRunDirectoryError: no base is usable, or another moongate has the folder that is kept.
        """
        refusals: list[str] = []
        for base in self._bases:
            try:
                self._take(base)
            except TakenError:
                raise
            except NoRunDirectoryError as refusal:
                refusals.append(str(refusal))
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                refusals.append(f"Runs cannot have their folders in {base}: {why}.")
            else:
                break
        if self._fd < 0:
            raise NoRunDirectoryError(f"{' '.join(refusals)} {self._remedy}")
        for base in self._bases:
            if base != self.path.parent and base.is_dir():
                with contextlib.suppress(OSError), _locked_base(base):
                    _sweep(base)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        base = self.path.parent
        # A base that is not ours any more stays as it is.
        with contextlib.suppress(OSError), _locked_base(base):
            if not self.outlived:
                _end_orphan(self.service)
                shutil.rmtree(self.path, ignore_errors=True)
            # If other moongates run, it is not empty, and stays.
            base.rmdir()
        os.close(self._fd)
        self._fd = -1
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    @property
    def outlived(self) -> bool:
        """Whether an Envoy runs that is to outlive this run."""
        return self._keep and any(each.running() for each in self.envoys())

    @property
    def service(self) -> ServiceFiles:
        """The files of the rate limit service."""
        return ServiceFiles.of(self.path)

    def socket(self, name: str) -> Path:
        """The path of a Unix socket, short enough to be bound."""
        path = self.path / f"{name}.sock"
        assert len(os.fsencode(path)) <= MAX_SOCKET_PATH, f"{path} is too long for a Unix socket"
        return path

    def envoy(self, fleet: str) -> EnvoyFiles:
        """The paths of the files of a fleet's Envoy. Their names have a digest, because keys may be long."""
        return _files(self.path, hashlib.blake2b(fleet.encode(), digest_size=6).hexdigest())

    def envoys(self) -> list[EnvoyFiles]:
        """The files of all Envoys that were started from this folder and not ended, sorted."""
        return _envoys(self.path)

    @contextlib.asynccontextmanager
    async def standing(
        self, path: Path, opened: Callable[[], AbstractAsyncContextManager[None]]
    ) -> AsyncGenerator[None]:
        """Open something that has a path in the folder, and open it again whenever ``restore`` misses it.

        Raises:
            OSError: the folder is gone and cannot be created again, or the opening fails.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with self._lock:
                self._restore_folder()
                await stack.enter_async_context(opened())
                self._standing[path] = _Standing(opened, stack)
            try:
                yield
            finally:
                async with self._lock:
                    del self._standing[path]

    async def restore(self) -> list[Path]:
        """Create the folder again if it is gone, and open what is missing in it: the paths of that.

        Raises:
            OSError: the folder cannot be created again, or others can write in it now.
        """
        missing: list[Path] = []
        async with self._lock:
            self._restore_folder()
            for path, each in self._standing.items():
                if not path.exists():
                    # The former one first: nobody can reach it any more, and its end may remove the path.
                    await each.stack.aclose()
                    await each.stack.enter_async_context(each.opened())
                    missing.append(path)
        return missing

    def _restore_folder(self) -> None:
        try:
            fd = open_folder(self.path)
        except FileNotFoundError:
            pass
        else:
            same = os.path.samestat(os.fstat(fd), os.fstat(self._fd))
            os.close(fd)
            if same:
                return
        with _locked_base(self.path.parent):
            self.path.mkdir(mode=0o700, exist_ok=True)
            fd, before = self._locked_folder(), self._fd
            self._fd = fd
            os.close(before)

    def _take(self, base: Path) -> None:
        longest = len(os.fsencode(base)) + _BELOW_BASE
        if longest > MAX_SOCKET_PATH:
            raise NoRunDirectoryError(
                f"{base} is too long by {longest - MAX_SOCKET_PATH} bytes to hold Unix sockets."
            )
        with _locked_base(base):
            _sweep(base, but=KEPT if self._keep else "")
            self.path = base / (KEPT if self._keep else secrets.token_hex(4))
            self.path.mkdir(mode=0o700, exist_ok=self._keep)
            self._fd = self._locked_folder()
            # Listed now, as it may fail later: the folder may be removed, or descriptors be used up.
            self.left_over = tuple(_envoys(self.path))
            if self._keep:
                self.lifeline = open_fifo(self.path / "lifeline")

    def _locked_folder(self) -> int:
        fd = open_folder(self.path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise TakenError(
                f"Another moongate runs with Envoys that outlive it, in {self.path}. End it, or name "
                "another folder for this one with --run-dir."
            ) from None
        return fd


def kept(base: Path | None = None) -> list[Path]:
    """The bases with Envoys that their moongate has left running; see ``runs``."""
    bases: list[Path] = []
    for each in _candidates(base):
        with contextlib.suppress(OSError):
            os.close(open_folder(each))
            folder = each / KEPT
            if not _is_locked(folder) and any(envoy.running() for envoy in _envoys(folder)):
                bases.append(each)
    return bases


def _envoys(folder: Path) -> list[EnvoyFiles]:
    # The bootstrap is written before the start of its Envoy, the record after it.
    digests = {path.stem.removeprefix("envoy-") for path in folder.glob("envoy-*") if path.suffix in _WRITTEN}
    return [_files(folder, digest) for digest in sorted(digests)]


_WRITTEN = frozenset({".json", ".pid"})


def _files(folder: Path, digest: str) -> EnvoyFiles:
    return EnvoyFiles(
        bootstrap=folder / f"envoy-{digest}.json",
        admin=folder / f"envoy-{digest}.sock",
        xds=folder / f"xds-{digest}.sock",
        record=folder / f"envoy-{digest}.pid",
        access_log=folder / f"envoy-{digest}.out",
        log=folder / f"envoy-{digest}.err",
    )


def runs(base: Path | None = None) -> list[Path]:
    """The folders of all moongates that run now, sorted.

    Args:
        base: contains their folders. If ``None``, all bases that ``RunDirectory`` may choose are searched.
    """
    folders: list[Path] = []
    for each in _candidates(base):
        with contextlib.suppress(OSError):
            # If others could write in the folder, they could put sockets of their own there.
            os.close(open_folder(each))
            folders += (
                folder for folder in sorted(each.iterdir()) if _is_ours(folder) and _is_locked(folder)
            )
    return list(dict.fromkeys(folders))


def _is_ours(folder: Path) -> bool:
    """Whether its name is like those of our folders. A base that a user names may contain other files."""
    return folder.name == KEPT or (len(folder.name) == 8 and not set(folder.name) - set("0123456789abcdef"))


def _is_locked(folder: Path) -> bool:
    """Whether a running moongate has a lock on it."""
    try:
        fd = open_folder(folder)
    except OSError:
        return False
    try:
        # A shared lock, so that two callers at the same time do not take each other for a moongate.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class _Standing(Struct, frozen=True):
    """What has a path in the folder: how it is opened, and what closes it."""

    opened: Callable[[], AbstractAsyncContextManager[None]]
    stack: contextlib.AsyncExitStack[bool | None]


class _Record(Struct, frozen=True):
    """A process: its id, and when it started in ticks since which boot (so a reused id is another)."""

    pid: int
    started: int
    boot: str


def _candidates(base: Path | None) -> list[Path]:
    """The bases that may contain folders of runs, the preferred one first: only one if it is named."""
    if base is not None:
        # An Envoy that is adopted may have been started from another folder.
        return [base.absolute()]
    mine = f"moongate-{os.getuid()}"
    bases = [Path(tempfile.gettempdir(), mine), Path("/tmp", mine)]  # noqa: S108 - owner and mode are checked
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute():
        bases.insert(0, Path(runtime, "moongate"))
    return list(dict.fromkeys(bases))


@contextlib.contextmanager
def _locked_base(base: Path) -> Generator[None]:
    """Create the base if necessary, check its owner, and hold a lock on it."""
    while True:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = -1
        try:
            fd = open_folder(base)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Another run may have removed it before we got the lock.
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


def open_folder(path: Path) -> int:
    """Open a folder after checking that no other user can write in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    owned = os.fstat(fd)
    if owned.st_uid != os.getuid() or stat.S_IMODE(owned.st_mode) & 0o022:
        os.close(fd)
        raise NoRunDirectoryError(
            f"{path} belongs to user {owned.st_uid} with mode {stat.S_IMODE(owned.st_mode):o}; "
            "others could replace what is in it."
        )
    return fd


def open_fifo(path: Path) -> int:
    """Open a FIFO for reading and writing, so that it neither waits for another end nor ends with it."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _sweep(base: Path, *, but: str = "") -> None:
    """Remove the folders without a lock, and kill the Envoys that still run from them.

    Args:
        base: contains the folders.
        but: the name of a folder that stays.
    """
    for folder in sorted(base.iterdir()):
        if not _is_ours(folder) or folder.name == but:
            continue
        try:
            fd = open_folder(folder)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            if folder.name == KEPT and any(envoy.running() for envoy in _envoys(folder)):
                continue
            for envoy in _envoys(folder):
                _end_orphan(envoy)
            _end_orphan(ServiceFiles.of(folder))
            shutil.rmtree(folder, ignore_errors=True)
            _log.info("run.swept", folder=str(folder))
        finally:
            os.close(fd)


def _end_orphan(files: EnvoyFiles | ServiceFiles) -> None:
    pid = files.running()
    if pid is None:
        return
    try:
        # The descriptor stays with this process even if its number is used again.
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if files.running() == pid:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            gone = select.poll()
            gone.register(process, select.POLLIN)
            gone.poll(_KILL_WAIT_MS)
            if isinstance(files, EnvoyFiles):
                _log.warning("envoy.orphan_killed", pid=pid)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)


def _write_record(record: Path, pid: int) -> None:
    started = _started(pid)
    if started is not None:
        record.write_bytes(msgspec.json.encode(_Record(pid, started, _boot())))


def _running(record: Path, first: Path, words: list[str]) -> int | None:
    """The process of a record, if it still runs.

    Without a record, moongate was killed just after the start, or the disk was full.

    Args:
        record: its file.
        first: a file that is there before the process is.
        words: successive words of its command line.
    """
    try:
        recorded = msgspec.json.decode(record.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return _unrecorded(words) if first.exists() else None
    same = _started(recorded.pid) == recorded.started and recorded.boot == _boot()
    return recorded.pid if same and _runs_from(recorded.pid, record.parent) else None


def _unrecorded(words: list[str]) -> int | None:
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        line = command_line(pid)
        if words in (line[n : n + len(words)] for n in range(len(line))):
            return pid
    return None


def _boot() -> str:
    """Which boot of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Field 22. The second, the name in parentheses, may itself hold blanks and parentheses.
    return int(fields.rpartition(b")")[2].split()[19])


def _runs_from(pid: int, folder: Path) -> bool:
    return any(word.startswith(f"{folder}/") for word in command_line(pid))


def command_line(pid: int) -> list[str]:
    """The program and the arguments of a process; empty if there is none."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []
