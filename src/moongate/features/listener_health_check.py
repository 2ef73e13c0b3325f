"""A path on which the gateway says itself that it is there, for load balancers in front of it.

Set by:      ClientTrafficPolicy ``spec.healthCheck``
Precedence:  the policy of the listener, else that of the Gateway
Envoy:       ``envoy.filters.http.health_check``, before all that may refuse a request
Cases:       listener_health_check.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import Annotated

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.health_check.v3.health_check_pb2 import HealthCheck
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue
from msgspec import Meta

from moongate.api.base import Model
from moongate.features.base import Feature, ListenerHttpFilter


class HealthCheckSettings(Model, frozen=True, kw_only=True):
    """Requests that Envoy answers itself: with 200, and with 503 while it is told to fail."""

    path: Annotated[str, Meta(min_length=1, max_length=1024)]
    """The whole path, with its query if it has one."""


def _chain(check: HealthCheckSettings) -> HealthCheck:
    path = HeaderMatcher(name=":path", string_match=StringMatcher(exact=check.path))
    return HealthCheck(pass_through_mode=BoolValue(value=False), headers=[path])


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="health_check",
    model=HealthCheckSettings,
    listener_filter=ListenerHttpFilter(name="envoy.filters.http.health_check", chain=_chain),
)
