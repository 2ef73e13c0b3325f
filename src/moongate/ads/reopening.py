"""Which refused listeners are opened again, after the addresses that they need are closed.

Theory of operation
===================
Envoy refuses a listener whose address another of its listeners has open. That may be a listener that moves
in the same response, or the old version of the same listener when it gets one more address. So ``session``
removes the old version, lets the others move, and sends the listener again. Until then, for some
milliseconds, clients cannot connect to it. Open connections drain, as at any change of a listener.

Facts
-----
* Envoy keeps the old version of a listener open while the new one waits for a new route table. So if such a
  listener is in the same response, it is removed and sent again too
* a new listener with the addresses of one that the same response removes takes over its sockets. If only some
  of the addresses are equal, Envoy cannot open these until the old listener is closed
* Envoy closes sockets a moment after its answer, so a listener is sent again several times
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.ads.nacks import meets_a_listener, meets_a_socket
from moongate.ads.needs import addresses, needs_routes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.ads.channels import Batch, Channel
    from moongate.ads.nacks import Blame
    from moongate.xds.wire import XdsResource

MOST_REOPENINGS: Final = 50
"""How often a listener is sent again while Envoy closes its old sockets, which takes some milliseconds."""


def meeting_listeners(blamed: Blame) -> list[str]:
    """The listeners that stay together when they are sent again, because they may meet each other.

    Empty if Envoy's message is certain about each listener that meets another one.
    """
    meeting = [name for name, words in blamed.likely.items() if meets_a_listener(name, words)]
    if meeting:
        meeting += [name for name, words in blamed.certain.items() if meets_a_listener(name, words)]
    return meeting


def to_reopen(
    listeners: Channel,
    routes: Channel | None,
    handed_out: Mapping[str, XdsResource],
    batch: Batch,
    blamed: Blame,
) -> list[str]:
    """The listeners of a refused batch that are to be opened again. Notes how often that was tried.

    Args:
        listeners: the channel of the batch.
        routes: the channel of route tables; None if Envoy has not requested any.
        handed_out: all listeners of the fleet, in their newest version.
        batch: what was refused.
        blamed: what Envoy's message says about it.
    """
    reopening: list[str] = []
    for name, words in blamed.certain.items():
        listener = batch.news.get(name)
        if listener is None:
            continue
        version, times = listeners.reopened.get(name, ("", 0))
        tried = times if version == listener.version else 0
        if _may_reopen(listener, words, handed_out, tried=tried, closes=bool(batch.gone)):
            listeners.reopened[name] = listener.version, tried + 1
            reopening.append(name)
    if reopening:
        reopening += [
            name
            for name, listener in batch.news.items()
            if name not in blamed.certain and _waits_for_routes(listeners, routes, listener)
        ]
    return reopening


def _may_reopen(
    listener: XdsResource, message: str, handed_out: Mapping[str, XdsResource], *, tried: int, closes: bool
) -> bool:
    """Whether Envoy can open a listener after other listeners, and its own old version, are closed.

    If another listener keeps the address, closing does not help, and the listener is rejected.

    Args:
        listener: the refused listener.
        message: what Envoy says about it.
        handed_out: all listeners of the fleet.
        tried: how often this version was already opened again.
        closes: whether the same response closes listeners.
    """
    if meets_a_socket(message):
        return tried <= MOST_REOPENINGS if tried else closes
    if tried or not meets_a_listener(listener.name, message):
        return False
    own = addresses(listener)
    others = (other for name, other in handed_out.items() if name != listener.name)
    return not any(own & addresses(other) for other in others)


def _waits_for_routes(listeners: Channel, routes: Channel | None, listener: XdsResource) -> bool:
    """Whether Envoy keeps the old version of a listener until it has route tables that come later.

    The old version may have the address that another listener takes over.
    """
    if not listeners.has(listener.name):
        return False
    tables = needs_routes(listener)
    return routes is None or not all(map(routes.has, tables))
