"""What stands in for an Envoy route that was refused."""

from __future__ import annotations

import pytest

from moongate.api.base import ListenerId
from moongate.xds.fallbacks import Fallback, withheld
from moongate.xds.needed_resources import route_resources
from moongate.xds.route_entries import RouteEntry, fail_closed
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.wire import ROUTE, version
from tests.core import EG, EG_FLEET, ON_HOST, Core, gateway, http
from tests.routes import WEB, http_route, route_ref, rule, sent, service

ALT = ListenerId(EG, EG, "alt")
TABLE = "default/eg/web"
CORS = "filters: [{type: CORS, cors: {allowOrigins: ['https://a.example.com']}}]"
OLD = "matches: [{path: {value: /old}}], backendRefs: [{name: old, port: 80}]"
NEW = "matches: [{path: {value: /new}}], backendRefs: [{name: shop, port: 80}]"


def core_of() -> Core:
    return Core(gateway(http("web"), http("alt", port=8080)), service(), service("old"), config=ON_HOST)


def put(core: Core, stand_ins: dict[RouteEntry, Fallback]) -> None:
    held = {version(of.body): fallback for of, fallback in stand_ins.items()}
    core.db.put(withheld(EG_FLEET, ROUTE, TABLE, route_ref()), held)


def piece_of(core: Core, *rules: str) -> RouteEntry:
    """The first piece of the route, as it has those rules from now on."""
    core.apply(http_route(*(rule(f"{{{each}}}") for each in rules)))
    return route_entries_of(core.db, WEB, route_ref(), False)[0]


def test_the_last_good_form_stands_in_with_the_clusters_that_it_needs() -> None:
    core = core_of()
    good, bad = piece_of(core, OLD), piece_of(core, NEW)

    put(core, {bad: Fallback(good, strict=True)})

    assert [r.match.path_separated_prefix for r in sent(core)] == ["/old"]
    assert [key.name for key in route_resources(core.db, EG_FLEET, route_ref())] == [
        "service/default/shop/80/http",  # what the manifest says now
        "service/default/old/80/http",
    ]


@pytest.mark.parametrize("strict", [True, False], ids=["culprit", "suspect"])
def test_what_never_was_good_answers_500(*, strict: bool) -> None:
    """Its requests are not for a wider route, that may be somebody else's."""
    core = core_of()

    put(core, {piece_of(core, NEW): Fallback(None, strict=strict)})

    [route] = sent(core)
    assert (route.match.path_separated_prefix, route.direct_response.status) == ("/new", 500)


def test_a_culprit_whose_match_is_at_fault_is_left_out() -> None:
    core = core_of()
    bad = piece_of(core, NEW)

    put(core, {bad: Fallback(None, strict=True), fail_closed(bad): Fallback(None, strict=True)})

    assert sent(core) == []


def test_a_last_good_form_that_was_guarded_otherwise_is_shut() -> None:
    """It would let through what the refused one would not, or the other way round."""
    core = core_of()
    good = piece_of(core, NEW)
    bad = piece_of(core, f"{NEW}, {CORS}")

    put(core, {bad: Fallback(good, strict=True)})

    assert [(r.match.path_separated_prefix, r.direct_response.status) for r in sent(core)] == [("/new", 500)]


def test_what_is_only_suspected_stays_as_it_was_though_it_was_guarded_otherwise() -> None:
    """Envoy has that in force during the search; a policy beside a bad route must not shut all others."""
    core = core_of()
    good = piece_of(core, OLD)
    suspected = piece_of(core, f"{NEW}, {CORS}")

    put(core, {suspected: Fallback(good, strict=False)})

    [route] = sent(core)
    assert (route.match.path_separated_prefix, route.route.cluster) == ("/old", "service/default/old/80/http")


def test_what_one_table_does_without_another_may_have() -> None:
    """The same route, the same bytes: but what one port's table was refused for may lie elsewhere in it."""
    core = core_of()
    bad = piece_of(core, NEW)
    [same] = route_entries_of(core.db, ALT, route_ref(), False)
    assert same.body == bad.body

    put(core, {bad: Fallback(None, strict=False)})

    assert [r.direct_response.status for r in sent(core)] == [500]
    assert [r.direct_response.status for r in sent(core, "default/eg/alt")] == [0]


def test_a_shut_form_matches_what_the_piece_did_and_needs_no_cluster() -> None:
    core = core_of()
    shut = fail_closed(piece_of(core, NEW))

    assert shut.needs == ()
    assert fail_closed(shut) == shut
