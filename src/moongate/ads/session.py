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
* listeners, routes: *staged* as of some edit, sent when clusters and endpoints are acknowledged up to that
  edit. What is staged keeps its bytes: under a flood of new clusters routes still move on, one cut after the
  other.
* a route table that comes back goes before the listeners, for Envoy may have kept it as it was.
* what is gone is *pending removal*; when listeners and routes are acknowledged up to the edit that dropped
  it, it *lingers* for requests and retries that still hold the old route; then it is removed. Coming back in
  time cancels that.

A NACK names its culprit, or the batch is sent again in halves until one resource is alone. The culprit is
*rejected*: that version is not sent again on this stream, and holds nobody up, except that nothing is removed
which its last good version may still use.

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

import re
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.message import DecodeError
from msgspec import Struct, field

from moongate.ads.events import Acknowledged, Counters, Event, Nacked
from moongate.xds.refusals import reason
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, XdsResource, encode, field_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from moongate.ads.snapshot import Key, Snapshot

LINGER_SECONDS = 5.0
"""How long what nothing refers to any more outlives the switch: requests in flight, retries find it."""

PATIENCE_SECONDS = 30.0
"""How long a cluster may warm before routes stop waiting. Above Envoy's initial_fetch_timeout of 15 s."""

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

_ABSENT = ""
"""Held in place of a version: Envoy knows that the name does not exist."""

_UNKNOWN = "?"
"""Held in place of a version: Envoy may or may not have it, so whatever is true must be said."""


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
        self._channels: dict[str, _Channel] = {}
        self._nonces = 0
        self._warming: set[str] = set()
        """Endpoints that changed clusters wait for, while Envoy has still to say which it subscribes to."""
        self._heard_at = -inf

    def receive(self, request: DeltaDiscoveryRequest, now: float) -> None:
        """Take one request: a subscription, a change of it, an ACK, a NACK, or several of these in one."""
        self._heard_at = now
        channel = self._channels.get(request.type_url)
        if channel is None:
            self._open(request)
            return
        if request.response_nonce:
            self._answered(channel, request)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(channel, name)
        for name in request.resource_names_subscribe:
            self._subscribe(channel, name)

    def touch(self, keys: Iterable[Key]) -> None:
        """Learn that the snapshot differs in these keys. To be called after each edit of it."""
        for type_url, name in keys:
            channel = self._channels.get(type_url)
            if channel is not None and channel.wants(name):
                channel.mark(name, self._snapshot.seq)

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
        clusters = self._channels.get(CLUSTER)
        if clusters is not None and clusters.flight is not None and self._heard_at > clusters.flight.sent_at:
            times.append(clusters.flight.sent_at + self._patience_seconds)
        return min(times, default=None)

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
            self.touch([(type_url, name)])

    def held(self, type_url: str, name: str) -> str | None:
        """The version that Envoy has acknowledged, or had when it connected; None when there is none."""
        channel = self._channels.get(type_url)
        version = None if channel is None else channel.held.get(name)
        return None if version in (_ABSENT, _UNKNOWN) else version

    def rejections(self) -> Iterator[Nacked]:
        """What this Envoy refuses of what the fleet should have."""
        for channel in self._channels.values():
            for name, refused in channel.rejected.items():
                yield self._nacked(channel, name, refused.version, refused.message)

    def _awaits(self, type_url: str) -> bool:
        """Whether Envoy has still to ask for a type on this stream, though what it has needs it."""
        if type_url in self._channels:
            return False
        if type_url in (CLUSTER, LISTENER):
            return bool(self._snapshot.of(type_url))
        parent, needs = (LISTENER, _needs_routes) if type_url == ROUTE else (CLUSTER, _needs_endpoints)
        if parent not in self._channels:
            return False
        held = self._channels[parent].held
        return any(r.version == held.get(name) and needs(r) for name, r in self._snapshot.of(parent).items())

    # Subscriptions

    def _open(self, request: DeltaDiscoveryRequest) -> None:
        names = set(request.resource_names_subscribe)
        channel = self._channels[request.type_url] = _Channel(
            type_url=request.type_url,
            # Only these two know the old way of asking for everything by asking for nothing.
            wildcard="*" in names or (not names and request.type_url in (CLUSTER, LISTENER)),
            names=names - {"*"},
        )
        channel.held = {
            name: version
            for name, version in request.initial_resource_versions.items()
            if channel.wants(name) and not (request.type_url == ENDPOINT and name in self._warming)
        }
        if request.type_url == ENDPOINT:
            self._warming.clear()
        channel.initial_pending = channel.wildcard and not channel.held
        for name in (*channel.names, *channel.held, *self._matching(channel)):
            channel.mark(name, self._snapshot.seq)

    def _matching(self, channel: _Channel) -> Iterable[str]:
        return self._snapshot.of(channel.type_url) if channel.wildcard else ()

    def _subscribe(self, channel: _Channel, name: str) -> None:
        if name == "*":
            channel.wildcard = channel.initial_pending = True
            for match in self._matching(channel):
                channel.mark(match, self._snapshot.seq)
            return
        # Asking again must be answered again, also for what is in flight: the client may have dropped it.
        channel.forget(name)
        channel.names.add(name)
        channel.mark(name, self._snapshot.seq)

    def _unsubscribe(self, channel: _Channel, name: str) -> None:
        if name == "*":
            channel.wildcard = False
            for held in [n for n in channel.known() if n not in channel.names]:
                channel.forget(held)
            return
        channel.names.discard(name)
        channel.forget(name)
        if channel.wildcard:
            # The client forgot the name although the wildcard may match it, so it must hear of it again.
            channel.held[name] = _UNKNOWN
            channel.mark(name, self._snapshot.seq)

    # What to send

    def _in_order(self) -> Iterator[_Channel]:
        for type_url in ORDER:
            if type_url in self._channels:
                yield self._channels[type_url]
        for type_url, channel in self._channels.items():
            if type_url not in ORDER:
                yield channel

    def _due(self, channel: _Channel, now: float) -> _Batch | None:
        """The batch that may leave now. The channel is at rest."""
        if channel.retries:
            return channel.retries.popleft()

        made = self._done(_MAKE) if channel.type_url in _SWITCH else inf
        self._restage(channel, made)
        batch = _Batch()
        if channel.staged and made >= channel.staged_seq and not self._awaits_return(channel, made):
            batch = channel.staged.take()

        self._arm(channel, now)
        if channel.type_url == CLUSTER or not self._removing_clusters(now):
            batch.gone.extend(channel.expired(now))

        if batch or (channel.initial_pending and not channel.staged):
            # A wildcard without matches is answered with emptiness: Envoy waits to hear of its clusters.
            channel.initial_pending = False
            return batch
        return None

    def _awaits_return(self, channel: _Channel, made: float) -> bool:
        """Whether a listener has to wait for a route table that was gone and is back.

        An older listener that drains with a table keeps it in Envoy, also when it was removed. Envoy would
        give it to the new listener as it was, instead of letting that wait for its routes.
        """
        routes = self._channels.get(ROUTE)
        if channel.type_url != LISTENER or routes is None:
            return False
        if routes.flight is None and not routes.retries:
            # A table that is back as Envoy holds it is not sent, so there would be no answer to wait for.
            self._restage(routes, made)
        return bool(routes.returning) or any(
            routes.was_gone(name) and self._snapshot.get(ROUTE, name) is not None for name in routes.dirty
        )

    def _restage(self, channel: _Channel, made: float) -> None:
        """Stage what is dirty, unless it would hold up what is staged. The channel is at rest."""
        if channel.dirty and (not channel.staged or made >= self._snapshot.seq):
            self._stage(channel)

    def _stage(self, channel: _Channel) -> None:
        """Settle what each dirty name means now. The channel is at rest, so ``held`` is what Envoy has."""
        staged = channel.staged
        staged.oldest = min(staged.oldest, channel.dirty_since)
        channel.staged_seq = self._snapshot.seq
        for name in sorted(channel.dirty):
            staged.drop(name)
            returns = channel.was_gone(name)
            channel.returning.discard(name)
            channel.cancel_removal(name)
            resource = self._snapshot.get(channel.type_url, name)
            held = channel.held.get(name)
            refused = channel.rejected.get(name)
            if resource is not None:
                if resource.version == held:
                    if channel.rejected.pop(name, None):
                        self._acknowledged(channel, {name: resource}, ())
                elif refused is None or refused.again or refused.version != resource.version:
                    staged.news[name] = resource
                    if returns:
                        channel.returning.add(name)
                continue
            channel.rejected.pop(name, None)
            if held is None and name in channel.names:
                if (last := self._warming_with(channel, name)) is not None:
                    staged.news[name] = last
                    channel.pending_removal[name] = self._snapshot.seq
                else:
                    staged.gone.append(name)  # Envoy waits for an answer
            elif held not in (None, _ABSENT):
                if channel.type_url == LISTENER:
                    staged.gone.append(name)  # part of the switch: its address may be needed by another
                else:
                    channel.pending_removal[name] = self._snapshot.seq
            elif channel.type_url == CLUSTER:
                self._recut()
        channel.dirty.clear()
        if not staged:
            staged.oldest = inf

    def _warming_with(self, channel: _Channel, name: str) -> XdsResource | None:
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
            if channel is not None and channel.staged:
                cut = channel.staged.take()
                channel.dirty_since = min(cut.oldest, channel.dirty_since if channel.dirty else inf)
                channel.dirty.update(cut.news, cut.gone)

    def _arm(self, channel: _Channel, now: float) -> None:
        """Let what is pending removal linger, once nothing in force refers to it."""
        if not channel.pending_removal:
            return
        if any(self._awaits(type_url) for type_url in _SWITCH):
            return  # it has just connected, and has still to say what its listeners and routes are
        switched = self._done(_SWITCH)
        for type_url in _SWITCH:
            if type_url in self._channels:
                # A refused version leaves an older one in force, which may refer to anything it ever did.
                switched = min(switched, self._channels[type_url].refused_since() - 1)
        for name, seq in list(channel.pending_removal.items()):
            if seq > switched:
                break
            del channel.pending_removal[name]
            channel.lingering[name] = now + self._linger_seconds

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

    def _send(self, channel: _Channel, batch: _Batch, now: float) -> bytes:
        self._nonces += 1
        nonce = str(self._nonces)
        channel.flight = _Flight(nonce=nonce, batch=batch, sent_at=now)
        if channel.type_url == CLUSTER and not batch.applied:
            assignments = self._snapshot.of(ENDPOINT)
            channel.flight.endpoints = {n: assignments[n] for n in batch.news if n in assignments}
            self._warm(channel, batch.news.values())
        response_head = DeltaDiscoveryResponse(
            type_url=channel.type_url, nonce=nonce, removed_resources=batch.gone
        )
        tag = DeltaDiscoveryResponse.RESOURCES_FIELD_NUMBER
        parts = [encode(response_head)]
        for resource in batch.news.values():
            wire = resource.wire()
            parts += (field_header(tag, len(wire)), wire)
        response = b"".join(parts)

        counters = self._counters_of(channel)
        counters.responses += 1
        counters.resources += len(batch.news)
        counters.removals += len(batch.gone)
        counters.bytes += len(response)
        return response

    def _warm(self, clusters: _Channel, news: Iterable[XdsResource]) -> None:
        """Have the endpoints of these clusters sent, also where Envoy has them.

        Otherwise a changed cluster waits for initial_fetch_timeout, and then replaces the old one without
        endpoints.
        """
        endpoints = self._channels.get(ENDPOINT)
        if not (endpoints.names if endpoints else clusters.held):
            return  # all is new to it, and will be asked for
        for resource in news:
            name = _needs_endpoints(resource)
            if name is None:
                continue
            if endpoints is None:
                self._warming.add(name)
            elif name in endpoints.names:
                self._subscribe(endpoints, name)

    # What became of it

    def _answered(self, channel: _Channel, request: DeltaDiscoveryRequest) -> None:
        flight = channel.flight
        if flight is None or flight.nonce != request.response_nonce:
            timed_out = channel.timed_out.pop(request.response_nonce, None)
            if timed_out is not None and request.HasField("error_detail"):
                self._refused_late(channel, timed_out.batch, request.error_detail.message)
            elif timed_out is not None:
                self._counters_of(channel).acks += 1
                self._acknowledged(channel, timed_out.batch.news, timed_out.batch.gone)
            return
        channel.flight = None
        if request.HasField("error_detail"):
            self._refused(channel, flight.batch, request.error_detail.message)
        else:
            self._counters_of(channel).acks += 1
            channel.take(flight.batch)
            self._acknowledged(channel, flight.batch.news, flight.batch.gone)

    def _refused(self, channel: _Channel, batch: _Batch, message: str) -> None:
        """Put the culprits into quarantine and the rest on its way again.

        Where Envoy names culprits it has applied the rest, but it cuts long messages off, and a NACK proves
        nothing: the rest is sent again to be acknowledged, which Envoy takes as no change.
        """
        self._counters_of(channel).nacks += 1
        culprits = _culprits(message, batch.news)
        batch.applied = bool(culprits)
        if culprits:
            for name, words in culprits.items():
                self._reject(channel, batch.news.pop(name), words, batch.oldest)
            if batch:
                channel.retries.appendleft(batch)
        elif batch.news:
            channel.retries.extendleft(reversed(batch.halves()))
        else:
            # Only removals, and refused: to send them again would be refused again.
            channel.take(batch)

    def _refused_late(self, channel: _Channel, batch: _Batch, message: str) -> None:
        """Take the refusal of a flight that has timed out: what changed since has gone its own way."""
        self._counters_of(channel).nacks += 1
        culprits = _culprits(message, batch.news)
        for name, resource in batch.news.items():
            if channel.held.get(name) == resource.version:
                channel.held[name] = _UNKNOWN
            now = self._snapshot.get(channel.type_url, name)
            if now is None or now.version != resource.version:
                continue
            if name in culprits:
                self._reject(channel, resource, culprits[name], batch.oldest)
            else:
                channel.mark(name, self._snapshot.seq)

    def _reject(self, channel: _Channel, resource: XdsResource, words: str, oldest: float) -> None:
        why = reason(words)
        # What is in force is as old as the first of the versions in a row that were refused.
        before = channel.rejected.get(resource.name)
        since = oldest if before is None else min(before.seq, oldest)
        channel.rejected[resource.name] = _Refused(resource.version, why, since)
        channel.returning.discard(resource.name)
        self.events.append(self._nacked(channel, resource.name, resource.version, why))

    def _time_out(self, now: float) -> None:
        """Stop waiting for a cluster that warms without end: its mended version would wait with it.

        Only when Envoy was heard of since. A client that is silent on all types is slow, not warming.
        """
        channel = self._channels.get(CLUSTER)
        if channel is None or channel.flight is None or self._heard_at <= channel.flight.sent_at:
            return
        if now >= channel.flight.sent_at + self._patience_seconds:
            timed_out, channel.flight = channel.flight, None
            channel.timed_out[timed_out.nonce] = timed_out
            channel.take(timed_out.batch)

    def _acknowledged(self, channel: _Channel, news: dict[str, XdsResource], gone: Iterable[str]) -> None:
        if news or gone:
            versions = tuple(sorted((name, resource.version) for name, resource in news.items()))
            self.events.append(
                Acknowledged(
                    fleet=self.fleet,
                    node=self.node,
                    stream=self.stream,
                    type_url=channel.type_url,
                    versions=versions,
                    gone=tuple(gone),
                )
            )

    def _nacked(self, channel: _Channel, name: str, version: str, message: str) -> Nacked:
        return Nacked(
            fleet=self.fleet,
            node=self.node,
            stream=self.stream,
            type_url=channel.type_url,
            name=name,
            version=version,
            message=message,
        )

    def _counters_of(self, channel: _Channel) -> Counters:
        return self._counters.setdefault(channel.type_url, Counters())


class _Batch(Struct):
    """What one response says."""

    news: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    gone: list[str] = field(default_factory=list[str])
    oldest: float = inf
    """The oldest edit that it carries; inf when it carries none that anybody waits for."""
    applied: bool = False
    """Sent again only to be acknowledged: Envoy applied it, but for the culprits beside it."""

    def __bool__(self) -> bool:
        return bool(self.news or self.gone)

    def take(self) -> _Batch:
        taken = _Batch(self.news, self.gone, self.oldest)
        self.news, self.gone, self.oldest = {}, [], inf
        return taken

    def drop(self, name: str) -> None:
        self.news.pop(name, None)
        if name in self.gone:
            self.gone.remove(name)

    def halves(self) -> tuple[_Batch, _Batch]:
        news = list(self.news.items())
        middle = len(news) // 2
        return (
            _Batch(dict(news[:middle]), self.gone, self.oldest),
            _Batch(dict(news[middle:]), [], self.oldest),
        )


class _Flight(Struct):
    nonce: str
    batch: _Batch
    sent_at: float
    endpoints: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    """Those that the clusters of the batch had, of the same name, when it was sent."""


class _Refused(Struct):
    version: str
    message: str
    seq: float
    """The oldest edit whose version was refused since the last one that is in force."""
    again: bool = False
    """To be sent again though it did not change."""


class _Channel(Struct):
    """One type of one stream."""

    type_url: str
    wildcard: bool
    names: set[str]
    held: dict[str, str] = field(default_factory=dict[str, str])
    """What Envoy acknowledged, or says it has: name → version."""
    dirty: set[str] = field(default_factory=set[str])
    dirty_since: float = inf
    staged: _Batch = field(default_factory=_Batch)
    staged_seq: int = 0
    """The edit as of which ``staged`` is true."""
    flight: _Flight | None = None
    timed_out: dict[str, _Flight] = field(default_factory=dict[str, _Flight])
    """Flights that nobody waits for any more, by nonce: their answers may still come."""
    retries: deque[_Batch] = field(default_factory=deque[_Batch])
    """Parts of refused batches."""
    pending_removal: dict[str, int] = field(default_factory=dict[str, int])
    """Gone from the snapshot at this edit, which listeners and routes have still to follow. Oldest first."""
    lingering: dict[str, float] = field(default_factory=dict[str, float])
    """To be removed at this time. Earliest first."""
    rejected: dict[str, _Refused] = field(default_factory=dict[str, _Refused])
    returning: set[str] = field(default_factory=set[str])
    """What was gone and is back, and is not acknowledged yet."""
    initial_pending: bool = False
    """The client asked for everything and was not answered yet."""

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def mark(self, name: str, seq: int) -> None:
        if not self.dirty:
            self.dirty_since = seq
        self.dirty.add(name)

    def cancel_removal(self, name: str) -> None:
        """Cancel the removal of ``name``."""
        self.pending_removal.pop(name, None)
        self.lingering.pop(name, None)

    def forget(self, name: str) -> None:
        """Know nothing about ``name`` any more."""
        self.cancel_removal(name)
        self.held.pop(name, None)
        self.rejected.pop(name, None)
        self.returning.discard(name)
        self.dirty.discard(name)
        self.staged.drop(name)
        for batch in (*self.retries, *([self.flight.batch] if self.flight else [])):
            batch.drop(name)

    def known(self) -> set[str]:
        flying = self.flight.batch.news if self.flight else {}
        return {*self.held, *self.dirty, *self.staged.news, *self.rejected, *flying}

    def was_gone(self, name: str) -> bool:
        """Whether the fleet was without ``name``, though Envoy may have kept it."""
        gone = name in self.pending_removal or name in self.lingering or self.held.get(name) == _ABSENT
        return gone or name in self.returning

    def take(self, batch: _Batch) -> None:
        """Note that Envoy has what ``batch`` says."""
        for name, resource in batch.news.items():
            self.held[name] = resource.version
            self.rejected.pop(name, None)
            self.returning.discard(name)
        for name in batch.gone:
            if name in self.names:
                self.held[name] = _ABSENT
            else:
                self.held.pop(name, None)

    def expired(self, now: float) -> list[str]:
        """Take out what has lingered long enough."""
        gone: list[str] = []
        for name, due in self.lingering.items():
            if due > now:
                break
            gone.append(name)
        for name in gone:
            del self.lingering[name]
        return gone

    def next_due(self) -> Iterable[float]:
        for due in self.lingering.values():
            return (due,)
        return ()

    def oldest(self) -> float:
        """The oldest edit that waits here or is unanswered; inf when there is none."""
        waiting = [self.staged.oldest if self.staged else inf, self.dirty_since if self.dirty else inf]
        if self.flight is not None:
            waiting.append(self.flight.batch.oldest)
        waiting.extend(batch.oldest for batch in self.retries)
        return min(waiting)

    def refused_since(self) -> float:
        """The oldest edit that Envoy refused while an earlier version stays in force; inf when none."""
        return min((r.seq for name, r in self.rejected.items() if name in self.held), default=inf)


def _needs_endpoints(resource: XdsResource) -> str | None:
    """The name under which a cluster asks for its endpoints; None when it does not."""
    try:
        cluster = Cluster.FromString(resource.body)
    except DecodeError:
        return None  # Envoy will say so, and it will be known whose it is
    if cluster.type != Cluster.EDS or not cluster.eds_cluster_config.eds_config.HasField("ads"):
        return None
    return cluster.eds_cluster_config.service_name or cluster.name


def _needs_routes(resource: XdsResource) -> bool:
    """Whether a listener asks for a route configuration."""
    try:
        listener = Listener.FromString(resource.body)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for network_filter in chain.filters:
                manager = HttpConnectionManager()
                if network_filter.typed_config.Unpack(manager) and manager.rds.config_source.HasField("ads"):
                    return True
    except DecodeError:
        pass
    return False


_NAMED = re.compile(r"^Error adding/updating (?:listener|cluster)\(s\) ")


def _culprits(message: str, sent: Collection[str]) -> dict[str, str]:
    """The resources that are refused for certain, and Envoy's words about each; often empty."""
    if len(sent) == 1:
        return _named(message, sent) or dict.fromkeys(sent, message)
    return _named(message, sent)


def _named(message: str, sent: Iterable[str]) -> dict[str, str]:
    if not _NAMED.match(message):
        return {}
    rest = _NAMED.sub("", message)
    starts = sorted(
        (found.start(), name)
        for name in sent
        if (found := re.search(rf"(?:^|\n|, ){re.escape(name)}: ", rest)) is not None
    )
    ends = [at for at, _ in starts[1:]] + [len(rest)]
    return {
        name: rest[at:end].strip(", \n").removeprefix(f"{name}: ")
        for (at, name), end in zip(starts, ends, strict=True)
    }
