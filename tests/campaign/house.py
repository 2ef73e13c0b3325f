"""``moongate run`` over a folder, as a process with a real Envoy: what is said, and what requests get.

Laws
====
What holds for every row of the campaign is checked here, not in the rows:

1. The process lives, and a route that has nothing to do with the fault answers a hundred requests a second
   all the while, each with 200 and from its own backend.
2. Each request that the row does not name gets what it gets while nothing is wrong.
3. Another edit takes effect while the fault lasts.
4. What is said of the fault has its place, resource, field, value and remedy; ``status`` ends with 1.
5. ``moongate validate`` says the same in the same words, and its exit code is that of the row.
6. No value of a Secret is said by anybody: not in the log, the access log, ``status``, ``validate``, nor in
   what Envoys say of their configuration.
7. When the fault is mended, all is as before, with no more descriptors, tasks and child processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import httpx
import psutil
from msgspec import Struct, structs

from moongate.cli import main
from moongate.patience import within
from moongate.sources.files import SETTLE_USED
from tests.campaign.fault import COLD, HERE, Fault, NotApplicable, Reading, places
from tests.campaign.healthy import CANARY, FILES, HEALTHY, TURN, in_base64, rendered
from tests.deadline import DEADLINE_S
from tests.e2e.backends import Echo
from tests.e2e.certificates import Authority
from tests.e2e.load import Answer, Load
from tests.ports import free_port

RATE: Final = 100.0
"""Requests a second of the steady client."""
PROGRAM: Final = (sys.executable, str(Path(__file__).with_name("program.py")))

_LINE = re.compile(
    r"(?:(?P<at>[^\s:][^:]*(?::\d+:\d+)?): )?"
    r"(?:(?P<severity>error|warning): )?"
    r"(?:(?P<of>[A-Z]\w+ [\w./-]+): )?"
    r"(?:(?P<field>[a-z]\S*): )?"
    r"(?P<text>.*)",
    re.DOTALL,
)

Claim = Callable[[], Awaitable[str]]
"""Says what is amiss; nothing when all is as it should be."""


class Said(Struct, frozen=True):
    """One message, in its parts; the same for the log of ``run`` and the lines of ``validate``."""

    severity: str
    at: str
    of: str
    field: str
    text: str


class Footprint(NamedTuple):
    """What a process holds, which must not grow with each fault."""

    descriptors: int
    tasks: int
    children: int


class House:
    """A running moongate, the folder that it serves, and a client."""

    def __init__(self, home: Path, client: httpx.AsyncClient, upstream: Echo, authority: Authority) -> None:
        self.home = home
        self.folder = home / "gw"
        self.log = home / "log"
        self.output = home / "output"
        self.shift = home / "shift"
        """Has the seconds that are added to the clock of the process."""
        self.shift.write_text("0")
        self.log.touch()
        self.output.touch()
        self.client = client
        self.process: Process
        self._counted = -1
        """The end of a pipe from which the number of tasks is read."""
        self.last = 0
        """The edit of the route that no row names that was made last."""
        certificate = authority.sign("secure.test")
        self.secret = certificate.key.decode().splitlines()[2]
        digest = in_base64(hashlib.sha1(b"open sesame").digest())
        self.values: dict[str, str] = {
            "PORT": str(free_port()),
            "TLS_PORT": str(free_port()),
            "SIDE_PORT": str(free_port()),
            "UPSTREAM": str(upstream.port),
            "CERTIFICATE": in_base64(certificate.pem),
            "KEY": in_base64(certificate.key),
            "DIGEST": digest,
        }
        self.secrets = (
            CANARY,
            in_base64(CANARY)[:6],
            digest,
            self.secret,
            in_base64(certificate.key)[100:140],
        )

    # -- the folder ---------------------------------------------------------

    def rendered(self, text: str) -> str:
        return rendered(text, self.values)

    def mend(self) -> None:
        """Make the folder what it was: no other file, and each as it was."""
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)
        for path in self.folder.iterdir():
            if path.name in FILES or path.name == "turn.yaml":
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and path.lstat().st_nlink == 1:
                    path.chmod(0o644)
                    continue
            _remove(path)
        for name, text in FILES.items():
            self._write(name, self.rendered(text))

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files of a row, without their marks."""
        for name, content in files.items():
            if content is None:
                (self.folder / name).unlink()
            elif isinstance(content, bytes):
                (self.folder / name).write_bytes(content)
            else:
                self._write(name, self.rendered(content).replace(HERE, ""))

    def turn(self) -> int:
        """Edit a route that no row names."""
        self.last += 1
        self._write("turn.yaml", rendered(self.rendered(TURN), {"TURN": str(self.last)}))
        return self.last

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            path.write_text(text, encoding="utf-8")

    def expected(self, reading: Reading, files: Mapping[str, str | bytes | None]) -> Reading:
        """A reading with the place that the row marks in what it writes."""
        at = reading.at
        text = files.get(at)
        if isinstance(text, str) and HERE in text:
            place = places(self.rendered(text))[reading.mark]
            at = f"{at}:{place.line}:{place.column}"
        value = self.rendered(reading.value) if isinstance(reading.value, str) else reading.value
        return structs.replace(reading, at=at, value=value)

    # -- the process --------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, *, options: Sequence[str] = (), before: Sequence[str] = (), **more: Any
    ) -> AsyncGenerator[None]:
        """Run as a daemon does, without a terminal, until the block is left.

        Args:
            options: of the command, besides those that all runs have.
            before: a command that starts it, instead of Python alone.
            more: how to start the process, where that differs from the usual.
        """
        self._counted, counting = os.pipe()
        os.set_blocking(self._counted, False)
        start = before or PROGRAM
        with self.log.open("ab") as log, self.output.open("ab") as output, self.shift.open("rb") as shift:
            streams: dict[str, Any] = {"stdout": output, "stderr": log}
            self.process = await asyncio.create_subprocess_exec(
                *(*start, "run", str(self.folder), "--run-dir", str(self.home / "r")),
                *("--log-format", "json", *options),
                preexec_fn=_begin_as_daemon,
                start_new_session=True,
                pass_fds=(counting, shift.fileno()),
                env={
                    **os.environ,
                    "CAMPAIGN_TASKS": str(counting),
                    "CAMPAIGN_SHIFT": str(shift.fileno()),
                },
                **{**streams, **more},
            )
        os.close(counting)
        try:
            yield
        finally:
            await self._end()
            os.close(self._counted)

    async def _end(self) -> None:
        """End the process as a user does who is in a hurry."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while self.process.returncode is None:
                    self.process.send_signal(signal.SIGINT)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.process.wait(), 0.2)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    def envoys(self) -> list[psutil.Process]:
        """The Envoys of this moongate."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "envoy" in child.name()]

    def opened(self) -> int:
        """Descriptors that the process has open."""
        return psutil.Process(self.process.pid).num_fds()

    async def footprint(self) -> Footprint:
        """What the process holds now."""
        self.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(DEADLINE_S):
            while not (counted := _read(self._counted)):  # noqa: ASYNC110 - no event tells of a pipe
                await asyncio.sleep(0.002)
        children = psutil.Process(self.process.pid).children(recursive=True)
        return Footprint(self.opened(), int(counted.split()[-1]), len(children))

    def holds_no_more(self, before: Footprint) -> Claim:
        """Whether the process holds no more than it did."""

        async def claim() -> str:
            now = await self.footprint()
            more = any(a > b for a, b in zip(now, before, strict=True))
            return f"it holds {now}, and held {before}" if more else ""

        return claim

    # -- what is said -------------------------------------------------------

    def mark(self) -> int:
        """Where the log ends now."""
        return self.log.stat().st_size

    def raw(self, since: int) -> str:
        with self.log.open("rb") as log:
            log.seek(max(since, 0))
            return log.read().decode(errors="replace")

    def events(self, since: int) -> Iterator[dict[str, Any]]:
        for line in self.raw(since).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)

    def said(self, since: int) -> list[Said]:
        """What the log says of faults, in parts."""
        return [said for event in self.events(since) if (said := self._of_event(event)) is not None]

    def _of_event(self, event: dict[str, Any]) -> Said | None:
        if event.get("level") not in {"warning", "error"}:
            return None
        if event["event"] == "manifest":
            return self.parsed(event["message"], event["level"])
        if event["event"] == "status.degraded":
            return Said(
                event["level"],
                self._short(event.get("at", "")),
                event["resource"],
                event.get("field", ""),
                event["message"],
            )
        text = " ".join(str(value) for key, value in event.items() if key not in {"level", "timestamp"})
        return Said(event["level"], "", "", "", self._short(text))

    def parsed(self, line: str, severity: str = "") -> Said:
        match = _LINE.fullmatch(self._short(line))
        assert match is not None
        return Said(
            match["severity"] or severity,
            match["at"] or "",
            match["of"] or "",
            match["field"] or "",
            match["text"],
        )

    def _short(self, text: str) -> str:
        return text.replace(f"{self.folder}/", "").replace(str(self.folder), ".")

    def report(self) -> tuple[int, dict[str, Any]]:
        """What ``moongate status`` says, and its exit code."""
        code, out = ran("status", "-o", "json", "--run-dir", self.home / "r")
        return code, json.loads(out) if out.startswith("{") else {}

    def validated(self, *options: str) -> tuple[int, list[Said], str]:
        """What ``moongate validate`` says of the folder as it is now, and its exit code."""
        code, out = ran("validate", self.folder, *options, humble=self._has_closed())
        return code, [self.parsed(line) for line in out.splitlines()[:-1]], out

    def _has_closed(self) -> bool:
        """Whether something in the folder may not be read, but by root."""
        if not self.folder.exists():
            return False
        return any(not path.lstat().st_mode & stat.S_IRUSR for path in (self.folder, *self.folder.iterdir()))

    # -- what requests get --------------------------------------------------

    async def ask(self, probe: str, *, timeout_s: float = 2.0) -> int | str:
        """What one request gets: its status, or how it failed."""
        host = f"{'private' if probe == 'member' else probe}.test"
        port, scheme = self.values["PORT"], "http"
        headers = {"host": host}
        extensions: dict[str, str] = {}
        if probe == "side":
            port = self.values["SIDE_PORT"]
        if probe == "member":
            headers["authorization"] = f"Basic {in_base64('member:open sesame')}"
        if probe == "secure":
            port, scheme = self.values["TLS_PORT"], "https"
            headers["connection"] = "close"
            extensions["sni_hostname"] = host
        try:
            answer = await self.client.get(
                f"{scheme}://127.0.0.1:{port}/", headers=headers, extensions=extensions, timeout=timeout_s
            )
        except httpx.TransportError as error:
            return type(error).__name__
        return answer.status_code

    async def turned(self) -> str:
        """Which edit of what no row names is in force."""
        try:
            answer = await self.client.get(
                f"http://127.0.0.1:{self.values['PORT']}/", headers={"host": "turn.test"}
            )
        except httpx.TransportError:
            return ""
        return answer.text

    async def answers(self) -> dict[str, int | str]:
        """What a request of each sort gets now."""
        return dict(zip(HEALTHY, await asyncio.gather(*map(self.ask, HEALTHY)), strict=True))

    @asynccontextmanager
    async def steady(self) -> AsyncGenerator[list[Answer]]:
        """Ask for the unhurt route again and again, until the block is left; all answers."""
        load, stop = Load(int(self.values["PORT"]), "other.test", RATE, 4), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(load.run(stop))
            try:
                yield load.answers
            finally:
                stop.set()
                await asking
        assert load.answers

    # -- a row --------------------------------------------------------------

    async def well(self) -> None:
        """Return when all is as it is while nothing is wrong."""
        turn = str(self.turn())

        async def is_well() -> str:
            if await self.turned() != turn:
                return "an edit is not in force"
            return await self.is_settled()

        try:
            await until(is_well)
        except AssertionError as error:
            error.add_note(f"The log ends so:\n{self.log.read_text()[-3000:]}")
            raise

    async def is_settled(self) -> str:
        """Claim that nothing is wrong."""
        code, report = self.report()
        if code:
            return f"the status says {_wrong(report)}"
        answers = await self.answers()
        return "" if answers == HEALTHY else f"requests get {answers}"

    async def suffers(self, fault: Fault) -> None:
        """Try a row: the fault, then its end. All laws are checked."""
        if fault.alone:
            await asyncio.sleep(2 * SETTLE_USED)  # no event tells that an edit is over
        before = await self.footprint()
        began, asked = self.mark(), self.output.stat().st_size
        readings = [self.expected(reading, fault.files) for reading in fault.reads]
        errors = any(reading.severity == "error" for reading in readings)
        try:
            self.write(fault.files)
            fault.act(self.folder)
            turn = str(self.turn())
            await until(self.serves(turn))
            await until(self._reads(began, readings))
            assert fault.reads or not self.said(began), (
                f"nothing is wrong, and it is said: {self.said(began)}"
            )
            await until(self.gets({**HEALTHY, **fault.requests}))
            code, report = self.report()
            assert code or not errors, f"status ends with {code}: {_wrong(report)}"
            self._agrees_with_validate(fault, began, readings)
            await self.shows_no_secret(began, asked)
        finally:
            self.mend()
            await self.well()
        self._holds_no_secret(self.raw(began))
        assert self.process.returncode is None
        await until(self.holds_no_more(before))

    def serves(self, turn: str) -> Claim:
        async def claim() -> str:
            if (served := await self.turned()) == turn:
                return ""
            return (
                f"not in force: edit {turn}; but: {served or 'none'}\nsaid:\n{self.raw(self.mark() - 4000)}"
            )

        return claim

    def has_said(self, since: int, words: Sequence[str]) -> Claim:
        """Whether one line of the log has all these words."""

        async def claim() -> str:
            lines = self.raw(since).splitlines() or [""]
            said = any(all(word.lower() in line.lower() for word in words) for line in lines)
            return "" if said else f"to be read: {words}\nsaid:\n" + "\n".join(lines)

        return claim

    def _reads(self, since: int, readings: Sequence[Reading]) -> Claim:
        async def claim() -> str:
            return missing(readings, self.said(since))

        return claim

    def gets(self, expected: Mapping[str, int | str]) -> Claim:
        async def claim() -> str:
            answers = await self.answers()
            wrong = {k: (v, expected[k]) for k, v in answers.items() if v != expected[k]}
            return f"requests get (and should): {wrong}" if wrong else ""

        return claim

    def _agrees_with_validate(self, fault: Fault, since: int, readings: Sequence[Reading]) -> None:
        code, lines, out = self.validated()
        self._holds_no_secret(out)
        if fault.unseen:
            assert code == 0, f"validate sees it: {out}"
            return
        assert code == fault.exits, out
        if not fault.differs:
            cold = [structs.replace(reading, meanwhile=COLD) for reading in readings]
            assert not missing(cold, lines)
            for said in self.said(since):
                words = _words(said.text)
                same = [s for s in lines if (s.at, s.of) == (said.at, said.of) and words in s.text]
                assert same, f"run says\n  {said}\nand validate\n{out}"

    async def shows_no_secret(self, log: int, output: int) -> None:
        """Check all that anybody can read, of the log and the access log from these places on."""
        with self.output.open("rb") as lines:
            lines.seek(output)
            access = lines.read().decode(errors="replace")
        self._holds_no_secret(self.raw(log), access, json.dumps(self.report()), *await self.dumps())

    async def dumps(self) -> list[str]:
        """What the Envoys say of their configuration."""
        dumps: list[str] = []
        for socket in self.home.glob("r/*/envoy-*.sock"):
            # No certificates are loaded, which would take longer than all else here.
            transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
            async with httpx.AsyncClient(transport=transport, timeout=DEADLINE_S, trust_env=False) as admin:
                dumps.append((await admin.get("http://admin/config_dump?include_eds")).text)
        return dumps

    def _holds_no_secret(self, *texts: str) -> None:
        shown = [secret for secret in self.secrets for text in texts if secret in text]
        assert not shown, f"a secret is shown: {shown}"


def strays(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that are not 200, or that come from another backend."""
    return [answer for answer in answers if (answer.status, answer.backend) != (200, "one")]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""


def ran(*arguments: str | Path, humble: bool = False) -> tuple[int, str]:
    """A command: its exit code, and what it wrote. ``humble`` is without the rights of root."""
    words = [str(argument) for argument in arguments]
    if humble and os.geteuid() == 0:
        command = (sys.executable, "-m", "moongate", *words)
        ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=humbled, check=False)
        return ended.returncode, ended.stdout + ended.stderr
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    return code, out.getvalue()


def _begin_as_daemon() -> None:
    """Have no right of root, and do not ignore the signal that reads files again.

    Whoever runs the tests may ignore it (``nohup``), and a process that is started inherits that.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.geteuid() == 0:
        humbled()


def humbled() -> None:
    """Give up the right of root to read what nobody may read, in a process that is about to start."""
    libc = ctypes.CDLL(None)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_DROP_FROM_BOUNDING_SET = 24


def missing(readings: Iterable[Reading], said: Sequence[Said]) -> str:
    """The first reading that nobody said, with what was said instead."""
    for reading in readings:
        if not any(_is_said(reading, each) for each in said):
            lines = "\n".join(f"  {each}" for each in said) or "  nothing"
            return f"to be read:\n  {reading}\nsaid:\n{lines}"
    return ""


def _is_said(reading: Reading, said: Said) -> bool:
    return (
        said.at == reading.at
        and said.of == reading.of
        and said.field == reading.field
        and all(
            isinstance(words, NotApplicable) or words in said.text
            for words in (reading.value, reading.right, reading.meanwhile)
        )
    )


_EFFECT = re.compile(
    r" (?:It may say who may pass, .*"
    r"|Its last good state stays in force\.|The last good state of .* in force: .*"
    r"|It is not in force until this is fixed\.|Nothing of this (?:document|file) is in force\."
    r"|The definition at .* is in force\.)$"
)


def _words(text: str) -> str:
    """A message without what is in force meanwhile, which differs where there is a last good state."""
    return _EFFECT.sub("", text)


def _wrong(report: Mapping[str, Any]) -> str:
    conditions = [
        f"{resource['kind']} {resource['metadata']['name']}: {c['type']} {c['status']}: {c['message']}"
        for resource in report.get("resources", ())
        for c in _conditions(resource["status"])
        if (c["status"] == "True") == (c["type"] in {"Conflicted", "PartiallyInvalid"})
    ]
    return "\n".join([*report.get("diagnostics", ()), *conditions, str(report.get("failures", ""))])


def _conditions(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        for key, value in cast("dict[str, Any]", tree).items():
            yield from value if key == "conditions" else _conditions(value)
    elif isinstance(tree, list):
        for value in cast("list[Any]", tree):
            yield from _conditions(value)


async def until(claim: Claim) -> None:
    """Return when nothing is amiss any more: ``claim`` says what is.

    A claim may stand still for long: some wait for a report of moongate. So what the last one says may be old
    by the time that the limit is over, and time in which none was made does not count.
    """
    amiss = ""
    try:
        async with within(DEADLINE_S):
            while amiss := await claim():  # noqa: ASYNC110 - no event tells of other processes
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(amiss or "it took too long") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o700)
        shutil.rmtree(path)
    else:
        path.unlink()


@asynccontextmanager
async def house(home: Path) -> AsyncGenerator[House]:
    """A house in good order, in which nothing runs yet."""
    async with AsyncExitStack() as stack:
        authority = Authority()
        client = await stack.enter_async_context(
            httpx.AsyncClient(verify=authority.client_context(), timeout=DEADLINE_S, trust_env=False)
        )
        upstream = await stack.enter_async_context(Echo("one").serving())
        built = House(home, client, upstream, authority)
        built.mend()
        yield built
