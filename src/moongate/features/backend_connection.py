"""Connections to backends: how much is buffered, and connecting before there is a request.

Set by:      BackendTrafficPolicy ``spec.connection``
Precedence:  the most specific policy wins
Envoy:       ``Cluster.per_connection_buffer_limit_bytes``, ``Cluster.preconnect_policy``
Cases:       backend_connection.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.cluster_settings import BackendConnection
from moongate.api.shared import quantity
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.features.shared import unused_socket_buffer
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

_MAX_BUFFER: Final = 2**32 - 1
_MAX_PREDICTIVE: Final = 300
"""Source: envoy/config/cluster/v3/cluster.proto, PreconnectPolicy."""


def check(_db: Db, connection: Effective[BackendConnection]) -> Iterator[Problem]:
    size = connection.value.buffer_limit
    if size is not None and not 0 <= quantity(size) <= _MAX_BUFFER:
        yield Problem("bufferLimit", f"bufferLimit is {size}; it must be between 0 and {_MAX_BUFFER} bytes.")
    preconnect = connection.value.preconnect
    predictive = preconnect.predictive_percent if preconnect is not None else None
    # The CRD allows more, Envoy does not.
    if predictive is not None and predictive > _MAX_PREDICTIVE:
        message = f"predictivePercent is {predictive}; it must be from 100 to {_MAX_PREDICTIVE}."
        yield Problem("preconnect.predictivePercent", message)


def hints(connection: BackendConnection) -> Iterator[Problem]:
    if connection.socket_buffer_limit is not None:
        yield unused_socket_buffer()


def cluster(edit: ClusterEdit, connection: Effective[BackendConnection]) -> None:
    spec = connection.value
    if spec.buffer_limit is not None:
        edit.message.per_connection_buffer_limit_bytes.value = quantity(spec.buffer_limit)
    if spec.preconnect is None:
        return
    each, predictive = spec.preconnect.per_endpoint_percent, spec.preconnect.predictive_percent
    if each is not None:
        edit.message.preconnect_policy.per_upstream_preconnect_ratio.value = each / 100
    if predictive is not None:
        edit.message.preconnect_policy.predictive_preconnect_ratio.value = predictive / 100


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="connection",
    model=BackendConnection,
    check=check,
    hints=hints,
    transports=("TCP",),
    cluster=cluster,
)
