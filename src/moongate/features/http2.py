"""HTTP/2 to backends that speak it: windows, streams and pings. It makes no backend speak HTTP/2.

Set by:      BackendTrafficPolicy ``spec.http2``
Precedence:  the most specific policy wins
Envoy:       ``HttpProtocolOptions``, the ``http2_protocol_options`` of what is spoken
Cases:       http2.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.connections import HTTP2Settings
from moongate.features.base import ClusterEdit, Effective, Feature, http2_options, http2_problems
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db


def check(_db: Db, settings: Effective[HTTP2Settings]) -> Iterator[Problem]:
    return http2_problems(settings.value)


def hints(settings: HTTP2Settings) -> Iterator[Problem]:
    action = settings.on_invalid_message
    if action not in (None, "TerminateStream", "TerminateConnection"):
        message = (
            f"It is {action!r}, which is neither TerminateStream nor TerminateConnection. It has no effect."
        )
        yield Problem("onInvalidMessage", message, "Unused")


def cluster(edit: ClusterEdit, settings: Effective[HTTP2Settings]) -> None:
    http2_options(edit.http2_options, settings.value)


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="http2",
    model=HTTP2Settings,
    check=check,
    hints=hints,
    cluster=cluster,
)
