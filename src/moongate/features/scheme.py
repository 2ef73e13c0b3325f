"""The scheme that backends get to see.

Set by:      ClientTrafficPolicy ``spec.scheme``
Precedence:  the policy of the listener, else that of the Gateway
Envoy:       HTTP connection manager, ``scheme_header_transformation``
Cases:       scheme.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import Literal

from moongate.features.base import Effective, Feature, ManagerEdit

SchemeHeaderTransform = Literal["Preserve", "MatchBackend"]
"""``:scheme`` as the client sent it, or ``https`` to backends with TLS and ``http`` to others."""


def _connection_manager(edit: ManagerEdit, scheme: Effective[str]) -> None:
    if scheme.value == "MatchBackend":
        edit.message.scheme_header_transformation.match_upstream = True


FEATURE = Feature(
    kind="ClientTrafficPolicy", field="scheme", model=str, connection_manager=_connection_manager
)
