"""Core kinds give what a gateway reads of them."""

from __future__ import annotations

from moongate.api.admission import admit
from moongate.api.base import ObjectMeta
from moongate.api.core import EndpointSlice, Secret


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
