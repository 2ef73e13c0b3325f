"""Reading the text of one document: its resources and their faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct, structs

from moongate.api import admission, marks
from moongate.api.backendtlspolicy import UNKNOWN_VALIDATION, BackendTLSPolicy, FaultyBackendTLSPolicy
from moongate.api.base import Model, Ref, Resource
from moongate.api.core import Secret
from moongate.api.diagnostics import type_name
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.parsed import items_of
from moongate.engine.failures import failure
from moongate.kinds import KINDS, UNBUILT_KINDS, is_slip, unbuilt
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.problem import Problem
from moongate.sources.diagnostics import Severity
from moongate.sources.json_documents import parsed_json
from moongate.sources.mistaken import (
    HELM,
    KUSTOMIZATION,
    SOPS,
    is_encrypted,
    is_kustomization,
    seeming,
    seeming_of_object,
)
from moongate.sources.positions import position
from moongate.sources.suspicion import EVERYTHING, is_like_guard, may_guard
from moongate.sources.yaml_documents import Malformed, parsed_yaml

LONG = 100_000
"""A document with more characters is read in a thread, because that takes long."""

CONFIGURATION = Ref(EnvoyGateway.KIND, "", "", EnvoyGateway.GROUP)
"""The key of the EnvoyGateway configuration among resources; there is only one."""


class Entry(Struct, frozen=True, eq=False):
    """One resource of a document.

    Args:
        at: ``items[3]`` in a list, "" for the document itself.
        ref: the resource that this defines; None if it is none for moongate.
        resource: None if it has faults.
        named: the name to show.
        closed: put in force for a policy with faults that has no last good state, if without the policy more
            requests would pass, or be sent in the clear.
        scope: what this may concern that may be a policy about who may pass, but cannot be read: a namespace,
            or ``EVERYTHING``; None for all else.
        text: of this resource alone, for one in a list; "" for a Secret, and where it is the whole document.
    """

    at: str
    ref: Ref | None
    resource: Resource | EnvoyGateway | None = None
    problems: tuple[Problem, ...] = ()
    severity: Severity = "error"
    named: Ref | None = None
    closed: FaultySecurityPolicy | FaultyBackendTLSPolicy | None = None
    scope: str | None = None
    text: str = ""


class Document:
    """The content of a text, independent of its place in a file. Compared by identity."""

    def __init__(self, text: str, entries: tuple[Entry, ...], malformed: Malformed | None = None) -> None:
        self.text = text
        self.entries = entries
        self.malformed = malformed
        self.guards = malformed is not None and may_guard(text)
        """Whether it cannot be read, and may be a policy about who may pass."""
        faulty = [entry for entry in entries if entry.problems]
        self.faulty = malformed is not None or bool(faulty)
        self.broken = malformed is not None or any(
            entry.severity == "error" and entry.ref is None for entry in faulty
        )
        self._positions: dict[tuple[str, bool], tuple[int, int]] = {}

    def position(self, entry: Entry, problem: Problem) -> tuple[int, int]:
        """Line and column of a problem in the text."""
        path = problem.under(entry.at).path if entry.at else problem.path
        path = path.removesuffix(".")
        named = problem.message.startswith(("There is no field", "Of the key:"))
        place = self._positions.get((path, named))
        if place is None:
            place = self._positions[path, named] = position(self.text, path, key=named)
        return place


def read_document(text: str, is_json: bool, namespace: str) -> Document:
    """The content of a text. If reading it raises an error, that is a fault of this document alone."""
    try:
        document = _read(text, is_json, namespace)
        if len(text) > LONG:
            # Now, because this runs in a thread. The places of short documents are computed when needed.
            for entry in document.entries:
                for problem in entry.problems:
                    document.position(entry, problem)
        return document
    except Malformed as malformed:
        return Document(text, (), malformed)
    except Exception as error:  # noqa: BLE001 - a bug, which must not affect other documents
        failed = failure("read_document", (), error)
        message = f"moongate failed to read this document: {failed.error}. Please report failure {failed.id}."
        return Document(text, (), Malformed(message, 1, 1, failed.trace))


def _read(text: str, is_json: bool, namespace: str) -> Document:
    value = _value(text, is_json)
    if value is None:
        return Document(text, ())
    if isinstance(value, str) and (guess := seeming(text)) is not None:
        return Document(text, (_no_resource("", text, Problem("", guess.message)),))
    if not isinstance(value, dict):
        message = "A manifest is an object with apiVersion and kind"
        if isinstance(value, list):
            message = (
                f"The document is a list; {message[0].lower()}{message[1:]}. Put `---` between resources"
            )
        else:
            message = f"The document is {type_name(value)}; {message[0].lower()}{message[1:]}"
        return Document(text, (_no_resource("", text, Problem("", f"{message}.")),))
    document = cast("dict[str, Any]", value)
    if is_kustomization(document):
        return Document(text, (Entry("", None, None, (Problem("", KUSTOMIZATION, "Ignored"),), "warning"),))
    if (message := _mistake(text, document)) is not None:
        return Document(text, (_no_resource("", text, Problem("", message)),))
    return Document(text, tuple(entries(document, namespace)))


def _no_resource(at: str, text: str, problem: Problem) -> Entry:
    """The entry of what is no resource, which may have been meant as any."""
    return Entry(at, None, None, (problem,), scope=EVERYTHING if may_guard(text) else None)


def _mistake(text: str, document: dict[str, Any]) -> str | None:
    """What a document is that is no manifest."""
    if is_encrypted(document):
        return SOPS
    if isinstance(document.get("apiVersion"), str) and isinstance(document.get("kind"), str):
        return None
    guess = seeming(text)
    return guess.message if guess is not None else seeming_of_object(document)


_JSON = re.compile(r'\s*(?:\{\s*"|\[\s*[\[{"])')


def _value(text: str, is_json: bool) -> Any:
    if is_json:
        return parsed_json(text)
    try:
        return parsed_yaml(text)
    except Malformed:
        if _JSON.match(text):
            return parsed_json(text)  # which knows better what is wrong with it
        raise


def entries(document: dict[str, Any], namespace: str, at: str = "") -> Iterator[Entry]:
    """The resources of a document, which may be a list of them.

    Args:
        document: plain data.
        namespace: of resources that name none.
        at: where it is in the document that holds it.
    """
    items = items_of(document)
    if items is not None:
        for path, item in items:
            below = f"{at}.{path}" if at else path
            if isinstance(item, dict):
                yield from entries(cast("dict[str, Any]", item), namespace, below)
            elif item is not None:
                problem = Problem(
                    "", f"The entry is {type_name(item)}; it must be a resource, with apiVersion and kind."
                )
                yield _no_resource(below, str(item), problem)
        return
    for entry in _of_one(document, namespace, at):
        yield _with_scope(entry, document)


def _with_scope(entry: Entry, document: dict[str, Any]) -> Entry:
    if entry.resource is not None or entry.severity != "error" or entry.closed is not None:
        return entry
    kind = entry.named.kind if entry.named is not None else ""
    # A field a line, as most write it; an entry of a list has no text of its own.
    lines = (f"{key}: {'' if value is None else repr(value)}" for key, value in document.items())
    text = "\n".join(lines)
    if not (is_like_guard(kind, text) if kind else may_guard(text)):
        return entry
    # It may select in other namespaces.
    certain = entry.named is not None and "targetSelectors" not in text
    if any(problem.path == "metadata.namespace" for problem in entry.problems):
        certain = False
    scope = entry.named.namespace if entry.named is not None and certain else EVERYTHING
    return structs.replace(entry, scope=scope)


def _of_one(document: dict[str, Any], namespace: str, at: str) -> Iterator[Entry]:
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        yield Entry(at, None, None, admission.admit(document, KINDS, namespace=namespace).problems)
        return

    group = version.rpartition("/")[0]
    metadata = document.get("metadata")
    meta = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    name = meta.get("name")
    if isinstance(name, str) and "{{" in name:
        yield Entry(at, None, None, (Problem("metadata.name", HELM),))
        return
    model = KINDS.get((group, kind))
    within = "" if model is not None and model.CLUSTER_SCOPED else meta.get("namespace") or namespace
    named = (
        Ref(kind, within, name, group) if isinstance(name, str) and isinstance(within, str) and name else None
    )
    if model is not None:
        resource, problems = admission.admit(document, KINDS, namespace=namespace)
        closed = _closed(document, problems, namespace) if resource is None else None
        text = (
            msgspec.json.encode(document).decode() if at and not isinstance(resource, Secret | None) else ""
        )
        yield Entry(at, named, resource, problems, "error", named, closed, text=text)
        if resource is not None:
            yield from _without_effect(at, resource, named)
    elif (group, kind) == (EnvoyGateway.GROUP, EnvoyGateway.KIND):
        body = {key: value for key, value in document.items() if key != "metadata"}
        configuration, problems = admission.admit_configuration(body)
        text = msgspec.json.encode(document).decode() if at and configuration is not None else ""
        yield Entry(at, CONFIGURATION, configuration, problems, "error", named, text=text)
        if configuration is not None:
            yield from _without_effect(at, configuration, named)
    elif (group, kind) in UNBUILT_KINDS:
        problem = Problem("kind", unbuilt(kind), "Unsupported")
        yield Entry(at, None, None, (problem,), "warning", named)
    elif is_slip(group, kind):
        yield Entry(
            at, None, None, admission.admit(document, KINDS, namespace=namespace).problems, "error", named
        )
    elif any(kind == model for _, model in KINDS):
        problems = tuple(
            problem.saying("This resource has no effect.")
            for problem in admission.admit(document, KINDS, namespace=namespace).problems
        )
        yield Entry(at, None, None, problems, "warning", named)
    else:
        problem = Problem(
            "kind", f"moongate does not read the kind {kind} of {version}: it is ignored.", "Ignored"
        )
        yield Entry(at, None, None, (problem,), "info", named)


def _closed(
    document: dict[str, Any], faults: tuple[Problem, ...], namespace: str
) -> FaultySecurityPolicy | FaultyBackendTLSPolicy | None:
    """Stands for a SecurityPolicy or BackendTLSPolicy with faults, and closes its targets; None for others.

    Also None if the fault is in its targets, because it is then unknown what to close.
    """
    kind = next((k for k in (SecurityPolicy, BackendTLSPolicy) if document.get("kind") == k.KIND), None)
    if kind is None or not isinstance(document.get("spec"), dict):
        return None
    spec = cast("dict[str, Any]", document["spec"])
    kept = {name: spec[name] for name in ("targetRef", "targetRefs", "targetSelectors") if name in spec}
    if kind is BackendTLSPolicy:
        kept["validation"] = UNKNOWN_VALIDATION
    named = document | {"apiVersion": f"{kind.GROUP}/{kind.VERSIONS[0]}", "spec": kept}
    match admission.admit(named, KINDS, namespace=namespace).resource:
        case SecurityPolicy() as sound:
            return FaultySecurityPolicy(metadata=sound.metadata, spec=sound.spec, faults=faults)
        case BackendTLSPolicy() as sound:
            return FaultyBackendTLSPolicy(metadata=sound.metadata, spec=sound.spec, faults=faults)
        case _:
            return None


def _without_effect(at: str, model: Model, named: Ref | None) -> Iterator[Entry]:
    """A warning for fields that moongate does not support yet, so that no user relies on them."""
    if problems := tuple(marks.unbuilt(model)):
        yield Entry(at, None, None, problems, "warning", named)
