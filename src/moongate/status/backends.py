"""The status of a Backend: whether routes can use it.

Source: Envoy Gateway, ``BackendStatus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from moongate.api.backend import Backend
from moongate.api.base import ENVOY_GROUP, Condition, Ref
from moongate.attach.backend_tls import INVALID_BACKEND_TLS
from moongate.attach.backends import Target, backend
from moongate.engine import query
from moongate.status.conditions import condition, summary, unsupported
from moongate.store import get

if TYPE_CHECKING:
    from moongate.engine import Db


class BackendStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``status`` of a Backend."""

    conditions: tuple[Condition, ...]


@query
def backend_status(db: Db, ref: Ref) -> BackendStatus | None:
    """Whether routes can use a Backend (``Accepted``); ``None`` if it does not exist.

    The status does not say whether a route uses it, or whether its endpoints answer.
    """
    resource = get(db, Backend, ref)
    if resource is None:
        return None
    generation = resource.metadata.generation
    problem = backend(db, Target(ENVOY_GROUP, ref.kind, ref.namespace, ref.name, 0), False).problem
    # If moongate cannot use the type of an address, the Backend is still valid, and others may use it. And
    # what is wrong with TLS for some port may be a fault of its BackendTLSPolicy.
    of_others = problem is not None and problem.reason == INVALID_BACKEND_TLS and not problem.path
    if problem is None or problem.reason == "UnsupportedAddressType" or of_others:
        accepted = condition("Accepted", "True", "Accepted", "The Backend can be used.", generation)
    else:
        message = summary([problem])
        accepted = condition("Accepted", "False", "Invalid", message, generation)
    # If it is not accepted because of such a field, the message says so already.
    return BackendStatus(conditions=(accepted, *(unsupported(resource) if accepted.status == "True" else ())))
