"""The hostname that a request without one is for: HTTP/1.0 has no Host header.

Source: the reference, which counts each match of a route by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.attach.envoy_listeners import placement_of
from moongate.attach.listeners import listener_at
from moongate.attach.route_kinds import route_kind
from moongate.attach.routes import attached_hosts, attached_in, route_shards
from moongate.attach.sizes import is_exact
from moongate.engine import query

if TYPE_CHECKING:
    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db


class DefaultHost(NamedTuple):
    """What requests without a hostname are for.

    Args:
        host: the hostname; "" if there is none.
        candidates: hostnames of routes of which none is the only one, the first two; none if ``host`` is set.
    """

    host: str
    candidates: tuple[str, ...] = ()


@query
def default_host(db: Db, listener: ListenerId) -> DefaultHost:
    """The first exact hostname of the listeners that share a chain, or else the only one of their routes."""
    placement = placement_of(db, listener)
    members = placement.group.members if placement is not None else (listener,)
    own = [judged.hostname for each in members if (judged := listener_at(db, each)) is not None]
    exact = next((host for host in own if host and is_exact(host)), None)
    if exact is not None:
        return DefaultHost(exact)
    hosts: dict[str, None] = {}
    for owner in dict.fromkeys(each.owner for each in members):
        for part in route_shards(db, owner):
            hosts.update(dict.fromkeys(_exact_hosts_in(db, owner, part, members)))
            if len(hosts) > 1:
                return DefaultHost("", tuple(sorted(hosts)[:2]))
    return DefaultHost(next(iter(hosts), ""))


@query
def _exact_hosts_in(db: Db, owner: Ref, part: int, members: tuple[ListenerId, ...]) -> tuple[str, ...]:
    """The exact hostnames of the routes of one shard on some listeners, the first two."""
    hosts: dict[str, None] = {}
    for route, listeners in attached_in(db, owner, part).routes:
        if route_kind(route.kind).matches is None:
            continue
        for listener in (each for each in listeners if each in members):
            hosts.update(dict.fromkeys(filter(is_exact, attached_hosts(db, route, listener))))
        if len(hosts) > 1:
            break
    return tuple(hosts)[:2]
