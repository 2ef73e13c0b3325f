"""Literate cases: a Markdown page is a test suite, its fenced blocks are the data.

Theory of operation
===================
Each ``##`` section of a page with such blocks is one case. Its ``yaml input`` blocks are laid on the prelude:
an object that is there already is replaced. Every other block, ``yaml WHAT PATH``, must equal that part of
the result; nothing else is compared, so that a page stays short and survives.

Facts
-----
* WHAT is ``listeners``, ``routes``, ``clusters``, ``endpoints`` or ``secrets``, as protobuf's JSON has them;
  or ``status``; or ``problems``, a list of ``{resource, path, message}``
* PATH is names with dots, and ``[...]`` for a key with dots, or for an entry of a list: its index, or its
  ``name``, which stays true when other features put entries before it; what is not there is ``null``
* where there are several resources, PATH begins with the one that is meant: ``[default/gateway/http]``, and
  for a status ``[HTTPRoute/shop]``; what each Gateway has of its own (readiness, local cluster) is left out
* ``pytest --accept`` rewrites the blocks that differ; then read the diff as you would read code
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml
from google.protobuf.json_format import MessageToDict
from msgspec import Struct

from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

TESTS = Path(__file__).parent
PRELUDE = TESTS / "cases" / "prelude.yaml"
PAGES = sorted(
    [*(TESTS.parent / "src" / "moongate" / "features").glob("*.md"), *(TESTS / "cases").glob("*.md")]
)

XDS = {"listeners": LISTENER, "routes": ROUTE, "clusters": CLUSTER, "endpoints": ENDPOINT, "secrets": SECRET}
WHAT = frozenset({"input", "status", "problems", *XDS})

Document = dict[str, Any]

_BLOCK = re.compile(r"^```yaml (?P<what>\w+) ?(?P<path>\S*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"\.?(?:\[(?P<key>[^]]+)\]|(?P<name>[^.\[]+))")


class Expected(Struct, frozen=True):
    """One block: a part of the result, and where in its page it stands."""

    page: Path
    what: str
    path: str
    body: str
    span: tuple[int, int]

    @property
    def value(self) -> Any:
        """What the block says; ``...``, which nothing equals, when it says nothing."""
        return yaml.load(self.body, yaml.CSafeLoader) if self.body.strip() else ...


class Case(Struct, frozen=True):
    """One section of a page."""

    page: Path
    title: str
    inputs: str
    expected: tuple[Expected, ...]

    @property
    def id(self) -> str:
        return f"{self.page.stem}: {self.title}"

    def documents(self) -> list[Document]:
        """The prelude with the case's inputs laid on it."""
        documents = [*_prelude(), *yaml.load_all(self.inputs, yaml.CSafeLoader)]
        return list({_identity(document): document for document in documents if document}.values())


@cache
def _prelude() -> list[Document]:
    return list(yaml.load_all(PRELUDE.read_text("utf-8"), yaml.CSafeLoader))


def read(page: Path) -> Iterator[Case]:
    """The cases of one page, in its order."""
    text = page.read_text("utf-8")
    starts = [section.start() for section in re.finditer(r"^## ", text, re.MULTILINE)] + [len(text)]
    for start, end in itertools.pairwise(starts):
        title = text[start + len("## ") : text.index("\n", start)]
        blocks = list(_BLOCK.finditer(text, start, end))
        for block in blocks:
            assert block["what"] in WHAT, f"{page.name}, {title!r}: there is no {block['what']!r} to look at"
        if blocks:
            yield Case(
                page,
                title,
                "---\n".join(block["body"] for block in blocks if block["what"] == "input"),
                tuple(
                    Expected(page, block["what"], block["path"], block["body"], block.span("body"))
                    for block in blocks
                    if block["what"] != "input"
                ),
            )


def select(result: Any, what: str, path: str) -> Any:
    """The part of a translation that a block is about, as plain data; ``None`` when it is not there."""
    parts = [part["key"] or part["name"] for part in _PART.finditer(path)]
    if what == "problems":
        return walk(_problems(result), parts)
    resources = _statuses(result.status) if what == "status" else _resources(result.xds, XDS[what])
    if parts and parts[0] in resources:
        return walk(resources[parts[0]], parts[1:])
    if len(resources) == 1:
        return walk(next(iter(resources.values())), parts)
    assert not resources, f"the path must begin with one of {sorted(resources)} in brackets"
    return None


def walk(value: Any, parts: Iterable[str]) -> Any:
    """What lies at the end of a path; ``None`` when it is not there."""
    for part in parts:
        if isinstance(value, list):
            value = _entry(cast("list[Any]", value), part)
        elif isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(part)
        else:
            return None
    return value


def _entry(entries: list[Any], part: str) -> Any:
    if part.isdigit():
        return entries[int(part)] if int(part) < len(entries) else None
    named = (cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict))
    return next((entry for entry in named if entry.get("name") == part), None)


def dump(value: Any) -> str:
    """The text of a block."""
    # Through JSON: protobuf has mappings of its own, which YAML does not write.
    plain = msgspec.json.decode(msgspec.json.encode(value))
    return yaml.safe_dump(plain, default_flow_style=None, sort_keys=False, width=100).removesuffix("...\n")


def rewrite(changes: Iterable[tuple[Expected, Any]]) -> None:
    """Puts actual values in the place of blocks, from the end of each page, so that places stay true."""
    for expected, actual in sorted(changes, key=lambda change: change[0].span, reverse=True):
        text = expected.page.read_text("utf-8")
        start, end = expected.span
        expected.page.write_text(text[:start] + dump(actual) + text[end:], "utf-8")


def _identity(document: Document) -> tuple[str, str, str, str]:
    metadata = document["metadata"]
    group = document["apiVersion"].rpartition("/")[0]
    return (group, document["kind"], metadata.get("namespace", "default"), metadata["name"])


def _resources(xds: Mapping[str, Mapping[str, Mapping[str, Any]]], type_url: str) -> dict[str, Any]:
    return {
        name: MessageToDict(message)
        for fleet, types in xds.items()
        for name, message in types.get(type_url, {}).items()
        if name != fleet and not name.startswith("envoy-gateway-proxy-ready")
    }


def _statuses(status: Iterable[Document]) -> dict[str, Any]:
    # As JSON has it: what is a tuple to us is a list on a page.
    documents: list[Document] = msgspec.json.decode(msgspec.json.encode(list(status)))
    return {f"{d['kind']}/{d['metadata']['name']}": d.get("status", {}) for d in documents}


def _problems(result: Any) -> list[Document]:
    return [
        {"resource": str(ref), "path": problem.path, "message": problem.message}
        for ref, problem in result.problems
    ]
