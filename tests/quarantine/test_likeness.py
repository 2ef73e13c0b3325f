"""What Envoy refuses for one setting that many routes have costs as much as for one that a few have."""

from __future__ import annotations

import pytest
from msgspec import convert

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.httproute import HTTPRoute
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.xds.wire import ROUTE, XdsResource
from tests import worlds
from tests.refusing import DISLIKED, ODD, TABLE, Refusing, host, oddly

POLICY = Ref.of(BackendTrafficPolicy, "default", "tagging")


class Weighing(Refusing):
    """It counts what it is sent, and what of it it refuses."""

    refusals = sent = 0

    def answer(self, sent: XdsResource | None = None) -> bool:
        before, taken = self.answers, self.taken
        moved = super().answer(sent)
        if self.answers > before:
            resource = self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
            assert resource is not None
            self.sent += len(resource.body)
            self.refusals += self.taken is taken
        return moved


def tagging(route: int | None = None) -> BackendTrafficPolicy:
    """A policy for a route, or for all, with a tag of which Envoy does not know the command."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}
    if route is not None:
        target |= {"kind": "HTTPRoute", "name": f"r{route}"}
    policy = {
        "metadata": {"name": POLICY.name if route is None else f"of-{route}", "namespace": POLICY.namespace},
        "spec": {"targetRefs": [target], "telemetry": {"tracing": {"tags": {"a": ODD}}}},
    }
    return convert(policy, BackendTrafficPolicy, strict=False)


def numbered(n: int, *, odd: bool = False) -> HTTPRoute:
    """A route with a match of its own, with the odd header or without."""
    route = worlds.route(n, f"/{n}", kind=Backend.KIND)
    return oddly(route) if odd else route


def put(envoy: Refusing, *resources: Resource) -> None:
    envoy.world.apply({each.ref: each for each in resources})


@pytest.mark.slow
def test_a_policy_that_envoy_refuses_costs_the_same_for_ten_times_as_many_routes() -> None:
    """Each refusal is a whole table sent and read in vain; and all routes serve what they served."""
    costs: list[tuple[int, float]] = []
    for count in (50, 500):
        envoy = Weighing(*(f"/{n}" for n in range(count)))
        envoy.settle()
        before, envoy.refusals, envoy.sent = envoy.serves, 0, 0
        size = len(envoy.taken.SerializeToString())

        put(envoy, tagging())
        envoy.settle()

        assert envoy.refused() >= set(range(count))
        assert envoy.serves == before
        costs.append((envoy.refusals, envoy.sent / size))

    (few, of_few), (many, of_many) = costs
    assert many <= few + 4, "it is halved three or four times more"
    assert many <= 12
    assert of_few < 20, "tables"
    assert of_many < 20


@pytest.mark.slow
def test_routes_that_come_together_with_such_a_policy_cost_little_as_well() -> None:
    """Nothing was ever in force of them, so some are tried alone before the others are no more."""
    costs: list[int] = []
    for count in (50, 500):
        envoy = Weighing(*(f"/{n}" for n in range(count)))
        put(envoy, tagging())

        envoy.settle()

        assert envoy.serves == {host(n): f"/{n}!" for n in range(count)}
        costs.append(envoy.refusals)

    assert costs[1] <= costs[0] + 4
    assert costs[1] <= 24


@pytest.mark.slow
def test_each_of_several_such_settings_is_found() -> None:
    """Some routes have one, some another, and most have neither."""
    envoy = Weighing(*(f"/{n}" for n in range(200)))
    envoy.settle()
    envoy.refusals = 0
    odd, tagged = set(range(0, 90, 3)), set(range(1, 90, 3))

    put(envoy, *(numbered(n, odd=True) for n in odd), *(tagging(route=n) for n in tagged))
    put(envoy, *(worlds.route(n, f"/moved-{n}", kind=Backend.KIND) for n in range(100, 200)))
    envoy.settle()

    assert envoy.refused() == odd | tagged
    assert envoy.serves == {host(n): f"/{n}" if n < 100 else f"/moved-{n}" for n in range(200)}
    assert envoy.refusals <= 30


@pytest.mark.slow
@pytest.mark.parametrize("bad", [{0, 1}, {0, 5, 90}, set(range(40, 47)), {99}])
def test_routes_that_say_the_same_as_a_culprit_are_served_where_it_is_their_match(bad: set[int]) -> None:
    """Nothing but what they match tells them apart."""
    envoy = Refusing(*(DISLIKED if n in bad else f"/{n}" for n in range(100)))

    envoy.settle()

    assert envoy.refused() == bad
    assert envoy.serves == {host(n): f"{DISLIKED}!" if n in bad else f"/{n}" for n in range(100)}


@pytest.mark.slow
def test_what_is_good_in_such_a_policy_is_served_with_what_is_wrong_in_single_routes() -> None:
    """All routes change together, and only some have what Envoy refuses."""
    envoy = Refusing(*(f"/{n}" for n in range(100)))
    envoy.settle()
    bad = {3, 4, 60}

    put(envoy, worlds.retries(3), *(numbered(n, odd=True) for n in bad))
    envoy.settle()

    assert envoy.refused() == bad
    retried = {
        each.domains[0] for each in envoy.taken.virtual_hosts if each.routes[0].route.HasField("retry_policy")
    }
    assert retried == {host(n) for n in range(100) if n not in bad}


@pytest.mark.slow
def test_a_mended_policy_is_in_force_at_all_routes() -> None:
    envoy = Weighing(*(f"/{n}" for n in range(50)))
    envoy.settle()
    put(envoy, tagging())
    envoy.settle()

    envoy.refusals = 0
    envoy.world.apply({POLICY: None})
    envoy.settle()

    assert envoy.refused() == set()
    assert envoy.refusals == 0
    assert envoy.serves == {host(n): f"/{n}" for n in range(50)}


@pytest.mark.slow
def test_what_was_not_tried_is_tried_once_that_is_edited_which_it_was_like() -> None:
    """Nobody has asked Envoy about it."""

    class Changing(Weighing):
        tolerant = False

        def refuses(self, paths: set[str]) -> bool:
            return not self.tolerant and super().refuses(paths)

    envoy = Changing(*(f"/{n}" for n in range(20)))
    envoy.settle()
    put(envoy, tagging())
    envoy.settle()
    envoy.tolerant = True

    left: list[int] = []
    for n in range(20):
        put(envoy, worlds.route(n, f"/other-{n}", kind=Backend.KIND))
        envoy.settle()
        left.append(len(envoy.refused()))

    assert 0 in left[:-1], "those that were not edited are served as well"
