"""A feature that is no part of the product: it uses what no built feature uses yet.

It takes the place of ``jwt``, a field of the spec that is not built, in a SecurityPolicy of its own type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from moongate.api.base import Model, ObjectMeta
from moongate.api.shared import BackendRef, SecretObjectReference
from moongate.features import FEATURES
from moongate.features.base import Feature, Reference
from moongate.policies.security_policy import SecurityPolicy, SecurityPolicySpec


class Trial(Model, frozen=True, kw_only=True):
    keys: SecretObjectReference | None = None
    backend_refs: tuple[BackendRef, ...] = ()


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


FEATURE = Feature(kind="SecurityPolicy", field="jwt", model=Trial, references=_references)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the feature into the table, wherever that is read."""
    readers = (
        m for name, m in sys.modules.items() if name.startswith("moongate.") and hasattr(m, "FEATURES")
    )
    for module in readers:
        monkeypatch.setattr(module, "FEATURES", (*FEATURES, FEATURE))
