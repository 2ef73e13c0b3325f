"""Clusters and load assignments as they are sent."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from msgspec import structs

from moongate.api.base import ListenerId, Ref
from moongate.api.cluster_settings import CircuitBreaker
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.httproute import HTTPRoute
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.xds.cluster_keys import ClusterKey
from moongate.xds.clusters import cluster, concern, load_assignment
from moongate.xds.destinations import rule_destination
from moongate.xds.metadata import NAMESPACE
from moongate.xds.needed_resources import route_resources
from tests.core import (
    EG,
    EG_FLEET,
    IN_CLUSTER,
    ON_HOST,
    Core,
    allowing,
    extension,
    gateway,
    http,
    listener_set,
    policy,
)
from tests.features.trial import install
from tests.routes import (
    SHOP,
    as_dict,
    endpoints,
    grpc_route,
    grpc_route_ref,
    http_route,
    route_ref,
    rule,
    service,
)

OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MIRROR = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}]"


def keys(core: Core) -> dict[str, ClusterKey]:
    needed = route_resources(core.db, EG_FLEET, route_ref())
    return {key.name: key for key in needed if isinstance(key, ClusterKey)}


def sent(core: Core, name: str = "httproute/default/shop/rule/0") -> Cluster:
    resource = cluster(core.db, keys(core)[name])
    assert resource is not None
    return Cluster.FromString(resource.body)


def assigned(core: Core, name: str = "httproute/default/shop/rule/0") -> ClusterLoadAssignment:
    resource = load_assignment(core.db, keys(core)[name])
    assert resource is not None
    return ClusterLoadAssignment.FromString(resource.body)


def described(message: Any) -> dict[str, Any]:
    [only] = as_dict(message.metadata)["filter_metadata"][NAMESPACE]["resources"]
    return only


def http_options(message: Cluster) -> dict[str, Any]:
    options = HttpProtocolOptions()
    assert message.typed_extension_protocol_options[OPTIONS].Unpack(options)
    return as_dict(options)


def core_of(*manifests: str, fields: dict[str, Any] | None = None) -> Core:
    return Core(gateway(http("web")), service(), *manifests, http_route(fields or rule()))


def test_a_cluster_has_safe_defaults_and_says_which_route_it_is_for() -> None:
    message = sent(core_of(fields=rule("name: checkout")))

    assert message.connect_timeout.seconds == 10
    assert message.eds_cluster_config.eds_config.HasField("ads")
    assert message.circuit_breakers.thresholds[0].max_retries.value == 1024
    assert described(message) == {
        "kind": "HTTPRoute", "name": "shop", "namespace": "default", "sectionName": "checkout",
    }  # fmt: skip


def test_a_merged_cluster_says_which_backend_it_is_for() -> None:
    flags = ON_HOST.runtime_flags.without("MetadataWhereRead")
    config = structs.replace(ON_HOST, runtime_flags=flags)
    core = Core(gateway(http("web")), service(), http_route(), config=config)

    message = sent(core, "service/default/shop/80/http")

    assert described(message) == {
        "kind": "Service", "name": "shop", "namespace": "default", "sectionName": "80",
    }  # fmt: skip


def test_a_mirrors_cluster_says_nothing() -> None:
    message = sent(core_of(fields=rule(MIRROR)), "httproute/default/shop/rule/0-mirror-0")

    assert not message.HasField("metadata")


def test_each_backend_is_a_locality_with_its_weight() -> None:
    core = core_of(
        service("more", "10.0.1.1", "10.0.1.2"), fields=rule("", SHOP, "{name: more, port: 80, weight: 3}")
    )

    message = assigned(core)

    assert [(e.locality.region, e.load_balancing_weight.value) for e in message.endpoints] == [
        ("httproute/default/shop/rule/0/backend/0", 1),
        ("httproute/default/shop/rule/0/backend/1", 3),
    ]
    addresses = [p.endpoint.address.socket_address.address for p in message.endpoints[1].lb_endpoints]
    assert addresses == ["10.0.1.1", "10.0.1.2"]


def weighted(*weights: int) -> dict[str, Any]:
    return rule(
        "", *(f"{{name: {name}, port: 80, weight: {w}}}" for name, w in zip(PAIR, weights, strict=True))
    )


PAIR = ("shop", "more")
APART = policy("BackendTrafficPolicy", "circuitBreaker: {maxConnections: 1}")


def localities(core: Core, key: ClusterKey) -> list[int]:
    resource = load_assignment(core.db, key)
    assert resource is not None
    assigned = ClusterLoadAssignment.FromString(resource.body)
    return [e.load_balancing_weight.value for e in assigned.endpoints]


def test_with_merge_backends_weights_that_change_are_sent_as_endpoints() -> None:
    """Its cluster, and the connections of it, stay as they are."""
    core = Core(
        gateway(http("web")), service(), service("more"), APART, http_route(weighted(9, 1)), config=ON_HOST
    )
    [key] = keys(core).values()
    before = cluster(core.db, key)
    assert localities(core, key) == [9, 1]

    core.apply(http_route(weighted(5, 5)))

    assert [*keys(core).values()] == [key]
    assert localities(core, key) == [5, 5]
    assert cluster(core.db, key) == before


def test_with_merge_backends_each_of_two_rules_that_are_alike_has_its_weights() -> None:
    rules = weighted(9, 1), weighted(2, 8)
    core = Core(gateway(http("web")), service(), service("more"), APART, http_route(*rules), config=ON_HOST)
    first, second = keys(core).values()

    assert (localities(core, first), localities(core, second)) == ([9, 1], [2, 8])

    core.apply(http_route(rules[1]))

    assert [*keys(core).values()] == [first]
    assert localities(core, first) == [2, 8]
    assert load_assignment(core.db, second) is None


def test_with_merge_backends_the_weight_of_a_backend_alone_is_not_that_of_its_locality() -> None:
    """Rules that send different shares to it have one cluster, and one load assignment."""
    core = Core(
        gateway(http("web")), service(), APART, http_route(*(rule("", GONE, each) for each in (SHOP, HEAVY))),
        config=ON_HOST,
    )  # fmt: skip

    second = [key for name, key in keys(core).items() if name.endswith("/backend/1")]

    assert [localities(core, key) for key in second] == [[1]]


GONE = "{name: gone, port: 80}"
OTHER = "{name: other, port: 80}"
HEAVY = "{name: shop, port: 80, weight: 7}"


def test_names_are_in_the_cluster_and_have_no_load_assignment() -> None:
    core = Core(
        gateway(http("web")),
        service("shop", ""),
        endpoints("shop", "a.example.com", type_="FQDN"),
        http_route(),
    )

    message = sent(core)

    assert message.cluster_type.name == "envoy.cluster.dns"
    [locality] = message.load_assignment.endpoints
    assert locality.lb_endpoints[0].endpoint.address.socket_address.address == "a.example.com"
    assert load_assignment(core.db, keys(core)[message.name]) is None


def test_a_backend_that_turns_into_a_name_is_left_out_until_its_rule_is_planned_anew() -> None:
    """Endpoints do not wait for that, and Envoy refuses a load assignment with a name in it."""
    core = Core(gateway(http("web")), service(), service("other"), http_route(rule("", SHOP, OTHER)))
    [key] = keys(core).values()

    core.delete("EndpointSlice", "default", "other-ipv4")
    core.apply(endpoints("other", "a.example.com", type_="FQDN"))

    resource = load_assignment(core.db, key)
    assert resource is not None
    assignment = ClusterLoadAssignment.FromString(resource.body)
    assert [len(locality.lb_endpoints) for locality in assignment.endpoints] == [1, 0]


def test_http2_is_spoken_where_the_port_says_so() -> None:
    core = Core(gateway(http("web")), service(port="{appProtocol: kubernetes.io/h2c}"), http_route())

    assert "http2_protocol_options" in http_options(sent(core))["explicit_http_config"]


def test_websockets_keep_to_http1() -> None:
    core = Core(gateway(http("web")), service(port="{appProtocol: kubernetes.io/wss}"), http_route())

    assert "http_protocol_options" in http_options(sent(core))["explicit_http_config"]


@pytest.mark.parametrize(
    ("port", "kind"), [("{}", "tcp_health_check"), ("{appProtocol: kubernetes.io/h2c}", "grpc_health_check")]
)
def test_only_who_speaks_http2_is_asked_by_a_call(port: str, kind: str) -> None:
    """Envoy refuses any other cluster with such a check."""
    asking = policy("BackendTrafficPolicy", "{healthCheck: {active: {type: GRPC}}}", target="HTTPRoute/shop")
    core = Core(gateway(http("web")), service(port=port), http_route(), asking)

    [check] = sent(core).health_checks
    assert check.WhichOneof("health_checker") == kind


def test_who_negotiates_may_be_asked_by_a_call() -> None:
    secure = """
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: Backend
        metadata: {name: up, namespace: default}
        spec:
          endpoints: [{fqdn: {hostname: up.example.com, port: 443}}]
          tls: {insecureSkipVerify: true}
    """
    ref = "{group: gateway.envoyproxy.io, kind: Backend, name: up}"
    asking = policy("BackendTrafficPolicy", "{healthCheck: {active: {type: GRPC}}}", target="HTTPRoute/shop")
    core = Core(gateway(http("web")), secure, http_route(rule("", ref)), asking, config=ON_HOST)

    [name] = keys(core)
    assert "auto_config" in http_options(sent(core, name))
    assert sent(core, name).health_checks[0].HasField("grpc_health_check")


def test_who_speaks_what_the_client_speaks_may_be_asked_by_a_call() -> None:
    body = "{useClientProtocol: true, healthCheck: {active: {type: GRPC}}}"
    asking = policy("BackendTrafficPolicy", body, target="HTTPRoute/shop")
    core = Core(gateway(http("web")), service(), http_route(), asking)

    assert sent(core).health_checks[0].HasField("grpc_health_check")


def test_ip_families_of_the_service_are_kept_to() -> None:
    core = Core(gateway(http("web")), service(ipFamilies=["IPv6"]), http_route())

    assert sent(core).dns_lookup_family == Cluster.V6_ONLY


def test_an_endpoint_that_changes_rebuilds_one_load_assignment_and_no_cluster() -> None:
    core = core_of()
    [key] = keys(core).values()
    cluster(core.db, key)
    load_assignment(core.db, key)

    core.apply(service("shop", "10.0.0.9"))
    with core.ran() as ran:
        cluster(core.db, key)
        load_assignment(core.db, key)

    assert ran["load_assignment"] == 1
    assert "cluster" not in ran


def checks(target: str = "HTTPRoute/shop", port: int = 9000, more: str = "") -> str:
    return policy(
        "BackendTrafficPolicy", f"{{circuitBreaker: {{maxConnections: {port}}}{more}}}", target=target
    )


def _asked_by_name(edit: ClusterEdit, _: Effective[CircuitBreaker]) -> None:
    edit.message.health_checks.add().http_health_check.host = edit.host()


def _asked_on_port(message: Endpoint, breaker: Effective[CircuitBreaker]) -> None:
    message.health_check_config.port_value = breaker.value.max_connections or 0


CHECKING = Feature(
    kind="BackendTrafficPolicy",
    field="circuit_breaker",
    model=CircuitBreaker,
    cluster=_asked_by_name,
    endpoint=_asked_on_port,
)
"""A feature that is no part of the product: endpoints are asked on another port, and by name."""


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, CHECKING)


def ports_asked(message: ClusterLoadAssignment) -> list[int]:
    return [e.endpoint.health_check_config.port_value for at in message.endpoints for e in at.lb_endpoints]


@pytest.mark.usefixtures("checking")
def test_a_policy_can_say_something_of_each_endpoint() -> None:
    core = core_of(checks())

    assert ports_asked(assigned(core)) == [9000]

    core.apply(checks(port=9001))

    assert ports_asked(assigned(core)) == [9001]


def test_endpoints_are_not_rebuilt_when_a_policy_says_nothing_of_them() -> None:
    core = core_of(checks())
    before = assigned(core)

    core.apply(checks(port=9001))
    with core.ran() as ran:
        assert assigned(core) == before
        assert sent(core).circuit_breakers.thresholds[0].max_connections.value == 9001

    assert ran["cluster"] == 1
    assert "load_assignment" not in ran


@pytest.mark.usefixtures("checking")
def test_a_policy_says_it_of_endpoints_that_are_names_too() -> None:
    """These are part of their cluster."""
    named = (service("shop", ""), endpoints("shop", "a.example.com", type_="FQDN"))
    core = Core(gateway(http("web")), *named, http_route(), checks())

    assert ports_asked(sent(core).load_assignment) == [9000]


def test_a_policy_that_speaks_of_endpoints_alone_keeps_its_cluster_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The endpoints of other routes are as they were."""
    install(monkeypatch, structs.replace(CHECKING, cluster=None))
    merging = checks(more=", mergeType: StrategicMerge")
    core = Core(gateway(http("web")), service(), merging, http_route(), config=ON_HOST)

    assert list(keys(core)) == ["httproute/default/shop/rule/18f1f92b"]


@pytest.mark.usefixtures("checking")
@pytest.mark.parametrize(
    ("hostnames", "target", "config", "host"),
    [
        (("*.example", "a.example"), "HTTPRoute/shop", IN_CLUSTER, "a.example"),
        (("*.example",), "HTTPRoute/shop", IN_CLUSTER, "shop.default"),
        ((), "HTTPRoute/shop", IN_CLUSTER, "shop.default"),
        (("a.example",), "Gateway/eg", ON_HOST, "shop.default"),
    ],
    ids=["exact", "wildcard", "any", "shared"],
)
def test_envoy_asks_endpoints_as_clients_do(
    hostnames: tuple[str, ...], target: str, config: EnvoyGateway, host: str
) -> None:
    """By a hostname of the route, or by the backend's name: no route has it, or several share the cluster."""
    route = http_route(hostnames=hostnames)
    core = Core(gateway(http("web")), service(), checks(target), route, config=config)
    [name] = keys(core)

    assert sent(core, name).health_checks[0].http_health_check.host == host


def test_a_cluster_whose_route_is_gone_is_gone() -> None:
    core = core_of()
    [key] = keys(core).values()

    core.delete("HTTPRoute", "default", "shop")

    assert cluster(core.db, key) is None
    assert load_assignment(core.db, key) is None


@pytest.mark.parametrize("protocol", ["", "appProtocol: kubernetes.io/ws"])
@pytest.mark.parametrize("config", [IN_CLUSTER, ON_HOST])
def test_a_kind_of_routes_can_decide_what_is_spoken_to_its_backends(
    protocol: str, config: EnvoyGateway
) -> None:
    """Whatever a backend says itself, be it in a cluster of its own, in that of a rule or of a mirror."""
    core = Core(gateway(http("web")), service(port=protocol), grpc_route(rule(MIRROR)), config=config)

    clusters = [
        cluster(core.db, key)
        for key in route_resources(core.db, EG_FLEET, grpc_route_ref())
        if isinstance(key, ClusterKey)
    ]

    options = [http_options(Cluster.FromString(each.body)) for each in clusters if each is not None]
    assert ["http2_protocol_options" in each["explicit_http_config"] for each in options] == [True, True]


def test_a_shared_cluster_is_named_by_what_is_spoken_to_its_backend() -> None:
    """Routes of different kinds may want different protocols of one backend."""
    core = Core(gateway(http("web")), service(), grpc_route(), http_route(), config=ON_HOST)

    refs = (grpc_route_ref(), route_ref())
    assert [key.name for ref in refs for key in route_resources(core.db, EG_FLEET, ref)] == [
        "service/default/shop/80/grpc",
        "service/default/shop/80/http",
    ]


def test_mirrors_of_calls_are_named_by_their_rule() -> None:
    """The reference names those of all rules by the first, so two rules would share a mirror."""
    core = Core(gateway(http("web")), service(), grpc_route(rule(MIRROR), rule(MIRROR)))

    named = [key.name for key in route_resources(core.db, EG_FLEET, grpc_route_ref())]

    assert [name for name in named if "mirror" in name] == [
        "grpcroute/default/shop/rule/0-mirror-0",
        "grpcroute/default/shop/rule/1-mirror-0",
    ]


SHARED = "service/default/shop/80/http"
CASE = "http1: {preserveHeaderCase: true}"


def keeps_case(message: Cluster) -> bool:
    """Whether a cluster keeps the case of headers, which makes it speak HTTP/1."""
    if OPTIONS not in message.typed_extension_protocol_options:
        return False
    options = HttpProtocolOptions()
    message.typed_extension_protocol_options[OPTIONS].Unpack(options)
    return options.explicit_http_config.http_protocol_options.HasField("header_key_format")


@pytest.mark.parametrize(
    ("section", "first", "second"), [("", True, True), ("/web", True, False), ("/other", False, True)]
)
def test_what_a_listener_says_of_http1_holds_for_the_clusters_of_its_routes(
    section: str, first: bool, second: bool
) -> None:
    clients = policy("ClientTrafficPolicy", CASE, target=f"Gateway/eg{section}")
    listeners = gateway(http("web"), http("other", port=81))
    core = Core(listeners, service(), http_route(rule()), clients, config=ON_HOST)
    route = Ref.of(HTTPRoute, "default", "shop")

    kept = [
        {keeps_case(sent(core, key.name)) for key in rule_destination(core.db, at, route, 0).clusters()}
        for at in (ListenerId(EG, EG, name) for name in ("web", "other"))
    ]
    assert kept == [{first}, {second}]


@pytest.mark.parametrize(("section", "kept"), [("", True), ("/web", True), ("/other", False)])
def test_without_merge_backends_listeners_share_the_clusters_of_a_rule(section: str, kept: bool) -> None:
    """With the settings of the first, as in the reference."""
    clients = policy("ClientTrafficPolicy", CASE, target=f"Gateway/eg{section}")
    listeners = gateway(http("web"), http("other", port=81))
    core = Core(listeners, service(), http_route(rule()), clients)

    assert [keeps_case(each) for each in sent_all(core)] == [kept]


@pytest.mark.parametrize(
    ("target", "parent"),
    [
        ("Gateway/eg/other", "{name: eg, sectionName: other}"),
        ("ListenerSet/more", "{kind: ListenerSet, name: more}"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "says", "silent"),
    [
        ("ClientTrafficPolicy", CASE, "path: {}"),
        ("BackendTrafficPolicy", "circuitBreaker: {maxConnections: 11}", "retry: {}"),
    ],
)
def test_a_listener_whose_policy_replaces_what_the_gateway_says_of_clusters_shares_none(
    kind: str, says: str, silent: str, target: str, parent: str
) -> None:
    """The shared ones have the Gateway's settings, and for this listener nobody set them."""
    core = Core(
        gateway(http("web"), http("other", port=81), allowedListeners=allowing("Same")),
        listener_set(http("in-set", port=82)),
        service(),
        http_route(rule(), parent=parent),
        policy(kind, says, name="of-gateway", target="Gateway/eg"),
        config=ON_HOST,
    )
    assert [each.name for each in sent_all(core) if has_settings(each)] == [SHARED]

    core.apply(policy(kind, silent, target=target))
    [own] = sent_all(core)
    assert own.name != SHARED
    assert not has_settings(own)

    if kind == "ClientTrafficPolicy":
        core.apply(policy(kind, f"{{mergeType: JSONMerge, {silent}}}", target=target))
        assert list(keys(core)) == [SHARED]


def sent_all(core: Core) -> list[Cluster]:
    return [sent(core, name) for name in keys(core)]


def has_settings(message: Cluster) -> bool:
    """Whether a cluster has what the test above sets."""
    limits = [each.max_connections.value for each in message.circuit_breakers.thresholds]
    return keeps_case(message) or limits == [11]


def test_listeners_whose_policies_agree_share_the_clusters_of_a_rule() -> None:
    """And of a mirror; another listener has its own."""
    btp = "BackendTrafficPolicy"
    core = Core(
        gateway(*(http(name, port=port) for name, port in [("a", 80), ("b", 81), ("c", 82), ("d", 83)])),
        service(),
        http_route(rule(MIRROR)),
        policy(btp, "circuitBreaker: {maxConnections: 11}", name="of-gateway", target="Gateway/eg"),
        config=ON_HOST,
    )
    shared, mirror = keys(core)
    assert shared == SHARED

    at = "group: gateway.networking.k8s.io, kind: Gateway, name: eg, sectionName"
    targets = f"targetRefs: [{{{at}: b}}, {{{at}: d}}]"
    core.apply(extension(btp, "of-two", f"{{{targets}, circuitBreaker: {{maxConnections: 22}}}}"))

    limits = {each.name: each.circuit_breakers.thresholds[0].max_connections.value for each in sent_all(core)}
    (own,) = limits.keys() - {SHARED, mirror, f"{mirror}/listener/default/eg/b"}
    assert own.endswith("/listener/default/eg/b")
    assert limits == {SHARED: 11, mirror: 11, own: 22, f"{mirror}/listener/default/eg/b": 22}


def test_a_backend_of_http2_stays_one() -> None:
    clients = policy("ClientTrafficPolicy", CASE, target="Gateway/eg")
    core = Core(
        gateway(http("web")), service(port="{appProtocol: kubernetes.io/h2c}"), http_route(rule()), clients
    )

    assert "http2_protocol_options" in http_options(sent(core))["explicit_http_config"]


def test_clusters_that_rules_share_have_what_the_gateway_says_of_http1() -> None:
    clients = policy("ClientTrafficPolicy", CASE, target="Gateway/eg")
    core = Core(gateway(http("web")), service(), http_route(rule()), clients, config=ON_HOST)

    assert keeps_case(sent(core, SHARED))


def test_a_listener_with_settings_of_http1_of_its_own_shares_no_cluster() -> None:
    clients = policy("ClientTrafficPolicy", CASE, target="Gateway/eg/other")
    listeners = gateway(http("web"), http("other", port=81))
    core = Core(listeners, service(), http_route(rule()), clients, config=ON_HOST)

    kept = {name: keeps_case(sent(core, name)) for name in keys(core)}
    assert kept.pop(SHARED) is False
    assert list(kept.values()) == [True]

    core.apply(policy("ClientTrafficPolicy", "path: {}", target="Gateway/eg/other"))
    assert list(keys(core)) == [SHARED]


def test_nor_does_a_listener_that_inherits_settings_of_http1_from_its_set() -> None:
    own = policy("ClientTrafficPolicy", "{mergeType: JSONMerge, path: {}}", target="ListenerSet/more/other")
    core = Core(
        gateway(http("web"), allowedListeners=allowing("Same")),
        listener_set(http("other", port=81)),
        service(),
        http_route(rule(), parent="{kind: ListenerSet, name: more}"),
        policy("ClientTrafficPolicy", CASE, name="of-set", target="ListenerSet/more"),
        own,
        config=ON_HOST,
    )

    assert [keeps_case(sent(core, name)) for name in keys(core)] == [True]


@pytest.mark.parametrize("rule_name", ["", "/pay"])
def test_a_rule_whose_policy_merges_into_that_of_its_listener_has_the_clusters_that_this_one_asks_for(
    rule_name: str,
) -> None:
    """What the policy sets itself is not about clusters; the shared ones have the Gateway's settings."""
    btp = "BackendTrafficPolicy"
    core = Core(
        gateway(http("web")),
        service(),
        http_route({**rule(), "name": "pay"}),
        policy(btp, "circuitBreaker: {maxConnections: 11}", name="of-gateway", target="Gateway/eg"),
        policy(btp, "circuitBreaker: {maxConnections: 22}", name="of-listener", target="Gateway/eg/web"),
        policy(btp, "{mergeType: StrategicMerge, retry: {}}", target=f"HTTPRoute/shop{rule_name}"),
        config=ON_HOST,
    )

    limits = [sent(core, name).circuit_breakers.thresholds[0].max_connections.value for name in keys(core)]
    assert limits == [22]


def concerned(core: Core, name: str) -> set[str]:
    of = concern(core.db, keys(core)[name])
    return {f"{ref.kind}/{ref.name}" for ref in (*of.resources, *of.policies)}


def test_a_cluster_concerns_its_route_and_the_policies_that_shape_it() -> None:
    """Who else has settings for the route has nothing to mend when Envoy refuses the cluster."""
    check = "healthCheck: {active: {type: TCP, tcp: {}}}"
    core = core_of(
        policy("BackendTrafficPolicy", f"{{mergeType: StrategicMerge, {check}}}"),
        policy(
            "BackendTrafficPolicy",
            "circuitBreaker: {maxParallelRetries: 3}",
            name="of-all",
            target="Gateway/eg",
        ),
        policy("SecurityPolicy", "cors: {allowOrigins: ['*']}", name="cors"),
    )
    name = "httproute/default/shop/rule/0"
    assert concerned(core, name) == {
        "HTTPRoute/shop",
        "BackendTrafficPolicy/policy",
        "BackendTrafficPolicy/of-all",
    }

    core.apply(policy("BackendTrafficPolicy", "useClientProtocol: true"))
    assert concerned(core, name) <= {"HTTPRoute/shop", "BackendTrafficPolicy/policy"}


def test_a_cluster_that_rules_share_concerns_the_policy_of_its_gateway() -> None:
    checked = policy(
        "BackendTrafficPolicy", "healthCheck: {active: {type: TCP, tcp: {}}}", target="Gateway/eg"
    )
    core = Core(gateway(http("web")), service(), http_route(rule()), checked, config=ON_HOST)

    assert concerned(core, SHARED) == {"BackendTrafficPolicy/policy"}
