"""``mergeType``: one spec laid over another, as Kubernetes lays patches."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from msgspec import structs

from moongate.api.base import Model, fields_of
from moongate.api.rate_limits import RateLimits
from moongate.api.shared import Fraction

S = TypeVar("S", bound=Model)


def merge(base: S | None, over: S, merge_type: str | None) -> S:
    """``over`` laid upon ``base``.

    Args:
        base: the less specific spec, if there is one.
        over: the more specific spec.
        merge_type: ``None`` or ``Replace``: ``over`` alone. ``StrategicMerge``: objects merge, lists whose
            items have a merge key (``type``) merge by it, rules of rate limits stand one after another, other
            lists are replaced. ``JSONMerge``: objects merge, lists are replaced (RFC 7386).

    Only what ``over`` sets counts: a field at its default is taken from ``base``. So a field whose default
    somebody may want to write over another value has ``None`` in its place, in what can be merged.
    """
    return merge_traced(base, over, merge_type)[0]


def merge_traced(base: S | None, over: S, merge_type: str | None) -> tuple[S, tuple[str, ...]]:
    """``merge``, and what of the result came from ``base``: paths in wire names, ``a.b`` and ``a.list[0]``.

    A path stands for all that is below it.
    """
    if base is None or merge_type in (None, "Replace"):
        return over, ()
    inherited: list[str] = []
    merged = _merged(base, over, "", inherited, by_type=merge_type == "StrategicMerge")
    return merged, tuple(inherited)


def _merged(base: Any, over: Any, path: str, inherited: list[str], *, by_type: bool) -> Any:
    # A fraction is one value: half of it means nothing with half of another.
    if type(base) is not type(over) or not isinstance(over, Model) or isinstance(over, Fraction):
        return over
    if isinstance(base, RateLimits) and isinstance(over, RateLimits):
        base, over = base.to_merge(), over.to_merge()
    changed: dict[str, Any] = {}
    for field in fields_of(cast("type[Model]", type(over))):
        mine, theirs = getattr(over, field.name), getattr(base, field.name)
        at = f"{path}.{field.encode_name}" if path else field.encode_name
        default = field.default_factory() if callable(field.default_factory) else field.default
        # A default that is a plain value was written by an API server, as if the user had.
        if mine == default and not isinstance(default, str | int):
            changed[field.name] = theirs
            if theirs != default:
                inherited.append(at)
        elif by_type and _lists_of(mine, theirs, _MERGE_BY_TYPE):
            changed[field.name] = _by_type(theirs, mine, at, inherited)
        elif by_type and _lists_of(mine, theirs, _EACH_ITS_OWN):
            changed[field.name] = (*mine, *theirs)
            inherited += [f"{at}[{len(mine) + n}]" for n in range(len(theirs))]
        elif isinstance(mine, dict) and isinstance(theirs, dict):
            changed[field.name] = _merged_maps(theirs, mine, at, inherited)
        else:
            changed[field.name] = _merged(theirs, mine, at, inherited, by_type=by_type)
    return structs.replace(over, **changed)


def _merged_maps(base: Any, over: Any, path: str, inherited: list[str]) -> dict[str, Any]:
    below, above = cast("dict[str, Any]", base), cast("dict[str, Any]", over)
    inherited += [f"{path}.{key}" for key in below if key not in above]
    return {**below, **above}


def _lists_of(over: Any, base: Any, names: frozenset[str]) -> bool:
    """Whether two values are lists of Structs with one of these names."""
    if not isinstance(over, tuple) or not isinstance(base, tuple):
        return False
    entries = cast("tuple[Any, ...]", over + base)
    return all(type(entry).__name__ in names for entry in entries)


def _by_type(
    base: tuple[Any, ...], over: tuple[Any, ...], path: str, inherited: list[str]
) -> tuple[Any, ...]:
    """The order is that of ``over``, then what only ``base`` has."""
    below = {entry.type: entry for entry in base}
    merged = [
        _merged(below.pop(entry.type, None), entry, f"{path}[{n}]", inherited, by_type=True)
        for n, entry in enumerate(over)
    ]
    inherited += [f"{path}[{len(over) + n}]" for n in range(len(below))]
    return (*merged, *below.values())


_MERGE_BY_TYPE = frozenset({"Compression", "ProtocolUpgradeConfig"})
"""Structs whose lists carry ``patchMergeKey=type`` in the reference's API."""
_EACH_ITS_OWN = frozenset({"RateLimitRule"})
"""Structs that the reference merges by the name of the policy and the index in it: no two have the same."""
