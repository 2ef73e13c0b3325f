"""Where a rule sends its requests: clusters with weights, or the error that it answers instead.

Theory of operation
===================
``rule_destination`` resolves the backendRefs of one rule on one listener. It returns the keys of the clusters
that the rule needs; ``clusters`` builds them. It reads no endpoints, so a changed endpoint does not rebuild
routes.

Three kinds of cluster
======================
* one per backend, shared by all rules that send to it (``mergeBackends``): named after the backend, so its
  meaning never changes while Envoy routes by it
* one per rule, its backends as localities: the reference's default, named by the rule's index, and with
  ``mergeBackends`` by what the rule is
* one per backendRef of a rule: where backends of one rule cannot share a cluster, or some share one with
  other rules

The last two have settings of policies that apply to the rule, and a route may be on several listeners. With
``mergeBackends``, those whose policies agree on clusters share them, and each other listener has clusters of
its own, ``by_listener``. Without it all share those of the first listener, as in the reference.

Source: the reference's rules for what a broken or empty backend answers (500 and 503).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from moongate import names
from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.route import RequestRule, Route
from moongate.attach.backends import Backend, Target, named, permitted, reached, target, why_empty
from moongate.attach.extension_filters import extension
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import fleet_proxy, proxy
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
from moongate.attach.rule_filters import (
    Mirror,
    backend_filter_fault,
    backend_filter_problem,
    backend_filters,
    extension_refs,
    rule_filters,
)
from moongate.engine import Failed, query
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.effective import (
    cluster_settings,
    extended,
    natives,
    routing_type,
    rule_policies,
    shapes_clusters,
    wants_one_cluster,
    zones,
)
from moongate.policies.http_listeners import listener_cluster_settings
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.cluster_keys import (
    AuthoritiesSecret,
    BackendCluster,
    CertificateSecret,
    ClusterKey,
    MirrorCluster,
    ResourceKey,
    RuleCluster,
    SecretServerCluster,
    StableRule,
)
from moongate.xds.filters import stable_chains
from moongate.xds.served_listeners import served_on
from moongate.xds.wire import version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.envoyproxy import MergeBackends
    from moongate.api.route import RouteBackendRef, RouteRule
    from moongate.api.shared import LocalObjectReference
    from moongate.attach.rule_filters import RuleFilters
    from moongate.engine import Db

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
    copied, faults, without_endpoints = _mirrors(db, listener, resource, index, filters.mirrors, to_service)
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
        db, listener, resource, index, weighted, None if extensions else merging, extensions, zonal=zonal
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
            without_endpoints.append(no_endpoints(db, path, each.target).saying(effect))
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


def no_endpoints(db: Db, path: str, at: Target) -> Problem:
    """That a backend has no endpoints, and why."""
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
    listener: ListenerId,
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
        listener: where the route is served.
        route: the route.
        index: which of its rules.
        backends: those that have a weight.
        merging: which of them may use shared clusters; ``None`` for none.
        extensions: HTTPRouteFilters of the rule that all of its clusters have a part of.
        zonal: whether requests go by zones.
    """
    fleet = fleet_of(db, listener.gateway)
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
                _own(db, listener, route, index, extensions, each.place),
                each.ref.weight,
                each.place,
                routable=each.usable,
            )
            for each in own
        ]
    elif own:
        clusters = [
            WeightedCluster(_own(db, listener, route, index, extensions), sum(b.ref.weight for b in own), -1)
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
    listener: ListenerId,
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
    fleet, apart = fleet_of(db, listener.gateway), by_listener(db, listener, route, index)
    by_index = not (merges_backends(db, fleet) or extensions)
    if by_index or index in named_rules(db, fleet, route.ref):
        name, rule = names.rule(route.ref, index), index
    else:
        rule = stable_rule(route, index)
        if n >= 0:
            rule = StableRule(rule.name, tuple(member for member in rule.members if member[0] == n))
        name = names.stable_rule(route.ref, _identity(*rule, *extensions))
    if apart is not None:
        name = names.of_listener(name, apart)
    return RuleCluster(_named(name, n), fleet, route.ref, rule, n, extensions, apart)


def by_listener(db: Db, listener: ListenerId, route: Route, index: int) -> ListenerId | None:
    """The listener by which the clusters of a rule are named on a listener.

    It is the first of those whose policies say the same of them; ``None`` if that is the first that the route
    is on, or all listeners share the clusters. A listener whose policies cannot be read, maybe of another
    Gateway, says what it last said.
    """
    if _is_shared(db, listener, route.ref, index):
        return None
    served = served_on(db, fleet_of(db, listener.gateway), route.ref)
    if listener not in served[1:]:
        return None
    section = route.spec.rules[index].name or ""
    of_listener = cluster_terms(db, listener, route.ref, section)
    of_each = ((each, cluster_terms.last_good(db, each, route.ref, section)) for each in served)
    alike = next(each for each, of in of_each if isinstance(of, Failed) or of == of_listener)
    return alike if alike != served[0] else None


def cluster_listener(db: Db, listener: ListenerId, route: Route, index: int) -> ListenerId:
    """The listener whose policies the clusters of a rule have on a listener.

    It is this one, unless all listeners share the clusters of the first.
    """
    if not _is_shared(db, listener, route.ref, index):
        return listener
    return next(iter(served_on(db, fleet_of(db, listener.gateway), route.ref)), listener)


def _is_shared(db: Db, listener: ListenerId, route: Ref, index: int) -> bool:
    """Whether all listeners of a route have the same clusters for a rule.

    A patch that names one of them means the requests of all listeners.
    """
    fleet = fleet_of(db, listener.gateway)
    return not merges_backends(db, fleet) or index in named_rules(db, fleet, route)


@query
def cluster_terms(db: Db, listener: ListenerId, route: Ref, section: str) -> tuple[Any, ...]:
    """All that the policies of a listener say of the clusters of a rule."""
    settings = cluster_settings(db, rule_policies(db, listener, route, section))
    routed_to_service = rule_to_service(db, listener, route, section)
    return settings, listener_cluster_settings(db, listener), routed_to_service


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
    """Whether a policy asks for other clusters than its Gateway's, whose settings those have that are shared.

    So it does if it says anything of clusters, or one that it merges into; and if it replaces what the
    Gateway's says of them.
    """
    policies = [Applied(each, None) for each in policy if each is not None]
    differing = [each for each in policies if each != of_gateway]
    if of_gateway is not None and of_gateway not in policies:
        differing.append(of_gateway)
    return any(shapes_clusters(db, each) for each in differing)


@query
def _is_of_its_own(db: Db, listener: ListenerId) -> bool:
    """Whether a listener's policy about clients asks for other clusters than its Gateway's."""
    policy = applied_to_listener(db, CTP, listener)
    return policy is not None and _shapes_clusters(db, policy, applied_to_gateway(db, CTP, listener.gateway))


def _judge(
    db: Db, gateway: Ref, route: Ref, ref: RouteBackendRef, at: Target, routed_to_service: bool
) -> Backend:
    if (problem := backend_filter_problem(db, route, ref)) is not None:
        return Backend(problem=problem)
    judged = judged_backend(db, gateway, route, at, routed_to_service)
    if judged.problem is None and (fault := backend_filter_fault(db, route, ref)) is not None:
        return Backend(problem=fault)
    return judged


def judged_backend(db: Db, gateway: Ref, route: Ref, at: Target, routed_to_service: bool) -> Backend:
    """A backend as the Envoys of a Gateway reach it for a route, speaking what the route's kind wants."""
    judged = reached(db, gateway, permitted(db, route, at, routed_to_service))
    return judged if judged.problem is not None else judged.speaking(route_kind(route.kind).upstream)


def _mirrors(
    db: Db, listener: ListenerId, of: Route, index: int, mirrors: tuple[Mirror, ...], routed_to_service: bool
) -> tuple[tuple[tuple[int, MirrorCluster, Backend], ...], list[Problem], list[Problem]]:
    route, section, gateway = of.ref, of.spec.rules[index].name or "", listener.gateway
    fleet = fleet_of(db, gateway)
    keys: list[tuple[int, MirrorCluster, Backend]] = []
    faults: list[Problem] = []
    empty: list[Problem] = []
    for mirror in mirrors:
        at = target(mirror.backend, route.namespace)
        path = f"spec.rules[{index}].filters[{mirror.index}].requestMirror.backendRef"
        judged = named(at, judged_backend(db, gateway, route, at, routed_to_service))
        if judged.problem is not None:
            faults.append(judged.problem.saying(_NOT_COPIED).under(path))
        elif judged.empty:
            empty.append(no_endpoints(db, path, at).saying(_NOT_COPIED))
        elif mirror.millionths != 0:
            if not merges_backends(db, fleet):
                name, rule = names.mirror(names.rule(route, index), mirror.index), index
            else:
                name = names.mirror(names.stable_rule(route, _identity(section, at)), mirror.index)
                rule = StableRule(section)
            apart = by_listener(db, listener, of, index)
            if apart is not None:
                name = names.of_listener(name, apart)
            key = MirrorCluster(name, fleet, route, rule, at, apart)
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
