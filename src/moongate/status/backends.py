"""The status of a Backend: whether routes can use it.

Source: Envoy Gateway, ``BackendStatus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from moongate.api.backend import Backend
from moongate.api.base import ENVOY_GROUP, Condition, Ref
from moongate.attach.backends import Target, backend
from moongate.engine import query
from moongate.status.conditions import condition, summary, unsupported
from moongate.store import get

if TYPE_CHECKING:
    from moongate.engine import Db

_FIELDS: Final = {"InvalidBackendTLS": "spec.tls"}
"""Reason of a problem → the field of the Backend that has it. Routes report it at their own reference."""


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
    # If moongate cannot use the type of an address, the Backend is still valid, and others may use it.
    if problem is None or problem.reason == "UnsupportedAddressType":
        accepted = condition("Accepted", "True", "Accepted", "The Backend can be used.", generation)
    else:
        field = _FIELDS.get(problem.reason, problem.path)
        message = summary([structs.replace(problem, path=field)])
        accepted = condition("Accepted", "False", "Invalid", message, generation)
    # If it is not accepted because of such a field, the message says so already.
    return BackendStatus(conditions=(accepted, *(unsupported(resource) if accepted.status == "True" else ())))
