"""Which suspects Envoy refuses for the same settings as a culprit, so that nobody needs to ask it about each.

A policy may hold for thousands of routes, and Envoy refuses all of them for one setting of it.

Theory of operation
===================
What a culprit says and its last good form does not is *new*. What Envoys have taken in the meantime with
another entry is not at fault, and counts no more. Of the rest, at least one piece is at fault.

1. If a form of the culprit with all its settings but the new ones was in force, whoever has all that is new
   in it is at fault as well.
2. If nothing but an answer with 500 was, what is refused may be refused for how it goes together with what
   it matches. So others that have the same settings are tried alone, one after another. If Envoys refuse
   ``SAMPLES`` of them, the others are at fault, too. If they take one, its settings are good.

What matches paths in another way is not alike: Envoy checks rewrites against that.

Facts
-----
* what is kept out for its likeness is tried again when one of those is gone that it was found to be like
* the match of a culprit is not at fault, because the form in its place has the same
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.xds.entry_settings import Settings, is_closed, new_settings, settings_in
from moongate.xds.fallbacks import in_steps

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from moongate.xds.fallbacks import Suspect

SAMPLES: Final = 8
"""Entries with the same settings that Envoys refuse, each alone, before nobody asks about the others."""

DECODED: Final = 32
"""Entries that are decoded at a time: well below 1 ms."""


class Alike(NamedTuple):
    """What follows for other suspects from a culprit.

    Args:
        guilty: those that are at fault as well.
        models: those that they are like.
        sample: the one to be tried next, and alone.
    """

    guilty: Sequence[Suspect] = ()
    models: Sequence[Suspect] = ()
    sample: Suspect | None = None


class Likeness:
    """The settings that Envoys took and refused in one search for entries of a table."""

    def __init__(self) -> None:
        self._new: dict[str, Settings] = {}
        """What is new in the suspects, by version."""
        self._untold: list[Suspect] = []
        """Those that Envoys took, and that have not been looked at yet."""
        self._taken: set[bytes] = set()
        """Their settings."""
        self._refused: list[Suspect] = []
        """Those refused last, each alone, that have something in common."""
        self._common = Settings()
        """What that is."""

    def take(self, suspects: Iterable[Suspect]) -> None:
        """Envoys have some suspects in force."""
        self._untold += suspects

    def condemn(
        self, culprit: Suspect, waiting: Sequence[Suspect], next_ones: Sequence[Suspect]
    ) -> Generator[None, None, Alike]:
        """A suspect was refused alone; in steps.

        Args:
            culprit: the suspect.
            waiting: those that are still to be tried.
            next_ones: those of them that may be tried next.
        """
        if culprit.last_good is None or is_closed(culprit.body):
            return Alike()  # what it matches may be at fault
        for some in in_steps(self._untold, DECODED):
            for each in some:
                self._taken |= settings_in(each.body).pieces
            yield
        self._untold.clear()
        for some in in_steps([each for each in waiting if each.version not in self._new], DECODED):
            for each in some:
                self._new[each.version] = new_settings(each)
            yield
        new = self._in_doubt(new_settings(culprit))
        if not new.pieces:
            return Alike()
        if not is_closed(culprit.last_good.body) and (guilty := self._having(new, waiting)):
            return Alike(guilty, [culprit])
        common = self._in_doubt(self._common)
        both = new._replace(pieces=new.pieces & common.pieces)
        if both.pieces and common.matching == new.matching:
            self._refused.append(culprit)
            self._common = both
        else:
            self._refused, self._common = [culprit], new
        if len(self._refused) >= SAMPLES:
            return Alike(self._having(self._common, waiting), tuple(self._refused))
        return Alike(sample=self._sample(next_ones))

    def _in_doubt(self, settings: Settings) -> Settings:
        return settings._replace(pieces=settings.pieces - self._taken)

    def _having(self, settings: Settings, suspects: Sequence[Suspect]) -> list[Suspect]:
        """The suspects in which all of some settings are new."""
        return [each for each in suspects if self._shared(settings, each) == len(settings.pieces)]

    def _shared(self, settings: Settings, suspect: Suspect) -> int:
        new = self._new[suspect.version]
        return len(new.pieces & settings.pieces) if new.matching == settings.matching else 0

    def _sample(self, suspects: Sequence[Suspect]) -> Suspect | None:
        """The one most like those refused last, of those that are equally alike any; ``None`` if few are."""
        alike = [each for each in suspects if self._shared(self._common, each)]
        if len(alike) <= 2 * SAMPLES:
            return None
        return max(alike, key=lambda each: (self._shared(self._common, each), each.version))
