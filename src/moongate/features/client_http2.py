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
from moongate.features.base import Effective, Feature, ManagerEdit, http2_options, http2_problems
from moongate.problem import Problem


def check(db: Db, http2: Effective[HTTP2Settings]) -> Iterator[Problem]:
    """Windows out of Envoy's range, and an action that there is not."""
    return http2_problems(http2.value)


def _connection_manager(edit: ManagerEdit, http2: Effective[HTTP2Settings]) -> None:
    http2_options(edit.message.http2_protocol_options, http2.value)


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="http2",
    model=HTTP2Settings,
    check=check,
    connection_manager=_connection_manager,
)
