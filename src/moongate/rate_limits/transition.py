"""``Transition``: what a rate limit service is told while Envoys may still ask by former routes.

Theory of operation
===================
Envoys get their routes a little later than the service gets the limits, and a limit is known by its place
among the rules. So for a moment requests of former routes meet the limits of new ones, and of other rules.
Until the Envoys have the routes of a configuration, it is published *over* the former one: wherever both have
a limit, the stricter one counts. So nothing passes that both refuse.

1. ``take`` notes what changes, and what it replaces, which becomes *former*.
2. When the routes of the change are handed out, ``review`` notes the edits by which Envoys get them.
3. When all these Envoys have them, ``review`` notes that, and ``forget`` forgets what was former
   ``UNDER_WAY_S`` later; then a raised limit is in force.

Facts
-----
* a limit in shadow refuses nothing, so every limit that is enforced is stricter
* stricter means fewer requests per second. The count goes on in the bucket of the limit that counts
* an Envoy acknowledges routes before all its threads have them, and the service may get a question late
* a fleet without an edit has the routes that it had, so nobody waits for it. But Envoys that outlived a
  former process ask by its routes, so its limits are former ones until all Envoys have routes of ours
* there are two former configurations at most, and what comes while both are needed joins the younger. So
  under edits without an end each is forgotten once the Envoys have what followed it
* Envoys that do not answer are not waited for longer than ``FORMER_S`` after the last change that joined
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec import Struct

from moongate.rate_limits.config import SECONDS
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor
from moongate.rate_limits.service import FORMER_S
from moongate.xds.wire import encode, sized

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

UNDER_WAY_S: Final = 0.2
"""Seconds in which requests by former routes may be under way when Envoys have acknowledged others."""

_T = TypeVar("_T")
_MOST: Final = 2
_LAST: Final = 0x7F
"""The last byte of an encoded number is at most this."""


class _Former(Struct):
    """A configuration by which Envoys may still ask, as far as it differs from the next one.

    Args:
        configs: encoded ``RateLimitConfig`` messages, by name.
        edits: how many each fleet had before the routes of the next configuration; None if that was before
            this process.
        until: when it is forgotten.
        awaited: the edit with which each fleet gets those routes; None until they are handed out.
        replaced: whether the Envoys have them.
    """

    configs: dict[str, bytes]
    edits: Mapping[str, int] | None
    until: float
    awaited: Mapping[str, int] | None = None
    replaced: bool = False

    def __repr__(self) -> str:
        return sized(self, ("edits", "until", "awaited", "replaced"))


class Routes(Protocol):
    """What is known of the routes of all fleets."""

    @property
    def held(self) -> bool:
        """Whether some are not handed out yet."""
        ...

    def edits(self) -> Mapping[str, int]:
        """How many edits each fleet has had."""
        ...

    def in_force(self, name: str, edit: int) -> bool:
        """Whether no Envoy of a fleet has routes from before an edit."""
        ...


class Transition:
    """The limits of all domains, from one configuration to the next.

    Args:
        clock: the time, in seconds.
        kept: what a former process has published, by which Envoys that outlived it may ask.

    Attributes:
        newest: the configuration that is wanted: encoded ``RateLimitConfig`` messages, by name.
    """

    def __init__(self, clock: Callable[[], float], kept: Mapping[str, bytes] | None = None) -> None:
        self.newest: dict[str, bytes] = {}
        self._kept = dict(kept or {})
        """It is former once there is something newer."""
        self._clock = clock
        self._former: list[_Former] = []
        """The oldest first."""

    def take(
        self, changes: Mapping[str, bytes | None], edits: Mapping[str, int]
    ) -> Generator[None, None, None]:
        """Note a change of the configuration, in steps; its routes are handed out after this.

        Args:
            changes: encoded ``RateLimitConfig`` messages by name; None for one that is gone.
            edits: how many edits each fleet has had.
        """
        former: dict[str, bytes] = {}
        for name, config in changes.items():
            before = self.newest.pop(name, None)
            if config is not None:
                self.newest[name] = config
            if before is not None and before != config:
                former[name] = before
        until = self._clock() + FORMER_S
        if kept := {name: each for name, each in self._kept.items() if self.newest.get(name) != each}:
            self._former.append(_Former(kept, None, until))
        self._kept.clear()
        if not former:
            return
        if len(self._former) < _MOST:
            self._former.append(_Former(former, edits, until))
            return
        youngest = self._former[-1]
        youngest.until, youngest.awaited, youngest.replaced = until, None, False
        for name, each in former.items():
            youngest.configs[name] = yield from _merged(each, youngest.configs.get(name))

    def published(self) -> Generator[None, None, dict[str, bytes]]:
        """What the service is to have: the newest configuration over the former ones; in steps."""
        configs = dict(self.newest)
        for former in self._former[::-1]:
            for name, each in list(former.configs.items()):
                configs[name] = yield from _merged(configs.get(name), each)
        return configs

    def review(self, routes: Routes) -> None:
        """Look at which routes Envoys have."""
        edits = routes.edits() if self._former and not routes.held else None
        for former in self._former:
            if former.awaited is None and edits is not None:
                before = former.edits
                former.awaited = {
                    name: n for name, n in edits.items() if before is None or before.get(name, n) != n
                }
            if former.awaited is None or former.replaced:
                continue
            if all(routes.in_force(name, edit) for name, edit in former.awaited.items()):
                former.replaced = True
                # Where no routes were handed out, no request asks by others.
                rest = UNDER_WAY_S if former.awaited else 0.0
                former.until = min(former.until, self._clock() + rest)

    def forget(self) -> bool:
        """Forget what no Envoy asks by any more. Whether there was something."""
        now = self._clock()
        kept = [each for each in self._former if now < each.until]
        forgotten = len(kept) < len(self._former)
        self._former = kept
        return forgotten

    @property
    def until(self) -> float | None:
        """When the next former configuration is to be forgotten; None if there is none."""
        return min((former.until for former in self._former), default=None)

    @property
    def raised_at(self) -> float | None:
        """When limits are in force that are raised, and for which Envoys have the routes; None if all are."""
        raising = (
            former.until
            for former in self._former
            if former.replaced
            and any(_is_stricter(each, self.newest.get(name)) for name, each in former.configs.items())
        )
        return max(raising, default=None)


def stricter(newer: bytes | None, former: bytes | None) -> bytes:
    """The configuration of a domain in which the stricter limit of two counts.

    Args:
        newer: an encoded ``RateLimitConfig``; of equal limits, its own count. None has no limits.
        former: another one; None has no limits.
    """
    return at_once(_merged(newer, former))


def at_once(steps: Generator[None, None, _T]) -> _T:
    """What comes of some steps."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


def _merged(newer: bytes | None, former: bytes | None) -> Generator[None, None, bytes]:
    if newer is None or former is None or newer == former:
        return newer or former or b""
    equal, ours, theirs = _compared(newer, former)
    yield
    both = [equal]
    for each in _stricter(ours.descriptors, theirs.descriptors):
        both.append(encode(RateLimitConfig(descriptors=[each])))
        yield
    return b"".join(both)


def _is_stricter(former: bytes, newer: bytes | None) -> bool:
    """Whether a limit of a former configuration of a domain is stricter than the one in its place."""
    if newer is None:
        return False

    def some(former: Iterable[RateLimitDescriptor], newer: Iterable[RateLimitDescriptor]) -> bool:
        theirs = _by_place(former)
        for each in newer:
            their = theirs.get((each.key, each.value)) or theirs.get((each.key, ""))
            if their is None or their == each:
                continue
            if each.HasField("rate_limit") and _laxity(their) < _laxity(each):
                return True
            if some(their.descriptors, each.descriptors):
                return True
        return False

    _, ours, theirs = _compared(newer, former)
    return some(theirs.descriptors, ours.descriptors)


def _compared(newer: bytes, former: bytes) -> tuple[bytes, RateLimitConfig, RateLimitConfig]:
    """What two configurations of a domain have in common, encoded, and what else each of them has.

    There may be ten thousand descriptors, of which an edit changes one; only what differs is decoded. At the
    top of a domain each has a value, so none of them is counted by another.
    """
    ours, theirs = list(_fields(newer)), list(_fields(former))
    common = set(ours).intersection(theirs)
    own, other = (
        RateLimitConfig.FromString(b"".join(each for each in fields if each not in common))
        for fields in (ours, theirs)
    )
    return b"".join(each for each in ours if each in common), own, other


def _fields(message: bytes) -> Iterator[bytes]:
    """The fields of a ``RateLimitConfig``, still encoded: each is a tag of one byte, a length and a value."""
    start = 0
    while start < len(message):
        at, size, shift = start + 1, 0, 0
        while message[at] > _LAST:
            size |= (message[at] & _LAST) << shift
            at, shift = at + 1, shift + 7
        end = at + 1 + (size | message[at] << shift)
        yield message[start:end]
        start = end


def _stricter(
    ours: Iterable[RateLimitDescriptor], theirs: Iterable[RateLimitDescriptor]
) -> Iterator[RateLimitDescriptor]:
    own, others = _by_place(ours), _by_place(theirs)
    for key, value in own | others:
        # A value without an entry of its own is counted by that of its key.
        mine = own.get((key, value)) or own.get((key, ""))
        their = others.get((key, value)) or others.get((key, ""))
        if mine is None or their is None or mine == their:
            yield from (each for each in (mine or their,) if each is not None)
            continue
        counts = min(mine, their, key=_laxity)
        joined = RateLimitDescriptor(
            key=key,
            value=value,
            descriptors=list(_stricter(mine.descriptors, their.descriptors)),
            shadow_mode=counts.shadow_mode,
            detailed_metric=counts.detailed_metric,
        )
        if counts.HasField("rate_limit"):
            joined.rate_limit.CopyFrom(counts.rate_limit)
        yield joined


def _by_place(
    descriptors: Iterable[RateLimitDescriptor],
) -> dict[tuple[str, str], RateLimitDescriptor]:
    return {(each.key, each.value): each for each in descriptors}


def _laxity(descriptor: RateLimitDescriptor) -> tuple[int, Fraction]:
    """Is greater, the less a limit refuses; what refuses nothing is counted before it is not."""
    limit = descriptor.rate_limit
    if not descriptor.HasField("rate_limit"):
        return 3, Fraction()
    if limit.unlimited:
        return 2, Fraction()
    if descriptor.shadow_mode:
        return 1, Fraction()
    return 0, Fraction(limit.requests_per_unit, SECONDS[limit.unit])
