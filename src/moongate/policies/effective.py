"""The effective policy of a rule, a cluster or a listener after merging, with the owner of each field.

Theory of operation
===================
``attach.policies`` names the policies that apply. ``effective_policy`` merges and checks their specs, once
for each pair of policies, however many routes they apply to.

Builders do not read this whole answer, but only their part of it: ``rule_settings`` has the settings of
routes and filters, ``cluster_settings`` those of clusters. Each is computed once for each set of policies, so
thousands of routes under one policy share one answer. An edit of a policy re-runs a builder only if the
builder's part differs.

If a rule has its own field or filter for a setting, that wins over the policy: ``effective_rule`` puts it
over the settings of the policies, as the feature defines (``Feature.native``).

Each leaf of a merged spec has an owner: a merged field belongs to one policy, and a field inside it may
belong to the other (``Effective.owner_of``).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct, structs

from moongate.api.admission import checked
from moongate.api.base import Ref, fields_of
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.marks import unbuilt
from moongate.api.merge import merge_traced
from moongate.api.policy import PolicyTargetReferences
from moongate.api.route import RequestRule, Route
from moongate.attach.extension_filters import extension
from moongate.attach.policies import (
    Applied,
    Policy,
    applied,
    applied_in_order,
    applied_to_gateway,
    applied_to_listener,
    policy_attachments,
)
from moongate.attach.route_kinds import route_kind
from moongate.attach.rule_filters import extension_refs
from moongate.engine import query
from moongate.features import FEATURES
from moongate.features.base import Effective, ExtraCluster, ExtraSecret, Feature, Lookup, Zones
from moongate.policies import POLICY_KINDS
from moongate.policies.references import reference_problems
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.problem import Problem
from moongate.store import get

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moongate.api.base import ListenerId
    from moongate.api.route import RouteRule
    from moongate.api.shared import LocalObjectReference
    from moongate.attach.backends import Transport
    from moongate.engine import Db

M = TypeVar("M")

Settings = tuple[tuple[Feature[Any], Effective[Any]], ...]
"""Features with their values, in the order of the table."""

RULE_POLICIES: Final = tuple(kind.KIND for kind in POLICY_KINDS if not kind.OF_LISTENERS)
"""The kinds of policies that may hold for a rule of a route."""

_GUARDS: Final = frozenset(kind.KIND for kind in POLICY_KINDS if kind.GUARDS)
"""The kinds of policies without which nobody may pass."""

_READ: Final = tuple(
    (f, f.native.read) for f in FEATURES if f.native is not None and f.native.read is not None
)
"""The features that a rule may set itself, each with what reads the value; each rule is read by them."""


class EffectivePolicy(Struct, frozen=True):
    """A policy spec after merging, and what is wrong with it.

    Args:
        spec: the merged spec.
        owner: the most specific policy.
        parents: the policies that it merged into, the most specific first.
        inherited: what these contributed: paths (wire names), each with the policy that it comes from. A path
            below another one stands before it.
        own: fields (Python names) that the owner sets itself.
        problems: all faults; paths start at the policy's root (``spec.cors.allowOrigins``).
        faulty: fields (Python names) with a fault of their own, which are not built.
        failed: whether requests must be refused rather than let through without what the policy asks for.
    """

    spec: PolicyTargetReferences
    owner: Ref
    parents: tuple[Ref, ...] = ()
    inherited: tuple[tuple[str, Ref], ...] = ()
    own: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    faulty: tuple[str, ...] = ()
    failed: bool = False

    def effective(self, feature: Feature[M]) -> Effective[M] | None:
        """The feature's field with the policy that it came from; ``None`` when it is not set."""
        effective = self.field_of(feature)
        if effective is None or (feature.applies is not None and not feature.applies(effective)):
            return None
        return effective

    def field_of(self, feature: Feature[M]) -> Effective[M] | None:
        """As ``effective``, also if the value concerns only other features of the field."""
        value = feature.of(self.spec)
        if value is None:
            return None
        if not self.inherited:
            return Effective(value, self.owner)
        field = _wire_name(self.spec, feature.field)
        within = (each for each in self.inherited if each[0].startswith((f"{field}.", f"{field}[")))
        below = ((path.removeprefix(field).removeprefix("."), policy) for path, policy in within)
        return Effective(value, dict(self.inherited).get(field, self.owner), tuple(below))

    def path(self, feature: Feature[Any]) -> str:
        """The path of a feature's field: ``spec.tcpKeepalive``."""
        return f"spec.{_wire_name(self.spec, feature.field)}"

    def origin(self, path: str) -> Ref | None:
        """The policy from which alone a field is inherited; ``None`` if the owner sets some of it.

        Its path (wire names) starts below ``spec``.
        """
        for at, policy in self.inherited:
            if path == at or path.startswith((f"{at}.", f"{at}[")):
                return policy
        return None

    def settings(self) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
        """The features that are set, in the order of the table; those with a fault are among them."""
        for feature in FEATURES:
            if feature.kind == self.owner.kind and (effective := self.effective(feature)) is not None:
                yield feature, effective

    def features(self) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
        """The features that are built: set, and without a fault."""
        return ((f, effective) for f, effective in self.settings() if f.field not in self.faulty)


class RuleSettings(Struct, frozen=True):
    """The settings that apply to the requests of a rule.

    Args:
        features: what its routes and filters are made of.
        owners: the policies that are in force: those that failed are not among them.
        failed: whether its requests must be refused.
    """

    features: Settings
    owners: tuple[Ref, ...]
    failed: bool


def of_parent(problem: Problem, parent: Ref) -> Problem:
    """A problem of a policy, as one that merges into it reports it."""
    message = f"This comes from {parent}, into which this policy merges. {problem.message}"
    return structs.replace(problem, message=message)


@query
def effective_policy(
    db: Db, owner: Ref, parent: Ref | None, grandparent: Ref | None = None
) -> EffectivePolicy | None:
    """One policy, merged into ``parent`` if there is one, and with it into ``grandparent``, and checked.

    ``None`` when the policy is gone.
    """
    policy: Policy | None = db.read(owner)
    if policy is None:
        return None
    bases: list[Policy] = []
    for ref in (parent, grandparent):
        base: Policy | None = db.read(ref) if ref is not None else None
        if base is None:
            break
        bases.append(base)
    spec, inherited = policy.spec, list[tuple[str, Ref]]()
    own = tuple(f for f in spec.__struct_fields__ if getattr(spec, f) not in (None, ()))
    for over, base in pairwise((policy, *bases)):
        below, merge_type = _without_targets(base.spec), getattr(over.spec, "merge_type", None)
        spec, paths = merge_traced(below, spec, merge_type)
        inherited[:0] = ((path, base.ref) for path in paths)
    merged = EffectivePolicy(spec, owner, tuple(base.ref for base in bases), tuple(inherited), own)
    faults = _faults(spec)
    if bases:
        # Merging brings together what no rule allows in one policy, such as the settings of two types of load
        # balancer. Features go by the type, as they do in the reference; what was wrong before stays wrong.
        written = {fault for each in (policy, *bases) for fault in _faults(each.spec)}
        faults = tuple(fault for fault in faults if fault in written)
    malformed = {re.split(r"[.[]", fault.path, maxsplit=1)[0] for fault in faults}
    faulty = [f.name for f in fields_of(type(spec)) if f.encode_name in malformed]
    problems: list[Problem] = []
    for feature, effective in merged.settings():
        if feature.field not in faulty and (of_feature := feature_problems(db, feature, effective)):
            faulty.append(feature.field)
            problems += [p.under(merged.path(feature)) for p in of_feature]
    problems += [fault.under("spec") for fault in faults]
    # Of the merged spec: what a parent asks for and nobody enforces must not be waved through either.
    problems += unbuilt(structs.replace(policy, spec=spec))
    origins = [merged.origin(problem.path.removeprefix("spec.")) for problem in problems]
    problems = [
        problem if origin is None else of_parent(problem, origin)
        for problem, origin in zip(problems, origins, strict=True)
    ]
    problems += policy.faults if isinstance(policy, FaultySecurityPolicy) else ()
    for base in bases:
        written_there = base.faults if isinstance(base, FaultySecurityPolicy) else ()
        problems += (of_parent(problem, base.ref) for problem in written_there)
    return structs.replace(
        merged,
        problems=tuple(problems),
        faulty=tuple(faulty),
        failed=bool(problems),
    )


def feature_problems(db: Db, feature: Feature[M], effective: Effective[M]) -> list[Problem]:
    """The problems of a field; their paths start below it."""
    problems = list(reference_problems(db, feature, effective))
    return problems or list(feature.check(db, effective) if feature.check is not None else ())


def effective_listener_policy(db: Db, kind: str, listener: ListenerId) -> EffectivePolicy | None:
    """The effective policy of a listener."""
    return _effective(db, applied_to_listener(db, kind, listener))


def effective_gateway_policy(db: Db, kind: str, gateway: Ref) -> EffectivePolicy | None:
    """The effective policy of a Gateway as a whole."""
    return _effective(db, applied_to_gateway(db, kind, gateway))


def effective_rule(db: Db, listener: ListenerId, route: Ref, rule: RouteRule) -> RuleSettings:
    """The settings of a rule on a listener."""
    policies = rule_policies(db, listener, route, rule.name or "")
    settings = laid_over(rule_settings(db, policies), route, rule)
    refs = extension_refs(rule.filters) if isinstance(rule, RequestRule) else ()
    more = extended(db, refs, route.namespace)
    if not more:
        return settings
    features = tuple(sorted((*settings.features, *more), key=_place))
    return structs.replace(settings, features=features)


def laid_over(settings: RuleSettings, route: Ref, rule: RouteRule) -> RuleSettings:
    """The settings of policies, with a rule's own settings over them."""
    own = natives(rule)
    if not own:
        return settings
    features = dict(settings.features)
    for feature, value in own:
        features[feature] = _over(features.get(feature), feature, value, route)
    return structs.replace(settings, features=tuple(sorted(features.items(), key=_place)))


def natives(rule: RouteRule) -> list[tuple[Feature[Any], Any]]:
    """The features that a rule sets itself, each with the value."""
    return [(feature, value) for feature, read in _READ if (value := read(rule)) is not None]


def extended(db: Db, refs: tuple[LocalObjectReference, ...], namespace: str) -> Settings:
    """What some HTTPRouteFilters set that a route names, in the order of the table; nothing of a faulty one.

    Args:
        db: what is read.
        refs: their names in a rule, or in one of its backendRefs.
        namespace: that of the route.
    """
    settings: list[tuple[Feature[Any], Effective[Any]]] = []
    for ref in refs:
        sound = extension(db, ref, namespace)
        owner = Ref.of(HTTPRouteFilter, namespace, ref.name)
        for feature in () if sound.faulty else FEATURES:
            extends = feature.native.extends if feature.native is not None else None
            if extends is not None and (value := extends(sound)) is not None:
                settings.append((feature, Effective(value, owner)))
    return tuple(sorted(settings, key=_place))


def without_clusters(settings: RuleSettings, route: Ref) -> RuleSettings:
    """The settings without those of a rule itself that need clusters, which a closed rule has not."""
    features = tuple(each for each in settings.features if each[0].clusters is None or each[1].owner != route)
    return structs.replace(settings, features=features)


@query
def rule_policies(db: Db, listener: ListenerId, route: Ref, rule: str) -> tuple[Applied, ...]:
    """The policies that apply to a rule (``rule`` is its name, "" for none) as a listener serves it."""
    if not any(policy.kind in RULE_POLICIES for _, policy in policy_attachments(db, route)):
        return listener_policies(db, listener)  # the same answer for all routes without policies of their own
    return _present(applied(db, kind, listener, route, rule) for kind in RULE_POLICIES)


@query
def listener_policies(db: Db, listener: ListenerId) -> tuple[Applied, ...]:
    """The policies that apply to the rules of a listener where nothing below the listener says otherwise."""
    return _present(applied_to_listener(db, kind, listener) for kind in RULE_POLICIES)


@query
def gateway_policies(db: Db, gateway: Ref) -> tuple[Applied, ...]:
    """The policies that apply to all rules of a Gateway where nothing below it says otherwise."""
    return _present(applied_to_gateway(db, kind, gateway) for kind in RULE_POLICIES)


@query
def rule_settings(db: Db, policies: tuple[Applied, ...]) -> RuleSettings:
    """The settings of some policies for routes and their filters."""
    merged = _all(db, policies)
    features = [each for policy in merged for each in policy.features() if each[0].shapes_rules]
    return RuleSettings(
        tuple(sorted(features, key=_place)),
        tuple(policy.owner for policy in merged if not policy.failed),
        failed=any(policy.failed for policy in merged),
    )


@query
def refuses_connections(db: Db, listener: ListenerId, route: Ref) -> bool:
    """Whether no connection may pass to a route that takes them as they are.

    A policy for the route that lets only some requests pass cannot be enforced, as no request is looked at.
    A fault in a policy that keeps nobody out is no reason: connections go on without what cannot be built.
    """
    resource = get(db, Route, route)
    names = {rule.name or "" for rule in resource.spec.rules} if resource is not None else set[str]()
    own = {policy for _, policy in policy_attachments(db, route)}
    for rule in sorted(names):
        # What a policy of the route does not say, the one above it does.
        policies = tuple(
            each for each in connection_policies(db, listener, route, rule) if each.owner.kind in _GUARDS
        )
        if rule_settings(db, policies).failed:
            return True
        owners = (each for applied in policies for each in applied if each in own)
        if any(unenforceable(db, owner, route) for owner in owners if owner is not None):
            return True
    return False


def unenforceable(db: Db, policy: Ref, route: Ref) -> Problem | None:
    """Why a policy cannot be enforced for a route that it targets; ``None`` if it can."""
    resource: Policy | None = db.read(policy)
    if route_kind(route.kind).matches is not None or not isinstance(resource, SecurityPolicy):
        return None
    looking = sorted(resource.demands - {"authorization"})
    if not looking:
        return None
    fields = ", ".join(f"spec.{_wire_name(resource.spec, field)}" for field in looking)
    message = (
        f"It looks at requests, and {route} takes connections as they are. So all its connections are closed "
        "until it has no such policy."
    )
    return Problem(fields, message)


def connection_settings(db: Db, listener: ListenerId, route: Ref, rule: str) -> Settings:
    """The settings of a route of connections for its proxy."""
    settings = connection_cluster_settings(db, connection_policies(db, listener, route, rule), "TCP")
    return tuple(each for each in settings if each[0].shapes_proxies)


@query
def connection_policies(db: Db, listener: ListenerId, route: Ref, rule: str) -> tuple[Applied, ...]:
    """The policies that apply to a rule of a route of connections, the most specific first.

    Unlike those of requests, a policy does not replace all of the next one, but the fields that it sets.
    """
    return tuple(
        policy for kind in RULE_POLICIES for policy in applied_in_order(db, kind, listener, route, rule)
    )


@query
def connection_cluster_settings(db: Db, policies: tuple[Applied, ...], transport: Transport) -> Settings:
    """The settings of some policies for the cluster of a route of connections: each of the first that has
    it."""
    first: dict[Feature[Any], Effective[Any]] = {}
    for policy in _all(db, policies):
        for feature, effective in policy.features():
            if transport in feature.transports:
                first.setdefault(feature, effective)
    return tuple(sorted(first.items(), key=_place))


@query
def cluster_settings(db: Db, policies: tuple[Applied, ...]) -> Settings:
    """The settings of some policies for clusters."""
    merged = _all(db, policies)
    features = (each for policy in merged for each in policy.features() if each[0].shapes_clusters)
    return tuple(sorted(features, key=_place))


def lookup_of(settings: Settings) -> Lookup:
    """How hostnames of backends are looked up by some settings."""
    lookup = Lookup()
    for feature, effective in settings:
        if feature.lookup is not None:
            lookup = feature.lookup(lookup, effective)
    return lookup


@query
def connection_lookup(db: Db, policies: tuple[Applied, ...]) -> Lookup:
    """How the hosts are looked up that connections ask for."""
    return lookup_of(connection_cluster_settings(db, policies, "TCP"))


@query
def zones(db: Db, policies: tuple[Applied, ...]) -> Zones | None:
    """The part of ``cluster_settings`` that says how endpoints stand by zones."""
    return zones_of(cluster_settings(db, policies))


def zones_of(settings: Settings) -> Zones | None:
    """How endpoints stand by zones, by some settings."""
    zones = (f.zones(effective.value) for f, effective in settings if f.zones is not None)
    return next((each for each in zones if each is not None), None)


@query
def endpoint_settings(db: Db, policies: tuple[Applied, ...]) -> Settings:
    """The part of ``cluster_settings`` that endpoints are made of."""
    return tuple(each for each in cluster_settings(db, policies) if each[0].endpoint is not None)


@query
def shared_cluster_settings(db: Db, gateway: Ref) -> Settings:
    """The settings of a Gateway's policies for the clusters that its routes share.

    In one value, as thousands of clusters read it: a first policy that says nothing of clusters touches none.
    """
    return cluster_settings(db, gateway_policies(db, gateway))


@query
def shared_endpoint_settings(db: Db, gateway: Ref) -> tuple[Settings, Zones | None]:
    """The part of ``shared_cluster_settings`` that endpoints are made of, and how they stand by zones."""
    policies = gateway_policies(db, gateway)
    return endpoint_settings(db, policies), zones(db, policies)


@query
def extra_resources(db: Db, policies: tuple[Applied, ...]) -> tuple[ExtraCluster | ExtraSecret, ...]:
    """The clusters and secrets that some policies need besides those of routes and listeners, each once."""
    extra: dict[ExtraCluster | ExtraSecret, None] = {}
    for feature, effective in (each for policy in _all(db, policies) for each in policy.features()):
        if feature.clusters is not None:
            extra.update(dict.fromkeys(feature.clusters(db, effective)))
        if feature.secrets is not None:
            extra.update(dict.fromkeys(feature.secrets(db, effective)))
    return tuple(extra)


@query
def routing_type(db: Db, policy: Applied) -> str | None:
    """``Service`` or ``Endpoint``: where a policy sends requests to; ``None`` when it does not say."""
    merged = _effective(db, policy)
    return getattr(merged.spec, "routing_type", None) if merged is not None else None


@query
def shapes_clusters(db: Db, policy: Applied) -> bool:
    """Whether the owner of a policy itself sets a field that shapes clusters."""
    merged = _effective(db, policy)
    if merged is None:
        return False
    shaping = {f.field for f in FEATURES if f.kind == policy.owner.kind and f.shapes_clusters}
    return not shaping.isdisjoint(merged.own)


@query
def wants_one_cluster(db: Db, policy: Applied) -> bool:
    """Whether a policy has its meaning only where all backends of a rule share one cluster."""
    merged = _effective(db, policy)
    settings = merged.settings() if merged is not None else ()
    return any(f.one_cluster is not None and f.one_cluster(effective.value) for f, effective in settings)


def _effective(db: Db, policy: Applied | None) -> EffectivePolicy | None:
    return None if policy is None else effective_policy(db, *policy)


def _all(db: Db, policies: tuple[Applied, ...]) -> list[EffectivePolicy]:
    merged = (effective_policy(db, *policy) for policy in policies)
    return [policy for policy in merged if policy is not None]


def _present(policies: Iterable[Applied | None]) -> tuple[Applied, ...]:
    return tuple(policy for policy in policies if policy is not None)


def _over(below: Effective[Any] | None, feature: Feature[Any], value: Any, route: Ref) -> Effective[Any]:
    if below is None or feature.native is None or not feature.native.merges:
        return Effective(value, route)
    merged, inherited = merge_traced(below.value, value, "JSONMerge")
    return Effective(merged, route, tuple((path, below.owner_of(path)) for path in inherited))


def _place(setting: tuple[Feature[Any], Effective[Any]]) -> int:
    return FEATURES.index(setting[0])


def _wire_name(spec: PolicyTargetReferences, field: str) -> str:
    return next(f.encode_name for f in fields_of(type(spec)) if f.name == field)


def _without_targets(spec: PolicyTargetReferences) -> PolicyTargetReferences:
    """A spec's settings: what a policy targets is its own, and nobody merges into that."""
    return structs.replace(spec, target_ref=None, target_refs=(), target_selectors=())


def _faults(spec: PolicyTargetReferences) -> tuple[Problem, ...]:
    """What the schema refuses in a spec that came by a way that does not check, such as before a rule."""
    # Through JSON, so that lists are lists: of tuples the entries would get no defaults.
    return checked(type(spec), msgspec.json.decode(msgspec.json.encode(spec)))[1]
