"""A real API server takes the definitions, and refuses what moongate refuses, for the same reason.

It is started for the test: see ``tests/api_servers.py`` for where its programs are looked for.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from moongate.api.plans import plan
from moongate.crds import DEFINITIONS, Definition, custom_resource_definition
from tests.api_servers import ApiServer, api_server
from tests.parity.test_ratchet import SCRIPT
from tests.test_crds import (
    GATEWAY,
    POLICIES,
    broken,
    of_the_reference,
    problems,
    resource,
    rules,
    schema_within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

CASES = SCRIPT.with_name("cases")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that knows the kinds by our definitions."""
    with api_server(tmp_path_factory.mktemp("kubernetes")) as server:
        for definition in DEFINITIONS:
            server.define(custom_resource_definition(definition))
        yield server


@pytest.fixture(params=DEFINITIONS, ids=lambda definition: definition.kind.KIND)
def definition(request: pytest.FixtureRequest) -> Definition:
    return request.param


def of_the_cases(definition: Definition) -> list[dict[str, Any]]:
    """The specs of a kind that Envoy Gateway's own cases have, each once."""
    if not CASES.exists():
        pytest.skip("the parity cases are not beside the checkout")
    specs = {
        json.dumps(document["spec"], sort_keys=True)
        for path in sorted(CASES.glob("*.json"))
        for document in json.loads(path.read_bytes())["documents"]
        if document.get("kind") == definition.kind.KIND
    }
    return [resource(definition, json.loads(spec)) for spec in sorted(specs)]


def test_a_broken_rule_is_refused_with_the_same_words(server: ApiServer, definition: Definition) -> None:
    crd = custom_resource_definition(definition)
    messages = {message for _, message in rules(definition)}
    wrong: list[object] = []
    for document in broken(definition):
        ours = {m for problem in problems(document) for m in messages if problem.message.startswith(m)}
        code, answer = server.answer(crd, document)
        causes = " ".join(cause["message"] for cause in answer.get("details", {}).get("causes", ()))
        if code != 422 or not ours or not all(message in causes for message in ours):
            wrong.append((document["spec"], code, answer.get("message"), ours))

    assert wrong == []


def test_the_resources_of_envoy_gateways_cases_are_taken_as_here(
    server: ApiServer, definition: Definition
) -> None:
    crd = custom_resource_definition(definition)
    documents = of_the_cases(definition)
    taken = [server.answer(crd, document) for document in documents]

    assert len(documents) > (50 if definition in POLICIES.values() else 5)
    for document, (code, answer) in zip(documents, taken, strict=True):
        assert (code == 201) == (not problems(document)), (document, answer)
        if code == 201:
            assert answer["spec"] == plan(definition.kind).filled(document)["spec"], "defaults"


@pytest.mark.parametrize("definition", POLICIES.values(), ids=POLICIES)
def test_a_status_is_what_controllers_write(server: ApiServer, definition: Definition) -> None:
    crd = custom_resource_definition(definition)
    document = resource(definition, {"targetRefs": [GATEWAY]})
    condition: dict[str, Any] = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
        "observedGeneration": 1,
    }
    ancestor: dict[str, Any] = {
        "ancestorRef": {"name": "web", "sectionName": "http"},
        "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
        "conditions": [condition],
    }

    code, stored = server.put_status(crd, document, {"ancestors": [ancestor]})
    assert code == 200
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    (written,) = stored["status"]["ancestors"]
    assert written == ancestor | {"ancestorRef": gateway | {"name": "web", "sectionName": "http"}}

    for wrong in ({"status": "true"}, {"lastTransitionTime": "today"}, {"observedGeneration": -1}):
        bad = ancestor | {"conditions": [condition | wrong]}
        assert server.put_status(crd, document, {"ancestors": [bad]})[0] == 422
    twice = ancestor | {"conditions": [condition, condition]}
    assert server.put_status(crd, document, {"ancestors": [twice]})[0] == 422


STRANGE: tuple[Any, ...] = (
    *(None, "", "x", "1s", "0s", "5Gi", "/", "a.b", "1.2.3.4", "x y", "x" * 5000),
    *(0, -1, 1, 101, 2**16, 2**31, 2**32, 2**63 - 1, 1.5, True, False),
    *([], [{}], ["x"], ["x", "x"], {}, {"x": 1}, {"x": "y"}),
)
"""What is put in the place of every value that a resource has."""


def variants(value: Any, node: dict[str, Any], path: str, seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Each variant of a value with one part of it changed, and what was changed.

    Args:
        value: as a resource has it.
        node: the schema of the value.
        path: where it stands, ``[]`` for an entry.
        seen: paths whose values were changed already, in another resource.
    """
    is_new = path not in seen
    seen.add(path)
    if is_new:
        for other in (*STRANGE, *_at_the_limits(node), *node.get("enum", ())):
            yield f"{path} {type(other).__name__} {str(other)[:40]!r}", other
    match value:
        case dict():
            entries = cast("dict[str, Any]", value)
            if is_new:
                yield f"{path} has one more", {**entries, "noSuchField": 1}
                for name in entries:
                    yield f"{path} lacks {name}", {key: entries[key] for key in entries if key != name}
            for name, entry in entries.items():
                below = node.get("properties", {}).get(name) or node.get("additionalProperties", {})
                for what, other in variants(entry, below, f"{path}.{name}", seen):
                    yield what, {**entries, name: other}
        case list():
            items = cast("list[Any]", value)
            if is_new:
                yield f"{path} twice", items * 2
                yield f"{path} more than there may be", items[:1] * (node.get("maxItems", 1) + 1)
            for index, entry in enumerate(items):
                for what, other in variants(entry, node.get("items", {}), f"{path}[]", seen):
                    yield what, [*items[:index], other, *items[index + 1 :]]
        case _:
            pass


def _at_the_limits(node: dict[str, Any]) -> Iterator[int | str]:
    for step in (-1, 0, 1):
        yield from (node[key] + step for key in ("minimum", "maximum") if key in node)
        yield from ("x" * (node[key] + step) for key in ("minLength", "maxLength") if key in node)


def changed(definition: Definition) -> Iterator[tuple[str, dict[str, Any]]]:
    """Thousands of resources with one odd value, each with what is odd."""
    spec = schema_within(custom_resource_definition(definition))["properties"]["spec"]
    seen: set[str] = set()
    for document in (*of_the_cases(definition), *broken(definition)):
        for what, other in variants(document["spec"], spec, "spec", seen):
            yield what, resource(definition, other)


def test_what_is_changed_anywhere_is_taken_or_refused_as_here(
    server: ApiServer, definition: Definition
) -> None:
    """Types, limits, patterns, enums, unknown fields, keys of lists: there is no second judgement."""
    crd = custom_resource_definition(definition)
    tried = 0
    differing: list[object] = []
    for what, document in changed(definition):
        code, answer = server.answer(crd, document)
        ours = problems(document)
        tried += 1
        if (code == 201) == bool(ours):
            differing.append((what, code, answer.get("message"), ours))

    assert tried > 300
    assert differing == []


STRICTER = ("spec.mergeType str", "spec.routingType str", "spec.targetSelectors[].kind str")
"""What is refused here and not by the definitions of Envoy Gateway, as ``MEANT`` of the comparison has it."""


def test_what_the_definition_of_envoy_gateway_takes_is_taken(
    server: ApiServer, definition: Definition
) -> None:
    """Its definition is served beside ours, in another group."""
    theirs = copy.deepcopy(of_the_reference(definition))
    theirs["spec"]["group"] = "reference.test"
    theirs["metadata"]["name"] = f"{definition.plural}.reference.test"
    server.define(theirs)
    (version,) = definition.kind.VERSIONS
    refused = [
        (what, problems(document))
        for what, document in changed(definition)
        if problems(document)
        and not what.startswith(STRICTER)
        and server.answer(theirs, document | {"apiVersion": f"reference.test/{version}"})[0] == 201
    ]

    assert refused == []
