"""The harness of every feature that says who may pass: what is asked while policies change, and what may be.

A test says, for each configuration that it puts in force, who may pass to which host. ``Watch`` knows from
when to when each of them may be in force: from being given to moongate until ``served()`` has returned for
the next. A request that was under way then may be answered by any of these, and by nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tests.deadline import DEADLINE_S
from tests.e2e import callers
from tests.e2e.callers import PATIENCE_S, QUIC_KINDS, Answer, Plan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

SWITCH_S = 0.1
"""Envoy acknowledges from its main thread; its workers, and answers under way, may be so much behind."""

Passing = dict[str, frozenset[str]]
"""Host → the callers who may pass."""


class _Phase(NamedTuple):
    passing: Passing
    begun: float
    ended: float


class Watch:
    """Callers under way, and what came of it when they have ended."""

    def __init__(self, process: asyncio.subprocess.Process, result: Path) -> None:
        self.answers: list[Answer] = []
        self._process, self._result = process, result
        self._phases: list[_Phase] = []

    async def begin(self, passing: Passing) -> None:
        """Return when all their connections are open; ``passing`` is in force."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await self._process.stdout.readline()
        self._phases.append(_Phase(passing, 0.0, float("inf")))

    @asynccontextmanager
    async def change(self, passing: Passing) -> AsyncGenerator[None]:
        """Another configuration is put in force in the block; when it is left, nothing else is."""
        begun = monotonic()
        yield
        self._phases[-1] = self._phases[-1]._replace(ended=monotonic() + SWITCH_S)
        self._phases.append(_Phase(passing, begun, float("inf")))

    async def end(self) -> None:
        """Stop asking, and read what became of the requests."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await self._process.wait() == 0
        self.answers = msgspec.json.decode(self._result.read_bytes(), type=list[Answer])

    def strangers(self) -> list[Answer]:
        """Requests that passed although no configuration that may have been in force lets them."""
        return [a for a, may, _, _ in self._judged() if a.status == 200 and not may]

    def stayed(self) -> list[Answer]:
        """The same where callers are checked when they connect, and connections drain.

        A connection that was open before a change may have one more answer, by which it is to end. Envoy says
        no such thing over HTTP/3, so there it may have more, until Envoy closes it.
        """
        strangers: list[Answer] = []
        before: set[tuple[str, str, str, float]] = set()
        for answer in self.strangers():
            connection = answer.kind, answer.caller, answer.host, answer.opened
            may = any(
                answer.caller in phase.passing[answer.host]
                for phase in self._phases
                if phase.begun <= answer.received and phase.ended >= answer.opened
            )
            if not may or (connection in before and answer.kind not in QUIC_KINDS):
                strangers.append(answer)
            before.add(connection)
        return strangers

    def shut_out(self, *, between: bool = True) -> Counter[tuple[str, int, str]]:
        """Requests that did not pass although each configuration lets them: by kind, status and error.

        Args:
            between: whether those count that were under way during a change.
        """
        return Counter(
            (a.kind, a.status, a.error)
            for a, _, must, changing in self._judged()
            if a.status != 200 and must and (between or not changing)
        )

    def _judged(self) -> list[tuple[Answer, bool, bool, bool]]:
        """Each answer, with whether some configuration lets it pass, whether all do, and whether one changed.

        Those that were in force while its connection was opened may fail it, but do not let it pass.
        """
        judged: list[tuple[Answer, bool, bool, bool]] = []
        first = 0
        for answer in sorted(self.answers, key=lambda a: a.begun):
            while self._phases[first].ended < answer.begun:
                first += 1
            may, must, phases = False, True, 0
            for phase in self._phases[first:]:
                if phase.begun > answer.received:
                    break
                phases += 1
                lets = answer.caller in phase.passing[answer.host]
                may |= lets and phase.ended >= answer.sent
                must &= lets
            judged.append((answer, may, must, phases > 1))
        return judged


@asynccontextmanager
async def watching(
    folder: Path,
    port: int,
    hosts: list[str],
    credentials: Mapping[str, Mapping[str, str]],
    *,
    pause_s: float = 0.004,
    certificates: Mapping[str, str] | None = None,
    quic_patience_s: float = PATIENCE_S,
) -> AsyncGenerator[Watch]:
    """Callers in a process of their own, from ``begin`` to ``end``."""
    result = folder / "answers.json"
    headers = {caller: dict(own) for caller, own in credentials.items()}
    plan = Plan(port, hosts, headers, pause_s, str(result), dict(certificates or {}), quic_patience_s)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, callers.__file__, msgspec.json.encode(plan).decode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Watch(process, result)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
