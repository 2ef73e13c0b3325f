"""The ledger of a stream says the same as plain sets and dictionaries, and takes less room."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moongate.ads.ledger import Ledger
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import CLUSTER, SCOPE, XdsResource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL_NAMES = "abcdefghijkl"
NAMES = st.sampled_from(ALL_NAMES)
VERSIONS = st.sampled_from(("1", "2", "3"))
SOME = st.dictionaries(NAMES, VERSIONS)


def resource(name: str, version: str) -> XdsResource:
    return XdsResource(CLUSTER, name, b"", version)


def opened(
    published: Mapping[str, str],
    *,
    names: Iterable[str] = (),
    versions: Mapping[str, str] | None = None,
    wildcard: bool = False,
) -> tuple[Snapshot, Ledger]:
    snapshot = Snapshot()
    snapshot.apply([resource(*each) for each in published.items()], [])
    return snapshot, Ledger(snapshot.of(CLUSTER), names, versions or {}, wildcard=wildcard)


def edit(snapshot: Snapshot, ledger: Ledger, put: Mapping[str, str], gone: Iterable[str] = ()) -> None:
    """One edit, as a session enters it."""
    resources = [resource(*each) for each in put.items()]
    differences = snapshot.apply(resources, [(CLUSTER, name) for name in gone])
    ledger.enter(differences.get(CLUSTER, {}))


class PlainLedger(RuleBasedStateMachine):
    """A ledger beside the plain set and dictionary that it stands for."""

    @rule(published=SOME, names=st.sets(NAMES), versions=SOME, wildcard=st.booleans())
    def open(
        self, published: dict[str, str], names: set[str], versions: dict[str, str], *, wildcard: bool
    ) -> None:
        versions = {name: version for name, version in versions.items() if wildcard or name in names}
        self.snapshot, self.ledger = opened(published, names=names, versions=versions, wildcard=wildcard)
        self.names, self.versions, self.wildcard = set(names), dict(versions), wildcard

    def __init__(self) -> None:
        super().__init__()
        self.open({}, set(), {}, wildcard=True)

    @rule(put=SOME, gone=st.sets(NAMES))
    def edit(self, put: dict[str, str], gone: set[str]) -> None:
        edit(self.snapshot, self.ledger, put, sorted(gone))

    @rule(name=NAMES)
    def subscribe(self, name: str) -> None:
        self.ledger.subscribe(name)
        self.names.add(name)
        self.versions.pop(name, None)

    @rule(name=NAMES)
    def unsubscribe(self, name: str) -> None:
        self.ledger.unsubscribe(name)
        self.names.discard(name)
        self.versions.pop(name, None)

    @rule(name=NAMES, version=VERSIONS | st.none())
    def hold(self, name: str, version: str | None) -> None:
        if not (self.wildcard or name in self.names):
            return
        self.ledger.set(name, version)
        self.versions.pop(name, None)
        if version is not None:
            self.versions[name] = version

    @rule(wildcard=st.booleans())
    def widen(self, *, wildcard: bool) -> None:
        self.ledger.wildcard = self.wildcard = wildcard
        for name in set(self.versions) if not wildcard else ():
            if name not in self.names:
                self.ledger.set(name, None)
                del self.versions[name]

    @property
    def published(self) -> dict[str, str]:
        return {name: each.version for name, each in self.snapshot.of(CLUSTER).items()}

    @invariant()
    def they_name_the_same(self) -> None:
        assert {n for n in ALL_NAMES if n in self.ledger.names} == self.names
        assert set(self.ledger.names) == self.names
        assert len(self.ledger.names) == len(self.names)
        assert set(self.ledger.names.unknown()) == self.names - self.published.keys()
        asked = set(ALL_NAMES) if self.wildcard else self.names
        assert {n for n in ALL_NAMES if self.ledger.wants(n)} == asked

    @invariant()
    def they_hold_the_same(self) -> None:
        assert {n: v for n in ALL_NAMES if (v := self.ledger.get(n)) is not None} == self.versions
        assert dict(self.ledger.versions()) == self.versions
        assert self.ledger.holds_anything() == bool(self.versions)

    @invariant()
    def what_is_to_be_sent_is_unsettled(self) -> None:
        wanted = self.names | (self.published.keys() if self.wildcard else set[str]())
        behind = {n for n in wanted | self.versions.keys() if self.published.get(n) != self.versions.get(n)}
        assert set(self.ledger.unsettled()) == behind | (self.names - self.published.keys())

    @invariant()
    def names_are_kept_in_the_shorter_form(self) -> None:
        shorter = min(len(self.names), len(self.names ^ self.published.keys()))
        assert self.ledger.names.entries() <= 2 * shorter


TestPlainLedger = pytest.mark.slow(PlainLedger.TestCase)
TestPlainLedger.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)

EVERYTHING = {f"c{n}": "1" for n in range(1000)}


@pytest.mark.parametrize("wildcard", [True, False])
def test_of_an_envoy_that_has_everything_nothing_is_kept(*, wildcard: bool) -> None:
    """However many resources there are: hundreds of Envoys have the same thousands."""
    names = () if wildcard else set(EVERYTHING)

    _, reconnected = opened(EVERYTHING, names=names, versions=EVERYTHING, wildcard=wildcard)
    _, started = opened(EVERYTHING, names=names, wildcard=wildcard)
    for name, version in EVERYTHING.items():
        started.set(name, version)

    assert (reconnected.entries(), started.entries()) == (0, 0)


def test_names_that_come_one_by_one_are_shared_too() -> None:
    """An Envoy that has run for days asked for its thousands of endpoints one after the other."""
    snapshot, ledger = opened({})
    for name in EVERYTHING:
        edit(snapshot, ledger, {name: "1"})
        ledger.subscribe(name)
        ledger.set(name, "1")

    assert ledger.entries() == 0


def test_nothing_is_kept_of_envoys_that_come_before_their_resources_do() -> None:
    """When moongate starts anew, the Envoys are there before it has read the manifests."""
    snapshot, ledger = opened({}, names=EVERYTHING, versions=EVERYTHING)

    edit(snapshot, ledger, EVERYTHING)

    assert ledger.entries() == 0


def test_what_differs_is_all_that_is_kept() -> None:
    """A change is an exception until it is acknowledged."""
    snapshot, ledger = opened(EVERYTHING, versions=EVERYTHING, wildcard=True)

    edit(snapshot, ledger, {"c7": "2", "new": "1"})

    assert (ledger.entries(), ledger.get("c7"), ledger.get("new")) == (2, "1", None)
    assert set(ledger.unsettled()) == {"c7", "new"}
    ledger.set("c7", "2")
    ledger.set("new", "1")
    assert ledger.entries() == 0


def test_of_an_envoy_that_asks_for_little_little_is_kept() -> None:
    _, ledger = opened(EVERYTHING, names=("c7",), versions={"c7": "1"})

    assert ledger.entries() == 1


def test_names_that_come_and_go_leave_nothing_behind() -> None:
    snapshot, ledger = opened(EVERYTHING)
    kept: set[int] = set()
    for name in EVERYTHING:
        ledger.subscribe(name)
        ledger.unsubscribe(name)
        edit(snapshot, ledger, {"other": str(len(kept))})
        kept.add(ledger.entries())

    assert kept == {0}


def test_no_room_is_kept_for_what_once_differed() -> None:
    """A stream begins with everything to be sent, and one refused resource must not keep the room of all."""
    snapshot, ledger = opened({}, names=EVERYTHING)
    edit(snapshot, ledger, EVERYTHING)
    for name in EVERYTHING:
        if name != "c7":
            ledger.set(name, "1")

    assert room(ledger) < 3000

    edit(snapshot, ledger, {}, gone=EVERYTHING)
    for name in EVERYTHING:
        ledger.unsubscribe(name)

    assert room(ledger) < 3000


def room(ledger: Ledger) -> int:
    """Bytes. A thousand names take 33,000 in a set, and more in a dictionary."""
    kept: tuple[object, object] = (ledger._exceptions, ledger.names._listed)  # pyright: ignore[reportPrivateUsage]
    return sum(map(sys.getsizeof, kept))


def test_a_collection_is_all_names_up_to_their_last_slash() -> None:
    snapshot = Snapshot()
    names = ["xdstp:///T/t/a", "xdstp:///T/t/b", "xdstp:///T/t/u/a", "xdstp:///T/tt/a"]
    snapshot.apply([XdsResource(SCOPE, name, b"", "1") for name in names], [])
    ledger = Ledger(
        snapshot.of(SCOPE),
        ("xdstp:///T/t/*",),
        {names[0]: "1"},
        wildcard=False,
        members=snapshot.members(SCOPE),
    )

    assert [name for name in names if ledger.wants(name)] == names[:2]
    assert dict(ledger.versions()) == {names[0]: "1"}
    assert set(ledger.unsettled()) == {names[1], "xdstp:///T/t/*"}

    ledger.subscribe("xdstp:///T/t/u/*")
    ledger.set(names[2], "1")
    ledger.unsubscribe("xdstp:///T/t/*")

    assert [name for name in names if ledger.wants(name)] == [names[2]]
    assert dict(ledger.versions()) == {names[2]: "1"}
    assert set(ledger.unsettled()) == {"xdstp:///T/t/u/*"}
