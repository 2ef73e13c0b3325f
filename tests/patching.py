"""Trial patches: they stand in a cell, and each adds fields to the resource that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import Ref
from moongate.engine import query
from moongate.json_patch import PatchError
from moongate.xds.patches import Patch, Patches
from moongate.xds.wire import XdsResource, encode

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from moongate.api.base import FleetId
    from moongate.engine import Db
    from moongate.world import World

CELL = "trial patches"
"""``(type URL, name)`` of a resource → its patches."""


@query
def patched_names(db: Db, _fleet: FleetId) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(db.read(CELL) or ()))


@query
def created_names(_db: Db, _fleet: FleetId) -> tuple[tuple[str, str], ...]:
    return ()


@query
def patches_of(db: Db, _fleet: FleetId, type_url: str, name: str) -> tuple[Patch, ...]:
    named: dict[tuple[str, str], tuple[Patch, ...]] = db.read(CELL) or {}
    return named.get((type_url, name), ())


def apply(resource: XdsResource | None, type_url: str, name: str, patch: Patch) -> XdsResource:
    """The resource and the fields of the patch: two encodings, joined, are one of the merged message."""
    if resource is None:
        raise PatchError("There is no such resource.", missing=True)
    return XdsResource.of(type_url, name, resource.body + patch.body)


TRIAL = Patches(patched_names, created_names, patches_of, apply)


def patch(owner: str, adds: Message, path: str = "spec.jsonPatches[0]") -> Patch:
    """A patch that adds some fields."""
    ref = Ref("EnvoyPatchPolicy", "default", owner, "gateway.envoyproxy.io")
    return Patch(ref, path, encode(adds))


def put(world: World, type_url: str, name: str, *patches: Patch) -> None:
    """Patch one resource, and no other; without any patch, none."""
    world.write(CELL, {(type_url, name): patches} if patches else None)
