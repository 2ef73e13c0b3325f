"""What a fleet should have, edit by edit."""

from __future__ import annotations

import pytest

from moongate import names
from moongate.ads.snapshot import PART, Key, Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, XdsResource


def resource(name: str, body: bytes = b"a") -> XdsResource:
    return XdsResource.of(CLUSTER, name, body)


def test_an_edit_answers_with_what_really_differs() -> None:
    """A session looks up these names and no others: a name too many would be work for every Envoy."""
    snapshot = Snapshot()
    snapshot.apply([resource("a"), resource("b")], [])

    before = resource("b").version
    differences = snapshot.apply(
        [resource("a"), resource("b", b"new"), resource("c")], [(CLUSTER, "unknown")]
    )

    assert differences == {CLUSTER: {"b": before, "c": None}}


def test_what_goes_and_comes_in_one_edit_stays() -> None:
    """A rename back and forth must not look like a removal."""
    snapshot = Snapshot()
    snapshot.apply([resource("a")], [])

    assert snapshot.apply([resource("a")], [(CLUSTER, "a")]) == {}
    assert snapshot.get(CLUSTER, "a") == resource("a")


def test_a_collection_knows_what_has_left_it() -> None:
    """An Envoy that connects again may have it still, and does not say so."""
    snapshot = Snapshot()
    a, b, c = (XdsResource.of(SCOPE, f"xdstp:///t/{name}", b"") for name in "abc")
    snapshot.apply([a, b, c], [])

    snapshot.apply([], [(SCOPE, a.name), (SCOPE, b.name)])
    snapshot.apply([b], [])

    assert list(snapshot.departures.within("xdstp:///t/*")) == [a.name]
    assert not list(snapshot.departures.within("xdstp:///u/*"))


def test_the_first_edit_counts_even_when_it_is_empty() -> None:
    """An Envoy waits for the emptiness of a fleet that exists, and for nothing of one that does not."""
    snapshot = Snapshot()
    assert snapshot.seq == 0

    snapshot.apply([], [])

    assert snapshot.seq == 1


def test_the_cluster_before_those_that_nobody_took_is_kept() -> None:
    """An Envoy that refuses the newest one, and has none, is sent this one."""
    snapshot = Snapshot()
    good, other, newest = (resource("a", body) for body in (b"1", b"2", b"3"))
    snapshot.apply([good], [])
    assert snapshot.former("a") is None

    snapshot.apply([other], [])
    snapshot.apply([newest], [])
    assert snapshot.former("a") == good

    snapshot.taken("a", other.version)
    assert snapshot.former("a") == good, "that is not the newest"
    snapshot.taken("a", newest.version)
    assert snapshot.former("a") is None


def test_a_cluster_that_is_back_or_gone_has_none_before_it() -> None:
    for again in ([resource("a", b"1")], []):
        snapshot = Snapshot()
        snapshot.apply([resource("a", b"1")], [])
        snapshot.apply([resource("a", b"2")], [])

        snapshot.apply(again, [(CLUSTER, "a")])

        assert snapshot.former("a") is None


def test_a_cluster_of_a_former_process_is_the_one_before_until_an_envoy_takes_the_newest() -> None:
    """An Envoy that has none, and refuses the newest, then gets that one."""
    newest, before = resource("a"), XdsResource.of(CLUSTER, "a", b"before")
    snapshot = Snapshot()
    snapshot.apply([newest], [])

    snapshot.recall(newest)
    assert snapshot.former("a") is None, "it did not change"
    snapshot.recall(XdsResource.of(CLUSTER, "gone", b"before"))
    assert snapshot.former("gone") is None, "the fleet should not have it any more"

    snapshot.recall(before)
    assert snapshot.former("a") == before

    snapshot.taken("a", newest.version)
    assert snapshot.former("a") is None


def scope(host: str, body: bytes = b"a") -> XdsResource:
    return XdsResource.of(SCOPE, names.scope("table", host), body)


def many(body: bytes) -> list[XdsResource]:
    """A table with more hostnames than one edit is to have if there may be several, and their clusters."""
    hosts = [scope(f"{n}.test", body) for n in range(PART)]
    return [scope(names.OTHERS, body), *hosts, *(resource(f"{n}", body) for n in range(PART))]


def test_of_much_that_changes_what_refers_to_others_comes_after_them() -> None:
    """While one edit is made nothing else runs, so endpoints would wait for thousands of resources."""
    snapshot = Snapshot()
    snapshot.apply(many(b"a"), [])
    put = many(b"b")

    parts = snapshot.in_parts(put, [(CLUSTER, "unused")])

    assert [len(part) for part in parts] == [PART, PART, 1]
    in_turn = [each for part in parts for each in part]
    assert sorted(in_turn, key=lambda each: each.name) == sorted(put, key=lambda each: each.name)
    assert {each.type_url for each in parts[0]} == {CLUSTER}
    assert parts[-1] == [scope(names.OTHERS, b"b")], "it answers for all hostnames without a scope"


@pytest.mark.parametrize(
    ("more", "gone"),
    [
        (resource("new"), []),
        (XdsResource.of(ENDPOINT, "new", b"a"), []),
        (XdsResource.of(LISTENER, "there", b"b"), []),
        (resource("0", b"c"), [(LISTENER, "there")]),
    ],
)
def test_what_may_be_referred_to_is_put_together(more: XdsResource, gone: list[Key]) -> None:
    """An Envoy that asks for what is still to be put would be told that it does not exist."""
    snapshot = Snapshot()
    snapshot.apply([*many(b"a"), XdsResource.of(LISTENER, "there", b"a")], [])
    put = [*many(b"b"), more]

    assert snapshot.in_parts(put, gone) == [put]


def test_a_small_edit_is_made_at_once() -> None:
    snapshot = Snapshot()
    snapshot.apply(many(b"a"), [])
    put = many(b"b")[:PART]

    assert snapshot.in_parts(put, []) == [put]


def test_of_much_that_leaves_clusters_leave_before_what_they_use() -> None:
    """And what takes requests leaves with what comes, so that a hostname never has two answers or none."""
    snapshot = Snapshot()
    clusters = [(CLUSTER, f"{n}") for n in range(PART)]
    endpoints = [(ENDPOINT, f"{n}") for n in range(PART)]
    others = [(SCOPE, "s"), (ROUTE, "r"), (LISTENER, "l")]

    first, *later = snapshot.gone_in_parts([*endpoints, *others, *clusters], [resource("0")])

    assert first == others
    assert later == [[*clusters[1:], endpoints[0]], endpoints[1:]], "what comes at the same time stays"


def test_of_little_that_leaves_all_leaves_at_once() -> None:
    gone = [(CLUSTER, f"{n}") for n in range(PART)]

    assert Snapshot().gone_in_parts(gone, []) == [gone]
