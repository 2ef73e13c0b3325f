"""What an entry of a table of routes says, in pieces that Envoy takes or refuses one by one.

Facts
-----
* Envoy checks most fields of a route alone, and a few against how its path is matched
* Envoy takes any name, metadata and clusters of a route, and they differ from entry to entry
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, VirtualHost

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from moongate.xds.fallbacks import Suspect

_OF_ENTRY: Final = frozenset({"name", "match", "metadata", "stat_prefix"})
_CLUSTERS: Final = frozenset({"cluster", "weighted_clusters", "request_mirror_policies"})


class Settings(NamedTuple):
    """What an entry says.

    Args:
        matching: how its routes match paths.
        pieces: what they say besides.
    """

    matching: frozenset[str] = frozenset()
    pieces: frozenset[bytes] = frozenset()


def settings_in(body: bytes) -> Settings:
    """What an encoded entry says."""
    routes = VirtualHost.FromString(body).routes
    matching = frozenset(str(route.match.WhichOneof("path_specifier")) for route in routes)
    return Settings(matching, frozenset(piece for route in routes for piece in _of_route(route)))


def new_settings(suspect: Suspect) -> Settings:
    """What a suspect says that its last good form does not say."""
    now = settings_in(suspect.body)
    if suspect.last_good is None:
        return now
    return now._replace(pieces=now.pieces - settings_in(suspect.last_good.body).pieces)


def is_closed(body: bytes) -> bool:
    """Whether an entry says nothing but that its requests are answered with 500."""
    return settings_in(body).pieces == _CLOSED


def _of_route(route: Route) -> Iterator[bytes]:
    yield from _pieces(route, "", _OF_ENTRY | {"route"})
    if route.HasField("route"):
        yield from _pieces(route.route, "route.", _CLUSTERS)
        clusters = _without_names(route.route)
        if clusters.ByteSize():
            yield b"clusters:" + encode(clusters)


def _pieces(message: Message, within: str, without: frozenset[str]) -> Iterator[bytes]:
    """The fields of a message, of a repeated one each entry."""
    for field, value in message.ListFields():
        name = f"{within}{field.name}"
        if field.name in without:
            continue
        if field.message_type is None:
            yield f"{name}:{value!r}".encode()
        elif field.message_type.GetOptions().map_entry:
            yield from (f"{name}.{key}:".encode() + encode(value[key]) for key in value)
        else:
            each_value: Any = value if field.is_repeated else (value,)
            yield from (f"{name}:".encode() + encode(each) for each in each_value)


def _without_names(action: RouteAction) -> RouteAction:
    """What an action says of the clusters to which it divides or mirrors requests, without their names."""
    clusters = RouteAction(request_mirror_policies=action.request_mirror_policies)
    for mirror in clusters.request_mirror_policies:
        mirror.ClearField("cluster")
    if action.HasField("weighted_clusters"):
        clusters.weighted_clusters.CopyFrom(action.weighted_clusters)
    for one in clusters.weighted_clusters.clusters:
        one.ClearField("name")
    return clusters


_SHUT: Final = Route()
_SHUT.direct_response.status = 500
_CLOSED: Final = frozenset(_of_route(_SHUT))
