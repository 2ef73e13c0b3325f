"""Notice that a backend is gone, on connections where nothing is sent.

Set by:      BackendTrafficPolicy ``spec.tcpKeepalive``
Precedence:  the most specific policy wins
Envoy:       ``Cluster.upstream_connection_options.tcp_keepalive``, in whole seconds
Cases:       tcp_keepalive.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import milliseconds
from moongate.api.connections import TCPKeepalive
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.features.shared import keepalive_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db
    from moongate.problem import Problem


def check(_db: Db, keepalive: Effective[TCPKeepalive]) -> Iterator[Problem]:
    """Numbers that Linux refuses, which would keep Envoy from connecting to any backend."""
    return keepalive_problems(keepalive.value)


def cluster(edit: ClusterEdit, keepalive: Effective[TCPKeepalive]) -> None:
    spec, built = keepalive.value, edit.message.upstream_connection_options.tcp_keepalive
    built.SetInParent()
    if spec.probes is not None:
        built.keepalive_probes.value = spec.probes
    if spec.idle_time is not None:
        built.keepalive_time.value = milliseconds(spec.idle_time) // 1000
    if spec.interval is not None:
        built.keepalive_interval.value = milliseconds(spec.interval) // 1000


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="tcp_keepalive",
    model=TCPKeepalive,
    check=check,
    transports=("TCP",),
    cluster=cluster,
)
