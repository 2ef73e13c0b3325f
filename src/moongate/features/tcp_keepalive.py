"""Notice that a backend is gone, on connections where nothing is sent.

Set by:      BackendTrafficPolicy ``spec.tcpKeepalive``
Precedence:  the most specific policy wins
Envoy:       ``Cluster.upstream_connection_options.tcp_keepalive``, in whole seconds
Cases:       tcp_keepalive.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import milliseconds
from moongate.api.connections import TCPKeepalive
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

# What Linux takes. With anything else Envoy could not connect to any backend.
_MOST_PROBES: Final = 127
_MOST_SECONDS: Final = 32767


def check(_db: Db, keepalive: Effective[TCPKeepalive]) -> Iterator[Problem]:
    spec = keepalive.value
    if spec.probes is not None and not 1 <= spec.probes <= _MOST_PROBES:
        yield Problem("probes", f"probes is {spec.probes}; it must be between 1 and {_MOST_PROBES}.")
    for name, time in (("idleTime", spec.idle_time), ("interval", spec.interval)):
        if time is not None and not 1 <= milliseconds(time) // 1000 <= _MOST_SECONDS:
            yield Problem(name, f"{name} is {time!r}; it must be between 1s and {_MOST_SECONDS}s.")


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
