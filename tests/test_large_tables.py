"""Tables that become large are scoped, and stay so."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from msgspec import structs

from moongate import names
from moongate.api.httproute import HTTPHeaderMatch, HTTPRouteMatch
from moongate.attach import sizes
from moongate.attach.envoy_listeners import next_forms, ready_listeners, route_configurations
from moongate.draining_tables import DrainingTables
from moongate.large_tables import LargeTables
from moongate.world import World
from moongate.xds.fallbacks import Fallback, withheld
from moongate.xds.routes import concern
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.scoped_chains import HOST_HEADER
from moongate.xds.wire import CLUSTER, ROUTE, SCOPE, version
from tests import worlds
from tests.core import ON_HOST
from tests.faults import faulty, put_fault

TABLE = "default/eg/http"


class Fleet:
    """A World of one Gateway, and what is said of its tables."""

    def __init__(self) -> None:
        self.world = World(ON_HOST)
        self.large = LargeTables(self.world)
        self.world.apply({each.ref: each for each in worlds.routes_with_backends(0)})
        self.world.pull()
        self.large.start(worlds.EG_FLEET)
        self.draining = DrainingTables(self.world)
        self.draining.start(worlds.EG_FLEET)

    def serve(self, *hosts: str) -> None:
        """Let there be a route for each of these hostnames, and for no others."""
        of_host = HTTPRouteMatch(headers=(HTTPHeaderMatch(name="Host", value="b.test"),))
        for n in range(5):
            route = worlds.route(n)
            rule = structs.replace(route.spec.rules[0], matches=(of_host,))
            spec = structs.replace(route.spec, hostnames=hosts[n : n + 1], rules=(rule,))
            self.world.apply({route.ref: structs.replace(route, spec=spec) if n < len(hosts) else None})
        self.world.pull()

    def is_scoped(self) -> bool:
        [table] = route_configurations(self.world.db, worlds.EG_FLEET)
        types = self.world.xds()["default/eg"]
        assert types.get(SCOPE) if table.scoped else TABLE in types[ROUTE]
        return table.scoped

    def whole(self) -> RouteConfiguration:
        """The table as one."""
        return RouteConfiguration.FromString(self.world.xds()["default/eg"][ROUTE][TABLE].body)

    def part(self, name: str) -> RouteConfiguration:
        """The part of a hostname, or the one that others share."""
        [part] = (r for n, r in self.world.xds()["default/eg"][SCOPE].items() if n.endswith(f"/{name}"))
        return ScopedRouteConfiguration.FromString(part.body).route_configuration


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """One for which two hostnames are many."""
    monkeypatch.setattr(sizes, "LARGE", 2)
    return Fleet()


def test_a_table_is_scoped_from_so_many_hostnames_on_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be whole again, its listener would change once more."""
    monkeypatch.setattr(sizes, "LARGE", 3)
    fleet = Fleet()

    fleet.serve("a.test", "b.test")
    assert not fleet.is_scoped()
    fleet.serve("a.test", "b.test", "c.test")
    assert fleet.is_scoped()
    fleet.serve("a.test")
    assert fleet.is_scoped()


def test_a_table_with_wildcards_is_whole(fleet: Fleet) -> None:
    fleet.serve("a.test", "b.test", "*.c.test")
    assert not fleet.is_scoped()
    fleet.serve("a.test", "b.test")
    assert fleet.is_scoped()


def test_a_wildcard_makes_a_table_whole_for_good(fleet: Fleet) -> None:
    """However often such a route comes and goes, its listener does not change each time."""
    fleet.serve("a.test", "b.test")
    assert fleet.is_scoped()
    fleet.serve("a.test", "b.test", "*.c.test")
    assert not fleet.is_scoped()
    fleet.serve("a.test", "b.test")
    assert not fleet.is_scoped()


def test_while_the_next_forms_cannot_be_computed_all_tables_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listener that changes for a bug of moongate would drain all connections."""
    monkeypatch.setattr(sizes, "LARGE", 2)
    with faulty():
        fleet = Fleet()
        fleet.serve("a.test", "b.test")
        put_fault(fleet.world, (next_forms, (worlds.EG_FLEET,)), "before")

        fleet.serve("a.test", "b.test", "*.c.test")
        assert fleet.is_scoped()

        put_fault(fleet.world, (next_forms, (worlds.EG_FLEET,)), None)
        fleet.world.pull()
        assert not fleet.is_scoped()


def test_a_table_that_was_away_is_judged_anew(fleet: Fleet) -> None:
    fleet.serve("a.test", "b.test")
    fleet.serve("a.test", "b.test", "*.c.test")

    for name in ("other", "http"):
        gateway = worlds.gateway(worlds.http_listener(name))
        fleet.world.apply({gateway.ref: gateway})
        fleet.world.pull()
    fleet.serve("a.test", "b.test")

    assert fleet.is_scoped()


def test_nothing_is_said_of_a_fleet_that_is_gone(fleet: Fleet) -> None:
    fleet.serve("a.test", "b.test")
    fleet.serve("a.test")
    assert fleet.is_scoped()

    fleet.large.end(worlds.EG_FLEET)
    fleet.world.pull()

    assert not fleet.is_scoped()


def looks_at(table: RouteConfiguration) -> list[str]:
    """The headers that the routes of ``*.test`` match on."""
    [host] = (host for host in table.virtual_hosts if host.domains[0] == "*.test")
    return [header.name for route in host.routes for header in route.match.headers]


def test_the_table_that_drains_keeps_its_form(fleet: Fleet) -> None:
    """A match on the Host looks elsewhere in a scoped table, where the connection has a finder."""
    fleet.serve("a.test", "b.test")
    assert fleet.is_scoped()
    fleet.serve("a.test", "b.test", "*.test")
    assert not fleet.is_scoped()

    assert (looks_at(fleet.part("_")), looks_at(fleet.whole())) == ([HOST_HEADER], ["Host"])

    fleet.serve("a.test", "b.test", "*.test", "c.test")
    assert fleet.part("c.test").virtual_hosts
    assert (looks_at(fleet.part("_")), looks_at(fleet.whole())) == ([HOST_HEADER], ["Host"])


def test_a_scoped_table_drains_until_no_envoy_asks_for_its_parts(fleet: Fleet) -> None:
    fleet.serve("a.test", "b.test")
    fleet.serve("a.test", "b.test", "*.test")

    fleet.draining.review(worlds.EG_FLEET, lambda type_url, name: type_url == SCOPE and name.endswith("/_"))
    fleet.world.pull()
    assert fleet.part("a.test").virtual_hosts

    assert fleet.draining.review(worlds.EG_FLEET, lambda _type, _name: False)
    fleet.world.pull()
    assert SCOPE not in fleet.world.xds()["default/eg"]


def test_what_was_refused_of_a_table_stays_out_of_its_new_form(fleet: Fleet) -> None:
    """Envoy would refuse it again: a part of a first answer, for which nothing is in force yet."""
    fleet.serve("a.test")
    assert not fleet.is_scoped()
    refused = worlds.route(0).ref
    [listener] = ready_listeners(fleet.world.db, worlds.EG_FLEET)
    [entry] = route_entries_of(fleet.world.db, listener, refused, False)
    form = version(entry.body)
    at = (worlds.EG_FLEET, ROUTE, TABLE)
    fleet.world.write(withheld(*at, refused), {form: Fallback(None, strict=True)})
    fleet.world.pull()
    fleet.serve("a.test", "b.test")
    assert fleet.is_scoped()

    [host] = fleet.part("a.test").virtual_hosts
    assert [route.direct_response.status for route in host.routes] == [500]
    assert concern(fleet.world.db, worlds.EG_FLEET, TABLE, refused, form) is not None, "it drains with it"


def test_a_last_good_form_of_the_former_table_is_closed_in_the_next(fleet: Fleet) -> None:
    """It looks for the Host where no finder puts it, so it would be passed over."""
    fleet.serve("a.test", "b.test")
    fleet.serve("a.test", "b.test", "*.test")
    refused, db = worlds.route(2).ref, fleet.world.db
    [listener] = ready_listeners(db, worlds.EG_FLEET)
    forms = {scoped: route_entries_of(db, listener, refused, scoped)[0] for scoped in (True, False)}
    at = (worlds.EG_FLEET, SCOPE, names.scope(names.scoped_table(TABLE), names.OTHERS))
    out = {version(forms[False].body): Fallback(forms[True], strict=False)}
    fleet.world.write(withheld(*at, refused), out)
    fleet.world.pull()

    [host] = (host for host in fleet.whole().virtual_hosts if host.domains[0] == "*.test")
    assert [(route.direct_response.status, route.match.headers[0].name) for route in host.routes] == [
        (500, "Host")
    ]


def test_what_is_refused_of_each_form_stays_out_of_both_and_keeps_its_clusters(fleet: Fleet) -> None:
    """A connection that drains uses the one, a new one the other."""
    fleet.world.apply(
        {each.ref: each for n in (3, 4) for each in (worlds.service(n), worlds.endpoint_slice(n))}
    )
    fleet.serve("a.test")
    fleet.serve("a.test", "b.test")
    assert fleet.is_scoped()
    made = worlds.route(0)
    rules = (*worlds.route(0, "/one").spec.rules, *worlds.route(0, "/two").spec.rules)
    spec = structs.replace(made.spec, hostnames=("a.test",), rules=rules)
    fleet.world.apply({made.ref: structs.replace(made, spec=spec)})
    fleet.world.apply({worlds.route(n).ref: worlds.route(n) for n in (3, 4)})
    fleet.world.pull()
    db = fleet.world.db
    [listener] = ready_listeners(db, worlds.EG_FLEET)
    whole, scoped = (route_entries_of(db, listener, made.ref, form) for form in (False, True))
    before = [route_entries_of(db, listener, worlds.route(n).ref, False)[0] for n in (3, 4)]
    part = names.scope(names.scoped_table(TABLE), "a.test")

    for type_url, name, entry, good in (
        (ROUTE, TABLE, whole[0], before[0]),
        (SCOPE, part, scoped[1], before[1]),
    ):
        out = {version(entry.body): Fallback(good, strict=False)}
        fleet.world.write(withheld(worlds.EG_FLEET, type_url, name, made.ref), out)
    fleet.world.apply({worlds.route(n).ref: None for n in (3, 4)})
    fleet.world.pull()

    for table in (fleet.whole(), fleet.part("a.test")):
        [host] = (host for host in table.virtual_hosts if host.domains[0] == "a.test")
        assert [route.name.split("/")[2] for route in host.routes] == ["r3", "r4"]
    clusters = fleet.world.xds()["default/eg"][CLUSTER]
    assert {"service/default/s3/8080/http", "service/default/s4/8080/http"} <= clusters.keys()


def test_a_table_that_is_large_from_the_start_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its listener would be replaced at once, and Envoy would build the table twice."""
    monkeypatch.setattr(sizes, "LARGE", 2)
    world = World(ON_HOST)
    world.apply({each.ref: each for each in worlds.routes_with_services(2)})

    [put] = world.pull().put.values()

    assert ROUTE not in {each.type_url for each in put}
