"""Empty packets on silent connections of clients, so that those who are gone are noticed.

Set by:      ClientTrafficPolicy ``spec.tcpKeepalive``
Precedence:  the policy of the listener, else that of the Gateway, as a whole; for a port the oldest policy
Envoy:       ``Listener.socket_options``, which the connections of a listener inherit
Cases:       client_tcp_keepalive.md beside this file: its reference page and its golden tests

Source: Linux, socket(7) and tcp(7).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.listener.v3.listener_pb2 import Listener

from moongate.api.base import milliseconds
from moongate.api.connections import TCPKeepalive
from moongate.engine import Db
from moongate.features.base import Effective, Feature
from moongate.features.shared import keepalive_problems
from moongate.problem import Problem

_SOL_SOCKET: Final = 1
_SO_KEEPALIVE: Final = 9
_IPPROTO_TCP: Final = 6
_TCP_KEEPIDLE: Final = 4
_TCP_KEEPINTVL: Final = 5
_TCP_KEEPCNT: Final = 6


def check(db: Db, keepalive: Effective[TCPKeepalive]) -> Iterator[Problem]:
    """Numbers that Linux refuses, which would keep Envoy from listening."""
    return keepalive_problems(keepalive.value)


def _listener(listener: Listener, keepalive: Effective[TCPKeepalive]) -> None:
    spec = keepalive.value
    listener.socket_options.add(
        description="socket option to enable tcp keep alive",
        level=_SOL_SOCKET,
        name=_SO_KEEPALIVE,
        int_value=1,
    )
    for name, value, description in (
        (_TCP_KEEPCNT, spec.probes, "probes"),
        (_TCP_KEEPIDLE, _seconds(spec.idle_time), "idle time"),
        (_TCP_KEEPINTVL, _seconds(spec.interval), "interval"),
    ):
        if value is not None:
            listener.socket_options.add(
                description=f"socket option for keep alive {description}",
                level=_IPPROTO_TCP,
                name=name,
                int_value=value,
                state=SocketOption.STATE_PREBIND,
            )


def _seconds(time: str | None) -> int | None:
    return milliseconds(time) // 1000 if time is not None else None


FEATURE = Feature(
    kind="ClientTrafficPolicy", field="tcp_keepalive", model=TCPKeepalive, check=check, listener=_listener
)
