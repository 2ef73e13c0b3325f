"""The run: for each number of routes, moongate and the floor side by side, changed in turns.

Side by side, so that noise of the machine hits both alike; in turns, so that neither is measured while the
other works. Pauses between changes are of random length, for what is measured has timers.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psutil
from msgspec import Struct

from bench.child import Child
from bench.figures import Leak, Report, Series, Size
from bench.prober import Prober
from bench.scene import REVISION, Scene, Tables
from bench.upstream import ENDPOINT
from moongate.ads.session import LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.prober import Answer
    from bench.scene import Edit

MOST_ASKED = 8000
"""How many routes are asked for after the start."""

_QUIET_S = 1.0
_LEAK_PAUSE_S = 0.04


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure.

    Args:
        routes: numbers of routes, ascending.
        changes: of each kind, with each number.
        leak: further changes with the greatest number, 0 for none.
        rest_s: for how long nothing changes while CPU at rest is measured.
        tables: the form of route tables.
        profile: a folder for cProfile's files, one per kind of change; the figures then mean little.
        say: called with what goes on.
    """

    routes: tuple[int, ...]
    changes: int
    leak: int
    rest_s: float = 5.0
    tables: Tables = "shipped"
    profile: Path | None = None
    say: Callable[[str], None] = lambda _words: None


async def measure(plan: Plan) -> Report:
    """All figures."""
    busy = os.getloadavg()[0]
    sizes: list[Size] = []
    for routes in plan.routes:
        with tempfile.TemporaryDirectory(prefix="moongate-bench-") as folder:
            leak = plan.leak if routes == plan.routes[-1] else 0
            sizes.append(await _size(Path(folder), routes, leak, plan))
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB; load average before the start {busy:.1f}"
    return Report(machine=machine, sizes=sizes)


async def _size(folder: Path, routes: int, leak: int, plan: Plan) -> Size:
    plan.say(f"{routes:,} routes: translating")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Child("bench.upstream", "2", log=folder / "upstream.log"))
        scene = Scene(folder, routes, await upstream.line())
        ports = _free_ports(2)
        apps = str(scene.apps)

        floor = await stack.enter_async_context(
            Child("bench.floor", str(scene.gateway("floor", ports[1])), apps, log=folder / "floor.log")
        )
        await floor.line()
        cold = await floor.ask("translate")

        plan.say(f"{routes:,} routes: starting")
        began = perf_counter()
        gateway = await stack.enter_async_context(
            Child(
                "bench.gateway",
                str(scene.gateway("gateway", ports[0], plan.tables)),
                apps,
                log=folder / "gateway.log",
            )
        )
        bench = _Bench(
            scene,
            gateway,
            floor,
            await stack.enter_async_context(Prober(ports[0])),
            await stack.enter_async_context(Prober(ports[1])),
            plan,
        )
        started = await bench.all_served(bench.prober) - began
        await gateway.line()
        floor_began = await floor.ask("start")
        floor_started = await bench.all_served(bench.floor_prober) - floor_began

        process = psutil.Process(gateway.pid)
        await asyncio.sleep(_QUIET_S)  # until all that belongs to the start is over
        memory = process.memory_full_info()
        idle, envoy_idle = await bench.idle()
        envoy = psutil.Process(bench.envoy).memory_info().rss
        return Size(
            routes=routes,
            cold=started,
            cold_floor=floor_started,
            read=cold["read_s"],
            build=cold["build_s"],
            translation_cpu=cold["cpu_s"],
            rss=memory.rss,
            peak=_peak(gateway.pid),
            pss=memory.pss,
            envoy_rss=envoy,
            idle_cpu=idle,
            envoy_idle_cpu=envoy_idle,
            xds_bytes=cold["xds_bytes"],
            cold_runs=cold["runs"],
            changed=await bench.series("changed", bench.change_route),
            added=await bench.series("added", bench.add_route),
            endpoint=await bench.series("endpoint", bench.change_endpoint),
            leak=await bench.leak(leak) if leak else None,
        )


class _Change(Struct, frozen=True):
    """Edits, and how to see that they are served."""

    edits: Sequence[Edit]
    host: str
    claim: Callable[[Answer], bool]


class _Bench:
    """One number of routes, with both Envoys up."""

    def __init__(
        self, scene: Scene, gateway: Child, floor: Child, prober: Prober, floor_prober: Prober, plan: Plan
    ) -> None:
        self._scene = scene
        self._gateway = gateway
        self._floor = floor
        self.prober = prober
        self.floor_prober = floor_prober
        self._plan = plan
        self._random = random.Random(5000)
        self._count = 0
        self._next = scene.routes

    @cached_property
    def envoy(self) -> int:
        """The process id of moongate's Envoy, which is there by now."""
        (envoy,) = psutil.Process(self._gateway.pid).children()
        return envoy.pid

    async def idle(self) -> tuple[float, float]:
        """What moongate and its Envoy use of a core while nothing changes."""
        before = cpu_s(self._gateway.pid), cpu_s(self.envoy)
        rest_s = self._plan.rest_s
        await asyncio.sleep(rest_s)
        after = cpu_s(self._gateway.pid), cpu_s(self.envoy)
        return (after[0] - before[0]) / rest_s, (after[1] - before[1]) / rest_s

    async def all_served(self, prober: Prober) -> float:
        """When the last route was served, all others being so too: seconds of ``perf_counter``.

        Of very many, some are asked for: each has a connection of its own to the backend, which is a file.
        """
        at = await prober.until(self._scene.host(self._scene.routes - 1), _served)
        for n in range(0, self._scene.routes, 1 + self._scene.routes // MOST_ASKED):
            answer = await prober.ask(self._scene.host(n))
            if answer is None or not _served(answer):
                at = await prober.until(self._scene.host(n), _served)
        return at

    def change_route(self) -> _Change:
        """An existing route answers with another header."""
        self._count += 1
        n, revision = self._random.randrange(self._scene.routes), str(self._count)
        return _Change(
            (self._scene.route(n, revision),),
            self._scene.host(n),
            lambda answer: answer.headers.get(REVISION) == revision,
        )

    def add_route(self) -> _Change:
        """A route that was not there, with a backend that was not there."""
        n, self._next = self._next, self._next + 1
        return _Change(self._scene.added(n), self._scene.host(n), _served)

    def change_endpoint(self) -> _Change:
        """An EndpointSlice leads to the other port."""
        n = self._random.randrange(self._scene.routes // 2) * 2 + 1
        edit, port = self._scene.moved(n)
        return _Change(
            (edit,),
            self._scene.host(n),
            lambda answer: answer.headers.get(ENDPOINT) == str(port),
        )

    async def series(self, name: str, change: Callable[[], _Change]) -> Series:
        """Make a kind of change again and again, and measure it."""
        self._plan.say(f"{self._scene.routes:,} routes: {name}")
        profile = self._plan.profile
        await self._one(change())  # the first of its kind finds caches cold
        await self._floor_one(change())
        before = await self._gateway.ask("figures")
        if profile is not None:
            await self._gateway.ask("profile", to=None)
        served: list[float] = []
        floor: list[float] = []
        cpus: list[float] = []
        envoy_cpus: list[float] = []
        for _ in range(self._plan.changes):
            made = change()
            cpu_before, envoy_before = cpu_s(self._gateway.pid), cpu_s(self.envoy)
            served.append(await self._one(made))
            cpus.append(1000 * (cpu_s(self._gateway.pid) - cpu_before))
            envoy_cpus.append(1000 * (cpu_s(self.envoy) - envoy_before))
            floor.append(await self._floor_one(made))
        if profile is not None:
            file = profile.absolute() / f"{self._scene.routes}-{name}.pstats"
            await self._gateway.ask("profile", to=str(file))
        after = await self._gateway.ask("figures")
        functions: Counter[str] = Counter(after["runs"])
        functions.subtract(before["runs"])
        count = self._plan.changes
        return Series(
            served_ms=served,
            floor_ms=floor,
            cpus_ms=cpus,
            envoy_cpus_ms=envoy_cpus,
            bytes=(_sent(after) - _sent(before)) / count,
            runs=functions.total() / count,
            functions={name: runs / count for name, runs in functions.most_common() if runs},
        )

    async def leak(self, count: int) -> Leak:
        """Memory before and after many changes of all kinds, with as many routes at the end as before."""
        self._plan.say(f"{self._scene.routes:,} routes: {count:,} further changes")
        before = await self._memory()
        added: list[int] = []
        for n in range(count):
            match n % 4:
                case 0:
                    edits = self.change_route().edits
                case 1:
                    edits = self.change_endpoint().edits
                case 2:
                    added.append(self._next)
                    edits = self.add_route().edits
                case _:
                    edits = self._scene.removed(added.pop())
            for edit in edits:
                edit.write()
            await asyncio.sleep(_LEAK_PAUSE_S)
        for n in added:
            for edit in self._scene.removed(n):
                edit.write()
        return Leak(changes=count, before=before, after=await self._memory())

    async def _memory(self) -> int:
        """RSS of moongate when nothing is under way, and nothing waits to be removed or collected."""
        made = self.change_route()
        await self._one(made)
        await asyncio.sleep(LINGER_SECONDS + 1)
        await self._gateway.ask("settle")
        return psutil.Process(self._gateway.pid).memory_info().rss

    async def _one(self, change: _Change) -> float:
        *first, last = change.edits
        for edit in first:
            edit.write()
        began = perf_counter()
        last.write()
        served = await self.prober.until(change.host, change.claim)
        await self._pause()
        return 1000 * (served - began)

    async def _floor_one(self, change: _Change) -> float:
        await self._floor.ask("prepare", edits={str(edit.path): edit.text for edit in change.edits})
        await self._pause()
        began = await self._floor.ask("go")
        served = await self.floor_prober.until(change.host, change.claim)
        await self._pause()
        return 1000 * (served - began)

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0.05, 0.1))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all its threads together."""
    try:
        # The CPU clock of another process, see clock_getcpuclockid(3): to the nanosecond.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def _served(answer: Answer) -> bool:
    return answer.status == 200


def _sent(figures: dict[str, Any]) -> int:
    return sum(tally["bytes"] for tally in figures["sent"].values())


def _peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
