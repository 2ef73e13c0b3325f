"""What a feature refers to must be there and allowed, else the status says so: whatever the feature."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Ref, Resource
from moongate.api.core import Secret, Service
from moongate.dangling import dangling_references
from moongate.engine import Db
from moongate.policies.effective import effective_policy
from moongate.policies.references import references
from moongate.store import Store
from moongate.world import INDEXES
from tests.core import read, secret
from tests.features.trial import TrialPolicy, install, trial
from tests.routes import service


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


KEYS = {"keys": {"name": "keys"}}
FAR_KEYS = {"keys": {"name": "keys", "namespace": "vault"}}
NOT_GRANTED = (
    "Secret vault/keys is in another namespace; no ReferenceGrant there allows a SecurityPolicy of namespace "
    "default to refer to it."
)
NO_BACKEND = "backendRefs[1] names a Gateway; it must name a Service, ServiceImport or Backend."
GRANT = """
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: vault}
spec:
  from: [{group: gateway.envoyproxy.io, kind: SecurityPolicy, namespace: default}]
  to: [{group: "", kind: Secret}]
"""


def backend_refs(**ref: Any) -> dict[str, Any]:
    return {"backendRefs": [{"name": "shop", "port": 80}, ref]}


def problems(field: dict[str, Any], *manifests: str) -> list[str]:
    """What is wrong with a policy that has the field."""
    policy = trial(jwt=field)
    merged = effective_policy(db(policy, *manifests), policy.ref, None)
    assert merged is not None
    return [f"{problem.path}: {problem.message}" for problem in merged.problems]


def db(*resources: Resource | str) -> Db:
    loaded = [r for each in resources for r in (read(each) if isinstance(each, str) else (each,))]
    db = Db()
    Store(db, INDEXES).apply({resource.ref: resource for resource in loaded})
    return db


@pytest.mark.parametrize(
    ("field", "manifests", "expected"),
    [
        (KEYS, (), ["spec.jwt.keys: Secret default/keys does not exist."]),
        (KEYS, (secret("keys", {}),), []),
        (
            {"keys": {"kind": "ConfigMap", "name": "keys"}},
            (),
            ["spec.jwt.keys: keys names a ConfigMap; it must name a Secret."],
        ),
        (
            FAR_KEYS,
            (secret("keys", {}, namespace="vault"),),
            [f"spec.jwt.keys: {NOT_GRANTED}"],
        ),
        (FAR_KEYS, (secret("keys", {}, namespace="vault"), GRANT), []),
        (
            backend_refs(name="other", port=80),
            (service(),),
            ["spec.jwt.backendRefs[1]: Service default/other does not exist."],
        ),
        (
            backend_refs(name="shop", port=81),
            (service(),),
            ["spec.jwt.backendRefs[1]: Service default/shop has no TCP port 81; it has 80."],
        ),
        (
            backend_refs(kind="Gateway", name="shop"),
            (service(),),
            [f"spec.jwt.backendRefs[1]: {NO_BACKEND}"],
        ),
        (backend_refs(name="shop", port=80), (service(),), []),
    ],
)
def test_a_reference_is_judged_without_a_word_from_its_feature(
    field: dict[str, Any], manifests: tuple[str, ...], expected: list[str]
) -> None:
    assert problems(field, *manifests) == expected


def test_a_reference_is_meant_in_the_namespace_of_who_wrote_it() -> None:
    """Merged into another's field, it must not come to mean a Secret of the one that it was merged with."""
    parent = trial("parent", namespace="ops", jwt=KEYS)
    child = trial("child", mergeType="StrategicMerge", jwt=backend_refs(name="shop", port=80))
    everything = (parent, child, service(), secret("keys", {}))

    merged = effective_policy(db(*everything), child.ref, parent.ref)
    assert merged is not None
    (problem,) = merged.problems
    assert problem.message.endswith("Secret ops/keys does not exist.")

    merged = effective_policy(db(*everything, secret("keys", {}, namespace="ops")), child.ref, parent.ref)
    assert merged is not None
    assert merged.problems == ()


def test_references_are_known_with_their_places() -> None:
    assert list(references(trial(jwt=KEYS | backend_refs(kind="Gateway", name="no-backend")))) == [
        ("spec.jwt.keys.name", Ref.of(Secret, "default", "keys")),
        ("spec.jwt.backendRefs[0].name", Ref.of(Service, "default", "shop")),
    ]


def test_a_reference_that_leads_nowhere_is_reported_with_what_may_have_been_meant() -> None:
    held: dict[Ref, Resource] = {r.ref: r for r in read(secret("kews", {}))}
    policy: TrialPolicy = trial(jwt=KEYS)
    held[policy.ref] = policy

    problems = [problem for _, problem, _ in dangling_references(held, [policy.ref])]

    assert [
        (problem.path, problem.message) for problem in problems if problem.path.startswith("spec.jwt")
    ] == [("spec.jwt.keys.name", "There is no Secret default/keys. Did you mean 'kews'?")]


def test_an_edit_of_what_is_referred_to_disturbs_nobody_who_only_asks_for_it() -> None:
    policy = trial(jwt=KEYS)
    manifests = [policy, *read(secret("keys", {}))]
    database = Db()
    store = Store(database, INDEXES)
    store.apply({resource.ref: resource for resource in manifests})
    effective_policy(database, policy.ref, None)
    before = database.counts["effective_policy"]

    store.apply({r.ref: r for r in read(secret("keys", {"a": b"b"}))})
    effective_policy(database, policy.ref, None)

    assert database.counts["effective_policy"] == before
