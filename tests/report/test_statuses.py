"""Statuses as users see them: since when, and what Envoys add."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from moongate.api.base import GATEWAY_GROUP, Ref, Resource
from moongate.api.httproute import HTTPRoute
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy
from moongate.quarantine import Refusal
from moongate.report.statuses import Statuses
from moongate.status.gateways import EnvoyState, RefusedListener, SharedPort
from moongate.world import World
from tests import worlds
from tests.strategies import resource

ROUTE = Ref.of(HTTPRoute, "default", "r0")
REFUSAL = Refusal(worlds.EG_FLEET, str(ROUTE), (ROUTE,), (), "no such header")
SERVING = EnvoyState(serving=1, addresses=("127.0.0.1",))


class Scene:
    """The statuses of a World with one Gateway and one route, and the clock that stamps them."""

    def __init__(self) -> None:
        self.time = "2026-01-01T00:00:00Z"
        self.world = World.of([worlds.gateway_class(), worlds.gateway(), worlds.route(0), worlds.service(0)])
        self.statuses = Statuses(self.world.store.resources(), lambda: self.time)
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
    document = Scene().statuses.document(worlds.EG)

    assert document is not None
    assert document["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert document["kind"] == "Gateway"
    assert document["metadata"] == {"name": "eg", "namespace": "default"}


def test_documents_are_sorted_and_one_for_each_resource_with_a_status() -> None:
    documents = Scene().statuses.documents()

    assert [(d["kind"], d["metadata"]["name"]) for d in documents] == [
        ("Gateway", "eg"),
        ("GatewayClass", "eg"),
        ("HTTPRoute", "r0"),
    ]


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    """Also when its message changes: the time says since when, not when it was last looked at."""
    scene = Scene()
    scene.time = "2026-02-02T00:00:00Z"

    scene.apply(worlds.endpoint_slice(0))
    scene.statuses.observe({worlds.EG: EnvoyState(serving=1, addresses=("127.0.0.2",))}, ())

    assert scene.conditions(worlds.EG)["Programmed"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert scene.conditions(ROUTE)["Accepted"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_condition_has_the_time_at_which_its_status_changed() -> None:
    scene = Scene()
    assert scene.conditions(ROUTE)["ResolvedRefs"]["status"] == "True"
    scene.time = "2026-02-02T00:00:00Z"

    scene.apply(gone=(worlds.service(0).ref,))

    assert scene.conditions(ROUTE)["ResolvedRefs"]["status"] == "False"
    assert scene.conditions(ROUTE)["ResolvedRefs"]["lastTransitionTime"] == "2026-02-02T00:00:00Z"
    assert scene.conditions(ROUTE)["Accepted"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_gateway_is_programmed_once_an_envoy_serves_it() -> None:
    scene = Scene()
    assert scene.conditions(worlds.EG)["Programmed"]["status"] == "True"

    scene.statuses.observe({worlds.EG: EnvoyState(serving=0)}, ())

    assert scene.conditions(worlds.EG)["Programmed"]["status"] == "False"


def test_what_envoy_refuses_stands_on_the_gateway_and_on_the_route() -> None:
    scene = Scene()
    facts = EnvoyState(serving=1, addresses=("127.0.0.1",), refusals=("a listener: no such port",))

    scene.statuses.observe({worlds.EG: facts}, [REFUSAL])

    assert "no such port" in scene.conditions(worlds.EG)["Programmed"]["message"]
    assert scene.conditions(ROUTE)["Programmed"]["reason"] == "Refused"
    assert "no such header" in scene.conditions(ROUTE)["Programmed"]["message"]
    assert "What was in force of it stays so;" in scene.conditions(ROUTE)["Programmed"]["message"]


def test_a_refused_route_of_connections_says_what_becomes_of_these() -> None:
    scene = Scene()
    route = worlds.tls_route(0)
    scene.apply(worlds.gateway(worlds.passthrough_listener()), route)

    refusal = Refusal(worlds.EG_FLEET, str(route.ref), (route.ref,), (), "no such chain")
    scene.statuses.observe({worlds.EG: SERVING}, [refusal])

    programmed = scene.conditions(route.ref)["Programmed"]
    assert programmed["reason"] == "Refused"
    assert programmed["message"].endswith("connections to what never was are closed.")


@pytest.mark.parametrize(
    ("listener", "refused"), [("http", ["of-listener"]), ("other", ["of-gateway"]), ("taken", [])]
)
def test_the_policy_that_has_the_settings_of_a_refused_listener_says_so(
    listener: str, refused: list[str]
) -> None:
    """Envoy does not say which setting it is; a port that is taken is the fault of none."""
    reason = "PortUnavailable" if listener == "taken" else "Invalid"
    scene = Scene()
    for name, section in (("of-gateway", {}), ("of-listener", {"sectionName": "http"})):
        target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg", **section}
        spec = {"targetRefs": [target], "timeout": {"http": {"idleTimeout": "9s"}}}
        metadata = {"name": name, "namespace": "default"}
        scene.apply(msgspec.convert({"metadata": metadata, "spec": spec}, ClientTrafficPolicy))

    facts = structs.replace(SERVING, refused_listeners=(RefusedListener(listener, reason, "No such cipher"),))
    scene.statuses.observe({worlds.EG: facts}, ())

    said = {
        document["metadata"]["name"]: c["message"]
        for document in scene.statuses.documents()
        if document["kind"] == "ClientTrafficPolicy"
        for c in document["status"]["ancestors"][0]["conditions"]
        if c["type"] == "Programmed"
    }
    assert list(said) == refused
    assert all("No such cipher. Until it takes the listener" in message for message in said.values())

    scene.statuses.observe({worlds.EG: SERVING}, ())

    assert "No such cipher" not in str(scene.statuses.documents())


def test_a_refused_cluster_stands_on_its_route_once_and_on_the_policy_that_shapes_it() -> None:
    """The route is out of force because of it, and the policy has its settings: for the same reason."""
    scene = Scene()
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": ROUTE.name}
    check: dict[str, Any] = {"active": {"type": "TCP", "tcp": {}}}
    spec: dict[str, Any] = {"targetRefs": [target], "healthCheck": check}
    policy = msgspec.convert(
        {"metadata": {"name": "checked", "namespace": "default"}, "spec": spec}, BackendTrafficPolicy
    )
    scene.apply(policy)
    route = Refusal(worlds.EG_FLEET, str(ROUTE), (ROUTE,), (), "cluster c: no file")
    cluster = Refusal(
        worlds.EG_FLEET, "cluster c", (ROUTE,), (), "cluster c: no file", policies=(policy.ref,)
    )

    scene.statuses.observe({worlds.EG: SERVING}, [route, cluster])

    kept = "What was in force of it stays so; requests to what never was are answered with 500."
    message = f"Envoy of default/eg refuses it: cluster c: no file. {kept}"
    assert scene.conditions(ROUTE)["Programmed"]["message"] == message
    document = scene.statuses.document(policy.ref)
    assert document is not None
    [ancestor] = document["status"]["ancestors"]
    assert [c["message"] for c in ancestor["conditions"] if c["type"] == "Programmed"] == [
        f"Envoy of default/eg refuses cluster c, with settings of this policy: no file. {kept}"
    ]


def test_a_port_that_another_envoy_drains_stands_on_the_listener_and_in_the_log_while_it_lasts() -> None:
    """The listener is in force all the same."""
    scene = Scene()
    scene.statuses.transitions()
    shared = SharedPort("http", "Until noon another Envoy has the port open, too.")

    scene.statuses.observe({worlds.EG: structs.replace(SERVING, shared_ports=(shared,))}, ())

    document = scene.statuses.document(worlds.EG)
    assert document is not None
    conditions = {c["type"]: c for c in document["status"]["listeners"][0]["conditions"]}
    assert conditions["PortShared"]["message"] == shared.message
    assert conditions["Programmed"]["status"] == "True"
    [began] = scene.statuses.transitions()
    assert (began.degradation.condition, began.degradation.severity) == ("PortShared", "warning")

    scene.statuses.observe({worlds.EG: SERVING}, ())

    assert "PortShared" not in str(scene.statuses.document(worlds.EG))
    [ended] = scene.statuses.transitions()
    assert not ended.bad


def test_a_policy_says_once_why_many_routes_with_its_settings_are_refused() -> None:
    """A policy of a Gateway may have thousands of routes, and all are refused for the same words."""
    scene = Scene()
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": ROUTE.name}
    spec: dict[str, Any] = {"targetRefs": [target], "cors": {"allowOrigins": ["https://a.example"]}}
    policy = msgspec.convert(
        {"metadata": {"name": "of-all", "namespace": "default"}, "spec": spec}, SecurityPolicy
    )
    scene.apply(policy)
    refusals = [
        REFUSAL._replace(what=f"HTTPRoute default/r{n}", policies=(policy.ref,), message="no such header")
        for n in range(3)
    ]

    scene.statuses.observe({worlds.EG: SERVING}, refusals)

    document = scene.statuses.document(policy.ref)
    assert document is not None
    [ancestor] = document["status"]["ancestors"]
    [message] = [c["message"] for c in ancestor["conditions"] if c["type"] == "Programmed"]
    assert message == (
        "Envoy of default/eg refuses HTTPRoute default/r0 and 2 more, with settings of this policy: "
        "no such header. What was in force of it stays so; requests to what never was are answered with 500."
    )


def test_a_refusal_that_ends_leaves_the_status() -> None:
    """What is observed is all there is, each time."""
    scene = Scene()
    scene.statuses.observe({worlds.EG: SERVING}, [REFUSAL])

    scene.statuses.observe({worlds.EG: SERVING}, ())

    assert "Programmed" not in scene.conditions(ROUTE)


def test_a_refusal_outlives_what_the_core_says_anew() -> None:
    scene = Scene()
    scene.statuses.observe({worlds.EG: SERVING}, [REFUSAL])

    scene.apply(gone=(worlds.service(0).ref,))

    assert scene.conditions(ROUTE)["Programmed"]["reason"] == "Refused"


def test_a_resource_that_is_deleted_has_no_status() -> None:
    scene = Scene()

    scene.apply(gone=(ROUTE,))

    assert scene.statuses.document(ROUTE) is None


def times(document: dict[str, Any] | None, parts: str, name: str) -> dict[str, str]:
    """When the condition ``Accepted`` last changed, by what the part that has it is about."""
    assert document is not None
    return {
        entry["name"] if name == "name" else entry[name].get("sectionName", ""): condition[
            "lastTransitionTime"
        ]
        for entry in document["status"][parts]
        for condition in entry["conditions"]
        if condition["type"] == "Accepted"
    }


OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def test_a_listener_keeps_its_times_wherever_it_stands() -> None:
    """Listeners that go or come before it move it in the list, and change nothing about it."""
    scene = Scene()
    listeners = [worlds.http_listener(name, port) for name, port in (("a", 80), ("b", 81), ("c", 82))]
    scene.apply(worlds.gateway(*listeners))
    scene.time = NEW

    scene.apply(worlds.gateway(listeners[2], worlds.http_listener("new", 90), listeners[1]))

    document = scene.statuses.document(worlds.EG)
    assert times(document, "listeners", "name") == {"c": OLD, "new": NEW, "b": OLD}


def test_a_listener_that_comes_back_has_its_times_from_then() -> None:
    scene = Scene()
    scene.apply(worlds.gateway(worlds.http_listener("a"), worlds.http_listener("b", 81)))
    scene.apply(worlds.gateway(worlds.http_listener("a")))
    scene.time = NEW

    scene.apply(worlds.gateway(worlds.http_listener("b", 81), worlds.http_listener("a")))

    assert times(scene.statuses.document(worlds.EG), "listeners", "name") == {"b": NEW, "a": OLD}


def test_a_parent_keeps_its_times_wherever_it_stands() -> None:
    scene = Scene()
    scene.apply(worlds.gateway(worlds.http_listener("a"), worlds.http_listener("b", 81)))
    scene.apply(at_sections("a", "b"))
    scene.time = NEW

    scene.apply(at_sections("b"))
    scene.apply(at_sections("a", "b"))

    assert times(scene.statuses.document(ROUTE), "parents", "parentRef") == {"a": NEW, "b": OLD}


def at_sections(*names: str) -> Resource:
    """The route with a parentRef for each of some listeners."""
    route = worlds.route(0)
    refs = tuple(structs.replace(route.spec.parent_refs[0], section_name=name) for name in names)
    return structs.replace(route, spec=structs.replace(route.spec, parent_refs=refs))


def test_an_ancestor_of_a_policy_keeps_its_times_wherever_it_stands() -> None:
    scene = Scene()
    scene.apply(worlds.gateway(worlds.http_listener("a"), worlds.http_listener("b", 81)))
    scene.apply(retries("b"))
    scene.time = NEW

    scene.apply(retries("a", "b"))

    policy = scene.statuses.document(retries().ref)
    assert times(policy, "ancestors", "ancestorRef") == {"a": NEW, "b": OLD}


def retries(*sections: str) -> Resource:
    """A policy for some listeners of the Gateway."""
    target = {"group": GATEWAY_GROUP, "kind": worlds.EG.kind, "name": worlds.EG.name}
    refs = [target | {"sectionName": section} for section in sections or ("a",)]
    spec = {"targetRefs": refs, "retry": {"numRetries": 1}}
    return resource("BackendTrafficPolicy", "default", "retries", {"spec": spec})
