"""The settings that apply to a rule or a listener: each leaf with its value and the resource that sets it.

``moongate effective`` shows them. The builders of xDS read the same queries.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from moongate import names
from moongate.api.base import Ref, fields_of
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.policy import PolicyTargetReferences
from moongate.api.route import Route
from moongate.attach.listener_sets import owners
from moongate.attach.routes import attachments, listeners_of
from moongate.features import FEATURES
from moongate.features.base import Effective
from moongate.policies import POLICY_KINDS
from moongate.policies.effective import (
    RULE_POLICIES,
    EffectivePolicy,
    effective_listener_policy,
    effective_policy,
    laid_over,
    natives,
    rule_policies,
    rule_settings,
)
from moongate.policies.http_listeners import CTP, listener_failed, port_conflict
from moongate.xds.destinations import BTP, cluster_listener

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from msgspec.structs import FieldInfo

    from moongate.api.base import ListenerId
    from moongate.api.route import RouteRule
    from moongate.attach.policies import Applied
    from moongate.engine import Db


class Setting(Struct, frozen=True):
    """One leaf of the settings.

    Args:
        field: its path, below the spec of a policy of ``kind``: ``retry.numRetries``.
        value: plain data.
        kind: the kind of policy that has the field; the rule of a route may set it too.
        owner: the resource that sets it.
        fault: why the value is not in force; "" when it is.
    """

    field: str
    value: Any
    kind: str
    owner: Ref
    fault: str = ""


class Scope(Struct, frozen=True):
    """The settings for the requests of one rule on one listener, or for a listener.

    Args:
        listener: which listener.
        rule: the index of the rule; ``None`` for a listener.
        name: the name of the rule, "" when it has none.
        settings: in the order of the fields of the policies.
        refused: policies with a fault for which all requests are refused.
    """

    listener: ListenerId
    settings: tuple[Setting, ...]
    rule: int | None = None
    name: str = ""
    refused: tuple[Ref, ...] = ()


class _OfClusters(NamedTuple):
    """The settings of the clusters of a rule, where they are those of another listener.

    Args:
        listener: whose they are.
        policy: its policy about backends.
    """

    listener: ListenerId
    policy: EffectivePolicy | None

    def source(self, policy: EffectivePolicy | None, field: FieldInfo) -> tuple[EffectivePolicy | None, str]:
        """Which policy decides about a field, and why that does not hold for all of it; "" if it does.

        Args:
            policy: what decides about all but clusters.
            field: the field of the spec.
        """
        name, wire = field.name, field.encode_name
        features = [f for f in FEATURES if (f.kind, f.field) == (BTP, name) and f.shapes_clusters]
        if not features:
            return policy, ""
        if not any(each.shapes_rules for each in features):
            return self.policy, ""
        one, other = (
            _of_policy(each, name, wire) if each is not None else None for each in (policy, self.policy)
        )
        if one == other:
            return policy, ""
        at = names.listener(self.listener)
        return policy, f"All listeners share the cluster of this rule, which has the settings of {at}."


def effective_settings(db: Db, ref: Ref, section: str = "") -> tuple[Scope, ...] | None:
    """The settings that apply to a route, a Gateway or a ListenerSet.

    Args:
        db: what is read.
        ref: which resource.
        section: the name of one listener or rule; "" for all.

    Returns:
        For each listener that serves a route, one scope for each of its rules; for each listener of a Gateway
        or ListenerSet, one scope with what applies there where no route has settings of its own. ``None`` if
        there is no such resource.
    """
    resource = db.read(ref)
    if isinstance(resource, Route):
        return tuple(_of_route(db, resource, section))
    if isinstance(resource, Gateway):
        listeners = [each for owner in owners(db, ref) for each in listeners_of(db, owner)]
    elif isinstance(resource, ListenerSet):
        listeners = list(listeners_of(db, ref))
    else:
        return None
    return tuple(_of_listener(db, each) for each in listeners if section in ("", each.name))


def _of_route(db: Db, route: Route, section: str) -> Iterator[Scope]:
    attached = attachments(db, route.ref)
    for listener in dict.fromkeys(listener for each in attached for listener, _ in each.hosts):
        for n, rule in enumerate(route.spec.rules):
            if section in ("", rule.name):
                yield _of_rule(db, listener, route, n, rule)


def _of_rule(db: Db, listener: ListenerId, route: Route, n: int, rule: RouteRule) -> Scope:
    applied = rule_policies(db, listener, route.ref, rule.name or "")
    policies = _by_kind(db, applied)
    own = {feature for feature, _ in natives(rule)}
    of_rule = laid_over(rule_settings(db, applied), route.ref, rule).features
    at = cluster_listener(db, listener, route, n)
    of_clusters = _by_kind(db, rule_policies(db, at, route.ref, rule.name or "")) if at != listener else {}
    settings: list[Setting] = []
    for kind in RULE_POLICIES:
        overrides = {f.field: each for f, each in of_rule if f in own and f.kind == kind}
        is_of_another = at != listener and kind == BTP
        clusters = _OfClusters(at, of_clusters.get(kind)) if is_of_another else None
        settings += _merged(kind, policies.get(kind), overrides, clusters=clusters)
    refused = tuple(policy.owner for policy in policies.values() if policy.failed)
    return Scope(listener, tuple(settings), n, rule.name or "", refused)


def _by_kind(db: Db, applied: tuple[Applied, ...]) -> dict[str, EffectivePolicy]:
    policies = (effective_policy(db, *each) for each in applied)
    return {policy.owner.kind: policy for policy in policies if policy is not None}


def _of_listener(db: Db, listener: ListenerId) -> Scope:
    settings: list[Setting] = []
    refused: list[Ref] = []
    for kind in (each.KIND for each in POLICY_KINDS):
        policy = effective_listener_policy(db, kind, listener)
        conflict = port_conflict(db, listener) if kind == CTP else None
        settings += _merged(kind, policy, {}, conflict.message if conflict is not None else "")
        failed = listener_failed(db, listener) if kind == CTP else policy is not None and policy.failed
        if policy is not None and failed and conflict is None:
            refused.append(policy.owner)
    return Scope(listener, tuple(settings), refused=tuple(refused))


def _merged(
    kind: str,
    policy: EffectivePolicy | None,
    overrides: dict[str, Effective[Any]],
    fault: str = "",
    clusters: _OfClusters | None = None,
) -> Iterator[Setting]:
    """The leaves of a policy's spec, with those that a rule sets in their place.

    Args:
        kind: that of the policy.
        policy: the effective one.
        overrides: what a rule sets, by field.
        fault: why nothing of the policy is in force; "" if it is.
        clusters: whose settings the clusters have, if not those of the policy.
    """
    for field in _fields(kind):
        effective = overrides.get(field.name)
        reason = ""
        source, partly = (policy, "") if clusters is None else clusters.source(policy, field)
        if effective is None and source is not None:
            effective = _of_policy(source, field.name, field.encode_name)
            reason = fault or _fault(source, field.name, field.encode_name) or partly
        if effective is not None:
            for path, value in _leaves(msgspec.to_builtins(effective.value), ""):
                at = f"{field.encode_name}{path}"
                yield Setting(at, value, kind, effective.owner_of(path.removeprefix(".")), reason)


@cache
def _fields(kind: str) -> tuple[FieldInfo, ...]:
    """The fields of a kind of policy that are settings: all but its targets and ``mergeType``."""
    policy = next(each for each in POLICY_KINDS if kind == each.KIND)
    spec = next(field.type for field in fields_of(policy) if field.name == "spec")
    not_settings = {*(field.name for field in fields_of(PolicyTargetReferences)), "merge_type"}
    return tuple(field for field in fields_of(spec) if field.name not in not_settings)


def _of_policy(policy: EffectivePolicy, name: str, wire: str) -> Effective[Any] | None:
    feature = next((each for each in FEATURES if (each.kind, each.field) == (policy.owner.kind, name)), None)
    if feature is not None:
        return policy.field_of(feature)
    value = getattr(policy.spec, name)
    return None if value is None else Effective(value, policy.origin(wire) or policy.owner)


def _fault(policy: EffectivePolicy, name: str, wire: str) -> str:
    """Why a field of a policy is not in force."""
    under = f"spec.{wire}"
    within = (f"{under}.", f"{under}[")
    problems = [p.message for p in policy.problems if p.path == under or p.path.startswith(within)]
    return " ".join(problems) or ("It has a fault." if name in policy.faulty else "")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of plain data, each with its path; what is empty, and a list of scalars, is a leaf."""
    below: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        below = ((f"{path}.{key}", each) for key, each in cast("dict[str, Any]", value).items())
    elif isinstance(value, tuple) and any(isinstance(each, dict) for each in cast("tuple[Any, ...]", value)):
        below = ((f"{path}[{n}]", each) for n, each in enumerate(cast("tuple[Any, ...]", value)))
    leaves = [leaf for at, each in below if each is not None for leaf in _leaves(each, at)]
    yield from leaves or [(path, value)]


def as_data(scopes: tuple[Scope, ...]) -> list[dict[str, Any]]:
    """Scopes as plain data; resources are written ``Kind namespace/name``."""
    return [
        {
            "listener": names.listener(scope.listener),
            "rule": scope.rule,
            "name": scope.name,
            "refused": [str(policy) for policy in scope.refused],
            "settings": [
                {
                    "kind": setting.kind,
                    "field": setting.field,
                    "value": setting.value,
                    "owner": str(setting.owner),
                    "fault": setting.fault,
                }
                for setting in scope.settings
            ],
        }
        for scope in scopes
    ]
