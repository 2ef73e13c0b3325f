"""The promise: whatever changes, no request fails, and none is answered by whom nobody named."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect

from moongate.infra.bootstrap import EnvoyOptions
from moongate.xds.wire import LISTENER
from tests.deadline import DEADLINE_S
from tests.e2e import load
from tests.e2e import manifests as m
from tests.e2e.backends import websocket_echo
from tests.e2e.conftest import Site, admitted, reference
from tests.e2e.load import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

BACKENDS = 6
RATE = 650
AT_LEAST = 10
"""So many requests come for each change, on average; a machine that is slow makes changes slow, too."""
PACE_S = 0.05
SHA_OF_TEST = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n"
FAULT = "faultInjection: {abort: {httpStatus: 503, percentage: 0}}"
SWITCH_S = 0.1
"""Envoy acknowledges from its main thread; its workers, and answers under way, may be so much behind."""


class State(NamedTuple):
    """One configuration of the route.

    Args:
        backends: who may answer.
        put: when moongate was to put it in force.
        acknowledged: when Envoy had it.
    """

    backends: frozenset[str]
    put: float
    acknowledged: float


class Running:
    """A load under way, and what came of it when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, ports: list[int], result: Path) -> None:
        self.ports = ports
        self.answers: list[Answer] = []
        self.connects = 0
        self._process, self._result = process, result

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def end(self) -> None:
        """Stop asking, and read what became of the requests."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await self._process.wait() == 0
        result = json.loads(self._result.read_text())
        self.connects = result["connects"]
        self.answers = [Answer(*answer) for answer in result["answers"]]

    def failures(self) -> Counter[tuple[int, str]]:
        """What was not answered 200: how often, by status and error."""
        return Counter((a.status, a.error) for a in self.answers if a.status != 200)


@asynccontextmanager
async def constant_load(folder: Path, port: int, host: str) -> AsyncGenerator[Running]:
    """A load in a process of its own, from ``begin`` to ``end``."""
    result = folder / "answers.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(load.__file__, str(port), host, str(RATE), "16", str(BACKENDS), str(result)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Running(process, json.loads(await process.stdout.readline()), result)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def intruders(answers: list[Answer], states: list[State]) -> list[Answer]:
    """Answers of backends that no configuration names which was in force while the request was under way."""
    wrong: list[Answer] = []
    for answer in answers:
        named: set[str] = set()
        for state, successor in zip(states, [*states[1:], None], strict=True):
            ended = successor.acknowledged + SWITCH_S if successor is not None else float("inf")
            if state.put <= answer.received and answer.sent <= ended:
                named |= state.backends
        if answer.backend not in named:
            wrong.append(answer)
    return wrong


def mixed(answers: list[Answer], states: list[State]) -> list[Answer]:
    """Answers of a backend that the configuration which Envoy answered by (``x-config``) does not name."""
    return [a for a in answers if a.tag and a.backend not in states[int(a.tag)].backends]


def flip(n: int, ports: list[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], frozenset[str]]:
    """Configuration ``n``: what to put, what to delete with it, who may answer.

    By turns: another Backend; two Backends with weights; a new Service; other endpoints of it, and then it
    is deleted as the route leaves it. Filters come and go; rules before the route's own move its index.
    """
    own, next_, last = n % BACKENDS, (n + 1) % BACKENDS, (n - 1) % BACKENDS
    put: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    match n % 4:
        case 0:
            refs, backends = m.to(f"b{own}"), {own}
            if n:
                gone = [m.service(f"s{n - 2}"), m.endpoint_slice(f"s{n - 2}", 1)]
        case 1:
            refs, backends = m.to(f"b{own}={n % 9 + 1}", f"b{next_}={10 - n % 9}"), {own, next_}
        case 2:
            refs, backends = f"backendRefs: [{{name: s{n}, port: 80}}]", {own, next_}
            put = [m.service(f"s{n}"), m.endpoint_slice(f"s{n}", ports[own])]
        case _:
            refs, backends = f"backendRefs: [{{name: s{n - 1}, port: 80}}]", {last, own}
            put = [m.endpoint_slice(f"s{n - 1}", ports[own])]
    tag = m.tell_client("x-config", str(n))
    filters = {
        0: "",
        1: tag,
        2: f"{tag}, {m.tell_backend('x-n', str(n))}",
        3: f"{tag}, {{type: URLRewrite, urlRewrite: {{hostname: h{n}.test}}}}",
        4: f"{tag}, {{type: RequestMirror, requestMirror: {{backendRef: {{group: gateway.envoyproxy.io,"
        f" kind: Backend, name: b{last}}}}}}}",
    }[n % 5]
    before = "".join(
        f"{{matches: [{{path: {{value: /before-{k}}}}}], {m.to(f'b{k}')}}}, " for k in range(n % 3)
    )
    rules = f"[{before}{{matches: [{{path: {{value: /flip}}}}], filters: [{filters}], {refs}}}]"
    return [*put, m.route("flip", rules)], gone, frozenset(f"b{k}" for k in backends)


async def test_no_request_fails_and_none_goes_astray_in_200_changes_under_load(
    site: Site, tmp_path: Path
) -> None:
    """A route flips between backends, gains and loses filters, and moves between rules: nobody notices."""
    laptop, states = site.laptop, list[State]()
    async with (
        constant_load(tmp_path, site.port, "flip.test") as load,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        await site.apply(*(m.local(f"b{n}", port) for n, port in enumerate(load.ports)))
        for n in range(201):
            put, gone, backends = flip(n, load.ports)
            began = monotonic()
            laptop.put(admitted(*put) | dict.fromkeys(map(reference, gone)))
            await laptop.served()
            states.append(State(backends, began, monotonic()))
            # The load meets nearly every configuration; this request meets each.
            met = await client.get(f"http://127.0.0.1:{site.port}/flip", headers={"host": "flip.test"})
            assert met.headers.get("x-config", "") == (str(n) if n % 5 else ""), "it is in force"
            if n == 0:
                load.begin()
            # A pace, so that the load meets removals, which come seconds later.
            await asyncio.sleep(PACE_S)
        await load.end()

    assert load.failures() == {}
    assert mixed(load.answers, states) == []
    assert intruders(load.answers, states) == []
    assert len(load.answers) >= AT_LEAST * len(states)
    assert load.connects == 16, "no connection of a client was closed"
    assert len({a.tag for a in load.answers if a.tag}) >= 150, "nearly all of the 160 that tag were met"


@pytest.mark.parametrize("why", ["of a policy", "of filters"])
async def test_no_request_goes_astray_where_rules_have_clusters_of_their_own(
    site: Site, tmp_path: Path, why: str
) -> None:
    """A rule moves to the place of another, and its backends change with each move: places mean nothing.

    A policy that shapes clusters, and filters of a backendRef, keep rules from sharing those of backends.
    """
    states = list[State]()
    limits = m.policy(
        "BackendTrafficPolicy", "own", "circuitBreaker: {maxConnections: 900}", "HTTPRoute/astray"
    )
    async with constant_load(tmp_path, site.port, "astray.test") as load:
        await site.apply(*(m.local(f"b{n}", port) for n, port in enumerate(load.ports)))
        if why == "of a policy":
            await site.apply(limits)
        for n in range(151):
            began = monotonic()
            await site.apply(astray(n, m.to if why == "of a policy" else to_with_filter))
            states.append(State(frozenset({f"b{n % 3}"}), began, monotonic()))
            if n == 0:
                load.begin()
            await asyncio.sleep(PACE_S)
        await load.end()
        await site.delete(limits)

    assert load.failures() == {}
    assert mixed(load.answers, states) == []
    assert intruders(load.answers, states) == []
    assert len(load.answers) >= AT_LEAST * len(states)


def astray(n: int, to: Callable[[str], str]) -> dict[str, Any]:
    """Backends 0 to 2 take turns in the rule that is asked; 3 to 5 are of those that stand before it."""
    before = "".join(
        f"{{matches: [{{path: {{value: /before-{k}}}}}], {to(f'b{k + 3}')}}}, " for k in range(n % 3)
    )
    tag = m.tell_client("x-config", str(n))
    return m.route(
        "astray", f"[{before}{{matches: [{{path: {{value: /flip}}}}], filters: [{tag}], {to(f'b{n % 3}')}}}]"
    )


def to_with_filter(name: str) -> str:
    filters = f"filters: [{m.tell_backend('x-to', name)}]"
    return f"backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: {name}, {filters}}}]"


async def test_no_request_fails_while_filters_of_the_listener_come_and_go(site: Site, tmp_path: Path) -> None:
    """A filter that no listener had changes the listener; its clients have to connect anew, and can."""
    rule = f"[{{matches: [{{path: {{value: /flip}}}}], {m.to('b0')}}}]"
    policies = [
        m.policy("SecurityPolicy", "cors", "cors: {allowOrigins: ['*']}", "HTTPRoute/beside"),
        m.policy(
            "BackendTrafficPolicy", "fault", "faultInjection: {abort: {httpStatus: 418}}", "HTTPRoute/beside"
        ),
    ]
    async with constant_load(tmp_path, site.port, "filters.test") as load:
        await site.apply(
            m.local("b0", load.ports[0]),
            m.route("filters", rule),
            m.route("beside", f"[{{{m.to('one')}}}]"),
        )
        load.begin()
        for n in range(20):
            began = monotonic()
            policy = policies[n % 2]
            await site.apply(policy)
            assert await site.status("beside.test") == (418 if n % 2 else 200)
            await site.delete(policy)
            await asyncio.sleep(max(0.0, began + 4 * PACE_S - monotonic()))
        await load.end()

    assert load.failures() == {}
    assert len(load.answers) >= AT_LEAST * 40


async def test_a_connection_from_before_a_policy_is_asked_for_a_password_at_once(site: Site) -> None:
    """It stays open, too: the filter stood in its chain already."""
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        await site.apply(m.route("before", f"[{{{m.to('one')}}}]"))
        assert await site.status("before.test", client=client) == 200

        await site.apply(
            m.policy("SecurityPolicy", "before", "basicAuth: {users: {name: users}}", "HTTPRoute/before"),
            m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}"),
        )

        answer = await site.ask("before.test", client=client)
        assert (answer.status_code, answer.headers.get("connection")) == (401, None)


async def test_a_connection_whose_chain_lacks_a_filter_is_closed_after_500(site: Site) -> None:
    """What has to be set in the chain is not there on a connection of an older one: nobody passes there."""
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        await site.apply(m.route("older", f"[{{{m.to('one')}}}]"))
        assert await site.status("older.test", client=client) == 200

        auth = "basicAuth: {users: {name: users}, forwardUsernameHeader: x-user}"
        await site.apply(
            m.policy("SecurityPolicy", "older", auth, "HTTPRoute/older"),
            m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}"),
        )

        answer = await site.ask("older.test", client=client, auth=("ann", "test"))
        assert (answer.status_code, answer.headers.get("connection")) == (500, "close")
        assert await site.status("older.test", client=client, auth=("ann", "test")) == 200
        assert await site.status("older.test", client=client) == 401


async def test_a_websocket_stays_open_through_200_unrelated_changes(site: Site) -> None:
    """What did not change is not touched, so what runs over it goes on."""
    async with websocket_echo() as port:
        await site.apply(m.local("chat", port), m.route("chat", f"[{{{m.to('chat')}}}]"))
        async with connect("ws://chat.test/", host="127.0.0.1", port=site.port) as socket:
            for n in range(200):
                await site.apply(
                    m.local(f"other-{n % 3}", site.one.port if n % 2 else site.two.port),
                    m.route(
                        f"other-{n % 7}",
                        f"[{{matches: [{{path: {{value: /{n}}}}}], {m.to(f'other-{n % 3}')}}}]",
                    ),
                )
                await socket.send(str(n))
                async with asyncio.timeout(DEADLINE_S):
                    assert await socket.recv() == str(n)


async def test_a_policy_does_not_touch_the_listener(site: Site) -> None:
    """Neither the first of its kind, nor a changed one, nor other users."""
    await site.apply(
        m.route("calm", f"[{{{m.to('one')}}}]"), m.secret("calm", _htpasswd=f"ann:{SHA_OF_TEST}")
    )
    of_gateway = m.policy("SecurityPolicy", "other", "basicAuth: {users: {name: calm}}", "Gateway/gateway")
    before = listener_changes(site)

    for policy in (
        m.policy("SecurityPolicy", "calm", "basicAuth: {users: {name: calm}}", "HTTPRoute/calm"),
        m.secret("calm", _htpasswd=f"bob:{SHA_OF_TEST}"),
        m.policy("SecurityPolicy", "calm", "cors: {allowOrigins: ['https://a.test']}", "HTTPRoute/calm"),
        of_gateway,
        m.policy("BackendTrafficPolicy", "calm", FAULT, "HTTPRoute/calm"),
    ):
        await site.apply(policy)

    assert await site.status("calm.test") == 200, "the policy of the route replaces that of the Gateway"
    assert listener_changes(site) == before
    await site.delete(of_gateway)


async def test_a_websocket_outlives_a_change_of_its_listener(site: Site) -> None:
    """What is open there is not cut off: it has the old listener's settings until it ends by itself."""
    async with websocket_echo() as port:
        await site.apply(m.local("talk", port), m.route("talk", f"[{{{m.to('talk')}}}]"))
        async with connect("ws://talk.test/", host="127.0.0.1", port=site.port) as socket:
            before = listener_changes(site)
            policy = m.policy(
                "ClientTrafficPolicy",
                "talk",
                "timeout: {http: {requestReceivedTimeout: 9s}}",
                "Gateway/gateway",
            )
            await site.apply(policy)
            assert listener_changes(site) > before

            # Longer than Envoy waits for requests when it is to end.
            for n in range(EnvoyOptions().drain_s + 1):
                await asyncio.sleep(1)
                await socket.send(str(n))
                async with asyncio.timeout(DEADLINE_S):
                    assert await socket.recv() == str(n)
        await site.delete(policy)


def listener_changes(site: Site) -> int:
    """How often moongate sent the Envoys of this site a listener."""
    return site.laptop.figures()["sent"][LISTENER]["resources"]
