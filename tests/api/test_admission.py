"""Manifests are admitted as an API server would, and what is wrong with them is told whole."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

from moongate.api.admission import admit, admit_configuration, checked, unbuilt
from moongate.api.backend import Backend
from moongate.api.base import SET, Model, Resource, Rule
from moongate.api.core import ConfigMap, EndpointSlice, Namespace, Secret, Service
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass, ReferenceGrant
from moongate.api.httproute import HTTPPathMatch, HTTPRoute, HTTPRouteMatch

KINDS: dict[tuple[str, str], type[Resource]] = {
    (kind.GROUP, kind.KIND): kind
    for kind in (
        Backend,
        ConfigMap,
        EndpointSlice,
        EnvoyProxy,
        Gateway,
        GatewayClass,
        HTTPRoute,
        Namespace,
        ReferenceGrant,
        Secret,
        Service,
    )
}

GATEWAY_API = "gateway.networking.k8s.io/v1"


def manifest(kind: str, version: str = GATEWAY_API, /, name: str = "it", **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}


def route(**rule: Any) -> dict[str, Any]:
    return manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}], "rules": [rule]})


def gateway(*listeners: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return manifest("Gateway", spec={"gatewayClassName": "eg", "listeners": list(listeners), **spec})


def problems(document: dict[str, Any]) -> dict[str, str]:
    """Path → message, of a document that is refused; each path once."""
    admission = admit(document, KINDS, namespace="default")
    assert (admission.resource is None) == bool(admission.problems)
    found = {problem.path: problem.message for problem in admission.problems}
    assert len(found) == len(admission.problems)
    return found


def admitted(document: dict[str, Any]) -> Any:
    admission = admit(document, KINDS, namespace="default")
    assert admission.problems == ()
    return admission.resource


def test_a_route_gets_the_defaults_of_its_crd() -> None:
    found = admitted(manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}]}))

    assert found.spec.parent_refs[0].kind == "Gateway"
    assert found.spec.rules[0].matches == (HTTPRouteMatch(path=HTTPPathMatch(type="PathPrefix", value="/")),)


def test_a_default_within_an_object_applies_when_the_object_is_there() -> None:
    found = admitted(route(matches=[{"path": {"value": "/a"}}], backendRefs=[{"name": "a", "port": 80}]))

    assert found.spec.rules[0].matches[0].path == HTTPPathMatch(type="PathPrefix", value="/a")
    assert found.spec.rules[0].backend_refs[0].weight == 1


def test_rules_see_defaults_and_not_what_is_absent() -> None:
    """A redirect of a prefix needs one PathPrefix match: the default is one."""
    replaced = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}

    admitted(route(filters=[{"type": "RequestRedirect", "requestRedirect": replaced}]))


def test_a_null_is_as_if_it_were_not_there() -> None:
    found = admitted(route(name=None, matches=None, backendRefs=[{"name": "a", "port": 80, "weight": None}]))

    assert found.spec.rules[0].backend_refs[0].weight == 1
    assert found.spec.rules[0].matches == (HTTPRouteMatch(),)


def test_the_document_is_left_as_it_was() -> None:
    document = route(matches=[{"path": {"value": "/a"}}], name=None)
    before = copy.deepcopy(document)

    admit(document, KINDS, namespace="default")

    assert document == before


def test_only_what_means_something_is_kept_of_the_metadata() -> None:
    document = manifest("HTTPRoute", spec={}, status={"parents": []})
    document["metadata"] |= {
        "managedFields": [{}],
        "resourceVersion": "7",
        "labels": {"a": "b"},
        "creationTimestamp": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    }

    meta = admitted(document).metadata

    assert (meta.namespace, meta.labels, meta.creation_timestamp) == (
        "default",
        {"a": "b"},
        "2024-01-02T03:04:05Z",
    )


def test_a_cluster_scoped_kind_has_no_namespace() -> None:
    document = manifest("GatewayClass", spec={"controllerName": "example.com/it"})
    document["metadata"]["namespace"] = "lost"

    assert admitted(document).metadata.namespace == ""


def test_an_older_version_of_a_kind_is_read_too() -> None:
    grant = {"from": [{"group": "", "kind": "A", "namespace": "b"}], "to": [{"group": "", "kind": "Secret"}]}

    for version in ("v1beta1", "v1alpha2"):
        assert admitted(manifest("ReferenceGrant", f"gateway.networking.k8s.io/{version}", spec=grant))


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({}, "apiVersion", "missing"),
        (manifest("HTTPRout"), "kind", "Did you mean 'HTTPRoute'?"),
        (manifest("HTTPRoute", "v1"), "apiVersion", "'gateway.networking.k8s.io'"),
        (
            manifest("HTTPRoute", "gateway.networking.k8s.io/v2"),
            "apiVersion",
            "must be 'gateway.networking.k8s.io/v1' or",
        ),
        (manifest("HTTPRoute", name="A_b", spec={}), "metadata.name", "'A_b'"),
        (manifest("Service", "v1", name="a.b"), "metadata.name", "'a.b'"),
        ({"apiVersion": "v1", "kind": "Service"}, "metadata", "missing"),
        (manifest("HTTPRoute"), "spec", "is missing"),
    ],
)
def test_what_a_document_is_must_be_clear(document: dict[str, Any], path: str, words: str) -> None:
    assert words in problems(document)[path]


def test_every_fault_of_the_schema_is_told_at_once() -> None:
    found = problems(
        route(
            matchs=[],
            matches=[{"path": {"type": "Prefix", "value": 1}, "method": "get"}],
            backendRefs=[{"name": "a", "port": "80"}, {"port": 70000}, 3],
            timeouts={"request": "1 hour"},
        )
    )

    rule = "spec.rules[0]"
    assert found == {
        f"{rule}.matchs": "There is no field 'matchs' here. Did you mean 'matches'?",
        f"{rule}.matches[0].path.type": (
            "The value is 'Prefix'; it must be one of Exact, PathPrefix, RegularExpression. "
            "Did you mean 'PathPrefix'?"
        ),
        f"{rule}.matches[0].path.value": "The value is 1; it must be a string, in quotes.",
        f"{rule}.matches[0].method": (
            "The value is 'get'; it must be one of "
            "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE. "
            "Did you mean 'GET'?"
        ),
        f"{rule}.backendRefs[0].port": "The value is '80'; it must be a whole number, without quotes.",
        f"{rule}.backendRefs[1].name": "name is missing; it is required.",
        f"{rule}.backendRefs[1].port": "70000 is out of range; it must be between 1 and 65535.",
        f"{rule}.backendRefs[2]": "The value is 3; it must be an object.",
        f"{rule}.timeouts.request": (
            "The value is '1 hour'; it must be a duration, such as '600s', '10m' or '1h30m'."
        ),
    }


def test_a_field_one_level_too_high_is_told_where_it_belongs() -> None:
    """Blanks are easily lost."""
    document = manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}]}, rules=[], replicas=1)

    assert problems(document) == {
        "rules": "There is no field 'rules' here. It is a field of spec: put it there, further to the right.",
        "replicas": "There is no field 'replicas' here.",
    }


def test_every_broken_rule_is_told_at_once() -> None:
    found = problems(
        route(
            matches=[{"path": {"value": "x"}}],
            filters=[{"type": "CORS"}, {"type": "URLRewrite", "urlRewrite": {}, "cors": {}}],
            backendRefs=[{"name": "a"}],
            timeouts={"request": "1s", "backendRequest": "1500ms"},
        )
    )

    rule = "spec.rules[0]"
    assert found.keys() == {
        f"{rule}.matches[0].path",
        f"{rule}.filters[0]",
        f"{rule}.filters[1]",
        f"{rule}.backendRefs[0]",
        f"{rule}.timeouts",
    }


def test_a_rule_reads_a_field_whose_name_is_a_word_of_cel() -> None:
    """``namespace`` is one; two parents of different namespaces are not the same parent."""
    twice = manifest("HTTPRoute", spec={"parentRefs": [{"name": "a", "namespace": ns} for ns in ("b", "c")]})
    admitted(twice)
    twice["spec"]["parentRefs"][1]["namespace"] = "b"

    assert problems(twice).keys() == {"spec.parentRefs"}


def test_a_rule_about_a_list_is_told_at_the_list() -> None:
    tls = {"name": "tls", "port": 1, "protocol": "TLS"}

    assert problems(gateway(tls)) == {"spec.listeners": "A listener of protocol TLS needs tls with a mode."}


def test_a_rule_about_a_map_reads_its_keys() -> None:
    http = {"name": "a", "port": 80, "protocol": "HTTP"}
    admitted(gateway(http, infrastructure={"labels": {"example.com/a": "b"}}))

    assert problems(gateway(http, infrastructure={"labels": {"a b": "c"}})).keys() == {
        "spec.infrastructure.labels"
    }


def test_one_alternative_that_cannot_be_evaluated_does_not_break_a_rule() -> None:
    """In ``size(certificateRefs) > 0 || size(options) > 0``, either half may fail if the other holds."""
    https: dict[str, Any] = {"name": "a", "port": 443, "protocol": "HTTPS"}

    admitted(gateway(https | {"tls": {"options": {"example.com/a": "b"}}}))
    assert problems(gateway(https | {"tls": {}})).keys() == {"spec.listeners[0].tls"}


def test_rules_of_entries_and_of_base_classes_hold_too() -> None:
    class Base(Model, frozen=True, kw_only=True):
        RULES: ClassVar[tuple[Rule, ...]] = (Rule("self.low <= self.high", "low is above high."),)

        low: int = 0
        high: int = 9

    class Derived(Base, frozen=True, kw_only=True):
        FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
            "words[]": (Rule("self.lowerAscii() != 'host'", "Not that one."),)
        }

        words: Annotated[tuple[str, ...], SET] = ()

    _, found = checked(Derived, {"low": 10, "words": ["a", "HOST", "a"]})

    assert [(problem.path, problem.message) for problem in found] == [
        ("", "low is above high."),
        ("words[1]", "Not that one."),
        ("words[2]", "The entry repeats 'a' of [0]; each may stand once."),
    ]


def test_entries_of_a_list_that_is_a_map_have_different_keys() -> None:
    headers = [{"name": "a", "value": value} for value in ("1", "2")]

    assert problems(route(matches=[{"headers": headers}])) == {
        "spec.rules[0].matches[0].headers[1]": "The entry repeats name 'a' of [0]; each may stand once."
    }


def test_a_newline_at_the_end_does_not_slip_through_a_pattern() -> None:
    """``$`` of Python would let it pass; in a header, Envoy would then refuse the whole configuration."""
    found = problems(route(matches=[{"headers": [{"name": "a", "value": "b\n"}]}]))

    assert found.keys() == {"spec.rules[0].matches[0].headers[0].value"}


def test_an_address_is_judged_by_its_type() -> None:
    http = {"name": "a", "port": 80, "protocol": "HTTP"}
    admitted(gateway(http, addresses=[{"value": "::1"}, {"type": "Hostname", "value": "a.example"}]))

    assert problems(gateway(http, addresses=[{"value": "1.2.3"}])).keys() == {"spec.addresses[0]"}


def test_core_kinds_may_have_fields_that_we_do_not_know() -> None:
    spec = {"clusterIP": "10.0.0.1", "sessionAffinity": "None", "ports": [{"port": 80, "targetPort": "web"}]}

    found = admitted(manifest("Service", "v1", spec=spec))

    assert found.spec.cluster_ip == "10.0.0.1"
    assert found.spec.ports[0].target_port == "web"


def test_a_secret_is_never_quoted_in_a_message() -> None:
    found = problems(manifest("Secret", "v1", data={"key": "hunter2!"}))

    assert found == {"data[key]": "The value is not a string in base64."}


def test_a_field_that_is_not_built_is_admitted_and_told() -> None:
    found = admitted(
        manifest(
            "EnvoyProxy",
            "gateway.envoyproxy.io/v1alpha1",
            spec={
                "bootstrap": {"value": "x", "anything": None},
                "telemetry": {"accessLog": {"settings": [{"sinks": [{"type": "ALS", "als": {}}]}]}},
            },
        )
    )

    assert found.spec.bootstrap == {"value": "x", "anything": None}
    assert list(unbuilt(found)) == ["spec.bootstrap", "spec.telemetry.accessLog.settings[0].sinks[0].als"]


def test_rules_look_at_fields_that_are_not_built() -> None:
    both: dict[str, Any] = {"mergeGateways": True, "mergeBackends": {}}

    assert problems(manifest("EnvoyProxy", "gateway.envoyproxy.io/v1alpha1", spec=both)) == {
        "spec": "mergeGateways and mergeBackends exclude each other."
    }


def test_the_configuration_is_judged_like_a_resource() -> None:
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}

    read, none = admit_configuration(head | {"envoyProxy": {"mergeBackends": {}}, "rateLimit": None})
    _, found = admit_configuration(head | {"extensionAPIs": {}, "provider": {"type": "Custom"}})

    assert none == ()
    assert read is not None
    assert read.extension_apis == EnvoyGateway().extension_apis
    assert [problem.path for problem in found] == ["extensionAPIs"]


def test_a_typed_field_that_is_not_built_is_told_too() -> None:
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    limit = {"backend": {"type": "Redis", "redis": {"url": "redis:6379"}}}

    read, _ = admit_configuration(head | {"rateLimit": limit})

    assert read is not None
    assert list(unbuilt(read)) == ["rateLimit"]


def test_an_object_is_judged_anew_when_only_a_part_that_no_rule_names_changes() -> None:
    """Answers of rules are remembered by what the rules read; schema faults must not hide behind that."""

    class Named(Model, frozen=True, kw_only=True):
        RULES: ClassVar[tuple[Rule, ...]] = (Rule("self.size > 0", "size must be positive."),)

        size: int
        name: Annotated[str, Meta(max_length=3)] = ""

    assert checked(Named, {"size": 1, "name": "a"})[1] == ()
    assert [p.path for p in checked(Named, {"size": 1, "name": "abcd"})[1]] == ["name"]
    assert [p.path for p in checked(Named, {"size": 0, "name": "a"})[1]] == [""]


def test_the_content_of_a_secret_is_never_quoted() -> None:
    """A value put where an object belongs is still somebody's password, and messages end up in logs."""
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": "hunter2"}

    (problem,) = admit(document, KINDS, namespace="default").problems

    assert problem.path == "data"
    assert "hunter2" not in problem.message
