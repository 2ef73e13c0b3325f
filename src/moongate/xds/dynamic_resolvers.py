"""Clusters whose host is that of each request, and what keeps clients from the proxy's own network by them.

Theory of operation
===================
A Backend of type ``DynamicResolver`` has no endpoints: Envoy looks up the host that a request names, and
sends the request there. So a client says where the proxy connects to. Without a guard it reaches what trusts
the proxy's host: services on its loopback, and the metadata of a cloud with its credentials.

The guard stands in the cluster and judges the address, after the lookup and before the connection, at each
try of a request. So it does not matter how an address is spelled (``127.1``, ``[::ffff:127.0.0.1]``), which
name leads to it, whether another filter has changed the host, or whether the name has another address by now.
No listener has a part in it, and so none changes when the first such Backend comes.

Connections that are passed on (TLSRoute) have their guard in the chain of their route, between the lookup
and the proxy. Their cluster has another name than other clusters of the route, so no chain without a guard
ever leads there.

A rule that sets a literal hostname has no guard (``unguarded``): its author has said where requests go. The
exception stands in the route, beside the hostname, so that neither is in force without the other. With the
runtime flag ``DynamicResolverLocalAddresses`` there is none anywhere.

Facts
=====
* Envoy keeps one cache of addresses for all clusters that name the same; equal names with different settings
  are refused, so the settings are in the name
* Envoy refuses such a cluster unless ``auto_sni`` and ``auto_san_validation`` are on, if it has HTTP options
* the guard judges the first address of a name. Envoy goes on to the others if that does not answer; so who
  may give addresses to a name that the route takes can still lead it there, if the Backend has no TLS
* the guard is not asked for copies of requests (mirrors), as they have no connection of a client. So a mirror
  cannot be a dynamic resolver

Source: the reference's shape; Envoy, "Upstream Role Based Access Control (RBAC) Filter".
"""

from __future__ import annotations

from functools import cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster, LoadBalancingPolicy
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from envoy.extensions.clusters.dynamic_forward_proxy.v3.cluster_pb2 import ClusterConfig
from envoy.extensions.common.dynamic_forward_proxy.v3.dns_cache_pb2 import DnsCacheConfig
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC, RBACPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import sni_dynamic_forward_proxy_pb2
from envoy.extensions.load_balancing_policies.cluster_provided.v3.cluster_provided_pb2 import ClusterProvided
from envoy.extensions.rbac.matchers.upstream_ip_port.v3.upstream_ip_port_matcher_pb2 import (
    UpstreamIpPortMatcher,
)

from moongate.attach.gateways import config
from moongate.engine import query
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

    from moongate.engine import Db
    from moongate.features.base import Lookup

GUARD: Final = "envoy.filters.http.upstream_rbac"
"""The name of the filter in the cluster, and the key of what a route says to it."""
CONNECTION_GUARD: Final = "envoy.filters.network.rbac"
SNI_PROXY: Final = "envoy.filters.network.sni_dynamic_forward_proxy"
_FAMILIES: Final = {
    "": Cluster.V4_PREFERRED,
    "IPv4": Cluster.V4_ONLY,
    "IPv6": Cluster.V6_ONLY,
    "IPv4Preferred": Cluster.V4_PREFERRED,
    "IPv6Preferred": Cluster.AUTO,
    "IPv4AndIPv6": Cluster.ALL,
}
TLS_PORT: Final = 443
"""Where connections go: a TLS handshake names no port."""

_MATCHER: Final = "envoy.rbac.matchers.upstream_ip_port"
_LOCAL: Final = (
    "0.0.0.0/8",  # an unspecified address is the machine itself
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: metadata of clouds
    "100.100.100.200/32",  # metadata of Alibaba Cloud
    "168.63.129.16/32",  # the platform of Azure
    "192.0.0.192/32",  # metadata of Oracle Cloud, where it is not link-local
    "::/96",  # ::, ::1, and IPv4 addresses in the oldest way to write them
    "::ffff:0:0/96",  # IPv4 addresses: written as such they are judged as such
    "64:ff9b::/104",  # NAT64 of those above
    "64:ff9b::7f00:0/104",
    "64:ff9b::a9fe:0/112",
    "64:ff9b::6464:64c8/128",
    "64:ff9b::a83f:8110/128",
    "64:ff9b::c000:c0/128",
    "fe80::/10",  # link-local
    "fd00:ec2::/32",  # metadata of AWS
    "fd20:ce::254/128",  # metadata of Google Cloud
)
"""Addresses at which a machine reaches itself, or what is there for it alone."""


@query
def guarded(db: Db) -> bool:
    """Whether clients are kept from addresses of the proxy's own machine."""
    return not config(db).runtime_flags.on("DynamicResolverLocalAddresses")


def lookup_family(lookup: str, families: tuple[str, ...] = ()) -> Cluster.DnsLookupFamily:
    """The addresses that are looked up, by what a policy says and by the IP families of a Service."""
    match families, lookup:
        case ("IPv4",), _:
            return Cluster.V4_ONLY
        case ("IPv6",), _:
            return Cluster.V6_ONLY
        case (_, _), "":
            return Cluster.ALL
        case _:
            return _FAMILIES[lookup]


def resolve_requests(
    message: Cluster, http: HttpProtocolOptions | None, lookup: Lookup, *, guard: bool
) -> None:
    """Let a cluster send each request, or connection, to the host that it names.

    Args:
        message: the cluster; changed in place.
        http: its HTTP options; changed in place. ``None`` for connections, whose chain has the guard.
        lookup: how hosts are looked up.
        guard: whether some addresses are closed.
    """
    settings = ClusterConfig(dns_cache_config=_cache(lookup, message.dns_lookup_family))
    message.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    message.cluster_type.typed_config.CopyFrom(packed(settings))
    message.load_balancing_policy.CopyFrom(_by_cluster())
    if http is None:
        return
    if guard:
        http.http_filters.append(HttpFilter.FromString(_guard()))
    http.upstream_http_protocol_options.auto_sni = True
    http.upstream_http_protocol_options.auto_san_validation = True


def unguarded() -> RBACPerRoute:
    """What a route says to the guard whose own hostname decides where its requests go."""
    return RBACPerRoute()


def of_server_names(lookup: Lookup, *, guard: bool) -> Iterator[Filter]:
    """The network filters that look up the host which a client asks for, and end what must not go there."""
    config = sni_dynamic_forward_proxy_pb2.FilterConfig(
        dns_cache_config=_cache(lookup, lookup_family(lookup.family)),
        port_value=TLS_PORT,
        save_upstream_address=True,
    )
    yield Filter(name=SNI_PROXY, typed_config=packed(config))
    if guard:
        rules = network_rbac_pb2.RBAC(rules=_rules(), stat_prefix="local-address")
        yield Filter(name=CONNECTION_GUARD, typed_config=packed(rules))


def _cache(lookup: Lookup, family: Cluster.DnsLookupFamily) -> DnsCacheConfig:
    """The addresses that were looked up, shared by all that look them up in the same way."""
    name, owner = Cluster.DnsLookupFamily.Name(family).lower(), lookup.owner or "default"
    cached = DnsCacheConfig(
        name=f"envoy-gateway-dfp-cache-{name}-{lookup.refresh_ms}ms-{owner}", dns_lookup_family=family
    )
    cached.dns_refresh_rate.FromMilliseconds(lookup.refresh_ms)
    return cached


def _by_cluster() -> LoadBalancingPolicy:
    policy = LoadBalancingPolicy()
    choice = policy.policies.add().typed_extension_config
    choice.name = "envoy.load_balancing_policies.cluster_provided"
    choice.typed_config.CopyFrom(packed(ClusterProvided()))
    return policy


@cache
def _guard() -> bytes:
    """The filter that answers 403 where a host has one of the closed addresses."""
    return encode(HttpFilter(name=GUARD, typed_config=packed(RBAC(rules=_rules()))))


def _rules() -> rbac_pb2.RBAC:
    policy = Policy(permissions=_permissions(), principals=[Principal(any=True)])
    return rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies={"local-address": policy})


def _permissions() -> Iterator[Permission]:
    for network in map(ip_network, _LOCAL):
        matcher = UpstreamIpPortMatcher()
        matcher.upstream_ip.address_prefix = str(network.network_address)
        matcher.upstream_ip.prefix_len.value = network.prefixlen
        permission = Permission()
        permission.matcher.name = _MATCHER
        permission.matcher.typed_config.CopyFrom(packed(matcher))
        yield permission
