"""The labels of namespaces, by which listeners, Gateways and policies choose among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import Ref
from moongate.api.core import Namespace
from moongate.engine import query
from moongate.store import get

if TYPE_CHECKING:
    from moongate.api.shared import LabelSelector
    from moongate.engine import Db

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that each namespace has, with its name."""


@query
def namespace_labels(db: Db, namespace: str) -> tuple[tuple[str, str], ...]:
    """The labels of a namespace, sorted. A namespace that nobody declared has its name as its only label."""
    resource = get(db, Namespace, Ref.of(Namespace, "", namespace))
    return tuple(sorted(labels_of(resource, namespace).items()))


def labels_of(resource: Namespace | None, namespace: str) -> dict[str, str]:
    """The labels of a namespace that may not be declared."""
    labels = resource.metadata.labels if resource is not None else {}
    return labels | {NAMESPACE_LABEL: namespace}


def selects(db: Db, selector: LabelSelector, namespace: str) -> bool:
    """Whether a selector matches a namespace; it reads the namespace's labels."""
    return selector.selects(dict(namespace_labels(db, namespace)))
