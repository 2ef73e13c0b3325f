"""HTTP/2 with clients: windows, streams at a time, pings, and malformed messages.

Set by:      ClientTrafficPolicy ``spec.http2``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager, ``http2_protocol_options``
Cases:       client_http2.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Iterator

from moongate.api.connections import HTTP2Settings
from moongate.engine import Db
from moongate.features.base import Effective, Feature, ManagerEdit
from moongate.features.shared import http2_hints, http2_options, http2_problems
from moongate.problem import Problem


def check(db: Db, http2: Effective[HTTP2Settings]) -> Iterator[Problem]:
    """Windows and times out of Envoy's range."""
    return http2_problems(http2.value)


def hints(http2: HTTP2Settings) -> Iterator[Problem]:
    """What has no effect: an action that there is not, and a ping before requests that clients send."""
    yield from http2_hints(http2)
    keepalive = http2.connection_keepalive
    if keepalive is not None and keepalive.idle_interval is not None:
        message = (
            "Envoy looks at it only where it sends the requests itself, so it has no effect on connections "
            "of clients; interval has."
        )
        yield Problem("connectionKeepalive.idleInterval", message, "Unused")


def _connection_manager(edit: ManagerEdit, http2: Effective[HTTP2Settings]) -> None:
    http2_options(edit.message.http2_protocol_options, http2.value)


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="http2",
    model=HTTP2Settings,
    check=check,
    hints=hints,
    connection_manager=_connection_manager,
)
