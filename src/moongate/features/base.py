"""What a feature is: one field of a policy, and all that it contributes to xDS.

Theory of operation
===================
A feature owns the API model of its field, its semantic checks, and *hooks*: pure functions that turn the
effective value straight into protobuf. The translation walks ``features.FEATURES`` and calls what is there;
a hook that a feature does not need stays ``None``. There is no registration and no shape in between.

Rules
=====
1. A feature never imports another feature; what two share is here or in ``attach``.
2. Hooks change the message that is their argument, or return one; they read only through ``db``.
3. A hook is called only when its field is set in the effective policy, and only when neither its references
   nor ``check`` have a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from google.protobuf.duration_pb2 import Duration
from msgspec import Struct

from moongate.api.backend import Backend
from moongate.api.base import DurationStr, Ref, milliseconds
from moongate.api.core import Secret, Service
from moongate.api.serviceimport import ServiceImport
from moongate.attach.backends import Target
from moongate.problem import Problem

if TYPE_CHECKING:
    from envoy.config.cluster.v3.cluster_pb2 import Cluster
    from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint
    from envoy.config.listener.v3.listener_components_pb2 import FilterChain
    from envoy.config.listener.v3.listener_pb2 import Listener
    from envoy.config.route.v3.route_components_pb2 import Route
    from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
    from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
        HttpConnectionManager,
    )
    from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
    from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
    from google.protobuf.message import Message

    from moongate.api.route import RouteRule
    from moongate.api.shared import BackendObjectReference, SecretObjectReference
    from moongate.engine import Db

M = TypeVar("M")


class Effective(Struct, Generic[M], frozen=True):
    """A field's value after precedence and merging, with the policy that it came from.

    Args:
        value: the field, as its model.
        owner: the policy that the field is of, or the route whose rule has it; names of filters and secrets
            derive from it.
        others: what below the field somebody else contributed: paths (wire names) with their owners.
    """

    value: M
    owner: Ref
    others: tuple[tuple[str, Ref], ...] = ()

    def owner_of(self, path: str) -> Ref:
        """Who contributed what is at a path below the field: a reference is resolved in its namespace."""
        for other, owner in self.others:
            if path == other or path.startswith((f"{other}.", f"{other}[")):
                return owner
        return self.owner

    @property
    def owners(self) -> tuple[Ref, Ref | None]:
        """The more specific of its owners, and the other one where it was merged."""
        return self.owner, next((other for _, other in self.others), None)


class ListenerFacts(Struct, frozen=True):
    """What ``route`` hooks have to know of the listener that a route is built for.

    Args:
        stream_idle: its policy limits how long a stream may stand still.
    """

    stream_idle: bool = False


class RouteEdit(Struct):
    """What a ``route`` hook works on: one Envoy route, built from one match of one rule.

    Args:
        message: changed in place. Hooks run only for routes that forward to a backend.
        listener: what the policy of its listener says.
    """

    message: Route
    listener: ListenerFacts = ListenerFacts()


class ClusterEdit(Struct):
    """What a ``cluster`` hook works on.

    Args:
        message: changed in place.
        http: upstream HTTP options; attached to the cluster when a hook or the protocol sets something in it.
        backends: how many backendRefs share the cluster.
        host: whom requests of Envoy's own ask for, such as those of a health check: a hostname of the route,
            or a name of the backend. It is read only when a hook asks.
    """

    message: Cluster
    http: HttpProtocolOptions
    backends: int = 1
    host: Callable[[], str] = str


class ChainEdit(Struct):
    """What a ``filter_chain`` hook works on: how the connections of one filter chain are taken.

    Args:
        message: changed in place. The translation adds the connection manager after the network filters that
            hooks append.
        tls: the TLS context of the chain; ``None`` on a plaintext listener.
        stat_prefix: that of the connection manager, for filters that count under the same name.
        inspector: what the TLS inspector must find out for this chain; ``None`` when the chain needs none.
            All chains of a port share one inspector, which finds out what any of them needs.
    """

    message: FilterChain
    tls: DownstreamTlsContext | None
    stat_prefix: str
    inspector: TlsInspector | None = None


class HttpFilter(Struct, Generic[M], frozen=True, kw_only=True):
    """An HTTP filter of the chains of listeners.

    As in the reference, a filter is in the chain of a listener on which a route uses it. With stable chains
    (runtime flag ``StableFilterChains``) a filter that has ``stable`` stands in every chain from the start,
    disabled, and routes carry the rest of its configuration: neither the first policy nor a changed one
    touches a listener.

    Args:
        name: Envoy's filter type, ``envoy.filters.http.cors``.
        per_policy: one instance per policy, named ``<type>/<policy kind>/<namespace>/<name>``.
        disabled: off in the chain, so that only routes with a config of their own run it.
        chain: its config in the chain, as the reference has it.
        route: its config on a route (``typed_per_filter_config``).
        stable: the part of its config that no route can carry, of a field's value; of ``None``, which is no
            value, it is that of the instance which stands in every chain. Values with equal parts share an
            instance. ``None`` instead of a function where routes can carry nothing. It holds no secrets.
        chain_says_all: ``chain`` says all that ``route`` says. What is too large to be copied to every route
            then stands in the chain.
    """

    name: str
    per_policy: bool = False
    disabled: bool = False
    chain: Callable[[Db, Effective[M]], Message]
    route: Callable[[Db, Effective[M]], Message]
    stable: Callable[[M | None], Message] | None = None
    chain_says_all: bool = False

    def instance(self, owner: Ref) -> str:
        """The filter's name in the chain, and the key of its config on routes, as the reference has it."""
        return (
            f"{self.name}/{owner.kind.lower()}/{owner.namespace}/{owner.name}"
            if self.per_policy
            else self.name
        )


class Reference(Struct, frozen=True):
    """What a value names: another resource.

    Args:
        path: where, below the field: ``users``.
        target: as written; its namespace is "" when that is not said.
        kinds: the (group, kind) pairs that are accepted there.
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
    def to_backend(cls, path: str, ref: BackendObjectReference) -> Reference:
        """A reference to what answers requests."""
        target = Target(ref.group, ref.kind, ref.namespace or "", ref.name, ref.port or 0)
        kinds = (Service, ServiceImport, Backend)
        return cls(path, target, tuple((kind.GROUP, kind.KIND) for kind in kinds))

    @property
    def accepted(self) -> bool:
        """Whether it names a kind that has a meaning there."""
        return (self.target.group, self.target.kind) in self.kinds

    def target_from(self, owner: Ref) -> Target:
        """What it means in a policy."""
        return self.target._replace(namespace=self.target.namespace or owner.namespace)


class ExtraBackend(NamedTuple):
    """A backend of an ``ExtraCluster``.

    Args:
        target: as ``Reference.target_from`` answers it.
        weight: its share of the requests; none at 0.
        fallback: whether it is for when the others are unhealthy.
    """

    target: Target
    weight: int = 1
    fallback: bool = False


class ExtraCluster(NamedTuple):
    """A cluster that a feature needs besides those that routes lead to, such as that of an identity provider.

    Args:
        name: its name in xDS (``names.policy_cluster``, ``names.host_cluster``). It says all that the cluster
            is made of: two of one name must be equal, whoever needs them.
        backends: where its requests go.
        host: name or IP address to send to instead, for a feature whose value is a URL.
        port: that of the host.
        tls: whether the host is spoken to by TLS; its certificate must then be for ``host``.
        http2: whether its backends speak HTTP/2 whatever else is said of them, as those of gRPC do.
    """

    name: str
    backends: tuple[ExtraBackend, ...] = ()
    host: str = ""
    port: int = 0
    tls: bool = False
    http2: bool = False


class ExtraSecret(NamedTuple):
    """A secret that Envoy fetches (SDS) because a feature's configuration names it.

    Args:
        name: its name in xDS; two of one name must be equal.
        secret: the Secret that holds it.
        key: under which key.
    """

    name: str
    secret: Ref
    key: str


class Native(Struct, Generic[M], frozen=True, kw_only=True):
    """What a rule of a route can say itself instead of a policy.

    Args:
        read: what a rule says, as a value of the field; ``None`` when it says nothing of it.
        merges: what a policy says besides still holds. Otherwise nothing of it is mixed in.
    """

    read: Callable[[RouteRule], M | None]
    merges: bool = False


class Feature(Struct, Generic[M], frozen=True, kw_only=True, eq=False):
    """One field of a policy kind, and all that it means.

    Args:
        kind: the policy kind, ``SecurityPolicy``.
        field: the Python name of the field in its spec, ``basic_auth``.
        model: the Struct of the field.
        references: the resources that a value names. ``check`` is called only when each may be named and is
            there.
        check: faults that the types cannot say, paths relative to the field.
        native: the rule's own field or filter that wins over the policy's.
        clusters: the clusters that a value needs besides those of routes.
        secrets: the secrets that Envoy must be able to fetch for a value.
        one_cluster: whether a value has its meaning only where all backends of a rule share one cluster.
        listener_facts: what ``route`` hooks of other features have to know of a value of a listener's policy.
        http_filter: an HTTP filter, with its per-route config.
        route: settings on an Envoy route.
        cluster: settings on a cluster.
        endpoint: settings on each endpoint of a cluster, whose address is set.
        listener: settings on an Envoy listener, which all filter chains of a port share. The policy of its
            first chain decides, so the order of the others does not matter.
        filter_chain: settings on a filter chain or its TLS context.
        connection_manager: settings on an HTTP connection manager.
    """

    kind: str
    field: str
    model: type[M]
    references: Callable[[M], Iterable[Reference]] | None = None
    check: Callable[[Db, Effective[M]], Iterable[Problem]] | None = None
    native: Native[M] | None = None
    clusters: Callable[[Db, Effective[M]], Iterable[ExtraCluster]] | None = None
    secrets: Callable[[Db, Effective[M]], Iterable[ExtraSecret]] | None = None
    one_cluster: Callable[[M], bool] | None = None
    listener_facts: Callable[[ListenerFacts, M], ListenerFacts] | None = None
    http_filter: HttpFilter[M] | None = None
    route: Callable[[RouteEdit, Effective[M]], None] | None = None
    cluster: Callable[[ClusterEdit, Effective[M]], None] | None = None
    endpoint: Callable[[Endpoint, Effective[M]], None] | None = None
    listener: Callable[[Listener, Effective[M]], None] | None = None
    filter_chain: Callable[[ChainEdit, Effective[M]], None] | None = None
    connection_manager: Callable[[HttpConnectionManager, Effective[M]], None] | None = None

    @property
    def shapes_rules(self) -> bool:
        """Whether Envoy's routes, or the filters that they use, are made of it."""
        return self.http_filter is not None or self.route is not None

    @property
    def shapes_clusters(self) -> bool:
        """Whether a cluster, or its endpoints, are made of it."""
        return self.cluster is not None or self.endpoint is not None

    def of(self, spec: Any) -> M | None:
        """The field in a policy's spec."""
        return getattr(spec, self.field)


def duration(text: DurationStr) -> Duration:
    """A Gateway API duration as protobuf's."""
    seconds, rest = divmod(milliseconds(text), 1000)
    return Duration(seconds=seconds, nanos=rest * 1_000_000)
