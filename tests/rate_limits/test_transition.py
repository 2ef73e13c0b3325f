"""What the rate limit service is told while Envoys may still ask by the routes of a former configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moongate.rate_limits.config import Limits
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor
from moongate.rate_limits.service import FORMER_S
from moongate.rate_limits.transition import UNDER_WAY_S, Transition, at_once, stricter
from moongate.xds.wire import encode
from tests.rate_limits.configs import config, descriptor, level

if TYPE_CHECKING:
    from collections.abc import Mapping

Rule = tuple[int, str]
NOTHING, MUCH, MORE = (0, "YEAR"), (100, "SECOND"), (200, "SECOND")


class Fleets:
    """The routes of two fleets: what was handed out, and what their Envoys have."""

    def __init__(self) -> None:
        self.held = False
        self.newest = {"one": 1, "two": 1}
        self.had = dict(self.newest)
        self.now = 0.0
        self.transition = Transition(lambda: self.now)

    def edits(self) -> Mapping[str, int]:
        return dict(self.newest)

    def in_force(self, name: str, edit: int) -> bool:
        return name not in self.newest or self.had[name] >= edit

    def take(self, *rules: Rule, of: str = "one", domain: str = "shop") -> None:
        """Change the limits of a domain, and hand out routes to a fleet; "" to none. No rules: it is gone."""
        levels = (level(f"rule-{n}", limit=rule) for n, rule in enumerate(rules))
        body = encode(config(*levels, domain=domain)) if rules else None
        at_once(self.transition.take({domain: body}, self.edits()))
        if of:
            self.newest[of] += 1
        self.review()

    def acknowledge(self, name: str = "one") -> None:
        """Let the Envoys of a fleet have all that was handed out."""
        self.had[name] = self.newest[name]
        self.review()
        self.pass_time(UNDER_WAY_S)

    def review(self) -> None:
        self.transition.review(self)
        self.transition.forget()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.transition.forget()

    def counted(self, domain: str = "shop") -> list[Rule]:
        """The limit of each rule as published."""
        body = at_once(self.transition.published()).get(domain)
        limits = Limits([RateLimitConfig.FromString(body)]) if body is not None else ()
        units = RateLimitConfig.DESCRIPTOR.file.enum_types_by_name["RateLimitUnit"].values_by_number
        return [(limit.requests, units[limit.unit].name) for limit in sorted(limits, key=lambda x: x.path)]


@pytest.fixture
def fleets() -> Fleets:
    return Fleets()


@pytest.mark.parametrize(("first", "then"), [((NOTHING,), (MUCH, NOTHING)), ((MUCH, NOTHING), (NOTHING,))])
def test_until_envoys_have_the_routes_the_stricter_limit_counts_at_each_place(
    fleets: Fleets, first: tuple[Rule, ...], then: tuple[Rule, ...]
) -> None:
    """A request that both configurations refuse is refused by former and by new routes, with any limits."""
    fleets.take(*first)
    fleets.acknowledge()
    assert fleets.counted() == list(first)

    fleets.take(*then)
    during = fleets.counted()
    fleets.acknowledge()

    assert during == [NOTHING, NOTHING]
    assert fleets.counted() == list(then)


def test_a_lowered_limit_counts_at_once_and_a_raised_one_when_the_routes_are_there(fleets: Fleets) -> None:
    fleets.take(MUCH, MUCH)
    fleets.acknowledge()

    fleets.take(NOTHING, MORE)
    during = fleets.counted()
    fleets.acknowledge()

    assert during == [NOTHING, MUCH]
    assert fleets.counted() == [NOTHING, MORE]


def test_a_limit_that_is_raised_without_other_routes_counts_at_once(fleets: Fleets) -> None:
    """An Envoy that answers nothing does not matter, if it is asked nothing."""
    fleets.take(NOTHING, of="two")
    fleets.acknowledge("two")
    fleets.take((1, "YEAR"), domain="other", of="one")

    fleets.take(MUCH, of="")

    assert fleets.counted() == [MUCH]


def test_the_limits_of_a_rule_and_a_domain_that_are_removed_count_on(fleets: Fleets) -> None:
    fleets.take(MUCH, NOTHING)
    fleets.acknowledge()

    fleets.take(MUCH)
    without_rule = fleets.counted()
    fleets.take()
    without_domain = fleets.counted()
    fleets.acknowledge()

    assert without_rule == without_domain == [MUCH, NOTHING]
    assert fleets.counted() == []


def test_after_several_edits_the_strictest_of_those_counts_that_envoys_may_ask_by(fleets: Fleets) -> None:
    fleets.take(NOTHING)
    fleets.acknowledge()

    for n in range(1, 6):
        fleets.take((n, "SECOND"))
        assert fleets.counted() == [NOTHING], n
    fleets.acknowledge()

    assert fleets.counted() == [(5, "SECOND")]


def test_edits_without_an_end_let_a_raised_limit_be_in_force(fleets: Fleets) -> None:
    """Although Envoys never have the newest routes: those that followed are enough."""
    fleets.take(NOTHING)
    fleets.acknowledge()
    fleets.take(MUCH)
    for n in range(10):
        before = fleets.newest["one"]
        fleets.take((200 + n, "SECOND"))
        fleets.had["one"] = before
        fleets.review()
        fleets.pass_time(UNDER_WAY_S)

    assert fleets.counted()[0][0] >= MUCH[0]


def test_all_fleets_with_new_routes_are_waited_for(fleets: Fleets) -> None:
    """A limit may be shared by several Gateways."""
    fleets.take(NOTHING)
    fleets.acknowledge()
    at_once(fleets.transition.take({"shop": encode(config(level("rule-0", limit=MUCH)))}, fleets.edits()))
    fleets.newest = {"one": 3, "two": 2}
    fleets.review()

    fleets.acknowledge("one")
    with_one = fleets.counted()
    fleets.acknowledge("two")

    assert with_one == [NOTHING]
    assert fleets.counted() == [MUCH]


def test_requests_that_are_under_way_when_envoys_acknowledge_meet_the_former_limits(fleets: Fleets) -> None:
    """And it is known until when a raised limit has to wait."""
    fleets.take(NOTHING)
    fleets.acknowledge()
    fleets.take(MUCH)
    unknown = fleets.transition.raised_at
    fleets.had["one"] = fleets.newest["one"]
    fleets.review()
    fleets.pass_time(0.9 * UNDER_WAY_S)
    during, raised_at = fleets.counted(), fleets.transition.raised_at
    fleets.pass_time(0.1 * UNDER_WAY_S)

    assert unknown is None, "nobody knows when the Envoys answer"
    assert during == [NOTHING]
    assert raised_at == fleets.now
    assert fleets.counted() == [MUCH]
    assert fleets.transition.raised_at is None


@pytest.mark.parametrize("then", [(MUCH,), (MUCH, NOTHING, MUCH), (NOTHING, (0, "DAY")), ()])
def test_nobody_waits_for_limits_that_are_not_raised(fleets: Fleets, then: tuple[Rule, ...]) -> None:
    """What was former counts on as well, for requests that are under way."""
    fleets.take(MUCH, NOTHING)
    fleets.acknowledge()
    fleets.take(*then)
    fleets.had["one"] = fleets.newest["one"]
    fleets.review()

    assert fleets.counted()[1][0] == 0
    assert fleets.transition.raised_at is None


def test_limits_of_a_former_process_count_until_envoys_that_outlived_it_have_new_routes(
    fleets: Fleets,
) -> None:
    """They ask by its routes, and each fleet has its first edit with ours."""
    kept = {domain: encode(config(level("rule-0", limit=NOTHING), domain=domain)) for domain in ("shop", "x")}
    fleets.transition = Transition(lambda: fleets.now, kept)
    before_all = fleets.counted()
    fleets.newest = {}
    fleets.review()
    fleets.had = {"one": 0}
    at_once(fleets.transition.take({"shop": encode(config(level("rule-0", limit=MUCH)))}, {}))
    fleets.newest = {"one": 1}
    fleets.review()
    fleets.pass_time(2 * UNDER_WAY_S)
    during, gone = fleets.counted(), fleets.counted("x")
    fleets.acknowledge()

    assert before_all == []
    assert during == gone == [NOTHING]
    assert fleets.counted() == [MUCH]
    assert fleets.counted("x") == []


def test_limits_that_are_as_those_of_a_former_process_are_not_former(fleets: Fleets) -> None:
    same = encode(config(level("rule-0", limit=NOTHING)))
    fleets.transition = Transition(lambda: fleets.now, {"shop": same})
    at_once(fleets.transition.take({"shop": same}, {}))

    assert fleets.counted() == [NOTHING]
    assert fleets.transition.until is None


def test_routes_that_are_held_are_waited_for(fleets: Fleets) -> None:
    """They may be handed out in later edits, such as without a part that an Envoy refuses."""
    fleets.take(NOTHING)
    fleets.acknowledge()
    fleets.held = True
    fleets.take(MUCH)
    fleets.acknowledge()
    during = fleets.counted()
    fleets.newest["one"] += 1
    fleets.held = False
    fleets.review()
    after = fleets.counted()
    fleets.acknowledge()

    assert during == after == [NOTHING]
    assert fleets.counted() == [MUCH]


def test_an_envoy_that_never_answers_is_not_waited_for_without_end(fleets: Fleets) -> None:
    fleets.take(NOTHING)
    fleets.acknowledge()
    fleets.take(MUCH)
    end = fleets.transition.until
    fleets.pass_time(FORMER_S - 1)
    fleets.review()
    before = fleets.counted()
    fleets.pass_time(1)

    assert before == [NOTHING]
    assert end == fleets.now
    assert fleets.counted() == [MUCH]
    assert fleets.transition.until is None


def test_a_stuck_envoy_under_many_edits_is_not_waited_for_without_end(fleets: Fleets) -> None:
    fleets.take(NOTHING)
    fleets.acknowledge()
    for n in range(300):
        fleets.pass_time(1)
        fleets.take((n + 1, "SECOND"))

    assert fleets.counted()[0][0] >= 300 - 2 * FORMER_S


def test_a_fleet_that_is_gone_is_not_waited_for(fleets: Fleets) -> None:
    fleets.take(NOTHING)
    fleets.acknowledge()
    fleets.take(MUCH)
    del fleets.newest["one"]
    fleets.review()
    fleets.pass_time(UNDER_WAY_S)

    assert fleets.counted() == [MUCH]


def limit_of(*entries: tuple[str, str], newer: RateLimitDescriptor, former: RateLimitDescriptor) -> object:
    """How the two configurations together limit a descriptor: the requests, the unit and the shadow."""
    both = stricter(encode(config(newer)), encode(config(former)))
    [limit] = Limits([RateLimitConfig.FromString(both)]).matching("shop", [descriptor(*entries)])
    if limit is None or limit.unlimited:
        return "unlimited" if limit else None
    return limit.requests, limit.unit, limit.shadow


SECOND, MINUTE, HOUR, YEAR = 1, 2, 3, 6


@pytest.mark.parametrize(
    ("one", "other", "counts"),
    [
        (level("k", limit=(10, "SECOND")), level("k", limit=(599, "MINUTE")), (599, MINUTE, False)),
        (level("k", limit=(0, "SECOND")), level("k", limit=(1, "YEAR")), (0, SECOND, False)),
        (level("k", limit=(1, "SECOND")), level("k", limit=(9, "YEAR"), shadow=True), (1, SECOND, False)),
        (level("k", limit=(9, "YEAR"), shadow=True), level("k", unlimited=True), (9, YEAR, True)),
        (level("k", limit=(1, "SECOND")), level("k", unlimited=True), (1, SECOND, False)),
        (level("k", limit=(1, "SECOND")), level("k"), (1, SECOND, False)),
        (level("k", limit=(1, "SECOND"), shadow=True), level("k"), (1, SECOND, True)),
        (level("k", unlimited=True), level("k"), "unlimited"),
        (level("k", limit=(1, "SECOND")), level("other"), (1, SECOND, False)),
    ],
)
def test_of_two_limits_the_one_counts_by_which_fewer_requests_pass(
    one: RateLimitDescriptor, other: RateLimitDescriptor, counts: object
) -> None:
    """Whichever of them is newer. One in shadow refuses nothing, and is counted if no other is."""
    assert limit_of(("k", "v"), newer=one, former=other) == counts
    assert limit_of(("k", "v"), newer=other, former=one) == counts


def test_of_equal_limits_the_count_of_the_newer_goes_on() -> None:
    per_second, per_minute = level("k", limit=(1, "SECOND")), level("k", limit=(60, "MINUTE"))

    assert limit_of(("k", "v"), newer=per_second, former=per_minute) == (1, SECOND, False)
    assert limit_of(("k", "v"), newer=per_minute, former=per_second) == (60, MINUTE, False)


def test_a_limit_for_each_value_is_compared_with_that_for_one_value() -> None:
    """A selector may become ``Distinct``; its descriptors then have values where there was none."""
    each = level("route", "a", level("k", limit=(1, "HOUR")))
    one = level("route", "a", level("k", "v", limit=(5, "SECOND")))

    for newer, former in ((each, one), (one, each)):
        at = ("route", "a")
        assert limit_of(at, ("k", "v"), newer=newer, former=former) == (1, HOUR, False)
        assert limit_of(at, ("k", "x"), newer=newer, former=former) == (1, HOUR, False)


def test_limits_of_routes_that_an_edit_does_not_concern_stay_as_they_are() -> None:
    """However long their encodings are: they are not decoded."""

    def routes(requests: int) -> bytes:
        one = level("route", "one", level("k", limit=(requests, "YEAR")))
        others = (level("route", f"{n}-{'x' * 5**n}", level("k", limit=(n, "YEAR"))) for n in range(8))
        return encode(config(*others, one))

    for newer, former in ((9, 5), (5, 9)):
        both = RateLimitConfig.FromString(stricter(routes(newer), routes(former)))

        assert both == RateLimitConfig.FromString(routes(5))


def test_limits_on_different_levels_both_count() -> None:
    high, low = level("k", "a", limit=(1, "HOUR")), level("k", "a", level("m", limit=(2, "HOUR")))

    assert limit_of(("k", "a"), newer=high, former=low) == (1, HOUR, False)
    assert limit_of(("k", "a"), ("m", "b"), newer=high, former=low) == (2, HOUR, False)


def test_former_limits_are_joined_in_steps() -> None:
    """Thousands may change again and again while Envoys have not answered, and endpoints are not to wait."""
    transition = Transition(lambda: 0.0)
    steps = list[int]()
    for requests in (5, 9, 7, 3):
        levels = (level("user", f"u{n}", limit=(requests, "YEAR")) for n in range(50))
        take = transition.take({"shop": encode(config(*levels))}, {"one": 1})
        steps.append(sum(1 for _ in take))

    assert steps[:3] == [0, 0, 0]
    assert steps[3] >= 50, "the third former configuration joins the second"
    [shop] = Limits(map(RateLimitConfig.FromString, at_once(transition.published()).values())).matching(
        "shop", [descriptor(("user", "u7"))]
    )
    assert shop is not None
    assert shop.requests == 3
