"""Scoped tables answer every request as one table does: over random worlds, and while routes change."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from moongate.attach.sizes import LARGE
from moongate.xds import rule_routes
from moongate.xds.wire import SCOPE
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import websocket_echo
from tests.e2e.conftest import Site, admitted, open_site
from tests.e2e.differing import Difference, Pair, Run, open_pair, with_flags
from tests.e2e.test_no_request_fails import constant_load

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from envoy.config.route.v3.route_components_pb2 import RouteMatch

    from moongate.attach.matches import Match
    from tests.e2e.generated import Documents

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

WORLDS_OF_A_MUTANT = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncGenerator[Pair]:
    async with open_pair("ScopedTables") as both:
        yield both


def said(differences: list[Difference]) -> str:
    """The first of them: seed, request, both answers."""
    return "\n\n".join(map(str, differences[:5]))


@pytest.mark.parametrize("seed", range(1, 5))
async def test_every_request_is_answered_as_by_one_table(pair: Pair, seed: int) -> None:
    async for differences in Run(pair, seed).worlds_in_turn(600, per_world=300):
        assert not differences, said(differences)


@pytest.mark.parametrize("seed", range(1, 3))
async def test_every_request_is_answered_as_before_or_after_a_change(pair: Pair, seed: int) -> None:
    """And as by one table, when the change is in force."""
    async for differences in Run(pair, seed, neutral=True).edits(6, 60):
        assert not differences, said(differences)


def other_backends(rule: dict[str, Any]) -> None:
    for ref in rule.get("backendRefs", ()):
        ref["name"] = {"one": "two", "two": "three", "three": "one"}.get(ref["name"], "one")


def header_for_backend(rule: dict[str, Any]) -> None:
    change = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]},
    }
    rule["filters"] = [each for each in rule.get("filters", ()) if each["type"] != change["type"]] + [change]


def of_each_rule(change: Callable[[dict[str, Any]], None]) -> Callable[[Documents], None]:
    def mutate(world: Documents) -> None:
        for key, document in world.items():
            for rule in document["spec"]["rules"] if key.startswith("route ") else ():
                change(rule)

    return mutate


def other_rule_numbers(world: Documents) -> None:
    """Neither clients nor backends see it, only the log."""
    for key, document in world.items():
        if key.startswith("route "):
            never = {"path": {"type": "Exact", "value": "/never"}, "method": "PATCH"}
            document["spec"]["rules"].insert(0, {"matches": [never]})


def one_hostname_less(world: Documents) -> None:
    for key, document in world.items():
        if key.startswith("route ") and len(document["spec"]["hostnames"]) > 1:
            document["spec"]["hostnames"].pop()


def no_policies(world: Documents) -> None:
    for key in [key for key in world if key.startswith("policy ")]:
        del world[key]


MUTANTS: dict[str, Callable[[Documents], None]] = {
    "other backends": of_each_rule(other_backends),
    "a header for the backend": of_each_rule(header_for_backend),
    "another name in the log": other_rule_numbers,
    "a hostname less": one_hostname_less,
    "no policies": no_policies,
}


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_table_that_differs_is_noticed(pair: Pair, mutant: str) -> None:
    """Not each world has what a mutant changes, and not each request meets it; some do."""
    run, differences = Run(pair, 1), list[Difference]()
    for _ in range(WORLDS_OF_A_MUTANT):
        world = run.worlds.world()
        mutated = deepcopy(world)
        MUTANTS[mutant](mutated)
        await pair.put(world, mutated)
        pair.hang_up()
        differences = await pair.compare([run.requests.ask(world) for _ in range(150)], mutant)
        if differences:
            break

    assert differences


async def test_a_table_that_is_scoped_and_whole_again_fails_no_request(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Its listener changes for that; what is open there goes on."""
    if pytestconfig.getoption("scoped"):
        pytest.skip("all tables are scoped, from the start to the end")
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site())
        port = await stack.enter_async_context(websocket_echo())
        async with constant_load(tmp_path, site.port, "grown.test") as load:
            await site.apply(
                m.local("b0", load.ports[0]),
                m.local("chat", port),
                m.route("grown", f"[{{{m.to('b0')}}}]"),
                m.route("chat", f"[{{{m.to('chat')}}}]"),
            )
            load.begin()
            async with connect("ws://chat.test/", host="127.0.0.1", port=site.port) as socket:
                assert scopes(site) == 0
                for first in range(0, LARGE + 100, 50):
                    more = [m.route(f"many-{n}", f"[{{{m.to('b0')}}}]") for n in range(first, first + 50)]
                    site.laptop.put(admitted(*more))
                    await site.laptop.served()
                    assert await site.status(f"many-{first}.test") == 200
                    await socket.send(str(first))
                    async with asyncio.timeout(DEADLINE_S):
                        assert await socket.recv() == str(first)
                assert scopes(site) > LARGE
                before = scopes(site)
                rules = f"[{{matches: [{{headers: [{{name: Host, value: x.any.test}}]}}], {m.to('b0')}}}]"
                await site.apply(m.route("any", rules, hostnames=("*.any.test",)))
                assert [await site.status(f"{name}.any.test") for name in "xy"] == [200, 404]
                await site.apply(m.route("later", f"[{{{m.to('b0')}}}]"))
                assert await site.status("later.test") == 200
                assert scopes(site) > before, "those of open connections are kept up to date"
                await socket.send("still")
                async with asyncio.timeout(DEADLINE_S):
                    assert await socket.recv() == "still"
            await load.end()

    assert load.failures() == {}


def scopes(site: Site) -> int:
    """How many parts of tables moongate has sent the Envoys of this site."""
    return site.laptop.figures()["sent"].get(SCOPE, {"resources": 0})["resources"]


async def test_a_part_that_envoy_refuses_costs_one_hostname(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are served, and change, as before."""
    build = rule_routes.matcher

    def broken(match: Match) -> RouteMatch:
        message = build(match)
        if message.path_separated_prefix == "/broken":
            message.safe_regex.regex = "("
        return message

    monkeypatch.setattr(rule_routes, "matcher", broken)
    async with open_site(config=with_flags("ScopedTables")) as site:
        names = [f"fine-{n}" for n in range(5)]
        await site.apply(
            m.local("b0", site.one.port),
            *(m.route(name, f"[{{{m.to('b0')}}}]") for name in names),
            m.route("bad", f"[{{matches: [{{path: {{value: /broken}}}}], {m.to('b0')}}}]"),
        )
        await site.apply(m.route("new", f"[{{{m.to('b0')}}}]"), m.route("fine-0", "[{}]"))

        assert [await site.status(f"{name}.test") for name in (*names[1:], "new")] == [200] * 5
        assert await site.status("fine-0.test") == 500
        assert await site.status("bad.test") in (404, 500)
        [refusal] = site.laptop.fleets.refusals()
        assert [ref.name for ref in refusal.resources] == ["bad"]
