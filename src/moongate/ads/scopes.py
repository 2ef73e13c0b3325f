"""What scopes need beside the order of types: other bytes after a refusal, and an order of their own.

Theory of operation
===================
Envoy may keep scopes of a response that it refused, without using them. If they were sent again as they are,
it would not use them either. So after a refusal, scopes are sent in other bytes that mean the same, and each
time in others.

The same holds when Envoy has just connected, because the former stream may have ended amid a refusal. Envoy
does not say then which scopes it has. So it is sent all of them in other bytes, and the removal of those that
have left the fleet and that it may still have (``departures``).

Scopes are removed in a response of their own, after the news of the same edit. Until then requests go to the
scope that they had, and never to a shared one that does not know yet of their hostname.

The *shared* scope of a table (``names.OTHERS``) answers for all hostnames without a scope. So it may let
requests pass that the scope of their hostname would not. In one response with the others it comes into force
together with them. When they are sent in several, as they are many or as one was refused, it comes last.

Even then another scope may be refused, and Envoy may have none for that hostname. As long as Envoy does not
use the shared scope either, that scope *waits* for the mend: the quarantine soon hands out the refused scope
in a form that Envoy takes. It waits ``MEND_SECONDS`` at most. Without that bound, one hostname that nobody
can mend would keep all wildcards of the table from being served. What is removed from the table waits with
it, because requests for it may go to the shared scope then. Once Envoy uses the shared scope, a new hostname
whose scope is refused is answered by it, as before.

What is removed waits as well while Envoy refuses the shared scope, which may guard less than it is to.

Facts
-----
* Envoy looks first whether two scopes have one key. If so, it refuses the response, and has kept nothing of
  it
* then it removes the scopes that a response removes, takes the new ones one by one, and puts those in force
  together. If it refuses one, it has kept those before it, and has put none of them in force
* if one of those is sent again with equal content, Envoy ignores it, and acknowledges it without putting it
  in force. That is so even after it has connected again
* Envoy does not say at a new connection which scopes it has, and keeps those that it is not sent again. The
  removal of a scope that it does not have is no change

* Envoy takes an empty response for no answer to its subscription to a collection, and its listener waits.
  The removal of any name in the collection is an answer

Source: Envoy 1.40, ``ScopedRdsConfigSubscription::onConfigUpdate`` and ``DeltaSubscriptionState``.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from moongate.ads.channels import ABSENT, UNKNOWN
from moongate.ads.ledger import collection_of, is_collection
from moongate.names import OTHERS
from moongate.xds.wire import XdsResource, encode

if TYPE_CHECKING:
    from moongate.ads.channels import Batch, Channel

MEND_SECONDS: Final = 30.0
"""How long a shared scope waits for others to be mended.

The quarantine needs some answers of Envoy for each culprit: milliseconds, or seconds if there are many. What
is not mended by then hardly ever will be.
"""

_SHARED: Final = f"/{OTHERS}"
"""How the name of a shared scope ends."""


def shared(collection: str) -> str:
    """The scope in a collection that answers for all hostnames without one."""
    return f"{collection.removesuffix('*')}{OTHERS}"


def is_shared(name: str) -> bool:
    """Whether a scope answers for all hostnames without one."""
    return name.endswith(_SHARED)


def halves(batch: Batch) -> list[Batch]:
    """A refused batch as several, with shared scopes last."""
    last = batch.part([name for name in batch.news if is_shared(name)])
    if not batch.news:
        last.gone |= batch.gone
        return [*last.halves()]
    first = [*batch.halves()] if len(batch.news) > 1 else [batch]
    return [*first, last] if last else first


def waiting(scopes: Channel, batch: Batch, now: float, seconds: float) -> list[str]:
    """The names in a batch that wait for other scopes to be mended. Notes for how long.

    Args:
        scopes: the channel of the batch.
        batch: what is to be sent now.
        now: the time.
        seconds: how long a shared scope waits at most.
    """
    if not scopes.rejected or not (batch.gone or any(map(is_shared, batch.news))):
        return []
    missing: set[str] = set()
    refused: set[str] = set()
    for name in scopes.rejected:
        if is_shared(name):
            if name not in batch.gone:  # else all of the table leaves with it
                refused.add(collection_of(name))
        elif name not in batch.news and _is_missing(scopes, name):
            missing.add(collection_of(name))
    for name in batch.news:
        unused = name in scopes.returning or _is_missing(scopes, name)
        if is_shared(name) and unused and collection_of(name) in missing:
            scopes.waiting.setdefault(name, now + seconds)
    for collection in {collection_of(name) for name in batch.gone} & refused:
        scopes.waiting.setdefault(shared(collection), now + seconds)
    until = {collection: scopes.waiting.get(shared(collection), -inf) for collection in missing | refused}
    names = [name for name in batch.news if is_shared(name) and collection_of(name) in missing]
    names += [name for name in batch.gone if not is_collection(name)]
    return [name for name in names if now < until.get(collection_of(name), -inf)]


def respelled(resource: XdsResource, spelling: str) -> XdsResource:
    """The same scope in other bytes.

    Args:
        resource: the scope.
        spelling: which bytes; for each text others.
    """
    # Joined to the encoded message, this is merged into it.
    mark = ScopedRouteConfiguration()
    mark.route_configuration.metadata.filter_metadata["moongate.sent"]["again"] = spelling
    return XdsResource.of(resource.type_url, resource.name, resource.body + encode(mark))


def _is_missing(scopes: Channel, name: str) -> bool:
    """Whether Envoy has no version of a scope, as far as is known."""
    return scopes.ledger.get(name) in (None, ABSENT, UNKNOWN)
