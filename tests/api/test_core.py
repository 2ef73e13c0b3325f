"""Core kinds give what a gateway reads of them."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest

from moongate.api.admission import admit
from moongate.api.base import ObjectMeta
from moongate.api.core import EndpointSlice, Secret
from moongate.kinds import KINDS as ALL_KINDS
from tests.api.manifests import admitted, manifest, problems


def test_string_data_of_a_secret_is_folded_into_its_data() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "it"},
        "data": {"a": "YQ==", "b": "YQ=="},
        "stringData": {"b": "c"},
    }

    secret = admit(document, {("", "Secret"): Secret}, namespace="default").resource

    assert isinstance(secret, Secret)
    assert secret.data == {"a": b"a", "b": b"c"}


def test_the_data_of_a_secret_must_be_an_object_even_beside_string_data() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "it"},
        "data": "YQ==",
        "stringData": {"b": "c"},
    }

    problems = admit(document, {("", "Secret"): Secret}, namespace="default").problems

    assert [problem.path for problem in problems] == ["data"]


def test_a_slice_names_its_service_by_a_label() -> None:
    labelled = ObjectMeta(name="a-1", labels={"kubernetes.io/service-name": "a"})

    assert EndpointSlice(metadata=labelled, address_type="IPv4").service == "a"
    assert EndpointSlice(metadata=ObjectMeta(name="b"), address_type="IPv4").service is None


def test_a_secret_that_is_printed_tells_no_value() -> None:
    """Whatever prints a Secret (a failing assertion, a debugger, a log) must not print what it keeps."""
    secret = Secret(metadata=ObjectMeta(name="tls", namespace="shop"), data={"tls.key": b"private"})

    assert repr(secret) == "Secret(shop/tls, Opaque, keys=['tls.key'])"


BASE64 = base64.b64encode(bytes(range(256))).decode()
LINES = [BASE64[n : n + 76] for n in range(0, len(BASE64), 76)]


@pytest.mark.parametrize(
    "text", ["\n".join(LINES) + "\n", "\r\n".join(LINES), "\n" + BASE64, "\r".join(BASE64)]
)
def test_base64_may_have_line_breaks(text: str) -> None:
    """``base64`` breaks lines at 76 characters, and a block scalar of YAML keeps them."""
    assert admitted(manifest("Secret", "v1", data={"a": text})).data == {"a": bytes(range(256))}
    assert admitted(manifest("ConfigMap", "v1", binaryData={"a": text})).binary_data == {
        "a": bytes(range(256))
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("aGVs bG8=", "is not base64: there are blanks in it;"),
        ("aGVs\tbG8=", "is not base64: there are blanks in it;"),
        ("aGVsbG8", "is not base64: it must end with '=' until its length is a multiple of 4;"),
        ("aGVsbG8==", "is not base64: it must end with '=' until its length is a multiple of 4;"),
        ("-_-_", "is not base64: it has '-' and '_', as in URLs, for '+' and '/';"),
        ("hunter2!", "is not base64;"),
        ("aGVsbG8=aGVsbG8=", "is not base64;"),
        (123456, "is a number; it must be a string in base64;"),
        (["a"], "is a list; it must be a string in base64;"),
    ],
)
def test_what_is_wrong_with_base64_is_said_without_the_value(value: Any, words: str) -> None:
    faults = problems(manifest("Secret", "v1", data={"a": value}))
    others = problems(manifest("ConfigMap", "v1", binaryData={"a": value}))

    assert faults == {"data[a]": f"The value {words} plain text goes under stringData."}
    assert others == {"binaryData[a]": f"The value {words} plain text goes under data."}


def test_a_null_in_a_map_of_a_built_in_kind_is_the_empty_value() -> None:
    """As for an API server, which drops a null from a map of a CRD instead."""
    secret = admitted(manifest("Secret", "v1", data={"a": None, "b": "Yg=="}, stringData={"c": None}))
    config = admitted(manifest("ConfigMap", "v1", data={"a": None}, binaryData={"b": None}))
    service = manifest("Service", "v1", spec={"selector": {"app": None}})
    service["metadata"]["labels"] = {"a": None}

    assert secret.data == {"a": b"", "b": b"b", "c": b""}
    assert (config.data, config.binary_data) == ({"a": ""}, {"b": b""})
    assert admitted(service).spec.selector == {"app": ""}
    assert admitted(service).metadata.labels == {"a": ""}


def test_a_null_in_a_map_of_a_crd_is_no_entry() -> None:
    selector = {"from": "Selector", "selector": {"matchLabels": {"a": "b", "c": None}}}
    listener = {"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": selector}}
    gateway = admitted(manifest("Gateway", spec={"gatewayClassName": "a", "listeners": [listener]}))

    assert gateway.spec.listeners[0].allowed_routes.namespaces.selector.match_labels == {"a": "b"}


METADATA: dict[str, Any] = {
    "name": "it",
    "generateName": "i",
    "namespace": "default",
    "uid": "7f5d4b2e-0000-0000-0000-000000000000",
    "resourceVersion": "7",
    "generation": 1,
    "creationTimestamp": "2026-01-31T12:00:00Z",
    "deletionTimestamp": "2026-01-31T12:00:01Z",
    "deletionGracePeriodSeconds": 30,
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "finalizers": ["e.example/f"],
    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "it", "uid": "g"}],
    "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
    "selfLink": "/api/v1/h",
}
WHOLE: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Namespace",
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": {
            "allocateLoadBalancerNodePorts": True,
            "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"],
            "externalIPs": ["192.0.2.1"],
            "externalName": "a.example",
            "externalTrafficPolicy": "Cluster",
            "healthCheckNodePort": 30000,
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "loadBalancerClass": "example.com/a",
            "loadBalancerIP": "192.0.2.2",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "ports": [
                {
                    "name": "http",
                    "appProtocol": "http",
                    "nodePort": 30001,
                    "port": 80,
                    "protocol": "TCP",
                    "targetPort": "web",
                }
            ],
            "publishNotReadyAddresses": True,
            "selector": {"app": "it"},
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "trafficDistribution": "PreferSameZone",
            "type": "LoadBalancer",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.3", "ipMode": "VIP"}]}},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.2"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "deprecatedTopology": {"kubernetes.io/hostname": "node"},
                "hints": {"forNodes": [{"name": "node"}], "forZones": [{"name": "zone"}]},
                "hostname": "it-0",
                "nodeName": "node",
                "targetRef": {"kind": "Pod", "name": "it-0", "namespace": "default", "uid": "i"},
                "zone": "zone",
            }
        ],
        "ports": [{"appProtocol": "http", "name": "http", "port": 8080, "protocol": "TCP"}],
    },
    {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True, "data": {"a": "YQ=="}},
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "immutable": True,
        "data": {"a": "b"},
        "binaryData": {"c": "YQ=="},
    },
    {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceImport",
        "spec": {
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ips": ["10.0.0.3"],
            "ports": [{"name": "http", "protocol": "TCP", "appProtocol": "http", "port": 80}],
            "sessionAffinity": "None",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "trafficDistribution": "PreferClose",
            "type": "ClusterSetIP",
        },
        "status": {"clusters": [{"cluster": "a"}]},
    },
]
"""All fields that Kubernetes has for these kinds, as ``kubectl get -o yaml`` writes them."""


def faults(document: dict[str, Any]) -> list[str]:
    return [problem.path for problem in admit(document, ALL_KINDS, namespace="default").problems]


@pytest.mark.parametrize("document", WHOLE, ids=lambda document: document["kind"])
def test_a_kind_is_taken_with_all_its_fields(document: dict[str, Any]) -> None:
    """Also from a file, whose author may have removed what only an API server writes."""
    assert faults(document | {"metadata": METADATA}) == []
    assert faults(document | {"metadata": {"name": "it"}}) == []


def with_unknown(value: Any) -> Any:
    """A copy in which each object of a kind has a field that it does not have; maps of users are no such."""
    if isinstance(value, list):
        return [with_unknown(entry) for entry in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    maps = {"labels", "annotations", "selector", "data", "binaryData", "status"}
    dropped = {"sessionAffinityConfig", "targetRef", "deprecatedTopology", "forNodes"}
    whole = maps | dropped | {"managedFields", "ownerReferences"}
    below = {key: entry if key in whole else with_unknown(entry) for key, entry in entries.items()}
    return below | {"newField": {"a": 1}}


@pytest.mark.parametrize("document", WHOLE, ids=lambda document: document["kind"])
def test_an_unknown_field_is_an_error_unless_an_api_server_has_taken_it(document: dict[str, Any]) -> None:
    """A later release of Kubernetes may have more fields. An API server keeps none that it does not know."""
    written = with_unknown(document | {"metadata": {"name": "it"}})
    if document["kind"] == "Namespace":
        written["spec"] = {}

    paths = faults(written)

    assert paths
    assert all(path.endswith("newField") for path in paths), paths
    assert {"newField", "metadata.newField"} <= set(paths)
    assert faults(with_unknown(document | {"metadata": METADATA})) == []


@pytest.mark.parametrize(
    ("document", "path", "name"),
    [
        (manifest("Secret", "v1", dta={}), "dta", "data"),
        (manifest("Secret", "v1", stringdata={}), "stringdata", "stringData"),
        (manifest("ConfigMap", "v1", binarydata={}), "binarydata", "binaryData"),
        (manifest("Service", "v1", spec={"port": []}), "spec.port", "ports"),
        (
            manifest("EndpointSlice", "discovery.k8s.io/v1", addressType="IPv4", endpoint=[]),
            "endpoint",
            "endpoints",
        ),
    ],
)
def test_a_misspelt_field_of_a_built_in_kind_is_named(document: dict[str, Any], path: str, name: str) -> None:
    message = problems(document)[path]

    assert message == f"There is no field {path.rpartition('.')[2]!r} here. Did you mean {name!r}?"


@pytest.mark.parametrize(
    ("more", "path", "what"),
    [
        (
            {"stringData": {"a": 123456789}},
            "stringData[a]",
            "a number; it must be a string: write it in quotes",
        ),
        ({"stringData": {"a": True}}, "stringData[a]", "true; it must be a string: write it in quotes"),
        ({"stringData": {"a": ["b"]}}, "stringData[a]", "a list; it must be a string"),
        ({"stringData": "hunter2"}, "stringData", "a string; it must be an object"),
        ({"stringData": ["hunter2"]}, "stringData", "a list; it must be an object"),
        ({"data": "hunter2"}, "data", "a string; it must be an object"),
        ({"type": 123456789}, "type", "a number; it must be a string: write it in quotes"),
    ],
)
def test_a_fault_of_a_secret_has_its_place_and_not_its_value(
    more: dict[str, Any], path: str, what: str
) -> None:
    assert problems(manifest("Secret", "v1", **more)) == {path: f"The value is {what}."}


def test_a_secret_with_a_fault_in_string_data_keeps_the_rest_of_its_faults() -> None:
    document = manifest("Secret", "v1", data={"a": "!"}, stringData={"b": 1})

    assert list(problems(document)) == ["data[a]", "stringData[b]"]


def slice_of(kind: str, *addresses: str, ports: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "it"},
        "addressType": kind,
        "endpoints": [{"addresses": ["127.0.0.1"]} for _ in range(kind == "IPv4")]
        + [{"addresses": list(addresses)}],
        "ports": list(ports),
    }


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("IPv4", "nowhere"),
        ("IPv4", "::1"),
        ("IPv4", "10.0.0"),
        ("IPv4", "010.0.0.1"),
        ("IPv4", "10.0.0.1:80"),
        ("IPv4", ""),
        ("IPv6", "127.0.0.1"),
        ("IPv6", "[::1]"),
        ("IPv6", "fe80::1%eth0"),
        ("FQDN", "no_host"),
        ("FQDN", "a..example"),
    ],
)
def test_an_address_of_another_family_is_a_fault_at_its_place(kind: str, address: str) -> None:
    """An API server refuses it; Envoy would take none of the endpoints."""
    document = slice_of(kind, address)
    last = len(document["endpoints"]) - 1

    [problem] = admit(document, ALL_KINDS, namespace="default").problems

    assert problem.path == f"endpoints[{last}].addresses[0]"
    assert problem.message.startswith(f"{address!r} is not ")


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("IPv4", "127.0.0.1"),
        ("IPv6", "::1"),
        ("IPv6", "2001:db8::1"),
        ("FQDN", "a.example"),
        ("FQDN", "host"),
    ],
)
def test_an_address_of_its_family_is_taken(kind: str, address: str) -> None:
    """Also one of this machine, where the backends of a laptop are."""
    assert faults(slice_of(kind, address)) == []


@pytest.mark.parametrize("name", ["no_name", "-a", "A", "a" * 64])
def test_a_name_of_a_port_that_is_none_is_a_fault(name: str) -> None:
    ports = ({"name": "http", "port": 80}, {"name": name, "port": 81})

    assert faults(slice_of("IPv6", "::1", ports=ports)) == ["ports[1].name"]


def test_ports_of_a_slice_have_different_names() -> None:
    """One of two would never be found."""
    ports = ({"port": 80}, {"name": "http", "port": 81}, {"name": "http", "port": 82})

    assert faults(slice_of("IPv6", "::1", ports=ports)) == ["ports[2].name"]


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_a_fault(port: int) -> None:
    assert faults(slice_of("IPv6", "::1", ports=({"port": port},))) == ["ports[0].port"]


@pytest.mark.parametrize("key", ["a b", "a/b", "", ".", "..", "..a", "k\u00e9y", "a" * 254])
@pytest.mark.parametrize(
    ("kind", "field"),
    [("Secret", "data"), ("Secret", "stringData"), ("ConfigMap", "data"), ("ConfigMap", "binaryData")],
)
def test_a_key_that_could_not_be_the_name_of_a_file_is_a_fault(kind: str, field: str, key: str) -> None:
    """An API server refuses it, so that a Pod can have each entry as a file."""
    value = "c2VjcmV0"
    document = manifest(kind, "v1") | {field: {"tls.crt": value, key: value}}
    [problem] = admit(document, ALL_KINDS, namespace="default").problems

    assert problem.path == f"{field}[{key}]"
    assert repr(key) in problem.message
    assert value not in problem.message


@pytest.mark.parametrize("key", ["tls.crt", ".htpasswd", "a_b-c.d", "A", "a..b"])
def test_a_key_that_could_be_the_name_of_a_file_is_taken(key: str) -> None:
    assert faults(manifest("Secret", "v1", stringData={key: "a"})) == []


def test_a_key_of_a_config_map_stands_in_one_of_its_fields() -> None:
    assert faults(manifest("ConfigMap", "v1", data={"a": "b"}, binaryData={"a": "YQ=="})) == ["binaryData[a]"]
