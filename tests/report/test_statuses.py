"""Statuses as users see them: since when, and what Envoys add."""

from __future__ import annotations

from typing import Any

from moongate.api.base import Ref, Resource
from moongate.quarantine import Refusal
from moongate.report.statuses import Statuses
from moongate.status.gateways import EnvoyState
from moongate.world import World
from tests import worlds

ROUTE = Ref("HTTPRoute", "default", "r0")
SERVING = EnvoyState(serving=1, addresses=("127.0.0.1",))


class Told:
    """The statuses of a World with one Gateway and one route, and the clock that stamps them."""

    def __init__(self) -> None:
        self.time = "2026-01-01T00:00:00Z"
        self.world = World.of([worlds.gateway_class(), worlds.gateway(), worlds.route(0), worlds.service(0)])
        self.statuses = Statuses(self.world.store.held(), lambda: self.time)
        self.statuses.update(self.world.statuses())
        self.statuses.observe({worlds.EG: SERVING}, ())

    def apply(self, *resources: Resource, gone: tuple[Ref, ...] = ()) -> None:
        self.world.apply({**{r.ref: r for r in resources}, **dict.fromkeys(gone)})
        self.statuses.update(self.world.pull().statuses)

    def conditions(self, ref: Ref) -> dict[str, dict[str, Any]]:
        """Conditions by type; those of a route's first parent."""
        document = self.statuses.document(ref)
        assert document is not None
        status = document["status"]
        return {c["type"]: c for c in status.get("parents", [status])[0]["conditions"]}


def test_a_document_names_what_it_is_about() -> None:
    document = Told().statuses.document(worlds.EG)

    assert document is not None
    assert document["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert document["kind"] == "Gateway"
    assert document["metadata"] == {"name": "eg", "namespace": "default"}


def test_documents_are_sorted_and_one_for_each_resource_with_a_status() -> None:
    told = Told().statuses.documents()

    assert [(d["kind"], d["metadata"]["name"]) for d in told] == [
        ("Gateway", "eg"),
        ("GatewayClass", "eg"),
        ("HTTPRoute", "r0"),
    ]


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    """Also when its message changes: the time tells since when, not when it was last looked at."""
    told = Told()
    told.time = "2026-02-02T00:00:00Z"

    told.apply(worlds.endpoint_slice(0))
    told.statuses.observe({worlds.EG: EnvoyState(serving=1, addresses=("127.0.0.2",))}, ())

    assert told.conditions(worlds.EG)["Programmed"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert told.conditions(ROUTE)["Accepted"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_condition_has_the_time_at_which_its_status_moved() -> None:
    told = Told()
    assert told.conditions(ROUTE)["ResolvedRefs"]["status"] == "True"
    told.time = "2026-02-02T00:00:00Z"

    told.apply(gone=(worlds.service(0).ref,))

    assert told.conditions(ROUTE)["ResolvedRefs"]["status"] == "False"
    assert told.conditions(ROUTE)["ResolvedRefs"]["lastTransitionTime"] == "2026-02-02T00:00:00Z"
    assert told.conditions(ROUTE)["Accepted"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_gateway_is_programmed_once_an_envoy_serves_it() -> None:
    told = Told()
    assert told.conditions(worlds.EG)["Programmed"]["status"] == "True"

    told.statuses.observe({worlds.EG: EnvoyState(serving=0)}, ())

    assert told.conditions(worlds.EG)["Programmed"]["status"] == "False"


def test_what_envoy_refuses_is_told_on_the_gateway_and_on_the_route() -> None:
    told = Told()
    facts = EnvoyState(serving=1, addresses=("127.0.0.1",), refusals=("a listener: no such port",))

    told.statuses.observe({worlds.EG: facts}, [Refusal(worlds.EG, ROUTE, "no such header")])

    assert "no such port" in told.conditions(worlds.EG)["Programmed"]["message"]
    assert told.conditions(ROUTE)["Programmed"]["reason"] == "Refused"
    assert "no such header" in told.conditions(ROUTE)["Programmed"]["message"]


def test_a_refusal_that_ends_is_no_longer_told() -> None:
    """Observing tells all there is, each time."""
    told = Told()
    told.statuses.observe({worlds.EG: SERVING}, [Refusal(worlds.EG, ROUTE, "no such header")])

    told.statuses.observe({worlds.EG: SERVING}, ())

    assert "Programmed" not in told.conditions(ROUTE)


def test_a_refusal_outlives_what_the_core_says_anew() -> None:
    told = Told()
    told.statuses.observe({worlds.EG: SERVING}, [Refusal(worlds.EG, ROUTE, "no such header")])

    told.apply(gone=(worlds.service(0).ref,))

    assert told.conditions(ROUTE)["Programmed"]["reason"] == "Refused"


def test_a_resource_that_is_deleted_has_no_status() -> None:
    told = Told()

    told.apply(gone=(ROUTE,))

    assert told.statuses.document(ROUTE) is None
