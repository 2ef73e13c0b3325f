"""``moongate.translate``: manifests in, statuses and xDS out, without starting anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import Message
from msgspec import Struct

from moongate.api.admission import admit, admit_configuration, checked, identity
from moongate.api.base import Ref
from moongate.api.shared import ParentReference
from moongate.kinds import KINDS
from moongate.problem import Problem
from moongate.status.routes import RouteStatus
from moongate.world import World
from moongate.xds.messages import message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moongate.api.base import Resource
    from moongate.api.envoygateway import EnvoyGateway


class Translation(Struct, frozen=True):
    """What a set of manifests becomes.

    Args:
        status: per resource that has one: ``apiVersion``, ``kind``, ``metadata``, ``status``, as in the API.
        xds: fleet (``namespace/name`` of the Gateway) → type URL → name → Envoy's message.
        problems: faults of manifests and of policies that cannot be built, each with the resource it is in.
    """

    status: tuple[dict[str, Any], ...]
    xds: Mapping[str, Mapping[str, Mapping[str, Message]]]
    problems: tuple[tuple[Ref, Problem], ...]


class ConfigurationError(ValueError):
    """The EnvoyGateway configuration has faults; the message names them."""


def translate(
    documents: Iterable[Mapping[str, Any]],
    *,
    config: Mapping[str, Any] | None = None,
    namespace: str = "default",
) -> Translation:
    """Translate manifests as a running moongate would.

    A manifest that an API server would refuse is among ``problems``, and translated besides, as far as it
    goes: as if it had been in a cluster before the rule that it breaks.

    Args:
        documents: parsed manifests of any kinds; kinds that are not read are passed over.
        config: an EnvoyGateway configuration as a document; ``None`` for the one that moongate ships.
        namespace: where resources without a namespace are.

    Raises:
        ConfigurationError: ``config`` has faults.
    """
    resources: dict[Ref, Resource] = {}
    written: dict[Ref, Mapping[str, Any]] = {}
    problems: list[tuple[Ref, Problem]] = []
    for document in documents:
        kind = (str(document.get("apiVersion", "")).rpartition("/")[0], str(document.get("kind")))
        if kind not in KINDS:
            continue
        admission = admit(document, KINDS, namespace=namespace, tolerant=True)
        if admission.resource is not None:
            resources[admission.resource.ref] = admission.resource
            written[admission.resource.ref] = document
        ref = identity(document, KINDS[kind], namespace)
        problems += [(ref, problem) for problem in admission.problems]
    world = World.of(resources.values(), configuration(config))
    return Translation(
        tuple(status_documents(world, written)),
        {
            fleet: {t: {n: message(r) for n, r in named.items()} for t, named in types.items()}
            for fleet, types in world.xds().items()
        },
        tuple(dict.fromkeys((*problems, *world.problems()))),
    )


def configuration(document: Mapping[str, Any] | None) -> EnvoyGateway | None:
    """An EnvoyGateway configuration from its document. Raises ``ConfigurationError``."""
    if document is None:
        return None
    config, problems = admit_configuration(document)
    if config is None:
        raise ConfigurationError("\n".join(f"{p.path}: {p.message}" for p in problems))
    return config


def status_documents(world: World, written: Mapping[Ref, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """All statuses as documents of the API.

    Args:
        world: settled.
        written: manifests as the caller has them, so that a route's status names a parentRef as they do.
    """
    held = world.store.held()
    for ref, status in sorted(world.statuses().items()):
        kind = type(held[ref])
        version = f"{kind.GROUP}/{kind.VERSIONS[0]}" if kind.GROUP else kind.VERSIONS[0]
        metadata = {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})}
        yield {
            "apiVersion": version,
            "kind": ref.kind,
            "metadata": metadata,
            "status": _as_written(status, written.get(ref)),
        }


def _as_written(status: Struct, document: Mapping[str, Any] | None) -> Any:
    written = msgspec.to_builtins(status)
    if isinstance(status, RouteStatus) and document is not None:
        refs = {checked(ParentReference, ref)[0]: ref for ref in document["spec"].get("parentRefs") or ()}
        for parent, entry in zip(status.parents, written["parents"], strict=True):
            entry["parentRef"] = refs.get(parent.parent_ref, entry["parentRef"])
    return written
