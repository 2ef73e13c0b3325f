"""HTTP/2 to backends that speak it: windows, streams and pings. It makes no backend speak HTTP/2.

Set by:      BackendTrafficPolicy ``spec.http2``
Precedence:  the most specific policy wins
Envoy:       ``HttpProtocolOptions``, the ``http2_protocol_options`` of what is spoken
Cases:       http2.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.connections import HTTP2Settings
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.features.shared import http2_hints, http2_options, http2_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db
    from moongate.problem import Problem


def check(_db: Db, settings: Effective[HTTP2Settings]) -> Iterator[Problem]:
    return http2_problems(settings.value)


def hints(settings: HTTP2Settings) -> Iterator[Problem]:
    return http2_hints(settings)


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
