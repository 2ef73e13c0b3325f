"""The campaign goes on with the machine: full disks, descriptors, clocks, readers of the log, children.

Each row is a moongate of its own, but those of which nothing is left share one. The laws of ``house`` hold
here too: a route that has nothing to do with the fault answers a hundred requests a second all the while,
nobody shows a value of a Secret, and in the end the process holds no more descriptors, tasks and children
than before. ``validate`` starts nothing, so it complains of what is wrong with the folder alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import psutil
import pytest
import pytest_asyncio
from msgspec import Struct

from tests.campaign.healthy import HEALTHY
from tests.campaign.house import PROGRAM, House, house, humbled, strays, until
from tests.deadline import DEADLINE_S

pytestmark = pytest.mark.envoy


class Start(Struct, frozen=True, kw_only=True):
    """A fault that keeps moongate from starting.

    Args:
        name: a sentence about the product.
        options: of ``run``; ``HOME`` stands for a folder of the test.
        exits: the exit code: 1 for what the machine lacks, 2 for what was asked for wrongly.
        says: words that its only message has: what is wrong, and what would be right.
        prepare: what is done to the folder of the test before.
    """

    name: str
    options: tuple[str, ...]
    exits: int
    says: tuple[str, ...]
    prepare: Callable[[Path], Any] = lambda _home: None


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


STARTS = (
    Start(
        name="an Envoy that does not exist is named",
        options=("gw", "--envoy", "HOME/nowhere"),
        exits=1,
        says=("HOME/nowhere", "does not exist", "--envoy"),
    ),
    Start(
        name="an Envoy that may not be executed is named",
        options=("gw", "--envoy", "HOME/envoy"),
        prepare=lambda home: (home / "envoy").write_text("#!/bin/sh\n"),
        exits=1,
        says=("HOME/envoy", "xecut"),
    ),
    Start(
        name="an Envoy that is a folder is named",
        options=("gw", "--envoy", "HOME/gw"),
        exits=1,
        says=("HOME/gw", "is a folder", "--envoy"),
    ),
    Start(
        name="an Envoy that is another program is not used",
        options=("gw", "--envoy", "/bin/true"),
        exits=1,
        says=("/bin/true is no Envoy that runs here", "/bin/true --version"),
    ),
    Start(
        name="an Envoy that ends at once is named with its words",
        options=("gw", "--envoy", "HOME/envoy"),
        prepare=lambda home: program(home / "envoy", "#!/bin/sh\necho no luck >&2; exit 1\n"),
        exits=1,
        says=("HOME/envoy", "'no luck'", "status 1"),
    ),
    Start(
        name="an Envoy that is made for another machine is named with this one",
        options=("gw", "--envoy", "HOME/envoy"),
        prepare=lambda home: program(home / "envoy", "\x7fELF"),
        exits=1,
        says=("HOME/envoy", "exec format error", os.uname().machine),
    ),
    Start(
        name="a folder that does not exist is named",
        options=("nowhere",),
        exits=2,
        says=("'nowhere'", "HOME", "name one that holds manifests"),
    ),
    Start(
        name="a folder for runs that is a file is named",
        options=("gw", "--run-dir", "HOME/file"),
        prepare=lambda home: (home / "file").touch(),
        exits=1,
        says=("HOME/file", "file exists", "--run-dir"),
    ),
    Start(
        name="a folder for runs that may not be written is named",
        options=("gw", "--run-dir", "HOME/closed"),
        prepare=lambda home: (home / "closed").mkdir(mode=0o500),
        exits=1,
        says=("HOME/closed", "permission denied", "--run-dir"),
    ),
    Start(
        name="a folder for runs whose path is too long is named",
        options=("gw", "--run-dir", f"HOME/{'r' * 120}"),
        exits=1,
        says=("r" * 120, "--run-dir"),
    ),
    Start(
        name="a configuration that cannot be read is named",
        options=("gw", "--config", "HOME/gw"),
        exits=2,
        says=("HOME/gw", "cannot be read"),
    ),
)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for Unix sockets, which those of pytest do not on each machine."""
    with TemporaryDirectory(prefix="m") as folder:
        yield Path(folder)


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in STARTS])
def test_what_keeps_it_from_starting_is_said_in_one_line(short_path: Path, fault: Start) -> None:
    """With the exit code that a script relies on, and no trace of Python."""
    (short_path / "gw").mkdir()
    (short_path / "gw" / "a.yaml").write_text(GATEWAY)
    fault.prepare(short_path)
    options = [option.replace("HOME", str(short_path)) for option in fault.options]
    if "--run-dir" not in options:
        options += ["--run-dir", str(short_path / "r")]

    ended = subprocess.run(
        [sys.executable, "-m", "moongate", "run", *options, "--log-format", "text"],
        cwd=short_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        preexec_fn=humbled if os.geteuid() == 0 else None,
    )

    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == fault.exits, ended.stderr
    assert [words for words in fault.says if words.replace("HOME", str(short_path)) not in last] == [], last
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["validate", "translate", "version"])
def test_an_output_without_room_is_said_in_one_line(short_path: Path, command: str) -> None:
    """A script must know that what it has is not all; it is no bug of moongate."""
    (short_path / "a.yaml").write_text(GATEWAY)
    arguments = [] if command == "version" else [short_path]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "moongate", command, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.returncode == 1
    assert ended.stderr == "moongate: The output cannot be written: no space left on device.\n"


GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: moongate
  listeners: [{name: http, port: 10080, protocol: HTTP}]
"""


class Trouble(Struct, frozen=True, kw_only=True):
    """A fault of the machine while moongate runs.

    Args:
        name: a sentence about the product.
        start: what differs in how it is started: arguments of ``House.running``.
        prepare: what is done before it starts.
        act: what is done while it runs.
        says: words that one line of the log has, besides each other; nothing if the log cannot be read.
        requests: what requests get meanwhile, where it is not what ``HEALTHY`` says.
        fails: why requests of the route that has nothing to do with it fail until it is over; none if empty.
        validates: words of ``validate`` meanwhile, which then ends with an exit code that is not 0.
        edits: whether another edit takes effect meanwhile.
        lasts: whether it is there from the start.
        rereads: whether the kernel says nothing of edits, so that SIGHUP is needed to see them at once.
        heal: what ends it, after which all is well.
        ends: whether the moongate is told to end while it lasts, instead of all else.
        passes: whether nothing is left of it, so that the same moongate meets the next one.
    """

    name: str
    start: Callable[[House], dict[str, Any]] = lambda _house: {}
    prepare: Callable[[House], Any] = lambda _house: None
    act: Callable[[House], Any] = lambda _house: None
    says: tuple[str, ...] = ()
    requests: dict[str, int | str] = {}
    fails: str = ""
    validates: tuple[str, ...] = ()
    edits: bool = True
    lasts: bool = False
    rereads: bool = False
    heal: Callable[[House], Any] = lambda _house: None
    ends: bool = False
    passes: bool = False


async def opened(house: House, probe: str) -> str:
    """A claim that requests of a probe find an open port."""
    return f"{probe} finds no open port" if await house.ask(probe) == "ConnectError" else ""


GONE = dict.fromkeys(HEALTHY, "ConnectError")
FOREIGN: list[socket.socket] = []
"""Ports that another program has."""


def envoy_of_gateway(house: House) -> psutil.Process:
    """The Envoy that listens on the port of the first Gateway."""
    port = int(house.values["PORT"])
    return next(e for e in house.envoys() if port in {c.laddr.port for c in e.net_connections() if c.laddr})


def limited(house: House, number: int, least: int = 0) -> None:
    """Give the running process a limit, at least what it has open."""
    process = psutil.Process(house.process.pid)
    _, hard = process.rlimit(number)
    process.rlimit(number, (least, hard))


def take_port(house: House) -> None:
    FOREIGN.append(socket.create_server(("127.0.0.1", int(house.values["SIDE_PORT"]))))


def give_port_back(_house: House) -> None:
    while FOREIGN:
        FOREIGN.pop().close()


def unread_pipe() -> int:
    """The writing end of a pipe that is full, and that nobody reads."""
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return writing


def broken_pipe() -> int:
    """The writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def by_shell(redirection: str) -> dict[str, Any]:
    """Started by a shell that closes a standard stream."""
    return {"before": ("/bin/sh", "-c", f'exec {" ".join(PROGRAM)} "$@" {redirection}', "-")}


def shift(seconds: int) -> Callable[[House], Any]:
    return lambda house: house.shift.write_text(str(seconds))


# --- mounts and limits -----------------------------------------------------------------------------


def in_user_namespace(setting: str) -> dict[str, Any]:
    """Started in a user namespace of its own, where the kernel gives nothing of this kind."""
    script = f'echo 0 >/proc/sys/user/{setting} && exec {" ".join(PROGRAM)} "$@"'
    if subprocess.run(["unshare", "-Ur", "sh", "-c", ":"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespaces (unshare -Ur)")
    return {"before": ("unshare", "-Ur", "sh", "-c", script, "-")}


@cache
def mounts_of_its_own() -> bool:
    """Whether this process can mount, unseen by all others; its children see the same."""
    libc = ctypes.CDLL(None)
    return not libc.unshare(_NEW_MOUNTS) and not libc.mount(b"none", b"/", None, _PRIVATE, None)


_NEW_MOUNTS, _PRIVATE = 0x20000, 0x4000 | 0x40000


def mounted(folder: Path, options: str = "size=1m") -> Path:
    """A file system of its own at a folder."""
    if not mounts_of_its_own():
        pytest.skip("this user may not mount (unshare -m needs CAP_SYS_ADMIN)")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=755", "none", folder], check=True)
    return folder


def empty(house: House) -> None:
    """Leave nothing at the place where a disk is to be mounted."""
    shutil.rmtree(house.folder)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)


def remove(folder: Path) -> None:
    """Remove a folder into which others write meanwhile."""
    for _ in range(100):
        try:
            return shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
    raise TimeoutError(f"{folder} never stayed empty")


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), (folder / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


TROUBLES = (
    Trouble(
        name="a full disk under the log holds nothing up",
        start=lambda _house: {"stderr": os.open("/dev/full", os.O_WRONLY)},
    ),
    Trouble(
        name="a full disk under the access log holds nothing up",
        start=lambda _house: {"stdout": os.open("/dev/full", os.O_WRONLY)},
    ),
    Trouble(
        name="a reader of the log that stalls holds nothing up",
        start=lambda _house: {"stderr": unread_pipe()},
    ),
    Trouble(
        name="a reader of both logs that stalls holds nothing up",
        start=lambda _house: {"stdout": (pipe := unread_pipe()), "stderr": pipe},
    ),
    Trouble(
        name="a reader of the log that stalls does not keep it from ending",
        start=lambda _house: {"stdout": (pipe := unread_pipe()), "stderr": pipe},
        ends=True,
    ),
    Trouble(
        name="a reader of both logs that has gone holds nothing up",
        start=lambda _house: {"stdout": (pipe := broken_pipe()), "stderr": pipe},
    ),
    Trouble(
        name="a standard output that is closed holds nothing up",
        start=lambda _house: by_shell(">&-"),
    ),
    Trouble(
        name="a standard error that is closed holds nothing up",
        start=lambda _house: by_shell("2>&-"),
    ),
    Trouble(
        name="a standard input that is closed holds nothing up",
        start=lambda _house: by_shell("<&-"),
    ),
    Trouble(
        name="a file of the log that may not grow holds nothing up",
        act=lambda house: limited(house, resource.RLIMIT_FSIZE),
        # For a second after this, nothing that is said is written.
        heal=lambda house: limited(house, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY),
    ),
    Trouble(
        name="without descriptors an edit waits until there are some",
        # Below the number of those that are open, as there may be free ones among them.
        act=lambda house: (limited(house, resource.RLIMIT_NOFILE, 3), house.turn()),
        says=("too many open files", "turn.yaml"),
        edits=False,
        heal=lambda house: limited(house, resource.RLIMIT_NOFILE, 1024),
        passes=True,
    ),
    Trouble(
        name="a clock that is set back by a day holds nothing up",
        act=shift(-86_400),
        heal=shift(0),
        passes=True,
    ),
    Trouble(
        name="a clock that is set forward by a month holds nothing up",
        act=shift(30 * 86_400),
        heal=shift(0),
        passes=True,
    ),
    Trouble(
        name="a clock that is set back before the certificate began closes its listener with the next edit",
        act=lambda house: (
            shift(-20 * 365 * 86_400)(house),
            (house.folder / "extra.yaml").write_text(
                "apiVersion: v1\nkind: Secret\nmetadata: {name: extra}\nstringData: {a: b}\n"
            ),
        ),
        says=("Secret default/certificate", "not valid yet", "serves nothing"),
        requests={"secure": "ConnectError"},
        heal=lambda house: (shift(0)(house), (house.folder / "extra.yaml").unlink()),
        passes=True,
    ),
    Trouble(
        name="an Envoy that is killed is started again",
        act=lambda house: envoy_of_gateway(house).kill(),
        fails="nobody has the port until another Envoy listens",
        says=("envoy.ended", "default/gateway", "SIGKILL"),
        passes=True,
    ),
    Trouble(
        name="an Envoy that is told to end by somebody else is started again",
        act=lambda house: envoy_of_gateway(house).terminate(),
        fails="nobody has the port until another Envoy listens",
        says=("envoy", "default/gateway"),
        passes=True,
    ),
    Trouble(
        name="an Envoy that is frozen keeps its requests waiting, and goes on where it was",
        act=lambda house: (envoy_of_gateway(house).suspend(), house.turn()),
        requests={**dict.fromkeys(HEALTHY, "ReadTimeout"), "secure": "ConnectTimeout", "side": 200},
        fails="clients give up before the Envoy goes on",
        edits=False,
        heal=lambda house: [envoy.resume() for envoy in house.envoys()],
        passes=True,
    ),
    Trouble(
        name="a port that another program has is named with it, and taken when it is free",
        prepare=take_port,
        lasts=True,
        says=("@SIDE_PORT@", "is taken by"),
        requests={"side": "ReadTimeout"},
        heal=give_port_back,
    ),
    Trouble(
        name="a socket of the status that is removed costs the status alone",
        act=lambda house: [path.unlink() for path in (house.home / "r").glob("*/status.sock")],
    ),
    Trouble(
        name="a folder of the run that is removed costs no request and no edit",
        act=lambda house: remove(house.home / "r"),
    ),
    Trouble(
        name="a kernel that has no inotify instances left is named with its setting, and SIGHUP shows edits",
        start=lambda _house: in_user_namespace("max_inotify_instances"),
        says=("fs.inotify.max_user_instances", "every 10 seconds"),
        lasts=True,
        rereads=True,
    ),
    Trouble(
        name="a kernel that watches no more folders is named with its setting, and SIGHUP shows edits",
        start=lambda _house: in_user_namespace("max_inotify_watches"),
        says=("fs.inotify.max_user_watches", "every 10 seconds"),
        lasts=True,
        rereads=True,
    ),
    Trouble(
        name="a full disk under the state folder costs only what a next start would know",
        start=lambda house: {"options": ("--state-dir", str(house.home / "state"))},
        prepare=lambda house: fill(mounted(house.home / "state", "size=4k,nr_inodes=2")),
        lasts=True,
        says=("state.failed", "no space left on device", "next start"),
        heal=lambda house: unmount(house.home / "state"),
    ),
    Trouble(
        name="a folder on a full disk stays in force where an edit cannot be written",
        prepare=lambda house: (mounted(house.folder, "size=256k"), house.mend(), house.turn()),
        act=lambda house: fill(house.folder),
        edits=False,
        heal=lambda house: (house.folder / "fill").unlink(),
    ),
    Trouble(
        name="a file that a full disk has emptied takes its resource away, and says what that costs",
        prepare=lambda house: (mounted(house.folder, "size=256k"), house.mend(), house.turn()),
        act=lambda house: (fill(house.folder), (house.folder / "shop.yaml").write_bytes(b"")),
        says=("limits.yaml", "HTTPRoute default/shop", "no effect"),
        requests={"shop": 404},
        validates=("limits.yaml", "HTTPRoute default/shop", "no effect"),
        edits=False,
        heal=lambda house: ((house.folder / "fill").unlink(), house.mend()),
    ),
    Trouble(
        name="a folder on a disk that may only be read is served",
        prepare=lambda house: (
            mounted(house.folder),
            house.mend(),
            house.turn(),
            remount(house.folder, "ro"),
        ),
        edits=False,
        heal=lambda house: remount(house.folder, "rw"),
    ),
    Trouble(
        name="a disk that is unmounted stays in force until it is back",
        prepare=lambda house: (empty(house), mounted(house.folder), house.mend(), house.turn()),
        act=lambda house: unmount(house.folder),
        says=("no manifests any more", "stay in force"),
        validates=("no manifest",),
        edits=False,
        heal=lambda house: (mounted(house.folder), house.mend()),
    ),
    Trouble(
        name="a disk that is mounted over the folder later is served from then on",
        prepare=lambda _house: mounts_of_its_own(),
        act=lambda house: (mounted(house.folder), house.mend()),
    ),
    Trouble(
        name="a folder that is moved away stays in force until it is back",
        act=lambda house: house.folder.rename(house.home / "away"),
        says=("no such file or folder", "in force"),
        validates=("there is no file or folder",),
        edits=False,
        heal=lambda house: (house.home / "away").rename(house.folder),
        passes=True,
    ),
    Trouble(
        name="a folder that may not be read any more stays in force",
        act=lambda house: house.folder.chmod(0o000),
        says=("permission denied", "stay"),
        validates=("permission denied",),
        edits=False,
        heal=lambda house: house.folder.chmod(0o755),
        passes=True,
    ),
    Trouble(
        name="a folder that is removed and written anew within a moment costs no request",
        act=lambda house: (shutil.rmtree(house.folder), house.mend()),
        passes=True,
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """A folder and a client for all rows; each starts a moongate of its own."""
    async with house(tmp_path_factory.mktemp("m")) as built:
        yield built


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lived_in(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """One moongate for all rows that leave nothing."""
    async with house(tmp_path_factory.mktemp("n")) as built, built.running():
        await built.well()
        yield built


def rows(*, passes: bool) -> list[Any]:
    return [pytest.param(trouble, id=trouble.name) for trouble in TROUBLES if trouble.passes == passes]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("trouble", rows(passes=True))
async def test_a_fault_of_the_machine_that_passes_leaves_nothing(lived_in: House, trouble: Trouble) -> None:
    """Requests go on, edits take effect where they can, it is said, and all is well when it is over."""
    await outlives(lived_in, trouble, lived_in.mark(), lived_in.output.stat().st_size)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("trouble", rows(passes=False))
async def test_a_fault_of_the_machine_hurts_nothing_else_and_is_said(home: House, trouble: Trouble) -> None:
    """Requests go on, edits take effect where they can, and all is well when it is over."""
    while home.folder.is_mount():
        unmount(home.folder)
    home.mend()
    home.turn()
    trouble.prepare(home)
    began, asked = home.mark(), home.output.stat().st_size
    async with home.running(**trouble.start(home)):
        await until(home.serves(str(home.last)))
        # The other Gateway has an Envoy of its own, which starts at its own time.
        await until(partial(opened, home, "side"))
        if trouble.ends:
            home.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(DEADLINE_S):
                assert await home.process.wait() == 0
            return
        await outlives(home, trouble, began, asked)


async def outlives(home: House, trouble: Trouble, began: int, asked: int) -> None:
    """Try a row with a moongate that runs.

    Args:
        home: its house.
        trouble: the row.
        began: where its part of the log begins.
        asked: where its part of the access log begins.
    """
    before = None
    if not trouble.lasts:
        await until(home.is_settled)
        before = await home.footprint()

    async with home.steady() as answers:
        trouble.act(home)
        try:
            await suffers(home, trouble, began)
        finally:
            # The rows that follow may have the same moongate.
            trouble.heal(home)
        await edited(home, trouble)
        over = monotonic()
        await until(home.gets(HEALTHY))
    assert strays(answer for answer in answers if not trouble.fails or answer.sent > over)[:5] == []
    await home.shows_no_secret(began, asked)
    if before is not None:
        await until(home.holds_no_more(before))
    assert home.process.returncode is None
    assert "Traceback" not in home.raw(began)


async def suffers(home: House, trouble: Trouble, began: int) -> None:
    """Check what holds while the fault lasts."""
    if trouble.edits:
        await edited(home, trouble)
    await until(home.has_said(began, tuple(map(home.rendered, trouble.says))))
    await until(home.gets({**HEALTHY, **trouble.requests}))
    code, _, out = home.validated()
    assert [words for words in trouble.validates if words.lower() not in out.lower()] == [], out
    assert bool(code) == bool(trouble.validates), out


async def edited(home: House, trouble: Trouble) -> None:
    """Make an edit, and return when it is in force."""
    turn = str(home.turn())
    if trouble.rereads:
        home.process.send_signal(signal.SIGHUP)
    await until(home.serves(turn))
