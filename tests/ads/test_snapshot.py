"""What a fleet should have, edit by edit."""

from __future__ import annotations

from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import CLUSTER, SCOPE, XdsResource


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

    assert differences == ((CLUSTER, "b", before), (CLUSTER, "c", None))


def test_what_goes_and_comes_in_one_edit_stays() -> None:
    """A rename back and forth must not look like a removal."""
    snapshot = Snapshot()
    snapshot.apply([resource("a")], [])

    assert snapshot.apply([resource("a")], [(CLUSTER, "a")]) == ()
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
