"""The resources that one fleet of Envoys should have, and their edits.

A snapshot is edited in place and counts its edits. Sessions get the differences of each edit and look up
nothing else, so the cost depends on the size of the change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from moongate.ads.responses import Responses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moongate.xds.wire import XdsResource

Key: TypeAlias = tuple[str, str]
"""(type URL, resource name)."""


class Difference(NamedTuple):
    """One resource that an edit changed, and the version that it had before; None when there was none."""

    type_url: str
    name: str
    before: str | None


class Snapshot:
    """The resources of one fleet by type and name, shared by all its sessions."""

    def __init__(self) -> None:
        self._resources: defaultdict[str, dict[str, XdsResource]] = defaultdict(dict)
        self.responses = Responses()
        """The responses that its sessions have sent and that are not answered yet."""
        self.seq = 0
        """How many edits there were. 0: nobody has published anything yet, not even emptiness."""

    def __bool__(self) -> bool:
        """Whether the fleet should have anything at all."""
        return any(self._resources.values())

    def apply(self, put: Iterable[XdsResource], gone: Iterable[Key]) -> tuple[Difference, ...]:
        """Make one edit.

        Returns:
            The real differences. An equal resource is no change, and neither is the end of an unknown name.
            A name that is both in ``gone`` and in ``put`` stays.
        """
        before: dict[Key, XdsResource | None] = {}
        for type_url, name in gone:
            if (was := self._resources[type_url].pop(name, None)) is not None:
                before[type_url, name] = was
        for resource in put:
            held = self._resources[resource.type_url]
            before.setdefault((resource.type_url, resource.name), held.get(resource.name))
            held[resource.name] = resource
        differences = tuple(
            Difference(*key, None if was is None else was.version)
            for key, was in before.items()
            if not _same(was, self.get(*key))
        )
        if differences or not self.seq:
            self.seq += 1
        return differences

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """The resource, or None when the fleet should not have it."""
        return self._resources[type_url].get(name)

    def of(self, type_url: str) -> Mapping[str, XdsResource]:
        """All resources of one type, by name. A live view, not a copy."""
        return self._resources[type_url]


def _same(one: XdsResource | None, other: XdsResource | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.version == other.version
