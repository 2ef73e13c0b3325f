"""ReferenceGrant: who may refer to what across namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import Ref
from moongate.api.gateway import ReferenceGrant
from moongate.engine import query
from moongate.store import Index, find, get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db


def _by_namespace(grant: ReferenceGrant) -> Iterator[tuple[str, Ref]]:
    yield grant.metadata.namespace, grant.ref


GRANTS = Index("grants", (ReferenceGrant,), _by_namespace)
"""Namespace → the grants in it."""


def granted(db: Db, group: str, kind: str, namespace: str, to: Ref) -> bool:
    """Whether resources of a group and kind in ``namespace`` may refer to ``to``.

    True within one namespace. Several grants in the target's namespace add up.

    Source:
        Gateway API, ReferenceGrant.
    """
    return namespace == to.namespace or _granted_across(db, group, kind, namespace, to)


def permits(grant: ReferenceGrant, group: str, kind: str, namespace: str, to: Ref) -> bool:
    """Whether a grant, which is in the namespace of ``to``, lets resources of some kind refer to it."""
    return any(
        f.group == group and f.kind == kind and f.namespace == namespace for f in grant.spec.from_
    ) and any(
        t.group == to.group and t.kind == to.kind and t.name in (None, "", to.name) for t in grant.spec.to
    )


@query
def _granted_across(db: Db, group: str, kind: str, namespace: str, to: Ref) -> bool:
    grants = (get(db, ReferenceGrant, ref) for ref in find(db, GRANTS, to.namespace))
    return any(grant is not None and permits(grant, group, kind, namespace, to) for grant in grants)
