"""One delta ADS stream as a state machine: no sockets, no clock, no asyncio.

Theory of operation
===================
Each type has a *channel*: what Envoy asked for, what it *holds* (acknowledged versions), and at most one
response in *flight*. A name whose content may differ is *dirty*. A channel at rest turns its dirty names into
a *batch* and sends it; while it waits for the answer, further changes gather, so a busy stream batches and an
idle one reacts at once.

Make before break is a matter of when a batch may leave. Every edit of the snapshot has a number, and
everything that waits remembers the oldest edit that it carries; so "all clusters up to edit 7 are
acknowledged" is one comparison.

* clusters, endpoints, secrets: at once. Envoy holds its ACK of a cluster back until the cluster is warm, and
  needs endpoints and secrets for that, so these wait for nobody. With a changed cluster its endpoints are
  sent again, though they did not change: it warms from nothing, yet Envoy does not ask for what it is
  subscribed to already.
* listeners: *staged* as of some edit, sent when clusters and endpoints are acknowledged up to that edit. What
  is staged keeps its bytes: under a flood of new clusters it still moves on, one cut after the other.
* routes: the same, and listeners and secrets up to that edit must be answered too. A route may rely on a
  filter that its listener has only now; until then the former routes are in force. Envoy acknowledges a
  listener before it has its routes, so nobody waits in a circle, but it asks for the secrets of a listener
  before that, and needs them to put it in force.
* a route table that *returns*, and that no listener in force uses, goes before the listeners: Envoy may have
  kept it as it was.
* what is gone is *pending removal*; when listeners and routes are acknowledged up to the edit that dropped
  it, it *lingers* for requests and retries that still hold the old route; then it is removed. Coming back in
  time cancels that.

A NACK names its culprit, or the batch is sent again in halves until one resource is alone. The culprit is
*rejected*: that version is not sent again on this stream, and holds nobody up, except that nothing is removed
which its last good version may still use.

A listener that *reopens* is the exception. Envoy opens no address that one of its listeners has open, be it
a listener that moves in the same response, or the former version of this one where it gets one address more.
So its former version is removed, the others move, and it is sent again. Until then, for some milliseconds,
nobody can connect; connections that are open drain as at any change of a listener.

Rules
-----
1. Everything that decides what a client is sent lives in this file.
2. Requests come in as messages, time as an argument in seconds; responses go out as bytes, what became
   of them as ``events``.
3. The cost of a change is the change: names are looked up, types are never scanned, but once at the first
   request.

Source: xDS protocol, "Incremental xDS", "How the client specifies what resources to return" and "Eventual
consistency considerations".
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from moongate.ads.channels import ABSENT, UNKNOWN, Batch, Channel, Flight, Refused
from moongate.ads.events import Acknowledged, Counters, Event, Nacked
from moongate.ads.ledger import Ledger
from moongate.ads.nacks import culprits, meets_a_listener, meets_a_socket
from moongate.ads.needs import addresses, needs_endpoints, needs_routes
from moongate.xds.refusals import reason
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.ads.responses import Response
    from moongate.ads.snapshot import Difference, Snapshot
    from moongate.xds.wire import XdsResource

LINGER_SECONDS = 5.0
"""How long what nothing refers to any more outlives the switch: requests in flight, retries find it."""

PATIENCE_SECONDS = 30.0
"""How long an answer is waited for after Envoy was heard of. Above its initial_fetch_timeout of 15 s."""

MOST_REOPENINGS = 50
"""How often a listener is tried again while its former sockets are closed, which takes some milliseconds."""

ORDER = (
    CLUSTER,  # first: all else refers to clusters
    ENDPOINT,  # a cluster warms with them
    SECRET,  # so do TLS clusters, and listeners
    LISTENER,  # before routes, whose per-route settings address its filters
    ROUTE,
)
"""Who is served first when several channels may send. The order of making."""

_MAKE = (CLUSTER, ENDPOINT)
_SWITCH = (LISTENER, ROUTE)

_BEFORE: Mapping[str, tuple[str, ...]] = {
    LISTENER: _MAKE,
    ROUTE: (*_MAKE, SECRET, LISTENER),
}
"""What must be answered before a type leaves, up to the same edit."""


class Session:
    """What one Envoy has, was sent, and is to be sent next."""

    def __init__(
        self,
        fleet: str,
        node: str,
        snapshot: Snapshot,
        counters: dict[str, Counters] | None = None,
        *,
        stream: int = 0,
        linger_seconds: float = LINGER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.fleet = fleet
        self.node = node
        self.stream = stream
        self.events: deque[Event] = deque()
        """What became known, oldest first. The caller takes them out."""
        self._snapshot = snapshot
        self._counters = {} if counters is None else counters
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._channels: dict[str, Channel] = {}
        self._last = 0
        """The number of the last response."""
        self._warming: set[str] = set()
        """Endpoints that changed clusters wait for, while Envoy has still to say which it subscribes to."""
        self._holding = False

    def receive(self, request: DeltaDiscoveryRequest, now: float) -> None:
        """Take one request: a subscription, a change of it, an ACK, a NACK, or several of these in one."""
        for waiting in self._channels.values():
            if waiting.flight is not None:
                waiting.flight.heard_at = min(waiting.flight.heard_at, now)
        channel = self._channels.get(request.type_url)
        if channel is None:
            self._open(request)
            return
        if request.response_nonce:
            self._answered(channel, request)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(channel, name)
        if not channel.ledger.wildcard:
            self._acknowledged(channel, {}, request.resource_names_unsubscribe)
        for name in request.resource_names_subscribe:
            self._subscribe(channel, name)

    def touch(self, differences: Iterable[Difference]) -> None:
        """Learn of an edit of the snapshot. To be called after each."""
        listening = self._in_force(LISTENER)
        for type_url, name, before in differences:
            channel = self._channels.get(type_url)
            if channel is None:
                continue
            channel.ledger.enter(name, before)
            if channel.ledger.wants(name):
                channel.mark(name, self._snapshot.seq)
                if type_url == ROUTE:
                    self._note_return(channel, name, before, listening)
        for channel in self._channels.values():
            channel.ledger.compact()

    def _note_return(self, routes: Channel, name: str, before: str | None, listening: float) -> None:
        """Note whether a route table comes back that no listener in force uses meanwhile.

        Args:
            routes: the channel of route tables.
            name: of a table that differs.
            before: its version before the edit; None when the fleet was without it.
            listening: the last edit before this one as of which all listeners were in force.
        """
        if self._snapshot.get(ROUTE, name) is None:
            routes.returning.discard(name)
            routes.absent[name] = self._snapshot.seq
        elif before is None and (since := routes.absent.pop(name, None)) is not None and since <= listening:
            routes.returning.add(name)

    def next(self, now: float) -> bytes | None:
        """The encoded ``DeltaDiscoveryResponse`` to send next, or None when there is nothing to say now.

        One at a time, so that a slow client is sent what is true when it has room, not a queue of what was.
        """
        if not self._snapshot.seq:
            return None
        self._time_out(now)
        for channel in self._in_order():
            if channel.flight is None and (batch := self._due(channel, now)) is not None:
                return self._send(channel, batch, now)
        return None

    def wake_at(self, now: float) -> float | None:
        """When ``next`` may have something to say though nothing was received or touched; None for never.

        To be asked when ``next`` has nothing to say at ``now``; the answer is later than that.
        """
        # What is due while its channel, or its clusters that leave first, wait for an answer waits with them.
        times = [
            due
            for channel in self._channels.values()
            if channel.flight is None
            for due in channel.next_due()
            if channel.type_url == CLUSTER or not self._removing_clusters(max(due, now))
        ]
        times += [
            channel.flight.heard_at + self._patience_seconds
            for channel in self._awaited()
            if channel.flight is not None and channel.flight.heard_at < inf
        ]
        return min(times, default=None)

    def hold(self) -> None:
        """Send no routes until ``release``: others are being built, because of what Envoy has refused."""
        self._holding = True

    def release(self) -> None:
        """Send routes again, as they are by now."""
        self._holding = False
        routes = self._channels.get(ROUTE)
        if routes is not None:
            for batch in (routes.staged.take(), *routes.retries):
                routes.take_back(batch)
            routes.retries.clear()

    def settled(self, seq: int) -> bool:
        """Whether all that Envoy subscribes to is acknowledged, or in quarantine, up to edit ``seq``.

        What lingers does not count. An Envoy that has still to ask for a type is starting, or reconnecting.
        """
        if not self._snapshot.seq or self._done(self._channels) < seq:
            return False
        return not any(self._awaits(type_url) for type_url in (*_MAKE, *_SWITCH))

    def retry(self, type_url: str, name: str) -> None:
        """Give a refused resource another chance, though it did not change: what it met with may be gone."""
        channel = self._channels.get(type_url)
        if channel is not None and (refused := channel.rejected.get(name)) is not None:
            refused.again = True
            channel.mark(name, self._snapshot.seq)

    def asks_for(self, type_url: str, name: str) -> bool:
        """Whether Envoy asks for a resource, or has still to ask for its type."""
        channel = self._channels.get(type_url)
        return self._awaits(type_url) if channel is None else channel.ledger.wants(name)

    def held(self, type_url: str, name: str) -> str | None:
        """The version that Envoy has acknowledged, or had when it connected; None when there is none."""
        channel = self._channels.get(type_url)
        version = None if channel is None else channel.ledger.get(name)
        return None if version in (ABSENT, UNKNOWN) else version

    def entries(self) -> int:
        """How many names and versions are kept of this Envoy alone, because it has others than it should."""
        return sum(channel.ledger.entries() for channel in self._channels.values())

    def rejections(self) -> Iterator[Nacked]:
        """What this Envoy refuses of what the fleet should have."""
        for channel in self._channels.values():
            for name, refused in channel.rejected.items():
                if self._snapshot.get(channel.type_url, name) is None:
                    continue
                yield self._nacked(channel, name, refused.version, refused.message)

    def _awaits(self, type_url: str) -> bool:
        """Whether Envoy has still to ask for a type on this stream, though what it has needs it."""
        if type_url in self._channels:
            return False
        if type_url in (CLUSTER, LISTENER):
            return bool(self._snapshot.of(type_url))
        parent, needs = (LISTENER, needs_routes) if type_url == ROUTE else (CLUSTER, needs_endpoints)
        if parent not in self._channels:
            return False
        ledger = self._channels[parent].ledger
        return any(
            r.version == ledger.get(name) and needs(r) for name, r in self._snapshot.of(parent).items()
        )

    # Subscriptions

    def _open(self, request: DeltaDiscoveryRequest) -> None:
        names = set(request.resource_names_subscribe)
        # Only these two know the old way of asking for everything by asking for nothing.
        wildcard = "*" in names or (not names and request.type_url in (CLUSTER, LISTENER))
        names.discard("*")
        held = {
            name: version
            for name, version in request.initial_resource_versions.items()
            if (wildcard or name in names) and not (request.type_url == ENDPOINT and name in self._warming)
        }
        if request.type_url == ENDPOINT:
            self._warming.clear()
        view = self._snapshot.of(request.type_url)
        channel = self._channels[request.type_url] = Channel(
            type_url=request.type_url,
            ledger=Ledger(view, names, held, wildcard=wildcard),
            initial_pending=wildcard and not held,
        )
        for name in channel.ledger.unsettled():
            channel.mark(name, self._snapshot.seq)
        if request.type_url == ROUTE:
            channel.absent = dict.fromkeys(held.keys() - view.keys(), self._snapshot.seq)
        # It took them from a former stream, which may have ended before it could say so.
        self._acknowledged(channel, held, ())

    def _subscribe(self, channel: Channel, name: str) -> None:
        if name == "*":
            channel.ledger.wildcard = channel.initial_pending = True
            for match in self._snapshot.of(channel.type_url):
                channel.mark(match, self._snapshot.seq)
            return
        # Asking again must be answered again, also for what is in flight: the client may have dropped it.
        channel.forget(name)
        channel.ledger.subscribe(name)
        channel.mark(name, self._snapshot.seq)

    def _unsubscribe(self, channel: Channel, name: str) -> None:
        ledger = channel.ledger
        if name == "*":
            ledger.wildcard = False
            for known in [n for n in channel.known() if n not in ledger.names]:
                channel.forget(known)
            return
        channel.forget(name)
        ledger.unsubscribe(name)
        if ledger.wildcard:
            # The client forgot the name although the wildcard may match it, so it must hear of it again.
            ledger.set(name, UNKNOWN)
            channel.mark(name, self._snapshot.seq)

    # What to send

    def _in_order(self) -> Iterator[Channel]:
        for type_url in ORDER:
            if type_url in self._channels:
                yield self._channels[type_url]
        for type_url, channel in self._channels.items():
            if type_url not in ORDER:
                yield channel

    def _due(self, channel: Channel, now: float) -> Batch | None:
        """The batch that may leave now. The channel is at rest."""
        if channel.type_url == ROUTE and self._holding:
            return None
        if channel.retries:
            return channel.retries.popleft()

        ready = self._ready(channel)
        self._restage(channel, ready)
        batch = Batch()
        if channel.staged and ready >= channel.staged_seq and not self._awaits_return(channel):
            batch = channel.staged.take()
        elif channel.type_url == ROUTE and self._done(_MAKE) >= channel.staged_seq:
            batch = channel.staged.part(channel.returning)

        self._arm(channel, now)
        if channel.type_url == CLUSTER or not self._removing_clusters(now):
            batch.gone.extend(channel.expired(now))

        if batch or (channel.initial_pending and not channel.staged):
            # A wildcard without matches is answered with emptiness: Envoy waits to hear of its clusters.
            channel.initial_pending = False
            return batch
        return None

    def _ready(self, channel: Channel) -> float:
        """The last edit up to which all is answered that must be before a channel sends."""
        if channel.type_url == ROUTE and self._awaits(LISTENER):
            return -inf  # it has just connected, and has still to say what its listeners are
        return self._done(_BEFORE.get(channel.type_url, ()))

    def _awaits_return(self, channel: Channel) -> bool:
        """Whether a listener has to wait for a route table that was gone and is back.

        An older listener that drains with a table keeps it in Envoy, also when it was removed. Envoy would
        give it to the new listener as it was, instead of letting that wait for its routes.
        """
        routes = self._channels.get(ROUTE)
        if channel.type_url != LISTENER or routes is None:
            return False
        returning = routes.returning
        if not returning:
            return False
        made = self._done(_MAKE)
        staged = any(name in returning for name in routes.staged.news)
        at_rest = routes.flight is None and not routes.retries
        # What is staged there waits for these listeners, so it is not held up by being staged anew. A table
        # that is back as Envoy has it is not sent: there would be no answer to wait for.
        free = not routes.staged or made >= (self._snapshot.seq if staged else routes.staged_seq)
        if routes.dirty and at_rest and free:
            self._stage(routes)
        return bool(returning)

    def _restage(self, channel: Channel, ready: float) -> None:
        """Stage what is dirty, unless it would hold up what is staged. The channel is at rest."""
        if channel.dirty and (not channel.staged or ready >= self._snapshot.seq):
            self._stage(channel)

    def _stage(self, channel: Channel) -> None:
        """Settle what each dirty name means now. The channel is at rest, so ``held`` is what Envoy has."""
        staged = channel.staged
        staged.oldest = min(staged.oldest, channel.dirty_since)
        unsent: dict[str, str] = {}
        channel.staged_seq = self._snapshot.seq
        for name in sorted(channel.dirty):
            staged.drop(name)
            gone_since = channel.pending_removal.get(name, inf)
            channel.cancel_removal(name)
            resource = self._snapshot.get(channel.type_url, name)
            held = channel.ledger.get(name)
            refused = channel.rejected.get(name)
            if resource is not None:
                if resource.version == held:
                    channel.returning.discard(name)
                    channel.rejected.pop(name, None)
                    unsent[name] = resource.version
                elif refused is None or refused.again or refused.version != resource.version:
                    staged.news[name] = resource
                    # What Envoy has in its place is as old as when it went, for nobody followed.
                    staged.oldest = min(staged.oldest, gone_since)
                else:
                    channel.returning.discard(name)
                continue
            if refused is not None and held not in (None, ABSENT):
                refused.again = True  # until its removal, the former version is in force
            else:
                channel.rejected.pop(name, None)
            if held is None and name in channel.ledger.names:
                if (last := self._warming_with(channel, name)) is not None:
                    staged.news[name] = last
                    channel.pending_removal[name] = self._snapshot.seq
                else:
                    staged.gone.append(name)  # Envoy waits for an answer
            elif held not in (None, ABSENT):
                if channel.type_url == LISTENER:
                    staged.gone.append(name)  # part of the switch: its address may be needed by another
                else:
                    channel.pending_removal[name] = self._snapshot.seq
            elif channel.type_url == CLUSTER:
                self._recut()
        channel.dirty.clear()
        if not staged:
            staged.oldest = inf
        self._acknowledged(channel, unsent, ())

    def _warming_with(self, channel: Channel, name: str) -> XdsResource | None:
        """The endpoints that a cluster had when it was sent, while Envoy warms it.

        Without them a cluster that has gone meanwhile would be warm with nobody in it, and routes that are
        under way, or were there before, still send requests to it.
        """
        clusters = self._channels.get(CLUSTER)
        if channel.type_url != ENDPOINT or clusters is None or clusters.flight is None:
            return None
        return clusters.flight.endpoints.get(name)

    def _recut(self) -> None:
        """Take back what waits for clusters, since one of them came and went before it could be sent.

        What is staged may refer to it; what is true by now does not.
        """
        for type_url in _SWITCH:
            channel = self._channels.get(type_url)
            if channel is not None:
                channel.take_back(channel.staged.take())

    def _arm(self, channel: Channel, now: float) -> None:
        """Let what is pending removal linger, once nothing in force refers to it."""
        if not channel.pending_removal:
            return
        if LISTENER not in self._channels or self._awaits(ROUTE):
            return  # it has just connected, and has still to say what its listeners and routes are
        channel.linger(min(map(self._in_force, _SWITCH)), now + self._linger_seconds)

    def _removing_clusters(self, now: float) -> bool:
        """Whether clusters leave just now. What they use leaves after them."""
        clusters = self._channels.get(CLUSTER)
        if clusters is None:
            return False
        if clusters.flight is not None and clusters.flight.batch.gone:
            return True
        return any(due <= now for due in clusters.next_due())

    def _done(self, types: Iterable[str]) -> float:
        """The last edit up to which nothing of these types waits or is unanswered."""
        return min((c.oldest() - 1 for t in types if (c := self._channels.get(t)) is not None), default=inf)

    def _in_force(self, type_url: str) -> float:
        """The last edit up to which Envoy has taken all listeners, or all routes that they use.

        A refused version leaves an older one in force, which may refer to anything it ever did.
        """
        channel = self._channels.get(type_url)
        if channel is None:
            return inf
        # A table that is gone is out of use when the listeners have followed.
        unused = self._in_force(LISTENER) if type_url == ROUTE else -inf
        return min(channel.oldest(), channel.refused_since(unused)) - 1

    def _awaited(self) -> Iterator[Channel]:
        """The channels for whose answers others wait."""
        return (c for t in _BEFORE[ROUTE] if (c := self._channels.get(t)) is not None)

    def _send(self, channel: Channel, batch: Batch, now: float) -> bytes:
        response = self._snapshot.responses.response(
            channel.type_url, batch.news.values(), batch.gone, after=self._last
        )
        self._last = response.number
        channel.flight = Flight(response=response, batch=batch)
        if channel.type_url == CLUSTER and not batch.applied:
            assignments = self._snapshot.of(ENDPOINT)
            channel.flight.endpoints = {n: assignments[n] for n in batch.news if n in assignments}
            self._warm(channel, response)

        counters = self._counters_of(channel)
        counters.responses += 1
        counters.resources += len(batch.news)
        counters.removals += len(batch.gone)
        counters.bytes += len(response.wire)
        return response.wire

    def _warm(self, clusters: Channel, response: Response) -> None:
        """Have the endpoints of the clusters that are sent sent too, also where Envoy has them.

        Otherwise a changed cluster waits for initial_fetch_timeout, and then replaces the old one without
        endpoints.
        """
        endpoints = self._channels.get(ENDPOINT)
        if not (endpoints.ledger.names if endpoints else clusters.ledger.holds_anything()):
            return  # all is new to it, and will be asked for
        for name in response.endpoints:
            if endpoints is None:
                self._warming.add(name)
            elif name in endpoints.ledger.names:
                self._subscribe(endpoints, name)

    # What became of it

    def _answered(self, channel: Channel, request: DeltaDiscoveryRequest) -> None:
        flight = channel.flight
        if flight is None or flight.response.nonce != request.response_nonce:
            timed_out = channel.timed_out.pop(request.response_nonce, None)
            if timed_out is not None and request.HasField("error_detail"):
                self._refused_late(channel, timed_out, request.error_detail.message)
            elif timed_out is not None:
                self._counters_of(channel).acks += 1
                self._acknowledged(channel, timed_out.versions(), timed_out.gone)
            return
        channel.flight = None
        if request.HasField("error_detail"):
            self._refused(channel, flight.batch, request.error_detail.message)
        else:
            self._counters_of(channel).acks += 1
            channel.take(flight.batch)
            self._acknowledged(channel, flight.batch.versions(), flight.batch.gone)

    def _refused(self, channel: Channel, batch: Batch, message: str) -> None:
        """Put the culprits into quarantine and the rest on its way again.

        Where Envoy names culprits it has applied the rest, but it cuts long messages off, and a NACK proves
        nothing: the rest is sent again to be acknowledged, which Envoy takes as no change.
        """
        self._counters_of(channel).nacks += 1
        blamed = culprits(message, batch.news)
        batch.applied = bool(blamed)
        if blamed:
            reopening = Batch(oldest=batch.oldest)
            for name, words in blamed.items():
                refused = batch.news.pop(name)
                if self._may_reopen(channel, refused, words):
                    version, times = channel.reopened.get(name, ("", 0))
                    again = times + 1 if version == refused.version else 1
                    channel.reopened[name] = refused.version, again
                    reopening.news[name] = refused
                else:
                    self._reject(channel, refused, words, batch.oldest)
            if batch:
                channel.retries.appendleft(batch)
            closing = [name for name in reopening.news if channel.ledger.get(name) not in (None, ABSENT)]
            channel.retries.extend(
                each for each in (Batch(gone=closing, oldest=batch.oldest), reopening) if each
            )
        elif batch.news:
            channel.retries.extendleft(reversed(batch.halves()))
        else:
            # Only removals, and refused: to send them again would be refused again.
            channel.take(batch)

    def _may_reopen(self, channel: Channel, listener: XdsResource, words: str) -> bool:
        """Whether a listener can be opened when others, and its own former version, are closed.

        One that would meet another that stays is refused: to close it would be in vain. Envoy closes sockets
        a moment after it has answered, so for that long a listener is tried again.
        """
        if channel.type_url != LISTENER:
            return False
        version, times = channel.reopened.get(listener.name, ("", 0))
        if version == listener.version:
            return meets_a_socket(words) and times <= MOST_REOPENINGS
        if not meets_a_listener(words):
            return False
        wanted = addresses(listener)
        others = (other for name, other in self._snapshot.of(LISTENER).items() if name != listener.name)
        return not any(wanted & addresses(other) for other in others)

    def _refused_late(self, channel: Channel, batch: Batch, message: str) -> None:
        """Take the refusal of a flight that has timed out: what changed since has gone its own way."""
        self._counters_of(channel).nacks += 1
        blamed = culprits(message, batch.news)
        for name, resource in batch.news.items():
            if channel.ledger.get(name) == resource.version:
                channel.ledger.set(name, UNKNOWN)
            now = self._snapshot.get(channel.type_url, name)
            if now is None or now.version != resource.version:
                continue
            if name in blamed:
                self._reject(channel, resource, blamed[name], batch.oldest)
            else:
                channel.mark(name, self._snapshot.seq)

    def _reject(self, channel: Channel, resource: XdsResource, words: str, oldest: float) -> None:
        why = reason(words)
        # What is in force is as old as the first of the versions in a row that were refused.
        before = channel.rejected.get(resource.name)
        since = oldest if before is None else min(before.seq, oldest)
        channel.rejected[resource.name] = Refused(resource.version, why, since)
        channel.returning.discard(resource.name)
        self.events.append(self._nacked(channel, resource.name, resource.version, why))

    def _time_out(self, now: float) -> None:
        """Stop waiting for an answer that does not come, such as that of a cluster that warms without end.

        Its mended version would wait with it. The time runs from when Envoy was first heard of after the
        response was sent: a client that is silent on all types is slow, not warming.
        """
        for channel in self._awaited():
            flight = channel.flight
            if flight is not None and now >= flight.heard_at + self._patience_seconds:
                channel.flight = None
                channel.timed_out[flight.response.nonce] = flight.batch
                channel.take(flight.batch)

    def _acknowledged(self, channel: Channel, versions: Mapping[str, str], gone: Iterable[str]) -> None:
        if versions or gone:
            self.events.append(
                Acknowledged(
                    fleet=self.fleet,
                    node=self.node,
                    stream=self.stream,
                    type_url=channel.type_url,
                    versions=tuple(sorted(versions.items())),
                    gone=tuple(gone),
                )
            )

    def _nacked(self, channel: Channel, name: str, version: str, message: str) -> Nacked:
        return Nacked(
            fleet=self.fleet,
            node=self.node,
            stream=self.stream,
            type_url=channel.type_url,
            name=name,
            version=version,
            message=message,
        )

    def _counters_of(self, channel: Channel) -> Counters:
        return self._counters.setdefault(channel.type_url, Counters())
