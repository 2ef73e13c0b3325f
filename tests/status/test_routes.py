"""What a user reads of HTTPRoutes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from moongate.status.routes import MAX_NAMED, MAX_PARENTS, RouteStatus, route_status
from tests.connections import NEW, OLD, connection_ref, connection_route, raw, tls
from tests.core import Core, gateway, http
from tests.routes import SHOP, grpc_route, http_route, route_ref, rule, service

FINE = {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}
BROKEN = "matches: [{path: {type: RegularExpression, value: '('}}]"
EXTENSION = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: gone}"
GONE = f"filters: [{{type: ExtensionRef, extensionRef: {EXTENSION}}}]"


def core_of(*rules: dict[str, Any], parent: str = "{name: eg}", hostnames: tuple[str, ...] = ()) -> Core:
    web = gateway(http("web", "a.example.com" if hostnames else ""))
    return Core(web, service(), service("empty", ""), http_route(*rules, parent=parent, hostnames=hostnames))


def status(core: Core, name: str = "shop") -> RouteStatus:
    judged = route_status(core.db, route_ref(name))
    assert judged is not None
    return judged


def verdicts(core: Core, name: str = "shop") -> dict[str, str]:
    """Condition type → reason, with "!" in front where the condition is False, of the only parent."""
    [parent] = status(core, name).parents
    return {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in parent.conditions}


def message(core: Core, type_: str) -> str:
    [parent] = status(core).parents
    return next(c.message for c in parent.conditions if c.type == type_)


def test_a_status_has_the_shape_of_the_api() -> None:
    document = msgspec.json.decode(msgspec.json.encode(status(core_of())))

    [parent] = document["parents"]
    assert parent["parentRef"] == {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}
    assert parent["controllerName"] == "gateway.envoyproxy.io/gatewayclass-controller"
    assert parent["conditions"][0] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "Route is accepted.",
        "observedGeneration": 3,
    }


def test_a_sound_route_is_accepted_and_resolved() -> None:
    assert verdicts(core_of()) == FINE


def test_a_route_of_others_has_no_status_of_ours() -> None:
    core = core_of(parent="{name: elsewhere}")

    assert route_status(core.db, route_ref()) is None
    assert route_status(core.db, route_ref("gone")) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"parent": "{name: eg, sectionName: gone}"}, "!NoMatchingParent"),
        ({"hostnames": ("b.example.com",)}, "!NoMatchingListenerHostname"),
    ],
)
def test_a_route_that_is_not_attached_still_says_whether_its_references_resolve(
    fields: dict[str, Any], reason: str
) -> None:
    assert verdicts(core_of(**fields)) == {"Accepted": reason, "ResolvedRefs": "ResolvedRefs"}
    broken = core_of(rule("", "{name: gone, port: 80}"), **fields)
    assert verdicts(broken) == {"Accepted": reason, "ResolvedRefs": "!BackendNotFound"}


def test_reasons_of_several_references_are_joined() -> None:
    core = core_of(
        rule("", "{name: gone, port: 80}", "{name: shop, port: 81}"), rule("", "{name: gone, port: 80}")
    )

    assert verdicts(core)["ResolvedRefs"] == "!BackendNotFound,PortNotFound"
    assert "spec.rules[1].backendRefs[0]: Service default/gone does not exist." in message(
        core, "ResolvedRefs"
    )


def test_a_backend_without_endpoints_has_a_reason_of_its_own() -> None:
    core = core_of(rule("", SHOP, "{name: empty, port: 80}"))

    assert verdicts(core) == {**FINE, "BackendsAvailable": "!EndpointsNotFound"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            ("name: http, port: 3000", "name: web, port: 3000"),
            (
                ": its EndpointSlices need a TCP port with the name of the Service's port 80, "
                "which is 'http'; theirs: 'web'."
            ),
        ),
        (("name: http, port: 3000", "port: 3000"), "which is 'http'; theirs: unnamed."),
        (("{name: http, port: 80}", "{port: 80}"), "which is unnamed; theirs: 'http'."),
        (("ports: [{name: http, port: 3000}]", "ports: []"), "they have no port."),
        (
            ("endpoints: [{addresses: [10.0.0.1]}]", "endpoints: []"),
            "has no endpoints: its EndpointSlices list none.",
        ),
    ],
)
def test_slices_that_give_a_service_no_endpoints_say_why(change: tuple[str, str], why: str) -> None:
    """They are there, with the right label, so their ports are what one would look at last."""
    assert change[0] in NAMED_PORT
    core = core_of(rule("", "{name: named, port: 80}"))

    core.apply(NAMED_PORT)
    assert verdicts(core) == FINE
    core.apply(NAMED_PORT.replace(*change))

    assert why in message(core, "BackendsAvailable")


NAMED_PORT = """
apiVersion: v1
kind: Service
metadata: {name: named, namespace: default}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: named-1, namespace: default, labels: {kubernetes.io/service-name: named}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http, port: 3000}]
"""


def test_a_route_whose_rules_all_fail_is_not_accepted() -> None:
    core = core_of(rule(BROKEN))

    assert verdicts(core) == {"Accepted": "!UnsupportedValue", "ResolvedRefs": "ResolvedRefs"}


def test_a_route_with_some_rules_left_is_partially_invalid() -> None:
    core = core_of(rule(), rule(BROKEN))

    assert verdicts(core) == {**FINE, "PartiallyInvalid": "UnsupportedValue"}
    assert message(core, "PartiallyInvalid").startswith("Dropped Rule(s) [1]: ")


def test_a_filter_that_does_not_exist_is_a_reference_that_does_not_resolve() -> None:
    assert verdicts(core_of(rule(GONE))) == {"Accepted": "Accepted", "ResolvedRefs": "!UnsupportedValue"}


def test_routes_that_match_the_same_requests_name_each_other() -> None:
    core = core_of()
    core.apply(http_route(name="same"), http_route(rule("matches: [{path: {value: /a}}]"), name="apart"))

    assert verdicts(core)["RouteRulesOverlap"] == "RouteRulesOverlap"
    assert "default/same" in message(core, "RouteRulesOverlap")
    assert verdicts(core, "apart") == FINE


def test_routes_of_two_kinds_that_match_the_same_requests_say_which_kind_wins() -> None:
    core = core_of(rule("matches: [{path: {type: Exact, value: /a.B/C}}]"))
    core.apply(grpc_route({"matches": [{"method": {"service": "a.B", "method": "C"}}]}, name="calls"))

    overlap = message(core, "RouteRulesOverlap")

    assert "GRPCRoute default/calls. They go to HTTPRoutes first, and among these to the oldest" in overlap


@pytest.mark.parametrize(
    ("more", "end"), [(0, "same-4."), (1, "same-4 and others."), (4, "same-4 and others.")]
)
def test_of_many_routes_that_match_the_same_requests_a_few_are_named(more: int, end: str) -> None:
    core = core_of()
    core.apply(*(http_route(name=f"same-{n}") for n in range(MAX_NAMED + more)))

    overlap = message(core, "RouteRulesOverlap")

    assert f"HTTPRoute default/{end} They go to the oldest of these routes" in overlap
    assert overlap.count("default/same-") == MAX_NAMED


def test_a_named_route_names_the_next_instead_of_itself() -> None:
    core = core_of()
    core.apply(*(http_route(name=f"same-{n}") for n in range(MAX_NAMED + 1)))

    [parent] = status(core, "same-0").parents
    overlap = next(c.message for c in parent.conditions if c.type == "RouteRulesOverlap")

    assert "same-0" not in overlap
    assert overlap.count("default/s") == MAX_NAMED
    assert " and others. " in overlap


def test_one_more_of_many_routes_that_match_the_same_requests_leaves_their_statuses_alone() -> None:
    """A count would change the statuses of thousands, for each route that comes or goes."""
    core = core_of()
    core.apply(*(http_route(name=f"same-{n}") for n in range(MAX_NAMED + 2)))
    before = status(core), status(core, "same-0")

    core.apply(http_route(name="same-9"))
    with core.ran() as ran:
        after = status(core), status(core, "same-0")

    assert [one is other for one, other in zip(before, after, strict=True)] == [True, True]
    assert "overlapped_by" not in ran
    assert "route_status" not in ran
    assert verdicts(core, "same-9")["RouteRulesOverlap"] == "RouteRulesOverlap"


def test_each_parent_has_an_entry_in_the_order_of_the_spec() -> None:
    core = core_of()
    two = http_route(parent="{name: other}").replace("- name: other", "- name: other\n  - name: eg")
    core.apply(gateway(http("web"), name="other"), two)

    assert [p.parent_ref.name for p in status(core).parents] == ["other", "eg"]
    assert len(status(core).parents) <= MAX_PARENTS


def test_another_routes_edit_leaves_a_status_alone() -> None:
    core = core_of(rule("matches: [{path: {value: /a}}]"))
    core.apply(http_route(rule("matches: [{path: {value: /b}}]"), name="other"))
    before = status(core)

    core.apply(http_route(rule("matches: [{path: {value: /c}}]"), name="other"))
    with core.ran() as ran:
        assert status(core) is before

    assert "route_status" not in ran


def test_a_rule_whose_envoy_routes_would_be_too_large_says_so() -> None:
    """It answers 500, as what it asks of each request cannot be had."""
    headers = ", ".join(f"{{name: x-{n}, value: {'v' * 4000}}}" for n in range(16))
    paths = ", ".join(f"{{path: {{value: /{n}}}}}" for n in range(16))
    filters = f"[{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{headers}]}}}}]"
    large = f"matches: [{paths}]\nfilters: {filters}"
    names = tuple(f"h{n}.a.example.com" for n in range(8))
    web = gateway(http("web"))
    core = Core(web, service(), http_route(rule(), rule(large), hostnames=names))

    assert verdicts(core)["PartiallyInvalid"] == "UnsupportedValue"
    assert message(core, "PartiallyInvalid").startswith("Dropped Rule(s) [1]: The Envoy routes of rule 1")

    core.apply(http_route(rule(), rule(large), hostnames=names[:1]))
    assert verdicts(core) == FINE


# -- routes of connections ----------------------------------------------------


def of_connections(core: Core, kind: str, name: str = "shop") -> dict[str, tuple[str, str, str]]:
    """The conditions of a route of connections at its first parent: status, reason and message."""
    status = route_status(core.db, connection_ref(kind, name))
    assert status is not None
    return {c.type: (c.status, c.reason, c.message) for c in status.parents[0].conditions}


@pytest.mark.parametrize(("kind", "protocol"), [("TCPRoute", "TCP"), ("UDPRoute", "UDP")])
def test_of_two_routes_of_a_port_the_younger_is_told_who_has_it(kind: str, protocol: str) -> None:
    core = Core(
        gateway(raw("raw", protocol)),
        connection_route(kind, name="old", created=OLD),
        connection_route(kind, name="new", created=NEW),
    )

    assert of_connections(core, kind, "old")["Accepted"] == ("True", "Accepted", "Route is accepted.")
    status, reason, words = of_connections(core, kind, "new")["Accepted"]
    assert (status, reason) == ("True", "Accepted")
    assert words == (
        f"Route is accepted; but the connections of listener raw go to {kind} default/old, which is older."
    )


def test_of_two_routes_of_a_hostname_the_younger_is_told_which() -> None:
    core = Core(
        gateway(tls("tls")),
        connection_route("TLSRoute", name="old", hostnames=("a.test",), created=OLD),
        connection_route("TLSRoute", name="new", hostnames=("a.test", "b.test"), created=NEW),
    )

    words = of_connections(core, "TLSRoute", "new")["Accepted"][2]
    assert "connections of listener tls for a.test go to TLSRoute default/old" in words


def test_a_tcp_route_with_two_rules_is_told_so_and_nothing_else() -> None:
    rule_of = {"backendRefs": [{"name": "gone", "port": 80}]}
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute", rules=[rule_of, rule_of]))

    conditions = of_connections(core, "TCPRoute")

    assert {type_: verdict[:2] for type_, verdict in conditions.items()} == {
        "Accepted": ("False", "InvalidRule")
    }
    assert "this one has 2" in conditions["Accepted"][2]


def test_a_hostname_that_no_listener_has_keeps_a_tls_route_out() -> None:
    core = Core(
        gateway(tls("tls", "*.a.test")), service(), connection_route("TLSRoute", hostnames=("b.test",))
    )

    conditions = of_connections(core, "TLSRoute")

    assert conditions["Accepted"][:2] == ("False", "NoMatchingListenerHostname")
    assert "No connection reaches the route" in conditions["Accepted"][2]
    assert conditions["ResolvedRefs"][:2] == ("True", "ResolvedRefs")


def test_a_backend_of_connections_without_endpoints_is_a_reference_that_does_not_resolve() -> None:
    core = Core(gateway(raw("raw", "TCP")), service("shop", ""), connection_route("TCPRoute"))

    conditions = of_connections(core, "TCPRoute")

    assert conditions["ResolvedRefs"][:2] == ("False", "EndpointsNotFound")
    assert "BackendsAvailable" not in conditions
