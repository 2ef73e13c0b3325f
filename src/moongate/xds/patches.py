"""Patches: what changes a resource after it was built, as an EnvoyPatchPolicy does.

Theory of operation
===================
``patched`` is one query around the one that builds a resource. Only the resources that some patch names have
it, so it costs nothing where nothing patches.

A patch is an entry of the resource that it changes, as a route is one of its table. If Envoy refuses the
resource because of a patch, ``quarantine`` keeps out that patch alone. Its last good form stands in for it,
if there is one; otherwise the resource is handed out without it.

Facts
-----
* a patch of a joined resource is known by its content. Of any other resource nothing but its patches can be
  kept out, so a patch of it is known by its content and by what it is applied to. If that changes, all its
  patches are suspects, and each that was refused is tried again
* a patch that cannot be applied to what is there is passed over, and its status says why (``PatchError``).
  One that fails otherwise makes the query fail, and the resource keeps its last bytes
* a resource that a patch alone makes has no builder (``nothing``)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.api.base import FleetId, Ref
from moongate.engine import Query, query
from moongate.json_patch import PatchError
from moongate.xds.fallbacks import Concern, Suspect, kept_out
from moongate.xds.wire import Encoded, XdsResource, version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moongate.engine import Db
    from moongate.xds.fallbacks import Fallback

Call: TypeAlias = tuple[Query[..., Any], tuple[Any, ...]]
"""A query and its arguments: the call that builds a resource."""

PATCHES: Final = "patches"
"""The group of the patches of a resource."""


class Patch(Encoded, frozen=True):
    """One change of one resource.

    Args:
        owner: the resource of the API that asks for it.
        path: where it stands in its owner. Owner and path together tell the patches of a resource apart.
        body: what it changes, in the form that ``Patches.apply`` reads.
    """

    owner: Ref
    path: str
    body: bytes


class Patches(Struct, frozen=True):
    """Where patches come from, and how one is applied.

    Args:
        names: the ``(type URL, name)`` of the resources of a fleet that are patched.
        created: those of them that a patch makes, if nothing else does.
        of: the patches of one of these, in the order in which they are applied.
        apply: a resource, if there is one, of a type and name, with one patch applied. Raises ``PatchError``.
    """

    names: Query[[FleetId], tuple[tuple[str, str], ...]]
    created: Query[[FleetId], tuple[tuple[str, str], ...]]
    of: Query[[FleetId, str, str], tuple[Patch, ...]]
    apply: Callable[[XdsResource | None, str, str, Patch], XdsResource]


class Patched(NamedTuple):
    """A resource that is patched.

    Args:
        patches: where its patches come from.
        fleet: which fleet has it.
        type_url: its type.
        name: its name.
        joined: whether it has other entries that can be kept out.
        built_by: the call that builds it.
    """

    patches: Patches
    fleet: FleetId
    type_url: str
    name: str
    joined: bool
    built_by: Call


class Form(Encoded, frozen=True):
    """A patch of one resource, and the content version by which it is known there."""

    patch: Patch
    version: str


class NotApplied(NamedTuple):
    """A patch that cannot be applied to what is there.

    Args:
        owner: as of the patch.
        path: as of the patch.
        message: why.
        missing: whether it is because there is no such resource.
    """

    owner: Ref
    path: str
    message: str
    missing: bool


class Result(Struct, frozen=True):
    """A resource after its patches.

    Args:
        resource: ``None`` when there is none.
        not_applied: the patches that were passed over.
    """

    resource: XdsResource | None
    not_applied: tuple[NotApplied, ...]


def patching(fleet: FleetId, type_url: str, name: str) -> tuple[str, FleetId, str, str]:
    """The cell with the patched resource of a name that a fleet has, a ``Patched``; or absent."""
    return ("patching", fleet, type_url, name)


@query
def patched(db: Db, target: Patched) -> XdsResource | None:
    """A resource with the patches that are in force; ``None`` when there is no such resource."""
    return result(db, target).resource


@query
def result(db: Db, target: Patched) -> Result:
    """What the patches that are in force make of a resource."""
    resource = _built(db, target)
    passed_over: list[NotApplied] = []
    for form in in_force(db, target):
        patch = form.patch
        try:
            resource = target.patches.apply(resource, target.type_url, target.name, patch)
        except PatchError as fault:
            passed_over.append(NotApplied(patch.owner, patch.path, str(fault), fault.missing))
    return Result(resource, tuple(passed_over))


@query
def nothing(_db: Db, _fleet: FleetId, _type_url: str, _name: str) -> None:
    """What builds a resource that a patch alone makes."""


@query
def in_force(db: Db, target: Patched) -> tuple[Form, ...]:
    """The patches of a resource, with fallbacks for those that are kept out of it."""
    out = _kept_out(db, target)
    served: list[Form] = []
    for form in _forms(db, target):
        fallback = out.get(form.version)
        if fallback is None:
            served.append(form)
        elif (other := _in_place_of(db, target, fallback)) is not None and other.version not in out:
            served.append(other)
    return tuple(served)


@query
def concern(db: Db, target: Patched, version_: str) -> Concern | None:
    """Whom a patch concerns that is kept out; ``None`` when it is not asked for in this form.

    Args:
        db: what is read.
        target: the resource.
        version_: of the patch, or of what stands in for it.
    """
    out = _kept_out(db, target)
    for form in _forms(db, target):
        fallback = out.get(form.version)
        other = _in_place_of(db, target, fallback) if fallback is not None else None
        if version_ == form.version or (other is not None and version_ == other.version):
            patch, kind = form.patch, target.type_url.rpartition(".")[2]
            return Concern(f"patch {patch.path} of {patch.owner} on {kind} {target.name}", (patch.owner,))
    return None


def differing(good: tuple[Form, ...], now: tuple[Form, ...]) -> list[Suspect]:
    """The patches of a resource that another version of it does not have, each with its form there."""
    taken = {form.version for form in good}
    former = {(form.patch.owner, form.patch.path): form.patch for form in good}
    return [
        Suspect(PATCHES, form.version, before if before != form.patch else None)
        for form in now
        if form.version not in taken
        for before in (former.get((form.patch.owner, form.patch.path)),)
    ]


@query
def _forms(db: Db, target: Patched) -> tuple[Form, ...]:
    """The patches of a resource as they are written."""
    patches = target.patches.of(db, target.fleet, target.type_url, target.name)
    return tuple(_form(db, target, patch) for patch in patches)


def _form(db: Db, target: Patched, patch: Patch) -> Form:
    identity = f"{patch.owner}\n{patch.path}\n".encode() + patch.body
    if target.joined:
        return Form(patch, version(identity))
    resource = _built(db, target)
    return Form(patch, version((resource.version.encode() if resource is not None else b"") + identity))


def _in_place_of(db: Db, target: Patched, fallback: Fallback) -> Form | None:
    return None if fallback.last_good is None else _form(db, target, fallback.last_good)


def _built(db: Db, target: Patched) -> XdsResource | None:
    builder, args = target.built_by
    return builder(db, *args)


def _kept_out(db: Db, target: Patched) -> Mapping[str, Fallback]:
    return kept_out(db, target.fleet, target.type_url, target.name, PATCHES)
