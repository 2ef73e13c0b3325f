"""Envoy's listeners: a port, with the filter chains of the Gateway's listeners on it.

Theory of operation
===================
Each port of a fleet is one resource. ``listener_head`` has the fields that all filter chains of the port
share. ``listener_parts`` are the chains; the builder of its kind encodes each one. ``listener`` joins them.

Envoy accepts or refuses a listener as a whole. The quarantine can keep out one entry alone: the head, the
settings of a chain, or an HTTP filter (in all chains that have it). ``differing`` compares two listeners
entry by entry, and ``concern`` returns the resources that an entry concerns.

Source: the reference's defaults, chosen after Envoy's "Configuring Envoy as an edge proxy".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.health_check.v3.health_check_pb2 import HealthCheck
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue
from msgspec import structs

from moongate import names
from moongate.attach.envoy_listeners import EnvoyListener, envoy_listener, envoy_listeners
from moongate.attach.fleets import bind_addresses, keeps_what_it_has, members, takes_ipv4
from moongate.attach.gateways import on_host
from moongate.attach.listeners import last_judged_at
from moongate.engine import Contained, Failed, query
from moongate.policies.http_listeners import clients_of, http3_groups, port_settings
from moongate.xds.access_logs import access_logs
from moongate.xds.connection_chains import chain_in_form, connection_part, udp_filter
from moongate.xds.fallbacks import ALL, Concern, Suspect, in_steps, kept_out
from moongate.xds.filter_chains import (
    HCM,
    ChainEntry,
    ChainPart,
    ChainSettings,
    closed,
    demands_certificate,
    forms_of,
    in_force,
    joined,
    silenced,
    stand_in,
)
from moongate.xds.filters import ChainFilter, chains_with, http_filters
from moongate.xds.http_chains import chain_match, http_settings, https_settings, router
from moongate.xds.quic import quic_chain, quic_settings
from moongate.xds.statistics import compressor, prometheus
from moongate.xds.wire import LISTENER, XdsResource, encode, message_field, packed, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.base import FleetId, ListenerId
    from moongate.api.telemetry import Prometheus
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.attach.listeners import ChainKind
    from moongate.attach.listeners import Listener as JudgedListener
    from moongate.engine import Db, Query
    from moongate.xds.fallbacks import Fallback

CHAINS: Final[Mapping[ChainKind, Query[[ChainGroup], ChainSettings]]] = {
    "HTTP": http_settings,
    "HTTPS": https_settings,
}
"""The builder of a filter chain with a route configuration, by kind of chain; ``connection_chains`` has the
others."""

TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"

READINESS_PORT: Final = 19003
READINESS_PATH: Final = "/ready"
STATISTICS_PORT: Final = 19001
STATISTICS_PATH: Final = "/stats/prometheus"


@query
def listener_names(db: Db, fleet: FleetId) -> tuple[str, ...]:
    """The listener resources of a fleet, the readiness listener first."""
    if not members(db, fleet) or keeps_what_it_has(db, fleet):
        return ()
    # On a host, several fleets share the ports, and moongate asks the admin interface instead. Elsewhere the
    # listener for Prometheus is a part of the bootstrap.
    if not on_host(db):
        own = (_readiness_name(db, fleet),)
    else:
        own = (_statistics_name(db, fleet),) if prometheus(db, fleet) is not None else ()
    served = tuple(envoy.name for envoy in envoy_listeners(db, fleet))
    return own + served + tuple(sorted(_quic_names(db, fleet)))


@query
def listener(db: Db, fleet: FleetId, name: str) -> XdsResource | None:
    """One of ``listener_names``, joined; ``None`` for any other."""
    if name == _readiness_name(db, fleet):
        return XdsResource.of(LISTENER, name, encode(_readiness(db, fleet, name)))
    if name == _statistics_name(db, fleet):
        settings = prometheus(db, fleet)
        body = encode(_statistics(db, fleet, name, settings)) if settings is not None else None
        return XdsResource.of(LISTENER, name, body) if body is not None else None
    head = _head_in_force(db, fleet, name)
    if head is None:
        return None
    if _is_udp(db, fleet, name):
        return XdsResource.of(LISTENER, name, head)
    parts = listener_parts(db, fleet, name)
    if all(entry.settings.closed and not part.failed for part in parts for entry in part.entries):
        return None  # nobody could do anything there
    inspectors = sorted({needed for part in parts for needed in part.inspectors})
    body = [head, _inspector(inspectors) if inspectors else b"", *(part.body for part in parts)]
    return XdsResource.of(LISTENER, name, b"".join(body))


@query
def _quic_names(db: Db, fleet: FleetId) -> Mapping[str, str]:
    """The Envoy listeners for HTTP/3: name → that of the listener beside it."""
    return {
        names.quic(envoy.name): envoy.name
        for envoy in envoy_listeners(db, fleet)
        if any(group.kind == "HTTPS" for group in envoy.groups) and http3_groups(db, fleet, envoy.name)
    }


@query
def _beside(db: Db, fleet: FleetId, name: str) -> str:
    """The Envoy listener beside one for HTTP/3; any other one itself."""
    return _quic_names(db, fleet).get(name, name)


def listener_parts(db: Db, fleet: FleetId, name: str) -> tuple[ChainPart, ...]:
    """The filter chains of a listener."""
    if (beside := _beside(db, fleet, name)) != name:
        groups = http3_groups(db, fleet, beside)
        return tuple(_quic_part(db, fleet, name, beside, group) for group in groups)
    envoy = envoy_listener(db, fleet, name)
    if envoy is None or envoy.is_udp:
        return ()
    served = (_part_in_force(db, fleet, name, group, shares_port=_is_shared(envoy)) for group in envoy.groups)
    return (*served, *(_shut_part(db, fleet, name, each) for each in envoy.shut))


@query
def _quic_part(db: Db, fleet: FleetId, name: str, beside: str, group: ChainGroup) -> ChainPart:
    """The filter chains of some listeners for HTTP/3: those beside them, as far as QUIC has such."""
    shares_port = _is_shared(envoy_listener(db, fleet, beside))
    part = _part_in_force(db, fleet, beside, group, shares_port=shares_port)
    out = kept_out(db, fleet, LISTENER, name, ALL)
    chains = (quic_chain(entry, out) for entry in part.entries)
    return ChainPart.of(*(chain for chain in chains if chain is not None))


@query
def _shut_part(db: Db, fleet: FleetId, name: str, listener: ListenerId) -> ChainPart:
    """The chain that ends the connections of a listener which cannot check its clients."""
    served = in_force(_shut(db, listener), kept_out(db, fleet, LISTENER, name, ALL))
    return ChainPart.of(joined(served, ())) if served is not None else ChainPart.of()


def _shut(db: Db, listener: ListenerId) -> ChainSettings:
    judged = last_judged_at(db, listener)
    assert judged is not None, "only judged listeners are shut"
    return closed(structs.replace(chain_match(names.listener(listener), judged.hostname), is_http=False))


def _is_shared(envoy: EnvoyListener | None) -> bool:
    """Whether several listeners of Gateways have chains in a listener."""
    return envoy is not None and len(envoy.groups) > 1


def _part_in_force(db: Db, fleet: FleetId, name: str, group: ChainGroup, *, shares_port: bool) -> ChainPart:
    """The filter chains of some listeners; while they cannot be built, as they last were.

    A chain that never was built is closed: its connections are not meant for another one. That cannot be said
    of plaintext, where all connections to the port have one chain; then the whole listener is not built.
    A chain is closed, too, if its listener demands certificates of clients by now. The listener stays even if
    all of its chains are closed like this, as a failure withdraws nothing.
    """
    if group.has_table:
        now = chain_part.attempt(db, fleet, name, group)
        former = chain_part.last_good(db, fleet, name, group)
    else:
        now = connection_part.attempt(db, fleet, name, group, shares_port)
        former = connection_part.last_good(db, fleet, name, group, shares_port)
    if not isinstance(now, Failed):
        return now
    first = last_judged_at(db, group.members[0])
    if not isinstance(former, Failed) and not _is_too_open(db, former, first):
        return former
    if group.kind in ("HTTP", "TCP") or first is None:
        raise Contained(now)
    match = structs.replace(chain_match(group.name, first.hostname), is_http=group.has_table)
    return structs.replace(ChainPart.of(joined(closed(match), ())), failed=True)


def _is_too_open(db: Db, part: ChainPart, listener: JudgedListener | None) -> bool:
    """Whether a former chain lets clients pass of which the listener demands certificates by now."""
    clients = clients_of.attempt(db, listener.id) if listener is not None else None
    validation = listener.clients if listener is not None and isinstance(clients, Failed) else clients
    return (
        not isinstance(validation, Failed)
        and validation is not None
        and validation.only_valid
        and not all(demands_certificate(entry.settings) for entry in part.entries)
    )


@query
def chain_part(db: Db, fleet: FleetId, name: str, group: ChainGroup) -> ChainPart:
    """The filter chains of some listeners that share them, as they are handed out."""
    served = in_force(CHAINS[group.kind](db, group), kept_out(db, fleet, LISTENER, name, ALL))
    if served is None:
        return ChainPart.of()
    return ChainPart.of(joined(served, http_filters(db, group.name, group.members)))


def _head_in_force(db: Db, fleet: FleetId, name: str) -> bytes | None:
    """What the chains of a listener share; while it cannot be built, as it last was, so that they go on."""
    now = listener_head.attempt(db, fleet, name)
    head = listener_head.last_good(db, fleet, name) if isinstance(now, Failed) else now
    # There was none, for example, while the Gateway was rejected, and Envoy kept the listener all the same.
    if isinstance(now, Failed) and not isinstance(head, bytes):
        raise Contained(now)
    if head is None or isinstance(head, Failed):
        return None
    out = kept_out(db, fleet, LISTENER, name, ALL)
    fallback = out.get(version(head)) if out else None
    if fallback is None:
        return head
    # Known to be at fault, it is tried without what it reports first, as its chains are.
    silent = silenced(Listener, head) if fallback.strict else None
    return silent if silent is not None and version(silent) not in out else fallback.last_good


@query
def listener_head(db: Db, fleet: FleetId, name: str) -> bytes | None:
    """An Envoy listener without its filter chains, encoded: what all of them share."""
    beside = _beside(db, fleet, name)
    envoy = envoy_listener(db, fleet, beside)
    if envoy is None:
        return None
    has_connections = beside == name and not envoy.is_udp
    first, *others = (
        _address(db, fleet, host, envoy.container_port, is_udp=not has_connections)
        for host in bind_addresses(db, fleet)
    )
    if beside != name:
        message = Listener(drain_type=Listener.MODIFY_ONLY)
        message.udp_listener_config.downstream_socket_config.SetInParent()
        message.udp_listener_config.quic_options.SetInParent()
    elif envoy.is_udp:
        # It has no connections, so it has no filter chains either, nor settings for them.
        filters = (udp_filter(db, group) for group in envoy.groups)
        message = Listener(listener_filters=map(ListenerFilter.FromString, filters))
    else:
        message = Listener.FromString(port_settings(db, fleet, name).body)
    message.MergeFrom(
        Listener(
            name=name,
            address=first,
            additional_addresses=[AdditionalAddress(address=other) for other in others],
            access_log=[AccessLog.FromString(body) for body in access_logs(db, fleet, "Listener")],
        )
    )
    if on_host(db) and has_connections:
        # With reuse_port, a second process could bind the port too, and silently get part of the connections.
        message.enable_reuse_port.value = False
        # Envoy needs it for UDP, where each worker has a socket of its own.
    return encode(message)


def _is_udp(db: Db, fleet: FleetId, name: str) -> bool:
    envoy = envoy_listener(db, fleet, name)
    return envoy is not None and envoy.is_udp


def _inspector(needed: Iterable[bytes]) -> bytes:
    """The TLS inspector that all chains of a port share, with the settings that any of them needs."""
    config = TlsInspector()
    for each in needed:
        config.MergeFromString(each)
    inspector = ListenerFilter(name=TLS_INSPECTOR, typed_config=packed(config))
    return message_field(Listener.LISTENER_FILTERS_FIELD_NUMBER, encode(inspector))


def _address(db: Db, fleet: FleetId, host: str, port: int, *, is_udp: bool = False) -> Address:
    socket = SocketAddress(address=host, port_value=port, ipv4_compat=takes_ipv4(db, fleet, host))
    if is_udp:
        socket.protocol = SocketAddress.UDP
    return Address(socket_address=socket)


def _readiness_name(db: Db, fleet: FleetId) -> str:
    return f"envoy-gateway-proxy-ready-{bind_addresses(db, fleet)[0]}-{READINESS_PORT}"


def _readiness(db: Db, fleet: FleetId, name: str) -> Listener:
    """The listener for readiness probes. An Envoy that answers them has its configuration from xDS."""
    check = HealthCheck(
        pass_through_mode=BoolValue(value=False),
        headers=[HeaderMatcher(name=":path", string_match=StringMatcher(exact=READINESS_PATH))],
    )
    other = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=500))
    hcm = HttpConnectionManager(
        stat_prefix="eg-ready-http",
        route_config=RouteConfiguration(
            name="ready_route",
            virtual_hosts=[VirtualHost(name="ready_route", domains=["*"], routes=[other])],
        ),
        http_filters=[
            HttpFilter(name="envoy.filters.http.health_check", typed_config=packed(check)),
            router(),
        ],
    )
    message = Listener(
        name=name,
        address=_address(db, fleet, bind_addresses(db, fleet)[0], READINESS_PORT),
        filter_chains=[FilterChain(filters=[Filter(name=HCM, typed_config=packed(hcm))])],
        bypass_overload_manager=True,
    )
    if message.address.socket_address.address == "::":
        message.address.socket_address.ipv4_compat = True
    return message


def _statistics_name(db: Db, fleet: FleetId) -> str:
    return f"envoy-gateway-proxy-stats-{bind_addresses(db, fleet)[0]}-{STATISTICS_PORT}"


def _statistics(db: Db, fleet: FleetId, name: str, settings: Prometheus) -> Listener:
    """The listener for Prometheus: of the admin interface it shows the statistics alone."""
    match = RouteMatch(
        path=STATISTICS_PATH,
        headers=[HeaderMatcher(name=":method", string_match=StringMatcher(exact="GET"))],
    )
    route = Route(match=match, route=RouteAction(cluster=names.STATISTICS_CLUSTER))
    host = VirtualHost(name=names.STATISTICS_CLUSTER, domains=["*"], routes=[route])
    hcm = HttpConnectionManager(
        stat_prefix="eg-stats-http",
        normalize_path=BoolValue(value=True),
        route_config=RouteConfiguration(name="local_route", virtual_hosts=[host]),
        http_filters=[
            *([compressor(settings.compression)] if settings.compression is not None else ()),
            router(),
        ],
    )
    return Listener(
        name=name,
        address=_address(db, fleet, bind_addresses(db, fleet)[0], STATISTICS_PORT),
        filter_chains=[FilterChain(filters=[Filter(name=HCM, typed_config=packed(hcm))])],
        bypass_overload_manager=True,
        # With reuse_port, a second process could bind the port too.
        enable_reuse_port=BoolValue(value=False),
    )


# -- entries that may be kept out ---------------------------------------------


def filters_by_chain(parts: tuple[Any, ...]) -> dict[str, frozenset[ChainFilter]]:
    """The HTTP filters of each HTTP chain of a listener, by the name of the chain.

    Args:
        parts: what the listener is joined from.
    """
    return {
        entry.settings.name: frozenset(entry.filters) for entry in _entries(parts) if entry.settings.is_http
    }


def parts_of(db: Db, fleet: FleetId, name: str) -> tuple[Any, ...]:
    """The parts of a listener that was just built: its head, and the parts with its chains."""
    if not isinstance(listener_head.attempt(db, fleet, name), bytes):
        return ()
    return (_head_in_force(db, fleet, name), *listener_parts(db, fleet, name))


def differing(good: tuple[Any, ...], now: tuple[Any, ...]) -> Iterator[list[Suspect]]:
    """The entries of a listener that are not in another, each with its form there; in steps.

    Args:
        good: the parts of the other, which Envoy took.
        now: the parts of the listener.
    """
    if now and now[:1] != good[:1]:
        yield [Suspect(ALL, version(now[0]), good[0] if good else None, body=now[0])]
    former = {entry.settings.name: entry for entry in _entries(good)}
    former_filters: set[ChainFilter] = set()
    for some in in_steps(list(former.values())):
        former_filters.update(one for entry in some for one in _suspected(entry))
        yield []
    filters: dict[ChainFilter, None] = {}
    for some in in_steps(_entries(now)):
        filters.update(
            (one, None) for entry in some for one in _suspected(entry) if one not in former_filters
        )
        yield list(_other_settings(some, former))
    for one in filters:
        yield [Suspect(ALL, version(one.body), _forms(former, one.name) or None)]


def _entries(parts: tuple[Any, ...]) -> list[ChainEntry]:
    return [entry for part in parts[1:] for entry in part.entries]


def _suspected(entry: ChainEntry) -> tuple[ChainFilter, ...]:
    """The filters of a chain that are suspects of their own."""
    return entry.filters if not entry.settings.filters else ()


def _other_settings(entries: Iterable[ChainEntry], former: Mapping[str, ChainEntry]) -> Iterator[Suspect]:
    for entry in entries:
        before = former.get(entry.settings.name)
        if before is None or before.settings != entry.settings:
            last_good = before.settings if before is not None else None
            yield Suspect(ALL, entry.settings.version, last_good, body=entry.settings.chain)


def _forms(former: Mapping[str, ChainEntry], name: str) -> tuple[tuple[str, ChainFilter], ...]:
    """The filters of a name that chains had: ``(chain, filter)``."""
    return tuple((chain, one) for chain, entry in former.items() for one in entry.filters if one.name == name)


@query
def concern(db: Db, fleet: FleetId, name: str, group: str, form: str) -> Concern | None:
    """Whom an entry of a listener concerns that is kept out; ``None`` when none is asked for in this form.

    Args:
        db: what is read.
        fleet: whose listener.
        name: of the listener.
        group: which entries; ``ALL``.
        form: the version of the entry, or of what stands in for it.
    """
    assert group == ALL, "the entries of a listener are no groups"
    beside = _beside(db, fleet, name)
    envoy = envoy_listener(db, fleet, beside)
    if envoy is None:
        return None
    groups, shut, members = envoy.groups, envoy.shut, envoy.members
    if beside != name:
        groups, shut = http3_groups(db, fleet, beside), ()
        members = tuple(each for chain in groups for each in chain.members)
    out = kept_out(db, fleet, LISTENER, name, ALL)
    forms = {form, *(of for of, fallback in out.items() if form in _versions(fallback.last_good))}
    head = listener_head(db, fleet, name)
    if head is not None:
        silent = silenced(Listener, head)
        if not forms.isdisjoint(version(each) for each in (head, silent) if each is not None):
            return Concern(f"listener {name}", (), members)
    for chain in groups if not envoy.is_udp else ():
        if not chain.has_table:
            chain_and_routes = chain_in_form(db, chain, forms, shares_port=_is_shared(envoy))
            if chain_and_routes is not None:
                what, routes = chain_and_routes
                return Concern(f"filter chain {what} of listener {name}", routes, chain.members)
            continue
        settings: ChainSettings | None = CHAINS[chain.kind](db, chain)
        if beside != name:
            settings = quic_settings(settings, http_filters(db, chain.name, chain.members))
        if settings is not None and not forms.isdisjoint(_forms_in_force(settings, out)):
            return Concern(f"filter chain {chain.name} of listener {name}", (), chain.members)
    for each in shut:
        if _shut(db, each).version in forms:
            return Concern(f"filter chain {names.listener(each)} of listener {name}", (), (each,))
    concerned = next(
        (chains for each in sorted(forms) if (chains := chains_with(db, fleet, beside, each))), None
    )
    if concerned is None:
        return None
    one, members = concerned
    return Concern(f"filter {one} of listener {name}", (), members)


def _forms_in_force(settings: ChainSettings, out: Mapping[str, Fallback]) -> Iterator[str]:
    """The versions of a chain, and of all that may stand in for it."""
    for each in forms_of(settings):
        yield each
        former = stand_in(out[each], settings) if each in out else None
        if former is not None:
            yield former.version


def _versions(last_good: Any) -> set[str]:
    """The versions of the last good form of an entry of a listener."""
    match last_good:
        case None:
            return set()
        case bytes():
            return {version(last_good)}
        case ChainSettings():
            return {last_good.version}
        case _:
            return {version(one.body) for _, one in last_good}
