"""Where a rule sends its requests: clusters with weights, or the error that it answers instead.

Theory of operation
===================
``rule_destination`` resolves the backendRefs of one rule on one listener. It returns the keys of the clusters
that the rule needs; ``clusters`` builds them. It reads no endpoints, so a changed endpoint does not rebuild
routes.

Routes of connections have one cluster each (``connection_destination``), whatever their backends are.

Three kinds of cluster
======================
* one per backend, shared by all rules that send to it (``mergeBackends``): named after the backend, so its
  meaning never changes while Envoy routes by it
* one per rule, its backends as localities: the reference's default, named by the rule's index, and with
  ``mergeBackends`` by what the rule is
* one per backendRef of a rule: where backends of one rule cannot share a cluster, or some share one with
  other rules

Source: the reference's rules for what a broken or empty backend answers (500 and 503).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from moongate import names
from moongate.api.backend import Backend as BackendResource
from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.route import ConnectionRoute, RequestRule, Route
from moongate.api.tlsroute import TLSRoute
from moongate.attach.backend_tls import INVALID_BACKEND_TLS, own_tls
from moongate.attach.backends import (
    Backend,
    Target,
    named,
    permitted,
    reached,
    reached_from,
    target,
    why_empty,
)
from moongate.attach.connections import own_hosts
from moongate.attach.envoy_listeners import is_served
from moongate.attach.extension_filters import extension
from moongate.attach.fleets import fleet_of, members, seniority
from moongate.attach.gateways import OWN_CERTIFICATE, fleet_proxy, proxy
from moongate.attach.listener_sets import known_gateway_of
from moongate.attach.listeners import fleet_owners, passes_through
from moongate.attach.matches import unbuildable
from moongate.attach.patch_policies import named_rules
from moongate.attach.policies import (
    Applied,
    applied,
    applied_to_gateway,
    applied_to_listener,
    labels,
    merges,
    policy_attachments,
)
from moongate.attach.route_kinds import route_kind, written_matches
from moongate.attach.routes import (
    DEFAULTS,
    attachments_at,
    default_parents,
    named_parents,
    route_shards,
    routes_under,
)
from moongate.attach.rule_filters import (
    Mirror,
    backend_filter_fault,
    backend_filter_problem,
    backend_filters,
    extension_refs,
    rule_filters,
)
from moongate.engine import Failed, query
from moongate.features.base import Effective, ExtraCluster
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.effective import (
    extended,
    extra_resources,
    natives,
    routing_type,
    rule_policies,
    shapes_clusters,
    wants_one_cluster,
    zones,
)
from moongate.problem import Problem
from moongate.store import SHARDS, get
from moongate.xds.cluster_keys import (
    AuthoritiesSecret,
    BackendCluster,
    CertificateSecret,
    ClusterKey,
    MirrorCluster,
    PolicyCluster,
    PolicySecret,
    ResourceKey,
    RuleCluster,
    SecretServerCluster,
    StableRule,
)
from moongate.xds.filters import stable_chains
from moongate.xds.route_entries import kept_resources
from moongate.xds.wire import version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.api.envoyproxy import MergeBackends
    from moongate.api.route import RouteBackendRef, RouteRule
    from moongate.api.shared import LocalObjectReference
    from moongate.attach.backend_tls import UpstreamTLS
    from moongate.attach.backends import Transport
    from moongate.attach.rule_filters import RuleFilters
    from moongate.engine import Db
    from moongate.policies.effective import Settings

BTP: Final = BackendTrafficPolicy.KIND
CTP: Final = ClientTrafficPolicy.KIND

_NOT_COPIED: Final = "Requests are served, but not copied."


class WeightedCluster(Struct, frozen=True):
    """One cluster of a rule.

    Args:
        key: the cluster.
        weight: its share of the rule's requests.
        backend: index of the backendRef, for the filters of its own; -1 when the cluster serves several.
        routable: whether it may get requests; a broken or empty backend has a cluster but gets none.
    """

    key: ClusterKey
    weight: int
    backend: int
    routable: bool = True


class Destination(Struct, frozen=True):
    """The destination of a rule's requests: clusters, or an error status.

    Args:
        status: 0 to forward requests, else the status of the answer.
        weighted_clusters: the clusters to forward to.
        weighted: whether the clusters are named with weights even if there is only one.
        unavailable: the weight of backends that are broken or empty.
        unavailable_status: what their share of the requests is answered with.
        mirrors: clusters of the rule's mirrors, by position of the filter.
        dynamic: whether requests go to the hosts that they name.
        secrets: what these clusters need for TLS to their backends.
        unresolved: faults of references: condition ``ResolvedRefs``.
        without_endpoints: backends that have none: condition ``BackendsAvailable``.
    """

    status: int
    weighted_clusters: tuple[WeightedCluster, ...] = ()
    weighted: bool = False
    unavailable: int = 0
    unavailable_status: int = 500
    mirrors: tuple[tuple[int, MirrorCluster], ...] = ()
    dynamic: bool = False
    secrets: tuple[ResourceKey, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    without_endpoints: tuple[Problem, ...] = ()

    def clusters(self) -> tuple[ClusterKey, ...]:
        return tuple(
            dict.fromkeys([*(s.key for s in self.weighted_clusters), *(key for _, key in self.mirrors)])
        )

    def needs(self) -> tuple[ResourceKey, ...]:
        """Its clusters, and what these need."""
        return (*self.clusters(), *dict.fromkeys(self.secrets))


class _RuleBackend(NamedTuple):
    """One resolved backendRef of a rule, with its index."""

    place: int
    ref: RouteBackendRef
    target: Target
    backend: Backend

    @property
    def usable(self) -> bool:
        return self.backend.problem is None and not self.backend.empty


@query
def rule_destination(db: Db, listener: ListenerId, route: Ref, index: int) -> Destination:
    """The destination of the requests of one rule on one listener."""
    resource = get(db, Route, route)
    if resource is None or index >= len(resource.spec.rules):
        return Destination(500)
    rule, at_rule = resource.spec.rules[index], f"spec.rules[{index}]"
    if unbuildable(written_matches(route.kind, rule)) is not None:
        return Destination(500)
    fleet = fleet_of(db, listener.gateway)
    policy = applied(db, BTP, listener, route, rule.name or "")
    to_service = _goes_to_service(db, listener, route, policy)
    filters = rule_filters(db, resource, index)
    copied, faults, without_endpoints = _mirrors(
        db, listener.gateway, resource, index, filters.mirrors, to_service
    )
    backends: list[_RuleBackend] = []
    for n, ref in enumerate(rule.backend_refs):
        at = target(ref, route.namespace)
        backends.append(_RuleBackend(n, ref, at, _judge(db, listener.gateway, route, ref, at, to_service)))
    weighted = [each for each in backends if each.ref.weight]
    broken = sum(each.ref.weight for each in weighted if each.backend.problem is not None)
    unusable = sum(each.ref.weight for each in weighted if not each.usable)
    merging = merged_backends(db, listener.gateway)
    if merging is not None and index in named_rules(db, fleet, route):
        merging = None
    if merging is not None and _must_stay_apart(db, listener, route, rule, policy, to_service):
        merging = None
    refused = _refused_resolver(db, resource, index, backends, filters)
    if refused is not None:
        weighted = []
    extensions = _extensions(db, resource, index)
    # By zones each backend has a cluster of its own: its localities are the zones. A backend that stands in
    # for the others must share one with them, which matters more.
    zonal = not any(each.backend.fallback for each in weighted) and (
        (policy is not None and zones(db, (policy,)) is not None)
        or (len(weighted) > 1 and any(each.backend.local is not None for each in weighted))
    )
    clusters, by_weight = _weighted_clusters(
        db, fleet, resource, index, weighted, None if extensions else merging, extensions, zonal=zonal
    )
    broken_status = route_kind(route.kind).broken_status
    if filters.failed:
        status = 500
    elif any(each.usable for each in weighted):
        status = 0
    else:
        status = 503 if unusable and not broken and refused is None else broken_status
    forwards, share_status = status == 0 and filters.forwards, 503 if unusable > broken else broken_status
    closed = (fault.saying("Requests are answered with 500.") for fault in filters.unresolved)
    unresolved = [*(fault.under(at_rule) for fault in closed), *faults]
    if refused is not None:
        unresolved.append(refused.saying(f"Requests are answered with {status}.").under(at_rule))
    for each in backends:
        path = f"{at_rule}.backendRefs[{each.place}]"
        if each.usable:
            continue
        effect = _effect(each.ref.weight, weighted, status, share_status) if filters.forwards else ""
        if (problem := each.backend.problem) is not None:
            unresolved.append(problem.saying(effect).under(path))
        else:
            without_endpoints.append(_without_endpoints(db, path, each.target).saying(effect))
    without_endpoints += (fault.under(at_rule) for fault in filters.without_endpoints)
    return Destination(
        status,
        clusters if forwards else (),
        weighted=by_weight,
        unavailable=unusable,
        unavailable_status=share_status,
        mirrors=tuple((n, key) for n, key, _ in copied) if forwards else (),
        dynamic=forwards and any(each.backend.dynamic for each in weighted),
        secrets=tuple(
            secret
            for judged in (*(each.backend for each in weighted), *(to for _, _, to in copied))
            for secret in secrets_for(fleet, judged)
        )
        if forwards
        else (),
        unresolved=tuple(unresolved),
        without_endpoints=tuple(without_endpoints),
    )


def _refused_resolver(
    db: Db, route: Route, index: int, backends: list[_RuleBackend], filters: RuleFilters
) -> Problem | None:
    """Why a rule cannot send requests to the hosts that they name; ``None`` if it can, or has other backends.

    The cluster of such a backend is no place for others: what one request gets there is for all.
    """
    dynamic = next((each for each in backends if each.backend.dynamic), None)
    if dynamic is None:
        return None
    path, what = f"backendRefs[{dynamic.place}]", f"{dynamic.target.ref} is of type DynamicResolver"
    if len(backends) > 1:
        message = f"{what}, which can only be the one backend of a rule"
        return Problem(path, message, "InvalidBackendRef")
    host = filters.rewrite.host if filters.rewrite is not None else None
    if host is not None and host.type == "PathRegex":
        message = f"{what}, and its host cannot be made from the path (urlRewrite.hostname of type PathRegex)"
        return Problem(path, message, "UnsupportedValue")
    if _has_credential(db, route, index) and not _names_its_hosts(route, filters):
        message = (
            f"{what}, and the rule gives it a credential, which any host would get that a client names; set "
            "urlRewrite.hostname, or hostnames of the route without wildcards and no hostname of type Header"
        )
        return Problem(path, message, "UnsupportedValue")
    return None


def _has_credential(db: Db, route: Route, index: int) -> bool:
    """Whether an HTTPRouteFilter of a rule, or of one of its backendRefs, gives backends a credential."""
    rule = route.spec.rules[index]
    of_backends = [ref for each in rule.backend_refs for ref in extension_refs(backend_filters(each))]
    of_rule = extension_refs(rule.filters) if isinstance(rule, RequestRule) else ()
    refs = (*of_rule, *of_backends)
    return any(extension(db, ref, route.ref.namespace).credential is not None for ref in refs)


def _names_its_hosts(route: Route, filters: RuleFilters) -> bool:
    """Whether the author of a route says which hosts a dynamic resolver may send requests to."""
    rewrite = filters.rewrite
    if rewrite is not None and rewrite.hostname is not None:
        return True
    if rewrite is not None and rewrite.host is not None:
        return False
    return bool(route.hostnames) and not any(host.startswith("*") for host in route.hostnames)


def secrets_for(fleet: FleetId, to: Backend) -> Iterator[ResourceKey]:
    """What TLS to a backend needs."""
    if to.tls is None:
        return
    bundle, certificate = to.tls.validation.authorities, to.tls.certificate
    for server in (bundle.server if bundle is not None else None, to.tls.server):
        if server is not None:
            yield SecretServerCluster(names.secret_server(server.socket), fleet, server.socket)
    if bundle is not None and bundle.server is None:
        yield AuthoritiesSecret(bundle.secret, fleet, bundle.owner)
    if certificate is not None and to.tls.server is None:
        yield CertificateSecret(fleet, certificate)


def _without_endpoints(db: Db, path: str, at: Target) -> Problem:
    return Problem(path, f"{at.ref} has no endpoints{why_empty(db, at)}.", "EndpointsNotFound")


def _effect(weight: int, weighted: list[_RuleBackend], status: int, share_status: int) -> str:
    """What happens to requests because a backend of a rule is broken or empty.

    Args:
        weight: that of the backend.
        weighted: all backends of the rule that have a weight.
        status: of the rule's destination.
        share_status: what the share of its broken and empty backends is answered with.
    """
    if not weight:
        return "Its weight is 0, so no request goes there."
    if status:
        return f"Requests are answered with {status}."
    total = sum(each.ref.weight for each in weighted)
    return f"Its share of the requests, {weight} of {total}, is answered with {share_status}."


def _weighted_clusters(
    db: Db,
    fleet: FleetId,
    route: Route,
    index: int,
    backends: list[_RuleBackend],
    merging: MergeBackends | None,
    extensions: tuple[LocalObjectReference, ...],
    *,
    zonal: bool,
) -> tuple[tuple[WeightedCluster, ...], bool]:
    """The clusters of a rule's backends, and whether Envoy is to choose among them by weight.

    Args:
        db: where to read.
        fleet: whose clusters they are.
        route: the route.
        index: which of its rules.
        backends: those that have a weight.
        merging: which of them may use shared clusters; ``None`` for none.
        extensions: HTTPRouteFilters of the rule that all of its clusters have a part of.
        zonal: whether requests go by zones.
    """
    own: list[_RuleBackend] = []
    shared: list[WeightedCluster] = []
    for each in backends:
        at, protocol = each.target, each.backend.protocol
        if (
            not each.usable
            or merging is None
            or each.backend.dynamic
            or backend_filters(each.ref)
            or not (merging.selector is None or merging.selector.selects(dict(labels(db, at.ref) or ())))
        ):
            own.append(each)
            continue
        key = BackendCluster(names.merged_backend(at.ref, at.port, protocol), fleet, at, protocol)
        shared.append(WeightedCluster(key, each.ref.weight, each.place))
    one_by_one = (
        any(not each.usable or backend_filters(each.ref) for each in own)
        or _mixed([each.backend for each in own])
        or bool(own and (shared or zonal))
    )
    if one_by_one:
        clusters = [
            WeightedCluster(
                _own(db, fleet, route, index, extensions, each.place),
                each.ref.weight,
                each.place,
                routable=each.usable,
            )
            for each in own
        ]
    elif own:
        clusters = [
            WeightedCluster(_own(db, fleet, route, index, extensions), sum(b.ref.weight for b in own), -1)
        ]
    else:
        clusters = []
    clusters += shared
    return tuple(clusters), one_by_one or len(clusters) > 1


def _extensions(db: Db, route: Route, index: int) -> tuple[LocalObjectReference, ...]:
    """The HTTPRouteFilters of a rule that its clusters have a part of."""
    rule = route.spec.rules[index]
    refs = extension_refs(rule.filters) if isinstance(rule, RequestRule) else ()
    if not refs or not stable_chains(db):
        return ()
    parts = ((ref, extended(db, (ref,), route.ref.namespace)) for ref in refs)
    return tuple(ref for ref, of in parts if any(f.http_filter and f.http_filter.of_clusters for f, _ in of))


def _own(
    db: Db,
    fleet: FleetId,
    route: Route,
    index: int,
    extensions: tuple[LocalObjectReference, ...],
    n: int = -1,
) -> RuleCluster:
    """A rule's own cluster for backendRef ``n``, or for all its backends if ``n`` is -1.

    What a filter adds, such as a credential, is for these requests and these backends, so the name says which
    they are: under an index, a rule that moves or gets other backends would have the filter of one state with
    the endpoints of the other for a moment. If a patch names the cluster, it has that name all the same.
    """
    ref = route.spec.rules[index].backend_refs[n] if n >= 0 else None
    extensions += extension_refs(backend_filters(ref)) if ref is not None else ()
    by_index = not (merges_backends(db, fleet) or extensions)
    if by_index or index in named_rules(db, fleet, route.ref):
        return RuleCluster(_named(names.rule(route.ref, index), n), fleet, route.ref, index, n, extensions)
    rule = stable_rule(route, index)
    if n >= 0:
        rule = StableRule(rule.name, tuple(member for member in rule.members if member[0] == n))
    name = names.stable_rule(route.ref, _identity(*rule, *extensions))
    return RuleCluster(_named(name, n), fleet, route.ref, rule, n, extensions)


def stable_rule(route: Route, index: int) -> StableRule:
    """The identity of a rule: its name, its backends with a weight, and its index among equal rules."""
    rule = _unnumbered(route, index)
    return rule._replace(nth=sum(_unnumbered(route, earlier) == rule for earlier in range(index)))


def index_of(route: Route, rule: StableRule) -> int | None:
    """The index of a rule in its route; ``None`` if the rule is gone."""
    alike = [n for n in range(len(route.spec.rules)) if _unnumbered(route, n) == rule._replace(nth=0)]
    return alike[rule.nth] if rule.nth < len(alike) else None


def _unnumbered(route: Route, index: int) -> StableRule:
    rule = route.spec.rules[index]
    refs = enumerate(rule.backend_refs)
    members = tuple((n, target(ref, route.metadata.namespace)) for n, ref in refs if ref.weight)
    return StableRule(rule.name or "", members)


def _named(rule: str, n: int) -> str:
    return names.backend(rule, n) if n >= 0 else rule


def _identity(*of: Any) -> str:
    return version(repr(of).encode())[:8]


class ConnectionDestination(Struct, frozen=True):
    """Where the connections of a route go: to the backends that share its cluster.

    Args:
        members: the backends that can be used, each with its index among all of the route, and its weight;
            also those that have no endpoints at present.
        dynamic: whether the only one stands for the hosts that clients ask for in the TLS handshake.
        secrets: what TLS to these needs.
        unresolved: why the others cannot: condition ``ResolvedRefs``.
    """

    members: tuple[tuple[int, Target, int], ...] = ()
    dynamic: bool = False
    secrets: tuple[ResourceKey, ...] = ()
    unresolved: tuple[Problem, ...] = ()


@query
def connection_destination(db: Db, listener: ListenerId, route: Ref) -> ConnectionDestination:
    """The backends of all rules of a route of connections, as a listener serves it."""
    resource = get(db, ConnectionRoute, route)
    if resource is None:
        return ConnectionDestination()
    transport: Transport = "UDP" if route_kind(route.kind).upstream == "UDP" else "TCP"
    to_service = rule_to_service(db, listener, route, connection_section(resource))
    fleet, speaks_tls = fleet_of(db, listener.gateway), not passes_through(db, listener)
    members: list[tuple[tuple[int, Target, int], Backend]] = []
    faults: list[tuple[str, int, Problem]] = []
    of_names: bool | None = None
    dynamic = False
    refs = [
        (f"spec.rules[{index}].backendRefs[{n}]", ref)
        for index, rule in enumerate(resource.spec.rules)
        for n, ref in enumerate(rule.backend_refs)
    ]
    for place, (path, ref) in enumerate(refs):
        at = target(ref, route.namespace, transport)
        judged = _permitted(db, listener.gateway, route, at, to_service)
        if judged.dynamic:
            dynamic = True
            problem = _unresolvable(db, listener, route, at, alone=len(refs) == 1)
        else:
            problem = judged.problem or _unfit(at, judged, of_names=of_names)
            if problem is None and judged.tls is not None:
                if speaks_tls:
                    problem = _unspoken(db, at, judged.tls)
                elif (source := connection_source(db, fleet, route)) and not source.passes_through:
                    problem = _ENDED_ELSEWHERE
        if problem is None and ref.weight:
            members.append(((place, at, ref.weight), judged))
            of_names = of_names if judged.empty else judged.dns
        if problem is None and judged.empty:
            problem = _without_endpoints(db, "", at)
        if problem is not None:
            faults.append((path, ref.weight, problem))
    # One without endpoints has its place all the same, or the way to speak TLS would be another one whenever
    # endpoints come or go.
    secrets = (key for _, judged in members for key in secrets_for(fleet, judged)) if speaks_tls else ()
    rest = _NOTHING_LEFT[transport] if all(judged.empty for _, judged in members) else _REST[transport]
    return ConnectionDestination(
        tuple(member for member, _ in members),
        dynamic and bool(members) and len(refs) == 1,
        tuple(dict.fromkeys(secrets)),
        tuple(
            problem.saying(rest if weight else "Its weight is 0, so it would get nothing.").under(path)
            for path, weight, problem in faults
        ),
    )


_ENDED_ELSEWHERE: Final = Problem(
    "",
    "the backend wants TLS (BackendTLSPolicy, or its tls), which the route's other listeners speak to it; on "
    "this one clients speak it, so that needs a route of its own",
    INVALID_BACKEND_TLS,
)
"""Why a route cannot pass TLS on to a backend to which it speaks TLS for other listeners: both have one
cluster."""
_REST: Final = {
    "TCP": "All connections go to the other backends.",
    "UDP": "All datagrams go to the other backends.",
}
_NOTHING_LEFT: Final = {
    "TCP": "No other backend is left, so connections are closed.",
    "UDP": "No other backend is left, so datagrams are dropped.",
}


def _unspoken(db: Db, at: Target, tls: UpstreamTLS) -> Problem | None:
    """Why Envoy cannot speak TLS to a backend for connections that it passes there."""
    if at.transport == "UDP":
        message = (
            f"{at.ref} wants TLS (BackendTLSPolicy, or its tls), which datagrams do not have; name the ports "
            "that have it by sectionName in the policy"
        )
        return Problem("", message, INVALID_BACKEND_TLS)
    checks = tls.validation
    own = own_tls(db, at.ref) if at.kind == BackendResource.KIND else None
    is_public = own is not None and own.well_known_ca_certificates and not own.insecure_skip_verify
    if is_public and not (checks.sni or checks.sni_of_endpoint or checks.names):
        # A request has a host, that its certificate must name. A connection has none.
        message = (
            f"{at.ref} takes any certificate of the system's CAs, and anybody can have one; set spec.tls.sni"
        )
        return Problem("", message, INVALID_BACKEND_TLS)
    return None


def _unfit(at: Target, judged: Backend, *, of_names: bool | None) -> Problem | None:
    """Why a sound backend cannot be in the cluster of a route of connections.

    Args:
        at: the backend.
        judged: its properties.
        of_names: whether the backends before it have hostnames; ``None`` if there is none.
    """
    if not judged.empty and of_names is not None and judged.dns is not of_names:
        has, others = ("hostnames", "addresses") if judged.dns else ("addresses", "hostnames")
        message = (
            f"{at.ref} has {has}, and the backends before it have {others}; all backends of the route share "
            "one cluster of Envoy, which cannot have both"
        )
        return Problem("", message, "UnsupportedAddressType")
    return None


def _unresolvable(db: Db, listener: ListenerId, route: Ref, at: Target, *, alone: bool) -> Problem | None:
    """Why connections cannot go to the hosts that clients ask for, or ``None``."""
    what = f"{at.ref} is of type DynamicResolver"
    if route.kind != TLSRoute.KIND or not passes_through(db, listener):
        message = f"{what}; only a TLSRoute on a listener that passes TLS on knows which host is asked for"
        return Problem("", message, "UnsupportedValue")
    if not alone:
        return Problem("", f"{what}, which can only be the one backend of a route", "InvalidBackendRef")
    return None


@query
def goes_to_server_names(db: Db, listener: ListenerId, route: Ref) -> bool:
    """Whether connections of a route go to the hosts that clients ask for."""
    return connection_destination(db, listener, route).dynamic


def connection_section(route: Route) -> str:
    """The name of the rule of a route of connections; "" where it has several, which share a cluster."""
    (first, *others) = route.spec.rules or (None,)
    return (first.name or "") if first is not None and not others else ""


def connection_cluster(db: Db, fleet: FleetId, listener: ListenerId, route: Ref) -> RuleCluster:
    """The cluster that the backends of a route of connections share.

    Its name says nothing of the backends. They may change, and the filter chain of the route stays: Envoy
    would close the connections of a chain that changes. But the cluster of hosts that clients ask for is
    another one: only chains with a guard lead there.
    """
    rules = names.OF_SERVER_NAMES if goes_to_server_names(db, listener, route) else names.ALL_RULES
    return RuleCluster(names.connection_cluster(route, rules), fleet, route, rules)


@query
def route_resources(db: Db, fleet: FleetId, route: Ref) -> tuple[ResourceKey, ...]:
    """The clusters and secrets that a route needs in a fleet, for all listeners and rules.

    They include the clusters and secrets of the last good versions that replace refused entries.
    """
    resource = get(db, Route, route)
    if resource is None:
        return ()
    keys: dict[ResourceKey, None] = {}
    if isinstance(resource, ConnectionRoute):
        serving = [at for at in _served_on(db, fleet, resource) if own_hosts(db, at, route)]
        source = connection_source(db, fleet, route)
        if not serving or source is None:
            return ()
        keys.update(dict.fromkeys(connection_cluster(db, fleet, at, route) for at in serving))
        keys.update(dict.fromkeys(connection_destination(db, source.listener, route).secrets))
        return tuple(keys)
    for listener in _served_on(db, fleet, resource):
        for index, rule in enumerate(resource.spec.rules):
            keys.update(dict.fromkeys(rule_destination(db, listener, route, index).needs()))
            keys.update(dict.fromkeys(of_policies(db, listener, route, rule.name or "")))
            keys.update(dict.fromkeys(of_filters(db, listener, resource, index)))
        keys.update(dict.fromkeys(kept_resources(db, listener, route)))
    return tuple(keys)


def of_filters(db: Db, listener: ListenerId, route: Route, index: int) -> tuple[ResourceKey, ...]:
    """What the filters of a rule need that are features; nothing where the rule is closed because of one."""
    rule = route.spec.rules[index]
    own: Settings = tuple((f, Effective(value, route.ref)) for f, value in natives(rule))
    if isinstance(rule, RequestRule):
        filters = (*rule.filters, *(each for ref in rule.backend_refs for each in ref.filters))
        own += extended(db, extension_refs(filters), route.ref.namespace)
    if not any(f.clusters or f.secrets for f, _ in own) or rule_filters(db, route, index).failed:
        return ()
    fleet = fleet_of(db, listener.gateway)
    keys: list[ResourceKey] = []
    for feature, effective in own:
        if feature.clusters is not None:
            keys += (key for each in feature.clusters(db, effective) for key in _extra(db, fleet, each))
        if feature.secrets is not None:
            keys += (PolicySecret(each.name, fleet, each) for each in feature.secrets(db, effective))
    return tuple(dict.fromkeys(keys))


def of_policies(db: Db, listener: ListenerId, route: Ref, rule: str) -> tuple[ResourceKey, ...]:
    """What the policies of a rule need besides its destination."""
    fleet = fleet_of(db, listener.gateway)
    keys: list[ResourceKey] = []
    for each in extra_resources(db, rule_policies(db, listener, route, rule)):
        if isinstance(each, ExtraCluster):
            keys += _extra(db, fleet, each)
        else:
            keys.append(PolicySecret(each.name, fleet, each))
    return tuple(keys)


def _extra(db: Db, fleet: FleetId, each: ExtraCluster) -> Iterator[ResourceKey]:
    """A cluster that a feature needs, and what TLS to its backends needs."""
    yield PolicyCluster(each.name, fleet, each)
    if each.own_service and each.host:
        yield CertificateSecret(fleet, OWN_CERTIFICATE)
    gateway = first_gateway(db, fleet)
    for of in each.backends:
        yield from secrets_for(fleet, reached_from(db, gateway, of.target, False))


def first_gateway(db: Db, fleet: FleetId) -> Ref:
    """The Gateway whose certificate the clusters of policies show, which all Gateways of a fleet share."""
    return fleet.owner if fleet.owner.is_a(Gateway) else next(iter(members(db, fleet)), fleet.owner)


@query
def served_on(db: Db, fleet: FleetId, route: Ref) -> tuple[ListenerId, ...]:
    """The listeners of a fleet that Envoy serves and that take a route.

    They stand in the order of the fleet's Gateways and their sets, and for each in that of the route's
    parentRefs.
    """
    resource = get(db, Route, route)
    return _served_on(db, fleet, resource) if resource is not None else ()


class ConnectionSource(NamedTuple):
    """The listener for which the cluster of a route of connections is built.

    Args:
        listener: of several, the first at which Envoy ends connections, else the first.
        passes_through: whether clients speak TLS to the backends, at all listeners of the route.
    """

    listener: ListenerId
    passes_through: bool


@query
def connection_source(db: Db, fleet: FleetId, route: Ref) -> ConnectionSource | None:
    """Where the connections of a cluster come from; ``None`` if no listener takes the route.

    To a backend that wants TLS nothing is sent in the clear: if Envoy ends connections at some listener, it
    speaks TLS to the backends itself.
    """
    serving = served_on(db, fleet, route)
    ending = next((at for at in serving if not passes_through(db, at)), None)
    if ending is not None:
        return ConnectionSource(ending, passes_through=False)
    return ConnectionSource(serving[0], passes_through=True) if serving else None


def _served_on(db: Db, fleet: FleetId, route: Route) -> tuple[ListenerId, ...]:
    # A fleet may have thousands of Gateways and ListenerSets, and a route names few of them.
    named = (parent for parent in named_parents(route) if parent is not None and parent != DEFAULTS)
    parents = [*named, *default_parents(db, route)]
    judged = (attachments_at.last_good(db, route.ref, owner) for owner in _in_order(db, fleet, parents))
    attachments = (each for of in judged if not isinstance(of, Failed) for each in of)
    taken = (at for attachment in attachments for at, _ in attachment.hosts)
    return tuple(dict.fromkeys(at for at in taken if is_served(db, fleet, at)))


def _in_order(db: Db, fleet: FleetId, parents: list[Ref]) -> list[Ref]:
    """Those of some owners of listeners that are of a fleet: Gateways by age, each with its sets by age."""
    gateways = members(db, fleet)
    places: list[tuple[int, bool, Any, Ref]] = []
    for owner in dict.fromkeys(parents):
        gateway = known_gateway_of(db, owner)
        if gateway in gateways:
            of_set = owner != gateway
            places.append((gateways.index(gateway), of_set, seniority(db, owner) if of_set else (), owner))
    return [owner for *_, owner in sorted(places)]


@query
def route_shards_of(db: Db, fleet: FleetId) -> tuple[int, ...]:
    """The shards in which a fleet's Gateways and ListenerSets have routes, sorted."""
    owners = fleet_owners(db, fleet)
    if len(owners) == 1:
        return route_shards(db, *owners)
    return tuple(sorted(_owners_by_shard(db, fleet)))


@query
def _owners_by_shard(db: Db, fleet: FleetId) -> Mapping[int, tuple[Ref, ...]]:
    """The Gateways and ListenerSets of a fleet that may have routes in a shard, by shard."""
    owners = fleet_owners(db, fleet)
    by_shard: dict[int, list[Ref]] = {}
    shards = route_shards.attempt_each(db, [(owner,) for owner in owners])
    for owner, known in zip(owners, shards, strict=True):
        for part in range(SHARDS) if isinstance(known, Failed) else known:
            by_shard.setdefault(part, []).append(owner)
    return {part: tuple(named) for part, named in by_shard.items()}


@query
def _owners_in(db: Db, fleet: FleetId, part: int) -> tuple[Ref, ...]:
    return _owners_by_shard(db, fleet).get(part, ())


@query
def resource_keys(
    db: Db, fleet: FleetId, part: int
) -> tuple[tuple[Ref, tuple[ResourceKey, ...] | None], ...]:
    """The clusters, and the secrets of policies, that each route of one shard needs in a fleet.

    The value is ``None`` for a route whose query failed: the fleet then keeps the route's clusters and
    secrets. Requests to a cluster that does not exist fail.
    """
    owners = fleet_owners(db, fleet)
    if len(owners) > 1:
        # Few of many have a route in this shard.
        owners = _owners_in(db, fleet, part)
    routes = sorted({route for owner in owners for route in routes_under(db, owner, part)})
    needed = route_resources.attempt_each(db, [(fleet, route) for route in routes])
    return tuple(
        (route, None if isinstance(keys, Failed) else keys)
        for route, keys in zip(routes, needed, strict=True)
    )


# What thousands of rules read of an EnvoyProxy: its other settings may change without them.


@query
def merged_backends(db: Db, gateway: Ref) -> MergeBackends | None:
    """Which backends of a Gateway have clusters that rules share; ``None`` for none."""
    return proxy(db, gateway).spec.merge_backends


@query
def merges_backends(db: Db, fleet: FleetId) -> bool:
    """Whether backends of a fleet may have clusters that rules share."""
    return fleet_proxy(db, fleet).spec.merge_backends is not None


@query
def _routing_type(db: Db, gateway: Ref) -> str | None:
    return proxy(db, gateway).spec.routing_type


@query
def to_service(db: Db, gateway: Ref) -> bool:
    """Whether a Gateway's requests go to cluster IPs where no policy below it says otherwise."""
    policy = applied_to_gateway(db, BTP, gateway)
    routing = routing_type(db, policy) if policy is not None else None
    return (routing or proxy(db, gateway).spec.routing_type) == "Service"


def rule_to_service(db: Db, listener: ListenerId, route: Ref, rule_name: str) -> bool:
    """Whether the requests of a rule go to cluster IPs instead of endpoints."""
    return _goes_to_service(db, listener, route, applied(db, BTP, listener, route, rule_name))


def _goes_to_service(db: Db, listener: ListenerId, route: Ref, policy: Applied | None) -> bool:
    if policy is not None:
        routing = routing_type(db, policy)
        if routing is not None:
            return routing == "Service"
        if _is_of_route(db, policy.owner, route):
            # A route's policy that does not merge replaces its parents, even in what it leaves unset.
            return _routing_type(db, listener.gateway) == "Service"
    return to_service(db, listener.gateway)


def _is_of_route(db: Db, policy: Ref, route: Ref) -> bool:
    return any(owner == policy for _, owner in policy_attachments(db, route))


def _must_stay_apart(
    db: Db, listener: ListenerId, route: Ref, rule: RouteRule, policy: Applied | None, routed_to_service: bool
) -> bool:
    """Whether ``policy``, the effective policy of a rule, forbids shared clusters for its backends."""
    gateway = listener.gateway
    if routed_to_service != to_service(db, gateway) or _is_of_its_own(db, listener):
        return True
    of_gateway = applied_to_gateway(db, BTP, gateway)
    if len(rule.backend_refs) > 1:
        if any(
            _judge(db, gateway, route, r, target(r, route.namespace), routed_to_service).fallback
            for r in rule.backend_refs
        ):
            return True
        if any(f.one_cluster is not None and f.one_cluster(value) for f, value in natives(rule)):
            return True
        if of_gateway is not None and wants_one_cluster(db, of_gateway):
            return True
    if policy is None or policy == of_gateway:
        return False
    replaces = _is_of_route(db, policy.owner, route) and not merges(db, policy.owner, of_listeners=False)
    return replaces or _shapes_clusters(db, policy, of_gateway)


def _shapes_clusters(db: Db, policy: Applied, of_gateway: Applied | None) -> bool:
    """Whether a policy, or one that it merges into, says anything of clusters.

    That of its Gateway does not count, as the clusters that are shared have its settings.
    """
    policies = (Applied(each, None) for each in policy if each is not None)
    return any(shapes_clusters(db, each) for each in policies if each != of_gateway)


@query
def _is_of_its_own(db: Db, listener: ListenerId) -> bool:
    """Whether a listener's policy about clients says anything of clusters that is not its Gateway's."""
    policy = applied_to_listener(db, CTP, listener)
    return policy is not None and _shapes_clusters(db, policy, applied_to_gateway(db, CTP, listener.gateway))


def _judge(
    db: Db, gateway: Ref, route: Ref, ref: RouteBackendRef, at: Target, routed_to_service: bool
) -> Backend:
    if (problem := backend_filter_problem(db, route, ref)) is not None:
        return Backend(problem=problem)
    judged = _permitted(db, gateway, route, at, routed_to_service)
    if judged.problem is None and (fault := backend_filter_fault(db, route, ref)) is not None:
        return Backend(problem=fault)
    return judged


def _permitted(db: Db, gateway: Ref, route: Ref, at: Target, routed_to_service: bool) -> Backend:
    """A backend as the Envoys of a Gateway reach it for a route, speaking what the route's kind wants."""
    judged = reached(db, gateway, permitted(db, route, at, routed_to_service))
    return judged if judged.problem is not None else judged.speaking(route_kind(route.kind).upstream)


def _mirrors(
    db: Db, gateway: Ref, of: Route, index: int, mirrors: tuple[Mirror, ...], routed_to_service: bool
) -> tuple[tuple[tuple[int, MirrorCluster, Backend], ...], list[Problem], list[Problem]]:
    route, section, fleet = of.ref, of.spec.rules[index].name or "", fleet_of(db, gateway)
    keys: list[tuple[int, MirrorCluster, Backend]] = []
    faults: list[Problem] = []
    empty: list[Problem] = []
    for mirror in mirrors:
        at = target(mirror.backend, route.namespace)
        path = f"spec.rules[{index}].filters[{mirror.index}].requestMirror.backendRef"
        judged = named(at, _permitted(db, gateway, route, at, routed_to_service))
        if judged.problem is not None:
            faults.append(judged.problem.saying(_NOT_COPIED).under(path))
        elif judged.empty:
            empty.append(_without_endpoints(db, path, at).saying(_NOT_COPIED))
        elif mirror.millionths != 0:
            if not merges_backends(db, fleet):
                name = names.mirror(names.rule(route, index), mirror.index)
                key = MirrorCluster(name, fleet, route, index, at)
            else:
                name = names.mirror(names.stable_rule(route, _identity(section, at)), mirror.index)
                key = MirrorCluster(name, fleet, route, StableRule(section), at)
            keys.append((mirror.index, key, judged))
    return tuple(keys), faults, empty


def _mixed(backends: list[Backend]) -> bool:
    """Whether backends cannot share a cluster.

    They are names and addresses, or HTTP/1.1 is forced for some and others speak HTTP/2, or the server name
    of TLS is that of the endpoint for some of them.
    """
    of_endpoint = [b.tls is not None and b.tls.validation.sni_of_endpoint for b in backends]
    return (
        len({b.dns for b in backends}) > 1
        or (any(b.http1 for b in backends) and any(b.protocol != "HTTP" for b in backends))
        or (any(of_endpoint) and not all(of_endpoint))
    )
