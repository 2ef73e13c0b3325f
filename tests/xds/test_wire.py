"""Joined bytes are what protobuf would have written: the laws of the wire format that moongate rests on."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.service.discovery.v3.discovery_pb2 import Resource
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from moongate.xds import wire

names = st.text(max_size=300)


@given(st.integers(min_value=16, max_value=2**29 - 1), st.binary(max_size=300))
def test_a_piece_is_a_field_that_protobuf_reads(field: int, payload: bytes) -> None:
    """Field numbers above 15 and lengths above 127 take more than one byte; unknown fields are kept."""
    body = wire.message_field(field, payload)

    assert wire.encode(Empty.FromString(body)) == body


@given(names, st.lists(names, max_size=5))
def test_pieces_joined_are_the_whole_encoded(host: str, routes: list[str]) -> None:
    """So one changed route costs one encoding, and its parent a join."""
    whole = VirtualHost(name=host, routes=[Route(name=name) for name in routes])

    field_header = wire.encode(VirtualHost(name=host))
    pieces = [
        wire.message_field(VirtualHost.ROUTES_FIELD_NUMBER, wire.encode(Route(name=name))) for name in routes
    ]

    assert field_header + b"".join(pieces) == wire.encode(whole)


def test_the_order_of_map_keys_does_not_show() -> None:
    """Equal messages give equal bytes, or an unchanged resource would be sent again."""
    forth, back = Metadata(), Metadata()
    for key in ("a", "b", "c", "d"):
        forth.filter_metadata[key].SetInParent()
    for key in ("d", "c", "b", "a"):
        back.filter_metadata[key].SetInParent()

    assert wire.encode(forth) == wire.encode(back)


def test_a_packed_message_can_be_unpacked() -> None:
    packed = wire.packed(Route(name="shop"))

    assert packed.type_url == "type.googleapis.com/envoy.config.route.v3.Route"
    assert Route.FromString(packed.value).name == "shop"


@given(names, st.binary(max_size=300))
def test_a_resource_on_the_wire_is_a_discovery_resource(name: str, body: bytes) -> None:
    sent = wire.XdsResource.of(wire.CLUSTER, name, body)

    read = Resource.FromString(sent.wire())

    assert (read.name, read.version, read.resource.type_url, read.resource.value) == (
        name,
        wire.version(body),
        wire.CLUSTER,
        body,
    )


def test_a_version_is_of_the_content_alone() -> None:
    """A restarted control plane names equal bytes equally, so Envoy is sent nothing anew."""
    one = wire.XdsResource.of(wire.CLUSTER, "one", b"same")
    two = wire.XdsResource.of(wire.CLUSTER, "two", b"same")

    assert one.version == two.version == "b9a8ca9848bf6e1d"
    assert wire.version(b"other") != one.version


def test_the_version_of_joined_parts_follows_from_theirs() -> None:
    """So a table of megabytes, of which one part has changed, is not read as a whole for it."""
    parts = [(part, wire.version(part)) for part in (b"a", b"b", b"c")]
    changed = [(part, wire.version(part)) for part in (b"a", b"x", b"c")]

    joined = wire.XdsResource.joined(wire.ROUTE, "table", parts)

    assert joined.body == b"abc"
    assert joined == wire.XdsResource.joined(wire.ROUTE, "table", list(parts))
    assert joined.version != wire.XdsResource.joined(wire.ROUTE, "table", changed).version
    assert joined.version != wire.XdsResource.joined(wire.ROUTE, "table", parts[::-1]).version


@given(names, names)
def test_a_string_is_found_at_any_depth_and_no_part_of_it(name: str, more: str) -> None:
    """The cluster of the first rule has a name that the tenth begins with, too."""
    route = Route()
    route.route.cluster = name + more
    body = wire.encode(VirtualHost(routes=[route]))

    assert wire.has_string(body, name + more)
    if name.isalpha() and more.isalpha():
        assert not wire.has_string(body, name)
