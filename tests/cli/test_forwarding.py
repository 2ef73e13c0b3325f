"""The manifests of ``moongate run --to``."""

from __future__ import annotations

import json

import pytest

from moongate.cli.forwarding import forwarding
from moongate.cli.usage_errors import UsageError
from moongate.sources.folder import Folder


@pytest.mark.parametrize(
    "upstream", ["localhost", "localhost:", ":80", "localhost:http", "localhost:0", "a:70000"]
)
def test_an_upstream_that_is_none_is_reported(upstream: str) -> None:
    with pytest.raises(UsageError, match="it must be HOST:PORT"):
        forwarding(upstream, 8080, "default")


def test_an_upstream_with_a_scheme_is_reported_with_the_right_form() -> None:
    """The most natural thing to paste is a URL."""
    with pytest.raises(UsageError, match="such as localhost:3000"):
        forwarding("http://localhost:3000/", 8080, "default")


@pytest.mark.parametrize("upstream", ["localhost:3000", "10.0.0.1:80", "[::1]:80", "app.example.com:443"])
def test_what_forwards_to_an_upstream_is_sound(upstream: str) -> None:
    """The manifests that are made of it have no fault, in any namespace."""
    folder = Folder(namespace="any")

    batch = folder.update("to", forwarding(upstream, 8080, "any"))

    assert folder.diagnostics() == ()
    assert sorted(map(str, batch)) == ["Backend any/to", "Gateway any/to", "HTTPRoute any/to"]


def test_it_listens_on_its_port_and_names_its_upstream() -> None:
    documents = [json.loads(d) for d in forwarding("[::1]:81", 8081, "default").split("\n---\n")]

    assert documents[0]["spec"]["listeners"][0]["port"] == 8081
    address = "0000:0000:0000:0000:0000:0000:0000:0001"
    assert documents[1]["spec"]["endpoints"] == [{"ip": {"address": address, "port": 81}}]
