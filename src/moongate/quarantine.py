"""Finding the one route that Envoy refuses in a table of thousands, and taking it alone out of force.

Theory of operation
===================
Envoy takes or refuses a route configuration as a whole, and does not say which route is at fault. What it
has acknowledged is good; what differs from that in a version it refused is suspect. A single suspect is the
culprit. Several are withheld together (their last good form stays in force, or nothing where there was
none), and released again half by half: what is acknowledged is good, what is refused is halved once more.

The facts go into cells that ``xds.route_entries`` reads, so the rest of the table goes on changing meanwhile.
That module says what stands in for a culprit.

Facts
-----
* parts of a table that did not change are the same object, so comparing two versions costs what differs
* an entry holds for one version of a route: an edit of the route is a new version, and is tried at once
* an answer may come when the table is another already; should it become again what was answered, nothing is
  sent to Envoy, and so nothing answered: the answer is kept until then
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.xds.route_entries import Fallback, withheld
from moongate.xds.wire import ROUTE, version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Ref
    from moongate.world import World
    from moongate.xds.route_entries import RouteEntry
    from moongate.xds.routes import Part


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
    last_good: RouteEntry | None


class _Trial:
    """What is known of one route configuration, and what is kept out of it."""

    def __init__(self, world: World, gateway: Ref, table: str) -> None:
        self._world = world
        self._gateway = gateway
        self._table = table
        self.good: tuple[Part, ...] = ()
        self.good_version = ""
        self.tries: Counter[str] = Counter()
        self.released = False
        """Whether the last step was a release, that an Envoy has still to answer."""
        self.withheld: dict[str, _Suspect] = {}
        self.queue: list[list[_Suspect]] = []
        self.culprits: dict[str, tuple[_Suspect, str]] = {}

    def withhold(self, suspects: list[_Suspect]) -> None:
        """Keep them out of the table."""
        self.withheld.update({s.version: s for s in suspects})
        self.write({s.route for s in suspects})

    def release(self) -> bool:
        """Let the next group in. True, for the world is to be settled again."""
        group = self.queue.pop()
        self.released = True
        for suspect in group:
            self.withheld.pop(suspect.version, None)
        self.write({s.route for s in group})
        return True

    def forget_mended(self) -> bool:
        """Drop culprits whose route has another version by now. True if there were some."""
        mended = [
            (key, suspect.route)
            for key, (suspect, _) in self.culprits.items()
            if (versions := self._world.entry_versions(suspect.route)) is not None and key not in versions
        ]
        for key, _ in mended:
            del self.culprits[key]
            self.withheld.pop(key, None)
            self.tries.pop(key, None)
        self.write({route for _, route in mended})
        return bool(mended)

    def write(self, routes: set[Ref]) -> None:
        """Write what is kept out of some routes into their cells."""
        for route in routes:
            held = {
                s.version: Fallback(s.last_good, s.version in self.culprits)
                for s in self.withheld.values()
                if s.route == route
            }
            self._world.write(withheld(self._gateway, self._table, route), held or None)


class _Answer(NamedTuple):
    version: str
    refusal: str | None
    """Envoy's words, or ``None`` when it took that version."""


class RouteQuarantine:
    """Takes what Envoys answer about route configurations, and writes what must stay out of force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._trials: dict[tuple[Ref, str], _Trial] = {}
        self._answers: dict[tuple[Ref, str], _Answer] = {}
        """The last answer about each table that was another when it came."""

    def acknowledged(self, gateway: Ref, name: str, acknowledged: str) -> bool:
        """An Envoy has a version in force. True if the world is to be settled again."""
        if not self._is_current(gateway, name, acknowledged):
            return self._keep(gateway, name, _Answer(acknowledged, None))
        self._answers.pop((gateway, name), None)
        trial = self._trial(gateway, name)
        trial.good = self._world.route_parts(gateway, name)
        trial.good_version = acknowledged
        # What is not kept out was taken just now: that it was among suspects before says nothing any more.
        trial.tries = Counter({key: n for key, n in trial.tries.items() if key in trial.withheld})
        trial.released = False
        mended = trial.forget_mended()
        if trial.queue:
            return trial.release()
        trial.tries.clear()  # the search is over
        return mended

    def review(self) -> bool:
        """Hear answers that count by now, and forget refusals of what is gone or has another version.

        True if the world is to be settled again.

        A route without a last good form can go without a change of the table, so no Envoy tells of it; nor
        does one tell that a table is gone.
        """
        for gateway, name in [
            key
            for key in {**self._trials, **self._answers}
            if self._world.resource(key[0], ROUTE, key[1]) is None
        ]:
            self._drop(gateway, name)
        moved = [self._hear(*key, answer) for key, answer in list(self._answers.items())]
        moved += [trial.forget_mended() for trial in self._trials.values()]
        for (gateway, name), trial in self._trials.items():
            # What was released made no difference (its route was edited meanwhile), so nobody will answer.
            if trial.queue and trial.released and self._is_current(gateway, name, trial.good_version):
                moved.append(trial.release())
        return any(moved)

    def refused(self, gateway: Ref, name: str, refused: str, message: str) -> bool:
        """An Envoy refused a version. True if the world is to be settled again."""
        if not self._is_current(gateway, name, refused):
            return self._keep(gateway, name, _Answer(refused, message))
        self._answers.pop((gateway, name), None)
        trial = self._trial(gateway, name)
        suspects = list(_differing(trial.good, self._world.route_parts(gateway, name)))
        if not suspects:
            return False
        trial.released = False
        trial.tries.update(s.version for s in suspects)
        tried = [s for s in suspects if trial.tries[s.version] > MOST_TRIES]
        # A single one is the culprit. And if it is no single route that is at fault, all of them stay out,
        # rather than being tried for ever.
        culprits = suspects if len(suspects) == 1 else tried
        trial.culprits.update({s.version: (s, message) for s in culprits})
        if culprits:
            trial.withhold(culprits)
        else:
            trial.withhold(suspects)
            middle = len(suspects) // 2
            trial.queue += [suspects[middle:], suspects[:middle]]
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
        for _, name in [key for key in {**self._trials, **self._answers} if key[0] == gateway]:
            self._drop(gateway, name)

    def _drop(self, gateway: Ref, name: str) -> None:
        self._answers.pop((gateway, name), None)
        trial = self._trials.pop((gateway, name), None)
        if trial is None:
            return
        routes = {s.route for s in trial.withheld.values()}
        trial.withheld.clear()
        trial.write(routes)

    def _keep(self, gateway: Ref, name: str, answer: _Answer) -> bool:
        """Keep an answer for the case that it counts later; ``False``, for there is nothing to settle now."""
        self._answers[gateway, name] = answer
        return False

    def _hear(self, gateway: Ref, name: str, answer: _Answer) -> bool:
        if not self._is_current(gateway, name, answer.version):
            return False
        if answer.refusal is None:
            return self.acknowledged(gateway, name, answer.version)
        return self.refused(gateway, name, answer.version, answer.refusal)

    def _trial(self, gateway: Ref, name: str) -> _Trial:
        return self._trials.setdefault((gateway, name), _Trial(self._world, gateway, name))

    def _is_current(self, gateway: Ref, name: str, told: str) -> bool:
        resource = self._world.resource(gateway, ROUTE, name)
        return resource is not None and resource.version == told


def _differing(good: tuple[Part, ...], now: tuple[Part, ...]) -> Iterator[_Suspect]:
    """The entries of ``now`` that are not in ``good``, each with its last good form."""
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
            forms = {_which(p): p for p in was.entries} if was is not None else {}
            for entry in host.entries:
                last_good = forms.get(_which(entry))
                if last_good is None or last_good.body != entry.body:
                    yield _Suspect(entry.route, version(entry.body), last_good)


def _which(entry: RouteEntry) -> tuple[object, ...]:
    return (entry.route, entry.rank[-3:])
