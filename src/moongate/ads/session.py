"""One delta ADS stream as a state machine: no sockets, no clock, no asyncio.

Theory of operation
===================
Each type has a *channel*: what Envoy asked for, what it *holds* (acknowledged versions), and at most one
response in *flight*. A name whose content may differ is *dirty*. A channel at rest turns its dirty names into
a *batch* and sends it; while it waits for the answer, further changes gather, so a busy stream batches and an
idle one reacts at once.

Make before break decides when a batch may be sent. Every edit of the snapshot has a number, and every batch
knows the oldest edit that it carries. So the question whether all clusters up to edit 7 are acknowledged is
one comparison.

* Clusters, endpoints and secrets are sent at once. Envoy acknowledges a cluster only when the cluster is
  warm, and it needs endpoints and secrets to warm it, so these types wait for no other type. When a cluster
  changed, the session sends its endpoints again even if they did not change: the new cluster starts without
  endpoints, but Envoy does not request a resource to which it is already subscribed.
* Listeners are *staged* at some edit, and sent when clusters, endpoints and secrets are acknowledged up to
  that edit: a chain that is made for other CAs must take nobody by the former ones. A staged resource keeps
  its bytes. So listeners make progress even if new clusters arrive all the time.
* Routes are staged in the same way, and wait for listeners too. A route may need a filter that its listener
  has only since this edit; until then the old routes stay in force. There is no deadlock, because Envoy
  acknowledges a listener before it has its routes and its secrets, and only secrets that it has requested are
  waited for.
* Many clusters, endpoints or scopes are sent in several responses, one after another (``parts``). They count
  as sent with the last of them. What changed meanwhile goes into the next one.
* Scopes, the parts of a route table by hostname, are sent as routes are. Nothing refers to a scope, so those
  that left the snapshot are removed right after the news of the same edit. The scope that others share is
  not in force before them (``scopes``).
* A route table that *returns* is sent before the listeners, because Envoy may have kept its old version
  (``returning``). So is a table whose scopes return.
* Any other resource that left the snapshot is *pending removal*. When listeners and routes are acknowledged
  up to the edit that dropped it, it *lingers* for requests and retries that still use the old route. Then it
  is removed. If it comes back before that, the removal is cancelled.

A NACK names the refused resource, or the session sends the batch again in halves until one resource is alone,
or each resource alone if they are certificates (``secrets`` has the reason).
Where a NACK only seems to name a resource, the session sends that one again apart from the others.
That resource is *rejected*: the session does not send this version again on this stream, and no other
resource waits for it. But the session removes nothing that the last good version of a rejected resource may
still use.

Where Envoy refuses a cluster, its former version stays in force. An Envoy that has none, because it started
since, is sent the one before (``Snapshot.former``). Tables and listeners that send requests to a cluster that
Envoy refuses and does not have are rejected instead of sent, until it has it.

There is one exception: a listener whose address Envoy still has open is not rejected, but opened again after
that address was closed (``reopening``).

Rules
-----
1. This file decides what a client is sent, and when. Other modules keep records, or answer one question.
2. Requests come in as messages, and time as an argument in seconds. Responses go out as bytes, and their
   results as ``events``.
3. The cost depends on the size of the change: names are looked up, and a whole type is scanned only once, at
   its first request.

Source: xDS protocol, "Incremental xDS", "How the client specifies what resources to return" and "Eventual
consistency considerations".
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from moongate.ads import scopes, secrets
from moongate.ads.channels import ABSENT, UNKNOWN, Batch, Channel, Dropped, Flight, Refused
from moongate.ads.events import Acknowledged, Counters, Event, Nacked
from moongate.ads.ledger import Ledger, collection_of, is_collection, is_within
from moongate.ads.nacks import blame
from moongate.ads.needs import NEEDED_BY, needs_endpoints, sends_to
from moongate.ads.parts import MOST, next_part, parts, parts_of_refused
from moongate.ads.reopening import meeting_listeners, to_reopen
from moongate.ads.returning import has_table, note_return, table_of
from moongate.xds.refusals import of_clusters, reason
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from moongate.ads.nacks import Blame
    from moongate.ads.responses import Response
    from moongate.ads.snapshot import Differences, Snapshot
    from moongate.xds.wire import XdsResource

LINGER_SECONDS = 5.0
"""How long a resource stays after nothing refers to it, for requests in flight and their retries."""

PATIENCE_SECONDS = 30.0
"""How long to wait for an answer, after any other request of Envoy. Above its initial_fetch_timeout, 15 s."""

ORDER = (
    CLUSTER,  # first: all else refers to clusters
    ENDPOINT,  # a cluster warms with them
    SECRET,  # so do TLS clusters, and listeners
    LISTENER,  # before routes, because their per-route settings refer to its filters
    ROUTE,
    SCOPE,
)
"""The order of channels when several may send."""

_MAKE = (CLUSTER, ENDPOINT)
_TABLES = (ROUTE, SCOPE)
_SWITCH = (LISTENER, *_TABLES)

_BEFORE: Mapping[str, tuple[str, ...]] = {
    LISTENER: (*_MAKE, SECRET),
    ROUTE: (*_MAKE, SECRET, LISTENER),
    SCOPE: (*_MAKE, SECRET, LISTENER),
}
"""The types that must be answered, up to the same edit, before a type is sent."""

_REMOVED_WITH_NEWS = (
    LISTENER,  # another listener may need its address
    SCOPE,  # requests for its hostname go to it as long as it is there
)
"""The types whose resources do not linger."""

_OF_CLUSTERS = (ENDPOINT, SECRET)
"""The types that clusters use: an old cluster may do so as long as the new one is not acknowledged."""

_KEPT = (SECRET, SCOPE)
"""The types of which Envoy may keep what it refused, or did not reach, in a response that it refused."""


class Session:
    """The state of one ADS stream: what Envoy has, what was sent, and what to send next."""

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
        mend_seconds: float = scopes.MEND_SECONDS,
        most: Mapping[str, int] = MOST,
    ) -> None:
        self.fleet = fleet
        self.node = node
        self.stream = stream
        self.events: deque[Event] = deque()
        """Events that the caller has not taken yet, oldest first."""
        self._snapshot = snapshot
        self._counters = {} if counters is None else counters
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._mend_seconds = mend_seconds
        self._most = most
        self._channels: dict[str, Channel] = {}
        self._last = 0
        """The number of the last response."""
        self._reconnected = False
        """Whether Envoy has said that it has resources of any type, from an earlier stream."""
        self._warming: set[str] = set()
        """Endpoints that changed clusters need, as long as Envoy has not subscribed to endpoints."""
        self._on_hold: set[str] = set()
        """The types of which nothing is sent until ``release``."""
        self._asked_for_scopes = 0
        """The edit as of which Envoy has asked for scopes first."""
        self._cleared = -inf

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
        unsubscribed = request.resource_names_unsubscribe
        gone = [each for name in unsubscribed for each in self._unsubscribe(channel, name)]
        self._acknowledged(channel, {}, gone)
        for name in request.resource_names_subscribe:
            self._subscribe(channel, name)

    def touch(self, differences: Differences) -> None:
        """Note an edit of the snapshot. The caller calls this after each edit."""
        listening = self._in_force(LISTENER)
        for type_url, before in differences.items():
            channel = self._channels.get(type_url)
            if channel is None:
                continue
            names = channel.ledger.enter(before)
            channel.mark_all(names, self._snapshot.seq)
            if type_url in _TABLES:
                resources = self._snapshot.of(type_url)
                for name in names:
                    # A table that is there before and after does not return, nor do its scopes.
                    if channel.returning or before[name] is None or name not in resources:
                        note_return(channel, self._snapshot, name, before[name], listening)

    def next(self, now: float) -> bytes | None:
        """The encoded ``DeltaDiscoveryResponse`` to send next, or None if there is nothing to send now.

        Responses are built one at a time, so a slow client gets the newest state, not a queue of old states.
        """
        if not self._snapshot.seq:
            return None
        self._time_out(now)
        events = -1
        while events != len(self.events):
            # What is rejected instead of sent is answered at once, and may be what others waited for.
            events = len(self.events)
            for channel in self._in_order():
                if channel.flight is None and (batch := self._due(channel, now)) is not None:
                    return self._send(channel, batch, now)
        return None

    def wake_at(self, now: float) -> float | None:
        """When ``next`` may have a response although no request or edit came; None for never.

        The caller asks this when ``next`` returns None at ``now``. The answer is later than ``now``.
        """
        # A removal waits while its channel waits for an answer, and while clusters, which go first, are
        # removed.
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
        times += [due for c in self._channels.values() for due in c.waiting.values() if due > now]
        return min(times, default=None)

    def hold(self, type_url: str) -> None:
        """Send no listeners, or no routes, until ``release``."""
        self._on_hold.add(type_url)

    def release(self, type_url: str) -> None:
        """Send resources of a type again, in their newest version."""
        self._on_hold.discard(type_url)
        channel = self._channels.get(type_url)
        if channel is not None:
            for batch in (channel.staged.take(), *channel.retries):
                channel.take_back(batch)
            channel.retries.clear()

    def settled(self, seq: int) -> bool:
        """Whether Envoy has answered for all resources to which it subscribes, up to edit ``seq``.

        Lingering resources do not count. An Envoy that has not yet requested a type it needs is not settled:
        it starts, or reconnects.
        """
        if not self._snapshot.seq or self._done(self._channels) < seq:
            return False
        return not any(self._awaits(type_url) for type_url in (*_MAKE, *_SWITCH))

    def has_switched(self, seq: int) -> bool:
        """Whether Envoy has answered for its listeners, and their routes, up to edit ``seq``."""
        if not self._snapshot.seq or self._done(_SWITCH) < seq:
            return False
        return not any(map(self._awaits, _SWITCH))

    def cleared(self) -> float:
        """The last edit up to which Envoy has no departed scopes for certain; -inf if that is not known yet.

        See ``departures``.
        """
        channel = self._channels.get(SCOPE)
        if channel is None:
            # An Envoy that connects again asks for all that it needs before it answers.
            if self.settled(self._snapshot.seq):
                self._cleared = self._snapshot.seq
        elif (done := min(channel.oldest() - 1, self._snapshot.seq)) >= self._asked_for_scopes:
            self._cleared = done
        return self._cleared

    def may_have(self, names: Iterable[str]) -> None:
        """Note an edit by which scopes departed, as ``touch``. Envoy has them from an earlier stream."""
        channel = self._channels.get(SCOPE)
        if channel is None:
            return
        for name in names:
            if channel.ledger.wants(name):
                channel.ledger.set(name, UNKNOWN)
                channel.mark(name, self._snapshot.seq)
                channel.kept.add(name)

    def retry(self, type_url: str, name: str) -> None:
        """Send a refused resource again although it did not change: the obstacle may be gone."""
        channel = self._channels.get(type_url)
        if channel is not None and (refused := channel.rejected.get(name)) is not None:
            refused.again = True
            channel.mark(name, self._snapshot.seq)

    def dropped(self, type_url: str, name: str, message: str) -> None:
        """Note that Envoy has dropped a resource that it acknowledged, for a reason that it only logs.

        If that is the newest version, it counts as refused. Else a newer one is on its way.
        """
        channel = self._channels.get(type_url)
        if channel is None or (version := self.acknowledged_version(type_url, name)) is None:
            return
        channel.ledger.set(name, None)
        resource = self._snapshot.get(type_url, name)
        if resource is not None and resource.version == version:
            self._reject(channel, resource, message, self._snapshot.seq)

    def asks_for(self, type_url: str, name: str) -> bool:
        """Whether Envoy subscribes to a resource, or needs its type and has not requested that yet."""
        channel = self._channels.get(type_url)
        return self._awaits(type_url) if channel is None else channel.ledger.wants(name)

    def acknowledged_version(self, type_url: str, name: str) -> str | None:
        """The version that Envoy acknowledged, or had when it connected; None if there is none."""
        channel = self._channels.get(type_url)
        version = None if channel is None else channel.ledger.get(name)
        return None if version in (ABSENT, UNKNOWN) else version

    def entries(self) -> int:
        """How many names and versions are stored for this Envoy because they differ from the snapshot."""
        return sum(channel.ledger.entries() for channel in self._channels.values())

    def rejections(self) -> Iterator[Nacked]:
        """The resources of the snapshot that this Envoy refuses."""
        for channel in self._channels.values():
            for name, refused in channel.rejected.items():
                if self._snapshot.get(channel.type_url, name) is None:
                    continue
                yield self._nacked(channel, name, refused.version, refused.message)

    def _awaits(self, type_url: str) -> bool:
        """Whether Envoy needs a type for the resources that it has, but has not requested it yet."""
        if type_url in self._channels:
            return False
        if type_url in (CLUSTER, LISTENER):
            return bool(self._snapshot.of(type_url))
        parent = NEEDED_BY[type_url].by
        if parent not in self._channels:
            return False
        ledger = self._channels[parent].ledger
        return any(
            self._snapshot.needs(resource, type_url) and resource.version == ledger.get(name)
            for name, resource in self._snapshot.of(parent).items()
        )

    # Subscriptions

    def _open(self, request: DeltaDiscoveryRequest) -> None:
        names = set(request.resource_names_subscribe)
        # Only for these two types an empty first subscription means all resources (the legacy wildcard).
        wildcard = "*" in names or (not names and request.type_url in (CLUSTER, LISTENER))
        names.discard("*")
        versions = {
            name: version
            for name, version in request.initial_resource_versions.items()
            if (wildcard or name in names or collection_of(name) in names)
            and not (request.type_url == ENDPOINT and name in self._warming)
        }
        if request.type_url == ENDPOINT:
            self._warming.clear()
        view = self._snapshot.of(request.type_url)
        channel = self._channels[request.type_url] = Channel(
            type_url=request.type_url,
            ledger=Ledger(
                view, names, versions, wildcard=wildcard, members=self._snapshot.members(request.type_url)
            ),
            initial_pending=wildcard and not versions,
        )
        for name in channel.ledger.unsettled():
            channel.mark(name, self._snapshot.seq)
        if request.type_url in _TABLES:
            tables = {table_of(channel, name) for name in versions}
            gone = (table for table in tables if not has_table(self._snapshot, request.type_url, table))
            channel.absent = dict.fromkeys(gone, self._snapshot.seq)
            for collection in tables & channel.ledger.collections:
                channel.ledger.set(collection, ABSENT)  # the listeners that use it had an answer
            for other in self._channels.values():
                # Tables of an earlier stream may use what is to be removed, also if no listener uses them.
                other.postpone_removals(self._snapshot.seq)
        self._reconnected |= bool(request.initial_resource_versions)
        if request.type_url == SCOPE:
            self._asked_for_scopes = self._snapshot.seq
            if self._reconnected or LISTENER not in self._channels:
                self._may_have_scopes(channel, versions)
        # Envoy got these on an earlier stream, which may have ended before it acknowledged them.
        self._acknowledged(channel, versions, ())

    def _may_have_scopes(self, channel: Channel, versions: Mapping[str, str]) -> None:
        """Note which scopes Envoy may have of an earlier stream: all that the fleet has, and that it had.

        Args:
            channel: the channel of scopes.
            versions: name → version that Envoy says to have. Envoy 1.40 says nothing of scopes.
        """
        for collection in () if versions else channel.ledger.collections:
            if not has_table(self._snapshot, SCOPE, collection):
                channel.absent[collection] = self._snapshot.seq
            for name in (*channel.ledger.within(collection), *self._snapshot.departures.within(collection)):
                channel.ledger.set(name, UNKNOWN)
                channel.mark(name, self._snapshot.seq)
        # The earlier stream may have ended between a refusal and what was to follow it.
        channel.kept.update(name for name in channel.dirty if not is_collection(name))

    def _subscribe(self, channel: Channel, name: str) -> None:
        if name == "*":
            channel.ledger.wildcard = channel.initial_pending = True
            for match in self._snapshot.of(channel.type_url):
                channel.mark(match, self._snapshot.seq)
            return
        # A repeated subscription needs a new answer, even for a resource in flight: Envoy may have dropped
        # it.
        for each in _named(channel, name):
            channel.forget(each)
            channel.mark(each, self._snapshot.seq)
        channel.ledger.subscribe(name)
        if channel.type_url in _TABLES and channel.flight is not None:
            self._subscribed_amid(channel, channel.flight, name)

    def _subscribed_amid(self, tables: Channel, flight: Flight, name: str) -> None:
        """Note that Envoy may take the tables that are under way for a new subscription to them.

        Or it refuses the response, and keeps some of its scopes.
        """
        names = [each for each in flight.response.names if each == name or is_within(each, name)]
        for each in names:
            tables.ledger.set(each, UNKNOWN)
            tables.mark(each, self._snapshot.seq)
        if names:
            tables.dirty_since = min(tables.dirty_since, flight.batch.oldest)
        if tables.type_url == SCOPE:
            tables.kept.update(names)

    def _unsubscribe(self, channel: Channel, name: str) -> tuple[str, ...]:
        """Note the end of a subscription. The resources that Envoy has dropped thereby."""
        ledger = channel.ledger
        if name == "*":
            ledger.wildcard = False
            for each in [n for n in channel.names() if n not in ledger.names]:
                channel.forget(each)
            return ()
        named = _named(channel, name)
        for each in named:
            channel.forget(each)
        ledger.unsubscribe(name)
        if ledger.wants(name):
            # Envoy dropped the resource although the wildcard matches it, so it must be sent again.
            ledger.set(name, UNKNOWN)
            channel.mark(name, self._snapshot.seq)
            return ()
        return named

    # Batches to send

    def _in_order(self) -> Iterator[Channel]:
        for type_url in ORDER:
            if type_url in self._channels:
                yield self._channels[type_url]
        for type_url, channel in self._channels.items():
            if type_url not in ORDER:
                yield channel

    def _due(self, channel: Channel, now: float) -> Batch | None:
        """The batch that may be sent now, or None. No response of the channel is in flight."""
        if channel.type_url in self._on_hold:
            return None
        while channel.retries:
            if batch := self._sendable(channel, channel.retries.popleft(), now):
                return batch

        ready = self._ready(channel)
        self._restage(channel, ready)
        batch = Batch()
        if channel.staged and ready >= channel.staged_seq and not self._awaits_return(channel):
            batch = self._sendable(channel, next_part(channel, self._most), now)
        elif channel.type_url in _TABLES and self._done(_MAKE) >= channel.staged_seq:
            batch = self._sendable(channel, channel.staged.part(channel.returning), now)

        self._start_lingering(channel, now)
        if channel.type_url == CLUSTER or not self._removing_clusters(now):
            batch.gone.update(dict.fromkeys(channel.expired(now)))

        if batch or (channel.initial_pending and not channel.staged):
            # A wildcard without matches gets an empty response, because Envoy waits for the first one.
            channel.initial_pending = False
            batch, *others = parts(channel, batch)
            channel.retries.extend(others)
            return batch
        return None

    def _sendable(self, channel: Channel, batch: Batch, now: float) -> Batch:
        """A batch without what lacks clusters, the removal of scopes that are back, and scopes that wait."""
        if channel.type_url in _SWITCH:
            self._reject_lacking(channel, batch)
        if channel.type_url == SCOPE:
            back = [name for name in batch.gone if self._snapshot.get(SCOPE, name) is not None]
            waiting = scopes.waiting(channel, batch, now, self._mend_seconds)
            channel.take_back(batch.part([*back, *waiting]))
        return batch

    def _reject_lacking(self, channel: Channel, batch: Batch) -> None:
        """Reject what sends requests to clusters that Envoy refuses and does not have: they would fail."""
        clusters = self._channels.get(CLUSTER)
        if clusters is None or not clusters.rejected:
            return
        missing = [
            (name, refused.message)
            for name, refused in sorted(clusters.rejected.items())
            if not clusters.has(name)
        ]
        oldest = batch.oldest
        for resource in list(batch.news.values()) if missing else ():
            if lacks := tuple(each for each in missing if sends_to(resource, each[0])):
                batch.drop(resource.name)
                self._reject(channel, resource, of_clusters(lacks), oldest, lacks)
        if not batch:
            batch.oldest = inf

    def _try_lacking(self, clusters: Mapping[str, str]) -> None:
        """Send again what was rejected because it needs clusters that Envoy has now."""
        for channel in (self._channels[t] for t in _SWITCH if t in self._channels):
            for name, refused in channel.rejected.items():
                if any(cluster in clusters for cluster, _ in refused.lacks):
                    refused.again = True
                    channel.mark(name, self._snapshot.seq)

    def _ready(self, channel: Channel) -> float:
        """The last edit up to which all is answered that must be before a channel sends."""
        if channel.type_url in _TABLES and self._awaits(LISTENER):
            return -inf  # Envoy has just connected, and has not said yet which listeners it has
        return self._done(_BEFORE.get(channel.type_url, ()))

    def _awaits_return(self, channel: Channel) -> bool:
        """Whether a listener has to wait for a route table that returns; see ``returning``."""
        if channel.type_url != LISTENER:
            return False
        waits = [self._stages_returning(t) for t in map(self._channels.get, _TABLES) if t is not None]
        return any(waits)

    def _stages_returning(self, tables: Channel) -> bool:
        """Stage the route tables that return. Whether one still does."""
        returning = tables.returning
        if not returning:
            return False
        made = self._done(_MAKE)
        staged = any(name in returning for name in (*tables.staged.news, *tables.staged.gone))
        at_rest = tables.flight is None and not tables.retries
        # The staged routes wait for these listeners, so staging them again does not delay them. If a table is
        # back in the version that Envoy has, it is not sent, so there is no answer to wait for.
        free = not tables.staged or made >= (self._snapshot.seq if staged else tables.staged_seq)
        if tables.dirty and at_rest and free:
            self._stage(tables)
        return bool(returning)

    def _restage(self, channel: Channel, ready: float) -> None:
        """Stage the dirty names, unless that delays a staged batch. No response is in flight."""
        if channel.dirty and (not channel.staged or ready >= self._snapshot.seq):
            self._stage(channel)

    def _stage(self, channel: Channel) -> None:
        """Turn dirty names into a staged batch. No response is in flight, so the ledger is what Envoy has."""
        staged = channel.staged
        staged.oldest = min(staged.oldest, channel.dirty_since)
        unsent: dict[str, str] = {}
        channel.staged_seq = self._snapshot.seq
        resources, had_staged = self._snapshot.of(channel.type_url), bool(staged)
        for name in sorted(channel.dirty):
            if had_staged:
                staged.drop(name)
            resource = resources.get(name)
            version = channel.ledger.get(name)
            refused = channel.rejected.get(name)
            if resource is not None:
                if resource.version == version:
                    channel.returning.discard(name)
                    channel.rejected.pop(name, None)
                    unsent[name] = resource.version
                elif refused is None or refused.again or refused.version != resource.version:
                    staged.news[name] = resource
                else:
                    channel.returning.discard(name)
                    if channel.type_url == CLUSTER and not channel.has(name):
                        former = self._snapshot.former(name)
                        staged.news |= {name: former} if former is not None else {}
                continue
            # Of a response that it refused. It does not use it, and would not use it later either.
            kept = channel.type_url == SCOPE and version is None and name in channel.kept
            channel.waiting.pop(name, None)
            if not channel.has(name):
                channel.returning.discard(name)
            if refused is not None and channel.has(name):
                refused.again = True  # the old version is in force until it is removed
            else:
                channel.rejected.pop(name, None)
            if version is None and name in channel.ledger.names:
                if (last := self._warming_with(channel, name)) is not None:
                    staged.news[name] = last
                    channel.pending_removal[name] = Dropped(self._snapshot.seq, staged.oldest)
                else:
                    staged.gone[name] = None  # Envoy subscribed to it, and waits for an answer
            elif channel.has(name) or kept:
                if channel.type_url in _REMOVED_WITH_NEWS:
                    staged.gone[name] = None
                else:
                    channel.pending_removal[name] = Dropped(self._snapshot.seq, staged.oldest)
            elif channel.type_url == CLUSTER:
                self._restage_listeners_and_routes()
        channel.dirty.clear()
        if not staged:
            staged.oldest = inf
        self._acknowledged(channel, unsent, ())

    def _warming_with(self, channel: Channel, name: str) -> XdsResource | None:
        """The endpoints that a cluster had when it was sent, if Envoy is still warming the cluster.

        The cluster may have been removed in the meantime, but routes may still send requests to it. Without
        these endpoints it would be warm and empty.
        """
        clusters = self._channels.get(CLUSTER)
        if channel.type_url != ENDPOINT or clusters is None or clusters.flight is None:
            return None
        return clusters.flight.endpoints.get(name)

    def _restage_listeners_and_routes(self) -> None:
        """Stage listeners and routes again, because a cluster came and went before it was sent.

        A staged resource may refer to that cluster; the newest version does not.
        """
        for type_url in _SWITCH:
            channel = self._channels.get(type_url)
            if channel is not None:
                channel.take_back(channel.staged.take())

    def _start_lingering(self, channel: Channel, now: float) -> None:
        """Let resources that are pending removal linger, as soon as nothing in force refers to them."""
        if not channel.pending_removal:
            return
        if LISTENER not in self._channels or any(map(self._awaits, _TABLES)):
            return  # Envoy has just connected, and has not said yet which listeners and routes it has
        users = (CLUSTER, *_SWITCH) if channel.type_url in _OF_CLUSTERS else _SWITCH
        channel.linger(min(map(self._in_force, users)), now + self._linger_seconds)

    def _removing_clusters(self, now: float) -> bool:
        """Whether clusters are being removed now. The resources that they use are removed later."""
        clusters = self._channels.get(CLUSTER)
        if clusters is None:
            return False
        if clusters.flight is not None and clusters.flight.batch.gone:
            return True
        return any(due <= now for due in clusters.next_due())

    def _done(self, types: Iterable[str]) -> float:
        """The last edit up to which all resources of these types are sent and answered."""
        return min((c.oldest() - 1 for t in types if (c := self._channels.get(t)) is not None), default=inf)

    def _in_force(self, type_url: str) -> float:
        """The last edit up to which Envoy has accepted all listeners, or all routes or scopes that they use.

        When Envoy refuses a version, an older one stays in force, and that one may refer to old resources. So
        does a table that left before its last change was sent, as long as a listener in force uses it.
        """
        channel = self._channels.get(type_url)
        if channel is None:
            return inf
        # A removed table is out of use when Envoy has the listeners of the same edit.
        unused = self._in_force(LISTENER) if type_url in _TABLES else -inf
        return min(channel.oldest(), channel.outdated_since(unused)) - 1

    def _awaited(self) -> Iterator[Channel]:
        """The channels whose answers other channels wait for."""
        return (c for t in _BEFORE[ROUTE] if (c := self._channels.get(t)) is not None)

    def _send(self, channel: Channel, batch: Batch, now: float) -> bytes:
        resources: Collection[XdsResource] = batch.news.values()
        if not channel.kept.isdisjoint(batch.news):
            resources = [
                _respelled(each, f"{self._last} {now}") if each.name in channel.kept else each
                for each in resources
            ]
        response = self._snapshot.responses.response(
            channel.type_url, resources, batch.gone, after=self._last
        )
        self._last = response.number
        channel.flight = Flight(response=response, batch=batch)
        if channel.type_url == CLUSTER and not batch.applied:
            assignments = self._snapshot.of(ENDPOINT)
            for name, cluster in batch.news.items():
                needed = name if name in assignments else needs_endpoints(cluster)
                if needed is not None and needed in assignments:
                    channel.flight.endpoints[needed] = assignments[needed]
            self._warm(channel, response)

        counters = self._counters_of(channel)
        counters.responses += 1
        counters.resources += len(batch.news)
        counters.removals += len(batch.gone)
        counters.bytes += len(response.wire)
        return response.wire

    def _warm(self, clusters: Channel, response: Response) -> None:
        """Send the endpoints of the clusters in this response as well, even if Envoy has them.

        Otherwise a changed cluster waits until initial_fetch_timeout, and then replaces the old cluster
        without having endpoints.
        """
        endpoints = self._channels.get(ENDPOINT)
        if not (endpoints.ledger.names if endpoints else clusters.ledger.holds_anything()):
            return  # all clusters are new to Envoy, so it will request their endpoints
        for name in response.endpoints:
            if endpoints is None:
                self._warming.add(name)
            elif name in endpoints.ledger.names:
                self._subscribe(endpoints, name)

    # Answers

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
            self._take(channel, flight.batch)
            self._acknowledged(channel, flight.batch.versions(), flight.batch.gone)

    def _refused(self, channel: Channel, batch: Batch, message: str) -> None:
        """Reject the resources that Envoy refused, or find them, and send the others again."""
        self._counters_of(channel).nacks += 1
        blamed = blame(message, batch.news)
        if blamed.certain:
            self._refused_by_name(channel, batch, blamed)
        elif batch.news:
            if channel.type_url in _KEPT:
                channel.kept.update(batch.news)
            channel.retries.extendleft(reversed(parts_of_refused(channel, batch)))
        else:
            # The batch has only removals. Envoy would refuse them again.
            channel.take(batch)

    def _refused_by_name(self, channel: Channel, batch: Batch, blamed: Blame) -> None:
        """Reject the resources that Envoy names, and send the others again.

        Envoy has applied the others. But it truncates long messages, and a NACK proves nothing about the
        others. So they are sent again and acknowledged; to Envoy that is no change. Only of scopes it has
        applied none.
        """
        batch.applied = channel.type_url != SCOPE
        oldest = batch.oldest
        meeting = batch.part(meeting_listeners(blamed))
        apart = batch.part(blamed.likely).singly()
        reopening = self._reopening(channel, batch, blamed)
        for name, why in blamed.certain.items():
            if (refused := batch.news.pop(name, None)) is not None:
                self._reject(channel, refused, why, oldest)
        if batch:
            channel.retries.appendleft(batch)
        channel.retries.extend(each for each in (*apart, meeting, *reopening) if each)

    def _reopening(self, channel: Channel, batch: Batch, blamed: Blame) -> tuple[Batch, ...]:
        """Take the listeners that are opened again out of a batch: one to close them, one to open them."""
        if channel.type_url != LISTENER:
            return ()
        others = self._snapshot.of(LISTENER)
        opening = batch.part(to_reopen(channel, self._channels.get(ROUTE), others, batch, blamed))
        closing = [name for name in opening.news if channel.has(name)]
        return Batch(gone=dict.fromkeys(closing), oldest=opening.oldest), opening

    def _refused_late(self, channel: Channel, batch: Batch, message: str) -> None:
        """Handle the refusal of a flight that has timed out. Its resources may have changed since."""
        self._counters_of(channel).nacks += 1
        refusals = blame(message, batch.news).certain
        for name, resource in batch.news.items():
            if channel.ledger.get(name) == resource.version:
                channel.ledger.set(name, UNKNOWN)
            now = self._snapshot.get(channel.type_url, name)
            if now is None or now.version != resource.version:
                continue
            if name in refusals:
                self._reject(channel, resource, refusals[name], batch.oldest)
            else:
                if channel.type_url in _KEPT:
                    channel.kept.add(name)
                channel.mark(name, self._snapshot.seq)

    def _take(self, channel: Channel, batch: Batch) -> None:
        """Note that Envoy accepted a batch. Of clusters that it refuses, it may be the former version."""
        refused = {
            name: channel.rejected[name]
            for name, resource in batch.news.items()
            if name in channel.rejected and self._is_former(channel, resource)
        }
        channel.take(batch)
        channel.rejected |= refused

    def _is_former(self, channel: Channel, resource: XdsResource) -> bool:
        return channel.type_url == CLUSTER and resource == self._snapshot.former(resource.name)

    def _reject(
        self,
        channel: Channel,
        resource: XdsResource,
        message: str,
        oldest: float,
        lacks: tuple[tuple[str, str], ...] = (),
    ) -> None:
        if self._is_former(channel, resource):
            self._snapshot.forget_former(resource.name)
            return  # it refuses the newest version already
        why = message if lacks else reason(message)
        # If several versions in a row were refused, the version in force is older than the first of them.
        before = channel.rejected.get(resource.name)
        since = oldest if before is None else min(before.seq, oldest)
        channel.rejected[resource.name] = Refused(resource.version, why, since, lacks=lacks)
        if channel.type_url == SECRET:
            # It keeps a secret that it refuses beside the one in force, and later builds listeners with it.
            channel.ledger.set(resource.name, UNKNOWN)
            channel.kept.discard(resource.name)
        channel.returning.discard(resource.name)
        if channel.type_url == CLUSTER and not channel.has(resource.name):
            channel.mark(resource.name, self._snapshot.seq)
            channel.dirty_since = min(channel.dirty_since, oldest)
        self.events.append(self._nacked(channel, resource.name, resource.version, why, lacks))

    def _time_out(self, now: float) -> None:
        """Stop waiting for an answer that does not come, for example if a cluster never becomes warm.

        A corrected version of the cluster would wait too. The time starts at the first request of Envoy after
        the response was sent: a client that is silent on all types is slow, not warming.
        """
        for channel in self._awaited():
            flight = channel.flight
            if flight is not None and now >= flight.heard_at + self._patience_seconds:
                channel.flight = None
                channel.timed_out[flight.response.nonce] = flight.batch
                self._take(channel, flight.batch)

    def _acknowledged(self, channel: Channel, versions: Mapping[str, str], gone: Iterable[str]) -> None:
        if channel.type_url == CLUSTER and versions:
            for name, version in versions.items():
                self._snapshot.taken(name, version)
            self._try_lacking(versions)
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

    def _nacked(
        self,
        channel: Channel,
        name: str,
        version: str,
        message: str,
        lacks: tuple[tuple[str, str], ...] = (),
    ) -> Nacked:
        return Nacked(
            fleet=self.fleet,
            node=self.node,
            stream=self.stream,
            type_url=channel.type_url,
            name=name,
            version=version,
            message=message,
            lacks=lacks,
        )

    def _counters_of(self, channel: Channel) -> Counters:
        return self._counters.setdefault(channel.type_url, Counters())


def _named(channel: Channel, name: str) -> tuple[str, ...]:
    """The resources that a subscription names: one, or all in a collection."""
    return (name, *sorted(channel.within(name))) if is_collection(name) else (name,)


def _respelled(resource: XdsResource, spelling: str) -> XdsResource:
    if resource.type_url == SCOPE:
        return scopes.respelled(resource, spelling)
    return secrets.respelled(resource) or resource
