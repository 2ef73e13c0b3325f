"""Sending a scope again that Envoy may keep already, although it has not put it in force.

Facts
-----
* Envoy removes the scopes that a response removes, then takes the new ones one by one, and puts those in
  force together. If it refuses one, it has kept those before it, and has put none of them in force
* if one of those is sent again with equal content, Envoy ignores it, and acknowledges it without putting it
  in force

So after a refusal, scopes are sent in other bytes that mean the same, and each time in others. And scopes
are removed in a response of their own, after the news of the same edit. Until then requests go to the scope
that they had, and never to a shared one that does not know yet of their hostname.

* Envoy takes an empty response for no answer to its subscription to a collection, and its listener waits.
  The removal of any name in the collection is an answer

Source: Envoy 1.40, ``ScopedRdsConfigSubscription::onConfigUpdate``.
"""

from __future__ import annotations

from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from moongate.xds.wire import XdsResource, encode


def respelled(resource: XdsResource, spelling: int) -> XdsResource:
    """The same scope in other bytes.

    Args:
        resource: the scope.
        spelling: which bytes; for each number others.
    """
    # Joined to the encoded message, this is merged into it.
    mark = ScopedRouteConfiguration()
    mark.route_configuration.metadata.filter_metadata["moongate.sent"]["again"] = str(spelling)
    return XdsResource.of(resource.type_url, resource.name, resource.body + encode(mark))
