"""No request fails because a listener changed: it moves, is renamed, gives a hostname away, changes hands.

Each case is a list of configurations that are put in force one after the other, again and again, under load
over connections of all kinds. A request that each of the configurations answers is answered, and nobody
passes whom each of them refuses.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import manifests as m
from tests.e2e.callers import Place
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, admitted, reference
from tests.e2e.guarded import watching
from tests.e2e.test_listeners import at, http, https
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ROUNDS = 2
PACE_S = 0.1
ANYBODY = "anybody"


class Case(NamedTuple):
    """What is put in force in turn, and which origins then answer.

    Args:
        listeners: of the Gateway ``web``, one text for each configuration.
        origins: which are asked.
        answers: for each configuration the origins of these that answer, as indices.
        routes: the hosts of routes.
        parents: of the routes, where it is not the whole Gateway: one text for each configuration.
        guarded: the configurations that come with a policy that lets nobody pass.
        sets: the listeners of a ListenerSet, one text for each configuration; "" for no ListenerSet.
    """

    listeners: list[str]
    origins: list[str]
    answers: list[set[int]]
    routes: tuple[str, ...] = ("a.test",)
    parents: tuple[str, ...] = ()
    guarded: frozenset[int] = frozenset()
    sets: tuple[str, ...] = ()


P, Q = free_port(), free_port()
A, A_AT_Q, B = f"http://a.test:{P}", f"http://a.test:{Q}", f"http://b.test:{P}"
AS, BS = f"https://a.test:{P}", f"https://b.test:{P}"
BOTH = ("a.test", "b.test")
BY_BOTH = "[{name: web}, {kind: ListenerSet, name: more}]"

CASES = {
    "listeners exchange their ports": Case(
        [f"{http('one', P)}, {http('two', Q)}", f"{http('one', Q)}, {http('two', P)}"],
        [A, A_AT_Q],
        [{0, 1}, {0, 1}],
    ),
    "a port is left by one listener and taken by another": Case(
        [http("one", P), f"{http('one', Q)}, {http('two', P)}"], [A, A_AT_Q], [{0}, {0, 1}]
    ),
    "listeners exchange their ports as a policy comes": Case(
        [f"{http('one', P)}, {http('two', Q)}", f"{http('one', Q)}, {http('two', P)}"],
        [A, A_AT_Q],
        [set(), {0, 1}],
        guarded=frozenset({0}),
    ),
    "an HTTP listener is renamed": Case([http("one", P), http("two", P)], [A], [{0}, {0}]),
    "an HTTPS listener is renamed": Case(
        [https("one", P, "a", "a.test"), https("two", P, "a", "a.test")], [AS], [{0}, {0}]
    ),
    "an HTTPS listener is narrowed and widened": Case(
        [https("one", P, "wild", each) for each in ("", "*.test", "a.test", "*.test")], [AS], [{0}] * 4
    ),
    "an HTTPS listener gets a hostname of another": Case(
        [
            https("one", P, "wild", "*.test"),
            f"{https('one', P, 'wild', '*.test')}, {https('two', P, 'a', 'a.test')}",
        ],
        [AS, BS],
        [{0, 1}, {0, 1}],
        BOTH,
    ),
    "an HTTPS listener of two hostnames becomes two": Case(
        [
            https("one", P, "wild", "*.test"),
            f"{https('two', P, 'a', 'a.test')}, {https('three', P, 'b', 'b.test')}",
        ],
        [AS, BS],
        [{0, 1}, {0, 1}],
        BOTH,
    ),
    "HTTPS listeners serve hostnames of each other": Case(
        [
            f"{https('one', P, 'wild', 'a.test')}, {https('two', P, 'wild', 'b.test')}",
            f"{https('one', P, 'wild', '*.test')}, {https('two', P, 'wild', 'a.test')}",
        ],
        [AS, BS],
        [{0, 1}, {0, 1}],
        BOTH,
    ),
    "HTTPS listeners exchange their hostnames": Case(
        [
            f"{https('one', P, 'wild', 'a.test')}, {https('two', P, 'wild', 'b.test')}",
            f"{https('one', P, 'wild', 'b.test')}, {https('two', P, 'wild', 'a.test')}",
        ],
        [AS, BS],
        [{0, 1}, {0, 1}],
        BOTH,
    ),
    "HTTP listeners exchange their hostnames": Case(
        [
            f"{http('one', P, 'a.test')}, {http('two', P, 'b.test')}",
            f"{http('one', P, 'b.test')}, {http('two', P, 'a.test')}",
        ],
        [A, B],
        [{0, 1}, {0, 1}],
        BOTH,
    ),
    "a listener of a shared port comes first and leaves": Case(
        [http("one", P, "a.test"), f"{http('two', P, 'b.test')}, {http('one', P, 'a.test')}"],
        [A, B],
        [{0}, {0, 1}],
        BOTH,
    ),
    "a certificate is exchanged": Case(
        [https("one", P, "a", "a.test"), https("one", P, "wild", "a.test")], [AS], [{0}, {0}]
    ),
    "a route goes to another listener": Case(
        [f"{http('one', P)}, {http('two', Q)}"] * 3,
        [A, A_AT_Q],
        [{0}, {0, 1}, {1}],
        parents=(at("web", "one"), at("web"), at("web", "two")),
    ),
    "a ListenerSet comes beside a listener of its port and goes": Case(
        [http("one", P, "a.test")] * 2,
        [A, B],
        [{0}, {0, 1}],
        BOTH,
        sets=("", http("two", P, "b.test")),
    ),
    "a ListenerSet with a certificate comes and goes": Case(
        [https("one", P, "a", "a.test")] * 2,
        [AS, BS],
        [{0}, {0, 1}],
        BOTH,
        sets=("", https("two", P, "b", "b.test")),
    ),
    "a plaintext listener goes from the Gateway to a ListenerSet and back": Case(
        [f"{http('other', Q)}, {http('one', P)}", http("other", Q)],
        [A, A_AT_Q],
        [{0, 1}, {0, 1}],
        sets=("", http("one", P)),
    ),
    "a listener with a certificate goes to a ListenerSet and back as a policy comes": Case(
        [f"{http('other', Q)}, {https('one', P, 'wild', 'a.test')}", http("other", Q)],
        [AS, A_AT_Q],
        [{0, 1}, set()],
        guarded=frozenset({1}),
        sets=("", https("one", P, "wild", "a.test")),
    ),
    "HTTP becomes HTTPS and HTTP again": Case([http("one", P), https("one", P, "wild")], [A, AS], [{0}, {1}]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_no_request_fails_and_nobody_passes_who_must_not(
    site: Site, tmp_path: Path, case: Case
) -> None:
    authority = Authority()
    certificates = [authority.sign(f"{n}.test").secret(n) for n in ("a", "b")]
    certificates.append(authority.sign("*.test").secret("wild"))
    guard = m.policy("SecurityPolicy", "guard", "basicAuth: {users: {name: none}}", "Gateway/web")
    configurations = [
        [
            m.gateway("web", f"[{listeners}]", allowedListeners={"namespaces": {"from": "All"}}),
            *(m.listener_set("more", f"[{each}]", of="web") for each in case.sets[n : n + 1] if each),
            *(
                m.route(
                    host.partition(".")[0],
                    f"[{{{m.to('one')}}}]",
                    hostnames=(host,),
                    parents=case.parents[n] if case.parents else BY_BOTH if case.sets else at("web"),
                )
                for host in case.routes
            ),
            *([guard] if n in case.guarded else []),
        ]
        for n, listeners in enumerate(case.listeners)
    ]
    passing = [
        {origin: frozenset({ANYBODY} if i in answer else ()) for i, origin in enumerate(case.origins)}
        for answer in case.answers
    ]
    await site.apply(*certificates, *configurations[0])

    async with watching(tmp_path, 0, case.origins, {ANYBODY: {}}) as watch:
        await watch.begin(passing[0])
        before = configurations[0]
        for n in [*range(1, len(configurations)), 0] * ROUNDS:
            async with watch.change(passing[n]):
                await put(site, before, configurations[n])
            before = configurations[n]
            await asyncio.sleep(PACE_S)
        await watch.end()
    await site.delete(*before)

    assert watch.strangers() == []
    assert not watch.shut_out()
    assert {a.status for a in watch.answers} & {200}, "requests passed at all"


async def test_a_connection_outlives_the_listeners_of_other_hostnames(site: Site) -> None:
    """One that takes a hostname from another listener of the port changes the chains of these two alone."""
    authority = Authority()
    certificates = [authority.sign(n).secret(name) for n, name in (("*.test", "wild"), ("c.other", "other"))]
    before = f"{https('wide', P, 'wild', '*.test')}, {https('other', P, 'other', 'c.other')}"
    route = m.route("c", f"[{{{m.to('one')}}}]", hostnames=("c.other",), parents=at("web"))
    await site.apply(*certificates, m.gateway("web", f"[{before}]"), route)
    connection = await Place(P, "c.other").connect(http2=False)

    assert await connection.ask("c.other", {}) == (200, True)
    await site.apply(m.gateway("web", f"[{before}, {https('narrow', P, 'wild', 'a.test')}]"))
    assert await connection.ask("c.other", {}) == (200, True)

    connection.close()
    await site.delete(m.gateway("web", "[]"), route)


async def put(site: Site, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Put a configuration in force in the place of another, in one save."""
    batch = admitted(*after)
    gone = {reference(each): None for each in before if reference(each) not in batch}
    site.laptop.put(batch | gone)
    await site.laptop.served()
