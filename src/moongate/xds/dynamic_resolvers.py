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
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from envoy.extensions.clusters.dynamic_forward_proxy.v3.cluster_pb2 import ClusterConfig
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC, RBACPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
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

GUARD: Final = "envoy.filters.http.upstream_rbac"
"""The name of the filter in the cluster, and the key of what a route says to it."""
REFRESH_S: Final = 30

_MATCHER: Final = "envoy.rbac.matchers.upstream_ip_port"
_LOCAL: Final = (
    "0.0.0.0/8",  # an unspecified address is the machine itself
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: metadata of clouds
    "100.100.100.200/32",  # metadata of Alibaba Cloud
    "168.63.129.16/32",  # the platform of Azure
    "::/96",  # ::, ::1, and IPv4 addresses in the oldest way to write them
    "::ffff:0:0/96",  # IPv4 addresses: written as such they are judged as such
    "64:ff9b::/104",  # NAT64 of those above
    "64:ff9b::7f00:0/104",
    "64:ff9b::a9fe:0/112",
    "fe80::/10",  # link-local
    "fd00:ec2::/32",  # metadata of AWS
)
"""Addresses at which a machine reaches itself, or what is there for it alone."""


@query
def guarded(db: Db) -> bool:
    """Whether clients are kept from addresses of the proxy's own machine."""
    return not config(db).runtime_flags.on("DynamicResolverLocalAddresses")


def resolve_requests(message: Cluster, http: HttpProtocolOptions, *, guard: bool) -> None:
    """Let a cluster send each request to the host that it names.

    Args:
        message: the cluster; changed in place.
        http: its HTTP options; changed in place.
        guard: whether some addresses are closed.
    """
    family = Cluster.DnsLookupFamily.Name(message.dns_lookup_family)
    settings = ClusterConfig()
    cache_of = settings.dns_cache_config
    cache_of.name = f"envoy-gateway-dfp-cache-{family.lower()}-{REFRESH_S * 1000}ms-default"
    cache_of.dns_lookup_family = message.dns_lookup_family
    cache_of.dns_refresh_rate.seconds = REFRESH_S
    message.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    message.cluster_type.typed_config.CopyFrom(packed(settings))
    message.load_balancing_policy.CopyFrom(_by_cluster())
    if guard:
        http.http_filters.append(HttpFilter.FromString(_guard()))
    http.upstream_http_protocol_options.auto_sni = True
    http.upstream_http_protocol_options.auto_san_validation = True


def unguarded() -> RBACPerRoute:
    """What a route says to the guard whose own hostname decides where its requests go."""
    return RBACPerRoute()


def _by_cluster() -> LoadBalancingPolicy:
    policy = LoadBalancingPolicy()
    choice = policy.policies.add().typed_extension_config
    choice.name = "envoy.load_balancing_policies.cluster_provided"
    choice.typed_config.CopyFrom(packed(ClusterProvided()))
    return policy


@cache
def _guard() -> bytes:
    """The filter that answers 403 where a host has one of the closed addresses."""
    policy = Policy(permissions=_permissions(), principals=[Principal(any=True)])
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies={"local-address": policy})
    return encode(HttpFilter(name=GUARD, typed_config=packed(RBAC(rules=rules))))


def _permissions() -> Iterator[Permission]:
    for network in map(ip_network, _LOCAL):
        matcher = UpstreamIpPortMatcher()
        matcher.upstream_ip.address_prefix = str(network.network_address)
        matcher.upstream_ip.prefix_len.value = network.prefixlen
        permission = Permission()
        permission.matcher.name = _MATCHER
        permission.matcher.typed_config.CopyFrom(packed(matcher))
        yield permission
