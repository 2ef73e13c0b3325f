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

import importlib
import pkgutil
import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import jsonpath
import msgspec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf import json_format
from jsonpath.function_extensions import ExpressionType, FilterFunction

from moongate.api.envoypatchpolicy import EnvoyPatchPolicy, JSONPatchOperation
from moongate.attach.envoy_listeners import usual_names
from moongate.attach.patch_policies import patch_policies
from moongate.engine import query
from moongate.regex import matches_in, matches_whole, regex_fault
from moongate.store import get
from moongate.xds.patches import Patch, PatchError, Patches
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, XdsResource, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from google.protobuf.message import Message

    from moongate.api.base import FleetId, Ref
    from moongate.api.envoypatchpolicy import EnvoyJSONPatchConfig
    from moongate.engine import Db

RESERVED: Final = "system_ca_certificates"
"""The secret that no patch may touch."""

_MESSAGES: Final[Mapping[str, tuple[type[Message], str]]] = {
    LISTENER: (Listener, "name"),
    ROUTE: (RouteConfiguration, "name"),
    CLUSTER: (Cluster, "name"),
    ENDPOINT: (ClusterLoadAssignment, "cluster_name"),
    SECRET: (Secret, "name"),
}
"""Type URL → message, and its field with the resource's name."""
_OWN_PACKAGES: Final = ("envoy.", "xds.", "udpa.")
"""Where the messages are that a value may hold."""
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
    return None if resource is None else _fault(resource.spec.json_patches[index])


@query
def patched_names(db: Db, fleet: FleetId) -> tuple[tuple[str, str], ...]:
    """``(type URL, name)`` of each resource that patches of a fleet change or create, sorted."""
    return tuple(sorted(_by_resource(db, fleet)))


@query
def created_names(db: Db, fleet: FleetId) -> tuple[tuple[str, str], ...]:
    """``(type URL, name)`` of each resource that is a patch's own, sorted."""
    of = _by_resource(db, fleet).items()
    return tuple(sorted(key for key, patches in of if any(_creates(_operation(p)) for p in patches)))


@query
def patches_of(db: Db, fleet: FleetId, type_url: str, name: str) -> tuple[Patch, ...]:
    """The patches of one resource of a fleet, in order."""
    return _by_resource(db, fleet).get((type_url, name), ())


@query
def target_of(db: Db, policy: Ref, index: int) -> tuple[str, str] | None:
    """``(type URL, name)`` of the resource that a patch changes or creates, in its usual name."""
    resource = get(db, EnvoyPatchPolicy, policy)
    return None if resource is None else _target(resource.spec.json_patches[index])


@query
def _by_resource(db: Db, fleet: FleetId) -> Mapping[tuple[str, str], tuple[Patch, ...]]:
    """The patches of a fleet, by what they change: under its usual name, and the one that it has now."""
    others = usual_names(db, fleet)
    patches: dict[tuple[str, str], tuple[Patch, ...]] = {}
    for policy in patch_policies(db, fleet):
        for key, patch in _of_policy(db, policy):
            for each in (key, *others.get(key, ())):
                patches[each] = (*patches.get(each, ()), patch)
    return patches


@query
def _of_policy(db: Db, policy: Ref) -> tuple[tuple[tuple[str, str], Patch], ...]:
    """The patches of a policy that nothing is wrong with, each with what it changes."""
    resource = get(db, EnvoyPatchPolicy, policy)
    if resource is None:
        return ()
    return tuple(
        (_target(each), Patch(policy, f"spec.jsonPatches[{n}]", msgspec.json.encode(each.operation)))
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
    if _creates(operation):
        try:
            return XdsResource.of(type_url, name, encode(_read(message, operation.value)))
        except PatchError as error:
            raise _without_secrets(error, type_url) from None
    if resource is None:
        raise PatchError(f"There is no {type_url}/{name}.", missing=True)
    document = json_format.MessageToDict(message.FromString(resource.body), preserving_proto_field_name=True)
    try:
        changed = _all_changed(document, operation)
        if _text_at(changed, name_field) != name:
            raise PatchError(f"It changes {name_field}, by which the resource is known.")
        return XdsResource.of(type_url, name, encode(_read(message, changed)))
    except PatchError as error:
        raise _without_secrets(error, type_url) from None


def _without_secrets(error: PatchError, type_url: str) -> PatchError:
    """What is said of a patch of a secret: the words of libraries may quote what is in it."""
    if type_url != SECRET:
        return error
    return PatchError("It cannot be applied to this secret; more would quote what is in it.")


JSON_PATCHES: Final = Patches(names=patched_names, created=created_names, of=patches_of, apply=apply)
"""The patches of EnvoyPatchPolicies."""


def _operation(patch: Patch) -> JSONPatchOperation:
    return msgspec.json.decode(patch.body, type=JSONPatchOperation)


def _creates(operation: JSONPatchOperation) -> bool:
    return operation.op == "add" and operation.path == "" and not operation.json_path


def _target(patch: EnvoyJSONPatchConfig) -> tuple[str, str]:
    return patch.type, _own_name(patch) if _creates(patch.operation) else patch.name


def _own_name(patch: EnvoyJSONPatchConfig) -> str:
    """The name that the value of a new resource has; "" for none."""
    _, field = _MESSAGES[patch.type]
    value = patch.operation.value
    return _text_at(value, field) or _text_at(value, _camel(field))


def _text_at(document: Any, field: str) -> str:
    """The text that a field of a document has; "" for none."""
    value = cast("dict[str, Any]", document).get(field) if isinstance(document, dict) else None
    return value if isinstance(value, str) else ""


def _camel(field: str) -> str:
    return re.sub(r"_(.)", lambda match: match[1].upper(), field)


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
    if _creates(operation) and not _own_name(patch):
        return f"Its value is a resource of its own, so it needs {_MESSAGES[patch.type][1]}."
    if operation.json_path:
        try:
            _compiled(operation.json_path)
        except PatchError as error:
            return str(error)
    if _target(patch) == (SECRET, RESERVED):
        return f"The secret {RESERVED} cannot be changed."
    return None


# Places


class _WithRE2(jsonpath.JSONPathEnvironment):
    """JSONPath whose patterns are RE2, as a pattern must not be able to stop the controller."""

    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions["match"] = _Matches(matches_whole)
        self.function_extensions["search"] = _Matches(matches_in)

    def compare(self, left: object, operator: str, right: object) -> bool:
        if operator == "=~" and isinstance(right, re.Pattern):
            pattern: str = right.pattern
            flags = "(?i)" if right.flags & re.IGNORECASE else ""
            return (
                isinstance(left, str) and _is_pattern(flags + pattern) and matches_in(flags + pattern, left)
            )
        return super().compare(left, operator, right)


class _Matches(FilterFunction):
    """A function of JSONPath that compares a text with a pattern."""

    def __init__(self, how: Callable[[str, str], bool]) -> None:
        self._how = how

    @property
    def arg_types(self) -> list[ExpressionType]:
        return [ExpressionType.VALUE, ExpressionType.VALUE]

    @property
    def return_type(self) -> ExpressionType:
        return ExpressionType.LOGICAL

    def __call__(self, value: object, pattern: object) -> bool:
        if not (isinstance(value, str) and isinstance(pattern, str) and _is_pattern(pattern)):
            return False
        return self._how(pattern, value)


def _is_pattern(pattern: str) -> bool:
    return regex_fault(pattern) is None


_ENVIRONMENT = _WithRE2()


def _compiled(path: str) -> jsonpath.JSONPath | jsonpath.CompoundJSONPath:
    if path.strip() == "$":
        raise PatchError("jsonPath $ is the whole resource: leave it out, and name the place in path.")
    try:
        return _ENVIRONMENT.compile(path)
    except (jsonpath.JSONPathError, re.error) as error:
        raise PatchError(f"jsonPath {path!r} cannot be read: {error}") from None


def _pointers(document: Mapping[str, Any], operation: JSONPatchOperation) -> list[str]:
    """The places that an operation is about."""
    if not operation.json_path:
        return [operation.path or ""]
    try:
        found = [str(match.pointer()) for match in _compiled(operation.json_path).finditer(document)]
    except jsonpath.JSONPathError as error:
        raise PatchError(f"jsonPath {operation.json_path!r} cannot be evaluated: {error}") from None
    if not found:
        raise PatchError(f"jsonPath {operation.json_path!r} finds nothing.")
    below = (operation.path or "").lstrip("/")
    return [f"{at}/{below}" if below else at for at in found]


def _all_changed(document: dict[str, Any], operation: JSONPatchOperation) -> Any:
    """A document after an operation at all of its places."""
    changed: Any = document
    for pointer in _pointers(document, operation):
        changed = _changed(changed, operation, pointer)
    return changed


def _changed(document: Any, operation: JSONPatchOperation, pointer: str) -> Any:
    """A document after one operation at one place."""
    one: dict[str, Any] = {"op": operation.op, "path": pointer}
    if operation.from_ is not None:
        one["from"] = operation.from_
    elif operation.op != "remove":
        one["value"] = msgspec.json.decode(msgspec.json.encode(operation.value))
    try:
        if operation.op == "add":
            _make_parents(document, pointer)
        return jsonpath.patch.apply([one], document)
    except (jsonpath.JSONPatchError, jsonpath.JSONPointerError) as error:
        raise PatchError(f"{operation.op} at {pointer!r}: {error}") from None


def _make_parents(document: Any, pointer: str) -> None:
    """Make the objects and lists above a place that do not exist."""
    keys = jsonpath.JSONPointer(pointer).parts
    at = document
    for key, below in pairwise(keys):
        new: Any = [] if below == "-" or str(below).isdecimal() else {}
        if isinstance(at, dict):
            at = cast("dict[str, Any]", at).setdefault(str(key), new)
        elif isinstance(at, list):
            entries = cast("list[Any]", at)
            if key == "-" or (str(key).isdecimal() and int(key) == len(entries)):
                entries.append(new)
                at = new
            elif str(key).isdecimal() and int(key) < len(entries):
                at = entries[int(key)]
            else:
                return
        else:
            return


# Messages


def _read(message: type[Message], document: Any) -> Message:
    """The message that a JSON document means."""
    for name in _types(document):
        _import_type(name)
    try:
        return json_format.ParseDict(document, message())
    except json_format.ParseError as error:
        raise PatchError(f"The result is no {message.DESCRIPTOR.name}: {_short(str(error))}") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PatchError(f"The result is no {message.DESCRIPTOR.name}: {error}") from None


def _short(error: str) -> str:
    """What protobuf says, without the list of all fields that there are."""
    return error.partition("\n Available Fields")[0]


def _types(document: Any) -> Iterator[str]:
    """The full names of all messages that a document packs into ``google.protobuf.Any``."""
    if isinstance(document, dict):
        mapping = cast("dict[str, Any]", document)
        if isinstance(of := mapping.get("@type"), str):
            yield of.rpartition("/")[2]
        for value in mapping.values():
            yield from _types(value)
    elif isinstance(document, list):
        for value in cast("list[Any]", document):
            yield from _types(value)


@cache
def _import_type(name: str) -> None:
    """Import the modules where a message may be defined. There are hundreds, too many for the start."""
    package = name.rpartition(".")[0]
    if not package.startswith(_OWN_PACKAGES):
        return
    try:
        found = importlib.import_module(package)
    except ImportError:
        return
    for module in pkgutil.iter_modules(found.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")
