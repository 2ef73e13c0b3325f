"""JSON patches of EnvoyPatchPolicies: what each changes, and a resource with one of them applied.

Theory of operation
===================
A resource is written as JSON, with field names in snake case; one operation of RFC 6902 changes that; and
what results is read as a message again. So a pointer is what the reference takes, and a value may have any
form that protobuf's JSON has. A ``jsonPath`` stands for all places that it finds, and all of them are changed
or none.

An ``add`` at the empty path is a resource of its own, under the name that its value has. If one of that name
is built anyway, it takes its place.

Rules
-----
* a patch that cannot be applied changes nothing, its status says why, and the others are applied
* parents that an ``add`` lacks are made
* a resource keeps its name: Envoy and all that refers to it know it by that

Source: the reference's EnvoyPatchPolicy; RFC 6901, RFC 6902 and RFC 9535; protobuf's JSON mapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate import names
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy, JSONPatchOperation, text_at
from moongate.attach.envoy_listeners import usual_names
from moongate.attach.patch_policies import patch_policies
from moongate.engine import Failed, query
from moongate.json_patch import PatchError, compiled, import_type, patched, read
from moongate.message_documents import as_document
from moongate.store import get
from moongate.xds.patches import Patch, Patches
from moongate.xds.walk import packed_types
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, XdsResource, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from moongate.api.base import FleetId, Ref
    from moongate.api.envoypatchpolicy import EnvoyJSONPatchConfig
    from moongate.engine import Db

_MESSAGES: Final[Mapping[str, tuple[type[Message], str]]] = {
    LISTENER: (Listener, "name"),
    ROUTE: (RouteConfiguration, "name"),
    CLUSTER: (Cluster, "name"),
    ENDPOINT: (ClusterLoadAssignment, "cluster_name"),
    SECRET: (Secret, "name"),
}
"""Type URL → message, and its field with the resource's name."""
_TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "add": ("value",),
    "replace": ("value",),
    "test": ("value",),
    "remove": (),
    "move": ("from",),
    "copy": ("from",),
}
"""What each operation needs besides its place; it takes nothing else."""


@query
def fault(db: Db, policy: Ref, index: int) -> str | None:
    """Why a patch can never be applied, as it is written; ``None`` if nothing is wrong with it."""
    resource = get(db, EnvoyPatchPolicy, policy)
    if resource is None or (message := _fault(resource.spec.json_patches[index])) is None:
        return None
    return str(_without_secrets(PatchError(message), resource.spec.json_patches[index].type))


@query
def patched_names(db: Db, fleet: FleetId) -> tuple[tuple[str, str], ...]:
    """``(type URL, name)`` of each resource that patches of a fleet change or create, sorted."""
    return tuple(sorted(_by_resource(db, fleet)))


@query
def created_names(db: Db, fleet: FleetId) -> tuple[tuple[str, str], ...]:
    """``(type URL, name)`` of each resource that is a patch's own, sorted."""
    of = _by_resource(db, fleet).items()
    return tuple(sorted(key for key, patches in of if any(_operation(p).creates for p in patches)))


@query
def patches_of(db: Db, fleet: FleetId, type_url: str, name: str) -> tuple[Patch, ...]:
    """The patches of one resource of a fleet, in order."""
    return _by_resource(db, fleet).get((type_url, name), ())


@query
def target_of(db: Db, policy: Ref, index: int) -> tuple[str, str] | None:
    """``(type URL, name)`` of the resource that a patch changes or creates, in its usual name."""
    resource = get(db, EnvoyPatchPolicy, policy)
    return None if resource is None else resource.spec.json_patches[index].target


@query
def _by_resource(db: Db, fleet: FleetId) -> Mapping[tuple[str, str], tuple[Patch, ...]]:
    """The patches of a fleet, by what they change: under its usual name, and the one that it has now."""
    others = usual_names(db, fleet)
    patches: dict[tuple[str, str], tuple[Patch, ...]] = {}
    for policy in patch_policies(db, fleet):
        # One that cannot be read, by a bug of ours, takes no other down with it.
        own = _of_policy.last_good(db, policy)
        for key, patch in () if isinstance(own, Failed) else own:
            # What a patch makes has the name that it gives it, and no other.
            for each in (key, *(() if _operation(patch).creates else others.get(key, ()))):
                patches[each] = (*patches.get(each, ()), patch)
    return patches


@query
def _of_policy(db: Db, policy: Ref) -> tuple[tuple[tuple[str, str], Patch], ...]:
    """The patches of a policy that nothing is wrong with, each with what it changes."""
    resource = get(db, EnvoyPatchPolicy, policy)
    if resource is None:
        return ()
    return tuple(
        (each.target, Patch(policy, f"spec.jsonPatches[{n}]", msgspec.json.encode(each.operation)))
        for n, each in enumerate(resource.spec.json_patches)
        if _fault(each) is None
    )


def apply(resource: XdsResource | None, type_url: str, name: str, patch: Patch) -> XdsResource:
    """A resource with one patch applied.

    Args:
        resource: as it is before; ``None`` when there is none.
        type_url: its type.
        name: its name.
        patch: what changes it, or makes it.

    Raises:
        PatchError: the patch cannot be applied.
    """
    operation = _operation(patch)
    message, name_field = _MESSAGES[type_url]
    if operation.creates:
        try:
            return XdsResource.of(type_url, name, encode(read(message, operation.value)))
        except PatchError as error:
            raise _without_secrets(error, type_url) from None
    if resource is None:
        raise PatchError(f"There is no {type_url}/{name}.", missing=True)
    document = _written(message.FromString(resource.body))
    try:
        changed = patched(document, operation)
        if text_at(changed, name_field) != name:
            raise PatchError(f"It changes {name_field}, by which the resource is known.")  # noqa: TRY301
        return XdsResource.of(type_url, name, encode(read(message, changed)))
    except PatchError as error:
        raise _without_secrets(error, type_url) from None


def _written(message: Message) -> dict[str, Any]:
    """A message as a JSON document, with field names in snake case."""
    try:
        return as_document(message, snake_case=True)
    except (
        TypeError
    ):  # It holds a message that was written without its type, so that nothing has imported it.
        for name in packed_types(message):
            import_type(name)
        return as_document(message, snake_case=True)


def _without_secrets(error: PatchError, type_url: str) -> PatchError:
    """What is said of a patch of a secret: the words of libraries may quote what is in it."""
    if type_url != SECRET:
        return error
    return PatchError("It cannot be applied to this secret; more would quote what is in it.")


JSON_PATCHES: Final = Patches(names=patched_names, created=created_names, of=patches_of, apply=apply)
"""The patches of EnvoyPatchPolicies."""


def _operation(patch: Patch) -> JSONPatchOperation:
    return msgspec.json.decode(patch.body, type=JSONPatchOperation)


def _fault(patch: EnvoyJSONPatchConfig) -> str | None:
    operation = patch.operation
    if operation.path is None and operation.json_path is None:
        return 'It needs path or jsonPath; for a resource of its own, op add with path: "".'
    written = {"value": operation.value, "from": operation.from_}
    for field, value in written.items():
        if (value is not None) != (field in _TAKES[operation.op]):
            return f"op {operation.op} {'needs' if value is None else 'takes no'} {field}."
    for field, pointer in (("path", operation.path), ("from", operation.from_)):
        if pointer and not pointer.startswith("/") and not (field == "path" and operation.json_path):
            return f"{field} must be a JSON pointer, which begins with a slash, not {pointer!r}."
    if operation.creates and not patch.target[1]:
        return f"Its value is a resource of its own, so it needs {_MESSAGES[patch.type][1]}."
    if operation.json_path:
        try:
            compiled(operation.json_path)
        except PatchError as error:
            return str(error)
    if patch.target == (SECRET, names.SYSTEM_AUTHORITIES):
        return f"The secret {names.SYSTEM_AUTHORITIES} cannot be changed."
    return None
