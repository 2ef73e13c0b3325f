"""From a manifest to a typed resource or the list of its faults, with the same checks as an API server.

Theory of operation
===================
A document is processed in three walks. ``plans`` has our walks, and ``diagnostics`` their messages:

1. *filled*: nulls are removed and the defaults of the CRD added; the document itself is not changed.
2. ``msgspec.convert``, which is fast and strict, but stops at the first fault. Only when it finds one, a slow
   walk of our own (*faults*) finds them all.
3. *judged*: checks the CEL rules (``rules``), and that entries of lists differ where they must.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from moongate.api.base import Model, Ref, Resource
from moongate.api.diagnostics import did_you_mean, shown, type_name, veiled
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.plans import outdented, plan
from moongate.problem import Problem

MOST_FAULTS = 100
"""The most faults of one resource that are reported."""

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=Resource)


class Admission(NamedTuple):
    """The result for one document.

    ``resource`` is None exactly when there are problems.
    """

    resource: Resource | None
    problems: tuple[Problem, ...]


def admit(
    document: Mapping[str, Any],
    kinds: Mapping[tuple[str, str], type[Resource]],
    *,
    namespace: str,
    tolerant: bool = False,
) -> Admission:
    """The resource of a document, with the CRD's defaults, or all its faults.

    Args:
        document: a parsed manifest, of plain dictionaries and lists; it is not changed.
        kinds: (group, kind) → type of the resource.
        namespace: the namespace of an object of a namespaced kind that names none.
        tolerant: return the resource in addition to its faults, if its types allow it, because an object in a
            cluster may be older than the rule that it breaks.
    """
    if (fault := _no_text(document)) is not None:
        return Admission(None, (fault,))
    kind = _kind(document, kinds)
    if isinstance(kind, Problem):
        return Admission(None, (kind,))
    form = kind.STRICTER.get(str(document["apiVersion"]).rpartition("/")[2], kind)
    metadata, problems = _metadata(document.get("metadata"), kind, namespace)
    body = {key: value for key, value in document.items() if key not in {"apiVersion", "kind", "status"}}
    if kind.BUILT_IN and metadata.get("uid"):
        body = plan(kind).declared(body)  # An API server made this uid, and it keeps no unknown field.
    if problems:
        # The rest is checked too, so that a user sees all faults at once.
        sound = {"metadata": metadata | {"name": "unnamed", "namespace": "unnamed", "creationTimestamp": ""}}
        _, others = checked(form, kind.stored(body | sound), _veil(kind))
        return Admission(None, (*problems, *others))
    stored = kind.stored(body | {"metadata": metadata})
    value, faults = checked(form, stored, _veil(kind))
    if value is not None and (faults := _first(value.refused(body))):
        value = None
    if (value is None and tolerant) or (value is not None and form is not kind):
        value = _made(kind, stored)
    return Admission(value, faults)


def identity(document: Mapping[str, Any], kind: type[Resource], namespace: str) -> Ref:
    """The reference of a document of a kind; its name is "" if the document has none."""
    metadata = document.get("metadata")
    meta: dict[str, Any] = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    name, within = meta.get("name"), meta.get("namespace")
    return Ref.of(
        kind,
        "" if kind.CLUSTER_SCOPED else within if within and isinstance(within, str) else namespace,
        name if isinstance(name, str) else "",
    )


def admit_configuration(document: Mapping[str, Any]) -> tuple[EnvoyGateway | None, tuple[Problem, ...]]:
    """The configuration of a document, or all its faults."""
    if (fault := _no_text(document)) is not None:
        return None, (fault,)
    version = f"{EnvoyGateway.GROUP}/{EnvoyGateway.VERSION}"
    for key, right in (("apiVersion", version), ("kind", EnvoyGateway.KIND)):
        if document.get(key) != right:
            return None, (Problem(key, f"{key} is {shown(document.get(key))}; it must be {right!r}."),)
    return checked(EnvoyGateway, {k: v for k, v in document.items() if k not in {"apiVersion", "kind"}})


def checked(
    model: type[M], document: dict[str, Any], veil: Callable[[Any], Any] = lambda whole: whole
) -> tuple[M | None, tuple[Problem, ...]]:
    """An object of any model, with defaults, or all faults of the document.

    Args:
        model: what the document should be.
        document: it is not changed.
        veil: hides the values that no message may quote.
    """
    steps = plan(model)
    whole = steps.filled(document)
    try:
        value = msgspec.convert(whole, model)
    except msgspec.ValidationError as error:
        return None, _first(steps.faults(veil(whole))) or (Problem("", f"{error}."),)
    problems = steps.judged(whole)
    return (None, _first(problems)) if problems else (value, ())


def _first(faults: Iterable[Problem]) -> tuple[Problem, ...]:
    """The first faults, because a document can have one in every few bytes."""
    faults = iter(faults)
    named = tuple(itertools.islice(faults, MOST_FAULTS))
    more = next(faults, None)
    return named if more is None else (*named, Problem("", f"There are more than {MOST_FAULTS} faults."))


def _no_text(document: Mapping[str, Any]) -> Problem | None:
    """A string that is no text, if there is one: half of a surrogate pair, which JSON can write.

    No status, log or message to Envoy could hold it.
    """
    try:
        msgspec.json.encode(document)
    except UnicodeEncodeError:
        path = _path_of_no_text(document)
        return Problem(path, f"{path or 'The document'} holds half of a surrogate pair, which is no text.")
    except (TypeError, ValueError, RecursionError):
        pass  # whatever else cannot be written has a wrong type, and is reported as that
    return None


def _path_of_no_text(value: object) -> str:
    """Where the first string stands that is no text; the object, if it is one of its keys."""
    if isinstance(value, Mapping):
        below = [(str(key), entry) for key, entry in cast("Mapping[object, object]", value).items()]
        if not all(map(_is_text, (key for key, _ in below))):
            return ""
    elif isinstance(value, list | tuple):
        below = [(f"[{n}]", entry) for n, entry in enumerate(cast("Sequence[object]", value))]
    else:
        return ""
    for key, entry in below:
        if not _is_text(entry):
            return Problem(_path_of_no_text(entry), "").under(key).path
    return ""


def _is_text(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return False
    except (TypeError, ValueError, RecursionError):
        pass
    return True


def _veil(kind: type[Resource]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What veils the private values of a document of this kind: all, or those of its annotations.

    ``kubectl apply`` stores a whole manifest in an annotation, and other programs store tokens in theirs.
    """

    def veil(whole: dict[str, Any]) -> dict[str, Any]:
        if kind.PRIVATE:
            return cast("dict[str, Any]", veiled(whole))
        metadata: dict[str, Any] = whole["metadata"]
        return whole | {"metadata": metadata | {"annotations": veiled(metadata.get("annotations", {}))}}

    return veil


def _made(kind: type[R], document: dict[str, Any]) -> R | None:
    """The object, whatever its values are; ``None`` where not even their types are right.

    A rule may be younger than an object, a type is not: queries rely on it.
    """
    steps = plan(kind)
    try:
        made: R = steps.made(steps.filled(document))
    except (msgspec.ValidationError, TypeError, AttributeError):
        return None
    return made


def _kind(
    document: Mapping[str, Any], kinds: Mapping[tuple[str, str], type[Resource]]
) -> type[Resource] | Problem:
    version, name = document.get("apiVersion"), document.get("kind")
    for key, value in (("apiVersion", version), ("kind", name)):
        if not isinstance(value, str) or not value:
            return Problem(
                key, f"{key} is {shown(value)}; a manifest says what it is in apiVersion and kind."
            )
    assert isinstance(version, str)
    assert isinstance(name, str)
    group, _, number = version.rpartition("/")
    model = kinds.get((group, name))
    if model is None:
        groups = [g for g, k in kinds if k == name]
        if groups:
            right = " or ".join(sorted(map(repr, filter(None, groups))))
            what = f"group is {right}" if right else "apiVersion is 'v1'"
            return Problem("apiVersion", f"There is no kind {name} in {version!r}; its {what}.")
        meant = did_you_mean(name, [k for _, k in kinds])
        return Problem("kind", f"{name!r} of {version!r} is not a kind that is read here.{meant}")
    if number not in model.VERSIONS:
        right = " or ".join(repr(f"{group}/{v}" if group else v) for v in model.VERSIONS)
        return Problem("apiVersion", f"apiVersion of {name} is {version!r}; it must be {right}.")
    return model


_KEPT = ("uid", "labels", "annotations", "generation")
_OTHERS = (
    "clusterName",  # until Kubernetes 1.23
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "initializers",  # until Kubernetes 1.15
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",  # until Kubernetes 1.19
)
_DECLARED = frozenset((*_KEPT, *_OTHERS))
_IN_QUOTES = "write it in quotes"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def _metadata(metadata: object, kind: type[Resource], namespace: str) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(metadata, dict):
        what = type_name(metadata) if metadata is not None else "missing"
        return {}, [Problem("metadata", f"metadata is {what}; it must be an object with a name.")]
    meta = cast("dict[str, Any]", metadata)
    problems: list[Problem] = []
    kept: dict[str, Any] = {key: meta[key] for key in _KEPT if meta.get(key) is not None}
    if not meta.get("uid"):  # An API server, which makes uids, keeps no unknown field.
        problems += sorted(_undeclared(meta, kind), key=lambda problem: problem.path)

    kept["name"] = name = meta.get("name")
    form, longest = (_DNS_LABEL, 63) if kind.NAME_IS_LABEL else (_DNS_SUBDOMAIN, 253)
    plain = name if not isinstance(name, str) else name.replace(":", "" if kind.NAME_HAS_SIGNER else ":")
    if not isinstance(plain, str) or not form.match(plain) or len(plain) > longest:
        dots = "" if kind.NAME_IS_LABEL else ", '.'"
        right = (
            f"it must have 1 to {longest} characters of a-z, 0-9, '-'{dots}, beginning and ending with a "
            "letter or digit"
        )
        if name is None and meta.get("generateName"):
            right = "generateName makes one in a cluster alone, so give it a name here"
        elif isinstance(name, bool | int | float):
            right = _IN_QUOTES
        problems.append(Problem("metadata.name", f"The name is {shown(name)}; {right}."))

    # A namespace on an object that has none is what ``kubectl -n`` writes too: it means nothing.
    if not kind.CLUSTER_SCOPED:
        kept["namespace"] = where = meta.get("namespace") or namespace
        if not isinstance(where, str) or not _DNS_LABEL.match(where) or len(where) > 63:
            right = (
                "it must have 1 to 63 characters of a-z, 0-9, '-', beginning and ending with a letter or "
                "digit"
            )
            if isinstance(where, bool | int | float):
                right = _IN_QUOTES
            problems.append(Problem("metadata.namespace", f"The namespace is {shown(where)}; {right}."))

    labels = meta.get("labels")
    if isinstance(labels, dict):
        problems += _labels(cast("dict[str, Any]", labels), private=kind.PRIVATE)

    created = meta.get("creationTimestamp")
    if created in (None, ""):
        return kept, problems
    time = _utc(created)
    if time is not None:
        kept["creationTimestamp"] = time
    else:
        is_now = type_name(created) if kind.PRIVATE else shown(created)
        right = "it must be a time of RFC 3339, such as '2026-01-31T12:00:00Z'"
        problems.append(Problem("metadata.creationTimestamp", f"The value is {is_now}; {right}."))
    return kept, problems


def _undeclared(metadata: Mapping[str, Any], kind: type[Resource]) -> Iterator[Problem]:
    """A problem for each field that the metadata of no object has."""
    outside = plan(kind).fields
    for key in metadata.keys() - _DECLARED:
        meant = did_you_mean(str(key), (*_KEPT, *_OTHERS))
        if str(key) in outside:
            meant = outdented(str(key), "metadata")
        yield Problem(f"metadata.{key}", f"There is no field {str(key)!r} here.{meant}")


_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")


def _labels(labels: Mapping[str, Any], *, private: bool) -> Iterator[Problem]:
    """A problem for each label whose value is none for an API server; other types are found elsewhere."""
    for key, value in labels.items():
        if isinstance(value, str) and not _LABEL.match(value):
            what = "The value" if private else f"The value is {shown(value)}; it"
            right = "at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
            yield Problem(f"metadata.labels[{key}]", f"{what} must have {right}.")


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)


def _utc(time: object) -> str | None:
    """A time of RFC 3339 in the form of an API server, so that times sort as text; ``None`` if it is none."""
    try:
        if isinstance(time, str) and _TIME.match(time):
            time = datetime.fromisoformat(time)
        # YAML libraries make times of unquoted ones; those without an offset are in UTC.
        if not isinstance(time, datetime):
            return None
        utc = time if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{utc.replace(microsecond=0, tzinfo=None).isoformat()}Z"
