"""The search itself: what it costs, that it ends, and what is in force meanwhile."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from moongate.api.backend import Backend
from moongate.recent_versions import MOST_VERSIONS
from moongate.xds.fallbacks import STEP
from moongate.xds.wire import ROUTE
from tests import worlds
from tests.refusing import DISLIKED, REFUSED, TABLE, Refusing, Several, host

if TYPE_CHECKING:
    from moongate.world import World

SHARED = "shared.example.com"


def counting(world: World) -> list[int]:
    """How much is written into cells, by call: the cells, and what is kept out by each."""
    written: list[int] = []
    write = world.write

    def counted(key: object, value: object) -> bool:
        written.append(1 + len(cast("dict[str, object]", value or {})))
        return write(key, value)

    world.write = counted  # pyright: ignore[reportAttributeAccessIssue]
    return written


def at_one_hostname(envoy: Refusing, *paths: str) -> None:
    """Give all routes these paths under one hostname, where their entries stand in one list."""
    routes = [worlds.route(n, path, kind=Backend.KIND) for n, path in enumerate(paths)]
    envoy.world.apply(
        {r.ref: structs.replace(r, spec=structs.replace(r.spec, hostnames=(SHARED,))) for r in routes}
    )


@pytest.mark.slow
def test_a_first_refusal_costs_what_there_is_to_search() -> None:
    """Not its square: 5,000 routes are common."""
    costs: list[int] = []
    for count in (100, 200):
        envoy = Refusing(*(f"/{n}" for n in range(count - 1)), REFUSED)
        envoy.world.pull()
        written = counting(envoy.world)
        envoy.settle()
        assert envoy.refused() == {count - 1}
        costs.append(sum(written))

    assert costs[1] < 2.5 * costs[0]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["a hostname each", "one hostname"])
def test_no_step_of_a_search_grows_with_the_table(*, shared: bool) -> None:
    """The event loop runs in between, and endpoints are handed out."""
    count = 4 * STEP
    envoy = Refusing(*(f"/{n}" for n in range(count)))
    if shared:
        at_one_hostname(envoy, *(f"/{n}" for n in range(count)))
    envoy.refuses_all = True
    envoy.world.pull()
    envoy.answer()
    written = counting(envoy.world)

    marks = [0, *(len(written) for _ in envoy.quarantine.review())]

    assert len(written) == count, "each entry is kept out"
    assert len(marks) > 2 * count / STEP
    assert max(after - before for before, after in pairwise(marks)) <= STEP


def test_an_envoy_that_is_silent_for_long_costs_a_few_versions() -> None:
    """What is not kept of it is not needed: more is suspected, and the same found."""
    envoys = Several({"a": {REFUSED}, "b": {REFUSED}}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.silent = {"b"}

    for n in range(100):
        envoys.edit(n % 8, f"/later-{n}")
        assert envoys.quarantine.versions_kept() <= MOST_VERSIONS

    envoys.apply(3, REFUSED)
    envoys.silent = set()
    envoys.settle()
    assert envoys.refused() == {3}
    assert envoys.tables["a"] == envoys.tables["b"]


def test_an_envoy_that_refuses_what_all_others_have_has_no_say_in_what_is_edited() -> None:
    """Else each edit would be blamed for what was there before."""
    envoys = Several({"a": set(), "b": set()}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.join("odd", {f"/{n}" for n in range(8)})

    envoys.edit(3, "/edited")

    assert envoys.refused() == set()
    assert envoys.tables["a"][host(3)] == envoys.tables["b"][host(3)] == "/edited"


def test_what_such_an_envoy_is_the_only_one_to_refuse_is_tried_without_it() -> None:
    """It came together with an edit, and at first that alone could be blamed."""
    envoys = Several({"a": set(), "b": set()}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.apply(3, "/edited")
    envoys.join("odd", {f"/{n}" for n in range(8)})

    assert envoys.refused() == set()
    assert envoys.tables["a"][host(3)] == "/edited"


def test_an_envoy_that_refused_too_much_has_its_say_again_once_it_takes_something() -> None:
    envoys = Several({"a": set()}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.join("odd", {"/3"})
    envoys.edit(3, "/edited")
    assert envoys.tables["odd"] == envoys.tables["a"]

    envoys.dislikes["odd"] = {REFUSED}
    envoys.edit(5, REFUSED)

    assert envoys.refused() == {5}


def test_what_no_envoy_has_in_force_any_more_is_searched_through_as_well() -> None:
    """The only Envoy comes back as another one, that does not take what the former took."""
    envoys = Several({"old": set()}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.quarantine.disconnected(worlds.EG_FLEET, "old")
    del envoys.dislikes["old"]

    envoys.join("new", {"/3"})

    assert envoys.refused() == {3}
    assert envoys.tables["new"] == {host(n): f"/{n}!" if n == 3 else f"/{n}" for n in range(8)}


def test_a_last_good_form_that_another_envoy_refuses_answers_500() -> None:
    """It comes in the place of the one that took that form, and the search comes to an end."""
    envoys = Several({"old": {"/1?"}}, *(f"/{n}" for n in range(4)))
    envoys.settle()
    envoys.edit(1, "/1", odd=True)
    assert envoys.tables["old"][host(1)] == "/1", "its last good form"
    envoys.quarantine.disconnected(worlds.EG_FLEET, "old")
    del envoys.dislikes["old"]

    envoys.join("new", {"/1", "/1?"})

    assert envoys.refused() == {1}
    assert envoys.tables["new"] == {host(n): f"/{n}!" if n == 1 else f"/{n}" for n in range(4)}
    envoys.edit(1, "/mended")
    assert envoys.refused() == set()
    assert envoys.tables["new"][host(1)] == "/mended"


def test_where_there_is_nothing_to_blame_what_is_left_is_tried() -> None:
    """What is refused may be refused for what it lacks."""

    class NotEmpty(Refusing):
        def refuses(self, paths: set[str]) -> bool:
            return not paths or super().refuses(paths)

    envoy = NotEmpty("/a", "/b", "/c")
    envoy.apply(1, None)
    envoy.edit(2, None)
    envoy.apply(0, None)
    envoy.apply(1, REFUSED)
    envoy.apply(2, "/d")

    envoy.settle()

    assert envoy.refused() == {1}
    assert envoy.serves == {host(2): "/d"}


def test_a_new_match_that_is_refused_answers_500_and_what_matched_before_is_gone() -> None:
    """The last good form of a route matches what the route matches now; it is no form of another match."""
    envoy = Refusing("/", "/a")
    at_one_hostname(envoy, "/", "/a")
    envoy.settle()

    at_one_hostname(envoy, DISLIKED, "/a")
    envoy.settle()

    assert envoy.refused() == {0}
    assert envoy.paths == [f"{DISLIKED}!", "/a"]


def test_a_refusal_with_nothing_to_blame_is_looked_at_once() -> None:
    envoy = Refusing("/a", "/b")
    at_one_hostname(envoy, "/a", "/b")
    envoy.settle()
    envoy.apply(1, None)
    envoy.refuses_all = True
    envoy.settle()

    envoy.quarantine.connected(worlds.EG_FLEET, "another")

    assert list(envoy.quarantine.review()) == []
    assert envoy.refused() == set()


def test_a_hostname_that_is_new_puts_no_other_under_suspicion() -> None:
    """Its shard is new as well, so the table has one part more than before."""
    envoy = Refusing("/a", "/b", "/c")
    envoy.settle()
    serving: list[dict[str, str]] = []

    envoy.apply(9, REFUSED)
    envoy.settle(lambda: serving.append(envoy.serves))

    assert envoy.refused() == {9}
    assert all(serves.items() >= {host(0): "/a", host(1): "/b", host(2): "/c"}.items() for serves in serving)


def test_while_a_first_table_is_searched_no_request_falls_to_a_wider_route() -> None:
    """Nothing was in force before. What is narrower may be there to keep strangers out."""
    envoy = Refusing(*(f"/{n}" for n in range(9)), REFUSED)
    wide = worlds.route(0, "/", kind=Backend.KIND)
    spec = structs.replace(wide.spec, hostnames=("*.example.com",))
    envoy.world.apply({wide.ref: structs.replace(wide, spec=spec)})
    tables: list[dict[str, str]] = []

    envoy.settle(lambda: tables.append(envoy.serves))

    assert envoy.refused() == {9}
    wide_open = [serves for serves in tables if serves.get("*.example.com") == "/"]
    assert wide_open
    for serves in wide_open:
        assert serves.keys() >= {host(n) for n in range(1, 9)}, "nobody else may answer for them"


@pytest.mark.parametrize("bad", [8, 29, 71], ids=["first", "middle", "last"])
def test_all_but_a_few_good_routes_are_back_after_a_few_answers(bad: int) -> None:
    """64 routes come at once, and Envoy refuses one. Those of before are served all the time."""
    envoy = Refusing(*(f"/{n}" for n in range(72)))
    for n in range(8, 72):
        envoy.apply(n, None)
    envoy.settle()
    before, first = envoy.serves, envoy.answers
    serving: list[dict[str, str]] = []

    for n in range(8, 72):
        envoy.apply(n, f"/{n}", odd=n == bad)
    envoy.settle(lambda: serving.append(envoy.serves))

    assert envoy.refused() == {bad}
    assert all(serves.items() >= before.items() for serves in serving)
    assert envoy.answers - first <= 13, "two for each time that 64 can be halved, and one"
    good = [sum(not path.endswith("!") for path in serves.values()) for serves in serving]
    assert sum(count >= 8 + 48 for count in good) >= len(good) / 2
    assert good[-1] == 8 + 63


def test_no_route_is_let_in_while_the_fallback_of_another_is_out() -> None:
    """What matches it might then reach a route that lets everybody pass."""
    envoy = Refusing("/old")
    at_one_hostname(envoy, "/old")
    envoy.settle()
    paths = [f"/{n}" for n in range(16)]
    tables: list[list[str]] = []

    at_one_hostname(envoy, "/old", *paths, REFUSED)
    envoy.settle(lambda: tables.append(envoy.paths))

    assert envoy.refused() == {17}
    assert any("/0!" in table for table in tables)
    for table in tables:
        if set(paths) & set(table):
            assert {path.removesuffix("!") for path in table} >= set(paths)


def test_edits_that_come_faster_than_answers_go_on_beside_a_culprit() -> None:
    """Each answer is about a version that is no longer the last, and each version has something new in it."""
    envoy = Refusing(*(f"/{n}" for n in range(8)))
    envoy.settle()
    envoy.apply(3, REFUSED)
    served: set[str] = set()

    for n in range(20):
        envoy.late(lambda n=n: envoy.apply(0, f"/edit-{n}"))
        served.add(envoy.serves[host(0)])

    assert len(served) > 5
    envoy.settle()
    assert envoy.refused() == {3}
    assert envoy.serves[host(0)] == "/edit-19"


@pytest.mark.slow
@given(st.integers(1, 40), st.integers())
@settings(max_examples=50, deadline=None)
def test_a_search_ends_whatever_envoy_says(count: int, seed: int) -> None:
    """Also where there is no sense in it: not one answer follows from another."""

    class Random(Refusing):
        def refuses(self, paths: set[str]) -> bool:
            said = f"{seed} {sorted(paths)}"
            return bool(paths) and hashlib.sha256(said.encode()).digest()[0] % 2 == 1

    envoy = Random(*(f"/{n}" for n in range(count)))

    envoy.settle()

    assert envoy.answers <= 8 * count + 8
    assert not envoy.quarantine.is_searching(worlds.EG_FLEET, ROUTE, TABLE)


def recalling(envoy: Refusing, *paths: str, odd: int | None = None) -> None:
    """Let the quarantine recall the table that a former process had in force: routes with these paths."""
    former = Refusing(*paths)
    if odd is not None:
        former.apply(odd, paths[odd], odd=True)
    former.world.pull()
    envoy.world.pull()
    at = (worlds.EG_FLEET, ROUTE, TABLE)
    envoy.quarantine.recall(*at, former.world.parts(*at), former.world.patches(*at))


def test_what_a_former_process_had_in_force_stands_in_for_what_envoy_refuses() -> None:
    """At the first answer, although there are many others."""
    envoy = Refusing("/a", *(f"/{n}" for n in range(20)))
    envoy.apply(0, "/a", odd=True)
    recalling(envoy, "/a", *(f"/{n}" for n in range(20)))

    envoy.settle()

    assert envoy.serves[host(0)] == "/a"
    assert envoy.refused() == {0}
    assert envoy.answers == 2


def test_what_a_former_process_had_in_force_may_be_refused_as_well() -> None:
    """The next start may come with another Envoy. Then all is searched through, as if nothing were known."""
    envoy = Refusing("/a", "/b", DISLIKED)
    envoy.apply(0, "/a", odd=True)
    recalling(envoy, "/a", "/b", DISLIKED)

    envoy.settle()

    assert envoy.refused() == {0, 2}
    assert envoy.serves == {host(0): "/a!", host(1): "/b", host(2): f"{DISLIKED}!"}


def test_of_what_a_former_process_had_in_force_all_may_be_refused() -> None:
    envoy = Refusing("/a", "/b")
    envoy.apply(0, "/a", odd=True)
    recalling(envoy, DISLIKED, "/b", odd=1)

    envoy.settle()

    assert envoy.serves == {host(0): "/a!", host(1): "/b"}


def test_what_a_former_process_had_in_force_is_no_matter_where_envoy_takes_all() -> None:
    envoy = Refusing("/a", "/new")
    recalling(envoy, "/a", "/b")

    envoy.settle()

    assert envoy.serves == {host(0): "/a", host(1): "/new"}
    assert envoy.refused() == set()
