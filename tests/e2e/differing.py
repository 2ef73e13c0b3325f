"""Two gateways with the same manifests, one with scoped tables: every request must be answered alike.

Both listen on the same ports, each at an address of its own, so that nothing that they are told or asked
differs. A request goes to both, and three things are compared: what the client gets, what the backend got
(backends answer with it), and what Envoy logs.

As a program it compares as many requests as it is told, over one world after another:

    python -m tests.e2e.differing --requests 100000 --seed 1

With ``--edits`` the worlds change meanwhile, one document at a time. Requests are then asked under way, too,
and each must be answered as before or as after the change.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from logging import CRITICAL
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec
import pytest
import structlog
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway, RuntimeFlags
from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo, EchoOverHttp2
from tests.e2e.callers import Http2
from tests.e2e.certificates import Authority
from tests.e2e.conftest import admitted, reference
from tests.e2e.generated import BACKENDS, EXACT, WILD, Ask, Documents, Ports, Requests, Worlds
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from moongate.api.envoygateway import RuntimeFlag

ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")
LANES: Final = 12
"""So many requests are under way at once."""
SWITCH_S: Final = 0.5
"""Envoy acknowledges from its main thread; its workers may be so much behind."""
LOGGED_S: Final = 10.0
"""Envoy writes its log ten times a second."""
PER_WORLD: Final = 500

_AGENT: Final = "x-agent-{:08d}"
"""The user agent of a request, by which its line in the log is found. It is as long in all of them."""
_OWN: Final = (
    # Each is of one request; that there is one is compared.
    (re.compile(rb'\["x-request-id","[^"]*"\]'), rb'["x-request-id"]'),
    (re.compile(rb'\["user-agent","[^"]*"\]'), rb'["user-agent"]'),
)
_MOVED: Final = re.compile(r"(?<=/moved/)\d+")
"""The number in the name of a listener that has not its usual one: it depends on when others had drained."""
_RESERVED: Final = frozenset({"x-moongate-host"})
"""A header that scoped tables use; they take it from requests."""
_CLOCKS: Final = frozenset({"date", "x-envoy-upstream-service-time"})
_LOGGED: Final = (
    *("method", "x-envoy-origin-path", "protocol", "response_code", "response_flags"),
    *("response_code_details", "connection_termination_details", "upstream_transport_failure_reason"),
    *("bytes_received", "bytes_sent", "x-forwarded-for", ":authority", "upstream_host", "upstream_cluster"),
    *("requested_server_name", "route_name", "listener"),
)


class Answer(NamedTuple):
    """What became of a request.

    Args:
        status: 0 when there was no answer.
        headers: of the answer, with its trailers.
        body: without what is of one request.
        error: why there was no answer, or none to its end.
        logged: the fields of Envoy's lines that do not differ from one time to the next.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: str = ""
    logged: tuple[tuple[str, ...], ...] = ()


class Difference(NamedTuple):
    """A request that two gateways answered differently, or one gateway unlike before and after a change.

    Args:
        where: the seed, the number of the world, and what changed.
        ask: the request; ``None`` if it is about lines of the log that no request can be found for.
        answers: the two answers, or all that there were.
    """

    where: str
    ask: Ask | None
    answers: tuple[Answer, ...]

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.ask}"]
        for part in Answer._fields:
            values = [getattr(answer, part) for answer in self.answers]
            same = all(value == values[0] for value in values)
            lines += [f"  {part}: {values[0]!r}"] if same else [f"  {part}| {value!r}" for value in values]
        return "\n".join(lines)


def alike(asked: Ask, whole: Answer, scoped: Answer) -> bool:
    """Whether answers are the same, or differ only as they may, where Envoy answers before its filters run.

    Then it has not found the route yet in a scoped table, unless the Host is the hostname as it is written.

    * Where a route has no backend, an upgrade is answered 403; in a scoped table, as the route says.
    * A path that is not normal is redirected. In a scoped table the route is not in the log, and does not
      change headers of that answer.
    """
    details = {detail for line in whole.logged for detail in line}
    if asked.kind == "upgrade" and "upgrade_failed" in details:
        return scoped.status != 101
    if "path_normalization_failed" in details:
        places = [dict(each.headers).get("location") for each in (whole, scoped)]
        return whole.status == scoped.status and places[0] == places[1]
    return whole == scoped


def with_flags(*flags: str) -> EnvoyGateway:
    """The configuration that moongate ships, with more runtime flags."""
    shipped = EnvoyGateway.shipped()
    enabled = (*shipped.runtime_flags.enabled, *cast("tuple[RuntimeFlag, ...]", flags))
    return structs.replace(shipped, runtime_flags=RuntimeFlags(enabled=enabled))


def of_reference() -> EnvoyGateway:
    """The configuration that moongate ships, but chains have only the filters that routes use."""
    shipped = EnvoyGateway.shipped()
    return structs.replace(shipped, runtime_flags=shipped.runtime_flags.without("StableFilterChains"))


OTHER_FORMS = pytest.mark.parametrize(
    "config", [with_flags("ScopedTables"), of_reference()], ids=["scoped tables", "chains of the reference"]
)
"""Runs a test in the forms that tables and chains do not have as shipped."""


class Http1:
    """One connection of HTTP/1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def answer(self, asked: Ask) -> tuple[Answer, bool]:
        """What is answered, and whether the connection stays open."""
        fields = [] if asked.host is None else [("host", asked.host)]
        fields += asked.headers
        if asked.body:
            fields.append(("content-length", str(len(asked.body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"{asked.method} {asked.target} HTTP/{asked.version}\r\n{lines}\r\n"
        self._writer.write((head + asked.body).encode())
        status = 100
        while status == 100:
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            status = int(first.split(" ")[1])
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        if status == 101:
            self._writer.write(b"hello")
            return answer(status, headers, await self._reader.readexactly(5)), False
        body, stays = await self._body(asked, status, dict(headers))
        return answer(status, headers, body), stays and dict(headers).get("connection") != "close"

    async def _body(self, asked: Ask, status: int, fields: dict[str, str]) -> tuple[bytes, bool]:
        """The body, and whether something may follow it."""
        if asked.method == "HEAD" or status in {204, 304}:
            return b"", True
        if "content-length" in fields:
            return await self._reader.readexactly(int(fields["content-length"])), True
        if fields.get("transfer-encoding") != "chunked":
            return await self._reader.read(-1), False
        body = b""
        while size := int((await self._reader.readline()).strip(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body, True

    def close(self) -> None:
        self._writer.close()


class WholeHttp2(Http2):
    """One connection of HTTP/2."""

    async def answer(self, asked: Ask) -> tuple[Answer, bool]:
        """What is answered, and whether the connection stays open."""
        fields = [(":method", asked.method), (":path", asked.target), (":scheme", self.scheme)]
        if asked.host is not None:
            fields.append((":authority", asked.host))
        response = await self.exchange([*fields, *asked.headers])
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.fields]
        return answer(response.status, headers, response.body), response.stays


def answer(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
    """An answer without what is of one request or one time."""
    for pattern, instead in _OWN:
        body = pattern.sub(instead, body)
    compared = [(name, value) for name, value in headers if name not in _CLOCKS]
    # What a backend tells in a header is in the form of a body.
    own = [(name, _without_own(value) if name == "x-asked" else value) for name, value in compared]
    return Answer(status, tuple(own), body)


def _without_own(text: str) -> str:
    for pattern, instead in _OWN:
        text = pattern.sub(instead, text.encode()).decode()
    return text


class Side:
    """One of the two gateways: its manifests, its clients' connections, and what its Envoy logged.

    Attributes:
        lines: of the log, by user agent; "" for requests of which Envoy read none.
    """

    def __init__(self, address: str, config: EnvoyGateway) -> None:
        self.lines: dict[str, list[tuple[str, ...]]] = {}
        self.laptop = Laptop(config=config, bind=address, access_log=self._logged)
        self._address = address
        self._documents: Documents = {}
        self._open: dict[tuple[int, str, int, str], Http1 | WholeHttp2] = {}

    def _logged(self, lines: bytes) -> None:
        for line in lines.splitlines():
            fields: dict[str, Any] = msgspec.json.decode(line)
            logged = tuple(_MOVED.sub("N", str(fields.get(name))) for name in _LOGGED)
            self.lines.setdefault(fields.get("user-agent") or "", []).append(logged)

    async def put(self, documents: Documents) -> None:
        """Put these documents in force, and no others; they are when this returns."""
        changed = [each for key, each in documents.items() if self._documents.get(key) != each]
        gone = [each for key, each in self._documents.items() if key not in documents]
        batch = admitted(*changed)
        assert len(batch) == len(changed), "the generator makes valid documents only"
        self._documents = documents
        self.laptop.put(batch | dict.fromkeys(map(reference, gone)))
        # Some worlds have a lot that Envoy refuses, and each has to be found.
        await self.laptop.served(timeout_s=60)

    async def ask(self, asked: Ask, lane: int, agent: str) -> Answer:
        """The answer to a request, over the connection that a lane has for such ones, or one of its own."""
        asked = asked._replace(headers=(*asked.headers, ("user-agent", agent)))
        key = (lane, asked.kind, asked.port, asked.tls)
        connection = self._open.pop(key, None)
        try:
            async with asyncio.timeout(DEADLINE_S):
                connection = connection or await self._connect(asked)
                answer, stays = await connection.answer(asked)
        except (OSError, EOFError, TimeoutError) as error:
            answer, stays = Answer(0, error=_error(error)), False
        if connection is not None and stays and asked.kind in {"http1", "http2"}:
            self._open[key] = connection
        elif connection is not None:
            connection.close()
        return answer

    async def _connect(self, asked: Ask) -> Http1 | WholeHttp2:
        http2 = asked.kind == "http2"
        reader, writer = await asyncio.open_connection(
            self._address,
            asked.port,
            ssl=_TO_HTTP2 if http2 and asked.tls else _TO_HTTP1 if asked.tls else None,
            server_hostname=asked.tls or None,
            local_addr=("127.0.0.1", 0),
            limit=1 << 20,
        )
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        # A listener whose certificate is good for another listener does not offer HTTP/2.
        if http2 and (tls is None or tls.selected_alpn_protocol() == "h2"):
            return WholeHttp2(reader, writer, scheme="https" if asked.tls else "http")
        return Http1(reader, writer)

    def hang_up(self) -> None:
        """Close all connections: those that are opened next belong to the newest listeners."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def _context(alpn: str) -> ssl.SSLContext:
    # Without the authorities of the system, which take longer to read than all else here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


_TO_HTTP1: Final = _context("http/1.1")
_TO_HTTP2: Final = _context("h2")


def _error(error: Exception) -> str:
    """Why there was no answer, in words that do not depend on who was first to close."""
    if isinstance(error, TimeoutError):
        return "none in time"
    return str(error) if str(error).startswith("the stream") else "closed"


class Pair:
    """The two gateways, and the backends that both have."""

    def __init__(self, whole: Side, scoped: Side, backends: Documents, echoes: Sequence[Echo]) -> None:
        self.sides = (whole, scoped)
        self.statuses: Counter[int] = Counter()
        self._backends, self._echoes = backends, echoes
        self._asked = 0

    async def put(self, documents: Documents, instead: Documents | None = None) -> None:
        """Put a world in force on both sides; ``instead`` is another one for the second."""
        whole, scoped = self.sides
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(whole.put(self._backends | documents))
            tasks.create_task(scoped.put(self._backends | (instead or documents)))
        await asyncio.sleep(SWITCH_S)

    def hang_up(self) -> None:
        for side in self.sides:
            side.hang_up()

    async def ask(self, asks: Sequence[Ask]) -> list[tuple[Answer, Answer]]:
        """What both sides answer and log, for each request."""
        for side in self.sides:
            side.lines.clear()
        agents, answers = [self._agent() for _ in asks], dict[int, tuple[Answer, Answer]]()

        async def run(lane: int) -> None:
            for n in range(lane, len(asks), LANES):
                whole, scoped = [await side.ask(asks[n], lane, agents[n]) for side in self.sides]
                answers[n] = whole, scoped

        async with asyncio.TaskGroup() as tasks:
            for lane in range(LANES):
                tasks.create_task(run(lane))
        await self._all_logged([answers[n] for n in range(len(asks))])
        for each in self._echoes:
            each.forget()
        self.statuses.update(answers[n][0].status for n in answers)
        complete: list[tuple[Answer, Answer]] = []
        for n, agent in enumerate(agents):
            whole, scoped = [
                each._replace(logged=tuple(side.lines.get(agent, ())))
                for side, each in zip(self.sides, answers[n], strict=True)
            ]
            complete.append((whole, scoped))
        return complete

    async def compare(self, asks: Sequence[Ask], where: str) -> list[Difference]:
        """The requests that are not answered alike."""
        answers = await self.ask(asks)
        different = [
            Difference(where, asked, both)
            for asked, both in zip(asks, answers, strict=True)
            if not alike(asked, *both)
        ]
        return [*different, *self.unread(where)]

    def unread(self, where: str) -> list[Difference]:
        """Differences among the lines of requests of which Envoy could not read the user agent."""
        lines = [Counter(side.lines.get("", ())) for side in self.sides]
        if lines[0] == lines[1]:
            return []
        only = (lines[0] - lines[1], lines[1] - lines[0])
        return [Difference(where, None, tuple(Answer(0, logged=tuple(each.elements())) for each in only))]

    async def _all_logged(self, answers: Sequence[tuple[Answer, ...]]) -> None:
        """Envoy writes its log now and then. Every answer has a line; requests without an answer may have."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOGGED_S):
                while True:
                    counts = [sum(map(len, side.lines.values())) for side in self.sides]
                    due = [sum(both[n].status > 0 for both in answers) for n in range(len(self.sides))]
                    if counts[0] == counts[1] and all(map(int.__ge__, counts, due)):
                        return
                    await asyncio.sleep(0.02)

    def _agent(self) -> str:
        self._asked += 1
        return _AGENT.format(self._asked)

    async def ask_all_the_time(
        self, asks: Sequence[Ask], stop: asyncio.Event
    ) -> dict[tuple[int, int], set[Answer]]:
        """What is answered until ``stop`` is set: by side and number of the request."""
        answers: dict[tuple[int, int], set[Answer]] = {}

        async def run(lane: int) -> None:
            while not stop.is_set():
                for n in range(lane, len(asks), LANES):
                    for which, side in enumerate(self.sides):
                        if not stop.is_set():
                            answer = await side.ask(asks[n], lane, self._agent())
                            answers.setdefault((which, n), set()).add(answer)

        async with asyncio.TaskGroup() as tasks:
            for lane in range(LANES):
                tasks.create_task(run(lane))
        return answers


@asynccontextmanager
async def open_pair(*flags: str) -> AsyncGenerator[Pair]:
    """Two gateways without manifests; the second one has these runtime flags, besides."""
    async with AsyncExitStack() as stack:
        echoes = [
            EchoOverHttp2(name, untold=_RESERVED) if name == "over-http2" else Echo(name, untold=_RESERVED)
            for name in BACKENDS
        ]
        backends: Documents = {}
        for each in echoes:
            await stack.enter_async_context(each.serving())
            protocols = ["gateway.envoyproxy.io/h2c"] if isinstance(each, EchoOverHttp2) else []
            backends[f"backend {each.name}"] = m.local(each.name, each.port, appProtocols=protocols)
        whole, scoped = Side(ADDRESSES[0], with_flags()), Side(ADDRESSES[1], with_flags(*flags))
        for side in (whole, scoped):
            await stack.enter_async_context(side.laptop)
            stack.callback(side.hang_up)
        yield Pair(whole, scoped, backends, echoes)


class Run:
    """What is compared of one seed: worlds on the same ports, and requests to them."""

    def __init__(self, pair: Pair, seed: int, *, neutral: bool = False) -> None:
        chance, ports = Random(seed), Ports(free_port(), free_port(), free_port())
        certificate = Authority().sign(*EXACT, *WILD)
        self.pair, self.seed = pair, seed
        self.worlds = Worlds(chance, ports, certificate, neutral=neutral)
        self.requests = Requests(chance, ports)
        self.number = 0

    async def worlds_in_turn(
        self, requests: int, per_world: int = PER_WORLD
    ) -> AsyncGenerator[list[Difference]]:
        """So many requests, to a new world now and then; the differences of each world."""
        while requests > 0:
            self.number += 1
            world = self.worlds.world()
            await self.pair.put(world)
            self.pair.hang_up()
            count = min(per_world, requests)
            requests -= count
            asks = [self.requests.ask(world) for _ in range(count)]
            yield await self.pair.compare(asks, f"seed {self.seed}, world {self.number}")

    async def edits(self, edits: int, requests: int) -> AsyncGenerator[list[Difference]]:
        """So many edits of a world, each with requests before, meanwhile and after; their differences."""
        documents = self.worlds.world()
        await self.pair.put(documents)
        asks = [self.requests.ask(documents) for _ in range(requests)]
        before = await self.pair.ask(asks)
        for n in range(edits):
            new = self.worlds.edited(documents)
            edited = [key for key in documents | new if documents.get(key) != new.get(key)]
            where = f"seed {self.seed}, edit {n} of {edited}"
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                meanwhile = tasks.create_task(self.pair.ask_all_the_time(asks, stop))
                await self.pair.put(new)
                stop.set()
            # Until the last of these lines is written.
            await asyncio.sleep(3 * SWITCH_S)
            after = await self.pair.ask(asks)
            different = [
                Difference(where, asked, both)
                for asked, both in zip(asks, after, strict=True)
                if not alike(asked, *both)
            ]
            different += [
                Difference(f"{where}, meanwhile", asks[k], (before[k][which], answer, after[k][which]))
                for (which, k), answers in meanwhile.result().items()
                for answer in answers
                if answer not in {each[k][which]._replace(logged=()) for each in (before, after)}
            ]
            yield different
            documents, before = new, after


async def main(requests: int, seed: int, flags: Sequence[str], *, edits: bool) -> int:
    """How many differences there are; each is printed."""
    # What moongate says of these worlds, which have many faults, would hide what is found.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    count = asked = 0
    async with open_pair(*flags) as pair:
        while asked < requests:
            run = Run(pair, seed, neutral=edits)
            results = run.edits(20, 120) if edits else run.worlds_in_turn(requests - asked)
            async for differences in results:
                asked = pair.statuses.total()
                count += len(differences)
                for each in differences[:5]:
                    _say(f"{each}\n")
                _say(f"{asked} requests, {count} differences, statuses {dict(pair.statuses.most_common(8))}")
            seed += 1
    return count


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000, help="to both gateways")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flags", default="ScopedTables", help="runtime flags of the second gateway: A,B")
    parser.add_argument("--edits", action="store_true", help="change the worlds meanwhile")
    args = parser.parse_args()
    sys.exit(bool(asyncio.run(main(args.requests, args.seed, args.flags.split(","), edits=args.edits))))
