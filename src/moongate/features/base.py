"""The definition of a feature: one field of a policy, and its part of xDS.

Theory of operation
===================
A feature owns the API model of its field, its semantic checks, and *hooks*: pure functions that turn the
effective value directly into protobuf. The translation goes through ``features.FEATURES`` and calls the
hooks; a hook that a feature does not need is ``None``. There is no registration, and no model between API and
xDS.

Rules
=====
1. A feature never imports another feature. What two of them share is in ``shared``, ``spans`` or ``attach``.
2. Hooks change their argument, or return a message. They read only through ``db``.
3. A hook is called only if its field is set in the effective policy, and if neither its references nor
   ``check`` have a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from google.protobuf.wrappers_pb2 import UInt32Value
from msgspec import Struct, field

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.core import ClusterTrustBundle, ConfigMap, Secret, Service
from moongate.api.serviceimport import ServiceImport
from moongate.attach.backends import Target
from moongate.problem import Problem
from moongate.xds.wire import sized

if TYPE_CHECKING:
    from envoy.config.cluster.v3.cluster_pb2 import Cluster
    from envoy.config.core.v3.base_pb2 import TransportSocket
    from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint
    from envoy.config.listener.v3.listener_components_pb2 import FilterChain
    from envoy.config.listener.v3.listener_pb2 import Listener
    from envoy.config.route.v3.route_components_pb2 import Route
    from envoy.extensions.filters.http.router.v3.router_pb2 import Router
    from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
    from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
        HttpConnectionManager,
    )
    from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
    from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
    from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import Message

    from moongate.api.base import ListenerId
    from moongate.api.cluster_settings import PreferLocal
    from moongate.api.health_checks import HealthCheckLog
    from moongate.api.httproute import HTTPPathMatch
    from moongate.api.route import RouteRule
    from moongate.api.shared import BackendObjectReference, SecretObjectReference
    from moongate.attach.backends import Transport
    from moongate.attach.client_validation import ClientValidation
    from moongate.attach.extension_filters import Extension
    from moongate.engine import Db

M = TypeVar("M")


class Effective(Struct, Generic[M], frozen=True):
    """A field's value after precedence and merging, with the policy that it comes from.

    Args:
        value: the value of the field.
        owner: the policy with the field, or the route whose rule has it. The names of filters and secrets
            derive from it.
        others: the parts of the value with another owner, after a merge: (path of wire names, owner).
    """

    value: M
    owner: Ref
    others: tuple[tuple[str, Ref], ...] = ()

    def owner_of(self, path: str) -> Ref:
        """The owner of the part at a path below the field; its namespace is that of a reference there."""
        for other, owner in self.others:
            if path == other or path.startswith((f"{other}.", f"{other}[")):
                return owner
        return self.owner

    @property
    def owners(self) -> tuple[Ref, Ref | None]:
        """The more specific owner, and the other one if the value was merged."""
        return self.owner, next((other for _, other in self.others), None)


class ListenerFacts(Struct, frozen=True):
    """What ``route`` hooks and the filters of routes need to know about the listener of a route.

    Args:
        stream_idle: whether the policy of the listener sets a stream idle timeout.
        envoy_headers: whether requests and responses may have Envoy's own headers.
        rate_limit_headers: whether responses may say how much of a rate limit is left.
        kind_filters: the filters of kinds of routes that the policy of the listener switches on for all of
            its requests (``True``), or off also for such routes, by name.
    """

    stream_idle: bool = False
    envoy_headers: bool = False
    rate_limit_headers: bool = True
    kind_filters: tuple[tuple[str, bool], ...] = ()


class RouteEdit(Struct):
    """The argument of a ``route`` hook: one Envoy route, built from one match of one rule.

    Args:
        message: the route; changed in place. Hooks run only for routes that forward to a backend.
        listener: what the hook needs to know about the listener.
    """

    message: Route
    listener: ListenerFacts = ListenerFacts()


class Zones(Struct, frozen=True):
    """That the endpoints of a cluster stand by the zones in which they run.

    Args:
        weights: the weights of zones, for a cluster that chooses zones by them; ``None`` for one that looks
            at the zone of the proxy.
    """

    weights: tuple[tuple[str, int], ...] | None = None


class Lookup(Struct, frozen=True):
    """How hostnames of backends are looked up.

    Args:
        family: the addresses that are looked for, in the words of the API; "" where nobody says it.
        refresh_ms: how often a name is looked up.
        respects_ttl: whether a name is looked up again when its time to live is over.
        owner: ``<namespace>/<name>`` of the policy that says so; "" if none does.
    """

    family: str = ""
    refresh_ms: int = 30_000
    respects_ttl: bool = True
    owner: str = ""


def _none() -> None:
    return None


def _http2_defaults() -> Http2ProtocolOptions:
    """Windows that are safe at the edge, as in the reference."""
    return Http2ProtocolOptions(
        initial_stream_window_size=UInt32Value(value=65536),
        initial_connection_window_size=UInt32Value(value=1048576),
    )


class ClusterEdit(Struct):
    """The argument of a ``cluster`` hook.

    Args:
        message: the cluster; changed in place.
        http: upstream HTTP options. They are added to the cluster if a hook or the protocol sets any of them.
        http1_options: those of HTTP/1. If a hook sets any of them, the cluster speaks it unless its backends
            want HTTP/2.
        backends: how many backendRefs share the cluster.
        http2: whether its backends speak HTTP/2 only.
        host: returns the host header of Envoy's own requests, such as health checks: a hostname of the route,
            or a name of the backend. It is computed only when a hook calls it.
        health_check_log: returns the settings of the EnvoyProxy for the log of health checks, if it has any.
            They are read only when a hook calls it.
        http2_options: what holds where the cluster speaks HTTP/2, or may; changed in place.
        local: what the one Service of the cluster says about the zone of the proxy.
        wrap_socket: wraps each of the cluster's transport sockets into another one; set by a hook.
    """

    message: Cluster
    http: HttpProtocolOptions
    http1_options: Http1ProtocolOptions = field(default_factory=Http1ProtocolOptions)
    backends: int = 1
    http2: bool = False
    host: Callable[[], str] = str
    health_check_log: Callable[[], HealthCheckLog | None] = _none
    http2_options: Http2ProtocolOptions = field(default_factory=_http2_defaults)
    local: PreferLocal | None = None
    wrap_socket: Callable[[TransportSocket], TransportSocket] | None = None


class ChainEdit(Struct):
    """The argument of a ``filter_chain`` hook: one filter chain.

    Args:
        message: the chain; changed in place. The translation adds the connection manager after the network
            filters of the hooks.
        tls: the TLS context of the chain; ``None`` on a plaintext listener.
        stat_prefix: the prefix of the connection manager, for filters whose statistics use the same.
        inspector: the settings of the TLS inspector that this chain needs; ``None`` if it needs none. All
            chains of a port share one inspector, with the settings of all of them.
    """

    message: FilterChain
    tls: DownstreamTlsContext | None
    stat_prefix: str
    inspector: TlsInspector | None = None


class ManagerEdit(Struct):
    """The argument of a ``connection_manager`` hook: one HTTP connection manager.

    Args:
        message: the connection manager, without its HTTP filters; changed in place.
        router: the last of its HTTP filters; changed in place.
        default_host: returns the hostname that a request without one is for (``attach.default_hosts``); ""
            if there is none. It is computed only when a hook calls it.
    """

    message: HttpConnectionManager
    router: Router
    default_host: Callable[[], str] = str


class MatchedRule(NamedTuple):
    """What an Envoy route is built for.

    Args:
        name: that of the rule in xDS, the same as of its cluster in the reference.
        path: the path that the route matches on.
        route: the name of the Envoy route.
        listener: the name of the listener that serves it.
    """

    name: str
    path: HTTPPathMatch
    route: str = ""
    listener: str = ""


class ServiceLimit(NamedTuple):
    """What the rate limit service must know so that it can limit the requests of an Envoy route.

    Args:
        domain: the domain that the limit belongs to.
        key: the key of its first descriptor entry. Within a domain it determines the limit.
        body: an encoded entry of ``RateLimitConfig.descriptors``.
    """

    domain: str
    key: str
    body: bytes

    def __repr__(self) -> str:
        return sized(self, self._fields)


class ChainPlace(NamedTuple):
    """The chain that a filter stands in.

    Args:
        listener: the name of the first of its listeners.
        facts: what their policy says.
    """

    listener: str
    facts: ListenerFacts


def _absent(_db: Db, _effective: Effective[Any]) -> Message:
    raise AssertionError("its routes are configured by another hook")


class HttpFilter(Struct, Generic[M], frozen=True, kw_only=True):
    """An HTTP filter of the chains of listeners.

    As in the reference, a filter is in the chain of a listener on which a route uses it. With stable chains
    (runtime flag ``StableFilterChains``) a filter that has ``stable`` stands in every chain from the start,
    disabled, and routes carry the rest of its configuration: neither the first policy nor a changed one
    touches a listener.

    Args:
        name: Envoy's filter type, ``envoy.filters.http.cors``.
        part: sets its instances apart from those of another feature with the same type: ``<type>/<part>``.
        per_policy: one instance per policy, named ``<type>/<policy kind>/<namespace>/<name>``.
        per_config: one instance per config in the chain, named ``<type>/<hash>``.
        disabled: disabled in the chain, so that it runs only on routes with a config of their own.
        named: the name of its instance for a value, where that is none of these.
        chain: its config in the chain, the same as in the reference.
        in_chain: completes that config, or that of ``stable``, by what depends on the chain it stands in.
        route: its config on the Envoy routes of a rule (``typed_per_filter_config``).
        forwarding: as ``route``, which is then absent, but only on routes that forward to a backend; it may
            depend on their listener. ``None`` for a value that says nothing to this filter.
        of_match: as ``route``, for a config that depends on the match that an Envoy route is for; ``route``
            or ``forwarding`` is then what all routes of the rule have in common.
        stable: the part of its config that no route can carry, of a field's value; of ``None``, which is no
            value, it is that of the instance which stands in every chain. Values with equal parts share an
            instance. ``None`` instead of a function where routes can carry nothing. It holds no secrets.
        forms: values whose instances stand in every chain as well, because many routes need them.
        of_clusters: with stable chains it stands in the clusters of a rule, and not in the chain: so no
            listener changes when it comes.
        chain_says_all: ``chain`` says all that ``route`` says. What is too large to be copied to every route
            then stands in the chain.
        instead: for a filter that requests may pass without: what routes say to the instance that stands in
            every chain, on connections that were opened before their chain had the one that a value needs;
            ``None`` for nothing. Without this function such requests are answered with 500.
    """

    name: str
    part: str = ""
    per_policy: bool = False
    per_config: bool = False
    disabled: bool = False
    named: Callable[[Effective[M]], str] | None = None
    chain: Callable[[Db, Effective[M]], Message]
    in_chain: Callable[[Db, ChainPlace, AnyMessage], Message] | None = None
    route: Callable[[Db, Effective[M]], Message] = _absent
    forwarding: Callable[[Effective[M], ListenerFacts], Message | None] | None = None
    of_match: Callable[[Effective[M], MatchedRule], Message] | None = None
    stable: Callable[[M | None], Message] | None = None
    forms: tuple[M, ...] = ()
    of_clusters: bool = False
    chain_says_all: bool = False
    instead: Callable[[Db, Effective[M]], Message | None] | None = None

    @property
    def stem(self) -> str:
        """What the names of its instances begin with; the name of the one in every stable chain."""
        return f"{self.name}/{self.part}" if self.part else self.name

    def instance(self, owner: Ref) -> str:
        """The filter's name in the chain and the key of its config on routes, as in the reference."""
        return (
            f"{self.stem}/{owner.kind.lower()}/{owner.namespace}/{owner.name}"
            if self.per_policy
            else self.stem
        )


class ListenerHttpFilter(Struct, Generic[M], frozen=True, kw_only=True):
    """An HTTP filter for all requests of a listener, in the chain of this listener alone.

    Its routes say nothing of it. While the chain lacks it, because Envoy refused it, they answer 500.

    Args:
        name: Envoy's filter type; no other feature has an instance of it.
        chain: its config; ``None`` for a value that needs no filter.
    """

    name: str
    chain: Callable[[M], Message | None]


class Reference(Struct, frozen=True):
    """A reference to another resource in the value of a field.

    Args:
        path: its path below the field, such as ``users``.
        target: the reference as it is written; its namespace is "" if none is written.
        kinds: the (group, kind) pairs that the field accepts.
    """

    path: str
    target: Target
    kinds: tuple[tuple[str, str], ...]

    @classmethod
    def to_secret(cls, path: str, ref: SecretObjectReference) -> Reference:
        """A reference to a Secret."""
        target = Target(ref.group, ref.kind, ref.namespace or "", ref.name, 0)
        return cls(path, target, (("", Secret.KIND),))

    @classmethod
    def to_authorities(cls, path: str, ref: SecretObjectReference) -> Reference:
        """A reference to what holds certificates of CAs, of any group as in the reference."""
        kinds = {kind.KIND: (kind.GROUP, kind.KIND) for kind in (Secret, ConfigMap, ClusterTrustBundle)}
        group, kind = kinds.get(ref.kind, (ref.group, ref.kind))
        return cls(path, Target(group, kind, ref.namespace or "", ref.name, 0), tuple(kinds.values()))

    @classmethod
    def to_lists(cls, path: str, ref: SecretObjectReference) -> Reference:
        """A reference to what holds lists of revoked certificates."""
        kinds = tuple((kind.GROUP, kind.KIND) for kind in (Secret, ConfigMap))
        return cls(path, Target(ref.group, ref.kind, ref.namespace or "", ref.name, 0), kinds)

    @classmethod
    def to_backend(cls, path: str, ref: BackendObjectReference) -> Reference:
        """A reference to a backend."""
        target = Target(ref.group, ref.kind, ref.namespace or "", ref.name, ref.port or 0)
        kinds = (Service, ServiceImport, Backend)
        return cls(path, target, tuple((kind.GROUP, kind.KIND) for kind in kinds))

    @property
    def accepted(self) -> bool:
        """Whether the field accepts the kind of the reference."""
        return (self.target.group, self.target.kind) in self.kinds

    def target_from(self, owner: Ref) -> Target:
        """The target, with the namespace of the owner if none is written, or none if its kind has none."""
        if self.target.kind == ClusterTrustBundle.KIND:
            return self.target._replace(namespace="")
        return self.target._replace(namespace=self.target.namespace or owner.namespace)


class ExtraBackend(NamedTuple):
    """A backend of an ``ExtraCluster``.

    Args:
        target: the result of ``Reference.target_from``.
        weight: its share of the requests; 0 means none.
        fallback: whether it is used only if the others are unhealthy.
    """

    target: Target
    weight: int = 1
    fallback: bool = False


class ExtraCluster(NamedTuple):
    """A cluster of a feature, besides the clusters of routes; for example that of an identity provider.

    Args:
        name: its name in xDS (``names.policy_cluster``, ``names.host_cluster``). The name determines the
            cluster: two with the same name must be equal, even if different features need them.
        backends: its backends.
        host: a name or IP address instead of backends, for a feature whose value is a URL; or the path of a
            Unix socket.
        port: the port of the host.
        tls: whether to use TLS to the host; its certificate must then be for ``host``.
        http2: whether its backends always speak HTTP/2, such as those of gRPC.
        own_service: whether the host is a service of the control plane, which Envoy shows its own
            certificate. Without a host nothing answers.
    """

    name: str
    backends: tuple[ExtraBackend, ...] = ()
    host: str = ""
    port: int = 0
    tls: bool = False
    http2: bool = False
    own_service: bool = False


class ExtraSecret(NamedTuple):
    """A secret that Envoy fetches (SDS) because a feature's configuration refers to it.

    Args:
        name: its name in xDS; two with the same name must be equal.
        secret: the Secret with the data.
        key: the key of the data in the Secret.
    """

    name: str
    secret: Ref
    key: str


class Native(Struct, Generic[M], frozen=True, kw_only=True):
    """How a rule of a route can set the field itself, instead of a policy.

    Args:
        read: the setting of a rule as a value of the field; ``None`` if the rule does not set it.
        extends: the setting of an HTTPRouteFilter that a rule names, or one of its backendRefs; ``None`` if
            it does not set it. It then belongs to that filter, and several of a rule stand side by side.
            Of a backendRef, it is an HTTP filter of the cluster, with what ``HttpFilter.chain`` returns.
        merges: whether the other settings of the policy stay in force. If not, the rule replaces all of them.
    """

    read: Callable[[RouteRule], M | None] | None = None
    extends: Callable[[Extension], M | None] | None = None
    merges: bool = False


class Feature(Struct, Generic[M], frozen=True, kw_only=True, eq=False):
    """One field of a policy kind, with all its hooks.

    Args:
        kind: the policy kind, ``SecurityPolicy``; "" for what only rules of routes can set.
        field: the Python name of the field in its spec, ``basic_auth``; "" where there is no such kind.
        model: the Struct of the field.
        applies: whether a value concerns this feature, where several share a field.
        references: the references in a value. ``check`` is called only if each of them is allowed and its
            target exists.
        check: faults that types cannot express, with paths relative to the field.
        hints: what is valid in a value and hardly meant, because it quietly closes something; with paths
            relative to the field. A hint says what happens to requests.
        warnings: who is shut out by a value that is in force as it is written, because of what is in other
            resources. The condition ``Warning`` of a policy of listeners says so.
        named_zones: the zones of endpoints that a value names, each with its path relative to the field.
        native: the rule's own field or filter, which overrides the policy's.
        clusters: the clusters that a value needs besides those of routes.
        secrets: the secrets that Envoy must be able to fetch for a value.
        one_cluster: whether a value works only if all backends of a rule share one cluster.
        clients: what a listener asks of the certificates of its clients, after what its Gateway asks. It is
            called for a value with a fault as well: who would be turned away without the fault must not pass.
        listener_facts: what ``route`` hooks of other features need to know about a value in a listener's
            policy.
        check_listener: faults that a value has on one listener but not on others, with paths relative to the
            field. The routes of that listener answer 500.
        http_filter: an HTTP filter, with its per-route config.
        listener_filter: an HTTP filter that the policy of a listener puts into its chain.
        route: settings on an Envoy route.
        transports: the connections to whose clusters ``cluster``, ``endpoint``, ``lookup`` and ``zones``
            apply besides those of requests: of TCPRoutes and TLSRoutes (``TCP``), and of UDPRoutes.
        cluster: settings on a cluster.
        endpoint: settings on each endpoint of a cluster; its address is set already.
        zones: how endpoints stand by zones, in a value; ``None`` if they stand by backends. It has a meaning
            for clusters of one backend, so each backend of a rule has a cluster of its own then.
        lookup: how hostnames of backends are looked up, where it was said otherwise before.
        listener: settings on an Envoy listener, which all filter chains of a port share. Of several policies
            that set a field, the oldest decides.
        http3: whether a value opens the port of a listener for HTTP/3 (``xds.quic``).
        filter_chain: settings on a filter chain or its TLS context.
        connection_manager: settings on an HTTP connection manager.
        tcp_proxy: settings on the proxy of a route of connections.
        statistics: the pattern of the name under which the requests or connections of a rule are counted.
        limits: what the rate limit service must know for an Envoy route that forwards.
    """

    kind: str = ""
    field: str = ""
    model: type[M]
    applies: Callable[[Effective[M]], bool] | None = None
    references: Callable[[M], Iterable[Reference]] | None = None
    check: Callable[[Db, Effective[M]], Iterable[Problem]] | None = None
    hints: Callable[[M], Iterable[Problem]] | None = None
    warnings: Callable[[Db, Effective[M]], Iterable[Problem]] | None = None
    named_zones: Callable[[M], Iterable[tuple[str, str]]] | None = None
    native: Native[M] | None = None
    clusters: Callable[[Db, Effective[M]], Iterable[ExtraCluster]] | None = None
    secrets: Callable[[Db, Effective[M]], Iterable[ExtraSecret]] | None = None
    one_cluster: Callable[[M], bool] | None = None
    clients: Callable[[Effective[M], ClientValidation | None], ClientValidation | None] | None = None
    listener_facts: Callable[[ListenerFacts, M], ListenerFacts] | None = None
    check_listener: Callable[[Db, ListenerId, M], Iterable[Problem]] | None = None
    http_filter: HttpFilter[M] | None = None
    listener_filter: ListenerHttpFilter[M] | None = None
    route: Callable[[RouteEdit, Effective[M]], None] | None = None
    transports: tuple[Transport, ...] = ()
    cluster: Callable[[ClusterEdit, Effective[M]], None] | None = None
    endpoint: Callable[[Endpoint, Effective[M]], None] | None = None
    zones: Callable[[M], Zones | None] | None = None
    lookup: Callable[[Lookup, Effective[M]], Lookup] | None = None
    listener: Callable[[Listener, Effective[M]], None] | None = None
    http3: bool = False
    filter_chain: Callable[[ChainEdit, Effective[M]], None] | None = None
    connection_manager: Callable[[ManagerEdit, Effective[M]], None] | None = None
    tcp_proxy: Callable[[TcpProxy, Effective[M]], None] | None = None
    statistics: Callable[[M], str | None] | None = None
    limits: Callable[[Effective[M], MatchedRule], Iterable[ServiceLimit]] | None = None

    @property
    def shapes_rules(self) -> bool:
        """Whether it changes Envoy's routes, or the filters of routes."""
        return self.http_filter is not None or self.route is not None

    @property
    def shapes_connections(self) -> bool:
        """Whether it changes connections of clients, whatever is spoken on them."""
        hooks = (self.listener, self.filter_chain, self.tcp_proxy)
        return any(hook is not None for hook in hooks)

    @property
    def shapes_proxies(self) -> bool:
        """Whether it changes the proxies of routes of connections."""
        return self.tcp_proxy is not None or self.statistics is not None

    @property
    def shapes_clusters(self) -> bool:
        """Whether it changes clusters or their endpoints."""
        return self.cluster is not None or self.endpoint is not None or self.lookup is not None

    def of(self, spec: Any) -> M | None:
        """The field in a policy's spec."""
        return getattr(spec, self.field)
