"""One spec laid over another."""

from __future__ import annotations

from msgspec import field

from moongate.api.base import Model
from moongate.api.merge import merge, merge_traced


class Inner(Model, frozen=True, kw_only=True):
    one: int | None = None
    two: int | None = None


class Compression(Model, frozen=True, kw_only=True):
    type: str
    level: int | None = None
    window: int | None = None


class Spec(Model, frozen=True, kw_only=True):
    inner: Inner | None = None
    codes: tuple[int, ...] = ()
    compression: tuple[Compression, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])


BASE = Spec(
    inner=Inner(one=1, two=2),
    codes=(500,),
    compression=(Compression(type="Gzip", level=1), Compression(type="Brotli")),
)


def test_without_a_merge_type_the_lower_spec_has_no_say() -> None:
    assert merge(BASE, Spec(codes=(503,)), None) == Spec(codes=(503,))
    assert merge(BASE, Spec(codes=(503,)), "Replace") == Spec(codes=(503,))


def test_objects_merge_field_by_field() -> None:
    merged = merge(BASE, Spec(inner=Inner(two=20)), "JSONMerge")

    assert merged.inner == Inner(one=1, two=20)
    assert merged.codes == (500,)


def test_json_merge_replaces_lists() -> None:
    over = Spec(compression=(Compression(type="Gzip", window=9),))

    assert merge(BASE, over, "JSONMerge").compression == (Compression(type="Gzip", window=9),)


def test_a_strategic_merge_merges_lists_that_have_a_merge_key() -> None:
    """What the patch names comes first, in its order; what only the base has follows."""
    over = Spec(codes=(503,), compression=(Compression(type="Gzip", window=9),))

    merged = merge(BASE, over, "StrategicMerge")

    assert merged.compression == (Compression(type="Gzip", level=1, window=9), Compression(type="Brotli"))
    assert merged.codes == (503,)


def test_with_nothing_below_the_upper_spec_is_all() -> None:
    assert merge(None, BASE, "StrategicMerge") == BASE


def test_maps_merge_key_by_key() -> None:
    merged, inherited = merge_traced(Spec(labels={"a": "1", "b": "2"}), Spec(labels={"b": "3"}), "JSONMerge")

    assert merged.labels == {"a": "1", "b": "3"}
    assert inherited == ("labels.a",)


class Typed(Model, frozen=True, kw_only=True):
    type: str = "Text"
    port: int | None = None


class Holder(Model, frozen=True, kw_only=True):
    sink: Typed | None = None


def test_a_plain_default_counts_as_said() -> None:
    """An API server has written it, so it cannot be told from what a user wrote."""
    base = Holder(sink=Typed(type="Other", port=1))

    assert merge(base, Holder(sink=Typed()), "JSONMerge").sink == Typed(type="Text", port=1)
