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
        self._known: dict[str, T] = {}
        """The newest last."""
        self._acknowledged = ""

    def note(self, version: str, known: T) -> None:
        """A version is handed out. It is the newest now, also if it was handed out before."""
        self._known.pop(version, None)
        self._known[version] = known
        if len(self._known) > MOST_VERSIONS:
            del self._known[next(each for each in self._known if each != self._acknowledged)]

    def acknowledge(self, version: str) -> None:
        """An Envoy has a version in force. If that is known, the older ones are forgotten."""
        if version not in self._known:
            return
        self._acknowledged = version
        for older in list(self._known):
            if older == version:
                break
            del self._known[older]

    def get(self, version: str) -> T | None:
        """What is known of a version; ``None`` when it is forgotten."""
        return self._known.get(version)

    def acknowledged(self) -> T | None:
        """What is known of the version that was acknowledged last; ``None`` when there is none."""
        return self._known.get(self._acknowledged)

    def __iter__(self) -> Iterator[T]:
        """What is known of all versions, the newest last."""
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)
