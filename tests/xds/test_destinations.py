"""Where the requests of a rule go, or what they are answered instead."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from moongate.api.base import ListenerId
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxySpec, MergeBackends
from moongate.api.shared import LabelSelector
from moongate.attach.backends import Target
from moongate.xds.cluster_keys import RuleCluster, StableRule
from moongate.xds.destinations import Destination, rule_destination
from tests.core import EG, IN_CLUSTER, ON_HOST, Core, gateway, http, load, policy
from tests.routes import (
    SHOP,
    WEB,
    endpoints,
    grpc_route,
    grpc_route_ref,
    http_route,
    route_ref,
    rule,
    service,
)

GONE = "{name: gone, port: 80}"
EXTENSION = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: gone}"
EMPTIED = "{name: empty, port: 80}"
EMPTY = service("empty", "")
GRANT = """
    apiVersion: gateway.networking.k8s.io/v1beta1
    kind: ReferenceGrant
    metadata: {name: grant, namespace: other}
    spec:
      from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
      to: [{group: '', kind: Service}]
"""


def destination_of(
    *manifests: str, fields: dict[str, Any] | None = None, config: EnvoyGateway = IN_CLUSTER
) -> Destination:
    """The plan of the only rule of route ``shop`` on listener ``web``."""
    core = Core(
        gateway(http("web")), service(), EMPTY, *manifests, http_route(fields or rule()), config=config
    )
    return rule_destination(core.db, WEB, route_ref(), 0)


def clusters(destination: Destination) -> list[tuple[str, int]]:
    return [
        (weighted_cluster.key.name, weighted_cluster.weight)
        for weighted_cluster in destination.weighted_clusters
        if weighted_cluster.routable
    ]


def reasons(destination: Destination) -> list[str]:
    return [p.reason for p in destination.unresolved]


def test_a_rule_has_one_cluster_named_by_its_index() -> None:
    destination = destination_of()

    assert clusters(destination) == [("httproute/default/shop/rule/0", 1)]
    assert (destination.status, destination.weighted, destination.mirrors) == (0, False, ())


def test_backends_share_the_cluster_of_their_rule() -> None:
    destination = destination_of(fields=rule("", SHOP, "{name: shop, port: 80, weight: 3}"))

    assert clusters(destination) == [("httproute/default/shop/rule/0", 4)]


def test_with_merge_backends_a_cluster_is_named_after_its_backend() -> None:
    destination = destination_of(config=ON_HOST)

    assert clusters(destination) == [("service/default/shop/80/http", 1)]


def labelled(name: str) -> str:
    """The Service that ``SELECTIVE`` lets share its cluster."""
    return service(name).replace(f"name: {name}\n", f"name: {name}\n  labels: {{merge: me}}\n", 1)


SELECTIVE = EnvoyGateway(
    envoy_proxy=EnvoyProxySpec(
        merge_backends=MergeBackends(selector=LabelSelector(match_labels={"merge": "me"}))
    )
)


def test_a_backend_that_shares_its_cluster_is_not_in_that_of_its_rule_as_well() -> None:
    """It would get more than its share of the requests."""
    destination = destination_of(
        labelled("shared"), fields=rule("", SHOP, "{name: shared, port: 80, weight: 3}"), config=SELECTIVE
    )

    [own, shared] = destination.weighted_clusters
    assert (shared.key.name, shared.weight) == ("service/default/shared/80/http", 3)
    assert own.key.name.endswith("/backend/0")
    assert own.weight == 1
    assert isinstance(own.key, RuleCluster)
    assert own.key.rule == StableRule("", ((0, Target("", "Service", "default", "shop", 80)),))


@pytest.mark.parametrize("backends", [(EMPTIED,), (EMPTIED, SHOP)])
def test_no_rule_uses_the_shared_cluster_of_a_backend_that_was_emptied(backends: tuple[str, ...]) -> None:
    """So it leaves with its last endpoint, and Envoy keeps its endpoints until the routes have switched."""
    destination = destination_of(fields=rule("", *backends), config=ON_HOST)

    assert "service/default/empty/80/http" not in {key.name for key in destination.clusters()}
    assert [s.key.name for s in destination.weighted_clusters if s.routable] == [
        "service/default/shop/80/http"
    ][: len(backends) - 1]


SLOW = policy("BackendTrafficPolicy", "circuitBreaker: {maxConnections: 1}")


def own(*rules: dict[str, Any]) -> list[str]:
    """The names of the clusters of a route's rules, where a policy keeps these from sharing any."""
    core = Core(gateway(http("web")), service(), service("more"), SLOW, http_route(*rules), config=ON_HOST)
    return [
        key.name
        for n in range(len(rules))
        for key in rule_destination(core.db, WEB, route_ref(), n).clusters()
    ]


MORE = "{name: more, port: 80}"


def weighted(name: str, weight: int, **fields: Any) -> str:
    return yaml.safe_dump({"name": name, "port": 80, "weight": weight, **fields})


def test_with_merge_backends_a_rules_own_cluster_keeps_its_name_when_weights_change() -> None:
    """A canary that gets more and more of the requests keeps its connections."""
    before = own(rule("", weighted("shop", 90), weighted("more", 10)))

    assert own(rule("", weighted("shop", 50), weighted("more", 50))) == before


def test_with_merge_backends_a_backends_own_cluster_depends_on_no_other() -> None:
    filtered = {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]}
    first, _ = own(rule("", weighted("shop", 90, **filtered), weighted("more", 10)))

    assert own(rule("", weighted("shop", 1, **filtered), weighted("gone", 3)))[0] == first


def test_with_merge_backends_no_name_passes_to_other_backends() -> None:
    """Envoy still routes by it. A backend without weight is none."""
    one = rule("", weighted("shop", 1), weighted("more", 0))
    other = rule("", weighted("shop", 0), weighted("more", 1))
    both = rule("", weighted("shop", 1), weighted("more", 1))

    names = {index: own(*rules) for index, rules in enumerate(((one, other, both), (both, other, one)))}

    assert names[0] == names[1][::-1]
    assert len(set(names[0])) == 3


def test_with_merge_backends_rules_that_differ_in_weights_only_have_clusters_of_their_own() -> None:
    backends = [rule("", weighted("shop", weight), MORE) for weight in (1, 9)]

    assert len(set(own(*backends))) == 2


def test_backends_with_filters_have_clusters_of_their_own() -> None:
    modifier = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X]}}"

    destination = destination_of(fields=rule("", SHOP, f"{{name: shop, port: 80, filters: [{modifier}]}}"))

    assert clusters(destination) == [
        ("httproute/default/shop/rule/0/backend/0", 1),
        ("httproute/default/shop/rule/0/backend/1", 1),
    ]


def test_names_and_addresses_have_clusters_of_their_own() -> None:
    named = service("named", "") + "---\n" + endpoints("named", "a.example.com", type_="FQDN")

    destination = destination_of(named, fields=rule("", SHOP, "{name: named, port: 80}"))

    assert len(clusters(destination)) == 2


@pytest.mark.parametrize(
    ("backends", "status"),
    [
        ((GONE,), 500),
        (("{name: empty, port: 80}",), 503),
        ((GONE, "{name: empty, port: 80}"), 500),
        (("{name: shop, port: 80, weight: 0}",), 500),
    ],
)
def test_a_rule_that_has_nowhere_to_send_answers_for_itself(backends: tuple[str, ...], status: int) -> None:
    destination = destination_of(fields=rule("", *backends))

    assert (destination.status, destination.weighted_clusters) == (status, ())


def test_a_rule_without_backends_answers_500() -> None:
    assert destination_of(fields={"backendRefs": []}).status == 500


@pytest.mark.parametrize(("other", "status"), [(GONE, 500), ("{name: empty, port: 80}", 503)])
def test_a_backend_that_cannot_be_used_costs_its_share_only(other: str, status: int) -> None:
    destination = destination_of(fields=rule("", SHOP, other))

    assert destination.status == 0
    assert clusters(destination) == [("httproute/default/shop/rule/0/backend/0", 1)]
    assert (destination.unavailable, destination.unavailable_status) == (1, status)


@pytest.mark.parametrize("backends", [[GONE], [], ["{name: shop, port: 80, weight: 0}"]])
def test_calls_of_grpc_without_a_backend_that_can_be_used_are_unavailable(backends: list[str]) -> None:
    """500 would be UNKNOWN for their clients; the Gateway API wants UNAVAILABLE."""
    core = Core(gateway(http("web")), service(), grpc_route({"backendRefs": list(map(load, backends))}))

    destination = rule_destination(core.db, WEB, grpc_route_ref(), 0)

    assert destination.status == 503
    assert all("Requests are answered with 503." in p.message for p in destination.unresolved)


def test_the_share_of_a_grpc_backend_that_does_not_exist_is_unavailable() -> None:
    core = Core(gateway(http("web")), service(), grpc_route(rule("", SHOP, GONE)))

    destination = rule_destination(core.db, WEB, grpc_route_ref(), 0)

    assert (destination.status, destination.unavailable, destination.unavailable_status) == (0, 1, 503)
    assert "Its share of the requests, 1 of 2, is answered with 503." in destination.unresolved[0].message


def test_a_backend_without_endpoints_is_no_reference_that_fails() -> None:
    destination = destination_of(fields=rule("", "{name: empty, port: 80}"))

    assert destination.unresolved == ()
    assert [p.reason for p in destination.without_endpoints] == ["EndpointsNotFound"]


def test_a_backend_elsewhere_needs_a_grant() -> None:
    there = service("shop", namespace="other")
    fields = rule("", "{name: shop, namespace: other, port: 80}")

    assert reasons(destination_of(there, fields=fields)) == ["RefNotPermitted"]
    assert reasons(destination_of(there, GRANT, fields=fields)) == []


@pytest.mark.parametrize("group", ["apps", "example.com"])
def test_a_kind_that_no_backend_has_is_reported_before_a_missing_grant(group: str) -> None:
    fields = rule("", f"{{group: {group}, kind: Pod, name: shop, namespace: other, port: 80}}")

    assert reasons(destination_of(fields=fields)) == ["InvalidKind"]


def test_a_mirror_has_a_cluster_of_its_own() -> None:
    mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}]"

    destination = destination_of(fields=rule(mirror))

    assert [(n, key.name) for n, key in destination.mirrors] == [
        (0, "httproute/default/shop/rule/0-mirror-0")
    ]
    assert [key.name for key in destination.clusters()] == [
        "httproute/default/shop/rule/0",
        "httproute/default/shop/rule/0-mirror-0",
    ]


@pytest.mark.parametrize("percent", ["", "percent: 0,"])
@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("{name: gone, port: 80}", ["BackendNotFound"]),
        ("{name: shop, port: 81}", ["PortNotFound"]),
        ("{name: shop, namespace: other, port: 80}", ["RefNotPermitted"]),
        ("{kind: Pod, name: shop, port: 80}", ["InvalidKind"]),
        ("{group: gateway.envoyproxy.io, kind: Backend, name: gone}", ["BackendNotFound"]),
        ("{name: empty, port: 80}", []),
    ],
)
def test_a_mirror_that_leads_nowhere_is_dropped_and_its_rule_goes_on(
    backend: str, reason: list[str], percent: str
) -> None:
    """Source: Gateway API, ``HTTPRequestMirrorFilter``: such a backend is dropped."""
    mirror = f"filters: [{{type: RequestMirror, requestMirror: {{{percent} backendRef: {backend}}}}}]"

    destination = destination_of(fields=rule(mirror))

    assert (destination.status, destination.mirrors, reasons(destination)) == (0, (), reason)
    for problem in (*destination.unresolved, *destination.without_endpoints):
        assert problem.path == "spec.rules[0].filters[0].requestMirror.backendRef"
        assert problem.message.endswith(". Requests are served, but not copied.")


def test_a_mirror_that_leads_nowhere_leaves_the_other() -> None:
    one, other = (
        f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}"
        for name in ("gone", "shop")
    )

    destination = destination_of(fields=rule(f"filters: [{one}, {other}]"))

    assert [n for n, _ in destination.mirrors] == [1]


@pytest.mark.parametrize(
    ("backends", "effects"),
    [
        (["{name: gone, port: 80}"], ["Requests are answered with 500."]),
        (["{name: empty, port: 80}"], ["Requests are answered with 503."]),
        (
            [SHOP, "{name: gone, port: 80, weight: 3}"],
            ["Its share of the requests, 3 of 4, is answered with 500."],
        ),
        ([SHOP, "{name: empty, port: 80}"], ["Its share of the requests, 1 of 2, is answered with 503."]),
        ([SHOP, "{name: gone, port: 80, weight: 0}"], ["Its weight is 0, so no request goes there."]),
    ],
)
def test_what_is_wrong_with_a_backend_says_what_requests_get(backends: list[str], effects: list[str]) -> None:
    destination = destination_of(fields=rule("", *backends))

    problems = (*destination.unresolved, *destination.without_endpoints)
    assert [problem.message.partition(". ")[2] for problem in problems] == effects


@pytest.mark.parametrize(
    "fields",
    [
        "{filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example.com}}]}",
        f"{{filters: [{{type: ExtensionRef, extensionRef: {EXTENSION}}}]}}",
        "{matches: [{path: {type: RegularExpression, value: '('}}]}",
    ],
)
def test_a_rule_that_forwards_nothing_has_no_clusters(fields: str) -> None:
    route_rule = rule(fields)
    if "Redirect" in fields:
        route_rule["backendRefs"] = []

    assert destination_of(fields=route_rule).clusters() == ()


def test_what_is_not_there_has_no_plan() -> None:
    core = Core(gateway(http("web")), http_route())

    assert rule_destination(core.db, WEB, route_ref("gone"), 0).status == 500
    assert rule_destination(core.db, ListenerId(EG, EG, "web"), route_ref(), 7).status == 500


def test_endpoints_that_change_do_not_change_a_plan() -> None:
    core = Core(gateway(http("web")), service(), http_route())
    before = rule_destination(core.db, WEB, route_ref(), 0)

    core.apply(service("shop", "10.0.0.9"))
    with core.ran() as ran:
        assert rule_destination(core.db, WEB, route_ref(), 0) is before

    assert "rule_destination" not in ran
