"""The search for what Envoy refuses, over a World and an Envoy that refuses what a test says: no process."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from envoy.config.route.v3.route_components_pb2 import RouteMatch
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert, structs

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxySpec, MergeBackends
from moongate.api.httproute import HTTPRoute, HTTPRouteRule
from moongate.attach.gateways import config
from moongate.quarantine import Refusal
from moongate.quarantine.quarantine import STEP
from moongate.quarantine.search import Search, Steps
from moongate.world import World
from moongate.xds.wire import ROUTE, XdsResource, encode
from tests import worlds
from tests.refusing import DISLIKED, NODE, REFUSED, TABLE, WORDS, Refusing, Several, finished, host, oddly


def test_nothing_is_withheld_while_envoy_takes_all() -> None:
    envoy = Refusing("/a", "/b")

    envoy.settle()

    assert envoy.quarantine.refusals() == ()
    assert envoy.serves == {host(0): "/a", host(1): "/b"}


def test_a_refused_route_is_reported_with_the_message_of_envoy() -> None:
    envoy = Refusing("/a", REFUSED)

    envoy.settle()

    assert envoy.quarantine.refusals() == (
        Refusal(worlds.EG_FLEET, str(r1 := Ref.of(HTTPRoute, "default", "r1")), (r1,), (), WORDS),
    )
    assert envoy.serves == {host(0): "/a"}


def test_a_single_edit_is_the_culprit_at_once() -> None:
    """What Envoy had acknowledged is good, so there is nothing to search for."""
    envoy = Refusing(*(f"/{n}" for n in range(50)))
    envoy.settle()
    before = envoy.answers

    envoy.edit(7, "/7", odd=True)

    assert envoy.refused() == {7}
    assert envoy.serves[host(7)] == "/7", "its last good form stays in force"
    assert envoy.answers - before <= 3


def test_a_refused_route_does_not_keep_others_from_changing() -> None:
    envoy = Refusing("/a", "/b")
    envoy.settle()
    envoy.edit(0, "/a", odd=True)

    envoy.edit(1, "/c")

    assert envoy.serves == {host(0): "/a", host(1): "/c"}


def test_a_new_route_that_is_refused_answers_500() -> None:
    """Its requests must not fall to a wider route, that may be open to all."""
    envoy = Refusing("/a", DISLIKED)

    envoy.settle()

    assert envoy.refused() == {1}
    assert envoy.serves == {host(0): "/a", host(1): f"{DISLIKED}!"}


def test_a_new_route_whose_match_is_refused_is_left_out() -> None:
    envoy = Refusing("/a", REFUSED)

    envoy.settle()

    assert envoy.refused() == {1}
    assert envoy.serves == {host(0): "/a"}


def test_requests_for_a_hostname_whose_only_match_is_refused_do_not_fall_to_a_wider_one() -> None:
    """What is refused may be there to keep strangers out."""
    envoy = Refusing("/", "/b")
    wide = worlds.route(0, "/", kind=Backend.KIND)
    spec = structs.replace(wide.spec, hostnames=("*.example.com",))
    envoy.world.apply({wide.ref: structs.replace(wide, spec=spec)})
    envoy.apply(1, None)
    envoy.settle()
    hostnames: list[set[str]] = []

    envoy.apply(1, REFUSED)
    envoy.settle(lambda: hostnames.append({host.domains[0] for host in envoy.taken.virtual_hosts}))

    assert envoy.refused() == {1}
    assert envoy.serves == {"*.example.com": "/"}
    assert hostnames[-1] == {"*.example.com", host(1)}


def test_a_new_route_that_answers_500_is_served_once_mended() -> None:
    envoy = Refusing("/a", DISLIKED)
    envoy.settle()

    envoy.edit(1, "/b")

    assert envoy.refused() == set()
    assert envoy.serves == {host(0): "/a", host(1): "/b"}


def test_a_last_good_form_keeps_the_cluster_that_it_needs() -> None:
    """The refused form sends to another backend: both are there, until the route is mended."""
    envoy = Refusing("/a", "/b")
    envoy.settle()
    route = worlds.route(0, "/a", kind=Backend.KIND)
    elsewhere = structs.replace(route.spec.rules[0].backend_refs[0], name="s1")
    rule = structs.replace(route.spec.rules[0], backend_refs=(elsewhere,))
    edited = structs.replace(route, spec=structs.replace(route.spec, rules=(rule,)))
    envoy.world.apply({route.ref: oddly(edited)})
    envoy.settle()

    assert envoy.serves[host(0)] == "/a"
    assert envoy.clusters() == {"s0", "s1"}

    envoy.world.apply({route.ref: edited})
    envoy.settle()

    assert envoy.serves[host(0)] == "/a"
    assert envoy.clusters() == {"s1"}


def test_a_fault_of_no_single_route_does_not_go_on_for_ever() -> None:
    """An Envoy that refuses whatever is not empty, for a reason of its own."""
    envoy = Refusing("/a", "/b", "/c")
    envoy.refuses_all = True

    envoy.settle()

    assert envoy.refused() == {0, 1, 2}
    assert envoy.serves == {}


def test_a_route_is_not_condemned_for_the_company_it_came_in() -> None:
    """It goes back and forth together with one that is refused, and taken each time."""
    envoy = Refusing("/a", "/b")

    for _ in range(30):
        envoy.apply(0, "/x")
        envoy.edit(1, REFUSED)
        assert envoy.refused() == {1}
        envoy.apply(0, "/a")
        envoy.edit(1, "/b")


def test_a_mended_route_is_served_and_no_longer_reported() -> None:
    envoy = Refusing("/a", "/b")
    envoy.settle()
    envoy.edit(0, REFUSED)

    envoy.edit(0, "/mended")

    assert envoy.refused() == set()
    assert envoy.serves[host(0)] == "/mended"


def test_a_refused_route_that_is_deleted_is_no_longer_reported() -> None:
    """It was in no table, so its end changes none, and Envoy has nothing to say of it."""
    envoy = Refusing("/a", REFUSED)
    envoy.settle()

    envoy.edit(1, None)

    assert envoy.refused() == set()


def test_a_refused_route_that_comes_back_is_tried_again() -> None:
    envoy = Refusing("/a", REFUSED)
    envoy.settle()
    envoy.edit(1, None)

    envoy.edit(1, REFUSED)

    assert envoy.refused() == {1}


def test_an_answer_to_an_older_version_counts_for_nothing() -> None:
    envoy = Refusing("/a")

    envoy.quarantine.refused(worlds.EG_FLEET, NODE, ROUTE, TABLE, "of yesterday", WORDS)
    assert not envoy.review()
    envoy.quarantine.acknowledged(worlds.EG_FLEET, NODE, ROUTE, TABLE, "of yesterday")
    assert not envoy.review()
    assert envoy.quarantine.refusals() == ()


def test_an_answer_that_comes_while_the_table_is_another_counts_once_it_is_back() -> None:
    """Envoy is not sent again what it has answered, so nobody would tell it another time."""
    envoy = Refusing("/a", "/b")
    envoy.settle()
    envoy.apply(1, REFUSED)
    envoy.world.pull()
    sent = envoy.version()
    envoy.apply(1, "/c")
    envoy.world.pull()

    envoy.quarantine.refused(worlds.EG_FLEET, NODE, ROUTE, TABLE, sent, WORDS)
    assert not envoy.review()
    envoy.apply(1, REFUSED)
    envoy.world.pull()

    assert envoy.version() == sent
    assert envoy.review()
    envoy.world.pull()
    assert envoy.refused() == {1}


def test_an_acknowledgement_counts_too_once_the_table_is_back() -> None:
    envoy = Refusing("/a", "/b")
    envoy.settle()
    envoy.apply(0, "/good")
    envoy.world.pull()
    sent = envoy.version()
    envoy.apply(0, "/other")
    envoy.world.pull()

    envoy.quarantine.acknowledged(worlds.EG_FLEET, NODE, ROUTE, TABLE, sent)
    envoy.apply(0, "/good")
    envoy.world.pull()
    envoy.review()
    envoy.apply(1, REFUSED)
    envoy.world.pull()
    envoy.quarantine.refused(worlds.EG_FLEET, NODE, ROUTE, TABLE, envoy.version(), WORDS)
    envoy.review()
    envoy.world.pull()

    assert envoy.refused() == {1}, "the other one is known to be good"


def test_a_fleet_that_is_gone_is_forgotten() -> None:
    envoy = Refusing("/a", REFUSED)
    envoy.settle()

    envoy.quarantine.forget(worlds.EG_FLEET)

    assert envoy.quarantine.refusals() == ()


def test_a_table_that_is_gone_is_forgotten() -> None:
    """Its routes may be served elsewhere, so no status may say that they are refused."""
    envoy = Refusing("/a", REFUSED)
    envoy.settle()

    envoy.world.apply({worlds.EG: worlds.gateway(worlds.http_listener("renamed"))})
    envoy.world.pull()
    envoy.review()

    assert envoy.world.resource(worlds.EG_FLEET, ROUTE, TABLE) is None
    assert envoy.quarantine.refusals() == ()


def test_nothing_is_kept_of_a_table_that_is_gone_although_nothing_was_refused_in_it() -> None:
    """Listeners come and go for months while their fleet stays."""
    envoy = Refusing("/a", "/b")
    envoy.settle()
    before = envoy.quarantine.versions_kept()

    for n in range(5):
        envoy.world.apply({worlds.EG: worlds.gateway(worlds.http_listener(f"renamed-{n}"))})
        gone = envoy.world.pull().gone["default/eg"]
        envoy.quarantine.left(worlds.EG_FLEET, gone)
        envoy.review()
        at = (worlds.EG_FLEET, ROUTE, f"default/eg/renamed-{n}")
        resource = envoy.world.resource(*at)
        assert resource is not None
        envoy.quarantine.acknowledged(worlds.EG_FLEET, NODE, ROUTE, at[2], resource.version)
        envoy.review()
        assert envoy.quarantine.versions_kept() == before


def test_a_search_that_is_over_counts_for_nothing_in_the_next() -> None:
    """However often a good route changes together with a bad one, it is not taken for one."""
    envoy = Refusing("/a", "/b")
    envoy.settle()

    for n in range(30):
        envoy.apply(0, "/a" if n % 2 else "/other")
        envoy.edit(1, REFUSED)
        assert envoy.refused() == {1}
        envoy.edit(1, "/b")

    assert envoy.refused() == set()


@pytest.mark.slow
def test_one_route_is_found_whichever_envoys_refuse_it() -> None:
    """Envoys of one fleet may be of several versions, and answer one after the other."""
    for refuses in (
        {"a": {REFUSED}, "b": {REFUSED}},
        {"a": {REFUSED}, "b": set[str]()},
        {"a": set[str](), "b": {REFUSED}, "c": {REFUSED}},
    ):
        envoys = Several(refuses, *(REFUSED if n == 5 else f"/{n}" for n in range(64)))

        envoys.settle()

        assert envoys.refused() == {5}
        for table in envoys.tables.values():
            assert table.pop(host(5), None) in (None, f"{REFUSED}!")
            assert len(table) == 63


def test_what_each_of_several_envoys_refuses_is_out_of_force_for_all() -> None:
    """They share a configuration."""
    envoys = Several({"a": {"/3"}, "b": {"/4"}, "c": set()}, *(f"/{n}" for n in range(32)))

    envoys.settle()

    assert envoys.refused() == {3, 4}
    assert envoys.tables["a"] == envoys.tables["b"] == envoys.tables["c"]


def test_a_new_envoy_that_refuses_what_others_have_takes_nothing_from_them() -> None:
    """It has no routes, so it is not ready; the others go on."""
    envoys = Several({"a": set()}, *(f"/{n}" for n in range(8)))
    envoys.settle()

    envoys.dislikes["old"] = {"/3"}
    envoys.answered["old"] = ""
    envoys.quarantine.connected(worlds.EG_FLEET, "old")
    envoys.settle()

    assert envoys.refused() == set()
    assert len(envoys.tables["a"]) == 8


def test_an_envoy_that_is_silent_decides_nothing_until_it_is_gone() -> None:
    envoys = Several({"a": {REFUSED}, "b": {REFUSED}}, *(f"/{n}" for n in range(8)))
    envoys.settle()
    envoys.apply(2, REFUSED)
    envoys.apply(3, "/other")
    envoys.silent = {"b"}
    envoys.settle()

    assert envoys.refused() == set()
    envoys.quarantine.disconnected(worlds.EG_FLEET, "b")
    envoys.settle()

    assert envoys.refused() == {2}
    assert envoys.tables["a"][host(3)] == "/other"


def test_a_table_that_waits_for_a_silent_envoy_is_not_judged_again_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There may be thousands of them, and a review after each edit."""
    envoys = Several({"a": set(), "b": set()}, "/a", "/b")
    envoys.settle()
    envoys.silent = {"b"}
    envoys.edit(0, "/c")
    envoys.settle()
    judged: list[object] = []
    judge = Search.judge

    def noted(search: Search, now: int) -> Steps:
        judged.append(search)
        return judge(search, now)

    monkeypatch.setattr(Search, "judge", noted)
    finished(envoys.quarantine.review())
    assert not judged

    envoys.edit(0, "/d")
    assert judged


def test_many_searches_are_looked_at_in_steps() -> None:
    envoys = Several({"a": set()}, "/a")
    for n in range(100):
        envoys.quarantine.acknowledged(worlds.EG_FLEET, "a", ROUTE, f"other-{n}", "1")

    assert sum(1 for _ in envoys.quarantine.review()) > 100 // STEP - 1


def test_nothing_is_kept_for_each_envoy_while_all_agree() -> None:
    """A fleet may have hundreds of Envoys, and thousands of tables."""
    envoys = Several({f"e{n}": set[str]() for n in range(50)}, "/a", "/b")
    envoys.settle()
    envoys.edit(0, "/c")

    assert envoys.quarantine.facts_kept() == 0


def test_routes_that_are_refused_only_together_stay_out_after_a_bounded_search() -> None:
    """No single one is at fault, so none can be found; nobody tries for ever."""

    class Couple(Refusing):
        def refuses(self, paths: set[str]) -> bool:
            return {"/one", "/other"} <= paths

    envoy = Couple("/one", "/other", *(f"/{n}" for n in range(6)))

    envoy.settle()

    assert envoy.refused() <= {0, 1}
    assert envoy.answers <= 40
    assert len(envoy.serves) >= 6


@pytest.mark.slow
@given(st.lists(st.sampled_from(["/good", REFUSED]), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_all_that_is_refused_is_found_and_only_that_is_out_of_force(paths: list[str]) -> None:
    """Whichever they are, and however many."""
    envoy = Refusing(*paths)

    envoy.settle()

    bad = {n for n, path in enumerate(paths) if path == REFUSED}
    assert envoy.refused() == bad
    assert envoy.serves == {host(n): "/good" for n in range(len(paths)) if n not in bad}


edits = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["/x", "/y", REFUSED, None]), st.booleans()), max_size=8
)


@pytest.mark.slow
@given(edits)
@settings(max_examples=25, deadline=None)
def test_after_any_edits_each_route_has_its_last_good_form(
    history: list[tuple[int, str | None, bool]],
) -> None:
    """A route that is refused answers as it last did where it matches the same, and else with 500."""
    envoy = Refusing(*["/first"] * 6)
    envoy.settle()
    wanted: dict[int, tuple[str, bool] | None] = dict.fromkeys(range(6), ("/first", False))
    serves: dict[int, str] = dict.fromkeys(range(6), "/first")

    for n, path, odd in history:
        envoy.edit(n, path, odd=odd)
        wanted[n] = None if path is None else (path, odd)
        if path is None or path == REFUSED:
            serves.pop(n, None)
        elif not odd:
            serves[n] = path
        elif serves.get(n) != path:
            serves[n] = f"{path}!"

    refused = {n for n, route in wanted.items() if route is not None and (route[0] == REFUSED or route[1])}
    assert envoy.refused() == refused
    assert envoy.serves == {host(n): path for n, path in serves.items()}


@pytest.mark.slow
@given(
    st.lists(
        st.none() | st.tuples(st.integers(0, 5), st.sampled_from(["/x", "/y", REFUSED, None])), max_size=16
    )
)
@settings(max_examples=25, deadline=None)
def test_edits_may_come_while_the_search_is_under_way(history: list[tuple[int, str | None] | None]) -> None:
    """``None`` is an answer of Envoy. In the end all good routes are as they were last written."""
    envoy = Refusing(*["/first"] * 6)
    envoy.settle()
    wanted: dict[int, str | None] = dict.fromkeys(range(6), "/first")

    for edit in history:
        if edit is None:
            envoy.step()
        else:
            envoy.apply(*edit)
            wanted[edit[0]] = edit[1]
    envoy.settle()

    assert envoy.refused() == {n for n, path in wanted.items() if path == REFUSED}
    for n, path in wanted.items():
        if path != REFUSED:
            assert envoy.serves.get(host(n)) == path


class Rule(NamedTuple):
    """A rule of the model.

    Args:
        path: the prefix that it matches.
        header: a header that it asks for besides; "" for none.
        guarded: whether a filter has a say in who passes.
        odd: whether Envoy refuses it.
    """

    path: str
    header: str
    guarded: bool
    odd: bool

    def written(self) -> HTTPRouteRule:
        headers = [{"name": self.header, "value": "1"}] if self.header else []
        cors = {"type": "CORS", "cors": {"allowOrigins": ["https://a.test"]}}
        odd = {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"set": [{"name": "x", "value": "%NOPE%"}]},
        }
        rule = {
            "matches": [{"path": {"value": self.path}, "headers": headers}],
            "filters": [cors] * self.guarded + [odd] * self.odd,
            "backendRefs": [
                {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "s0", "port": 8080}
            ],
        }
        return convert(rule, HTTPRouteRule, strict=False)


class Probe(NamedTuple):
    """A request."""

    host: str
    path: str
    headers: frozenset[str]

    def meets(self, match: RouteMatch) -> bool:
        prefix = match.path_separated_prefix.rstrip("/")
        under = self.path == prefix or self.path.startswith(f"{prefix}/")
        return under and all(header.name in self.headers for header in match.headers)


PROBES = [
    Probe(host, path, frozenset(headers))
    for host in ("h0.example.com", "h9.example.com")
    for path in ("/", "/a", "/a/b", "/c")
    for headers in ((), ("x",), ("y",), ("x", "y"))
]
RULES = st.lists(
    st.builds(
        Rule, st.sampled_from(("/", "/a", "/a/b")), st.sampled_from(("", "x", "y")), *[st.booleans()] * 2
    ),
    max_size=4,
)


def passing(table: RouteConfiguration) -> dict[Probe, tuple[str, bytes]]:
    """The probes that pass without being asked who they are, with the route and the match that they meet."""
    domains = {domain: host.routes for host in table.virtual_hosts for domain in host.domains}
    passed: dict[Probe, tuple[str, bytes]] = {}
    for probe in PROBES:
        routes = domains.get(probe.host, domains.get("*.example.com", ()))
        answering = next((route for route in routes if probe.meets(route.match)), None)
        if answering is not None and answering.HasField("route") and not answering.typed_per_filter_config:
            passed[probe] = answering.name.partition("/rule/")[0], encode(answering.match)
    return passed


class Guarded(Refusing):
    """An Envoy with two routes, one of which has the wider hostname."""

    def __init__(self, config: EnvoyGateway) -> None:
        super().__init__()
        self.world.configure(config)
        backend = worlds.backend(0)
        self.world.apply({backend.ref: backend})

    def give(self, *rules: list[Rule]) -> None:
        for n, (hostname, own) in enumerate(zip(("h0.example.com", "*.example.com"), rules, strict=True)):
            route = worlds.route(n)
            written = tuple(rule.written() for rule in own)
            spec = structs.replace(route.spec, hostnames=(hostname,), rules=written)
            self.world.apply({route.ref: structs.replace(route, spec=spec) if own else None})

    def wanted(self) -> RouteConfiguration:
        """The table as it would be if Envoy took it."""
        world = World.of(self.world.store.resources().values(), config(self.world.db))
        resource = world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        return RouteConfiguration.FromString(resource.body) if resource is not None else RouteConfiguration()


ADMIN, ALL = Rule("/a", "", guarded=True, odd=False), Rule("/", "", guarded=False, odd=False)
REFUSED_ADMIN = ADMIN._replace(odd=True)


@pytest.mark.parametrize(
    "rules",
    [[ALL, REFUSED_ADMIN], [Rule("/c", "", guarded=False, odd=False), REFUSED_ADMIN, ALL]],
    ids=["changes places", "another is inserted"],
)
def test_a_guarded_rule_that_is_refused_stays_guarded_and_the_others_are_served(rules: list[Rule]) -> None:
    """A rule is known by what it matches: its index passes to another one."""
    envoy = Guarded(EnvoyGateway.shipped())
    envoy.give([ADMIN, ALL], [])
    envoy.settle()

    envoy.give(rules, [])
    envoy.settle()

    assert envoy.refused() == {0}
    passed = passing(envoy.taken)
    assert {probe.path for probe in passed} == {"/", "/c"}, "also the rules that did not change"
    served = {route.match.path_separated_prefix: route for route in envoy.taken.virtual_hosts[0].routes}
    assert served["/a"].HasField("route"), "it is served to those who may"
    assert served["/a"].typed_per_filter_config


def test_what_a_former_process_had_in_force_lets_nobody_pass_whom_the_route_would_not() -> None:
    """The route had no guard then."""
    envoy, former = Guarded(EnvoyGateway.shipped()), Guarded(EnvoyGateway.shipped())
    former.give([ADMIN._replace(guarded=False), ALL], [])
    former.world.pull()
    envoy.give([REFUSED_ADMIN, ALL], [])
    envoy.world.pull()
    at = (worlds.EG_FLEET, ROUTE, TABLE)
    envoy.quarantine.recall(*at, former.world.parts(*at), former.world.patches(*at))

    envoy.settle()

    assert Probe("h0.example.com", "/c", frozenset()) in passing(envoy.taken)
    assert Probe("h0.example.com", "/a", frozenset()) not in passing(envoy.taken)


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [False, True], ids=["by precedence", "as written"])
@given(history=st.lists(st.tuples(RULES, RULES), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_nobody_passes_whom_old_and_new_refuse_while_envoy_refuses_rules(
    *, in_order: bool, history: list[tuple[list[Rule], list[Rule]]]
) -> None:
    """Rules come, go, change places and guards, and some of them are refused."""
    envoy_proxy = EnvoyProxySpec(merge_backends=MergeBackends(), preserve_route_order=in_order)
    envoy = Guarded(structs.replace(EnvoyGateway.shipped(), envoy_proxy=envoy_proxy))
    before: dict[Probe, tuple[str, bytes]] = {}
    for rules in history:
        envoy.give(*rules)
        wanted = passing(envoy.wanted())
        may = before.keys() | wanted.keys()

        def watch(may: set[Probe] = may) -> None:
            assert passing(envoy.taken).keys() <= may

        envoy.settle(watch)
        unchanged = {probe for probe, met in wanted.items() if before.get(probe) == met}
        before = passing(envoy.taken)
        assert unchanged <= before.keys()


def cluster(n: int) -> str:
    """The cluster that a route sends to."""
    return f"backend/default/s{n}/8080/http"


class Lacking(Refusing):
    """An Envoy that refuses the clusters of some routes, by number, and so is not sent a table with them.

    Attributes:
        lacks: those routes.
        least: how many routes were in force at least, once any was, without those that answer 500.
    """

    def __init__(self, lacks: set[int], *paths: str) -> None:
        super().__init__(*paths)
        self.lacks = lacks
        self.least = len(paths)

    def answer(self, sent: XdsResource | None = None) -> bool:
        resource = sent or self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        assert resource is not None
        table = RouteConfiguration.FromString(resource.body)
        used = {route.route.cluster for host in table.virtual_hosts for route in host.routes}
        lacks = tuple((cluster(n), f"no {n}") for n in sorted(self.lacks) if cluster(n) in used)
        if lacks and resource.version != self._answered:
            self._answered = resource.version
            self.answers += 1
            about = worlds.EG_FLEET, NODE, ROUTE, TABLE, resource.version
            self.quarantine.refused(*about, "it lacks clusters", lacks)
            return True
        answered = not lacks and super().answer(sent)
        if answered:
            self.least = min(self.least, sum(not path.endswith("!") for path in self.serves.values()))
        return answered

    def said(self) -> dict[int, str]:
        """What is reported of each route that is refused."""
        return {
            int(ref.name[1:]): refusal.message
            for refusal in self.quarantine.refusals()
            for ref in refusal.resources
        }

    def reaches(self) -> dict[str, str]:
        """Where requests go, by hostname."""
        return {host.domains[0]: host.routes[0].route.cluster for host in self.taken.virtual_hosts}

    def send(self, n: int, to: int) -> None:
        """Let a route send to the backend of another."""
        route = worlds.route(n, f"/{n}", kind=Backend.KIND)
        elsewhere = structs.replace(route.spec.rules[0].backend_refs[0], name=f"s{to}")
        rule = structs.replace(route.spec.rules[0], backend_refs=(elsewhere,))
        self.world.apply({route.ref: structs.replace(route, spec=structs.replace(route.spec, rules=(rule,)))})


def test_a_route_whose_new_cluster_is_refused_stays_at_the_former_one() -> None:
    envoy = Lacking({1}, "/0", "/1", "/2")
    envoy.apply(1, None)
    envoy.settle()
    envoy.send(0, to=1)
    envoy.settle()

    assert envoy.said() == {0: f"cluster {cluster(1)}: no 1"}
    assert envoy.reaches()[host(0)] == cluster(0)
    assert envoy.clusters() == {"s0", "s1", "s2"}, "the refused one is tried again when it changes"

    envoy.apply(2, "/other")
    envoy.settle()
    assert envoy.serves == {host(0): "/0", host(2): "/other"}

    envoy.lacks.clear()
    envoy.quarantine.retry_with(worlds.EG_FLEET, cluster(1))
    envoy.settle()
    assert envoy.said() == {}
    assert envoy.reaches()[host(0)] == cluster(1)


def test_of_a_first_table_all_but_the_routes_without_clusters_are_served_at_once() -> None:
    """Nothing is searched for: it is known who needs them. Nor are the names of others alike."""
    envoy = Lacking({1, 7}, *(f"/{n}" for n in range(20)))

    envoy.settle()

    assert envoy.said() == {1: f"cluster {cluster(1)}: no 1", 7: f"cluster {cluster(7)}: no 7"}
    assert {host for host, path in envoy.serves.items() if path.endswith("!")} == {host(1), host(7)}
    assert envoy.least == 18
    assert envoy.answers == 2


def test_a_cluster_that_comes_lets_in_its_own_routes_alone() -> None:
    envoy = Lacking({0, 1}, "/0", "/1", "/2")
    envoy.settle()
    envoy.lacks.discard(1)
    before = envoy.answers

    envoy.quarantine.retry_with(worlds.EG_FLEET, cluster(1))
    envoy.settle()

    assert envoy.said() == {0: f"cluster {cluster(0)}: no 0"}
    assert envoy.serves == {host(0): "/0!", host(1): "/1", host(2): "/2"}
    assert envoy.answers == before + 1


def test_a_cluster_that_came_and_is_refused_again_is_reported_again() -> None:
    envoy = Lacking({0}, "/0", "/1")
    envoy.settle()

    for _ in range(3):
        envoy.quarantine.retry_with(worlds.EG_FLEET, cluster(0))
        envoy.settle()

    assert envoy.said() == {0: f"cluster {cluster(0)}: no 0"}


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(["/good", REFUSED, DISLIKED]), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
    st.lists(st.integers(0, 11), max_size=6),
)
@settings(max_examples=50, deadline=None)
def test_what_lacks_clusters_and_what_is_refused_are_found_and_nothing_else(
    paths: list[str], lacks: set[int], flips: list[int]
) -> None:
    """Whichever they are, and in whatever order clusters come and go."""
    envoy = Lacking({n for n in lacks if n < len(paths)}, *paths)

    def holds() -> None:
        bad = {n for n, path in enumerate(paths) if path != "/good"}
        assert envoy.refused() == bad | envoy.lacks
        good = {host(n): "/good" for n in range(len(paths)) if n not in bad | envoy.lacks}
        assert {h: path for h, path in envoy.serves.items() if path == "/good"} == good

    envoy.settle()
    holds()
    for n in flips:
        if n in envoy.lacks:
            envoy.lacks.discard(n)
            envoy.quarantine.retry_with(worlds.EG_FLEET, cluster(n))
            envoy.settle()
            holds()
