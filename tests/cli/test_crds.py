from __future__ import annotations

import json

import pytest
import yaml

from tests.cli.conftest import Command

BACKENDS = "backendtrafficpolicies.gateway.envoyproxy.io"
CLIENTS = "clienttrafficpolicies.gateway.envoyproxy.io"
ALL = [
    "backends.gateway.envoyproxy.io",
    BACKENDS,
    CLIENTS,
    "envoypatchpolicies.gateway.envoyproxy.io",
    "httproutefilters.gateway.envoyproxy.io",
]


def test_all_definitions_are_printed_as_kubectl_reads_them(command: Command) -> None:
    ended = command("crds")

    documents = list(yaml.safe_load_all(ended.out))
    assert (ended.code, ended.err) == (0, "")
    assert [document["metadata"]["name"] for document in documents] == ALL


def test_json_is_a_list_that_kubectl_reads(command: Command) -> None:
    printed = json.loads(command("crds", "-o", "json").out)

    assert (printed["apiVersion"], printed["kind"]) == ("v1", "List")
    assert [item["metadata"]["name"] for item in printed["items"]] == ALL


@pytest.mark.parametrize("name", ["ctp", "ClientTrafficPolicy", "clienttrafficpolicies", CLIENTS])
def test_a_kind_has_the_names_that_kubectl_takes(command: Command, name: str) -> None:
    (document,) = yaml.safe_load_all(command("crds", name).out)

    assert document["metadata"]["name"] == CLIENTS


def test_what_is_named_twice_is_printed_once_and_in_the_order_of_the_names(command: Command) -> None:
    documents = yaml.safe_load_all(command("crds", "ctp", "btp", "ctp").out)

    assert [document["metadata"]["name"] for document in documents] == [CLIENTS, BACKENDS]


def test_another_kind_is_answered_with_those_that_there_are(command: Command) -> None:
    ended = command("crds", "httproute")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "moongate: There is no definition of 'httproute' here; there are those of Backend, "
        "BackendTrafficPolicy, ClientTrafficPolicy, EnvoyPatchPolicy, HTTPRouteFilter.\n"
    )


def test_an_option_for_files_is_not_answered_with_files(command: Command) -> None:
    """The command reads none."""
    ended = command("crds", "-f", "x")

    assert ended.code == 2
    assert "Files" not in ended.err
