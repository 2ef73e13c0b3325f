"""Responses are encoded once for all streams, and each stream can tell its own apart."""

from __future__ import annotations

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse

from moongate.ads.responses import Responses
from moongate.xds.wire import CLUSTER, ROUTE, XdsResource
from tests.ads import laptop

TABLE = XdsResource.of(ROUTE, "r", b"\x0a\x01r")


def test_what_says_the_same_is_encoded_once() -> None:
    responses = Responses()

    one = responses.response(ROUTE, [TABLE], ["s"], after=0)
    other = responses.response(ROUTE, [TABLE], ["s"], after=0)

    assert one.wire is other.wire
    assert responses.encoded == 1


def test_a_response_is_what_its_parts_say() -> None:
    """It is joined by hand; a decoder must read from it what was put in."""
    response = Responses().response(ROUTE, [TABLE], ["s"], after=0)

    decoded = DeltaDiscoveryResponse.FromString(response.wire)
    [resource] = decoded.resources
    assert (decoded.type_url, decoded.nonce, [*decoded.removed_resources]) == (ROUTE, response.nonce, ["s"])
    assert (resource.name, resource.version, resource.resource.value) == ("r", TABLE.version, TABLE.body)


def test_what_says_something_else_is_another() -> None:
    responses = Responses()
    changed = XdsResource.of(ROUTE, "r", b"")

    made = [
        responses.response(ROUTE, [TABLE], [], after=0),
        responses.response(ROUTE, [changed], [], after=0),
        responses.response(ROUTE, [TABLE], ["s"], after=0),
        responses.response(ROUTE, [], [], after=0),
        responses.response(CLUSTER, [], [], after=0),
    ]

    assert len({response.nonce for response in made}) == 5


def test_a_stream_never_gets_a_nonce_twice() -> None:
    """An Envoy may ask for the same again; its answer to the first must not count for the second."""
    responses = Responses()
    first = responses.response(ROUTE, [TABLE], [], after=0)

    again = responses.response(ROUTE, [TABLE], [], after=first.number)
    for_another_stream = responses.response(ROUTE, [TABLE], [], after=0)

    assert again.number > first.number
    assert for_another_stream is again


def test_a_response_that_is_answered_everywhere_is_not_kept() -> None:
    """A table of 5,000 routes has megabytes."""
    responses = Responses()
    response = responses.response(ROUTE, [TABLE], [], after=0)
    assert len(responses) == 1

    del response

    assert len(responses) == 0


def test_a_response_knows_the_endpoints_that_its_clusters_need() -> None:
    clusters = [laptop.cluster("a"), laptop.cluster("b", broken=True)]

    assert Responses().response(CLUSTER, clusters, [], after=0).endpoints == ("a",)
