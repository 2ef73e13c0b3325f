"""In what order suspects are let in."""

from __future__ import annotations

from moongate.quarantine.waiting import Trial, Waiting
from moongate.xds.fallbacks import ALL, Suspect


def suspects(names: str) -> list[Suspect]:
    return [Suspect(ALL, name, None) for name in names]


def taken(waiting: Waiting, *, newest: bool = False) -> str:
    """The names of those to let in next."""
    return "".join(suspect.version for suspect in waiting.take(newest=newest))


def test_the_most_go_first() -> None:
    waiting = Waiting()
    for names in ("ab", "cdef", "g"):
        waiting.add(Trial(suspects(names)))

    assert [taken(waiting) for _ in range(4)] == ["cdef", "ab", "g", ""]


def test_the_newest_go_first_while_an_entry_may_need_others() -> None:
    waiting = Waiting()
    for names in ("ab", "cdef", "g"):
        waiting.add(Trial(suspects(names)))

    assert [taken(waiting, newest=True) for _ in range(3)] == ["g", "cdef", "ab"]


def test_when_a_half_of_the_guilty_is_good_the_other_half_is_halved_at_once() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abcdefgh"), guilty=True))
    taken_in_turn: list[str] = []

    while names := taken(waiting):
        taken_in_turn.append(names)
        waiting.taken_are_good()

    assert taken_in_turn == ["abcd", "ef", "g", "h"]


def test_when_a_half_of_the_guilty_is_refused_the_other_half_is_tried_as_a_whole() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abcd"), guilty=True))

    refused = taken(waiting)
    waiting.taken_are_refused()
    waiting.add(Trial(suspects(refused), guilty=True))

    assert taken(waiting) == "cd"
    waiting.taken_are_good()
    assert taken(waiting) == "a"


def test_company_comes_with_the_first_half() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abcd"), suspects("x"), guilty=True))

    assert taken(waiting) == "xab"
    assert taken(waiting) == "cd"


def test_a_phase_within_another_goes_first_and_ends_before_that_goes_on() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abcd")))
    waiting.add(Trial(suspects("ef"), guilty=True), in_new_phase=True)

    assert taken(waiting) == "e"
    waiting.taken_are_good()
    assert taken(waiting) == "f"
    assert waiting, "the last one of the phase is not answered yet"
    waiting.taken_are_refused()
    waiting.add(Trial(suspects("f")))
    assert taken(waiting) == "f"
    waiting.taken_are_good()
    assert taken(waiting) == "abcd"
    waiting.taken_are_good()
    assert not waiting
    assert not list(waiting)


def test_when_one_is_refused_after_the_other_a_single_culprit_is_looked_for() -> None:
    """It may tell why all are. Otherwise half of them would be tried before a single one is."""
    waiting = Waiting()
    waiting.add(Trial(suspects("abcdefghijklmnopqrstuvwxyzABCDEF"), guilty=True))
    taken_in_turn: list[int] = []

    while len(names := taken(waiting)) > 1:
        taken_in_turn.append(len(names))
        waiting.taken_are_refused()
        waiting.add(Trial(suspects(names), guilty=True))

    assert taken_in_turn == [16, 16, 8, 8, 4, 2]


def test_those_that_are_known_to_be_at_fault_are_tried_no_more() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abc"), suspects("xy"), guilty=True))
    waiting.add(Trial(suspects("d")), in_new_phase=True)

    waiting.remove({"a", "d", "x"})

    assert taken(waiting) == "ybc", "whether one of those left is at fault is not known"
    assert not taken(waiting)


def test_one_of_those_that_may_be_next_is_tried_alone() -> None:
    waiting = Waiting()
    waiting.add(Trial(suspects("abc")))
    waiting.add(Trial(suspects("de")), in_new_phase=True)

    assert [each.version for each in waiting.next_ones()] == ["d", "e"]
    waiting.try_next(waiting.next_ones()[1])

    assert [taken(waiting) for _ in range(3)] == ["e", "d", "abc"]
