"""Manifests that a caller of the Python API has parsed, as the same plain data that we make of their text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, cast


def parsed(manifests: object) -> list[dict[str, Any]]:
    """The manifests as plain data: objects with strings as keys, lists, and scalars.

    Args:
        manifests: one, or several; None stands for an empty document.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(manifests, Mapping):
        return [_plain(cast("Mapping[object, object]", manifests))]
    if hasattr(manifests, "__fspath__"):
        raise TypeError(
            f"The manifests are of type {type(manifests).__name__}; hand over the text of the file, as "
            "`read_text()` of the path gives it."
        )
    if isinstance(manifests, str | bytes) or not isinstance(manifests, Iterable):
        raise TypeError(
            "The manifests must be parsed, as `yaml.safe_load_all(text)` gives them; they are of type "
            f"{type(manifests).__name__}."
        )
    documents = enumerate(cast("Iterable[object]", manifests))
    return [_manifest(document, number) for number, document in documents if document is not None]


def items_of(document: Mapping[str, Any]) -> list[tuple[str, Any]] | None:
    """The entries of a list of resources, each with its path; ``None`` if the document is no such list."""
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind.endswith("List"):
        return None
    version, items = document.get("apiVersion"), document.get("items")
    if items is None and kind == "List":
        return []
    if not isinstance(items, list):
        return None
    # In a list of one kind from an API server, the items do not repeat the kind.
    inherited = {"apiVersion": version, "kind": kind[: -len("List")]} if kind != "List" else {}
    return [
        (f"items[{number}]", inherited | cast("dict[str, Any]", item) if isinstance(item, dict) else item)
        for number, item in enumerate(cast("list[Any]", items))
    ]


def _manifest(document: object, number: int) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise TypeError(
            f"Manifest {number} is of type {type(document).__name__}; it must be an object with apiVersion "
            "and kind."
        )
    return _plain(cast("Mapping[object, object]", document))


def _plain(value: object) -> Any:
    match value:
        case Mapping():
            entries = cast("Mapping[object, object]", value).items()
            return {_key(key): _plain(entry) for key, entry in entries}
        case list() | tuple():
            return [_plain(entry) for entry in cast("list[object]", value)]
        case str() | bool() | int() | None:
            return value
        case float():
            # As from YAML, where a whole number loses its point.
            return int(value) if abs(value) < 2**53 and value.is_integer() else value
        case datetime() | date():
            return value.isoformat().replace("+00:00", "Z")  # for ``kubectl``, an unquoted time is a string
        case _:
            return value  # which admission calls wrong, at its place


def _key(key: object) -> Any:
    """A key as in JSON, where all are strings; admission finds what cannot be a key there."""
    return str(key).lower() if isinstance(key, bool | int | float) else key
