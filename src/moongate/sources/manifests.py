"""What the text of one document says: its resources, and what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, cast

from msgspec import Struct

from moongate.api import admission, marks
from moongate.api.base import Model, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.engine.failures import failure
from moongate.kinds import KINDS, OWN_GROUPS, UNBUILT_KINDS
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.problem import Problem
from moongate.sources.diagnostics import Severity
from moongate.sources.json_documents import parsed_json
from moongate.sources.positions import position
from moongate.sources.yaml_documents import Malformed, parsed_yaml

LONG = 100_000
"""Characters from which on a document takes so long to read that nobody should wait for it."""

CONFIGURATION = Ref(EnvoyGateway.KIND, "", "", EnvoyGateway.GROUP)
"""Stands for the configuration among resources; there can be one only."""


class Entry(Struct, frozen=True, eq=False):
    """One resource of a document, as it is written there.

    Args:
        at: ``items[3]`` in a list, "" for the document itself.
        ref: the resource whose state this decides; None for what is no resource to us.
        resource: None when there are faults.
        named: the name to show.
        closed: what is in force instead of a SecurityPolicy with faults that has no last good state.
    """

    at: str
    ref: Ref | None
    resource: Resource | EnvoyGateway | None = None
    problems: tuple[Problem, ...] = ()
    severity: Severity = "error"
    named: Ref | None = None
    closed: FaultySecurityPolicy | None = None


class Document:
    """What a text says, wherever it stands; compared by identity."""

    def __init__(self, text: str, entries: tuple[Entry, ...], malformed: Malformed | None = None) -> None:
        self.text = text
        self.entries = entries
        self.malformed = malformed
        faulty = [entry for entry in entries if entry.problems]
        self.faulty = malformed is not None or bool(faulty)
        self.broken = malformed is not None or any(
            entry.severity == "error" and entry.ref is None for entry in faulty
        )
        self._positions: dict[tuple[str, bool], tuple[int, int]] = {}

    def position(self, entry: Entry, problem: Problem) -> tuple[int, int]:
        """Line and column in the text."""
        path = problem.under(entry.at).path if entry.at else problem.path
        path = path.removesuffix(".")
        named = problem.message.startswith(("There is no field", "Of the key:"))
        place = self._positions.get((path, named))
        if place is None:
            place = self._positions[path, named] = position(self.text, path, key=named)
        return place


def read_document(text: str, is_json: bool, namespace: str) -> Document:
    """What a text says. Whatever reading it raises is a fault of this document alone."""
    try:
        document = _read(text, is_json, namespace)
        if len(text) > LONG:
            # While nobody waits for it; the places of others are worked out when they are asked for.
            for entry in document.entries:
                for problem in entry.problems:
                    document.position(entry, problem)
        return document
    except Malformed as malformed:
        return Document(text, (), malformed)
    except Exception as error:  # noqa: BLE001 - nobody foresaw it, and other documents must go on
        failed = failure("read_document", (), error)
        message = f"moongate failed to read this document: {failed.error}. Please report failure {failed.id}."
        return Document(text, (), Malformed(message, 1, 1, failed.trace))


def _read(text: str, is_json: bool, namespace: str) -> Document:
    value = parsed_json(text) if is_json else parsed_yaml(text)
    if value is None:
        return Document(text, ())
    if not isinstance(value, dict):
        message = "A manifest is an object with apiVersion and kind"
        if isinstance(value, list):
            message = (
                f"The document is a list; {message[0].lower()}{message[1:]}. Put `---` between resources"
            )
        else:
            message = f"The document is {_sort(value)}; {message[0].lower()}{message[1:]}"
        return Document(text, (Entry("", None, None, (Problem("", f"{message}."),)),))
    return Document(text, tuple(_entries(cast("dict[str, Any]", value), "", namespace)))


def _entries(document: dict[str, Any], at: str, namespace: str) -> Iterator[Entry]:
    version, kind = document.get("apiVersion"), document.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(cast("list[Any]", document["items"])):
            below = f"{at}.items[{number}]" if at else f"items[{number}]"
            if isinstance(item, dict):
                # The lists of one kind, as an API server sends them, do not repeat it in each item.
                inherited = {"apiVersion": version, "kind": kind[: -len("List")]} if kind != "List" else {}
                yield from _entries(inherited | cast("dict[str, Any]", item), below, namespace)
            elif item is not None:
                problem = Problem(
                    "", f"The entry is {_sort(item)}; it must be a resource, with apiVersion and kind."
                )
                yield Entry(below, None, None, (problem,))
        return
    if not isinstance(version, str) or not isinstance(kind, str):
        yield Entry(at, None, None, admission.admit(document, KINDS, namespace=namespace).problems)
        return

    group = version.rpartition("/")[0]
    metadata = document.get("metadata")
    meta = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    name = meta.get("name")
    known = KINDS.get((group, kind))
    within = "" if known is not None and known.CLUSTER_SCOPED else meta.get("namespace") or namespace
    named = (
        Ref(kind, within, name, group) if isinstance(name, str) and isinstance(within, str) and name else None
    )
    if known is not None:
        resource, problems = admission.admit(document, KINDS, namespace=namespace)
        closed = _closed(document, problems, namespace) if resource is None else None
        yield Entry(at, named, resource, problems, "error", named, closed)
        if resource is not None:
            yield from _without_effect(at, resource, named)
    elif (group, kind) == (EnvoyGateway.GROUP, EnvoyGateway.KIND):
        body = {key: value for key, value in document.items() if key != "metadata"}
        configuration, problems = admission.admit_configuration(body)
        yield Entry(at, CONFIGURATION, configuration, problems, "error", named)
        if configuration is not None:
            yield from _without_effect(at, configuration, named)
    elif (group, kind) in UNBUILT_KINDS:
        problem = Problem("kind", f"{kind} is not built yet: this resource has no effect.", "Unsupported")
        yield Entry(at, None, None, (problem,), "warning", named)
    elif group in OWN_GROUPS or _slip(group, kind):
        yield Entry(
            at, None, None, admission.admit(document, KINDS, namespace=namespace).problems, "error", named
        )
    elif any(kind == known for _, known in KINDS):
        yield Entry(
            at, None, None, admission.admit(document, KINDS, namespace=namespace).problems, "warning", named
        )
    else:
        problem = Problem(
            "kind", f"A gateway has no use for a {kind} of {version}: it is passed over.", "Ignored"
        )
        yield Entry(at, None, None, (problem,), "info", named)


def _closed(
    document: dict[str, Any], faults: tuple[Problem, ...], namespace: str
) -> FaultySecurityPolicy | None:
    """A stand-in for a SecurityPolicy with faults, so that they are not an open door; None for other kinds.

    Also None where the fault is in what it targets: nobody knows then what to close.
    """
    if document.get("kind") != SecurityPolicy.KIND or not isinstance(document.get("spec"), dict):
        return None
    spec = cast("dict[str, Any]", document["spec"])
    targets = {name: spec[name] for name in ("targetRef", "targetRefs", "targetSelectors") if name in spec}
    sound = admission.admit(document | {"spec": targets}, KINDS, namespace=namespace).resource
    if not isinstance(sound, SecurityPolicy):
        return None
    return FaultySecurityPolicy(metadata=sound.metadata, spec=sound.spec, faults=faults)


def _without_effect(at: str, model: Model, named: Ref | None) -> Iterator[Entry]:
    """What is set and known but not built yet: said, so that nobody relies on it."""
    if problems := tuple(map(marks.no_effect, marks.unbuilt(model))):
        yield Entry(at, None, None, problems, "warning", named)


def _slip(group: str, kind: str) -> bool:
    """Whether a kind of a group that others share with us is one of ours, misspelt."""
    ours = [known for held, known in KINDS if held == group]
    return bool(difflib.get_close_matches(kind, ours, n=1, cutoff=0.85))


def _sort(value: object) -> str:
    """What sort of value it is. A text that is no manifest may be a password, so no message quotes it."""
    match value:
        case None:
            return "empty"
        case list():
            return "a list"
        case dict():
            return "an object"
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case _:
            return "a number"
