"""Clusters whose hosts are those of requests, the guard before them, and who may have none."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway, RuntimeFlags
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.xds.cluster_keys import RuleCluster
from moongate.xds.clusters import cluster, load_assignment
from moongate.xds.connection_chains import TCP_PROXY, connection_chain
from moongate.xds.connection_destinations import connection_destination
from moongate.xds.destinations import Destination, rule_destination
from moongate.xds.dynamic_resolvers import CONNECTION_GUARD, GUARD, SNI_PROXY
from moongate.xds.needed_resources import route_resources
from tests.connections import connection_ref, connection_route, listener_id, proxied, raw, tls
from tests.core import EG_FLEET, IN_CLUSTER, ON_HOST, Core, extension, gateway, http
from tests.routes import SHOP, WEB, as_dict, http_route, route_ref, rule, sent, service

ANY = "{group: gateway.envoyproxy.io, kind: Backend, name: any}"
RESOLVER = extension("Backend", "any", "{type: DynamicResolver}")
OPEN = structs.replace(ON_HOST, runtime_flags=RuntimeFlags(enabled=("DynamicResolverLocalAddresses",)))


def core_of(
    *manifests: str, fields: dict[str, Any] | None = None, config: EnvoyGateway | None = None
) -> Core:
    backend = config or structs.replace(
        IN_CLUSTER, extension_apis=structs.replace(IN_CLUSTER.extension_apis, enable_backend=True)
    )
    return Core(
        gateway(http("web")),
        service(),
        RESOLVER,
        *manifests,
        http_route(fields or rule("", ANY)),
        config=backend,
    )


def destination(core: Core) -> Destination:
    return rule_destination(core.db, WEB, route_ref(), 0)


def made(core: Core) -> Cluster:
    [each] = destination(core).weighted_clusters
    resource = cluster(core.db, each.key)
    assert resource is not None
    return Cluster.FromString(resource.body)


def filters_of(message: Cluster) -> list[dict[str, Any]]:
    [options] = as_dict(message)["typed_extension_protocol_options"].values()
    return options.get("http_filters", [])


def closed(message: Cluster) -> list[str]:
    """The networks that a cluster sends nothing to."""
    [guard] = [each for each in filters_of(message) if each["name"] == GUARD]
    rules = guard["typed_config"]["rules"]
    assert rules["action"] == "DENY"
    [policy] = rules["policies"].values()
    ranges = (each["matcher"]["typed_config"]["upstream_ip"] for each in policy["permissions"])
    return [f"{each['address_prefix']}/{each['prefix_len']}" for each in ranges]


def test_its_hosts_are_those_of_requests_and_it_has_no_endpoints() -> None:
    core = core_of()

    message = made(core)

    assert message.cluster_type.name == "envoy.clusters.dynamic_forward_proxy"
    assert load_assignment(core.db, destination(core).weighted_clusters[0].key) is None


@pytest.mark.parametrize("config", [None, ON_HOST])
@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "127.0.0.1", "127.9.9.9", "169.254.169.254", "100.100.100.200", "168.63.129.16",
        "192.0.0.192", "fd20:ce::254", "64:ff9b::100.100.100.200", "64:ff9b::168.63.129.16",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fd00:ec2::254",
        "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254",
    ],
)  # fmt: skip
def test_addresses_of_the_own_machine_are_closed(address: str, config: EnvoyGateway | None) -> None:
    networks = [ip_network(each) for each in closed(made(core_of(config=config)))]

    assert any(ip_address(address) in network for network in networks)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "93.184.216.34", "2001:db8::1", "64:ff9b::5db8:d822", "fd12::1"]
)
def test_other_addresses_are_open(address: str) -> None:
    networks = [ip_network(each) for each in closed(made(core_of()))]

    assert not any(ip_address(address) in network for network in networks)


def test_who_runs_the_gateway_may_leave_the_guard_out() -> None:
    assert filters_of(made(core_of(config=OPEN))) == []


def test_each_rule_has_a_cluster_of_its_own_also_where_backends_are_merged() -> None:
    [each] = destination(core_of(config=ON_HOST)).weighted_clusters

    assert isinstance(each.key, RuleCluster)


def test_a_hostname_of_the_route_is_not_guarded() -> None:
    literal = "filters: [{type: URLRewrite, urlRewrite: {hostname: localhost}}]"
    core = core_of(fields=rule(literal, ANY))

    [route] = sent(core)

    assert route.route.host_rewrite_literal == "localhost"
    assert list(route.typed_per_filter_config) == [GUARD]
    assert closed(made(core))


def test_a_hostname_of_a_request_is_guarded() -> None:
    [route] = sent(core_of())

    assert not route.typed_per_filter_config


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (rule("", ANY, "{name: shop, port: 80}"), "InvalidBackendRef"),
        (rule("", ANY, "{name: gone, port: 80}"), "BackendNotFound,InvalidBackendRef"),
        (rule("", f"{ANY[:-1]}, weight: 0}}", "{name: shop, port: 80}"), "InvalidBackendRef"),
        (rule("filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, "
              "kind: HTTPRouteFilter, name: of-path}}]", ANY), "UnsupportedValue"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_have_one_answers_500(fields: dict[str, Any], reason: str) -> None:
    of_path = (
        "{urlRewrite: {hostname: {type: PathRegex, pathRegex: {pattern: '^/(.+)$', substitution: '\\1'}}}}"
    )

    verdict = destination(core_of(extension("HTTPRouteFilter", "of-path", of_path), fields=fields))

    assert (verdict.status, verdict.weighted_clusters) == (500, ())
    assert ",".join(sorted({each.reason for each in verdict.unresolved})) == reason


def test_no_copy_goes_there() -> None:
    mirror = f"filters: [{{type: RequestMirror, requestMirror: {{backendRef: {ANY}}}}}]"

    verdict = destination(core_of(fields=rule(mirror)))

    assert (verdict.status, verdict.mirrors) == (0, ())
    assert [each.reason for each in verdict.unresolved] == ["UnsupportedValue"]


def test_nobody_is_asked_there() -> None:
    """The request would decide who judges it."""
    ask = (
        f"filters: [{{type: ExternalAuth, externalAuth: {{protocol: GRPC, grpc: {{}}, backendRef: {ANY}}}}}]"
    )

    verdict = destination(core_of(fields=rule(ask)))

    assert verdict.status == 500
    assert [each.reason for each in verdict.unresolved] == ["UnsupportedValue"]


def connections(kind: str, *backends: str, listener: str, config: EnvoyGateway = ON_HOST) -> Core:
    route = connection_route(kind, *backends, hostnames=("*.x.test",) if kind == "TLSRoute" else ())
    return Core(gateway(listener), service(), RESOLVER, route, config=config)


def chain_of(core: Core, name: str) -> FilterChain:
    group = next(group for envoy in envoy_listeners(core.db, EG_FLEET) for group in envoy.groups)
    settings = connection_chain(core.db, group, connection_ref(name))
    assert settings is not None
    return FilterChain.FromString(settings.chain)


@pytest.mark.parametrize(
    ("config", "filters"),
    [(ON_HOST, [SNI_PROXY, CONNECTION_GUARD, TCP_PROXY]), (OPEN, [SNI_PROXY, TCP_PROXY])],
)
def test_connections_are_judged_between_the_lookup_and_the_proxy(
    config: EnvoyGateway, filters: list[str]
) -> None:
    core = connections("TLSRoute", ANY, listener=tls("tls"), config=config)

    chain = chain_of(core, "TLSRoute")
    [key] = route_resources(core.db, EG_FLEET, connection_ref("TLSRoute"))
    resource = cluster(core.db, key) if isinstance(key, RuleCluster) else None

    assert [each.name for each in chain.filters] == filters
    assert proxied(chain) == key.name == "tlsroute/default/shop/rule/-2"
    assert resource is not None
    message = Cluster.FromString(resource.body)
    assert message.cluster_type.name == "envoy.clusters.dynamic_forward_proxy"
    assert not message.typed_extension_protocol_options


def test_no_chain_without_a_guard_leads_to_the_hosts_of_handshakes() -> None:
    """The cluster of fixed backends has another name, so neither is taken for the other while they change."""
    core = connections("TLSRoute", listener=tls("tls"))
    assert proxied(chain_of(core, "TLSRoute")) == "tlsroute/default/shop/rule/-1"

    core.apply(connection_route("TLSRoute", ANY, hostnames=("*.x.test",)))

    assert proxied(chain_of(core, "TLSRoute")) == "tlsroute/default/shop/rule/-2"


@pytest.mark.parametrize(
    ("kind", "backends", "listener", "reason"),
    [
        ("TLSRoute", (ANY, SHOP), tls("tls"), "InvalidBackendRef"),
        ("TLSRoute", (ANY,), tls("tls", "", "cert"), "UnsupportedValue"),
        ("TCPRoute", (ANY,), raw("tls", "TCP"), "UnsupportedValue"),
        ("UDPRoute", (ANY,), raw("tls", "UDP"), "UnsupportedValue"),
    ],
)
def test_connections_that_name_no_host_have_no_such_backend(
    kind: str, backends: tuple[str, ...], listener: str, reason: str
) -> None:
    core = connections(kind, *backends, listener=listener)

    verdict = connection_destination(core.db, listener_id("tls"), connection_ref(kind))

    assert not verdict.dynamic
    assert [each.reason for each in verdict.unresolved] == [reason]
    assert [of.name for _, of, _ in verdict.members] == (["shop"] if len(backends) > 1 else [])
