"""``moongate.translate``: manifests in, statuses and xDS out, without starting anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from google.protobuf.message import Message
from msgspec import Struct, structs

from moongate.api.admission import admit, admit_configuration, checked, identity
from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.parsed import items_of, parsed
from moongate.api.route import Route
from moongate.api.shared import ParentReference
from moongate.attach.gateways import controller_name
from moongate.dangling import dangling_references
from moongate.kinds import KINDS, UNBUILT_KINDS, is_slip, unbuilt
from moongate.problem import Problem
from moongate.status.policies import PolicyStatus
from moongate.status.routes import RouteStatus
from moongate.world import World
from moongate.xds.messages import message

if TYPE_CHECKING:
    from moongate.api.base import Resource


class Translation(Struct, frozen=True):
    """What a set of manifests becomes.

    Args:
        status: per resource that has one: ``apiVersion``, ``kind``, ``metadata``, ``status``, as in the API.
        xds: fleet (``namespace/name`` of the Gateway) → type URL → name → Envoy's message.
        problems: faults of manifests, references that lead nowhere, and policies that cannot be built, each
            with the resource it is in.
    """

    status: tuple[dict[str, Any], ...]
    xds: Mapping[str, Mapping[str, Mapping[str, Message]]]
    problems: tuple[tuple[Ref, Problem], ...]


class ConfigurationError(ValueError):
    """The EnvoyGateway configuration has faults; the message names them."""


def translate(
    documents: Mapping[str, Any] | Iterable[Mapping[str, Any] | None],
    *,
    config: Mapping[str, Any] | None = None,
    namespace: str = "default",
) -> Translation:
    """Translate manifests as a running moongate would.

    A manifest that an API server would refuse is among ``problems``, and translated besides, as far as it
    goes: as if it had been in a cluster before the rule that it breaks.

    Args:
        documents: parsed manifests of any kinds; kinds of other programs are passed over. Lists of resources
            are taken apart.
        config: an EnvoyGateway configuration as a document; ``None`` for the one that moongate ships.
        namespace: where resources without a namespace are.

    Raises:
        ConfigurationError: ``config`` has faults.
        TypeError: an argument is of a type that it cannot have.
    """
    if not isinstance(namespace, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may have no types
        raise TypeError(f"namespace must be a string, not {type(namespace).__name__}.")
    resources: dict[Ref, Resource] = {}
    written: dict[Ref, Mapping[str, Any]] = {}
    problems: list[tuple[Ref, Problem]] = []
    for document in (single for each in parsed(documents) for single in _singles(each)):
        kind = (str(document.get("apiVersion", "")).rpartition("/")[0], str(document.get("kind")))
        if kind not in KINDS:
            problems += _of_unknown(document, kind, namespace)
            continue
        admission = admit(document, KINDS, namespace=namespace, tolerant=True)
        if admission.resource is not None:
            resources[admission.resource.ref] = admission.resource
            written[admission.resource.ref] = document
        ref = identity(document, KINDS[kind], namespace)
        problems += [(ref, problem) for problem in admission.problems]
    world = World.of(resources.values(), configuration(config))
    in_force = world.store.resources()
    dangling = dangling_references(in_force, in_force, controller=controller_name(world.db))
    problems += [(each.resource, each.problem) for each in dangling if each.severity == "error"]
    return Translation(
        tuple(status_documents(world, written)),
        {
            fleet: {t: {n: message(r) for n, r in named.items()} for t, named in types.items()}
            for fleet, types in world.xds().items()
        },
        tuple(dict.fromkeys((*problems, *world.problems()))),
    )


def _singles(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document itself, or the resources of a list."""
    items = items_of(document)
    if items is None:
        yield document
        return
    for path, item in items:
        if isinstance(item, dict):
            yield from _singles(cast("dict[str, Any]", item))
        elif item is not None:
            raise TypeError(f"{path} of a list is of type {type(item).__name__}; it must be a resource.")


def _of_unknown(
    document: dict[str, Any], kind: tuple[str, str], namespace: str
) -> Iterator[tuple[Ref, Problem]]:
    """What is wrong with a document of a kind that is not read; nothing, if it is for other programs."""
    if kind == (EnvoyGateway.GROUP, EnvoyGateway.KIND):
        problems = (
            Problem("kind", "An EnvoyGateway is a configuration: hand it over as config.", "Ignored"),
        )
    elif kind in UNBUILT_KINDS:
        problems = (Problem("kind", unbuilt(kind[1]), "Unsupported"),)
    elif isinstance(document.get("kind"), str) and document.get("apiVersion") and not is_slip(*kind):
        return
    else:
        problems = admit(document, KINDS, namespace=namespace).problems
    metadata: object = document.get("metadata")
    named = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    within, name = (str(named.get(key) or "") for key in ("namespace", "name"))
    for problem in problems:
        yield Ref(kind[1], within or namespace, name, kind[0]), problem


def configuration(document: Mapping[str, Any] | None) -> EnvoyGateway | None:
    """An EnvoyGateway configuration from its document. Raises ``ConfigurationError``."""
    if document is None:
        return None
    if not isinstance(document, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may have no types
        raise TypeError(f"config must be an EnvoyGateway as an object, not {type(document).__name__}.")
    (document,) = parsed(document)
    config, problems = admit_configuration(document)
    if config is None:
        raise ConfigurationError("\n".join(f"{p.path}: {p.message}" for p in problems))
    return config


def status_documents(world: World, written: Mapping[Ref, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """All statuses as documents of the API.

    Args:
        world: settled.
        written: manifests as the caller has them, so that statuses name a parentRef of a route as they do.
    """
    resources = world.store.resources()
    parents: dict[ParentReference, Any] = {}
    for ref, document in written.items():
        if isinstance(resources.get(ref), Route):
            for parent, as_it_is in _parent_refs(document).items():
                at = structs.replace(parent, namespace=parent.namespace or ref.namespace)
                parents.setdefault(at, as_it_is)
    for ref, status in sorted(world.statuses().items()):
        kind = type(resources[ref])
        version = f"{kind.GROUP}/{kind.VERSIONS[0]}" if kind.GROUP else kind.VERSIONS[0]
        metadata = {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})}
        yield {
            "apiVersion": version,
            "kind": ref.kind,
            "metadata": metadata,
            "status": _as_written(status, written.get(ref), parents),
        }


def _as_written(
    status: Struct, document: Mapping[str, Any] | None, parents: Mapping[ParentReference, Any]
) -> Any:
    written = msgspec.to_builtins(status)
    if isinstance(status, RouteStatus) and document is not None:
        refs = _parent_refs(document)
        for parent, entry in zip(status.parents, written["parents"], strict=True):
            entry["parentRef"] = refs.get(parent.parent_ref, entry["parentRef"])
    elif isinstance(status, PolicyStatus):
        for ancestor, entry in zip(status.ancestors, written["ancestors"], strict=True):
            if isinstance(ancestor.ancestor_ref, ParentReference):
                entry["ancestorRef"] = parents.get(ancestor.ancestor_ref, entry["ancestorRef"])
    return written


def _parent_refs(document: Mapping[str, Any]) -> dict[ParentReference, Any]:
    """The parentRefs of a route, each as it is written."""
    refs = ((checked(ParentReference, ref)[0], ref) for ref in document["spec"].get("parentRefs") or ())
    return {parent: ref for parent, ref in refs if parent is not None}
