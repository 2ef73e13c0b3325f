"""How request paths are cleaned before they are matched: double slashes, and slashes written as %2F.

Set by:      ClientTrafficPolicy ``spec.path``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager, ``merge_slashes`` and ``path_with_escaped_slashes_action``
Cases:       path.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import Final, Literal

from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.api.base import Model
from moongate.features.base import Effective, Feature, ManagerEdit

EscapedSlashesAction = Literal["KeepUnchanged", "RejectRequest", "UnescapeAndForward", "UnescapeAndRedirect"]

_ACTIONS: Final = {
    "KeepUnchanged": HttpConnectionManager.KEEP_UNCHANGED,
    "RejectRequest": HttpConnectionManager.REJECT_REQUEST,
    "UnescapeAndForward": HttpConnectionManager.UNESCAPE_AND_FORWARD,
    "UnescapeAndRedirect": HttpConnectionManager.UNESCAPE_AND_REDIRECT,
}


class PathSettings(Model, frozen=True, kw_only=True):
    """How paths are cleaned. ``.`` and ``..`` are always resolved."""

    escaped_slashes_action: EscapedSlashesAction | None = None
    """What is done with ``%2F`` and ``%5C``. ``UnescapeAndRedirect`` when not set."""
    disable_merge_slashes: bool | None = None
    """Keep ``//`` as it is; otherwise it becomes ``/``."""


def _connection_manager(edit: ManagerEdit, path: Effective[PathSettings]) -> None:
    edit.message.merge_slashes = not path.value.disable_merge_slashes
    edit.message.path_with_escaped_slashes_action = _ACTIONS[
        path.value.escaped_slashes_action or "UnescapeAndRedirect"
    ]


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="path",
    model=PathSettings,
    connection_manager=_connection_manager,
)
