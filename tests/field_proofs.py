"""Which test sees the effect of each field of a policy, and of which fields nothing can be seen from outside.

A test of tests/e2e says what it sees by the mark ``proves(kind, *fields)``. A field is a path below ``spec``,
with ``[]`` behind what there may be several of (``headers.add[].name``), down to what has no fields of its
own; ``path.*`` stands for all of those below a path. What can be seen by no client and no backend stands in
``UNSEEN``, with the reason and what checks that, or the xDS that is sent.

Nothing is imported for that: the marks are read from the source.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

import msgspec
from msgspec import structs

from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from tests import field_proofs_btp, field_proofs_ctp

ROOT: Final = Path(__file__).resolve().parent.parent
MARK: Final = "pytest.mark.proves"
KINDS: Final[Mapping[str, Any]] = {kind.KIND: kind for kind in (ClientTrafficPolicy, BackendTrafficPolicy)}
UNSEEN: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    ClientTrafficPolicy.KIND: field_proofs_ctp.UNSEEN,
    BackendTrafficPolicy.KIND: field_proofs_btp.UNSEEN,
}
"""Kind → field → why nothing of it can be seen, and what checks that: ``FILE::TEST`` or a page."""


class Mark(NamedTuple):
    """What one test says that it sees.

    Args:
        test: its file, from the root of the project, and its name, with ``::`` between them.
        kind: of the policy.
        fields: the paths as they are written.
    """

    test: str
    kind: str
    fields: tuple[str, ...]


def fields(kind: str) -> tuple[str, ...]:
    """The fields of a kind of policy, in the order of the model."""
    spec = next(field.type for field in structs.fields(KINDS[kind]) if field.name == "spec")
    return tuple(_fields(spec, ""))


def proofs(kind: str) -> dict[str, list[str]]:
    """Field → the tests that see its effect."""
    seen: dict[str, list[str]] = defaultdict(list)
    for mark in marks():
        if mark.kind == kind:
            for path in (path for written in mark.fields for path in _meant(kind, written)):
                seen[path].append(mark.test)
    return seen


def unseen(kind: str) -> dict[str, tuple[str, str]]:
    """Field → why nothing of it can be seen, and what checks that."""
    return {path: why for written, why in UNSEEN[kind].items() for path in _meant(kind, written)}


def faults(kind: str) -> Iterator[str]:
    """What is missing or wrong in marks and reasons."""
    seen, reasons = proofs(kind), unseen(kind)
    for path in fields(kind):
        if path not in seen and path not in reasons:
            yield f"{path}: no test sees it, and no reason says why"
        if path in seen and path in reasons:
            yield f"{path}: {seen[path][0]} sees it, and yet a reason says that nothing can be seen"
    for mark in marks():
        if mark.kind not in KINDS:
            yield f"{mark.test}: there is no kind {mark.kind!r}"
        elif mark.kind == kind:
            for written in mark.fields:
                if not _meant(kind, written):
                    yield f"{mark.test}: {kind} has no field {written}"
    for written, (_, test) in UNSEEN[kind].items():
        if not _meant(kind, written):
            yield f"{written}: {kind} has no such field"
        file, _, name = test.partition("::")
        if not (ROOT / file).is_file() or (name and name not in {each.name for each in _tests(ROOT / file)}):
            yield f"{written}: there is no {test}"


@cache
def marks() -> tuple[Mark, ...]:
    """The marks of all tests against a real Envoy."""
    return tuple(
        mark for path in sorted((ROOT / "tests" / "e2e").glob("test_*.py")) for mark in marks_in(path)
    )


def marks_in(path: Path) -> Iterator[Mark]:
    """The marks of the tests in a file.

    Raises:
        ValueError: an argument of a mark is not written out.
    """
    for test in _tests(path):
        for decorator in test.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == MARK:
                kind, *paths = map(ast.literal_eval, decorator.args)
                at = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
                yield Mark(f"{at}::{test.name}", kind, tuple(paths))


@cache
def _tests(path: Path) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
    body = ast.parse(path.read_text("utf-8")).body if path.suffix == ".py" else ()
    return tuple(node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _meant(kind: str, written: str) -> tuple[str, ...]:
    """The fields for which a path stands; none if there are no such fields."""
    return _by_path(kind).get(written, ())


@cache
def _by_path(kind: str) -> dict[str, tuple[str, ...]]:
    paths: dict[str, tuple[str, ...]] = {}
    for field in fields(kind):
        paths[field] = (field,)
        steps = field.split(".")
        for n in range(1, len(steps)):
            above = f"{'.'.join(steps[:n])}.*"
            paths[above] = (*paths.get(above, ()), field)
    return paths


def _fields(model: Any, above: str) -> Iterator[str]:
    for field in structs.fields(model):
        path = f"{above}{field.encode_name}"
        below = [
            each
            for struct, many in _structs(field.type)
            for each in _fields(struct, f"{path}{'[]' if many else ''}.")
        ]
        yield from below or (path,)


def _structs(annotation: Any, *, many: bool = False) -> Iterator[tuple[Any, bool]]:
    """The Structs in a type, each with whether there may be several."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation, many
        return
    for inner in get_args(annotation):
        yield from _structs(inner, many=many or get_origin(annotation) in (tuple, dict))
