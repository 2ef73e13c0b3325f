"""``mergeType``: one spec laid over another, as Kubernetes lays patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import structs

from moongate.api.base import Model
from moongate.api.shared import Fraction

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S", bound=Model)


def merge(base: S | None, over: S, merge_type: str | None) -> S:
    """``over`` laid upon ``base``.

    Args:
        base: the less specific spec, if there is one.
        over: the more specific spec.
        merge_type: ``None`` or ``Replace``: ``over`` alone. ``StrategicMerge``: objects merge, lists whose
            items have a merge key (``type``) merge by it, other lists are replaced. ``JSONMerge``: objects
            merge, lists are replaced (RFC 7386).

    Only what ``over`` sets counts: a field at its default is taken from ``base``. So a field whose default
    somebody may want to write over another value has ``None`` in its place, in what can be merged.
    """
    if base is None or merge_type in (None, "Replace"):
        return over
    return _merged(base, over, _by_type if merge_type == "StrategicMerge" else _replaced)


def _merged(
    base: Any, over: Any, lists: Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
) -> Any:
    # A fraction is one value: half of it means nothing with half of another.
    if type(base) is not type(over) or not isinstance(over, Model) or isinstance(over, Fraction):
        return over
    changed: dict[str, Any] = {}
    for field in structs.fields(type(over)):
        mine, theirs = getattr(over, field.name), getattr(base, field.name)
        if mine == (field.default_factory() if callable(field.default_factory) else field.default):
            changed[field.name] = theirs
        elif isinstance(mine, tuple) and isinstance(theirs, tuple):
            changed[field.name] = lists(cast("tuple[Any, ...]", theirs), cast("tuple[Any, ...]", mine))
        else:
            changed[field.name] = _merged(theirs, mine, lists)
    return structs.replace(over, **changed)


def _replaced(_base: tuple[Any, ...], over: tuple[Any, ...]) -> tuple[Any, ...]:
    return over


def _by_type(base: tuple[Any, ...], over: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lists with the merge key ``type``; the order is that of the patch, then what only the base has."""
    if not all(
        isinstance(i, Model) and hasattr(i, "type") and type(i).__name__ in _MERGE_BY_TYPE
        for i in base + over
    ):
        return over
    known = {i.type: i for i in base}
    merged = tuple(_merged(known.pop(i.type, None), i, _by_type) for i in over)
    return merged + tuple(known.values())


_MERGE_BY_TYPE = frozenset({"Compression", "ProtocolUpgradeConfig"})
"""Structs whose lists carry ``patchMergeKey=type`` in the reference's API."""
