"""What a policy on a Gateway costs: ``python -m bench.gateway_policy``, with 1,000 and 5,000 routes under it.

A policy is edited again and again. An edit is *served* when the last route answers accordingly. Until all of
it is acknowledged, endpoints change one after another, each measured as ``bench`` does it: they must not wait
for the edit. Another client asks for one route after the other all the while, and none of its requests may
fail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import fmean, median
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
import psutil
from msgspec import Struct

from bench.child import Child
from bench.figures import plain_table, verdict
from bench.measure import cpu_s
from bench.prober import DEADLINE_S, Prober
from bench.scene import Edit, Scene, Tables
from bench.upstream import CONNECTION, ENDPOINT, TIMEOUT
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.prober import Answer

TARGET_ENDPOINT_MS: Final = 50
"""How long an endpoint may take in the middle of an edit."""

TARGET_SLICE_MS: Final = 20
"""How long one callback of the event loop may take."""

LATE: Final = "x-bench-late"
"""Response header that the connection manager adds."""

_BEGAN: Final = monotonic()

_AT_REST: Final = 30
"""How many endpoints are changed before the first edit."""

_OTHERS_PAUSE_S: Final = 0.01
"""Between two requests of the other client."""

_POLICY = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: {kind}
metadata: {{name: {name}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {target}, name: {of}}}]
  {spec}
"""

# As many as that, for one route is asked more than a thousand times until it is served, and none may fail.
_LIMIT = "rateLimit: {{type: Global, global: {{rules: [{{limit: {{requests: {0}00000, unit: Hour}}}}]}}}}"
_TIMEOUT = "timeout: {{http: {{requestTimeout: {0}s}}}}"


class Kind(Struct, frozen=True):
    """A kind of edits.

    Args:
        name: what it is called in the table.
        spec: of the policy, with ``{0}`` for a number that is another one in each edit; None for a removal.
        served: whether the last route answers according to that number, given also its answer before.
        before: the spec from which each edit starts, if that is not what the edit before has left.
        policy: the kind of policy, its name, and the kind of its target.
        anew: whether only new connections show it.
    """

    name: str
    spec: str | None
    served: Callable[[int, Answer, Answer], bool]
    before: str | None = None
    policy: tuple[str, str, str] = ("BackendTrafficPolicy", "bench", "Gateway")
    anew: bool = False


def _has_timeout(number: int, answer: Answer, _before: Answer) -> bool:
    return answer.headers.get(TIMEOUT) == str(1000 * number)


def _has_other_timeout(_number: int, answer: Answer, before: Answer) -> bool:
    return answer.headers.get(TIMEOUT) != before.headers.get(TIMEOUT)


def _is_limited(number: int, answer: Answer, _before: Answer) -> bool:
    return answer.headers.get("x-ratelimit-limit", "").startswith(f"{number}00000,")


def _has_other_connection(_number: int, answer: Answer, before: Answer) -> bool:
    # A cluster that is replaced has connections of its own.
    return answer.headers[CONNECTION] != before.headers[CONNECTION]


def _is_late(number: int, answer: Answer, _before: Answer) -> bool:
    return answer.headers.get(LATE) == str(number)


_LATE = "lateResponseHeaders: {{set: [{{name: x-bench-late, value: '{0}'}}]}}"
_CLIENTS = f"headers: {{{{enableEnvoyHeaders: true, {_LATE}}}}}"

KINDS: Final = (
    Kind("in each route: `timeout`", _TIMEOUT, _has_timeout),
    Kind("the first policy: `timeout`", _TIMEOUT, _has_timeout, before=""),
    Kind("no policy any more", None, _has_other_timeout, before=_TIMEOUT),
    Kind(
        "in each cluster: `circuitBreaker`", "circuitBreaker: {{maxConnections: {0}}}", _has_other_connection
    ),
    Kind("a first `rateLimit`", _LIMIT, _is_limited, before=_TIMEOUT),
    Kind("another `rateLimit`", _LIMIT, _is_limited),
    Kind(
        "in the listener: `headers` of clients",
        _CLIENTS,
        _is_late,
        policy=("ClientTrafficPolicy", "clients", "Gateway"),
        anew=True,
    ),
    Kind(
        "of one route: `timeout`",
        _TIMEOUT,
        _has_timeout,
        policy=("BackendTrafficPolicy", "one", "HTTPRoute"),
    ),
)
"""In this order: what a kind starts from is what the one before it has left."""


class Series(Struct, frozen=True, kw_only=True):
    """Edits of one kind; what is a list has an entry for each.

    Args:
        kind: of the edits.
        served_ms: file written → the last route is served accordingly.
        settled_ms: file written → all is handed out and acknowledged.
        cpus_ms, envoy_cpus_ms: CPU of moongate and of its Envoy, both with what endpoints and requests took.
        slices: how often settling paused for the event loop.
        longest_ms: CPU of the longest callback of the event loop.
        longest: what that was, in the worst edit.
        runs: functions run, at the mean.
        functions: the same by name.
        bytes: sent, at the mean; with the endpoints.
        endpoints_ms: all changes of endpoints in the middle of these edits: written → served.
        sent_ms: the same: written → handed to the stream. What comes after is gRPC's and Envoy's.
        requests, failed: of the other client.
        failures: of each failed request when it failed, its route, and the answer.
        long_callbacks: the longest callbacks by what they were, milliseconds of CPU; of all edits.
    """

    kind: str
    served_ms: list[float]
    settled_ms: list[float]
    cpus_ms: list[float]
    envoy_cpus_ms: list[float]
    slices: list[int]
    longest_ms: list[float]
    longest: str
    runs: float
    functions: dict[str, float]
    bytes: float
    endpoints_ms: list[float]
    sent_ms: list[float]
    requests: int
    failed: int
    failures: list[str]
    long_callbacks: dict[str, int]


class Size(Struct, frozen=True, kw_only=True):
    """All that was measured with one number of routes; first the endpoints while nothing else changes."""

    routes: int
    at_rest_ms: list[float]
    edits: list[Series]


class _Moved(Struct, frozen=True):
    """A change of an endpoint: written → served, and written → handed to the stream."""

    served_ms: float
    sent_ms: float


class _Edited(Struct, kw_only=True):
    """What was seen of one edit."""

    served_ms: float = 0.0
    settled_ms: float = 0.0
    cpu_ms: float = 0.0
    envoy_cpu_ms: float = 0.0
    slices: int = 0
    longest: dict[str, Any] = {}
    long: dict[str, int] = {}
    runs: dict[str, int] = {}
    bytes: int = 0
    endpoints: list[_Moved] = []


class _Others:
    """A client that asks for one route after the other, on a connection of its own."""

    def __init__(self, prober: Prober, scene: Scene) -> None:
        self._prober = prober
        self._scene = scene
        self.requests = 0
        self.failures: list[str] = []

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            host = self._scene.host(self.requests * 7919 % self._scene.routes)
            answer = await self._prober.ask(host)
            self.requests += 1
            if answer is None or answer.status != 200:
                words = self._prober.fault if answer is None else f"{answer}"
                self.failures.append(f"[{monotonic() - _BEGAN:.1f} s] {host}: {words}")
                _say(f"a request failed: {host}: {words}")
            await asyncio.sleep(_OTHERS_PAUSE_S)


class _Bench:
    """One number of routes, with the Envoy up."""

    def __init__(
        self, scene: Scene, gateway: Child, probers: tuple[Prober, Prober, Prober], until: float
    ) -> None:
        self._scene = scene
        self._until = until
        self._gateway = gateway
        self._prober, self._endpoints, others = probers
        (self._envoy,) = (
            each.pid for each in psutil.Process(gateway.pid).children() if "envoy" in each.name()
        )
        self.others = _Others(others, scene)
        self._random = random.Random(5000)
        self._number = 1000

    async def series(self, kind: Kind, edits: int) -> Series:
        """Edit a policy in one way, again and again."""
        _say(f"{self._scene.routes:,} routes: {kind.name}")
        seen: list[_Edited] = []
        requests, failed = self.others.requests, len(self.others.failures)
        for _ in range(edits):
            if seen and monotonic() > self._until:
                break
            if kind.before is not None:
                await self._prepare(kind, kind.before)
            elif not seen and kind.spec is not None:
                await self._prepare(kind, kind.spec)
            seen.append(await self._edit(kind))
        names = {name for each in seen for name in each.runs}
        functions = {name: fmean(each.runs.get(name, 0) for each in seen) for name in names}
        worst = max(seen, key=lambda each: each.longest["cpu_ms"])
        return Series(
            kind=kind.name,
            served_ms=[each.served_ms for each in seen],
            settled_ms=[each.settled_ms for each in seen],
            cpus_ms=[each.cpu_ms for each in seen],
            envoy_cpus_ms=[each.envoy_cpu_ms for each in seen],
            slices=[each.slices for each in seen],
            longest_ms=[each.longest["cpu_ms"] for each in seen],
            longest=worst.longest["what"],
            runs=sum(functions.values()),
            functions=dict(sorted(functions.items(), key=lambda item: -item[1])),
            bytes=fmean(each.bytes for each in seen),
            endpoints_ms=[moved.served_ms for each in seen for moved in each.endpoints],
            sent_ms=[moved.sent_ms for each in seen for moved in each.endpoints],
            requests=self.others.requests - requests,
            failed=len(self.others.failures) - failed,
            failures=self.others.failures[failed:],
            long_callbacks=_greatest(each.long for each in seen),
        )

    async def at_rest(self, count: int) -> list[float]:
        """Changes of endpoints while nothing else changes."""
        return [(await self._move_endpoint()).served_ms for _ in range(count)]

    async def settled(self) -> None:
        """Return when all is handed out and acknowledged."""
        await self._gateway.ask("await served")
        async with asyncio.timeout(DEADLINE_S):
            while not (await self._gateway.ask("turns"))["served"]:  # noqa: ASYNC110 - only an answer tells
                await asyncio.sleep(0.05)

    async def _settles(self) -> bool:
        """Whether something that was read is not handed out yet."""
        return (await self._gateway.ask("turns"))["settling"]

    async def _prepare(self, kind: Kind, spec: str) -> None:
        self._write(kind, spec)
        # Files are read by events, and nobody says when: a change that comes after is served after.
        await self._move_endpoint()
        await self.settled()

    def _write(self, kind: Kind, spec: str | None) -> None:
        resource, name, target = kind.policy
        path = self._scene.apps / f"policy-{name}.yaml"
        if not spec:
            if path.exists():
                Edit(path, None).write()
            return
        self._number += 1
        of = "bench" if target == "Gateway" else self._scene.name(self._last)
        text = _POLICY.format(kind=resource, name=name, target=target, of=of, spec=spec.format(self._number))
        Edit(path, text).write()

    @property
    def _last(self) -> int:
        return self._scene.routes - 1

    async def _edit(self, kind: Kind) -> _Edited:
        host = self._scene.host(self._last)
        before = await self._prober.ask(host)
        assert before is not None, "Envoy answers"
        figures, turns = await self._gateway.ask("figures"), await self._gateway.ask("turns")
        await self._gateway.ask("watch")
        cpus = cpu_s(self._gateway.pid), cpu_s(self._envoy)
        began = perf_counter()
        self._write(kind, kind.spec)
        claim = partial(kind.served, self._number)
        edited = _Edited(endpoints=[])
        async with asyncio.TaskGroup() as tasks:
            served = tasks.create_task(
                self._prober.until(host, lambda answer: claim(answer, before), anew=kind.anew)
            )
            # An endpoint that is read together with the policy may wait for it.
            while not await self._settles() and not served.done():  # noqa: ASYNC110 - only an answer tells
                await asyncio.sleep(0.001)
            await self._gateway.ask("await served")
            while True:
                edited.endpoints.append(await self._move_endpoint())
                if served.done() and (await self._gateway.ask("turns"))["served"]:
                    break
        edited.served_ms = 1000 * (served.result() - began)
        edited.settled_ms = 1000 * (perf_counter() - began)
        edited.cpu_ms = 1000 * (cpu_s(self._gateway.pid) - cpus[0])
        edited.envoy_cpu_ms = 1000 * (cpu_s(self._envoy) - cpus[1])
        after, turns_after = await self._gateway.ask("figures"), await self._gateway.ask("turns")
        edited.slices = turns_after["slices"] - turns["slices"]
        edited.longest, edited.long = turns_after["longest"], turns_after["long"]
        edited.runs = {name: n - figures["runs"].get(name, 0) for name, n in after["runs"].items()}
        edited.bytes = _sent(after) - _sent(figures)
        return edited

    async def _move_endpoint(self) -> _Moved:
        n = self._random.randrange(self._scene.routes // 2) * 2 + 1
        edit, port = self._scene.moved(n)
        began = perf_counter()
        edit.write()
        served = await self._endpoints.until(
            self._scene.host(n), lambda answer: answer.headers.get(ENDPOINT) == str(port)
        )
        # Where a cluster changes as well, its endpoints may be sent once more; the first time counts.
        times: list[float] = await self._gateway.ask("sent", name=self._scene.name(n))
        sent = min(at for at in times if at > began)
        await asyncio.sleep(self._random.uniform(0.005, 0.03))
        return _Moved(1000 * (served - began), 1000 * (sent - began))


def _say(words: str) -> None:
    print(f"[{monotonic() - _BEGAN:4.0f} s] {words}", file=sys.stderr, flush=True)


def _greatest(of: Iterable[dict[str, int]]) -> dict[str, int]:
    """The greatest of each name, the greatest first."""
    greatest: dict[str, int] = {}
    for each in of:
        for what, ms in each.items():
            greatest[what] = max(ms, greatest.get(what, 0))
    return dict(sorted(greatest.items(), key=lambda item: -item[1]))


def _sent(figures: dict[str, Any]) -> int:
    return sum(tally["bytes"] for tally in figures["sent"].values())


async def measure(routes: int, edits: int, tables: Tables, kinds: tuple[Kind, ...], until: float) -> Size:
    """The figures of one number of routes; no further edit begins after ``until``, and kinds are left out."""
    async with AsyncExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moongate-bench-")))
        upstream = await stack.enter_async_context(Child("bench.upstream", "2", log=top / "upstream.log"))
        scene = Scene(top, routes, await upstream.line())
        port = free_port()
        clients = _POLICY.format(
            kind="ClientTrafficPolicy", name="clients", target="Gateway", of="bench", spec=_CLIENTS.format(0)
        )
        Edit(scene.apps / "policy-clients.yaml", clients).write()
        paths = str(scene.gateway("gateway", port, tables)), str(scene.apps)
        gateway = await stack.enter_async_context(Child("bench.gateway", *paths, log=top / "gateway.log"))
        probers = [await stack.enter_async_context(Prober(port)) for _ in range(3)]
        await probers[0].until(scene.host(routes - 1), lambda answer: answer.status == 200)
        await gateway.line()
        bench = _Bench(scene, gateway, (probers[0], probers[1], probers[2]), until)
        await bench.settled()
        at_rest = await bench.at_rest(_AT_REST)
        async with asyncio.TaskGroup() as tasks:
            others = tasks.create_task(bench.others.run())
            series = [await bench.series(kind, edits) for kind in kinds if monotonic() < until]
            others.cancel()
        return Size(routes=routes, at_rest_ms=at_rest, edits=series)


def shown(size: Size) -> str:
    """The figures of one number of routes as a table."""
    rows: list[tuple[str, ...]] = [
        (
            f"edit of a policy over {size.routes:,} routes",
            "served: min / median",
            "… acknowledged",
            "CPU of moongate (of its Envoy)",
            "slices",
            "longest",
            "functions run",
            "bytes sent",
            "endpoints meanwhile: p50 / max",
            "requests (failed)",
        )
    ]
    rows += [
        (
            each.kind,
            f"{min(each.served_ms):,.0f} / {median(each.served_ms):,.0f} ms",
            f"{median(each.settled_ms):,.0f} ms",
            f"{median(each.cpus_ms):,.0f} ({median(each.envoy_cpus_ms):,.0f}) ms",
            f"{median(each.slices):.0f}",
            f"{median(each.longest_ms):.1f} ms",
            f"{each.runs:,.0f}",
            f"{each.bytes:,.0f}",
            f"{median(each.endpoints_ms):.1f} / {max(each.endpoints_ms):.1f} ms",
            f"{each.requests:,} ({each.failed})",
        )
        for each in size.edits
    ]
    return plain_table(rows)


def verdicts(sizes: list[Size]) -> str:
    """The targets, and whether they were met."""
    rows: list[tuple[str, ...]] = [("in the middle of all edits", "", "target")]
    for size in filter(lambda size: size.edits, sizes):
        endpoints = [ms for each in size.edits for ms in each.endpoints_ms]
        late = sum(ms > TARGET_ENDPOINT_MS for ms in endpoints)
        sent = [ms for each in size.edits for ms in each.sent_ms]
        late_sent = sum(ms > TARGET_ENDPOINT_MS for ms in sent)
        longest = max(ms for each in size.edits for ms in each.longest_ms)
        failed = sum(each.failed for each in size.edits)
        rest = size.at_rest_ms
        rows += [
            (
                f"{size.routes:,} routes: endpoints at rest p50 / max",
                f"{median(rest):.1f} / {max(rest):.1f} ms",
                "",
            ),
            (
                f"… meanwhile, of {len(endpoints):,}",
                f"{median(endpoints):.1f} / {max(endpoints):.1f} ms, {late} above {TARGET_ENDPOINT_MS} ms",
                f"< {TARGET_ENDPOINT_MS} ms: {verdict(is_met=not late)}",
            ),
            (
                "… … handed to the stream by moongate",
                f"{median(sent):.1f} / {max(sent):.1f} ms, {late_sent} above {TARGET_ENDPOINT_MS} ms",
                "",
            ),
            (
                "… longest callback of moongate",
                f"{longest:.1f} ms of CPU",
                f"< {TARGET_SLICE_MS} ms: {verdict(is_met=longest < TARGET_SLICE_MS)}",
            ),
            ("… requests failed", f"{failed}", f"none: {verdict(is_met=not failed)}"),
        ]
    return plain_table(rows)


def main() -> int:
    """The exit status: 0, whatever was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway_policy", description=__doc__)
    parser.add_argument("--routes", default="1000,5000", help="numbers of routes [%(default)s]")
    parser.add_argument("--edits", type=int, default=3, help="edits of each kind [%(default)s]")
    parser.add_argument(
        "--within", type=float, default=290, help="seconds after which no further edit begins [%(default)s]"
    )
    parser.add_argument(
        "--tables", choices=get_args(Tables), default="shipped", help="the form of route tables [%(default)s]"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="edits whose name has these words alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    options = parser.parse_args()
    kinds = tuple(kind for kind in KINDS if options.only in kind.name)
    sizes = list[Size]()
    print(f"{os.cpu_count()} cores; load average before the start {os.getloadavg()[0]:.1f}\n")
    for routes in map(int, options.routes.split(",")):
        _say(f"{routes:,} routes: starting")
        until = _BEGAN + options.within
        sizes.append(asyncio.run(measure(routes, options.edits, options.tables, kinds, until)))
        if left := len(kinds) - len(sizes[-1].edits):
            _say(f"the time is over: {left} kinds of edits are left out")
        print(shown(sizes[-1]), end="\n\n", flush=True)
    print(verdicts(sizes))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(sizes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
