"""``moongate.translate``, the library's front door."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
import yaml
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from moongate import translate
from moongate.translation import ConfigurationError
from tests.core import GATEWAY_CLASS, gateway, http
from tests.routes import http_route, service

CONFIG: dict[str, Any] = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
    "kind": "EnvoyGateway",
    "gateway": {},
}
ROUTE_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def documents(*texts: str) -> list[dict[str, Any]]:
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


WHOLE = documents(GATEWAY_CLASS, gateway(http("web")), service(), http_route())


def test_manifests_become_statuses_and_messages() -> None:
    translation = translate(WHOLE)

    [table] = translation.xds["default/eg"][ROUTE_TYPE].values()
    assert isinstance(table, RouteConfiguration)
    assert table.name == "default/eg/web"
    assert {s["kind"] for s in translation.status} == {"GatewayClass", "Gateway", "HTTPRoute"}
    assert translation.problems == ()


def test_a_status_names_a_parent_ref_as_its_manifest_does() -> None:
    translation = translate(WHOLE)

    [parent] = next(s for s in translation.status if s["kind"] == "HTTPRoute")["status"]["parents"]
    assert parent["parentRef"] == {"name": "eg", "namespace": "default"}


def test_kinds_that_are_not_read_are_passed_over() -> None:
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"}}

    assert translate([*WHOLE, other]) == translate(WHOLE)


def test_the_order_of_manifests_does_not_matter() -> None:
    assert translate(WHOLE[::-1]) == translate(WHOLE)


def test_a_manifest_that_an_api_server_would_refuse_is_reported_and_translated_as_far_as_it_goes() -> None:
    redirect = "{type: RequestRedirect, requestRedirect: {hostname: a.example.com, statusCode: 600}}"
    rules = {"filters": [yaml.safe_load(redirect)], "backendRefs": []}

    translation = translate(documents(GATEWAY_CLASS, gateway(http("web")), http_route(rules)))

    assert [(ref.name, problem.path) for ref, problem in translation.problems] == [
        ("shop", "spec.rules[0].filters[0].requestRedirect.statusCode")
    ]
    status = next(s for s in translation.status if s["kind"] == "HTTPRoute")["status"]
    assert [c["reason"] for c in status["parents"][0]["conditions"] if c["type"] == "Accepted"] == [
        "UnsupportedValue"
    ]


def test_a_filter_that_is_moved_nowhere_is_a_fault_of_its_entry() -> None:
    """The rule that the entry breaks may be younger than the object: it is translated all the same."""
    proxy = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: own, namespace: default}
spec: {filterOrder: [{name: envoy.filters.http.cors}]}
"""
    named = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "own"}}

    result = translate(documents(GATEWAY_CLASS, gateway(http("web"), infrastructure=named), proxy))

    assert {(ref.name, problem.path) for ref, problem in result.problems} == {("own", "spec.filterOrder[0]")}
    conditions = next(s for s in result.status if s["kind"] == "Gateway")["status"]["conditions"]
    assert [c["reason"] for c in conditions if c["type"] == "Accepted"] == ["InvalidParameters"]


@pytest.mark.parametrize("wrong", [[], {"a": 1}, 1.5], ids=str)
def test_a_value_of_a_wrong_type_fails_no_translation(wrong: Any) -> None:
    """No version of an API had it, so the object cannot be older than the rule: it is left out."""
    for number, document in enumerate(WHOLE):
        body = {
            key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")
        }
        for *above, last in paths(body):
            manifests = copy.deepcopy(WHOLE)
            functools.reduce(operator.getitem, above, manifests[number])[last] = wrong

            translate(manifests)


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths of all that is below a value."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        entries = enumerate(cast("list[Any]", value))
    for key, below in entries:
        yield (key,)
        yield from ((key, *path) for path in paths(below))


def test_a_configuration_changes_what_is_made() -> None:
    """Without ``mergeBackends`` a cluster is one of its rule."""
    clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

    assert set(translate(WHOLE).xds["default/eg"][clusters]) == {"service/default/shop/80/http"}
    assert set(translate(WHOLE, config=CONFIG).xds["default/eg"][clusters]) == {
        "httproute/default/shop/rule/0"
    }


def test_a_configuration_with_faults_is_an_error_that_names_them() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        translate(WHOLE, config={**CONFIG, "nonsense": 1})


def test_manifests_without_a_namespace_are_where_the_caller_says() -> None:
    class_, *rest = WHOLE
    for document in rest:
        document["metadata"].pop("namespace", None)

    translation = translate([class_, *rest], namespace="shop")

    assert "shop/eg" in translation.xds


@pytest.mark.parametrize(
    "absurd",
    ["\ud800", 2**70, None, "x" * 70_000, {1: 2}, float("nan"), object()],
    ids=lambda value: repr(value)[:20],
)
def test_no_value_anywhere_ends_a_translation(absurd: Any) -> None:
    """Not in what says whom a manifest is about either; and nothing fails within."""
    for number, document in enumerate(WHOLE):
        for *above, last in paths(document):
            manifests = copy.deepcopy(WHOLE)
            functools.reduce(operator.getitem, above, manifests[number])[last] = absurd

            result = translate(manifests)

            assert "nternal error" not in str(result.status)


def test_text_that_cannot_be_written_is_a_fault_of_its_field() -> None:
    """JSON can escape half of a character, which no status and no message to Envoy could hold."""
    manifests = copy.deepcopy(WHOLE)
    manifests[-1]["spec"]["hostnames"] = ["a", "\ud800"]

    result = translate(manifests)

    assert [(ref.name, problem.path) for ref, problem in result.problems] == [("shop", "spec.hostnames[1]")]


@pytest.mark.slow
def test_thousands_of_entries_are_faults_and_no_wait() -> None:
    """Each is named once, where its list is too long."""
    manifests = copy.deepcopy(WHOLE)
    manifests[-1]["spec"]["rules"] *= 2_000

    assert ("shop", "spec.rules") in [
        (ref.name, problem.path) for ref, problem in translate(manifests).problems
    ]


def problems_of(*documents: dict[str, Any]) -> list[str]:
    return [f"{ref}: {problem.path}: {problem.message}" for ref, problem in translate(documents).problems]


def test_a_list_is_taken_apart() -> None:
    """``kubectl get -o yaml`` prints one."""
    whole: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": [*WHOLE, None]}
    of_kind: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceList", "items": []}

    assert translate(whole) == translate([whole, of_kind, None]) == translate(WHOLE)
    assert translate({"apiVersion": "v1", "kind": "List", "items": None}).problems == ()


def test_a_reference_that_leads_nowhere_is_a_problem() -> None:
    """Without its class a Gateway has no status, and an empty result would say nothing."""
    [problem] = problems_of(*(document for document in WHOLE if document["kind"] != "GatewayClass"))

    assert problem == (
        "Gateway default/eg: spec.gatewayClassName: There is no GatewayClass eg. To use this class, add it "
        "with controllerName 'gateway.envoyproxy.io/gatewayclass-controller'. This Gateway is not served."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "Gatewai"}, "'Gatewai' of 'gateway.networking.k8s.io/v1' is not a kind that is read here."),
        ({"apiVersion": None}, "apiVersion is missing"),
        (
            {"kind": "EnvoyExtensionPolicy", "apiVersion": CONFIG["apiVersion"]},
            "is not built yet: this resource",
        ),
        ({"kind": "EnvoyGateway", "apiVersion": CONFIG["apiVersion"]}, "hand it over as config"),
    ],
)
def test_a_manifest_that_is_nothing_is_a_problem(change: dict[str, Any], words: str) -> None:
    [problem] = problems_of(
        {"apiVersion": "gateway.networking.k8s.io/v1", "metadata": {"name": "a"}, **change}
    )

    assert words in problem
