"""Finding the one route that Envoy refuses in a table of thousands, and taking it alone out of force.

Theory of operation
===================
Envoy takes or refuses a route configuration as a whole, and does not say which route is at fault. What it
has acknowledged is good; what differs from that in a version it refused is suspect. A single suspect is the
culprit. Several are withheld together (their last good form stays in force, or nothing where there was
none), and released again half by half: what is acknowledged is good, what is refused is halved once more.

The facts go into cells that ``xds.routes`` reads, so the rest of the table goes on changing meanwhile.

Facts
-----
* parts of a table that did not change are the same object, so comparing two versions costs what differs
* an entry holds for one version of a route: an edit of the route is a new version, and is tried at once
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.xds.routes import rejected
from moongate.xds.wire import ROUTE, version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Ref
    from moongate.world import World
    from moongate.xds.routes import Part, Piece


MOST_TRIES: Final = 24
"""How often a version may be among the suspects: halving finds one among millions in fewer."""


class Refusal(NamedTuple):
    """A route that an Envoy refused, and why.

    Args:
        gateway: whose Envoys.
        route: the route that is at fault.
        message: Envoy's words.
    """

    gateway: Ref
    route: Ref
    message: str


class _Suspect(NamedTuple):
    route: Ref
    version: str
    last_good: bytes


class _Trial:
    """What is known of one route configuration."""

    def __init__(self) -> None:
        self.good: tuple[Part, ...] = ()
        self.good_version = ""
        self.tries: Counter[str] = Counter()
        self.released = False
        """Whether the last step was a release, that an Envoy has still to answer."""
        self.withheld: dict[str, _Suspect] = {}
        self.queue: list[list[_Suspect]] = []
        self.culprits: dict[str, tuple[_Suspect, str]] = {}


class RouteQuarantine:
    """Takes what Envoys answer about route configurations, and writes what must stay out of force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._trials: dict[tuple[Ref, str], _Trial] = {}

    def acknowledged(self, gateway: Ref, name: str, acknowledged: str) -> bool:
        """An Envoy has a version in force. True if the world is to be settled again."""
        if not self._is_current(gateway, name, acknowledged):
            return False
        trial = self._trials.setdefault((gateway, name), _Trial())
        trial.good = self._world.route_parts(gateway, name)
        trial.good_version = acknowledged
        trial.released = False
        mended = self._forget_mended(gateway, trial)
        if not trial.queue:
            return mended
        return self._release(gateway, trial)

    def review(self) -> bool:
        """Forget refusals of routes that are gone, or have another version by now. True if there were some.

        A route without a last good form can go without a change of the table, so no Envoy tells of it.
        """
        moved = [self._forget_mended(gateway, trial) for (gateway, _), trial in self._trials.items()]
        for (gateway, name), trial in self._trials.items():
            # What was released made no difference (its route was edited meanwhile), so nobody will answer.
            if trial.queue and trial.released and self._is_current(gateway, name, trial.good_version):
                moved.append(self._release(gateway, trial))
        return any(moved)

    def refused(self, gateway: Ref, name: str, refused: str, message: str) -> bool:
        """An Envoy refused a version. True if the world is to be settled again."""
        if not self._is_current(gateway, name, refused):
            return False
        trial = self._trials.setdefault((gateway, name), _Trial())
        suspects = list(_differing(trial.good, self._world.route_parts(gateway, name)))
        if not suspects:
            return False
        trial.released = False
        trial.tries.update(s.version for s in suspects)
        tried = [s for s in suspects if trial.tries[s.version] > MOST_TRIES]
        if tried:
            # It is no single route that is at fault: all of them stay out, rather than being tried for ever.
            trial.culprits.update({s.version: (s, message) for s in tried})
            trial.withheld.update({s.version: s for s in tried})
        elif len(suspects) == 1:
            trial.culprits[suspects[0].version] = (suspects[0], message)
            trial.withheld[suspects[0].version] = suspects[0]
        else:
            trial.withheld.update({s.version: s for s in suspects})
            middle = len(suspects) // 2
            trial.queue += [suspects[middle:], suspects[:middle]]
        self._write(gateway, {s.route for s in suspects})
        return True

    def refusals(self) -> tuple[Refusal, ...]:
        """The routes that are out of force just now, sorted."""
        return tuple(
            sorted(
                {
                    Refusal(gateway, suspect.route, message)
                    for (gateway, _), trial in self._trials.items()
                    for suspect, message in trial.culprits.values()
                }
            )
        )

    def forget(self, gateway: Ref) -> None:
        """The fleet is gone, or starts anew: nothing is known of it any more."""
        for key in [key for key in self._trials if key[0] == gateway]:
            trial = self._trials.pop(key)
            routes = {s.route for s in trial.withheld.values()}
            trial.withheld.clear()
            self._write(gateway, routes)

    def _release(self, gateway: Ref, trial: _Trial) -> bool:
        group = trial.queue.pop()
        trial.released = True
        for suspect in group:
            trial.withheld.pop(suspect.version, None)
        self._write(gateway, {s.route for s in group})
        return True

    def _write(self, gateway: Ref, routes: set[Ref]) -> None:
        for route in routes:
            held = {
                s.version: s.last_good
                for (of, _), trial in self._trials.items()
                if of == gateway
                for s in trial.withheld.values()
                if s.route == route
            }
            self._world.write(rejected(gateway, route), held or None)

    def _forget_mended(self, gateway: Ref, trial: _Trial) -> bool:
        """Drop culprits whose route has another version by now. True if there were some."""
        mended = [
            (key, suspect.route)
            for key, (suspect, _) in trial.culprits.items()
            if key not in self._world.piece_versions(suspect.route)
        ]
        for key, _ in mended:
            del trial.culprits[key]
            trial.withheld.pop(key, None)
            trial.tries.pop(key, None)
        self._write(gateway, {route for _, route in mended})
        return bool(mended)

    def _is_current(self, gateway: Ref, name: str, told: str) -> bool:
        resource = self._world.resource(gateway, ROUTE, name)
        return resource is not None and resource.version == told


def _differing(good: tuple[Part, ...], now: tuple[Part, ...]) -> Iterator[_Suspect]:
    """The pieces of ``now`` that are not in ``good``, each with its last good form."""
    before = good or (None,) * len(now)
    pairs = zip(before, now, strict=False) if len(before) == len(now) else ((None, part) for part in now)
    for old, new in pairs:
        if old is new:
            continue
        known = {h.name: h for h in old.hosts} if old is not None else {}
        for host in new.hosts:
            was = known.get(host.name)
            if was is not None and was.body == host.body:
                continue
            forms = {_which(p): p.body for p in was.pieces} if was is not None else {}
            for piece in host.pieces:
                last_good = forms.get(_which(piece), b"")
                if last_good != piece.body:
                    yield _Suspect(piece.route, version(piece.body), last_good)


def _which(piece: Piece) -> tuple[object, ...]:
    return (piece.route, piece.rank[-3:])
