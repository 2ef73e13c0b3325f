"""The versions of one resource that an Envoy may still answer, each with what is known of it.

Facts
-----
* an Envoy may be silent for long, and meanwhile versions come and go; so only the last few are kept
* the version that an Envoy acknowledged last is kept as well: an Envoy that connects may report it
* when a version is acknowledged, no older one will be answered
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

MOST_VERSIONS: Final = 8
"""How many versions of a resource are kept."""


class RecentVersions(Generic[T]):
    """What is known of each version, by version."""

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        """The newest last."""
        self._acknowledged = ""

    def note(self, version: str, value: T) -> None:
        """A version is handed out. It is the newest now, also if it was handed out before."""
        self._values.pop(version, None)
        self._values[version] = value
        if len(self._values) > MOST_VERSIONS:
            del self._values[next(each for each in self._values if each != self._acknowledged)]

    def acknowledge(self, version: str) -> None:
        """An Envoy has a version in force. If that is known, the older ones are forgotten."""
        if version not in self._values:
            return
        self._acknowledged = version
        for older in list(self._values):
            if older == version:
                break
            del self._values[older]

    def get(self, version: str) -> T | None:
        """What is known of a version; ``None`` when it is forgotten."""
        return self._values.get(version)

    def acknowledged(self) -> T | None:
        """What is known of the version that was acknowledged last; ``None`` when there is none."""
        return self._values.get(self._acknowledged)

    def __iter__(self) -> Iterator[T]:
        """What is known of all versions, the newest last."""
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)
