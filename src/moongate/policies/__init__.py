"""The policy kinds, put together from their features: what holds for a listener or route, and what is wrong.

Theory of operation
===================
``attach.policies`` says *which* policies apply; here their specs are merged and judged, once per pair of
policies, however many routes they hold for. Feature hooks see the result as ``Effective`` values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct, structs, to_builtins

from moongate.api.admission import NOT_SUPPORTED, checked, no_effect, unbuilt
from moongate.api.base import Ref
from moongate.api.merge import merge
from moongate.api.policy import PolicyTargetReferences
from moongate.attach.policies import Policy, applied, applied_to_gateway, applied_to_listener
from moongate.engine import query
from moongate.features import FEATURES
from moongate.features.base import Effective, Feature
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import ListenerId
    from moongate.attach.policies import Applied
    from moongate.engine import Db

M = TypeVar("M")

POLICY_KINDS: Final[tuple[type[Policy], ...]] = (ClientTrafficPolicy, BackendTrafficPolicy, SecurityPolicy)


class EffectivePolicy(Struct, frozen=True):
    """A policy spec after merging, and what is wrong with it.

    Args:
        spec: the merged spec.
        owner: the more specific policy.
        parent: the policy that it merged into, if any.
        own: fields (Python names) that the owner sets itself.
        problems: all faults; paths start at the policy's root (``spec.cors.allowOrigins``).
        faulty: fields (Python names) with a fault of their own, which are not built.
    """

    spec: PolicyTargetReferences
    owner: Ref
    parent: Ref | None
    own: tuple[str, ...]
    problems: tuple[Problem, ...]
    faulty: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether traffic must be refused rather than let through without what the policy asks for."""
        return any(p.reason != NOT_SUPPORTED or self.owner.kind == SecurityPolicy.KIND for p in self.problems)

    def effective(self, feature: Feature[M]) -> Effective[M] | None:
        """The feature's field with the policy that it came from; ``None`` when it is not set."""
        value = feature.of(self.spec)
        if value is None:
            return None
        if self.parent is None or feature.field in self.own:
            return Effective(value, self.owner)
        return Effective(value, self.parent)

    def faults_of(self, feature: Feature[Any]) -> bool:
        """Whether the feature's field has a fault, so that its hooks must not be called."""
        return feature.field in self.faulty

    def features(self) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
        """The features that are set, in the order of the table."""
        for feature in FEATURES:
            if feature.kind == self.owner.kind and (effective := self.effective(feature)) is not None:
                yield feature, effective


@query
def effective_policy(db: Db, owner: Ref, parent: Ref | None) -> EffectivePolicy | None:
    """One policy, merged into ``parent`` if there is one, checked. ``None`` when the policy is gone."""
    found: Policy | None = db.read(owner)
    base: Policy | None = db.read(parent) if parent is not None else None
    if found is None:
        return None
    spec = found.spec
    own = tuple(f for f in spec.__struct_fields__ if getattr(spec, f) not in (None, ()))
    if base is not None:
        spec = merge(_without_targets(base.spec), spec, getattr(spec, "merge_type", None))
    faults = _faults(spec)
    if base is not None:
        # Merging brings together what no rule allows in one policy, such as the settings of two types of load
        # balancer. Features go by the type, as they do in the reference; what was wrong before stays wrong.
        written = {*_faults(found.spec), *_faults(base.spec)}
        faults = tuple(fault for fault in faults if fault in written)
    told = EffectivePolicy(spec, owner, parent if base is not None else None, own, ())
    problems: list[Problem] = []
    wire_names = {f.name: f.encode_name for f in structs.fields(spec)}
    malformed = {re.split(r"[.[]", fault.path, maxsplit=1)[0] for fault in faults}
    faulty = [name for name, wire_name in wire_names.items() if wire_name in malformed]
    for feature, effective in told.features():
        if feature.check is None or feature.field in faulty:
            continue
        if found_here := list(feature.check(db, effective)):
            faulty.append(feature.field)
            problems += [p.under(f"spec.{wire_names[feature.field]}") for p in found_here]
    problems += [fault.under("spec") for fault in faults]
    for policy in (found, base):
        problems += policy.faults if isinstance(policy, FaultySecurityPolicy) else ()
    # Of the merged spec: what a parent asks for and nobody enforces must not be waved through either.
    problems += map(no_effect, unbuilt(structs.replace(found, spec=spec)))
    return EffectivePolicy(spec, owner, told.parent, own, tuple(problems), tuple(faulty))


def _without_targets(spec: PolicyTargetReferences) -> PolicyTargetReferences:
    """A spec's settings: what a policy targets is its own, and nobody merges into that."""
    return structs.replace(spec, target_ref=None, target_refs=(), target_selectors=())


def _faults(spec: PolicyTargetReferences) -> tuple[Problem, ...]:
    """What the schema refuses in a spec that came by a way that does not check, such as before a rule."""
    return checked(type(spec), to_builtins(spec))[1]


def effective_listener_policy(db: Db, kind: str, listener: ListenerId) -> EffectivePolicy | None:
    """What holds for a listener."""
    return _judged(db, applied_to_listener(db, kind, listener))


def effective_gateway_policy(db: Db, kind: str, gateway: Ref) -> EffectivePolicy | None:
    """What holds for a Gateway as a whole."""
    return _judged(db, applied_to_gateway(db, kind, gateway))


def effective_route_policy(
    db: Db, kind: str, listener: ListenerId, route: Ref, rule: str
) -> EffectivePolicy | None:
    """What holds for a rule of a route (``rule`` is its name, "" for none), as a listener serves it."""
    return _judged(db, applied(db, kind, listener, route, rule))


def _judged(db: Db, found: Applied | None) -> EffectivePolicy | None:
    return None if found is None else effective_policy(db, found.owner, found.parent)
