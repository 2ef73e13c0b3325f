"""The CustomResourceDefinitions that are made from the models say what those of Envoy Gateway say."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import yaml
from msgspec import Meta

from moongate.api.admission import admit
from moongate.api.base import Model
from moongate.api.cluster_settings import (
    BackendConnection,
    ConsistentHash,
    Cookie,
    EndpointOverride,
    LoadBalancer,
    OutOfBandReporting,
    ZoneAware,
)
from moongate.api.health_checks import HealthCheckPayload
from moongate.api.shared import LabelSelector
from moongate.attach.policies import Policy
from moongate.crds import DEFINITIONS, Definition, custom_resource_definition
from moongate.features.response_override import ResponseHeaderMatch
from moongate.kinds import KINDS
from tests.api.crds import CRDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.problem import Problem

POLICIES = {each.kind.KIND: each for each in DEFINITIONS if issubclass(each.kind, Policy)}
BACKENDS, CLIENTS = POLICIES["BackendTrafficPolicy"], POLICIES["ClientTrafficPolicy"]
QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|"
    r"([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
SIZE = r"^[1-9]+[0-9]*([EPTGMK]i|[EPTGMk])?$"
"""Each size is a quantity, so this pattern says all."""
RANGES = {"int32": 2**31, "int64": 2**63}


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """All that a schema says, one fact at a time: ``path what``, and the value.

    What is said in two ways has one form here. A keyword that is not known here is an error, so that none is
    passed over.
    """
    left = dict(node)
    left.pop("description", None)
    formed = left.pop("format", None)
    if node.get("type") == "integer" and formed is None:
        formed = "int64"  # an API server has no larger ones
    any_of, int_or_string = left.pop("anyOf", None), left.pop("x-kubernetes-int-or-string", None)
    if int_or_string:
        assert any_of == [{"type": "integer"}, {"type": "string"}], path
    else:
        assert any_of is None, path
    yield f"{path} type", "int or string" if int_or_string else left.pop("type", None)

    parts = [left.pop("allOf", []), [{key: left.pop(key) for key in ("enum", "pattern") if key in left}]]
    enums: list[set[Any]] = []
    patterns: set[str] = set()
    for part in (part for among in parts for part in among):
        assert part.keys() <= {"enum", "pattern"}, path
        enums += [set(part["enum"])] if "enum" in part else []
        patterns |= {part["pattern"]} if "pattern" in part else set()
    if enums:
        yield f"{path} enum", sorted(enums[0].intersection(*enums))
    for pattern in sorted(patterns - ({QUANTITY} if SIZE in patterns else set())):
        yield f"{path} pattern {pattern}", True

    beyond = RANGES.get(formed)
    if beyond is not None:
        # An API server holds to the range of a format too.
        yield f"{path} minimum", max(left.pop("minimum", -beyond), -beyond)
        yield f"{path} maximum", min(left.pop("maximum", beyond - 1), beyond - 1)
    elif formed is not None:
        yield f"{path} format", formed
    for key in ("minimum", "maximum", "maxLength", "maxItems", "maxProperties", "default"):
        if key in left:
            yield f"{path} {key}", left.pop(key)
    for key in ("minLength", "minItems", "minProperties"):
        if limit := left.pop(key, 0):
            yield f"{path} {key}", limit
    yield f"{path} list type", left.pop("x-kubernetes-list-type", "atomic")
    yield f"{path} list keys", left.pop("x-kubernetes-list-map-keys", None)
    yield f"{path} map type", left.pop("x-kubernetes-map-type", "granular")
    yield f"{path} preserves", left.pop("x-kubernetes-preserve-unknown-fields", False)
    for rule in left.pop("x-kubernetes-validations", ()):
        assert rule.keys() == {"message", "rule"}, path
        yield f"{path} rule {' '.join(rule['rule'].split())}", True

    properties = left.pop("properties", {})
    yield f"{path} properties", sorted(properties)
    for name in left.pop("required", ()):
        assert name in properties, path
        if "default" not in properties[name]:  # with one, the field is never missing
            yield f"{path}.{name} required", True
    for name, below in properties.items():
        yield from leaves(below, f"{path}.{name}")
    for key, form in (("items", "[]"), ("additionalProperties", "{}")):
        if key in left:
            yield from leaves(left.pop(key), f"{path}{form}")
    assert left == {}, f"{path} has keywords that this test does not know"


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each leaf that is not the same: what theirs says, and what ours; ``None`` where one says nothing."""
    here, there = dict(leaves(ours)), dict(leaves(theirs))
    return {
        leaf: (there.get(leaf), here.get(leaf))
        for leaf in sorted(here.keys() | there.keys())
        if there.get(leaf) != here.get(leaf)
    }


# --- against the reference ------------------------------------------------------------------------

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "BackendTrafficPolicy": {
        ".spec.circuitBreaker.maxConnections": 1024,
        ".spec.circuitBreaker.maxParallelRequests": 1024,
        ".spec.circuitBreaker.maxParallelRetries": 1024,
        ".spec.circuitBreaker.maxPendingRequests": 1024,
        ".spec.circuitBreaker.perEndpoint.maxConnections": 1024,
        ".spec.faultInjection.abort.percentage": 100,
        ".spec.faultInjection.delay.percentage": 100,
        ".spec.healthCheck.active.healthyThreshold": 1,
        ".spec.healthCheck.active.interval": "3s",
        ".spec.healthCheck.active.timeout": "1s",
        ".spec.healthCheck.active.unhealthyThreshold": 3,
        ".spec.healthCheck.passive.alwaysEjectOneEndpoint": False,
        ".spec.healthCheck.passive.baseEjectionTime": "30s",
        ".spec.healthCheck.passive.consecutive5XxErrors": 5,
        ".spec.healthCheck.passive.consecutiveLocalOriginFailures": 5,
        ".spec.healthCheck.passive.interval": "3s",
        ".spec.healthCheck.passive.maxEjectionPercent": 10,
        ".spec.healthCheck.passive.splitExternalLocalOriginErrors": False,
        ".spec.loadBalancer.backendUtilization.keepResponseHeaders": False,
        ".spec.loadBalancer.consistentHash.tableSize": 65537,
        ".spec.responseOverride[].redirect.statusCode": 302,
        ".spec.retry.numRetries": 2,
    },
    "ClientTrafficPolicy": {".spec.connection.maxAcceptPerSocketEvent": 1},
}
"""Defaults of the reference for which the models have ``None``: what an API server fills in looks as if the
policy set it, and would replace in a merge what the policy above it sets."""

SELECTED = ".spec rule has(self.targetSelectors) ? self.targetSelectors.all(sel, sel.kind in ["
MEANT: Mapping[str, Mapping[str, str]] = {
    "Backend": {
        ".spec.endpoints[].ip.address pattern ": "that of the reference refuses '::1', takes 01.2.3.4",
    },
    "BackendTrafficPolicy": {
        SELECTED: "a selector of another kind selects nothing, in silence",
        ".spec.mergeType enum": "the reference's code knows these alone",
        ".spec.routingType enum": "the reference's code knows these alone",
    },
    "ClientTrafficPolicy": {
        SELECTED: "a selector of another kind selects nothing, in silence",
        ".spec.mergeType": "as the other policies have it",
        ".spec rule !has(self.mergeType) || ": "nothing is above a whole Gateway",
        ".spec properties": "mergeType is one more",
    },
    "EnvoyPatchPolicy": {},
    "HTTPRouteFilter": {
        ".spec.directResponse.header.add[].value pattern ": "as in a header filter of the Gateway API",
        ".spec.directResponse.header.set[].value pattern ": "as in a header filter of the Gateway API",
        ".spec.matches[] minProperties": "a rule says so, with a message",
        ".spec.matches[] rule has(self.cookies)": "instead of minProperties",
    },
}
"""Other leaves that differ (their beginnings), each with its reason."""


@pytest.fixture(params=DEFINITIONS, ids=lambda definition: definition.kind.KIND)
def definition(request: pytest.FixtureRequest) -> Definition:
    return request.param


@functools.cache
def of_the_reference(definition: Definition) -> dict[str, Any]:
    path = CRDS / f"envoy-gateway/{definition.plural}.gateway.envoyproxy.io.yaml"
    if not path.exists():
        pytest.skip(f"the CRDs are not beside the checkout: there is no {path.name}")
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def schema_within(crd: dict[str, Any]) -> dict[str, Any]:
    (version,) = crd["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def unexplained(definition: Definition) -> list[str]:
    """What is not the same and has no reason, and the reasons that are for nothing any more."""
    leaves = differences(
        schema_within(of_the_reference(definition)), schema_within(custom_resource_definition(definition))
    )
    kind = definition.kind.KIND
    excused = {f"{path} default": (default, None) for path, default in DEFAULTS.get(kind, {}).items()}
    lines = [
        f"{leaf}: {theirs!r} in the reference, {ours!r} here"
        for leaf, (theirs, ours) in leaves.items()
        if excused.get(leaf) != (theirs, ours) and not leaf.startswith(tuple(MEANT[kind]))
    ]
    unused = [reason for reason in MEANT[kind] if not any(leaf.startswith(reason) for leaf in leaves)]
    return lines + [f"{leaf}: there is no such difference" for leaf in (*(excused - leaves.keys()), *unused)]


def test_a_schema_is_that_of_the_reference_leaf_by_leaf(definition: Definition) -> None:
    """Types, limits, patterns, enums, defaults, required fields, keys of lists, and rules."""
    assert unexplained(definition) == []


def test_nothing_of_the_reference_is_missing(definition: Definition) -> None:
    """A field that is ours may be one more, and never one less."""
    theirs, ours = (
        {leaf.partition(" ")[0] for leaf, _ in leaves(schema_within(crd))}
        for crd in (of_the_reference(definition), custom_resource_definition(definition))
    )

    assert theirs <= ours


def test_all_around_the_schema_is_that_of_the_reference(definition: Definition) -> None:
    """Names, short names, categories, scope, versions, printer columns and the subresource for the status."""
    assert _around(custom_resource_definition(definition)) == _around(of_the_reference(definition))


def _around(crd: dict[str, Any]) -> dict[str, Any]:
    versions = [
        {key: value for key, value in version.items() if key != "schema"}
        for version in crd["spec"]["versions"]
    ]
    return crd | {"spec": crd["spec"] | {"versions": versions}}


def test_a_default_that_an_api_server_does_not_fill_in_is_told(definition: Definition) -> None:
    """Who reads ``kubectl explain`` still learns what holds."""
    schema = schema_within(custom_resource_definition(definition))

    for path, default in DEFAULTS.get(definition.kind.KIND, {}).items():
        node = schema
        for name in path.removeprefix(".").replace("[]", ".[]").split("."):
            node = node["items"] if name == "[]" else node["properties"][name]
        in_words = {False: "by default not", 100: "all of them when absent"}
        assert re.search(in_words.get(default, rf"\b{default} when absent"), node["description"]), path


# --- losing something is seen ---------------------------------------------------------------------


class WithoutDefault(Model, frozen=True, kw_only=True):
    """``StringMatch`` whose type has no default any more."""

    type: Literal["Exact", "Prefix", "Suffix", "RegularExpression"]
    value: Annotated[str, Meta(min_length=1, max_length=1024)]


LOSSES: list[tuple[type[Model], str, object, str]] = [
    (LoadBalancer, "type", "Literal['Random']", "loadBalancer.type enum"),
    (LoadBalancer, "slow_start", "Any", "loadBalancer.slowStart preserves"),
    (Cookie, "ttl", "str | None", "loadBalancer.consistentHash.cookie.ttl pattern "),
    (ConsistentHash, "table_size", "Annotated[int, Meta(ge=2)]", "consistentHash.tableSize maximum"),
    (ZoneAware, "weighted_zones", "tuple[WeightedZone, ...]", "zoneAware.weightedZones list keys"),
    (EndpointOverride, "extract_from", "tuple[EndpointOverrideExtractFrom, ...]", "extractFrom maxItems"),
    (BackendConnection, "buffer_limit", "int", "connection.bufferLimit type"),
    (HealthCheckPayload, "binary", "str", "expectedResponse.binary format"),
    (ResponseHeaderMatch, "value", WithoutDefault, "responseHeaders[].value.type default"),
    (LabelSelector, "match_labels", "dict[str, bool]", "namespaces.selector.matchLabels{} type"),
]
"""A class, its field, the new annotation of that, and the leaf that is lost."""


@pytest.mark.parametrize(
    ("cls", "field", "annotation", "leaf"), LOSSES, ids=[f"{case[0].__name__}.{case[1]}" for case in LOSSES]
)
def test_what_a_field_loses_is_seen(
    monkeypatch: pytest.MonkeyPatch, cls: type[Model], field: str, annotation: object, leaf: str
) -> None:
    assert field in cls.__annotations__
    monkeypatch.setitem(cls.__annotations__, field, annotation)

    assert [line for line in unexplained(BACKENDS) if leaf in line]


@pytest.mark.parametrize("number", range(len(LoadBalancer.RULES)))
def test_a_rule_of_an_object_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    rules = LoadBalancer.RULES
    monkeypatch.setattr(LoadBalancer, "RULES", rules[:number] + rules[number + 1 :])

    (line,) = unexplained(BACKENDS)
    assert line == f".spec.loadBalancer rule {rules[number].expression}: True in the reference, None here"


def test_a_rule_of_a_field_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutOfBandReporting, "FIELD_RULES", {})

    (line,) = unexplained(BACKENDS)
    assert "outOfBand.reportingPeriod rule duration(self) > duration('0s'): True in the reference" in line


def test_no_keyword_can_be_lost_unseen(definition: Definition) -> None:
    """Of no node: the comparison looks at all that the generated schema says."""
    keywords: set[str] = set()
    for node in nodes(schema_within(custom_resource_definition(definition))):
        whole = dict(leaves(node))
        # An integer without a format has 64 bits as well.
        said = node.keys() - ({"format"} if node.get("format") == "int64" else set())
        for keyword in said - {"description", "properties", "items", "additionalProperties"}:
            less = {key: value for key, value in node.items() if key != keyword}
            keywords.add(keyword)
            if "minimum" in less and keyword == "format":
                continue  # a range that is narrower than that of both formats
            assert whole != _leaves_or_none(less), (keyword, node)

    assert keywords >= {"enum", "pattern", "required", "maxItems", "type"}


def nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each node of a schema, with what is directly below it."""
    below = {**schema.get("properties", {})}
    below |= {key: schema[key] for key in ("items", "additionalProperties") if key in schema}
    yield schema
    for node in below.values():
        yield from nodes(node)


def _leaves_or_none(node: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return dict(leaves(node))
    except AssertionError:
        return None


# --- rules ----------------------------------------------------------------------------------------

BROKEN = yaml.safe_load(Path(__file__).with_name("broken_specs.yaml").read_text())
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web"}


SAID_BY_A_RANGE = {"spec.admissionControl"}
"""Rules here say what the ranges of the fields say too, so that nothing can break them alone."""


def resource(definition: Definition, spec: Mapping[str, Any]) -> dict[str, Any]:
    kind = definition.kind
    return {
        "apiVersion": f"{kind.GROUP}/{kind.VERSIONS[0]}",
        "kind": kind.KIND,
        "metadata": {"name": "a", "namespace": "default"},
        "spec": spec,
    }


def broken(definition: Definition) -> list[dict[str, Any]]:
    """Resources that break rules."""
    specs = BROKEN[definition.kind.KIND]
    if definition in POLICIES.values():
        specs = [
            spec if _TARGETS & spec.keys() else {"targetRefs": [GATEWAY]} | spec
            for spec in (*BROKEN["targets"], *specs)
        ]
    return [resource(definition, spec) for spec in specs]


_TARGETS = {"targetRef", "targetRefs", "targetSelectors"}


def problems(document: dict[str, Any]) -> tuple[Problem, ...]:
    """What moongate says of a resource."""
    return admit(document, KINDS, namespace="default").problems


def rules(definition: Definition) -> set[tuple[str, str]]:
    """Path and message of each rule."""
    whole = schema_within(custom_resource_definition(definition))
    return {(path, rule["message"]) for path, node in _placed(whole) for rule in _rules_of(node)}


def _rules_of(node: dict[str, Any]) -> list[dict[str, str]]:
    return node.get("x-kubernetes-validations", [])


def _placed(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from _placed(below, f"{path}.{name}".removeprefix("."))
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from _placed(node[key], f"{path}[]")


def test_every_rule_is_broken_by_a_resource(definition: Definition) -> None:
    """So that each is tried, here and by a real API server."""
    all_rules = rules(definition)
    tried = {
        (path, message)
        for document in broken(definition)
        for problem in problems(document)
        for path, message in all_rules
        # A rule about a list is blamed on those of its entries that break it.
        if re.sub(r"\[[^]]*\]", "[]", problem.path) in (path, f"{path}[]")
        and problem.message.startswith(message)
    }

    assert {path for path, _ in all_rules - tried} <= SAID_BY_A_RANGE


# --- what makes a schema structural ---------------------------------------------------------------

PLAIN = {
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}


def test_a_schema_is_structural(definition: Definition) -> None:
    """No ``$ref``, no logic but that of a quantity, one type for each value, and properties or a map."""
    for node in nodes(schema_within(custom_resource_definition(definition))):
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}]
            assert node.keys() <= {"anyOf", "description", "pattern", "x-kubernetes-int-or-string"}
            continue
        assert node.keys() <= PLAIN
        assert ("type" in node) != ("x-kubernetes-preserve-unknown-fields" in node)
        assert not {"properties", "additionalProperties"} <= node.keys()
        assert ("items" in node) == (node.get("type") == "array")
        assert set(node.get("required", ())) <= node.get("properties", {}).keys()
        for rule in node.get("x-kubernetes-validations", ()):
            assert 0 < len(rule["message"]) <= 2048
            assert "\n" not in rule["message"] + rule["rule"]


def test_lists_with_keys_have_entries_that_have_them(definition: Definition) -> None:
    """A key is required or has a default, and the entries of a set are scalars."""
    for node in nodes(schema_within(custom_resource_definition(definition))):
        kind = node.get("x-kubernetes-list-type")
        assert ("x-kubernetes-list-map-keys" in node) == (kind == "map")
        for key in node.get("x-kubernetes-list-map-keys", ()):
            entry = node["items"]
            assert key in entry["required"] or "default" in entry["properties"][key]
        if kind == "set":
            assert node["items"]["type"] not in ("object", "array")


def test_defaults_are_valid_and_stand_in_no_list_or_map_itself(definition: Definition) -> None:
    """The root and what every object has cannot have any; a default of a wrong type makes the API server
    refuse the whole definition."""
    whole = schema_within(custom_resource_definition(definition))
    types: dict[str, type] = {"string": str, "boolean": bool, "integer": int, "object": dict, "array": list}
    assert "default" not in whole
    for node in nodes(whole):
        for below in (node.get("items"), node.get("additionalProperties")):
            assert below is None or "default" not in below
        if "default" in node:
            assert type(node["default"]) is types[node["type"]]
            assert node["default"] in node.get("enum", [node["default"]])
            assert re.search(node.get("pattern", ""), str(node["default"]))


def test_descriptions_are_ours(definition: Definition) -> None:
    """No sentence of the reference, and none empty."""
    theirs = {node.get("description", "") for node in nodes(schema_within(of_the_reference(definition)))}
    ours = [node.get("description") for node in nodes(schema_within(custom_resource_definition(definition)))]
    messages = {
        rule["message"]
        for node in nodes(schema_within(of_the_reference(definition)))
        for rule in node.get("x-kubernetes-validations", ())
    }

    described = [text for text in ours if text is not None]
    assert len(described) > len(ours) / 2
    assert not [text for text in described if text in theirs or not text]
    assert not messages & {
        rule["message"]
        for node in nodes(schema_within(custom_resource_definition(definition)))
        for rule in node.get("x-kubernetes-validations", ())
    }


def test_a_field_is_described_by_its_docstring_its_form_or_its_marks() -> None:
    spec = schema_within(custom_resource_definition(BACKENDS))["properties"]["spec"]["properties"]

    assert spec["circuitBreaker"]["properties"]["maxConnections"]["description"] == "1024 when absent."
    assert spec["circuitBreaker"]["description"] == "Limits of each cluster, of each Envoy."
    assert spec["compression"]["description"] == "Deprecated: use compressor."
    assert spec["targetRef"]["description"] == "Deprecated: `targetRefs` with one entry says the same."
    assert spec["timeout"]["properties"]["tcp"]["properties"]["connectTimeout"]["description"] == (
        "The limit for establishing a connection; 10s when absent."
    )
    assert spec["loadBalancer"]["properties"]["slowStart"]["properties"]["window"]["description"] == (
        "A duration with at most 5 digits before each unit, such as '600s', '1h30m' or '48h'."
    )


def test_a_field_without_effect_says_so_and_keeps_its_type() -> None:
    spec = schema_within(custom_resource_definition(CLIENTS))["properties"]["spec"]["properties"]

    field = spec["connection"]["properties"]["socketBufferLimit"]
    assert field["description"] == "Has no effect, as in Envoy Gateway."
    assert field["x-kubernetes-int-or-string"]
