"""The policies with settings in an Envoy route that Envoy may refuse it for.

Envoy refuses a route with a message that mostly does not say which field is wrong. So all policies are named
that may be meant: those with a setting that no good route has. What Envoy took before is not at fault, so a
mistake of a route is not blamed on the policies above it.

What a setting consists of is found by building it alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost

from moongate import names
from moongate.api.route import RequestRoute
from moongate.engine import query
from moongate.features.base import RouteEdit
from moongate.policies.effective import RULE_POLICIES, effective_rule
from moongate.policies.http_listeners import listener_facts
from moongate.store import get
from moongate.xds.filters import chain_filter, forwarding_config, route_config
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db
    from moongate.features.base import Effective, Feature, ListenerFacts


@query
def shaping_policies(
    db: Db, listener: ListenerId, route: Ref, refused: bytes, good: tuple[bytes, ...]
) -> tuple[Ref, ...]:
    """The policies with settings in an Envoy route that no good one has, sorted.

    Args:
        db: what is read.
        listener: that serves it.
        route: of which it is.
        refused: its encoded entry.
        good: encoded entries that Envoy took.
    """
    resource, now = get(db, RequestRoute, route), _first_route(refused)
    others = [_first_route(each) for each in good] or [Route()]
    facts = listener_facts(db, listener)
    owners: dict[Ref | None, None] = {}
    for index, rule in enumerate(resource.spec.rules if resource is not None else ()):
        if not now.name.startswith(f"{names.rule(route, index)}/"):
            continue
        for feature, effective in effective_rule(db, listener, route, rule).features:
            part = _part(db, feature, effective, facts)
            if all(_differs(part, now, other) for other in others):
                owners |= dict.fromkeys(effective.owners)
    return tuple(sorted(owner for owner in owners if owner is not None and owner.kind in RULE_POLICIES))


def _first_route(entry: bytes) -> Route:
    return VirtualHost.FromString(entry).routes[0]


def _part(db: Db, feature: Feature[Any], effective: Effective[Any], facts: ListenerFacts) -> Route:
    """What a setting adds to a route, but for what depends on the match."""
    part = Route()
    one = chain_filter(db, feature, effective)
    configs = (route_config(db, feature, effective), forwarding_config(feature, effective, facts))
    for config in configs if one is not None else ():
        if one is not None and config is not None:
            part.typed_per_filter_config[one.name].CopyFrom(packed(config))
    if feature.route is not None:
        feature.route(RouteEdit(part, facts), effective)
    return part


def _differs(part: Message, now: Message, before: Message) -> bool:
    """Whether a message has something in the place of a part of it that another has not."""
    for field, value in part.ListFields():
        new, old = getattr(now, field.name), getattr(before, field.name)
        if not field.is_repeated:
            of_fields = field.message_type is not None and value.ListFields()
            differs = _differs(value, new, old) if of_fields else new != old
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            differs = any(key in new and (key not in old or new[key] != old[key]) for key in value)
        else:
            differs = any(each in new and each not in old for each in cast("list[Any]", value))
        if differs:
            return True
    return False
