"""What statuses say while the chain of a listener has not the filters that it should have."""

from __future__ import annotations

from typing import Any

from moongate.api.base import GATEWAY_GROUP, ListenerId, Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.envoy_listeners import TableId
from moongate.world import World
from moongate.xds.filters import lacking, needed_filters
from tests.strategies import resource
from tests.worlds import EG, EG_FLEET, routes_with_services

FAULT = {"abort": {"httpStatus": 418, "percentage": 100}}
CORS = {"allowOrigins": ["https://a.example.com"]}


def policy(kind: str, name: str, target: str, **spec: Any) -> Any:
    what = "Gateway" if target == "eg" else "HTTPRoute"
    spec["targetRefs"] = [{"group": GATEWAY_GROUP, "kind": what, "name": target}]
    return resource(kind, "default", name, {"spec": spec})


def world(*policies: Any) -> World:
    """In the reference's configuration the chain has a filter for each policy that asks for one."""
    return World.of([*routes_with_services(2), *policies], EnvoyGateway())


def lose(of: World, *stems: str) -> None:
    """Envoy has refused the filters with some names."""
    needed = needed_filters(of.db, (ListenerId(EG, EG, "http"),))
    lost = {one.name: "no such code" for one in needed if any(stem in one.name for stem in stems)}
    assert lost
    of.write(lacking(TableId(EG_FLEET, "default/eg/http")), lost)
    of.pull()


def concerned(of: World) -> set[str]:
    return {ref.name for ref, status in of.statuses().items() if "Envoy refuses" in str(status)}


def test_nothing_is_said_while_nothing_is_missing() -> None:
    assert concerned(world(policy("BackendTrafficPolicy", "broken", "eg", faultInjection=FAULT))) == set()


def test_who_asks_for_a_missing_filter_says_so_and_nobody_else() -> None:
    of = world(
        policy("BackendTrafficPolicy", "broken", "r0", faultInjection=FAULT),
        policy("SecurityPolicy", "origins", "eg", cors=CORS),
    )
    lose(of, "fault")
    assert concerned(of) == {"r0", "broken"}

    of.write(lacking(TableId(EG_FLEET, "default/eg/http")), None)
    of.pull()
    assert concerned(of) == set()


def test_a_filter_that_a_policy_inherits_is_its_parents_matter() -> None:
    of = world(
        policy("BackendTrafficPolicy", "above", "eg", faultInjection=FAULT),
        policy("BackendTrafficPolicy", "below", "r0", mergeType="StrategicMerge", retry={"numRetries": 2}),
    )
    lose(of, "fault")

    assert concerned(of) == {"r0", "r1", "above"}


def test_the_sentence_says_why_and_what_follows() -> None:
    of = world(policy("BackendTrafficPolicy", "broken", "r0", faultInjection=FAULT))
    lose(of, "fault")
    status: Any = of.statuses()[Ref("HTTPRoute", "default", "r0", GATEWAY_GROUP)]
    (parent,) = status.parents
    programmed = next(each for each in parent.conditions if each.type == "Programmed")

    assert (programmed.status, programmed.reason) == ("False", "Refused")
    assert programmed.message == (
        "Envoy refuses the listener 'http' of Gateway default/eg with a filter that "
        "BackendTrafficPolicy default/broken asks for: No such code. "
        "Requests that rely on it are answered with 500 until what Envoy names is mended."
    )


def test_the_sentence_says_where_requests_are_served_all_the_same() -> None:
    """A response that is not compressed is no reason to refuse it."""
    compressor: list[dict[str, Any]] = [{"type": "Gzip", "gzip": {}}]
    of = world(policy("BackendTrafficPolicy", "small", "r0", compressor=compressor))
    lose(of, "compressor")
    status = of.statuses()[Ref("HTTPRoute", "default", "r0", GATEWAY_GROUP)]

    assert "Requests are served without it until" in str(status)
