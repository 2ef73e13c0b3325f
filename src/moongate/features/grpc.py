"""gRPC-Web: calls from browsers, translated to gRPC.

Set by:      ClientTrafficPolicy ``spec.grpc``
Precedence:  the policy of the listener, else that of the Gateway, as a whole; then what GRPCRoutes bring
Envoy:       ``envoy.filters.http.grpc_web``, extensions/filters/http/grpc_web/v3/grpc_web.proto
Cases:       grpc.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from moongate.api.base import Model
from moongate.features.base import Feature, ListenerFacts

GRPC_WEB: Final = "envoy.filters.http.grpc_web"


class GRPCSettings(Model, frozen=True, kw_only=True):
    """Calls of gRPC."""

    enable_web: bool | None = None
    """Whether calls of gRPC-Web are taken, for all routes of a listener. Without ``grpc`` GRPCRoutes take
    them and HTTPRoutes do not; with ``grpc: {}`` no route does."""


def _facts(facts: ListenerFacts, grpc: GRPCSettings) -> ListenerFacts:
    return structs.replace(facts, kind_filters=(*facts.kind_filters, (GRPC_WEB, bool(grpc.enable_web))))


FEATURE = Feature(kind="ClientTrafficPolicy", field="grpc", model=GRPCSettings, listener_facts=_facts)
