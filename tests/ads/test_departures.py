"""Which names of scopes are kept, and for how long, because Envoys may still have these scopes."""

from __future__ import annotations

import gc
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from moongate.ads.departures import AWAY_SECONDS
from moongate.ads.session import Session
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import CLUSTER, LISTENER, SCOPE
from tests.ads.conversation import SCOPES, edit

if TYPE_CHECKING:
    from collections.abc import Iterable

MANY = 10_000
AT_ONCE = 100
LITTLE = 20_000
"""Bytes by which a fleet may grow: dictionaries have some room."""
TABLE = f"{SCOPES}t/*"
TYPES = (CLUSTER, LISTENER, SCOPE)


class Fleet:
    """A fleet with one table in scopes."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.now = 0.0
        self.envoys: list[Envoy] = []
        self.edit("L+l=1/~t X+t/_=1 X+t/a=1 X+t/b=1")

    def edit(self, words: str) -> None:
        differences = edit(self.snapshot, words)
        for envoy in self.envoys:
            envoy.session.touch(differences)
        self.forget()

    def depart(self, *names: str) -> None:
        departed = self.snapshot.depart(f"{SCOPES}{name}" for name in names)
        for envoy in self.envoys:
            envoy.session.may_have(departed)
        self.forget()

    def come_and_go(self, hosts: int, *answering: Envoy) -> None:
        """So many hostnames come and go; these Envoys answer for each edit, others for none."""
        for first in range(0, hosts, AT_ONCE):
            names = [f"t/h{n}" for n in range(first, first + AT_ONCE)]
            for words in ([f"X+{name}=1" for name in names], [f"X-{name}" for name in names]):
                self.edit(" ".join(words))
                for envoy in answering:
                    envoy.answer()

    def forget(self) -> None:
        self.snapshot.departures.forget(self.now)

    def departed(self) -> list[str]:
        names = list(self.snapshot.departures.within(TABLE))
        assert len(names) == len(self.snapshot.departures)
        return [name.removeprefix(SCOPES) for name in names]


class Envoy:
    """An Envoy of a fleet that has opened a stream, and answers when it is told to."""

    def __init__(self, fleet: Fleet, node: str = "one", *, types: Iterable[str] = TYPES) -> None:
        self.fleet = fleet
        self.node = node
        self.connect(types)

    def connect(self, types: Iterable[str] = TYPES) -> None:
        self.session = Session("eg", self.node, self.fleet.snapshot)
        self.fleet.snapshot.departures.connected(self.session, self.fleet.now)
        self.fleet.envoys.append(self)
        for type_url in types:
            names = [TABLE] if type_url == SCOPE else []
            # It has a listener of an earlier stream, and does not say which scopes.
            held = {"former": "1"} if type_url == LISTENER else {}
            self._say(
                DeltaDiscoveryRequest(
                    type_url=type_url, resource_names_subscribe=names, initial_resource_versions=held
                )
            )
        self.fleet.forget()

    def answer(self, most: int = MANY) -> list[str]:
        """Answer what the fleet has for it, some responses at most. The scopes that they remove."""
        gone: list[str] = []
        while most and (response := self.session.next(self.fleet.now)) is not None:
            most -= 1
            sent = DeltaDiscoveryResponse.FromString(response)
            gone += (name.removeprefix(SCOPES) for name in sent.removed_resources if sent.type_url == SCOPE)
            self._say(DeltaDiscoveryRequest(type_url=sent.type_url, response_nonce=sent.nonce))
        self.session.events.clear()
        self.fleet.forget()
        return [name for name in gone if name != "t/*"]

    def leave(self) -> None:
        self.fleet.envoys.remove(self)
        self.fleet.snapshot.departures.disconnected(self.session, self.fleet.now)
        self.fleet.forget()

    def ask_for_scopes(self) -> None:
        self._say(DeltaDiscoveryRequest(type_url=SCOPE, resource_names_subscribe=[TABLE]))
        self.fleet.forget()

    def _say(self, request: DeltaDiscoveryRequest) -> None:
        self.session.receive(request, self.fleet.now)


def served() -> tuple[Fleet, Envoy]:
    fleet = Fleet()
    envoy = Envoy(fleet)
    envoy.answer()
    return fleet, envoy


def test_what_left_before_the_first_envoy_came_is_forgotten() -> None:
    fleet = Fleet()

    fleet.edit("X-t/a")

    assert fleet.departed() == []


def test_a_name_is_forgotten_when_its_removal_is_acknowledged() -> None:
    fleet, envoy = served()

    fleet.edit("X-t/a")
    assert fleet.departed() == ["t/a"]
    assert envoy.answer() == ["t/a"]

    assert fleet.departed() == []


def test_a_name_that_is_back_is_forgotten() -> None:
    fleet, _ = served()

    fleet.edit("X-t/a X-t/b")
    fleet.edit("X+t/a=2")

    assert fleet.departed() == ["t/b"]


def test_a_name_that_left_again_is_as_new_as_that() -> None:
    """Else an answer to the first removal would be taken for one to the second."""
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")
    fleet.edit("X-t/b")
    fleet.edit("X+t/a=2")
    fleet.edit("X-t/a")

    assert fleet.departed() == ["t/b", "t/a"]


def test_an_envoy_that_is_away_is_told_when_it_is_back() -> None:
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")

    envoy.connect()
    assert fleet.departed() == ["t/a"]
    assert "t/a" in envoy.answer()

    assert fleet.departed() == []
    envoy.leave()
    envoy.connect()
    assert envoy.answer() == []


def test_an_answer_to_part_of_what_a_new_stream_was_sent_is_not_enough() -> None:
    """The news come first, the removals after them. The stream may end between them, again and again."""
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")
    fleet.edit("X+t/b=2")

    for most in (1, 2, 3, 4):
        envoy.connect()
        envoy.answer(most)
        if not fleet.departed():
            break
        envoy.leave()
        assert fleet.departed() == ["t/a"]

    assert most == 4, "clusters, listeners, scopes, removals"


def test_a_name_that_leaves_while_a_new_stream_begins_is_kept_too() -> None:
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")
    envoy.connect()
    fleet.edit("X-t/b")
    envoy.leave()

    assert fleet.departed() == ["t/a", "t/b"]


def test_an_envoy_that_needs_no_scopes_keeps_no_names() -> None:
    """But as long as it has not answered, it may still ask for some."""
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")
    fleet.edit("L+l=1/r L+m=1/r R+r=1")

    envoy.connect((CLUSTER, LISTENER))
    assert fleet.departed() == ["t/a"]
    envoy.answer()
    assert fleet.departed() == ["t/a"], "it has not asked for the table of its listeners yet"

    fleet.edit("L-l L-m")
    envoy.answer()
    fleet.now += 60
    envoy.answer()
    assert fleet.departed() == []


def test_an_envoy_that_has_not_asked_for_scopes_yet_may_have_some() -> None:
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")

    envoy.connect((CLUSTER, LISTENER))
    envoy.answer()
    assert fleet.departed() == ["t/a"]

    envoy.ask_for_scopes()
    assert fleet.departed() == ["t/a"]
    assert "t/a" in envoy.answer()
    assert fleet.departed() == []


def test_all_envoys_have_to_acknowledge() -> None:
    fleet, one = served()
    two = Envoy(fleet, "two")
    two.answer()

    fleet.edit("X-t/a")
    one.answer()
    fleet.edit("X-t/b")
    one.answer()
    assert fleet.departed() == ["t/a", "t/b"]

    two.leave()
    assert fleet.departed() == ["t/a", "t/b"]
    two.connect()
    two.answer()
    assert fleet.departed() == []


def test_an_envoy_that_was_clear_when_it_went_is_clear_when_it_is_back() -> None:
    """It need not answer for all again, if others were late."""
    fleet, one = served()
    two = Envoy(fleet, "two")
    two.answer()
    fleet.edit("X-t/a")
    one.answer()
    one.leave()

    one.connect()
    two.answer()

    assert fleet.departed() == []


def test_an_envoy_that_stays_away_is_known_for_a_bounded_time() -> None:
    fleet, one = served()
    two = Envoy(fleet, "two")
    two.answer()
    two.leave()
    fleet.edit("X-t/a")
    one.answer()

    fleet.now += AWAY_SECONDS - 1
    fleet.forget()
    assert fleet.departed() == ["t/a"]

    fleet.now += 1
    fleet.forget()
    assert fleet.departed() == []


def test_of_two_envoys_with_one_node_id_either_may_be_the_one_that_connects() -> None:
    fleet, one = served()
    two = Envoy(fleet)
    two.answer()
    two.leave()
    fleet.edit("X-t/a")
    one.answer()
    one.leave()

    # It has heard of all, and two still has a.
    one.connect()
    one.answer()
    assert fleet.departed() == ["t/a"]

    two.connect()
    assert "t/a" in two.answer()
    assert fleet.departed() == []


def test_an_envoy_that_has_not_answered_yet_may_have_anything() -> None:
    fleet, one = served()
    two = Envoy(fleet, "two")

    fleet.edit("X-t/a")
    one.answer()
    two.leave()

    assert fleet.departed() == ["t/a"]


def test_streams_that_end_at_once_are_one_envoy() -> None:
    """One that crashes at its start again and again is kept once."""
    fleet = Fleet()
    Envoy(fleet).leave()
    before = size(fleet)

    for _ in range(1000):
        Envoy(fleet).leave()

    assert size(fleet) < before + LITTLE


def test_envoys_that_never_come_back_are_forgotten() -> None:
    """Each pod has a name of its own."""
    fleet = Fleet()
    before = size(fleet)

    for n in range(1000):
        Envoy(fleet, str(n)).leave()
    fleet.now += AWAY_SECONDS
    Envoy(fleet).leave()

    assert size(fleet) < before + LITTLE


def test_hostnames_that_come_and_go_are_not_kept_for_an_envoy_that_answers() -> None:
    fleet, envoy = served()
    before = size(fleet)

    fleet.come_and_go(MANY, envoy)

    assert fleet.departed() == []
    assert size(fleet) < before + LITTLE


def test_hostnames_that_come_and_go_are_kept_while_an_envoy_is_away_and_not_longer() -> None:
    fleet, envoy = served()
    before = size(fleet)

    envoy.leave()
    fleet.come_and_go(MANY)
    assert len(fleet.departed()) == MANY
    envoy.connect()
    assert len(set(envoy.answer())) == MANY
    fleet.come_and_go(10 * AT_ONCE, envoy)

    assert fleet.departed() == []
    assert size(fleet) < before + LITTLE


def test_hostnames_that_come_and_go_are_kept_for_the_envoy_that_lags() -> None:
    fleet, envoy = served()
    slow = Envoy(fleet, "slow")
    slow.answer()
    before = size(fleet)

    fleet.come_and_go(MANY, envoy)
    assert len(fleet.departed()) == MANY
    slow.answer()
    fleet.come_and_go(10 * AT_ONCE, envoy, slow)

    assert fleet.departed() == []
    assert size(fleet) < before + LITTLE


def test_what_an_envoy_has_that_the_fleet_does_not_departs() -> None:
    """A former moongate may have given it to the Envoy. It is told whether it is connected or not."""
    for connected in (True, False):
        fleet = Fleet()
        envoy = Envoy(fleet)
        if connected:
            envoy.answer()
        else:
            envoy.leave()
            fleet.snapshot.departures.runs("one", fleet.now)

        fleet.depart("t/a", "t/old", "other/old")
        assert fleet.departed() == ["t/old"]
        if not connected:
            envoy.connect()
        assert "t/old" in envoy.answer()

        assert fleet.departed() == []
        fleet.edit("X+t/old=1")
        envoy.answer()
        assert envoy.session.settled(fleet.snapshot.seq)


def test_a_name_that_had_departed_departs_anew_with_an_envoy_that_has_it() -> None:
    """Names are sorted by age, so that a younger one does not keep those behind it."""
    fleet, envoy = served()
    envoy.leave()
    fleet.edit("X-t/a")
    fleet.edit("X-t/b")

    fleet.depart("t/a")

    assert fleet.departed() == ["t/b", "t/a"]


def test_what_an_envoy_has_is_kept_until_it_connects() -> None:
    fleet = Fleet()
    fleet.snapshot.departures.runs("one", fleet.now)

    fleet.depart("t/old")
    assert fleet.departed() == ["t/old"]
    envoy = Envoy(fleet)
    assert "t/old" in envoy.answer()

    assert fleet.departed() == []


def size(fleet: Fleet) -> int:
    """How many bytes a fleet and its sessions have, with all that they refer to."""
    todo: list[object] = [fleet.snapshot, *(envoy.session for envoy in fleet.envoys)]
    seen = dict[int, object]()
    while todo:
        each = todo.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType):
            seen[id(each)] = each
            todo += gc.get_referents(each)
    return sum(sys.getsizeof(each) for each in seen.values())
