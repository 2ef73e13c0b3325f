"""The delta ADS server: passes requests and responses between grpcio and sessions, without decisions.

Facts
-----
* one thread: all methods belong to one event loop
* a gRPC server accepts no further address after its start, so each transport has a gRPC server of its own,
  which costs 14 kB and one descriptor
* a stream writes one response at a time and waits until the transport accepts it, so a stopped Envoy costs
  one response per type; later changes go into its next response
"""

# The stubs of grpcio leave the types of its handler factories open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from moongate.ads.events import Connected, Counters, Disconnected, Event, Holder, Rejection
from moongate.ads.lateness import LATE_SECONDS, Lateness
from moongate.ads.session import LINGER_SECONDS, PATIENCE_SECONDS, Session
from moongate.ads.snapshot import Snapshot
from moongate.ads.transports import IdentityError
from moongate.patience import STEPS, Clock

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Collection,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from moongate.ads.snapshot import Key
    from moongate.ads.transports import Context, Transport
    from moongate.xds.wire import XdsResource

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),  # a RouteConfiguration of 10,000 routes is one message
    ("grpc.max_receive_message_length", -1),  # so are the versions of 10,000 clusters, at a reconnect
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # Envoy's own keepalive pings are welcome
)


class AdsServer:
    """Serves all fleets, over any number of transports. It keeps published resources even without one."""

    def __init__(
        self,
        on_event: Callable[[Event], None] | None = None,
        *,
        linger_seconds: float = LINGER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        on_lateness: Callable[[str], None] | None = None,
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        """Create a server that does not listen yet.

        Args:
            on_event: called with each event, in order, from the event loop. It must neither block nor raise.
            on_lateness: called with the name of a fleet when ``late_since`` of it has changed.
        """
        self.counters: dict[str, Counters] = {}
        """Counters of responses and answers since the start, by type URL."""
        self._on_event = on_event
        self._streams = 0
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._clock = Clock(patience_seconds / STEPS)
        """The time of sessions: while we stand still, an Envoy may have answered."""
        self._on_lateness = on_lateness
        self._late_seconds = late_seconds
        self._fleets: dict[str, _Fleet] = {}

    @asynccontextmanager
    async def listen(self, transport: Transport) -> AsyncGenerator[None]:
        """Let Envoys connect over a transport. A stale socket file at its path is replaced.

        When the context exits, its streams are cut, and Envoys keep their configuration.

        Raises:
            OSError: the address cannot be listened on.
        """

        calls: set[asyncio.Task[Any]] = set()

        async def stream(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
            call = asyncio.current_task()
            assert call is not None, "grpcio runs each call in a task"
            calls.add(call)
            call.add_done_callback(calls.discard)
            await self._stream(transport, requests, context)

        server = grpc.aio.server(options=OPTIONS)
        # Without a serializer, because responses are encoded already.
        method = grpc.stream_stream_rpc_method_handler(stream, DeltaDiscoveryRequest.FromString, None)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method}),)
        )
        try:
            if transport.credentials is None:
                server.add_insecure_port(transport.address)
            else:
                server.add_secure_port(transport.address, transport.credentials)
        except RuntimeError as error:
            raise OSError(f"{transport.address} cannot be listened on.") from error
        await server.start()
        try:
            _protect(transport.address)
            yield
        finally:
            await server.stop(grace=None)
            # It returns before its calls have ended, and what they still wait for comes to this event loop.
            while calls:
                await asyncio.wait(calls)

    def publish(self, fleet: str, put: Iterable[XdsResource] = (), gone: Iterable[Key] = ()) -> None:
        """Change the resources of a fleet.

        The first call creates the fleet, even without resources. It exists until ``end``.
        """
        of = self._fleet(fleet)
        if of.prepared:
            put = tuple(put)
            of.overtaken.update((resource.type_url, resource.name) for resource in put)
        _edit(of, put, gone)

    def prepare(self, fleet: str, put: Sequence[XdsResource]) -> None:
        """Take resources that ``publish_prepared`` publishes: what is published before that is newer."""
        of = self._fleet(fleet)
        of.prepared = put
        of.overtaken.clear()

    def publish_prepared(self, fleet: str, gone: Collection[Key] = ()) -> Iterator[None]:
        """Publish what was prepared, and the end of others with the last of it.

        It is one edit unless there is much of it that may come, or leave, one after the other. Then this
        pauses after each part.
        """
        of = self._fleet(fleet)
        *parts, last = of.snapshot.in_parts(of.prepared, gone)
        for part in parts:
            _edit(of, of.not_overtaken(part), ())
            yield
        put = of.not_overtaken(last)
        first, *later = of.snapshot.gone_in_parts(gone, of.prepared)
        of.prepared = ()
        _edit(of, put, first)
        for some in later:
            yield
            _edit(of, (), some)

    def recall(self, fleet: str, cluster: XdsResource) -> None:
        """Take a cluster that a former process had in force before one that Envoy may refuse."""
        self._fleet(fleet).snapshot.recall(cluster)

    def departed(self, fleet: str, node: str, names: Iterable[str]) -> None:
        """Note an Envoy of a fleet that runs already, and the scopes that it has.

        Those that the fleet should not have are removed from it, if it is connected, and else as soon as it
        connects.

        Args:
            fleet: whose Envoy it is.
            node: its node id.
            names: the scopes that it has; others, too, do no harm.
        """
        if (of := self._fleets.get(fleet)) is None:
            return
        of.snapshot.departures.runs(node, _now())
        departed = of.snapshot.depart(names)
        for stream in of.streams:
            stream.session.may_have(departed)
            stream.wake.set()
        of.notify()

    def end(self, fleet: str) -> None:
        """Forget a fleet.

        Connected Envoys keep their configuration, and get no more changes. An Envoy that connects later waits
        until the fleet is published again.
        """
        if (of := self._fleets.pop(fleet, None)) is not None:
            of.published = False
            of.lateness.cancel()

    def late_since(self, fleet: str) -> float | None:
        """Since when Envoys of a fleet owe an answer, on the loop's clock; None unless they are late.

        Envoys are late if one of them does not answer, or if none is connected.
        """
        of = self._fleets.get(fleet)
        return of.lateness.since if of is not None else None

    def retry(self, fleet: str, type_url: str, name: str) -> None:
        """Send a resource again that Envoys refuse, such as a listener whose port was taken."""
        for stream in self._streams_of(fleet):
            stream.session.retry(type_url, name)
            stream.wake.set()

    def dropped(self, fleet: str, type_url: str, name: str, message: str) -> None:
        """Note that the Envoys of a fleet have dropped a resource that they acknowledged; see ``Session``."""
        for stream in self._streams_of(fleet):
            stream.session.dropped(type_url, name, message)
            self._report(stream.session)
            stream.wake.set()

    def hold(self, fleet: str, type_url: str) -> None:
        """Send no listeners, or no routes, until ``release``.

        Routes are held when an Envoy refused a resource, and new routes are being built; listeners, when one
        is to close whose port another Envoy cannot open yet. If this is called in ``on_event``, it takes
        effect before anything that the event would release.
        """
        if (of := self._fleets.get(fleet)) is not None:
            of.on_hold.add(type_url)
            for stream in of.streams:
                stream.session.hold(type_url)

    def release(self, fleet: str, type_url: str) -> None:
        """Send resources of a type again, in their newest version."""
        if (of := self._fleets.get(fleet)) is not None:
            of.on_hold.discard(type_url)
            for stream in of.streams:
                stream.session.release(type_url)
                stream.wake.set()

    def resources(self, fleet: str, type_url: str) -> Mapping[str, XdsResource]:
        """The resources of a type that a fleet should have, by name. A live view, not a copy."""
        of = self._fleets.get(fleet)
        return of.snapshot.of(type_url) if of is not None else {}

    def version(self, fleet: str, type_url: str, name: str) -> str | None:
        """The version of a resource that a fleet should have; None if it should not have the resource."""
        resource = self.resources(fleet, type_url).get(name)
        return resource.version if resource is not None else None

    def edits(self, fleet: str) -> int:
        """How many edits of its resources a fleet has had."""
        of = self._fleets.get(fleet)
        return of.snapshot.seq if of is not None else 0

    def have_switched(self, fleet: str, edit: int) -> bool:
        """Whether all connected Envoys have answered for their listeners and routes up to an edit."""
        return all(stream.session.has_switched(edit) for stream in self._streams_of(fleet))

    def is_asked_for(self, fleet: str, type_url: str, name: str) -> bool:
        """Whether a connected Envoy subscribes to a resource, or has not sent its subscription yet.

        Also true if no Envoy is connected, because one that reconnects may still use the resource.
        """
        streams = self._streams_of(fleet)
        return not streams or any(stream.session.asks_for(type_url, name) for stream in streams)

    def nodes(self, fleet: str) -> tuple[str, ...]:
        """The ids of the connected Envoys, sorted."""
        return tuple(sorted(stream.session.node for stream in self._streams_of(fleet)))

    def holders(self, fleet: str, type_url: str, name: str) -> tuple[Holder, ...]:
        """The version of a resource that each connected Envoy has acknowledged, by node and stream."""
        sessions = (stream.session for stream in self._streams_of(fleet))
        return tuple(
            Holder(
                node=session.node, stream=session.stream, version=session.acknowledged_version(type_url, name)
            )
            for session in sorted(sessions, key=lambda session: (session.node, session.stream))
        )

    def quarantine(self, fleet: str) -> tuple[Rejection, ...]:
        """The resources that connected Envoys refuse now, by type and name.

        An entry ends when a newer version is acknowledged, or the resource is removed.
        """
        nodes: dict[tuple[str, str, str, str], list[str]] = {}
        for stream in self._streams_of(fleet):
            for no in stream.session.rejections():
                nodes.setdefault((no.type_url, no.name, no.version, no.message), []).append(no.node)
        return tuple(
            Rejection(type_url=key[0], name=key[1], version=key[2], message=key[3], nodes=tuple(sorted(who)))
            for key, who in sorted(nodes.items())
        )

    async def settled(self, fleet: str, timeout_seconds: float) -> None:
        """Return when at least one Envoy of a fleet is connected, and all have what was published before the
        call.

        A refused resource counts as settled (see ``quarantine``), and so does one that lingers.

        Raises:
            TimeoutError: this did not happen in time.
        """
        of = self._fleet(fleet)
        seq = max(of.snapshot.seq, 1)
        changed = asyncio.Event()
        of.watchers.add(changed)
        try:
            async with asyncio.timeout(timeout_seconds):
                while not of.settled(seq):
                    changed.clear()
                    await changed.wait()
        finally:
            of.watchers.discard(changed)
            self._forget_if_unknown(fleet, of)

    def _fleet(self, name: str) -> _Fleet:
        of = self._fleets.get(name)
        if of is None:
            lateness = Lateness(self._late_seconds, partial(self._note_lateness, name))
            of = self._fleets[name] = _Fleet(lateness)
        return of

    def _note_lateness(self, name: str) -> None:
        if self._on_lateness is not None:
            self._on_lateness(name)

    def _streams_of(self, fleet: str) -> list[_Stream]:
        of = self._fleets.get(fleet)
        return of.streams if of is not None else []

    def _forget_if_unknown(self, name: str, of: _Fleet) -> None:
        """Forget a fleet without publication, streams and waiters."""
        if self._fleets.get(name) is of and not (of.published or of.streams or of.watchers):
            del self._fleets[name]

    async def _stream(
        self, transport: Transport, requests: AsyncIterator[DeltaDiscoveryRequest], context: Context
    ) -> None:
        first = await anext(requests, None)
        if first is None:
            return
        try:
            identity = transport.identify(context, first.node)
        except IdentityError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        of = self._fleet(identity.fleet)
        self._streams += 1
        session = Session(
            identity.fleet,
            identity.node,
            of.snapshot,
            self.counters,
            stream=self._streams,
            linger_seconds=self._linger_seconds,
            patience_seconds=self._patience_seconds,
        )
        for type_url in sorted(of.on_hold):
            session.hold(type_url)
        stream = _Stream(session)
        of.streams.append(stream)
        self._emit(Connected(fleet=session.fleet, node=session.node, stream=session.stream))
        of.snapshot.departures.connected(session, _now())
        session.receive(first, self._clock())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(stream, of, context))
                async for request in requests:
                    session.receive(request, self._clock())
                    self._report(session)  # here too, as the writer may wait for a slow Envoy
                    of.notify()
                    stream.wake.set()
                # Not cancelled: grpcio cannot end a call while a write of it is pending.
                stream.open = False
                stream.wake.set()
            if stream.lost:
                raise asyncio.CancelledError  # the client is gone, and sending a status would raise
        finally:
            of.streams.remove(stream)
            of.snapshot.departures.disconnected(session, _now())
            of.notify()
            self._forget_if_unknown(session.fleet, of)
            self._emit(Disconnected(fleet=session.fleet, node=session.node, stream=session.stream))

    async def _write(self, stream: _Stream, of: _Fleet, context: Context) -> None:
        session = stream.session
        while stream.open:
            stream.wake.clear()
            while stream.open and (response := session.next(self._clock())) is not None:
                try:
                    await _finished(context.write(response))
                except grpc.aio.InternalError:
                    stream.lost = True
                    return
            self._report(session)
            of.notify()
            now = self._clock()
            due = session.wake_at(now)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else min(due - now, self._clock.step_s)):
                    await stream.wake.wait()

    def _report(self, session: Session) -> None:
        while session.events:
            self._emit(session.events.popleft())

    def _emit(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)


class _Stream:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.wake = asyncio.Event()
        self.open = True
        self.lost = False


class _Fleet:
    def __init__(self, lateness: Lateness) -> None:
        self.lateness = lateness
        self.snapshot = Snapshot()
        self.published = False
        """Whether it was ever published. If not, only the name of a connected Envoy is known."""
        self.prepared: Sequence[XdsResource] = ()
        """What is published soon."""
        self.overtaken: set[Key] = set()
        """What of that is older than what was published in the meantime."""
        self.on_hold: set[str] = set()
        """The types of which nothing is sent."""
        self.streams: list[_Stream] = []
        self.watchers: set[asyncio.Event] = set()
        self._behind = 0
        """The index of the stream that had not answered the last time."""

    def not_overtaken(self, prepared: Sequence[XdsResource]) -> Sequence[XdsResource]:
        """Some of what was prepared, without that of which something newer was published in the meantime."""
        if not self.overtaken:
            return prepared
        return [each for each in prepared if (each.type_url, each.name) not in self.overtaken]

    def settled(self, seq: int) -> bool:
        """Whether an Envoy is connected, and all that are have answered up to edit ``seq``.

        This is asked at each answer, so it begins with the Envoy that was behind the last time.
        """
        for n in range(len(self.streams)):
            at = (self._behind + n) % len(self.streams)
            if not self.streams[at].session.settled(seq):
                self._behind = at
                return False
        return bool(self.streams)

    def notify(self) -> None:
        """Note an edit or an answer: wake the callers that wait for answers."""
        for watcher in self.watchers:
            watcher.set()
        self.snapshot.departures.forget(_now())
        if self.published:
            self.lateness.look(self.snapshot.seq, self.settled)


def _edit(of: _Fleet, put: Iterable[XdsResource], gone: Iterable[Key]) -> None:
    """Make one edit of a fleet's resources, and let its streams send it."""
    of.published = True
    differences = of.snapshot.apply(put, gone)
    for stream in of.streams:
        stream.session.touch(differences)
        stream.wake.set()
    of.notify()


async def _finished(write: Coroutine[Any, Any, None]) -> None:
    """Write. Who is cancelled meanwhile waits all the same: what grpcio still does comes to this event loop.

    grpcio cancels a call that has ended, and a pending write of such a call fails soon.
    """
    pending = asyncio.ensure_future(write)  # noqa: TID251 - it is waited for below in any case
    try:
        await asyncio.shield(pending)
    except asyncio.CancelledError:
        await asyncio.wait([pending])
        if not pending.cancelled():
            pending.exception()  # nobody else looks at it
        raise


def _protect(address: str) -> None:
    """Restrict a Unix socket to its owner, because private keys are sent over it."""
    scheme, _, path = address.partition(":")
    if scheme == "unix":
        Path(path).chmod(0o600)


def _now() -> float:
    return asyncio.get_running_loop().time()
