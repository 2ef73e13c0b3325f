"""Manifests are admitted as an API server would, and what is wrong with them is reported whole."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

from moongate.api.admission import MOST_FAULTS, admit, admit_configuration, checked
from moongate.api.base import Model, Rule
from moongate.api.envoygateway import EnvoyGateway
from moongate.kinds import KINDS as ALL_KINDS
from tests.api.manifests import KINDS, admitted, gateway, manifest, problems, route


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


def test_a_rule_reads_a_field_whose_name_is_a_word_of_cel() -> None:
    """``namespace`` is one; two parents of different namespaces are not the same parent."""
    twice = manifest("HTTPRoute", spec={"parentRefs": [{"name": "a", "namespace": ns} for ns in ("b", "c")]})
    admitted(twice)
    twice["spec"]["parentRefs"][1]["namespace"] = "b"

    assert problems(twice).keys() == {"spec.parentRefs"}


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


def test_an_address_is_judged_by_its_type() -> None:
    http = {"name": "a", "port": 80, "protocol": "HTTP"}
    admitted(gateway(http, addresses=[{"value": "::1"}, {"type": "Hostname", "value": "a.example"}]))

    assert problems(gateway(http, addresses=[{"value": "1.2.3"}])).keys() == {"spec.addresses[0]"}


def test_core_kinds_may_have_fields_that_we_do_not_know() -> None:
    spec = {"clusterIP": "10.0.0.1", "sessionAffinity": "None", "ports": [{"port": 80, "targetPort": "web"}]}

    service = admitted(manifest("Service", "v1", spec=spec))

    assert service.spec.cluster_ip == "10.0.0.1"
    assert service.spec.ports[0].target_port == "web"


def test_a_secret_is_never_quoted_in_a_message() -> None:
    faults = problems(manifest("Secret", "v1", data={"key": "hunter2!"}))

    assert faults == {"data[key]": "The value is not base64; plain text goes under stringData."}


def test_the_configuration_is_judged_like_a_resource() -> None:
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}

    read, none = admit_configuration(head | {"envoyProxy": {"mergeBackends": {}}, "rateLimit": None})
    _, faults = admit_configuration(head | {"extensionAPIs": {}, "provider": {"type": "Custom"}})

    assert none == ()
    assert read is not None
    assert read.extension_apis == EnvoyGateway().extension_apis
    assert [problem.path for problem in faults] == ["extensionAPIs"]


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


def test_of_many_faults_the_first_are_reported_and_that_there_are_more() -> None:
    """A document can have a fault in every few bytes, and nobody reads thousands."""
    document = manifest("HTTPRoute", spec={f"hostname{n}": 1 for n in range(1_000)})

    messages = problems(document)

    assert len(messages) == MOST_FAULTS + 1
    assert messages[""] == "There are more than 100 faults."


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31T00:30:00.75-11:30", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.75Z", "2026-01-31T12:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        (datetime(2026, 1, 31, 12, tzinfo=UTC).replace(tzinfo=None), "2026-01-31T12:00:00Z"),
        (None, ""),
    ],
)
def test_times_are_in_utc_so_that_the_oldest_is_known(written: object, time: str) -> None:
    """Who is older decides conflicts, and times are compared as text."""
    document = manifest("Namespace", "v1")
    document["metadata"]["creationTimestamp"] = written

    assert admitted(document).metadata.creation_timestamp == time


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-31",
        "2026-13-31T12:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        20260131,
    ],
)
def test_a_time_that_is_none_is_said_to_be_wrong(written: object) -> None:
    """It would be compared with others as text; and times at the ends of the calendar have none in UTC."""
    document = manifest("Namespace", "v1")
    document["metadata"]["creationTimestamp"] = written

    message = problems(document)["metadata.creationTimestamp"]

    assert "it must be a time of RFC 3339" in message


@pytest.mark.parametrize(
    ("metadata", "path", "message"),
    [
        ({"label": {}}, "metadata.label", "There is no field 'label' here. Did you mean 'labels'?"),
        ({"names": "a"}, "metadata.names", "There is no field 'names' here. Did you mean 'name'?"),
        ({"name": 123}, "metadata.name", "The name is 123; write it in quotes."),
        ({"name": True}, "metadata.name", "The name is true; write it in quotes."),
        ({"namespace": 123}, "metadata.namespace", "The namespace is 123; write it in quotes."),
        (
            {"name": None, "generateName": "a-"},
            "metadata.name",
            "The name is missing; generateName makes one in a cluster alone, so give it a name here.",
        ),
        (
            {"labels": {"a": 1}},
            "metadata.labels[a]",
            "The value is 1; it must be a string: write it in quotes.",
        ),
        (
            {"annotations": {"token": 1}},
            "metadata.annotations[token]",
            "The value is a number; it must be a string: write it in quotes.",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["Gateway", "Service"])
def test_metadata_has_no_other_fields_than_kubernetes_knows(
    kind: str, metadata: dict[str, Any], path: str, message: str
) -> None:
    document = gateway({"name": "a", "port": 80, "protocol": "HTTP"})
    if kind == "Service":
        document = manifest("Service", "v1", spec={"ports": [{"port": 80}]})
    document["metadata"] |= metadata

    assert problems(document) == {path: message}


def test_a_number_where_a_word_is_due_is_to_be_quoted() -> None:
    """``1.2`` is a number in YAML, and the message shows it as it shows the right one."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}
    document = manifest(
        "ClientTrafficPolicy",
        "gateway.envoyproxy.io/v1alpha1",
        spec={"targetRefs": [target], "tls": {"minVersion": 1.2, "maxVersion": 1}},
    )

    faults = {p.path: p.message for p in admit(document, ALL_KINDS, namespace="default").problems}

    choices = "it must be one of 1.0, 1.1, 1.2, 1.3, Auto: write it in quotes."
    assert faults == {
        "spec.tls.minVersion": f"The value is 1.2; {choices}",
        "spec.tls.maxVersion": f"The value is 1; {choices}",
    }


def test_what_stands_for_the_name_of_a_secret_is_not_quoted() -> None:
    """Somebody wrote the password itself."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}
    document = manifest(
        "SecurityPolicy",
        "gateway.envoyproxy.io/v1alpha1",
        spec={"targetRefs": [target], "basicAuth": {"users": "alice:hunter2"}},
    )

    faults = {p.path: p.message for p in admit(document, ALL_KINDS, namespace="default").problems}

    assert faults == {"spec.basicAuth.users": "The value is a string; it must be an object with name."}


@pytest.mark.parametrize("value", ["web site", "-web", "w" * 64])
def test_a_label_that_an_api_server_refuses_is_a_fault(value: str) -> None:
    """A selector could never name it."""
    document = {**NAMESPACE, "metadata": {"name": "a", "labels": {"tier": value}}}

    (problem,) = admit(document, KINDS, namespace="default").problems

    assert problem.path == "metadata.labels[tier]"
    assert "at most 63 letters, digits" in problem.message


def test_a_label_of_a_secret_is_not_shown() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a", "labels": {"tier": "a secret"}},
    }

    (problem,) = admit(document, KINDS, namespace="default").problems

    assert "a secret" not in problem.message


NAMESPACE: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace"}


@pytest.mark.parametrize(
    ("kind", "spec", "path", "content"),
    [
        ("HTTPRoute", {"parentRefs": ["web"]}, "spec.parentRefs[0]", " with name"),
        (
            "Gateway",
            {"gatewayClassName": "a", "listeners": ["http"]},
            "spec.listeners[0]",
            " with name and port and protocol",
        ),
        (
            "Backend",
            {"endpoints": ["localhost:8000"]},
            "spec.endpoints[0]",
            ", with fields such as fqdn, ip, unix",
        ),
    ],
)
def test_what_should_be_an_object_says_what_is_in_one(
    kind: str, spec: dict[str, Any], path: str, content: str
) -> None:
    """A name alone is the shortest thing to try."""
    message = faults_of_any(kind, spec)[path]

    assert message.endswith(f"; it must be an object{content}.")


def test_a_reference_without_a_namespace_says_that_it_has_none() -> None:
    """Other references have one, and there is no similar field that would be right."""
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "a", "namespace": "b"}

    faults = faults_of_any("SecurityPolicy", {"targetRefs": [target]})

    at = "spec.targetRefs[0].namespace"
    assert faults[at] == "There is no field 'namespace' here. It names what is in its own namespace."


def faults_of_any(kind: str, spec: dict[str, Any]) -> dict[str, str]:
    """Path → message, of a resource of any kind that is supported."""
    [(group, known)] = ((group, known) for (group, name), known in ALL_KINDS.items() if name == kind)
    document = manifest(kind, f"{group}/{known.VERSIONS[0]}", spec=spec)
    return {p.path: p.message for p in admit(document, ALL_KINDS, namespace="default").problems}
