"""What counts as a setting of an entry, and what every entry has for itself."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.route.v3.route_components_pb2 import FilterConfig, Route, VirtualHost

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.xds.entry_settings import Settings, is_closed, new_settings, settings_in
from moongate.xds.fallbacks import Suspect
from moongate.xds.route_entries import RouteEntry
from moongate.xds.wire import encode, packed

ROUTE = Ref.of(HTTPRoute, "default", "r")


def route(name: str, path: str = "/") -> Route:
    message = Route(name=name)
    message.match.prefix = path
    message.route.cluster = f"to-{name}"
    return message


def encoded(*routes: Route) -> bytes:
    return encode(VirtualHost(routes=routes))


def test_what_each_route_has_for_itself_is_no_setting() -> None:
    """Its name, its match, its clusters."""
    one, other = route("one", "/a"), route("other", "/b")
    for each in (one, other):
        each.route.request_mirror_policies.add(cluster=f"mirror-of-{each.name}")
        each.metadata.filter_metadata["envoy-gateway"].update({"name": each.name})

    assert settings_in(encoded(one)) == settings_in(encoded(other))


def test_how_a_path_is_matched_is_told_apart() -> None:
    """Envoy checks rewrites against it."""
    exact = route("one")
    exact.match.path = "/"

    assert settings_in(encoded(exact)).matching != settings_in(encoded(route("one"))).matching


def test_what_is_new_is_found_one_by_one() -> None:
    """A header beside others, a filter beside others, a field of the action."""
    before, now = route("one"), route("one")
    for each in (before, now):
        each.response_headers_to_add.add(header=HeaderValue(key="a", value="1"))
        each.typed_per_filter_config["one"].CopyFrom(packed(FilterConfig(disabled=True)))
    now.response_headers_to_add.add(header=HeaderValue(key="b", value="2"))
    now.typed_per_filter_config["two"].CopyFrom(packed(FilterConfig(disabled=True)))
    now.route.timeout.FromSeconds(3)
    suspect = Suspect(ROUTE, "1", RouteEntry((), "h", ROUTE, encoded(before)), body=encoded(now))

    assert len(new_settings(suspect).pieces) == 3
    assert len(new_settings(suspect._replace(last_good=None)).pieces) == 5


def test_weights_are_settings_and_the_clusters_that_have_them_none() -> None:
    bodies: list[Settings] = []
    for name, weight in (("a", 1), ("b", 1), ("a", 2)):
        message = route("one")
        message.route.weighted_clusters.clusters.add(name=name).weight.value = weight
        bodies.append(settings_in(encoded(message)))

    assert bodies[0] == bodies[1] != bodies[2]


@pytest.mark.parametrize(("status", "closed"), [(500, True), (404, False)])
def test_an_answer_with_500_alone_is_closed(*, status: int, closed: bool) -> None:
    message = route("one")
    message.direct_response.status = status

    assert is_closed(encoded(message)) is closed
