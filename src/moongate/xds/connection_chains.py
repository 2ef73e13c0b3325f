"""The filter chains of TLS and TCP listeners, one for each route, and the filter of UDP listeners.

Theory of operation
===================
A chain takes the connections that ask for one of the hostnames that are the route's own on the listener, or
all of them, and passes them to the route's cluster. Neither that cluster's name nor the names of certificates
say what is behind them, so a changed backend or certificate changes no chain, unless the hosts that clients
ask for take the place of backends. That matters: Envoy replaces
the chains of a listener that differ, and closes the connections of those when they have drained, while it
does not touch those of the others.

``connection_terms`` has what all chains of a listener share. So a listener that changes is read once, and
a route that changes makes one chain.

The hostname of a TLS listener is its own, also where no route is. Connections for it do not go to another
listener of the port, but are sent to a cluster without endpoints, and so are closed (``closing_chain``).

Source: the reference's chains and names; Envoy, "How do I configure SNI for listeners?".
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, ListenerFilter
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.route_pb2 import Route as UdpRoute
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig
from msgspec import structs

from moongate import names
from moongate.api.route import ConnectionRoute
from moongate.attach.connections import connection_shards, connections_in, hosts_in_doubt, own_hosts, route_of
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import age, fleet_of
from moongate.attach.listener_certificates import listener_certificates
from moongate.attach.listeners import listener_at
from moongate.attach.route_kinds import order
from moongate.attach.routes import ANY
from moongate.engine import Contained, Failed, query
from moongate.features.base import ChainEdit
from moongate.policies.effective import (
    connection_lookup,
    connection_policies,
    connection_settings,
    refuses_connections,
)
from moongate.policies.http_listeners import chain_policy, clients_of, listener_failed
from moongate.store import get
from moongate.xds.access_logs import access_logs
from moongate.xds.client_certificates import check_clients
from moongate.xds.connection_destinations import connection_section, goes_to_server_names
from moongate.xds.dynamic_resolvers import guarded, of_server_names
from moongate.xds.fallbacks import ALL, kept_out
from moongate.xds.filter_chains import (
    TLS_SOCKET,
    ChainEntry,
    ChainPart,
    ChainSettings,
    closed,
    downstream_tls,
    forms_of,
    in_force,
    joined,
    pinned_versions,
    settings,
)
from moongate.xds.statistics import route_stat_name
from moongate.xds.wire import LISTENER, Encoded, encode, packed

if TYPE_CHECKING:
    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db

TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"
UDP_PROXY: Final = "envoy.filters.udp_listener.udp_proxy"


_RANK: Final = attrgetter("rank")


class ConnectionTerms(Encoded, frozen=True):
    """What the chains of a listener have in common.

    Args:
        chain: a part of an encoded ``FilterChain``: TLS, and the filters before the proxy.
        proxy: a part of an encoded ``TcpProxy``: what a policy says of clients.
        inspector: what a policy asks of the TLS inspector, encoded; empty for nothing.
        hostname: the listener's; ``*`` for any.
        stat_prefix: what the names of statistics begin with.
        port: where Envoy listens.
        logs: encoded ``AccessLog`` entries.
        closed: whether nobody may pass.
    """

    chain: bytes
    proxy: bytes
    inspector: bytes
    hostname: str
    stat_prefix: str
    port: int
    logs: tuple[bytes, ...]
    closed: bool


@query
def connection_terms(db: Db, group: ChainGroup) -> ConnectionTerms:
    """What the chains of a listener of connections have in common."""
    [member] = group.members
    listener = listener_at(db, member)
    assert listener is not None, "a group is of listeners that there are"
    tls = None
    if listener.chain_kind == "TLS" and not listener.passthrough:
        tls = downstream_tls(listener_certificates(db, member), ())
    edit = ChainEdit(FilterChain(), tls, group.stat_prefix)
    if listener.chain_kind == "TLS":
        edit.inspector = TlsInspector()
    policy, proxy = chain_policy(db, group.members), TcpProxy()
    if policy is not None and edit.tls is not None:
        edit.tls.common_tls_context.tls_params.CopyFrom(pinned_versions())
    for feature, effective in settings(policy):
        if feature.filter_chain is not None:
            feature.filter_chain(edit, effective)
        if feature.tcp_proxy is not None:
            feature.tcp_proxy(proxy, effective)
    if edit.tls is not None and (validation := clients_of(db, member)) is not None:
        check_clients(db, edit.message, edit.tls, validation)
    if edit.tls is not None:
        socket = TransportSocket(name=TLS_SOCKET, typed_config=packed(edit.tls))
        edit.message.transport_socket.CopyFrom(socket)
    return ConnectionTerms(
        encode(edit.message),
        encode(proxy),
        encode(edit.inspector) if edit.inspector is not None else b"",
        listener.hostname or ANY,
        group.stat_prefix,
        listener.container_port,
        access_logs(db, fleet_of(db, member.gateway), "Route"),
        listener_failed(db, member),
    )


@query
def connection_chain(db: Db, group: ChainGroup, route: Ref) -> ChainSettings | None:
    """The chain of a route on a listener; ``None`` if all its hostnames there are those of other routes."""
    [member] = group.members
    hosts = own_hosts(db, member, route)
    resource = get(db, ConnectionRoute, route)
    if not hosts or resource is None:
        return None
    terms = connection_terms(db, group)
    of_names = goes_to_server_names(db, member, route)
    proxy = TcpProxy.FromString(terms.proxy)
    proxy.stat_prefix = terms.stat_prefix
    proxy.cluster = names.connection_cluster(route, names.OF_SERVER_NAMES if of_names else names.ALL_RULES)
    proxy.access_log.extend(map(AccessLog.FromString, terms.logs))
    for feature, effective in connection_settings(db, member, route, connection_section(resource)):
        if feature.tcp_proxy is not None:
            feature.tcp_proxy(proxy, effective)
        if feature.statistics is not None and (pattern := feature.statistics(effective.value)) is not None:
            proxy.stat_prefix = route_stat_name(pattern, route, resource.spec.rules[0])
    chain = _chain(names.connection_chain(route), hosts, terms)
    if of_names:
        policies = connection_policies(db, member, route, connection_section(resource))
        lookup = connection_lookup(db, policies)
        chain.filters.extend(of_server_names(lookup, guard=guarded(db)))
    chain.filters.add(name=TCP_PROXY, typed_config=packed(proxy))
    built = _settings(member, chain, terms)
    return closed(built) if terms.closed or refuses_connections(db, member, route) else built


def _chain(name: str, hosts: tuple[str, ...], terms: ConnectionTerms) -> FilterChain:
    chain = FilterChain.FromString(terms.chain)
    chain.name = name
    if hosts != (ANY,):
        chain.filter_chain_match.server_names.extend(hosts)
    return chain


def _settings(listener: ListenerId, chain: FilterChain, terms: ConnectionTerms) -> ChainSettings:
    # A route may have a chain on each of several listeners of a port, all of the same name for Envoy.
    unique_name = f"{names.listener(listener)}: {chain.name}"
    needed = terms.inspector or chain.HasField("filter_chain_match")
    return ChainSettings(
        unique_name, encode(chain), inspector=terms.inspector if needed else None, is_http=False
    )


def _taken_by_none(group: ChainGroup, hosts: tuple[str, ...], name: str) -> ChainSettings:
    """A chain that ends the connections for some hostnames."""
    [member] = group.members
    chain = FilterChain(name=name)
    if hosts != (ANY,):
        chain.filter_chain_match.server_names.extend(hosts)
    needed = TlsInspector() if hosts != (ANY,) else None
    whole = ChainSettings(
        f"{names.listener(member)}: {name}",
        encode(chain),
        inspector=encode(needed) if needed is not None else None,
        is_http=False,
    )
    return closed(whole)


@query
def closing_chain(db: Db, group: ChainGroup, shares_port: bool) -> ChainSettings | None:
    """The chain for the connections of a listener that no route takes; ``None`` if it needs none.

    It is the one of the reference, but where other listeners share the port: there the chain takes the
    listener's hostname alone.
    """
    [member] = group.members
    terms = connection_terms(db, group)
    # Of the routes that take a hostname one has it, so where there are routes there is a chain.
    if route_of(db, member, terms.hostname) or (not shares_port and connection_shards(db, member)):
        return None
    chain = FilterChain(name=names.EMPTY_CLUSTER)
    if shares_port and terms.hostname != ANY:
        chain.filter_chain_match.server_names.append(terms.hostname)
    proxy = TcpProxy(
        stat_prefix=f"tcp-{terms.port}",
        cluster=names.EMPTY_CLUSTER,
        access_log=map(AccessLog.FromString, terms.logs),
    )
    chain.filters.add(name=TCP_PROXY, typed_config=packed(proxy))
    return _settings(member, chain, terms)


@query
def chains_in(db: Db, fleet: FleetId, name: str, group: ChainGroup, part: int) -> ChainPart:
    """The chains of the routes of one shard on a listener, as they are handed out.

    One that cannot be built is as it last was. If it never was built, its connections are closed.
    """
    [member] = group.members
    routes = connections_in(db, member.owner, part).get(member, ())
    out = kept_out(db, fleet, LISTENER, name, ALL)
    entries: list[ChainEntry] = []
    chains = connection_chain.attempt_each(db, [(group, route) for route in routes])
    ages = age.each(db, [(route,) for route in routes])
    for route, built, old in zip(routes, chains, ages, strict=True):
        settings = connection_chain.last_good(db, group, route) if isinstance(built, Failed) else built
        if isinstance(settings, Failed):
            hosts = hosts_in_doubt.attempt(db, member, route)
            in_doubt = hosts if not isinstance(hosts, Failed) else ()
            settings = _taken_by_none(group, in_doubt, names.connection_chain(route)) if in_doubt else None
        served = in_force(settings, out) if settings is not None else None
        if served is not None:
            entries.append(structs.replace(joined(served, ()), rank=(*old, order(route.kind))))
    # Sorted parts are sorted faster, when they are put together.
    return ChainPart.of(*sorted(entries, key=_RANK))


@query
def connection_part(db: Db, fleet: FleetId, name: str, group: ChainGroup, shares_port: bool) -> ChainPart:
    """All chains of a listener of connections, as they are handed out: those of the oldest routes first.

    Args:
        db: where to read.
        fleet: whose listener.
        name: of the Envoy listener.
        group: the listener of the Gateway.
        shares_port: whether the Envoy listener has chains of other listeners as well.
    """
    [member] = group.members
    calls = [(fleet, name, group, part) for part in connection_shards(db, member)]
    entries: list[ChainEntry] = []
    for call, built in zip(calls, chains_in.attempt_each(db, calls), strict=True):
        part = chains_in.last_good(db, *call) if isinstance(built, Failed) else built
        if isinstance(part, Failed):
            raise Contained(part)
        entries += part.entries
    entries.sort(key=_RANK)
    end, now = (
        closing_chain.last_good(db, group, shares_port),
        closing_chain.attempt(db, group, shares_port),
    )
    if isinstance(end, Failed):
        raise Contained(end)
    if isinstance(now, Failed) and end is None and not entries:
        raise Contained(now)  # It had routes before, and without any it needs this chain.
    if end is not None:
        served = in_force(end, kept_out(db, fleet, LISTENER, name, ALL))
        entries += [joined(served, ())] if served is not None else []
    return ChainPart.of(*entries)


def chain_in_form(
    db: Db, group: ChainGroup, forms: set[str], *, shares_port: bool
) -> tuple[str, tuple[Ref, ...]] | None:
    """The name of a chain of a listener that is asked for in some form, and whose it is.

    Args:
        db: where to read.
        group: the listener.
        forms: versions of the chain, or of what stands in for it.
        shares_port: as in ``connection_part``.
    """
    [member] = group.members
    for part in connection_shards(db, member):
        for route in connections_in(db, member.owner, part).get(member, ()):
            settings = connection_chain(db, group, route)
            if settings is not None and not forms.isdisjoint(forms_of(settings)):
                return names.connection_chain(route), (route,)
    end = closing_chain(db, group, shares_port)
    if end is not None and not forms.isdisjoint(forms_of(end)):
        return names.EMPTY_CLUSTER, ()
    return None


@query
def udp_filter(db: Db, group: ChainGroup) -> bytes:
    """The encoded ``ListenerFilter`` of a UDP listener, which passes datagrams on."""
    [member] = group.members
    cluster, route = names.EMPTY_CLUSTER, route_of(db, member, ANY)
    if route is not None and not (listener_failed(db, member) or refuses_connections(db, member, route)):
        cluster = names.connection_cluster(route)
    logs = access_logs(db, fleet_of(db, member.gateway), "Route")
    config = UdpProxyConfig(stat_prefix="service", access_log=map(AccessLog.FromString, logs))
    action = config.matcher.on_no_match.action
    action.name = "route"
    action.typed_config.CopyFrom(packed(UdpRoute(cluster=cluster)))
    return encode(ListenerFilter(name=UDP_PROXY, typed_config=packed(config)))


@query
def empty_clusters(db: Db, fleet: FleetId) -> tuple[str, ...]:
    """The name of the cluster without endpoints, if some listener of a fleet needs it."""
    groups = [
        (group, len(envoy.groups) > 1)
        for envoy in envoy_listeners(db, fleet)
        for group in envoy.groups
        if not group.has_table
    ]
    # Of hundreds of listeners each is a step of its own.
    closing = closing_chain.each(db, [(group, shares) for group, shares in groups if group.kind != "UDP"])
    filters = udp_filter.each(db, [(group,) for group, _ in groups if group.kind == "UDP"])
    needed = any(end is not None for end in closing) or any(
        names.EMPTY_CLUSTER.encode() in each for each in filters
    )
    return (names.EMPTY_CLUSTER,) if needed else ()
