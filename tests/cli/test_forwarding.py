"""The manifests of ``moongate run --to``."""

from __future__ import annotations

import json

import pytest

from moongate.cli.forwarding import forwarding
from moongate.cli.usage_errors import UsageError
from moongate.sources.folder import Folder


@pytest.mark.parametrize(
    ("upstream", "right"),
    [
        ("localhost", "localhost:3000"),
        ("localhost:", "localhost:3000"),
        ("localhost:http", "localhost:3000"),
        ("4000", "localhost:4000"),
        (":4000", "localhost:4000"),
        ("", "localhost:3000"),
        ("shop.example.com", "shop.example.com:80"),
        ("[::1]", "[::1]:80"),
        ("::1", "localhost:3000"),
        ("::1:4000", "[::1]:4000"),
        ("fe80::2:4000/x", "localhost:3000"),
        ("localhost:3000/api", "localhost:3000"),
        ("me@shop.example.com:81", "shop.example.com:81"),
        ("http://localhost:3000/", "localhost:3000"),
        ("HTTP://shop.example.com/api?q=1", "shop.example.com:80"),
        ("http://", "localhost:3000"),
    ],
)
def test_an_upstream_of_another_form_is_reported_with_the_nearest_right_one(
    upstream: str, right: str
) -> None:
    """The most natural thing to paste is a URL; what the message proposes must be accepted."""
    with pytest.raises(UsageError) as caught:
        forwarding(upstream, 8080, "default")

    assert caught.value.message.endswith(f" it must be HOST:PORT alone, such as {right}.")
    forwarding(right, 8080, "default")


@pytest.mark.parametrize(
    ("upstream", "right"),
    [
        ("a:70000", "a:80"),
        ("70000", "localhost:3000"),
        ("localhost:0", "localhost:3000"),
        ("[::1]:65536", "localhost:3000"),
    ],
)
def test_a_port_that_is_none_is_what_is_wrong(upstream: str, right: str) -> None:
    """The form is right, so a message about the form alone would send the user the wrong way."""
    with pytest.raises(UsageError) as caught:
        forwarding(upstream, 8080, "default")

    form = "it must be HOST:PORT alone, with a port from 1 to 65535, such as"
    assert caught.value.message == f"The upstream is {upstream!r}; {form} {right}."
    forwarding(right, 8080, "default")


@pytest.mark.parametrize("upstream", ["https://shop.example.com", "HTTPS://localhost:3000/api"])
def test_an_upstream_over_tls_is_reported_as_not_built(upstream: str) -> None:
    """Its host and port alone would be asked in plain HTTP, which it does not answer."""
    with pytest.raises(UsageError, match="TLS to upstreams is not built yet"):
        forwarding(upstream, 8080, "default")


@pytest.mark.parametrize("host", ["a b", "a_b", "[fe80::1%eth0]"])
def test_a_host_that_is_no_name_and_no_address_is_reported(host: str) -> None:
    """Otherwise the gateway would start, and answer 500."""
    with pytest.raises(UsageError, match="is neither a DNS name nor an IP address"):
        forwarding(f"{host}:80", 8080, "default")


@pytest.mark.parametrize("upstream", ["localhost:3000", "10.0.0.1:80", "[::1]:80", "App.example.com:443"])
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


@pytest.mark.parametrize(
    ("upstream", "bind"),
    [
        ("localhost:8080", "127.0.0.1"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("127.0.0.2:8080", "0.0.0.0"),
        ("[::1]:8080", "::1"),
        ("0.0.0.0:8080", "127.0.0.1"),
        ("10.1.2.3:8080", "10.1.2.3"),
    ],
)
def test_an_upstream_that_is_moongate_itself_is_refused(upstream: str, bind: str) -> None:
    """Requests would go round until they fail."""
    with pytest.raises(UsageError) as caught:
        forwarding(upstream, 8080, "default", bind)

    assert "moongate itself would listen there" in str(caught.value)


@pytest.mark.parametrize("upstream", ["localhost:8081", "10.1.2.3:8080", "shop.example.com:8080"])
def test_an_upstream_elsewhere_is_taken(upstream: str) -> None:
    assert forwarding(upstream, 8080, "default", "127.0.0.1")
