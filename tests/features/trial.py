"""A feature that is no part of the product: it uses what no built feature uses yet.

It takes the place of ``jwt``, a field of the spec that is not built, in a SecurityPolicy of its own type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from moongate import names
from moongate.api.base import Model, ObjectMeta
from moongate.api.shared import BackendRef, SecretObjectReference
from moongate.engine import Db
from moongate.features import FEATURES
from moongate.features.base import Effective, ExtraBackend, ExtraCluster, ExtraSecret, Feature, Reference
from moongate.policies.security_policy import SecurityPolicy, SecurityPolicySpec


class Trial(Model, frozen=True, kw_only=True):
    keys: SecretObjectReference | None = None
    backend_refs: tuple[BackendRef, ...] = ()
    host: str = ""


class TrialSpec(SecurityPolicySpec, frozen=True, kw_only=True):
    jwt: Trial | None = None


class TrialPolicy(SecurityPolicy, frozen=True, kw_only=True):
    spec: TrialSpec


def trial(
    name: str = "trial", *, namespace: str = "default", target: str = "HTTPRoute/shop", **spec: Any
) -> TrialPolicy:
    """A policy with the feature; the target is ``Kind/name``."""
    kind, target_name = target.split("/")
    reference = {"group": "gateway.networking.k8s.io", "kind": kind, "name": target_name}
    return TrialPolicy(
        metadata=ObjectMeta(name=name, namespace=namespace, generation=1),
        spec=msgspec.convert({"targetRefs": [reference], **spec}, TrialSpec),
    )


def _references(value: Trial) -> Iterator[Reference]:
    if value.keys is not None:
        yield Reference.to_secret("keys", value.keys)
    for n, ref in enumerate(value.backend_refs):
        yield Reference.to_backend(f"backendRefs[{n}]", ref)


def _clusters(_db: Db, trial: Effective[Trial]) -> Iterator[ExtraCluster]:
    if trial.value.backend_refs:
        owner = trial.owner_of("backendRefs")
        targets = (Reference.to_backend("", ref).target_from(owner) for ref in trial.value.backend_refs)
        backends = tuple(
            ExtraBackend(target, ref.weight, fallback=bool(ref.fallback))
            for target, ref in zip(targets, trial.value.backend_refs, strict=True)
        )
        yield ExtraCluster(names.policy_cluster(owner, "trial", 0), backends, http2=True)
    if trial.value.host:
        host = trial.value.host
        yield ExtraCluster(names.host_cluster(host, 443), host=host, port=443, tls=True)


def _secrets(_db: Db, trial: Effective[Trial]) -> Iterator[ExtraSecret]:
    if trial.value.keys is not None:
        owner = trial.owner_of("keys")
        secret = Reference.to_secret("keys", trial.value.keys).target_from(owner).ref
        yield ExtraSecret(f"trial/{owner.namespace}/{owner.name}", secret, "key")


FEATURE = Feature(
    kind="SecurityPolicy",
    field="jwt",
    model=Trial,
    references=_references,
    clusters=_clusters,
    secrets=_secrets,
)


def install(monkeypatch: pytest.MonkeyPatch, feature: Feature[Any] = FEATURE) -> None:
    """Put a feature into the table, wherever that is read; if its field has one, in its place."""
    others = (each for each in FEATURES if (each.kind, each.field) != (feature.kind, feature.field))
    table = (*others, feature)
    ours = [module for name, module in sys.modules.items() if name.startswith("moongate.")]
    for module in (each for each in ours if hasattr(each, "FEATURES")):
        monkeypatch.setattr(module, "FEATURES", table)
