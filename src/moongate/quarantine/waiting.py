"""Which suspects are let in next.

Theory of operation
===================
Suspects that are tried together are a *trial*. The largest trial goes first, because most of it may be good.
If Envoy refused all of a trial together, one of them is at fault, so only a half is let in. If that half is
good, the culprit is in the other half, and that is not tried as a whole either.

If Envoy refuses one trial after the other, it may refuse all for the same reason. Then the smallest trial
that it refused goes first, until a culprit is found, which may tell the reason.

Trials wait in *phases*. The last phase goes first, and ends when nothing of it is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from moongate.xds.fallbacks import Suspect


IN_A_ROW: Final = 4
"""Trials that are refused one after the other, before a single culprit is looked for."""


class Trial(Struct, eq=False):
    """Suspects that are kept out and still to be tried.

    Args:
        suspects: in the order in which they are let in.
        company: what is let in with the first of them, because it cannot be tried alone.
        guilty: whether one of the suspects is at fault, because Envoy refused them together.
    """

    suspects: Sequence[Suspect]
    company: Sequence[Suspect] = ()
    guilty: bool = False


class Waiting:
    """The suspects that are kept out of a resource and still to be tried."""

    def __init__(self) -> None:
        self._phases: list[list[Trial]] = []
        self._other_half: Trial | None = None
        """The other half of the trial that was let in last, if only a half of that was."""
        self._refused = 0
        """How many trials were refused since one was taken, or was a single suspect."""

    def __bool__(self) -> bool:
        """Whether any suspect waits, or the last one of a phase was let in and not answered yet."""
        return bool(self._phases)

    def __iter__(self) -> Iterator[Suspect]:
        for phase in self._phases:
            for trial in phase:
                yield from trial.company
                yield from trial.suspects

    def add(self, trial: Trial, *, in_new_phase: bool = False) -> None:
        """Let a trial wait, in the present phase or in a new one."""
        if in_new_phase or not self._phases:
            self._phases.append([])
        self._phases[-1].append(trial)

    def next_ones(self) -> list[Suspect]:
        """Those of the present phase, each of which may be tried next."""
        self._end_phases()
        return [each for trial in self._phases[-1] for each in trial.suspects] if self._phases else []

    def remove(self, forms: Container[str]) -> None:
        """Let some suspects wait no longer, by version: it is known that they are at fault."""
        for phase in self._phases:
            for trial in phase:
                left = [each for each in trial.suspects if each.version not in forms]
                if len(left) < len(trial.suspects):
                    trial.suspects, trial.guilty = left, False
                trial.company = [each for each in trial.company if each.version not in forms]
            phase[:] = [trial for trial in phase if trial.suspects or trial.company]

    def try_next(self, suspect: Suspect) -> None:
        """Let a suspect that waits be the next one, and alone."""
        self.remove((suspect.version,))
        self.add(Trial([suspect]), in_new_phase=True)

    def take(self, *, newest: bool) -> Sequence[Suspect]:
        """The suspects to let in next, which wait no longer; none when none waits.

        Args:
            newest: whether the newest trial goes first, and not the largest.
        """
        self._end_phases()
        if not self._phases:
            return ()
        phase = self._phases[-1]
        guilty = [trial for trial in phase if trial.guilty] if self._refused >= IN_A_ROW else []
        if newest:
            trial = phase[-1]
        elif guilty:
            trial = min(guilty, key=lambda each: len(each.suspects))
        else:
            trial = max(phase, key=lambda each: len(each.suspects))
        phase.remove(trial)
        suspects = trial.suspects
        if trial.guilty and len(suspects) > 1:
            middle = len(suspects) // 2
            self._other_half = Trial(suspects[middle:])
            phase.append(self._other_half)
            suspects = suspects[:middle]
        if len(suspects) == 1:
            self._refused = 0
        return (*trial.company, *suspects)

    def taken_are_good(self) -> None:
        """Envoys have in force what was taken last."""
        if self._other_half is not None:
            self._other_half.guilty = True
        self._other_half = None
        self._refused = 0
        self._end_phases()

    def taken_are_refused(self) -> None:
        """An Envoy refuses what was taken last; what is at fault in it is added next, if that is to wait."""
        self._other_half = None
        self._refused += 1

    def _end_phases(self) -> None:
        while self._phases and not self._phases[-1]:
            self._phases.pop()
