"""Batches: what is taken out of one, what stays, and how old both are."""

from __future__ import annotations

from math import inf

from moongate.ads.channels import Batch
from moongate.xds.wire import ROUTE, XdsResource


def batch(*names: str, gone: tuple[str, ...] = (), oldest: float = 1) -> Batch:
    return Batch({name: XdsResource.of(ROUTE, name, b"") for name in names}, dict.fromkeys(gone), oldest)


def test_both_parts_of_a_batch_are_as_old_as_it_was() -> None:
    """Otherwise one of them would count as answered with the other."""
    whole = batch("a", "b", gone=("c",))

    part = whole.part({"a", "other"})

    assert (list(part.news), list(part.gone), part.oldest) == (["a"], [], 1)
    assert (list(whole.news), list(whole.gone), whole.oldest) == (["b"], ["c"], 1)


def test_a_batch_without_contents_is_of_no_age() -> None:
    """Nobody waits for it."""
    whole = batch("a")

    whole.part({"a"})

    assert not whole
    assert whole.oldest == inf


def test_halves_say_removals_once() -> None:
    first, second = batch("a", "b", "c", gone=("d",)).halves()

    assert (list(first.news), list(first.gone)) == (["a"], ["d"])
    assert (list(second.news), list(second.gone)) == (["b", "c"], [])
